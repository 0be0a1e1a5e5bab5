//! Adapters of the ops that choose entries.

use lm_saes_runtime::op::{Compact, Gate, GateGrad, Threshold, TopK};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(_op: &Op) -> Result<(), Unsupported> {
    Err(Unsupported::because("not built yet"))
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn top_k(_op: &TopK) -> Result<(), String> {
    Err("not built yet".into())
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
