//! Rewriting the weights without changing the function: folding the data-set norms, and transforms of norm 1.

use super::Molt;
use crate::Result;
use lm_saes_runtime::{MapKind, Queue};

impl Molt {
    /// Multiplies every U and V by this.
    fn scale_transforms(&mut self, q: &mut Queue, factor: f32) -> Result<()> {
        for t in &mut self.ranks {
            q.map_in_place(MapKind::Affine, factor, 0.0, &mut t.u.value)?;
            q.map_in_place(MapKind::Affine, factor, 0.0, &mut t.v.value)?;
        }
        Ok(())
    }

    /// The input reaches the output twice, through the codes and through the transforms: with `x = x_raw·a` and codes that become
    /// f/a, the transforms take `a²/b`, and h·n becomes `h·n·a/b`.
    pub(super) fn fold_norms(&mut self, q: &mut Queue) -> Result<()> {
        let (inputs, outputs) = self.base.folding_factors()?;
        let (a, b) = (inputs[0], outputs[0]);
        q.map_in_place(MapKind::Affine, 1.0 / a, 0.0, &mut self.b_e.value)?;
        self.scale_transforms(q, a / b.sqrt())?;
        if let Some(b_d) = &mut self.b_d {
            q.map_in_place(MapKind::Affine, 1.0 / b, 0.0, &mut b_d.value)?;
        }
        let compared = if self.base.settings.gated() { a / b } else { 1.0 / a };
        self.base.running.scale(&[compared]);
        if let Some(threshold) = &mut self.threshold {
            q.map_in_place(MapKind::Affine, 1.0, compared.ln(), &mut threshold.value)?;
            self.base.settings.common.jumprelu_threshold_window *= compared;
        }
        self.base.folded();
        Ok(())
    }

    /// Every transform divided by its norm n, and pre-activations `h_i` become `n_i·h_i`: selection by `h·n` is as before, and
    /// thresholds of `h` itself follow it. A transform of zeros stays.
    pub(super) fn unit_norms(&mut self, q: &mut Queue) -> Result<()> {
        self.base.check_unit_norms()?;
        let norms = self.current_norms(q)?;
        let norms: Vec<f32> = q.download(&norms)?;
        let norms: Vec<f32> = norms.into_iter().map(|n| if n > 0.0 { n } else { 1.0 }).collect();
        self.scale_each(q, |feature| (1.0 / norms[feature]).sqrt())?;
        let factors = q.tensor(norms.len(), 1, &norms)?;
        q.zip_in_place(MapKind::Mul, &factors, 1.0, 0.0, &mut self.w_e.value)?;
        q.zip_in_place(MapKind::Mul, factors.view().reshaped(1, norms.len()), 1.0, 0.0, &mut self.b_e.value)?;
        let ungated = !self.base.settings.gated();
        if let Some(threshold) = self.threshold.as_mut().filter(|_| ungated) {
            let mut log: Vec<f32> = q.download(&threshold.value)?;
            log.iter_mut().zip(norms).for_each(|(log, n)| *log += n.ln());
            q.upload(&log, &mut threshold.value)?;
        }
        Ok(())
    }

    /// Multiplies both U and V of each feature by its factor.
    pub(super) fn scale_each(&mut self, q: &mut Queue, factor: impl Fn(usize) -> f32) -> Result<()> {
        for t in &mut self.ranks {
            let each = t.features.clone().flat_map(|i| vec![factor(i); t.rank]);
            let each: Vec<f32> = each.collect();
            let each = q.tensor(each.len(), 1, &each)?;
            q.zip_in_place(MapKind::Mul, &each, 1.0, 0.0, &mut t.u.value)?;
            q.zip_in_place(MapKind::Mul, &each, 1.0, 0.0, &mut t.v.value)?;
        }
        Ok(())
    }
}
