//! Sparse rows as the kernels see them.

use std::ops::Range;

/// Sparse rows over `n` columns: row r holds the entries `ptr[r]..ptr[r+1]`, or `r·k..(r+1)·k` without `ptr`.
/// An index `>= n` marks an empty slot, which every kernel skips.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// Values.
    pub vals: &'a [f32],
    /// Columns.
    pub idx: &'a [u32],
    /// Row offsets.
    pub ptr: Option<&'a [u32]>,
    /// Entries a row without `ptr`.
    pub k: usize,
    /// Rows.
    pub rows: usize,
    /// Columns of the matrix represented.
    pub n: usize,
}

impl<'a> Codes<'a> {
    /// Rows of `k` entries each.
    pub fn fixed(vals: &'a [f32], idx: &'a [u32], k: usize, rows: usize, n: usize) -> Self {
        assert!(vals.len() == rows * k && idx.len() == rows * k, "{rows} rows of {k} entries");
        Self { vals, idx, ptr: None, k, rows, n }
    }

    /// Rows between offsets.
    pub fn ragged(vals: &'a [f32], idx: &'a [u32], ptr: &'a [u32], n: usize) -> Self {
        assert!(!ptr.is_empty() && vals.len() == idx.len(), "row offsets have a last element");
        Self { vals, idx, ptr: Some(ptr), k: 0, rows: ptr.len() - 1, n }
    }

    /// Positions of row `r`'s entries; never outside `idx`, whatever `ptr` says.
    #[inline(always)]
    pub fn row(&self, r: usize) -> Range<usize> {
        match self.ptr {
            Some(p) => {
                let end = (p[r + 1] as usize).min(self.idx.len());
                (p[r] as usize).min(end)..end
            }
            None => r * self.k..(r + 1) * self.k,
        }
    }

    /// Whether row offsets ascend within capacity and every index is a column or marks an empty slot.
    ///
    /// # Errors
    /// Names the first offset or index that is not.
    pub fn check(&self) -> Result<(), String> {
        let mut used = 0..self.rows * self.k;
        if let Some(p) = self.ptr {
            let capacity = self.idx.len() as u32;
            if let Some(r) = (0..p.len()).find(|&r| p[r] > *p.get(r + 1).unwrap_or(&capacity)) {
                return Err(format!(
                    "row offset {r} is {}, beyond the next or the capacity {capacity}",
                    p[r]
                ));
            }
            used = p[0] as usize..p[self.rows] as usize;
        }
        // Adding 1 wraps the empty mark to 0: one comparison an index, in a loop that vectorises.
        let largest = self.idx[used].iter().fold(0, |m: u32, i| m.max(i.wrapping_add(1)));
        if largest as usize > self.n {
            return Err(format!("index {} of a matrix with {} columns", largest - 1, self.n));
        }
        Ok(())
    }

    /// Number of slots in use, empty ones included.
    pub fn slots(&self) -> usize {
        match self.ptr {
            Some(p) => (p[self.rows] as usize).min(self.idx.len()),
            None => self.rows * self.k,
        }
    }
}

/// A pointer that threads share while they write disjoint places.
pub(crate) struct Shared<T>(*mut T);
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: whoever dereferences it vouches for disjointness.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    pub(crate) fn new(s: &mut [T]) -> Self {
        Self(s.as_mut_ptr())
    }
    pub(crate) fn at(p: *mut T) -> Self {
        Self(p)
    }
    #[inline(always)]
    pub(crate) fn ptr(self) -> *mut T {
        self.0
    }
}
