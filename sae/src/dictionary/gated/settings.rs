//! Settings of a gated SAE.

use super::GatedEncoder;
use crate::{
    Result,
    dictionary::{
        Dictionary, Share,
        coder::{Coder, Extras},
        sae::check_centring,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What a gated SAE has beside the common settings. Its penalty is `sparsity_loss_type`, on the gate's activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// Hook point reconstructed.
    pub hook_point_out: String,
    /// Encode `x − b_D`, as the paper does; a transcoder cannot.
    #[serde(default = "yes")]
    pub apply_b_dec_to_input: bool,
}

fn yes() -> bool {
    true
}

impl VariantSettings for GatedSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu], "gated")?;
        check_centring(self.apply_b_dec_to_input, common, (&self.hook_point_in, &self.hook_point_out))
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        let encoder = GatedEncoder::zeros(q, settings, &share)?;
        let extras = Extras { centred: self.apply_b_dec_to_input, ..Extras::default() };
        Ok(Box::new(Coder::with(q, settings, share, Box::new(encoder), "W_D", extras)?))
    }
}
