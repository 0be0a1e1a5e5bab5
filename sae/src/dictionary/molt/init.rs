//! Starting values, and norms set before training.

use super::Molt;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Initialise, RandomInit,
        coder::{RandomParts, set_row_norms},
    },
};
use lm_saes_runtime::{MapKind, Queue, RandomKind, ReduceKind, View};

impl Initialise for Molt {
    fn variant(&self) -> &'static str {
        "molt"
    }

    /// All matrices uniform within `±1/√S`, whatever the bounds.
    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        let largest = self.params().iter().map(|p| p.whole_len()).max().unwrap_or(0);
        let mut parts = RandomParts::new(largest);
        self.base.running.set(None);
        let bound = 1.0 / (self.base.settings.d_sae() as f32).sqrt();
        let mut matrices = vec![&mut self.w_e];
        matrices.extend(self.ranks.iter_mut().flat_map(|t| [&mut t.u, &mut t.v]));
        for p in matrices {
            p.random(q, RandomKind::Uniform, (-bound, bound), init.seed, parts.take())?;
        }
        q.fill(&mut self.b_e.value, 0.0)?;
        if let Some(b_d) = &mut self.b_d {
            q.fill(&mut b_d.value, 0.0)?;
        }
        if let Some(threshold) = &mut self.threshold {
            q.fill(&mut threshold.value, init.log_threshold()?)?;
        }
        Ok(())
    }

    /// `√(norm/n)` of both factors of each transform.
    fn set_decoder_norm(&mut self, q: &mut Queue, norm: f32, exact: bool) -> Result<()> {
        let current = self.current_norms(q)?;
        let current: Vec<f32> = q.download(&current)?;
        let factor = |&n: &f32| if n <= 0.0 || (!exact && n < norm) { 1.0 } else { (norm / n).sqrt() };
        self.scale_each(q, |feature| factor(&current[feature]))
    }

    fn set_encoder_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.w_e.value, norm, true)
    }

    fn decoder_bias_from_mean(&mut self, q: &mut Queue, labels: &[View<'_>]) -> Result<()> {
        let label = self.base.label(labels)?;
        let b_d = self.b_d.as_mut().ok_or_else(|| {
            let what = "there is no decoder bias to initialise; use all_zero";
            Error::setting("initializer.bias_init_method", what)
        })?;
        q.reduce_rows(ReduceKind::Sum, label, None, &mut b_d.value, 0.0)?;
        Ok(q.map_in_place(MapKind::Affine, 1.0 / label.rows() as f32, 0.0, &mut b_d.value)?)
    }
}
