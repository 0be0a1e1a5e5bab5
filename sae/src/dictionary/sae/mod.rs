//! Sparse autoencoder and transcoder (VARIANTS §6): the linear encoder, with or without gate,
//!   h = x·W_E + b_E   (⊙ sigmoid(x·W_E_glu + b_E_glu))
//! and its gradients from dense `dh` or from one value per sparse entry. The rest is [`super::coder`].

mod settings;

pub use settings::SaeSettings;
pub(crate) use settings::check_centring;

use super::{
    Param, RandomInit, Share,
    coder::{Encoder, RandomParts, SparseCodes, set_row_norms},
    grad, norms_of,
    settings::DictionarySettings,
    slots::Slots,
};
use crate::Result;
use lm_saes_runtime::{
    Arena, DType, GemmOpts, MapKind, Queue, RandomKind, ReduceKind, Tensor, View, ViewMut,
};

/// `x·W_E + b_E`, matrices as `[S, d]`.
pub(crate) struct LinearEncoder {
    w: Param,
    b: Param,
    gate: Option<Gate>,
}

/// The gate's encoder, and the two factors of `h = a ⊙ s` of the last block.
struct Gate {
    w: Param,
    b: Param,
    /// `a, s [block, S]`, once planned.
    factors: Option<(Tensor, Tensor)>,
}

impl LinearEncoder {
    /// Zeros, with a gate or without.
    pub fn zeros(q: &mut Queue, settings: &DictionarySettings, gated: bool, share: &Share) -> Result<Self> {
        let (s, d) = (settings.d_sae(), settings.d_model());
        let mut pair = |w: &str, b: &str| -> Result<(Param, Param)> {
            let w = Param::transposed(q, w, &[d, s], share.of_features(1))?;
            Ok((w, Param::zeros(q, b, &[s], share.of_features(0))?))
        };
        let (w, b) = pair("W_E", "b_E")?;
        let gate = match gated {
            true => {
                let (w, b) = pair("W_E_glu", "b_E_glu")?;
                Some(Gate { w, b, factors: None })
            }
            false => None,
        };
        Ok(Self { w, b, gate })
    }
}

impl Encoder for LinearEncoder {
    fn params(&self) -> Vec<&Param> {
        let mut all = vec![&self.w, &self.b];
        all.extend(self.gate.iter().flat_map(|g| [&g.w, &g.b]));
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let mut all = vec![&mut self.w, &mut self.b];
        all.extend(self.gate.iter_mut().flat_map(|g| [&mut g.w, &mut g.b]));
        all
    }

    fn plan(&mut self, arena: &mut Arena, block: usize, _training: bool) -> Result<()> {
        if let Some(gate) = &mut self.gate {
            let s = self.b.value.cols();
            let mut part = |label| arena.tensor(label, block, s, DType::F32);
            gate.factors = Some((part("gate input")?, part("gate")?));
        }
        Ok(())
    }

    fn hidden(&mut self, q: &mut Queue, x: View<'_>, h: ViewMut<'_>) -> Result<()> {
        let Some(gate) = &mut self.gate else { return linear(q, &self.w, &self.b, x, h) };
        let (mut a, mut s) = factors(&mut gate.factors, x.rows())?;
        linear(q, &self.w, &self.b, x, a.reborrow())?;
        linear(q, &gate.w, &gate.b, x, s.reborrow())?;
        sigmoid(q, s.reborrow())?;
        Ok(q.zip(MapKind::Mul, a.as_view(), s.as_view(), 1.0, 0.0, h)?)
    }

    fn dense_grads(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        dh: View<'_>,
        mut spare: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        let Some(gate) = &mut self.gate else {
            return linear_grads(q, (&mut self.w, &mut self.b), x, dh, beta);
        };
        let (a, mut s) = factors(&mut gate.factors, x.rows())?;
        // da = dh·s
        q.zip(MapKind::Mul, dh, s.as_view(), 1.0, 0.0, spare.reborrow())?;
        linear_grads(q, (&mut self.w, &mut self.b), x, spare.as_view(), beta)?;
        // dz = da·a·(1 − s)
        q.zip_in_place(MapKind::Mul, a.as_view(), 1.0, 0.0, spare.reborrow())?;
        q.map_in_place(MapKind::Affine, -1.0, 1.0, s.reborrow())?;
        q.zip_in_place(MapKind::Mul, s.as_view(), 1.0, 0.0, spare.reborrow())?;
        linear_grads(q, (&mut gate.w, &mut gate.b), x, spare.as_view(), beta)
    }

