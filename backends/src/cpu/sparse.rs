//! Adapters of the ops on sparse codes.

use super::{rows, slice, slice_mut, slice_opt};
use lm_saes_kernels::cpu::{Codes, Isa, activity as ages, sparse as kernel};
use lm_saes_runtime::op::{
    Activity, Age, Confine, Scatter, SortByColumn, Sparse, SparseDot, SparseMul, SparseOuter,
};

/// Sparse rows as the kernels see them, their offsets and indices checked.
///
/// # Safety
/// As [`slice`]: the operand is live, and nothing writes it while the codes live.
pub(super) unsafe fn codes<'a>(s: &Sparse) -> Result<Codes<'a>, String> {
    // SAFETY: as the caller promises; sparse operands are contiguous.
    let (vals, idx, ptr) = unsafe { (slice(&s.vals), slice(&s.idx), slice_opt(&s.ptr)) };
    let codes = match ptr {
        Some(ptr) => Codes::ragged(vals, idx, ptr, s.n as usize),
        None => Codes::fixed(vals, idx, s.vals.cols as usize, s.rows as usize, s.n as usize),
    };
    codes.check()?;
    Ok(codes)
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_mul(op: &SparseMul) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let bias = slice_opt(&op.bias);
        kernel::sparse_mul(Isa::best(), codes(&op.s)?, rows(&op.w), bias, rows(&op.y), op.beta);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn scatter(op: &Scatter) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe { kernel::scatter(codes(&op.s)?, rows(&op.y), op.beta) }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn confine(op: &Confine) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe { kernel::confine(codes(&op.s)?, op.first as usize..op.last as usize, slice_mut(&op.out)) }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_dot(op: &SparseDot) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe { kernel::sparse_dot(Isa::best(), codes(&op.s)?, rows(&op.w), rows(&op.x), slice_mut(&op.out)) }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sort_by_column(op: &SortByColumn) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (row, slot) = (slice_mut(&op.out.row), slice_mut(&op.out.slot));
        kernel::sort_by_column(codes(&op.s)?, slice_mut(&op.out.col_ptr), row, slot);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_outer(op: &SparseOuter) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (col_ptr, row, slot) = (slice(&op.by.col_ptr), slice(&op.by.row), slice(&op.by.slot));
        let (vals, x, y) = (slice(&op.vals), rows(&op.x), rows(&op.y));
        kernel::sparse_outer(Isa::best(), col_ptr, row, slot, vals, x, y, op.beta);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn activity(op: &Activity) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (mask, fired) = (slice_opt(&op.mask), slice_mut(&op.fired));
        if op.codes.idx.is_some() {
            ages::activity_sparse(codes(&op.codes)?, mask, fired);
        } else {
            ages::activity_dense(rows(&op.codes.vals), mask, fired);
        }
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn age(op: &Age) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (since, dead) = (slice_mut(&op.since), slice_mut(&op.dead));
        ages::age(slice(&op.fired), since, dead, op.tokens, op.limit);
    }
    Ok(())
}
