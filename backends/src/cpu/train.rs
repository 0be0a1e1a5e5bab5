//! Adapters of penalties, the optimiser and random numbers.

use lm_saes_runtime::op::{Adam, Penalty, Random, ThresholdPenalty};
use lm_saes_runtime::{Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(_op: &Op) -> Result<(), Unsupported> {
    Err(Unsupported::because("not built yet"))
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn penalty(_op: &Penalty) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold_penalty(_op: &ThresholdPenalty) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn adam(_op: &Adam) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn random(_op: &Random) -> Result<(), String> {
    Err("not built yet".into())
}
