//! Kernels of penalty.cu and train.cu.

use super::select::add_partial;
use super::{by_column, by_row, by_thread, elements, flattened};
use crate::cuda::stream::{CudaStream, Shape, args};
use lm_saes_runtime::{
    Result,
    op::{Activity, Adam, Age, Penalty, Random, ThresholdPenalty},
};

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn penalty(s: &mut CudaStream, op: &Penalty) -> Result<()> {
    let failure = s.failure();
    let width = if op.codes.ptr.is_some() { op.codes.n } else { op.codes.vals.cols };
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_penalty", by_row(op.codes.rows, width), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold_penalty(s: &mut CudaStream, op: &ThresholdPenalty) -> Result<()> {
    let cols = op.x.cols;
    let (shape, splits) = by_column(op.x.rows, cols);
    // SAFETY: as the caller promises; the scratch holds two partial sums for each split and column.
    unsafe {
        // Columns first: dx may not share memory with x, but the sums of columns must not wait for it either.
        if op.dtheta.is_some() || op.dn.is_some() {
            let partial = s.scratch(2 * 4 * splits * cols)?;
            s.fire("op_threshold_penalty_columns", shape, args![op, &partial])?;
            if op.dtheta.is_some() {
                add_partial(s, &op.dtheta, partial, splits)?;
            }
            if op.dn.is_some() {
                add_partial(s, &op.dn, partial + 4 * splits * cols, splits)?;
            }
        }
        s.fire("op_threshold_penalty_rows", by_row(op.x.rows, cols), args![op])
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn activity(s: &mut CudaStream, op: &Activity) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe {
        if op.codes.idx.is_some() {
            let width = if op.codes.ptr.is_some() { op.codes.n } else { op.codes.vals.cols };
            return s.fire("op_activity_sparse", by_row(op.codes.rows, width), args![op, &failure]);
        }
        let mut shape = by_thread(op.codes.n);
        shape.grid.1 = op.codes.rows.min(64);
        s.fire("op_activity_dense", shape, args![op])
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn age(s: &mut CudaStream, op: &Age) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_age", by_thread(op.fired.cols), args![op]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn adam(s: &mut CudaStream, op: &Adam) -> Result<()> {
    let mut op = *op;
    flattened([&mut op.p, &mut op.m, &mut op.v, &mut op.g, &mut op.low]);
    let shape = elements(&op.p);
    let blocks = shape.grid.0 * shape.grid.1;
    let partial = if op.stats.is_some() { s.scratch(8 * blocks)? } else { 0 };
    // SAFETY: as the caller promises; the scratch holds two sums for each block.
    unsafe {
        s.fire("op_adam", shape, args![&op, &partial])?;
        if op.stats.is_some() {
            s.fire("op_adam_stats", Shape::line(1, 256), args![&op, &partial, &blocks])?;
        }
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn random(s: &mut CudaStream, op: &Random) -> Result<()> {
    let mut op = *op;
    flattened([&mut op.y]);
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_random", elements(&op.y), args![&op]) }
}
