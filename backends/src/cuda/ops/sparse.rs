//! Kernels of sparse.cu and columns.cu.

use super::{by_row, by_slot, by_thread, threads};
use crate::cuda::stream::{CudaStream, Shape, args};
use lm_saes_runtime::{
    Result,
    op::{Confine, Mat, Scatter, SortByColumn, SparseDot, SparseMul, SparseOuter},
};

/// Columns a thread of a sparse product computes.
const WIDE: u64 = 4;
/// Elements a block scans.
const SCAN: u64 = 1024;

/// A block for each of `rows` and as many columns of `y` as it computes.
fn by_row_and_columns(rows: u64, y: &Mat) -> Shape {
    let block = threads(y.cols.div_ceil(WIDE));
    Shape { grid: (rows, y.cols.div_ceil(u64::from(block) * WIDE), 1), block: (block, 1), shared: 0 }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_mul(s: &mut CudaStream, op: &SparseMul) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_sparse_mul", by_row_and_columns(op.y.rows, &op.y), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_dot(s: &mut CudaStream, op: &SparseDot) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_sparse_dot", Shape::line(op.s.rows, 128), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn scatter(s: &mut CudaStream, op: &Scatter) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_scatter", by_row(op.y.rows, op.y.cols), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn confine(s: &mut CudaStream, op: &Confine) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_confine", by_slot(&op.s), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sort_by_column(s: &mut CudaStream, op: &SortByColumn) -> Result<()> {
    let (n, counts) = (op.s.n, op.s.n + 1);
    let runs = counts.div_ceil(SCAN);
    let cursor = s.scratch(4 * (n + runs))?;
    let sums = cursor + 4 * n;
    let (failure, ptr) = (s.failure(), op.out.col_ptr.addr.0);
    s.clear(ptr, 4 * counts)?;
    // SAFETY: as the caller promises; the scratch holds a cursor for each column and a sum for each run.
    unsafe {
        s.fire("op_columns_count", by_slot(&op.s), args![op, &failure])?;
        s.fire("op_scan_runs", Shape::line(runs, 256), args![&ptr, &counts, &sums])?;
        s.fire("op_scan_sums", Shape::line(1, 256), args![&sums, &runs])?;
        s.fire("op_scan_end", Shape::line(runs, 256), args![&ptr, &counts, &sums, &cursor])?;
        s.fire("op_columns_place", by_slot(&op.s), args![op, &cursor])?;
        s.fire("op_columns_sort_short", by_thread(32 * n), args![op])?;
        s.fire("op_columns_sort_long", Shape::line(n.min(2048), 128), args![op])
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_outer(s: &mut CudaStream, op: &SparseOuter) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_sparse_outer", by_row_and_columns(op.y.rows, &op.y), args![op, &failure]) }
}
