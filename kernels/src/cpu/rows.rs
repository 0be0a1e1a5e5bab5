//! A raw row-major matrix. Kernels take it instead of slices because outputs may alias inputs where an op allows it, and
//! because rows are written from several threads.

/// A row-major matrix `[rows, cols]` with `ld >= cols` elements from one row to the next.
#[derive(Debug)]
pub struct Rows<T> {
    ptr: *mut T,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements between rows.
    pub ld: usize,
}

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Rows<T> {}

// SAFETY: a plain address; whoever reads or writes through it (unsafe methods) answers for races.
unsafe impl<T: Send> Send for Rows<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Rows<T> {}

impl<T> Rows<T> {
    /// A view of memory.
    ///
    /// # Safety
    /// `ptr` is valid for the whole span of the matrix for as long as the view is used.
    pub unsafe fn new(ptr: *mut T, rows: usize, cols: usize, ld: usize) -> Self {
        Self { ptr, rows, cols, ld }
    }

    /// Address of element (0, 0).
    pub fn ptr(self) -> *mut T {
        self.ptr
    }

    /// Address of row `i`'s first element; `i <= rows`.
    pub fn row_ptr(self, i: usize) -> *mut T {
        self.ptr.wrapping_add(i * self.ld)
    }

    /// Row `i`.
    ///
    /// # Safety
    /// `i < rows`, and nothing writes the row while the slice lives.
    pub unsafe fn row<'a>(self, i: usize) -> &'a [T] {
        debug_assert!(i < self.rows);
        // SAFETY: inside the matrix; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.row_ptr(i), self.cols) }
    }

    /// Row `i`, to write.
    ///
    /// # Safety
    /// `i < rows`, and nothing else reads or writes the row while the slice lives.
    pub unsafe fn row_mut<'a>(self, i: usize) -> &'a mut [T] {
        debug_assert!(i < self.rows);
        // SAFETY: inside the matrix; the caller excludes everyone else.
        unsafe { std::slice::from_raw_parts_mut(self.row_ptr(i), self.cols) }
    }
}
