//! Device memory that operators need beside their operands. It grows only, in the order of one stream: what an op has used may
//! be used by the next, because the stream runs them in order.

use super::device::Card;
use lm_saes_runtime::{Error, Result};
use std::sync::Arc;

/// Every piece starts at a multiple of this, and has some bytes behind it that kernels may touch.
const STEP: u64 = 512;
const PAD: u64 = 32;
/// Smallest and, unless more is asked for at once, largest step of growth.
const GROWTH: (u64, u64) = (1 << 20, 256 << 20);

/// An allocation that frees itself.
pub(super) struct Memory {
    card: Arc<Card>,
    pub(super) addr: u64,
    bytes: u64,
}

impl Memory {
    pub(super) fn new(card: &Arc<Card>, bytes: u64) -> Result<Arc<Self>> {
        let addr = card.alloc(bytes as usize)?;
        Ok(Arc::new(Self { card: card.clone(), addr, bytes }))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`; owners synchronise the stream before they let go.
        unsafe { self.card.free(self.addr) }
    }
}

/// A place to go back to.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    chunk: usize,
    used: u64,
}

/// The scratch memory of one stream.
pub(super) struct Scratch {
    card: Arc<Card>,
    chunks: Vec<Arc<Memory>>,
    at: Mark,
}

impl Scratch {
    pub(super) fn new(card: &Arc<Card>) -> Self {
        Self { card: card.clone(), chunks: Vec::new(), at: Mark::default() }
    }

    pub(super) fn mark(&self) -> Mark {
        self.at
    }

    /// Everything taken since may be taken again.
    pub(super) fn release(&mut self, mark: Mark) {
        self.at = mark;
    }

    /// `bytes` of memory until the mark before is released.
    ///
    /// # Errors
    /// When there is no more memory, or when more is needed while `recording`, where nothing may be allocated.
    pub(super) fn take(&mut self, bytes: u64, recording: bool) -> Result<u64> {
        let asked = (bytes + PAD).next_multiple_of(STEP);
        while let Some(chunk) = self.chunks.get(self.at.chunk) {
            if self.at.used + asked <= chunk.bytes {
                let addr = chunk.addr + self.at.used;
                self.at.used += asked;
                return Ok(addr);
            }
            self.at = Mark { chunk: self.at.chunk + 1, used: 0 };
        }
        if recording {
            let text = "scratch memory cannot grow while recording: run the sequence once before";
            return Err(self.card.error_text("aclrtMalloc", text.into()));
        }
        let last = self.chunks.last().map_or(0, |c| c.bytes);
        let grown = asked.max((2 * last).clamp(GROWTH.0, GROWTH.1));
        let chunk = Memory::new(&self.card, grown).map_err(|e| match e {
            Error::OutOfMemory { device, asked, .. } => Error::OutOfMemory {
                device,
                asked,
                what: "what an operator needs beside its operands".into(),
            },
            e => e,
        })?;
        let addr = chunk.addr;
        self.chunks.push(chunk);
        self.at = Mark { chunk: self.chunks.len() - 1, used: asked };
        Ok(addr)
    }

    /// All memory so far, to keep it for as long as a recorded graph may name it.
    pub(super) fn chunks(&self) -> Vec<Arc<Memory>> {
        self.chunks.clone()
    }
}
