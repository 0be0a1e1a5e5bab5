//! Pinned host memory between ordinary host memory and the card: two buffers in turns, so that one is filled or emptied while
//! the other is on its way.

use super::{device::Card, failed};
use cudarc::driver::{result, sys};
use lm_saes_runtime::Result;
use std::{ffi::c_void, sync::Arc};

/// Bytes of one buffer: enough to reach the link's full rate, little enough to pin without thought.
const CHUNK: usize = 4 << 20;

/// One pinned buffer, and the event after which it is free again.
struct Buffer {
    host: *mut u8,
    event: sys::CUevent,
}

/// The two buffers of a stream.
pub(super) struct Stage {
    card: Arc<Card>,
    buffers: [Buffer; 2],
    next: usize,
}

// SAFETY: the memory and events belong to the context; only the owner of the stage uses them.
unsafe impl Send for Stage {}

impl Stage {
    /// Buffers in the card's context, which must be current.
    pub(super) fn new(card: &Arc<Card>) -> Result<Self> {
        let mut stage = Self {
            card: card.clone(),
            buffers: std::array::from_fn(|_| Buffer {
                host: std::ptr::null_mut(),
                event: std::ptr::null_mut(),
            }),
            next: 0,
        };
        for buffer in &mut stage.buffers {
            // Flags 0: cached memory, because downloads are read by the processor.
            // SAFETY: the context is current; the memory is freed in `drop`.
            let host = unsafe { result::malloc_host(CHUNK, 0) };
            buffer.host = host.map_err(failed(&card.info.name, "cuMemHostAlloc"))?.cast();
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
            buffer.event = event.map_err(failed(&card.info.name, "cuEventCreate"))?;
        }
        Ok(stage)
    }

    /// The buffer whose turn it is, idle.
    fn turn(&mut self) -> Result<usize> {
        let i = self.next;
        self.next = 1 - i;
        self.wait(i)?;
        Ok(i)
    }

    fn wait(&self, i: usize) -> Result<()> {
        // SAFETY: the event lives as long as the stage. One that was never recorded counts as passed.
        unsafe { result::event::synchronize(self.buffers[i].event) }
            .map_err(failed(&self.card.info.name, "cuEventSynchronize"))
    }

    fn record(&self, i: usize, stream: sys::CUstream) -> Result<()> {
        // SAFETY: event and stream belong to the card's context and are live.
        unsafe { result::event::record(self.buffers[i].event, stream) }
            .map_err(failed(&self.card.info.name, "cuEventRecord"))
    }

    /// Queues the copy of `src` to the card; `src` has been read when this returns.
    ///
    /// # Safety
    /// `dst` has `src.len()` bytes; the context is current.
    pub(super) unsafe fn upload(&mut self, stream: sys::CUstream, src: &[u8], dst: u64) -> Result<()> {
        for (n, part) in src.chunks(CHUNK).enumerate() {
            let i = self.turn()?;
            // SAFETY: the buffer holds CHUNK bytes, is idle, and nobody else refers to it.
            let pinned = unsafe { std::slice::from_raw_parts_mut(self.buffers[i].host, part.len()) };
            pinned.copy_from_slice(part);
            // SAFETY: as the caller promises; the buffer stays untouched until its event has passed.
            unsafe { result::memcpy_htod_async(dst + (n * CHUNK) as u64, pinned, stream) }
                .map_err(failed(&self.card.info.name, "cuMemcpyHtoDAsync"))?;
            self.record(i, stream)?;
        }
        Ok(())
    }

    /// Copies from the card and waits: `dst` is filled when this returns.
    ///
    /// # Safety
    /// `src` has `dst.len()` bytes; the context is current.
    pub(super) unsafe fn download(&mut self, stream: sys::CUstream, src: u64, dst: &mut [u8]) -> Result<()> {
        let mut coming: Option<(usize, &mut [u8])> = None;
        for (n, part) in dst.chunks_mut(CHUNK).enumerate() {
            let i = self.turn()?;
            // SAFETY: the buffer holds CHUNK bytes, is idle, and nobody else refers to it.
            let pinned = unsafe { std::slice::from_raw_parts_mut(self.buffers[i].host, part.len()) };
            // SAFETY: as the caller promises; the buffer is read only after its event has passed.
            unsafe { result::memcpy_dtoh_async(pinned, src + (n * CHUNK) as u64, stream) }
                .map_err(failed(&self.card.info.name, "cuMemcpyDtoHAsync"))?;
            self.record(i, stream)?;
            if let Some((before, place)) = coming.replace((i, part)) {
                self.land(before, place)?;
            }
        }
        coming.map_or(Ok(()), |(last, place)| self.land(last, place))
    }

    /// Waits for buffer `i` and copies it out.
    fn land(&self, i: usize, place: &mut [u8]) -> Result<()> {
        self.wait(i)?;
        // SAFETY: the copy into the buffer is complete and as long as `place`.
        place.copy_from_slice(unsafe { std::slice::from_raw_parts(self.buffers[i].host, place.len()) });
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Failures here were reported by the calls that met them.
        let _ = self.card.bind();
        for (i, buffer) in self.buffers.iter().enumerate() {
            if !buffer.event.is_null() {
                let _ = self.wait(i);
                // SAFETY: created in `new`, no work refers to it any more.
                let _ = unsafe { result::event::destroy(buffer.event) };
            }
            if !buffer.host.is_null() {
                // SAFETY: allocated in `new`, no copy is under way.
                let _ = unsafe { result::free_host(buffer.host.cast::<c_void>()) };
            }
        }
    }
}
