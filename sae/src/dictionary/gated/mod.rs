//! Gated SAE (Rajamanoharan et al. 2024): which features are active and how strongly are read off the same directions with
//! different scales and biases,
//!   s = x·W_E      g = relu(s + b_gate)      h = (s·exp(r_mag) + b_mag)·1[g > 0]      f = relu(h)
//! so that the penalty, which looks at g, does not shrink f. g also reconstructs through the decoder as it stands, or nothing would
//! tell the gate what to let through. The rest is [`super::coder`].

mod settings;

pub use settings::GatedSettings;

use super::{
    Param, RandomInit, Share,
    coder::{Encoder, RandomParts, Side, SparseCodes, set_row_norms},
    grad, norms_of,
    settings::DictionarySettings,
    slots::Slots,
};
use crate::{Error, Result};
use lm_saes_runtime::{
    Arena, DType, GemmOpts, MapKind, Queue, RandomKind, ReduceKind, Tensor, View, ViewMut,
};

/// Encoder with a gate and a magnitude on the same directions.
pub(crate) struct GatedEncoder {
    w: Param,
    b_gate: Param,
    r_mag: Param,
    b_mag: Param,
    work: Option<Work>,
}

/// Of the last block.
struct Work {
    /// x·W_E, g, and the gradient of g, `[block, S]`.
    s: Tensor,
    g: Tensor,
    dg: Option<Tensor>,
    /// `[block, S]`.
    spare: Tensor,
    /// exp(r_mag), and Σ ds, `[1, S]`.
    scale: Tensor,
    ds: Tensor,
}

impl GatedEncoder {
    /// Zeros.
    pub fn zeros(q: &mut Queue, settings: &DictionarySettings, share: &Share) -> Result<Self> {
        let (s, d) = (settings.d_sae(), settings.d_model());
        let w = Param::transposed(q, "W_E", &[d, s], share.of_features(1))?;
        let mut vector = |name| Param::zeros(q, name, &[s], share.of_features(0));
        Ok(Self {
            w,
            b_gate: vector("b_gate")?,
            r_mag: vector("r_mag")?,
            b_mag: vector("b_mag")?,
            work: None,
        })
    }

    fn vectors(&mut self) -> [&mut Param; 3] {
        [&mut self.b_gate, &mut self.r_mag, &mut self.b_mag]
    }
}

