//! Folding the data-set norms into the weights (VARIANTS §4, §6), exactly, for every activation function and gate. With
//! `a = √d/N_in`, `b = √d/N_out` the folded dictionary has h' = h/a and so f' = f/a: activations in the scale of raw inputs.

use super::Sae;
use crate::{
    Error, Result,
    settings::{DictionarySettings, NormActivation},
};
use lm_saes_runtime::{MapKind, Queue};

impl Sae {
    pub(super) fn fold_norms(&mut self, q: &mut Queue) -> Result<()> {
        if self.cfg.norm_activation != NormActivation::DatasetWise {
            let what = format!(
                "folding needs dataset-wise normalisation, this dictionary has {:?}",
                self.cfg.norm_activation
            );
            return Err(Error::setting("fold_activation_scale", what));
        }
        let a = self.factor(&self.cfg.hook_point_in)?;
        let b = self.factor(&self.cfg.hook_point_out)?;
        let mut scale = |p: &mut super::Param, factor: f32| -> Result<()> {
            Ok(q.map_in_place(MapKind::Affine, factor, 0.0, &mut p.value)?)
        };
        scale(&mut self.p.b_e, 1.0 / a)?;
        scale(&mut self.p.w_d, a / b)?;
        if let Some(b_d) = &mut self.p.b_d {
            scale(b_d, 1.0 / b)?;
        }
        if let Some(glu) = &mut self.p.glu {
            // The gate sees raw inputs now and must still see the same values.
            scale(&mut glu.w, a)?;
        }
        // The compared value is h·n, and n became n·a/b; or h itself.
        let compared = if self.cfg.sparsity_include_decoder_norm { b } else { a };
        if let Some(log_theta) = &mut self.p.log_theta {
            q.map_in_place(MapKind::Affine, 1.0, -compared.ln(), &mut log_theta.value)?;
        }
        self.cfg.norm_activation = NormActivation::Inference;
        self.settings = DictionarySettings::Sae(self.cfg.clone());
        Ok(())
    }

    /// What multiplies raw activations of a hook point.
    fn factor(&self, hook_point: &str) -> Result<f32> {
        let norm = self.norms.get(hook_point).copied().filter(|n| n.is_finite() && *n > 0.0);
        let norm = norm.ok_or_else(|| Error::Data {
            what: format!("cannot fold: no average activation norm of {hook_point} is known"),
        })?;
        Ok((self.cfg.d_model as f32).sqrt() / norm)
    }
}
