//! Adapters of the ops on sparse codes.

use lm_saes_runtime::op::{Activity, Age, SortByColumn, SparseDot, SparseMul, SparseOuter};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(_op: &Op) -> Result<(), Unsupported> {
    Err(Unsupported::because("not built yet"))
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_mul(_op: &SparseMul) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_dot(_op: &SparseDot) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sort_by_column(_op: &SortByColumn) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn sparse_outer(_op: &SparseOuter) -> Result<(), String> {
    Err("not built yet".into())
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
