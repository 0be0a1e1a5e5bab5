//! Folding the data-set norms into the weights (VARIANTS §4), exactly, for every activation function and encoder. With
//! `a = √d/N_in`, `b = √d/N_out` and pre-activations that become `r·h`, the decoder takes `1/(r·b)` and thresholds follow what
//! they are compared with.

use super::Coder;
use crate::Result;
use lm_saes_runtime::{MapKind, Queue};

impl Coder {
    pub(super) fn fold_norms(&mut self, q: &mut Queue) -> Result<()> {
        let (inputs, outputs) = self.base.folding_factors()?;
        let (a, b) = (inputs[0], outputs[0]);
        let r = self.encoder.fold(q, a)?;
        q.map_in_place(MapKind::Affine, 1.0 / (r * b), 0.0, &mut self.p.w_d.value)?;
        if let Some(b_d) = &mut self.p.b_d {
            q.map_in_place(MapKind::Affine, 1.0 / b, 0.0, &mut b_d.value)?;
        }
        if let Some(skip) = &mut self.p.skip {
            q.map_in_place(MapKind::Affine, a / b, 0.0, &mut skip.value)?;
        }
        // The compared value is h·n, and n became n/(r·b); or h itself.
        let compared = if self.gated() { 1.0 / b } else { r };
        if let Some(threshold) = &mut self.p.threshold {
            let (factor, summand) = if self.p.direct { (compared, 0.0) } else { (1.0, compared.ln()) };
            q.map_in_place(MapKind::Affine, factor, summand, &mut threshold.value)?;
            // The window of the straight-through gradient is a width on the same axis.
            self.base.settings.common.jumprelu_threshold_window *= compared;
        }
        self.base.running.scale(&[compared]);
        self.base.folded();
        Ok(())
    }
}
