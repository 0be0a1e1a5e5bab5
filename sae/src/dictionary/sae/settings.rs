//! Settings of a sparse autoencoder or, with two hook points, a transcoder. VARIANTS §6; README.

use super::LinearEncoder;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Share,
        coder::{Coder, Extras},
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What an SAE has beside the common settings. What other readers of a checkpoint do not know is written only where it is on.
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
    /// Ours: a transcoder adds `x·W_skip` to its output, from zeros on.
    #[serde(default, skip_serializing_if = "is_off")]
    pub use_skip_connection: bool,
    /// Ours, SAELens' name: encode `x − b_D`.
    #[serde(default, skip_serializing_if = "is_off")]
    pub apply_b_dec_to_input: bool,
    /// Ours: train JumpReLU thresholds themselves, kept from going below 0, in place of their logarithms.
    #[serde(default, skip_serializing_if = "is_off")]
    pub use_direct_jumprelu_threshold: bool,
    /// Ours: width of what a transcoder reconstructs, where it is not `d_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_out: Option<usize>,
}

fn is_off(flag: &bool) -> bool {
    !flag
}

/// Whether the encoder may see `x − b_D`: the bias must be there, and be one of inputs.
pub(crate) fn check_centring(on: bool, common: &CommonSettings, hooks: (&str, &str)) -> Result<()> {
    let refused = match on {
        true if !common.use_decoder_bias => "needs use_decoder_bias = true",
        true if hooks.0 != hooks.1 => {
            "needs hook_point_in = hook_point_out: a transcoder's b_D is no point among its inputs; set it to false"
        }
        _ => return Ok(()),
    };
    Err(Error::setting("apply_b_dec_to_input", refused))
}

impl VariantSettings for SaeSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn d_out(&self, common: &CommonSettings) -> usize {
        self.d_out.unwrap_or(common.d_model)
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        if self.d_out == Some(0)
            || (self.d_out(common) != common.d_model && self.hook_point_in == self.hook_point_out)
        {
            let what = "is for transcoders: what one hook point gives is reconstructed in its own width";
            return Err(Error::setting("d_out", what));
        }
        let known =
            [ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK, ActFn::AbsTopK, ActFn::GroupMax];
        common.act_fn.among(&known, "sae")?;
        if common.act_fn == ActFn::GroupMax && !common.features().is_multiple_of(common.top_k) {
            let (k, s) = (common.top_k, common.features());
            return Err(Error::setting(
                "top_k",
                format!("groupmax needs groups of one size: {k} does not divide {s}"),
            ));
        }
        if self.use_skip_connection && self.hook_point_in == self.hook_point_out {
            let what = "is for transcoders: with one hook point it can copy its input";
            return Err(Error::setting("use_skip_connection", what));
        }
        if self.use_direct_jumprelu_threshold && common.act_fn != ActFn::JumpRelu {
            return Err(Error::setting("use_direct_jumprelu_threshold", "needs act_fn = jumprelu"));
        }
        check_centring(self.apply_b_dec_to_input, common, (&self.hook_point_in, &self.hook_point_out))
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        let encoder = LinearEncoder::zeros(q, settings, self.use_glu_encoder, &share)?;
        let extras = Extras {
            skip: self.use_skip_connection,
            centred: self.apply_b_dec_to_input,
            direct_threshold: self.use_direct_jumprelu_threshold,
            widths: Vec::new(),
        };
        Ok(Box::new(Coder::with(q, settings, share, Box::new(encoder), "W_D", extras)?))
    }
}