    fn sparse_grads(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        codes: &SparseCodes,
        slots: &mut Slots,
        ones: View<'_>,
        beta: f32,
    ) -> Result<()> {
        let linear = (&mut self.w, &mut self.b);
        let Some(gate) = &mut self.gate else { return outer(q, slots, codes, x, ones, linear, beta) };
        gate_at_entries(
            q,
            [(&linear.0.value, &linear.1.value), (&gate.w.value, &gate.b.value)],
            x,
            codes,
            slots,
            ones,
        )?;
        let dcodes = codes.like_mut(&mut slots.dcodes);
        q.zip_in_place(MapKind::Mul, codes.like(&slots.b), 1.0, 0.0, dcodes)?;
        outer(q, slots, codes, x, ones, linear, beta)?;
        // dz = da·a·(1 − s)
        let Slots { dcodes, a, b: s, .. } = &mut *slots;
        q.zip_in_place(MapKind::Mul, codes.like(a), 1.0, 0.0, codes.like_mut(dcodes))?;
        q.map_in_place(MapKind::Affine, -1.0, 1.0, codes.like_mut(s))?;
        q.zip_in_place(MapKind::Mul, codes.like(s), 1.0, 0.0, codes.like_mut(dcodes))?;
        outer(q, slots, codes, x, ones, (&mut gate.w, &mut gate.b), beta)
    }

    fn centre_grad(&mut self, q: &mut Queue, db_d: &mut Tensor) -> Result<()> {
        // Σ dx = Σ dh·W = db·W, of each half.
        let gate = self.gate.as_ref().map(|g| (&g.w, &g.b));
        for (w, b) in [Some((&self.w, &self.b)), gate].into_iter().flatten() {
            let Some(db) = &b.grad else { continue };
            let opts = GemmOpts { alpha: -1.0, beta: 1.0, ..Default::default() };
            q.gemm(db, &w.value, &mut *db_d, opts)?;
        }
        Ok(())
    }

    fn set_feature(&mut self, q: &mut Queue, i: usize, w: &[f32]) -> Result<Vec<String>> {
        q.upload(w, self.w.value.rows_mut(i..i + 1))?;
        q.fill(self.b.value.view_mut().slice_cols(i..i + 1), 0.0)?;
        if let Some(gate) = &mut self.gate {
            q.fill(gate.w.value.rows_mut(i..i + 1), 0.0)?;
            q.fill(gate.b.value.view_mut().slice_cols(i..i + 1), 0.0)?;
        }
        Ok(self.params().iter().map(|p| p.name.clone()).collect())
    }

    fn scale_features(&mut self, q: &mut Queue, factors: View<'_>) -> Result<()> {
        // With a gate, h = a ⊙ s: a takes the factor.
        q.zip_in_place(MapKind::Mul, factors, 1.0, 0.0, &mut self.w.value)?;
        Ok(q.zip_in_place(MapKind::Mul, factors.reshaped(1, factors.rows()), 1.0, 0.0, &mut self.b.value)?)
    }

