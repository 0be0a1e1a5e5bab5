//! What ops work on: matrices, sparse rows, and sparse rows grouped by column.

use crate::{Addr, DType};

/// A row-major matrix on a device. `ld` is the distance between rows in elements, `ld >= cols`.
/// An absent optional operand has `addr == Addr::NONE`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Mat {
    /// Address of element (0, 0).
    pub addr: Addr,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Elements from one row to the next.
    pub ld: u64,
    /// Element type.
    pub dtype: DType,
}

impl Mat {
    /// The absent operand.
    pub const NONE: Self = Self { addr: Addr::NONE, rows: 0, cols: 0, ld: 0, dtype: DType::F32 };

    /// Whether the operand is present.
    pub const fn is_some(&self) -> bool {
        self.addr.0 != 0
    }
    /// Bytes from the first to just past the last element.
    pub const fn span_bytes(&self) -> u64 {
        if self.rows == 0 || self.cols == 0 {
            0
        } else {
            ((self.rows - 1) * self.ld + self.cols) * self.dtype.bytes() as u64
        }
    }
    /// Number of elements.
    pub const fn len(&self) -> u64 {
        self.rows * self.cols
    }
    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sparse rows over `n` columns. Row `r` holds the entries `ptr[r]..ptr[r+1]` of `vals`/`idx` when `ptr [1, rows+1] u32`
/// is present, otherwise `r*k..(r+1)*k` with `vals, idx [rows, k]`. An index of `u32::MAX` marks an empty slot: its
/// value is 0 and every op skips it. With `ptr`, `vals` and `idx` are `[1, capacity]` and entries past `ptr[rows]` are
/// undefined, in outputs shaped like `vals` too. Both are dense in memory (`ld == cols`). A column occurs at most once a row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Sparse {
    /// Values, f32.
    pub vals: Mat,
    /// Column indices, u32.
    pub idx: Mat,
    /// Row offsets, u32, or absent.
    pub ptr: Mat,
    /// Rows.
    pub rows: u64,
    /// Columns of the matrix represented.
    pub n: u64,
}

/// The entries of a [`Sparse`] grouped by column, rows ascending inside a column: `col_ptr [1, n+1]`, and for each entry
/// its `row` and its `slot` (position in `vals`), both `[1, capacity]`; all u32. Empty slots do not appear; entries past
/// `col_ptr[n]` are undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct ByColumn {
    /// Offsets of each column's entries.
    pub col_ptr: Mat,
    /// Row of each entry.
    pub row: Mat,
    /// Position of each entry in the sparse matrix's `vals`.
    pub slot: Mat,
}
