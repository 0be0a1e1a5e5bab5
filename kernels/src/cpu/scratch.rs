//! Working memory of kernels: aligned, kept by each thread for its next call, so that a step allocates nothing once warm.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;

/// Uninitialised floats, aligned to a cache line.
pub(super) struct Scratch {
    ptr: *mut f32,
    len: usize,
}

thread_local! {
    static FREE: Cell<Vec<Scratch>> = const { Cell::new(Vec::new()) };
}

impl Scratch {
    /// Calls `work` with room for `len` floats of undefined contents. Calls may nest, also through work stealing: each takes
    /// its own block.
    pub(super) fn with<R>(len: usize, work: impl FnOnce(*mut f32) -> R) -> R {
        let block = Self::take(len);
        let result = work(block.ptr);
        let mut free = FREE.take();
        free.push(block);
        FREE.set(free);
        result
    }

    /// The smallest kept block that is large enough, otherwise a new one in place of the smallest.
    fn take(len: usize) -> Self {
        let mut free = FREE.take();
        free.sort_by_key(|b| b.len);
        let found = free.iter().position(|b| b.len >= len);
        let kept = match found {
            Some(i) => Some(free.remove(i)),
            None => {
                if !free.is_empty() {
                    free.remove(0);
                }
                None
            }
        };
        FREE.set(free);
        kept.unwrap_or_else(|| Self::new(len.next_multiple_of(1024).max(1024)))
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len)
            .and_then(|l| l.align_to(64))
            .expect("scratch sizes are far below isize::MAX")
    }

    fn new(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let ptr = unsafe { alloc(layout) }.cast::<f32>();
        if ptr.is_null() {
            handle_alloc_error(layout)
        }
        Self { ptr, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.ptr.cast(), Self::layout(self.len)) }
    }
}
