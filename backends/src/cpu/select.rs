//! Adapters of the ops that choose entries.

use super::{rows, slice_opt};
use lm_saes_kernels::cpu::{Isa, topk};
use lm_saes_runtime::op::{Compact, Gate, GateGrad, Threshold, TopK};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(op: &Op) -> Result<(), Unsupported> {
    match op {
        Op::TopK(_) => Ok(()),
        _ => Err(Unsupported::because("not built yet")),
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn top_k(op: &TopK) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (scale, mask) = (slice_opt(&op.scale), slice_opt(&op.mask));
        topk::topk(Isa::best(), rows(&op.x), scale, mask, rows(&op.vals), rows(&op.idx));
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold(_op: &Threshold) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn compact(_op: &Compact) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate(_op: &Gate) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate_grad(_op: &GateGrad) -> Result<(), String> {
    Err("not built yet".into())
}
