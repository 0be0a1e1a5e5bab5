//! Decoder rows of norm 1 without another function: what a row loses, its feature gains.

use super::{Coder, row_norms, set_row_norms};
use crate::Result;
use lm_saes_runtime::{DType, Queue};

impl Coder {
    /// `W_D[i] /= n_i`, and pre-activations `h_i` become `n_i·h_i`. Selection by `h·n` is as before; thresholds of `h` itself
    /// follow it, a ranking of `h` could not.
    pub(super) fn unit_norms(&mut self, q: &mut Queue) -> Result<()> {
        self.base.check_unit_norms()?;
        let mut norms = q.empty(self.p.w_d.value.rows(), 1, DType::F32)?;
        row_norms(q, &self.p.w_d.value, norms.view_mut())?;
        self.encoder.scale_features(q, norms.view())?;
        set_row_norms(q, &mut self.p.w_d.value, 1.0, true)?;
        let ungated = !self.gated();
        if let Some(threshold) = self.p.threshold.as_mut().filter(|_| ungated) {
            let mut host: Vec<f32> = q.download(&threshold.value)?;
            let norms: Vec<f32> = q.download(&norms)?;
            for (theta, n) in host.iter_mut().zip(norms) {
                *theta = if self.p.direct { *theta * n } else { *theta + n.ln() };
            }
            q.upload(&host, &mut threshold.value)?;
        }
        Ok(())
    }
}