    fn norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.w.value)
    }

    fn fold(&mut self, q: &mut Queue, a: f32) -> Result<f32> {
        q.map_in_place(MapKind::Affine, 1.0 / a, 0.0, &mut self.b.value)?;
        if let Some(gate) = &mut self.gate {
            // The gate sees raw inputs now and must still see the same values.
            q.map_in_place(MapKind::Affine, a, 0.0, &mut gate.w.value)?;
        }
        Ok(1.0 / a)
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit, parts: &mut RandomParts) -> Result<()> {
        let range = (-init.encoder_bound, init.encoder_bound);
        let mut pairs = vec![(&mut self.w, &mut self.b)];
        pairs.extend(self.gate.as_mut().map(|g| (&mut g.w, &mut g.b)));
        for (w, b) in pairs {
            w.random(q, RandomKind::Uniform, range, init.seed, parts.take())?;
            q.fill(&mut b.value, 0.0)?;
        }
        Ok(())
    }

    fn directions(&self) -> Option<View<'_>> {
        Some(self.w.value.view())
    }

    fn set_from_decoder(&mut self, q: &mut Queue, w_d: View<'_>, factor: f32) -> Result<()> {
        // Both are held as [S, d].
        Ok(q.map(MapKind::Affine, w_d, factor, 0.0, &mut self.w.value)?)
    }

    fn set_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.w.value, norm, true)
    }

    fn bias_mut(&mut self) -> &mut Param {
        &mut self.b
    }
}

/// The first `rows` rows of both factors.
fn factors(planned: &mut Option<(Tensor, Tensor)>, rows: usize) -> Result<(ViewMut<'_>, ViewMut<'_>)> {
    let (a, s) = planned
        .as_mut()
        .ok_or_else(|| crate::Error::Data { what: "an encoder with a gate was not planned".into() })?;
    Ok((a.rows_mut(0..rows), s.rows_mut(0..rows)))
}

/// `h = x·Wᵀ + b`.
fn linear(q: &mut Queue, w: &Param, b: &Param, x: View<'_>, h: ViewMut<'_>) -> Result<()> {
    let bias = Some(b.value.view());
    Ok(q.gemm(x, &w.value, h, GemmOpts { tb: true, bias, ..Default::default() })?)
}

/// `dW = beta·old + dhᵀ·x`, `db = beta·old + Σ dh`.
fn linear_grads(
    q: &mut Queue,
    (w, b): (&mut Param, &mut Param),
    x: View<'_>,
    dh: View<'_>,
    beta: f32,
) -> Result<()> {
    q.gemm(dh, x, grad(w)?, GemmOpts { ta: true, beta, ..Default::default() })?;
    Ok(q.reduce_rows(ReduceKind::Sum, dh, None, grad(b)?, beta)?)
}

/// `sigmoid(z) = (1 + tanh(z/2))/2`, in place.
fn sigmoid(q: &mut Queue, mut z: ViewMut<'_>) -> Result<()> {
    q.map_in_place(MapKind::Tanh, 0.5, 0.0, z.reborrow())?;
    Ok(q.map_in_place(MapKind::Affine, 0.5, 0.5, z)?)
}

/// `dW = Σ dcodes·x`, `db = Σ dcodes` over the entries of each column.
fn outer(
    q: &mut Queue,
    slots: &Slots,
    codes: &SparseCodes,
    x: View<'_>,
    ones: View<'_>,
    (w, b): (&mut Param, &mut Param),
    beta: f32,
) -> Result<()> {
    slots.outer(q, codes.view(), x, grad(w)?.view_mut(), beta)?;
    let db = grad(b)?;
    let n = db.cols();
    slots.outer(q, codes.view(), ones, db.view_mut().reshaped(n, 1), beta)
}

/// The factors a (into `slots.a`) and s (into `slots.b`) at each entry of `codes`; `slots.c` is overwritten.
fn gate_at_entries(
    q: &mut Queue,
    pairs: [(&Tensor, &Tensor); 2],
    x: View<'_>,
    codes: &SparseCodes,
    slots: &mut Slots,
    ones: View<'_>,
) -> Result<()> {
    let Slots { a, b: s, c, .. } = slots;
    for ((w, b), out) in pairs.into_iter().zip([a, &mut *s]) {
        q.sparse_dot(codes.view(), w, x, codes.like_mut(out))?;
        q.sparse_dot(codes.view(), b.view().reshaped(b.cols(), 1), ones, codes.like_mut(c))?;
        q.zip_in_place(MapKind::Add, codes.like(c), 1.0, 1.0, codes.like_mut(out))?;
    }
    sigmoid(q, codes.like_mut(s))
}
