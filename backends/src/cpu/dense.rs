//! Adapters of the dense ops.

use lm_saes_runtime::op::{Attention, Copy, CrossEntropy, Fill, Gather, Gemm, Map, Norm, Reduce, Rope};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(_op: &Op) -> Result<(), Unsupported> {
    Err(Unsupported::because("not built yet"))
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gemm(_op: &Gemm) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn fill(_op: &Fill) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn copy(_op: &Copy) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gather(_op: &Gather) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn map(_op: &Map) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn reduce(_op: &Reduce) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn norm(_op: &Norm) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn cross_entropy(_op: &CrossEntropy) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn rope(_op: &Rope) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention(_op: &Attention) -> Result<(), String> {
    Err("not built yet".into())
}
