//! Adapters of the ops that choose entries.

use super::{rows, slice_mut, slice_mut_opt, slice_opt};
use lm_saes_kernels::cpu::gate::{self, Jump, Rule, Selection};
use lm_saes_kernels::cpu::{Isa, threshold as histogram, topk};
use lm_saes_runtime::op::{Compact, Gate, GateGrad, Mat, Threshold, TopK};

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn top_k(op: &TopK) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (scale, mask) = (slice_opt(&op.scale), slice_opt(&op.mask));
        let rank = (op.abs == 1, op.groups as usize);
        topk::topk(Isa::best(), rows(&op.x), scale, mask, rows(&op.vals), rows(&op.idx), rank);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold(op: &Threshold) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let (scale, mask) = (slice_opt(&op.scale), slice_opt(&op.mask));
        let (tau, ties) = histogram::threshold(Isa::best(), rows(&op.x), scale, mask, op.k);
        slice_mut(&op.out).copy_from_slice(&[tau.to_bits(), ties]);
    }
    Ok(())
}

/// # Safety
/// The operands are live and nothing writes them while the selection lives.
unsafe fn selection<'a>(x: &Mat, scale: &Mat, mask: &Mat, theta: &Mat, thr: &Mat) -> Selection<'a> {
    // SAFETY: as the caller promises.
    unsafe {
        let rule = match (slice_opt(theta), slice_opt::<u32>(thr)) {
            (Some(theta), _) => Rule::Theta(theta),
            (None, Some(&[tau, ties])) => Rule::Tau { tau: f32::from_bits(tau), ties: ties as usize },
            _ => Rule::Positive,
        };
        Selection { x: rows(x), scale: slice_opt(scale), mask: slice_opt(mask), rule }
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn compact(op: &Compact) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let selection = selection(&op.x, &op.scale, &op.mask, &op.theta, &op.thr);
        let (vals, idx, ptr) = (slice_mut(&op.y.vals), slice_mut(&op.y.idx), slice_mut(&op.y.ptr));
        gate::compact(Isa::best(), selection, vals, idx, ptr)
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate(op: &Gate) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let selection = selection(&op.x, &op.scale, &Mat::NONE, &op.theta, &op.thr);
        gate::gate(Isa::best(), selection, rows(&op.y));
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gate_grad(op: &GateGrad) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let jump = match (slice_opt(&op.theta), slice_mut_opt(&op.dtheta)) {
            (Some(theta), Some(dtheta)) => Some(Jump { theta, window: op.window, dtheta }),
            _ => None,
        };
        gate::gate_grad(Isa::best(), rows(&op.x), slice_opt(&op.scale), jump, rows(&op.df), rows(&op.dx));
    }
    Ok(())
}
