//! Settings of a cross-layer transcoder. VARIANTS §8.

use super::Clt;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Share,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What a cross-layer transcoder has beside the common settings. `d_sae` is the number of features of each layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CltSettings {
    /// Hook points read, one for each layer, first layer first.
    pub hook_points_in: Vec<String>,
    /// Hook points reconstructed, one for each layer.
    pub hook_points_out: Vec<String>,
    /// Start with decoders of zeros but from each layer to itself.
    #[serde(default)]
    pub init_cross_layer_decoder_all_zero: bool,
    /// Kept for other readers of the file; the top-k family is always decoded from sparse codes here.
    #[serde(default)]
    pub decode_with_csr: bool,
    /// Kept for other readers of the file.
    #[serde(default = "csr_threshold")]
    pub sparsity_threshold_for_csr: f64,
}

fn csr_threshold() -> f64 {
    0.05
}

impl VariantSettings for CltSettings {
    fn hook_points_in(&self) -> Vec<String> {
        self.hook_points_in.clone()
    }
    fn hook_points_out(&self) -> Vec<String> {
        self.hook_points_out.clone()
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        let known = [
            ActFn::Relu,
            ActFn::JumpRelu,
            ActFn::TopK,
            ActFn::LayerTopK,
            ActFn::BatchTopK,
            ActFn::BatchLayerTopK,
        ];
        common.act_fn.among(&known, "clt")?;
        let (ins, outs) = (self.hook_points_in.len(), self.hook_points_out.len());
        if ins == 0 || ins != outs {
            let what = format!("needs one entry for each of hook_points_in, at least one: {outs} for {ins}");
            return Err(Error::setting("hook_points_out", what));
        }
        let columns = ins.checked_mul(common.features()).filter(|&n| n < u32::MAX as usize);
        if columns.is_none() {
            let what = format!("{ins} layers of {} features are more than indices count", common.features());
            return Err(Error::setting("expansion_factor", what));
        }
        Ok(())
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        Ok(Box::new(Clt::zeros(q, settings, self, share)?))
    }
}
