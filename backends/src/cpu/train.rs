//! Adapters of penalties, the optimiser and random numbers.

use super::{rows, rows_opt, slice, slice_mut, slice_mut_opt, slice_opt, sparse::codes};
use lm_saes_kernels::cpu::adam::{self, AdamStep, Low};
use lm_saes_kernels::cpu::penalty::{self, Factors, Kind, Operand};
use lm_saes_kernels::cpu::random::{self, Draw};
use lm_saes_kernels::cpu::{Isa, Rows};
use lm_saes_runtime::op::{Adam, Penalty, Random, ThresholdPenalty};
use lm_saes_runtime::{DType, Op, PenaltyKind, RandomKind, Unsupported};

/// Whether the op can run in this form: mode numbers may come from a newer caller.
pub(super) fn supports(op: &Op) -> Result<(), Unsupported> {
    let known = match op {
        Op::Penalty(op) => penalty_kind(op).is_some(),
        Op::Random(op) => draw(op).is_some(),
        _ => true,
    };
    if known { Ok(()) } else { Err(Unsupported::because("unknown kind")) }
}

fn penalty_kind(op: &Penalty) -> Option<Kind> {
    match op.kind {
        PenaltyKind::Power => Some(Kind::Power(op.p)),
        PenaltyKind::PowerSum => Some(Kind::PowerSum(op.p)),
        PenaltyKind::Tanh => Some(Kind::Tanh(op.c)),
        PenaltyKind::TanhValue => Some(Kind::TanhValue(op.c)),
        _ => None,
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn penalty(op: &Penalty) -> Result<(), String> {
    let kind = penalty_kind(op).ok_or("unknown kind")?;
    // SAFETY: as the caller promises.
    unsafe {
        let operand = if op.codes.idx.is_some() {
            Operand::Sparse(codes(&op.codes)?, slice_mut(&op.du))
        } else {
            Operand::Dense(rows(&op.codes.vals), rows(&op.du))
        };
        let (scale, weight, colgain) = (slice_opt(&op.scale), rows_opt(&op.weight), slice_opt(&op.colgain));
        penalty::penalty(kind, operand, Factors { scale, weight, colgain }, rows_opt(&op.out));
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn threshold_penalty(op: &ThresholdPenalty) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let operands = penalty::ThresholdPenalty {
            x: rows(&op.x),
            scale: slice_opt(&op.scale),
            theta: slice(&op.theta),
            weight: rows(&op.weight),
            gated: op.gated == 1,
            out: rows(&op.out),
            dx: rows_opt(&op.dx),
            dtheta: slice_mut_opt(&op.dtheta),
            dn: slice_mut_opt(&op.dn),
        };
        penalty::threshold_penalty(Isa::best(), operands);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn adam(op: &Adam) -> Result<(), String> {
    let step = AdamStep {
        lr: op.lr,
        beta1: op.beta1,
        beta2: op.beta2,
        eps: op.eps,
        bc1: op.bc1,
        bc2: op.bc2,
        grad_scale: op.grad_scale,
        sparse: op.sparse == 1,
    };
    let (isa, p, m) = (Isa::best(), &op.p, &op.m);
    // SAFETY: as the caller promises.
    unsafe {
        let low: Option<Low> = rows_opt(&op.low).map(|l: Rows<f32>| match op.low.dtype {
            DType::BF16 => Low::Bf16(rows(&op.low)),
            DType::F16 => Low::F16(rows(&op.low)),
            _ => Low::F32(l),
        });
        let (squares, nonzero) = adam::adam(isa, rows(p), rows(m), rows(&op.v), rows(&op.g), low, step);
        if let Some(stats) = slice_mut_opt(&op.stats) {
            stats.copy_from_slice(&[squares as f32, nonzero as f32]);
        }
    }
    Ok(())
}

fn draw(op: &Random) -> Option<Draw> {
    match op.kind {
        RandomKind::Uniform => Some(Draw::Uniform(op.a, op.b)),
        RandomKind::Normal => Some(Draw::Normal(op.a, op.b)),
        _ => None,
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn random(op: &Random) -> Result<(), String> {
    let draw = draw(op).ok_or("unknown kind")?;
    // SAFETY: as the caller promises.
    unsafe { random::random(rows(&op.y), draw, op.seed, op.offset) }
    Ok(())
}
