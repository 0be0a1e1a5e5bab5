//! Starting values (VARIANTS §8 "Initialisation").

use super::{Clt, forward::hidden};
use crate::{
    Result,
    dictionary::{
        Initialise, RandomInit,
        coder::{RandomParts, blocks},
    },
};
use lm_saes_runtime::{DType, MapKind, Queue, RandomKind, ReduceKind, View};

/// Rows whose pre-activations are held at once.
const BLOCK: usize = 1024;

impl Initialise for Clt {
    fn variant(&self) -> &'static str {
        self.base.settings.sae_type()
    }

    /// `W_E ~ U(±1/√S)`, `W_D[t] ~ U(±1/√(L·d))`; the bounds of the settings are for other variants.
    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        let (layers, d) = (self.p.layers, self.base.settings.d_model());
        let largest = self.p.w_d.iter().map(|w| w.whole_len()).max().unwrap_or(0).max(self.p.w_e.whole_len());
        let mut parts = RandomParts::new(largest);
        self.base.running.set(None);
        let encoder = 1.0 / (self.base.settings.d_sae() as f32).sqrt();
        let decoder = 1.0 / ((layers * d) as f32).sqrt();
        let uniform = RandomKind::Uniform;
        self.p.w_e.random(q, uniform, (-encoder, encoder), init.seed, parts.take())?;
        q.fill(&mut self.p.b_e.value, 0.0)?;
        let s = self.p.s;
        for (t, w) in self.p.w_d.iter_mut().enumerate() {
            w.random(q, uniform, (-decoder, decoder), init.seed, parts.take())?;
            if self.own.init_cross_layer_decoder_all_zero {
                q.fill(w.value.rows_mut(0..t * s), 0.0)?;
            }
        }
        for b in &mut self.p.b_d {
            q.fill(&mut b.value, 0.0)?;
        }
        if let Some(log_theta) = &mut self.p.log_theta {
            q.fill(&mut log_theta.value, init.log_threshold()?)?;
        }
        Ok(())
    }

    fn decoder_bias_from_mean(&mut self, q: &mut Queue, labels: &[View<'_>]) -> Result<()> {
        self.check_views(labels, "labels")?;
        for (label, b) in labels.iter().zip(&mut self.p.b_d) {
            q.reduce_rows(ReduceKind::Sum, *label, None, &mut b.value, 0.0)?;
            q.map_in_place(MapKind::Affine, 1.0 / label.rows() as f32, 0.0, &mut b.value)?;
        }
        Ok(())
    }

    fn encoder_bias_from_mean_hidden_pre(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        _: Option<usize>,
    ) -> Result<()> {
        self.check_views(inputs, "inputs")?;
        q.fill(&mut self.p.b_e.value, 0.0)?;
        let rows = inputs[0].rows();
        let mut h = q.empty(BLOCK.min(rows), self.p.s, DType::F32)?;
        for (l, x) in inputs.iter().enumerate() {
            let mut sum = q.zeros(1, self.p.s, DType::F32)?;
            for r in blocks(rows, BLOCK) {
                let mut h = h.rows_mut(0..r.len());
                hidden(q, &self.p, l, x.slice_rows(r), h.reborrow())?;
                q.reduce_rows(ReduceKind::Sum, h.as_view(), None, &mut sum, 1.0)?;
            }
            let b = self.p.b_e.value.rows_mut(l..l + 1);
            q.map(MapKind::Affine, &sum, -1.0 / rows as f32, 0.0, b)?;
        }
        Ok(())
    }
}
