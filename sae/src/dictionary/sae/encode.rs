//! Pre-activations `h [B, S]` of a block of rows, with or without gate, and the gradients of the encoder from dense `dh` or
//! from one value per sparse entry.

use super::{
    Glu, Params,
    codes::{Slots, SparseCodes},
    grad,
    work::GateFactors,
};
use crate::Result;
use lm_saes_runtime::{GemmOpts, MapKind, Queue, ReduceKind, Tensor, View, ViewMut};

/// `h = x·W_E + b_E`, with a gate `⊙ sigmoid(x·W_E_glu + b_E_glu)`; `x [B, d]`, `h [B, S]` (`=`). The factors stay in `gate`.
pub(super) fn hidden(
    q: &mut Queue,
    p: &Params,
    x: View<'_>,
    h: ViewMut<'_>,
    gate: &mut Option<GateFactors>,
) -> Result<()> {
    let (Some(glu), Some(gate)) = (&p.glu, gate) else {
        let bias = Some(p.b_e.value.view());
        return Ok(q.gemm(x, &p.w_e.value, h, GemmOpts { tb: true, bias, ..Default::default() })?);
    };
    let (mut a, mut s) = gate.rows_mut(x.rows());
    let bias = Some(p.b_e.value.view());
    q.gemm(x, &p.w_e.value, a.reborrow(), GemmOpts { tb: true, bias, ..Default::default() })?;
    let bias = Some(glu.b.value.view());
    q.gemm(x, &glu.w.value, s.reborrow(), GemmOpts { tb: true, bias, ..Default::default() })?;
    sigmoid(q, s.reborrow())?;
    Ok(q.zip(MapKind::Mul, a.as_view(), s.as_view(), 1.0, 0.0, h)?)
}

/// `sigmoid(z) = (1 + tanh(z/2))/2`, in place.
fn sigmoid(q: &mut Queue, mut z: ViewMut<'_>) -> Result<()> {
    q.map_in_place(MapKind::Tanh, 0.5, 0.0, z.reborrow())?;
    Ok(q.map_in_place(MapKind::Affine, 0.5, 0.5, z)?)
}

/// Encoder gradients from `dh [B, S]` of the block last given to [`hidden`]: `= beta·old + …`. `spare [B, S]` is overwritten.
pub(super) fn dense_grads(
    q: &mut Queue,
    p: &mut Params,
    x: View<'_>,
    dh: View<'_>,
    gate: &mut Option<GateFactors>,
    mut spare: ViewMut<'_>,
    beta: f32,
) -> Result<()> {
    let product = GemmOpts { ta: true, beta, ..Default::default() };
    let (Some(glu), Some(gate)) = (&mut p.glu, gate) else {
        q.gemm(dh, x, grad(&mut p.w_e)?, product)?;
        return Ok(q.reduce_rows(ReduceKind::Sum, dh, None, grad(&mut p.b_e)?, beta)?);
    };
    let (a, mut s) = gate.rows_mut(x.rows());
    // da = dh·s
    q.zip(MapKind::Mul, dh, s.as_view(), 1.0, 0.0, spare.reborrow())?;
    q.gemm(spare.as_view(), x, grad(&mut p.w_e)?, product)?;
    q.reduce_rows(ReduceKind::Sum, spare.as_view(), None, grad(&mut p.b_e)?, beta)?;
    // dz = da·a·(1 − s)
    q.zip_in_place(MapKind::Mul, a.as_view(), 1.0, 0.0, spare.reborrow())?;
    q.map_in_place(MapKind::Affine, -1.0, 1.0, s.reborrow())?;
    q.zip_in_place(MapKind::Mul, s.as_view(), 1.0, 0.0, spare.reborrow())?;
    q.gemm(spare.as_view(), x, grad(&mut glu.w)?, product)?;
    Ok(q.reduce_rows(ReduceKind::Sum, spare.as_view(), None, grad(&mut glu.b)?, beta)?)
}

/// Encoder gradients from `slots.dcodes`, one value for each entry of `codes`, grouped by column: `= beta·old + …`.
pub(super) fn sparse_grads(
    q: &mut Queue,
    p: &mut Params,
    x: View<'_>,
    codes: &SparseCodes,
    slots: &mut Slots,
    ones: View<'_>,
    beta: f32,
) -> Result<()> {
    if let Some(glu) = &p.glu {
        gate_at_entries(q, &p.w_e.value, &p.b_e.value, glu, x, codes, slots, ones)?;
        let dcodes = codes.like_mut(&mut slots.dcodes);
        q.zip_in_place(MapKind::Mul, codes.like(&slots.b), 1.0, 0.0, dcodes)?;
    }
    outer(q, slots, codes.like(&slots.dcodes), x, ones, (&mut p.w_e, &mut p.b_e), beta)?;
    if let Some(glu) = &mut p.glu {
        // dz = da·a·(1 − s)
        let Slots { dcodes, a, b: s, .. } = &mut *slots;
        q.zip_in_place(MapKind::Mul, codes.like(a), 1.0, 0.0, codes.like_mut(dcodes))?;
        q.map_in_place(MapKind::Affine, -1.0, 1.0, codes.like_mut(s))?;
        q.zip_in_place(MapKind::Mul, codes.like(s), 1.0, 0.0, codes.like_mut(dcodes))?;
        outer(q, slots, codes.like(&slots.dcodes), x, ones, (&mut glu.w, &mut glu.b), beta)?;
    }
    Ok(())
}

/// `dW = Σ vals·x`, `db = Σ vals` over the entries of each column.
fn outer(
    q: &mut Queue,
    slots: &Slots,
    vals: View<'_>,
    x: View<'_>,
    ones: View<'_>,
    (w, b): (&mut super::Param, &mut super::Param),
    beta: f32,
) -> Result<()> {
    q.sparse_outer(slots.by_column(), vals, x, grad(w)?, beta)?;
    let db = grad(b)?;
    let n = db.cols();
    Ok(q.sparse_outer(slots.by_column(), vals, ones, db.view_mut().reshaped(n, 1), beta)?)
}

/// The factors `a` (into `slots.a`) and `s` (into `slots.b`) at each entry of `codes`; `slots.c` is overwritten.
fn gate_at_entries(
    q: &mut Queue,
    w_e: &Tensor,
    b_e: &Tensor,
    glu: &Glu,
    x: View<'_>,
    codes: &SparseCodes,
    slots: &mut Slots,
    ones: View<'_>,
) -> Result<()> {
    let Slots { a, b: s, c, .. } = slots;
    for (w, b, out) in [(w_e, b_e, a), (&glu.w.value, &glu.b.value, &mut *s)] {
        q.sparse_dot(codes.view(), w, x, codes.like_mut(out))?;
        q.sparse_dot(codes.view(), b.view().reshaped(b.cols(), 1), ones, codes.like_mut(c))?;
        q.zip_in_place(MapKind::Add, codes.like(c), 1.0, 1.0, codes.like_mut(out))?;
    }
    sigmoid(q, codes.like_mut(s))
}
