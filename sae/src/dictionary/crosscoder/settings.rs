//! Settings of a crosscoder. VARIANTS §7.

use super::CrossCoder;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Share,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
        variants::Variant,
    },
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What a crosscoder has beside the common settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCoderSettings {
    /// Hook points read and reconstructed, one for each head.
    pub hook_points: Vec<String>,
    /// What multiplies each head's decoder norms where the gate compares them. Folding writes it, because one threshold and one
    /// ranking for all heads cannot follow decoders that change by another factor in each; absent: 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate_scales: Vec<f32>,
}

impl VariantSettings for CrossCoderSettings {
    fn hook_points_in(&self) -> Vec<String> {
        self.hook_points.clone()
    }
    fn hook_points_out(&self) -> Vec<String> {
        self.hook_points.clone()
    }
    fn accepts_width(&self, width: usize, common: &CommonSettings) -> bool {
        width <= common.d_model
    }
    fn gate_scales(&self) -> &[f32] {
        &self.gate_scales
    }
    /// Heads share one threshold, so what a head compares is scaled.
    fn without_ranks(&self, apart: &[f32]) -> Option<Variant> {
        let before = |head: usize| self.gate_scales.get(head).copied().unwrap_or(1.0);
        let gate_scales = apart.iter().enumerate().map(|(head, scale)| before(head) * scale);
        (!apart.is_empty())
            .then(|| Variant::CrossCoder(Self { gate_scales: gate_scales.collect(), ..self.clone() }))
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        let known = [ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK];
        common.act_fn.among(&known, "crosscoder")?;
        if self.hook_points.is_empty() {
            return Err(Error::setting("hook_points", "needs at least one hook point"));
        }
        if let Some(twice) =
            self.hook_points.iter().enumerate().find(|(i, h)| self.hook_points[..*i].contains(h))
        {
            return Err(Error::setting("hook_points", format!("names {} twice", twice.1)));
        }
        for (key, value, wanted) in [
            ("sparsity_include_decoder_norm", common.sparsity_include_decoder_norm, true),
            ("use_decoder_bias", common.use_decoder_bias, true),
            ("use_triton_kernel", common.use_triton_kernel, false),
        ] {
            if value != wanted {
                return Err(Error::setting(key, format!("must be {wanted} for sae_type crosscoder")));
            }
        }
        let scales = &self.gate_scales;
        let usable = scales.iter().all(|s| s.is_finite() && *s > 0.0);
        if !scales.is_empty() && (scales.len() != self.hook_points.len() || !usable) {
            return Err(Error::setting("gate_scales", "needs one positive number for each hook point"));
        }
        Ok(())
    }
    fn heads(&self) -> usize {
        self.hook_points.len()
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        Ok(Box::new(CrossCoder::zeros(q, settings, self, share)?))
    }
}
