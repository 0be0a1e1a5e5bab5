//! Adapters of the ops on sparse codes.

use super::{rows, slice, slice_mut, slice_opt};
use lm_saes_kernels::cpu::{Codes, Isa, sparse as kernel};
use lm_saes_runtime::op::{Activity, Age, SortByColumn, Sparse, SparseDot, SparseMul, SparseOuter};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(op: &Op) -> Result<(), Unsupported> {
    match op {
        Op::SparseMul(_) | Op::SparseDot(_) | Op::SortByColumn(_) | Op::SparseOuter(_) => Ok(()),
        _ => Err(Unsupported::because("not built yet")),
    }
}

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
pub(super) unsafe fn activity(_op: &Activity) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn age(_op: &Age) -> Result<(), String> {
    Err("not built yet".into())
}
