//! Kernels of topk.cu and select.cu.

use super::{by_column, by_row, by_thread, grid};
use crate::cuda::stream::{CudaStream, Shape, args};
use lm_saes_runtime::{
    Result,
    op::{Compact, Gate, GateGrad, Mat, Threshold, TopK},
};

/// Candidates of a row that are sorted in shared memory; more than this many wanted are sorted in scratch memory.
const SORTED: u64 = 2048;
/// Blocks that share scratch memory between rows.
const SCRATCH_BLOCKS: u64 = 512;

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn topk(s: &mut CudaStream, op: &TopK) -> Result<()> {
    let k = op.vals.cols / op.groups.max(1);
    let jobs = op.x.rows * op.groups;
    let capacity = k.max(SORTED);
    let (overflow, shape) = if k <= SORTED {
        (0, Shape { shared: 8 * SORTED, ..Shape::line(jobs, 256) })
    } else {
        let blocks = jobs.min(SCRATCH_BLOCKS);
        (s.scratch(8 * blocks * capacity)?, Shape::line(blocks, 256))
    };
    let capacity = capacity as u32;
    // SAFETY: as the caller promises; the scratch holds `capacity` keys for each block.
    unsafe { s.fire("op_topk", shape, args![op, &capacity, &overflow]) }
}

/// `struct Search` of select.cu: counts, wanted, prefix and a flag.
const SEARCH: u64 = 8 * 2048 + 16;

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold(s: &mut CudaStream, op: &Threshold) -> Result<()> {
    let search = s.scratch(SEARCH)?;
    let mut over = grid(op.x.rows, op.x.cols);
    // Each block ends with up to 2048 additions to the common counts: few blocks, each with many elements.
    over.grid.1 = over.grid.1.min((4 * s.card.processors).div_ceil(over.grid.0.max(1)));
    // SAFETY: as the caller promises; the scratch holds one search.
    unsafe {
        s.fire("op_threshold_begin", Shape::line(1, 256), args![op, &search])?;
        for (shift, bits) in [(21u32, 11u32), (10, 11), (0, 10)] {
            s.fire("op_threshold_count", over, args![op, &search, &shift, &bits])?;
            s.fire("op_threshold_pick", Shape::line(1, 256), args![op, &search, &shift, &bits])?;
        }
    }
    Ok(())
}

/// `struct Bar` of select.cu: what entries are compared with.
#[repr(C)]
struct Bar {
    x: Mat,
    scale: Mat,
    mask: Mat,
    theta: Mat,
    thr: Mat,
}

/// Bytes of `struct RowCount` of select.cu.
const ROW_COUNT: u64 = 16;

/// Counts what passes in each row, and adds up over the rows; `ptr` and `capacity` are Compact's, or 0.
///
/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
unsafe fn counted(s: &mut CudaStream, bar: &Bar, ptr: u64, capacity: u64) -> Result<u64> {
    let (rows, failure) = (s.scratch(ROW_COUNT * bar.x.rows)?, s.failure());
    // SAFETY: as the caller promises; the scratch holds a count for each row.
    unsafe {
        s.fire("op_pass_count", by_row(bar.x.rows, bar.x.cols), args![bar, &rows])?;
        s.fire("op_pass_scan", Shape::line(1, 256), args![bar, &rows, &ptr, &capacity, &failure])?;
    }
    Ok(rows)
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn compact(s: &mut CudaStream, op: &Compact) -> Result<()> {
    let bar = Bar { x: op.x, scale: op.scale, mask: op.mask, theta: op.theta, thr: op.thr };
    // SAFETY: as the caller promises.
    unsafe {
        let rows = counted(s, &bar, op.y.ptr.addr.0, op.y.vals.cols)?;
        s.fire("op_compact", by_row(op.x.rows, op.x.cols), args![op, &bar, &rows])
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate(s: &mut CudaStream, op: &Gate) -> Result<()> {
    let bar = Bar { x: op.x, scale: op.scale, mask: Mat::NONE, theta: op.theta, thr: op.thr };
    // SAFETY: as the caller promises.
    unsafe {
        let rows = if op.thr.is_some() { counted(s, &bar, 0, 0)? } else { 0 };
        s.fire("op_gate", by_row(op.x.rows, op.x.cols), args![&bar, &op.y, &rows])
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate_grad(s: &mut CudaStream, op: &GateGrad) -> Result<()> {
    let (shape, splits) = by_column(op.x.rows, op.x.cols);
    let partial = if op.theta.is_some() { s.scratch(4 * splits * op.x.cols)? } else { 0 };
    // SAFETY: as the caller promises; the scratch holds a partial sum for each split and column.
    unsafe {
        s.fire("op_gate_grad", shape, args![op, &partial])?;
        if op.theta.is_some() {
            add_partial(s, &op.dtheta, partial, splits)?;
        }
    }
    Ok(())
}

/// `y [1, n] +=` the sum of `splits` rows of n partial sums.
///
/// # Safety
/// As [`lm_saes_runtime::Stream::launch`]; `partial` holds as many numbers.
pub(super) unsafe fn add_partial(s: &mut CudaStream, y: &Mat, partial: u64, splits: u64) -> Result<()> {
    let (n, splits) = (y.cols, splits as u32);
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_add_partial", by_thread(n), args![&y.addr, &partial, &n, &splits]) }
}
