//! Starting values: one random encoder and decoder, the same for every head.

use super::CrossCoder;
use crate::{
    Result,
    dictionary::{
        Initialise, RandomInit,
        coder::{RandomParts, set_row_norms},
    },
};
use lm_saes_runtime::{MapKind, Queue, RandomKind};

impl Initialise for CrossCoder {
    fn variant(&self) -> &'static str {
        "crosscoder"
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()> {
        self.base.running.set(None);
        let mut parts = RandomParts::new(self.base.settings.d_sae() * self.base.settings.d_model());
        let (e, d) = (parts.take(), parts.take());
        let (n, width) = (self.n(), self.base.settings.d_model());
        let features = self.base.share.features().to_vec();
        for (p, bound, part) in
            [(&mut self.w_e, init.encoder_bound, e), (&mut self.w_d, init.decoder_bound, d)]
        {
            let mut row = 0;
            for r in std::iter::repeat_n(&features, n).flatten() {
                let (rows, at) = (row..row + r.len(), part + (r.start * width) as u64);
                q.random(RandomKind::Uniform, (-bound, bound), init.seed, at, p.value.rows_mut(rows))?;
                row += r.len();
            }
        }
        q.fill(&mut self.b_e.value, 0.0)?;
        q.fill(&mut self.b_d.value, 0.0)?;
        if let Some(threshold) = &mut self.threshold {
            q.fill(&mut threshold.value, init.log_threshold()?)?;
        }
        Ok(())
    }

    fn encoder_from_decoder_transpose(&mut self, q: &mut Queue, factor: f32) -> Result<()> {
        // Both are held as [H·S, d].
        Ok(q.map(MapKind::Affine, &self.w_d.value, factor, 0.0, &mut self.w_e.value)?)
    }

    fn set_decoder_norm(&mut self, q: &mut Queue, norm: f32, exact: bool) -> Result<()> {
        set_row_norms(q, &mut self.w_d.value, norm, exact)
    }

    fn set_encoder_norm(&mut self, q: &mut Queue, norm: f32) -> Result<()> {
        set_row_norms(q, &mut self.w_e.value, norm, true)
    }
}
