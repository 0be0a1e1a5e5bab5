//! Settings of a sparse autoencoder or, with two hook points, a transcoder. VARIANTS §6.

use super::LinearEncoder;
use crate::{
    Result,
    dictionary::{
        Dictionary,
        coder::Coder,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What an SAE has beside the common settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaeSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// Hook point reconstructed; another than `hook_point_in` makes a transcoder.
    pub hook_point_out: String,
    /// Multiply pre-activations by a sigmoid gate of the same input.
    #[serde(default)]
    pub use_glu_encoder: bool,
}

impl VariantSettings for SaeSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK], "sae")
    }
    fn build(&self, q: &mut Queue, settings: &DictionarySettings) -> Result<Box<dyn Dictionary>> {
        let encoder = LinearEncoder::zeros(q, settings, self.use_glu_encoder)?;
        Ok(Box::new(Coder::new(q, settings, Box::new(encoder), "W_D")?))
    }
}