impl Encoder for GatedEncoder {
    fn params(&self) -> Vec<&Param> {
        vec![&self.w, &self.b_gate, &self.r_mag, &self.b_mag]
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.w, &mut self.b_gate, &mut self.r_mag, &mut self.b_mag]
    }

    fn plan(&mut self, arena: &mut Arena, block: usize, training: bool) -> Result<()> {
        let s = self.b_gate.value.cols();
        let mut part = |label, rows| arena.tensor(label, rows, s, DType::F32);
        self.work = Some(Work {
            s: part("shared pre-activations", block)?,
            g: part("gate", block)?,
            dg: if training { Some(part("gradient of the gate", block)?) } else { None },
            spare: part("magnitudes", block)?,
            scale: part("scale of the magnitudes", 1)?,
            ds: part("sum of the shared gradient", 1)?,
        });
        Ok(())
    }

    fn hidden(&mut self, q: &mut Queue, x: View<'_>, h: ViewMut<'_>) -> Result<()> {
        let w = planned(&mut self.work)?;
        let rows = 0..x.rows();
        let (mut s, mut g) = (w.s.rows_mut(rows.clone()), w.g.rows_mut(rows.clone()));
        q.gemm(x, &self.w.value, s.reborrow(), GemmOpts { tb: true, ..Default::default() })?;
        q.zip(MapKind::Add, s.as_view(), &self.b_gate.value, 1.0, 1.0, g.reborrow())?;
        q.map_in_place(MapKind::Relu, 0.0, 0.0, g.reborrow())?;
        q.map(MapKind::Exp, &self.r_mag.value, 0.0, 0.0, &mut w.scale)?;
        let mut magnitude = w.spare.rows_mut(rows);
        q.zip(MapKind::Mul, s.as_view(), &w.scale, 1.0, 0.0, magnitude.reborrow())?;
        q.zip_in_place(MapKind::Add, &self.b_mag.value, 1.0, 1.0, magnitude.reborrow())?;
        // The gradient of a gate passes what it is given where the gate is open.
        Ok(q.gate_grad(g.as_view(), None, None, magnitude.as_view(), h)?)
    }

    fn has_side(&self) -> bool {
        true
    }

    fn side(&mut self, rows: usize) -> Option<Side<'_>> {
        let w = self.work.as_mut()?;
        Some(Side { acts: w.g.rows_view(0..rows), grad: w.dg.as_mut()?.rows_mut(0..rows) })
    }

    fn side_acts(&self, rows: usize) -> Option<View<'_>> {
        Some(self.work.as_ref()?.g.rows_view(0..rows))
    }

    fn dense_grads(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        dh: View<'_>,
        mut spare: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        let w = planned(&mut self.work)?;
        let Some(dg) = &w.dg else { return Err(unplanned()) };
        let rows = 0..x.rows();
        let mut part = w.spare.rows_mut(rows.clone());
        q.reduce_rows(ReduceKind::Sum, dh, None, grad(&mut self.b_mag)?, beta)?;
        // dh·exp(r) is the magnitude's part of ds, and times s that of dr.
        q.zip(MapKind::Mul, dh, &w.scale, 1.0, 0.0, spare.reborrow())?;
        q.zip(MapKind::Mul, spare.as_view(), w.s.rows_view(rows.clone()), 1.0, 0.0, part.reborrow())?;
        q.reduce_rows(ReduceKind::Sum, part.as_view(), None, grad(&mut self.r_mag)?, beta)?;
        q.gate_grad(w.g.rows_view(rows.clone()), None, None, dg.rows_view(rows), part.reborrow())?;
        q.reduce_rows(ReduceKind::Sum, part.as_view(), None, grad(&mut self.b_gate)?, beta)?;
        q.zip_in_place(MapKind::Add, part.as_view(), 1.0, 1.0, spare.reborrow())?;
        q.reduce_rows(ReduceKind::Sum, spare.as_view(), None, &mut w.ds, beta)?;
        let opts = GemmOpts { ta: true, beta, ..Default::default() };
        Ok(q.gemm(spare.as_view(), x, grad(&mut self.w)?, opts)?)
    }

    fn sparse_grads(
        &mut self,
        _q: &mut Queue,
        _x: View<'_>,
        _codes: &SparseCodes,
        _slots: &mut Slots,
        _ones: View<'_>,
        _beta: f32,
    ) -> Result<()> {
        Err(Error::setting("act_fn", "a gated SAE selects by its gate; set it to relu"))
    }

    fn centre_grad(&mut self, q: &mut Queue, db_d: &mut Tensor) -> Result<()> {
        let w = planned(&mut self.work)?;
        Ok(q.gemm(&w.ds, &self.w.value, db_d, GemmOpts { alpha: -1.0, beta: 1.0, ..Default::default() })?)
    }

    fn norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.w.value)
    }

    fn fold(&mut self, q: &mut Queue, a: f32) -> Result<f32> {
        for b in [&mut self.b_gate, &mut self.b_mag] {
            q.map_in_place(MapKind::Affine, 1.0 / a, 0.0, &mut b.value)?;
        }
        Ok(1.0 / a)
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit, parts: &mut RandomParts) -> Result<()> {
        let range = (-init.encoder_bound, init.encoder_bound);
        self.w.random(q, RandomKind::Uniform, range, init.seed, parts.take())?;
        for p in self.vectors() {
            q.fill(&mut p.value, 0.0)?;
        }
        Ok(())
    }

    fn set_from_decoder(&mut self, q: &mut Queue, w_d: View<'_>, factor: f32) -> Result<()> {
        Ok(q.map(MapKind::Affine, w_d, factor, 0.0, &mut self.w.value)?)
    }

    fn set_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.w.value, norm, true)
    }

    fn set_feature(&mut self, q: &mut Queue, i: usize, w: &[f32]) -> Result<Vec<String>> {
        q.upload(w, self.w.value.rows_mut(i..i + 1))?;
        for p in self.vectors() {
            q.fill(p.value.view_mut().slice_cols(i..i + 1), 0.0)?;
        }
        Ok(self.params().iter().map(|p| p.name.clone()).collect())
    }

    fn bias_mut(&mut self) -> &mut Param {
        &mut self.b_mag
    }
    fn bias_is_added(&self) -> bool {
        false
    }
}

fn planned(work: &mut Option<Work>) -> Result<&mut Work> {
    work.as_mut().ok_or_else(unplanned)
}

fn unplanned() -> Error {
    Error::Data { what: "a gated encoder was not planned for this".into() }
}
