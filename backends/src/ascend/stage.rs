//! Pinned host memory between ordinary host memory and the NPU: two buffers in turns, so that one is filled or emptied while
//! the other is on its way. Copies from memory that is not pinned would not be asynchronous.

use super::{
    device::{Card, acl},
    sys::{aclrtEvent, aclrtMemcpyKind, aclrtStream},
};
use lm_saes_runtime::Result;
use std::{ffi::c_void, ptr::null_mut, sync::Arc};

/// Bytes of one buffer: enough to reach the link's full rate, little enough to pin without thought.
const CHUNK: usize = 4 << 20;

/// One pinned buffer, and the event after which it is free again.
struct Buffer {
    host: *mut u8,
    event: aclrtEvent,
    busy: bool,
}

/// The two buffers of a stream.
pub(super) struct Stage {
    card: Arc<Card>,
    buffers: [Buffer; 2],
    next: usize,
}

// SAFETY: the memory and events belong to the process; only the owner of the stage uses them.
unsafe impl Send for Stage {}

impl Stage {
    /// Buffers in the card's context, which must be current. They are allocated when first used: pinning is slow.
    pub(super) fn new(card: &Arc<Card>) -> Self {
        let empty = || Buffer { host: null_mut(), event: null_mut(), busy: false };
        Self { card: card.clone(), buffers: [empty(), empty()], next: 0 }
    }

    /// The buffer whose turn it is, idle.
    fn turn(&mut self) -> Result<usize> {
        let i = self.next;
        self.next = 1 - i;
        self.wait(i)?;
        let buffer = &mut self.buffers[i];
        if buffer.event.is_null() {
            // SAFETY: the place is written before the call returns; destroyed in `drop`.
            unsafe { acl!(self.card, aclrtCreateEvent(&mut buffer.event)) }?;
        }
        if buffer.host.is_null() {
            let mut host: *mut c_void = null_mut();
            // SAFETY: as above; freed in `drop`.
            unsafe { acl!(self.card, aclrtMallocHost(&mut host, CHUNK)) }?;
            buffer.host = host.cast();
        }
        Ok(i)
    }

    fn wait(&mut self, i: usize) -> Result<()> {
        if self.buffers[i].busy {
            // SAFETY: the event was recorded and lives as long as the stage.
            unsafe { acl!(self.card, aclrtSynchronizeEvent(self.buffers[i].event)) }?;
            self.buffers[i].busy = false;
        }
        Ok(())
    }

    fn record(&mut self, i: usize, stream: aclrtStream) -> Result<()> {
        // SAFETY: event and stream belong to the card's context and are live.
        unsafe { acl!(self.card, aclrtRecordEvent(self.buffers[i].event, stream)) }?;
        self.buffers[i].busy = true;
        Ok(())
    }

    /// Queues the copy of `src` to the device; `src` has been read when this returns.
    ///
    /// # Safety
    /// `dst` has `src.len()` bytes; the context is current.
    pub(super) unsafe fn upload(&mut self, stream: aclrtStream, src: &[u8], dst: u64) -> Result<()> {
        for (n, part) in src.chunks(CHUNK).enumerate() {
            let i = self.turn()?;
            let host = self.buffers[i].host;
            // SAFETY: the buffer holds CHUNK bytes, is idle, and nobody else refers to it.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), host, part.len()) };
            let (to, bytes) = ((dst + (n * CHUNK) as u64) as *mut c_void, part.len());
            let kind = aclrtMemcpyKind::ACL_MEMCPY_HOST_TO_DEVICE;
            // SAFETY: as the caller promises; the buffer stays untouched until its event has passed.
            unsafe { acl!(self.card, aclrtMemcpyAsync(to, bytes, host.cast(), bytes, kind, stream)) }?;
            self.record(i, stream)?;
        }
        Ok(())
    }

    /// Copies from the device and waits: `dst` is filled when this returns.
    ///
    /// # Safety
    /// `src` has `dst.len()` bytes; the context is current.
    pub(super) unsafe fn download(&mut self, stream: aclrtStream, src: u64, dst: &mut [u8]) -> Result<()> {
        let mut coming: Option<(usize, &mut [u8])> = None;
        for (n, part) in dst.chunks_mut(CHUNK).enumerate() {
            let i = self.turn()?;
            let (from, bytes) = ((src + (n * CHUNK) as u64) as *const c_void, part.len());
            let (host, kind) = (self.buffers[i].host, aclrtMemcpyKind::ACL_MEMCPY_DEVICE_TO_HOST);
            // SAFETY: as the caller promises; the buffer is read only after its event has passed.
            unsafe { acl!(self.card, aclrtMemcpyAsync(host.cast(), CHUNK, from, bytes, kind, stream)) }?;
            self.record(i, stream)?;
            if let Some((before, place)) = coming.replace((i, part)) {
                self.land(before, place)?;
            }
        }
        coming.map_or(Ok(()), |(last, place)| self.land(last, place))
    }

    /// The stream has no work left: no buffer is waited for any more.
    pub(super) fn settled(&mut self) {
        self.buffers.iter_mut().for_each(|b| b.busy = false);
    }

    /// Waits for buffer `i` and copies it out.
    fn land(&mut self, i: usize, place: &mut [u8]) -> Result<()> {
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
        for buffer in &self.buffers {
            if !buffer.event.is_null() {
                // SAFETY: created in `turn`; the stream that owned the stage has ended.
                let _ = unsafe { acl!(self.card, aclrtDestroyEvent(buffer.event)) };
            }
            if !buffer.host.is_null() {
                // SAFETY: allocated in `turn`, no copy is under way.
                let _ = unsafe { acl!(self.card, aclrtFreeHost(buffer.host.cast())) };
            }
        }
    }
}
