//! The target-l0 loss (Gemma Scope 2): `c·(L0/target − 1)²`. L0 counts entries above their threshold, which has no slope; the
//! straight-through one of Rajamanoharan et al. (2024) counts the entries inside the window instead:
//!   ∂L0/∂θ_i = −1/window · Σ_t w_t·1[|g_ti − θ_i| < window/2]
//! The gradient reaches thresholds alone. An entry inside the window is below its upper end and not below its lower end.

use super::work::{L0, PENALTY, Path, QUAD_SQUARES, Train, mixed_up};
use crate::{Result, dictionary::reciprocals, parallel::Mesh, training::LossSettings};
use lm_saes_runtime::{MapKind, Queue, ReduceKind, Reduction, Tensor, ThresholdPenaltyArgs, View};
use std::ops::Range;

/// Ends of the windows and row weights of a step; sums start at 0.
pub(super) fn prepare(
    q: &mut Queue,
    l0: &mut L0,
    theta: &Tensor,
    weight: View<'_>,
    window: f32,
) -> Result<()> {
    q.map(MapKind::Affine, theta, 1.0, window / 2.0, l0.ends.rows_mut(0..1))?;
    q.map(MapKind::Affine, theta, 1.0, -window / 2.0, l0.ends.rows_mut(1..2))?;
    // What is not above 0 never passes, window or not.
    q.map_in_place(MapKind::Relu, 0.0, 0.0, l0.ends.rows_mut(1..2))?;
    for (column, sign) in [-1.0, 1.0].into_iter().enumerate() {
        let to = l0.weight.rows_mut(0..weight.rows()).slice_cols(column..column + 1);
        q.map(MapKind::Affine, weight, sign / window, 0.0, to)?;
    }
    q.fill(&mut l0.dtheta, 0.0).and_then(|()| q.fill(&mut l0.active, 0.0)).map_err(Into::into)
}

/// Adds rows `r`, of pre-activations h and codes f `[B, S]`; `norms` where selection compares `h·n`.
pub(super) fn count(
    q: &mut Queue,
    t: &mut Train,
    (h, f): (View<'_>, View<'_>),
    norms: Option<View<'_>>,
    weight: View<'_>,
    r: Range<usize>,
) -> Result<()> {
    let Train { l0: Some(l0), path: Path::Dense { spare, .. }, .. } = t else { return Err(mixed_up()) };
    q.reduce_rows(ReduceKind::NonZero, f, Some(weight.slice_rows(r.clone())), &mut l0.active, 1.0)?;
    for end in 0..2 {
        q.threshold_penalty(ThresholdPenaltyArgs {
            x: h,
            scale: norms,
            theta: l0.ends.rows_view(end..end + 1),
            weight: l0.weight.rows_view(r.clone()).slice_cols(end..end + 1),
            gated: norms.is_some(),
            out: spare.rows_mut(0..r.len()).slice_cols(0..1),
            dx: None,
            dtheta: Some(l0.dtheta.view_mut()),
            dn: None,
        })?;
    }
    Ok(())
}

/// L0 into the loss terms, and the gradient into that of the thresholds. `norms` as in [`count`].
pub(super) fn finish(
    q: &mut Queue,
    mesh: &Mesh,
    t: &mut Train,
    norms: Option<&Tensor>,
    settings: &LossSettings,
    c: f32,
) -> Result<()> {
    let Train { l0: Some(l0), scalars, inv_n, dtheta, .. } = t else { return Ok(()) };
    mesh.data.all_reduce(q, &mut l0.active, Reduction::Sum)?;
    for place in [PENALTY, QUAD_SQUARES] {
        q.reduce_cols(ReduceKind::Sum, &l0.active, Train::scalar(scalars, place), 0.0)?;
        mesh.model.all_reduce(q, Train::scalar(scalars, place), Reduction::Sum)?;
    }
    if let Some(norms) = norms {
        // The count came with a factor n; a feature without decoder never passes.
        reciprocals(q, norms, inv_n)?;
        q.zip_in_place(MapKind::Mul, &*inv_n, 1.0, 0.0, &mut l0.dtheta)?;
    }
    // 2c/target·(L0/target − 1)
    let (a, b) = (2.0 * c / settings.target_l0.powi(2), -2.0 * c / settings.target_l0);
    q.map_in_place(MapKind::Affine, a, b, Train::scalar(scalars, QUAD_SQUARES))?;
    let gain = scalars.view().slice_cols(QUAD_SQUARES..QUAD_SQUARES + 1);
    q.zip_in_place(MapKind::Mul, gain, 1.0, 0.0, &mut l0.dtheta)?;
    Ok(q.zip_in_place(MapKind::Add, &l0.dtheta, 1.0, 1.0, dtheta)?)
}
