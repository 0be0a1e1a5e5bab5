//! Matryoshka SAE: the SAE with a loss at several widths. Encoder, selection and decoder are those of [`super::sae`], the levels
//! are [`super::coder`]'s; here is what settings say. README.

use super::{
    Dictionary, Share,
    coder::{Coder, Extras},
    sae::{LinearEncoder, SaeSettings, check_centring},
    settings::{CommonSettings, DictionarySettings, VariantSettings},
    variants::Variant,
};
use crate::{Error, Result, settings::ActFn};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// What a Matryoshka SAE has beside the common settings. `widths` or `width_fractions`; neither: a sixteenth, an eighth, … of the
/// features and all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatryoshkaSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// Hook point reconstructed.
    pub hook_point_out: String,
    /// How many features each level has, those of the levels before it included; the last is d_sae.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widths: Option<Vec<usize>>,
    /// The same as fractions of d_sae; the last is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width_fractions: Option<Vec<f64>>,
    /// Encode `x − b_D`.
    #[serde(default)]
    pub apply_b_dec_to_input: bool,
}

impl MatryoshkaSettings {
    /// Prefix sizes, ascending, the last d_sae.
    ///
    /// # Errors
    /// Both forms given, sizes that do not ascend, or another last one.
    pub fn levels(&self, d_sae: usize) -> Result<Vec<usize>> {
        let of = |fractions: &[f64]| fractions.iter().map(|f| (f * d_sae as f64).round() as usize).collect();
        let (key, widths): (_, Vec<usize>) = match (&self.widths, &self.width_fractions) {
            (Some(_), Some(_)) => {
                return Err(Error::setting("widths", "give widths or width_fractions, not both"));
            }
            (Some(widths), None) => ("widths", widths.clone()),
            (None, Some(fractions)) => ("width_fractions", of(fractions)),
            (None, None) => ("width_fractions", of(&[0.0625, 0.125, 0.25, 0.5, 1.0])),
        };
        let ascending = widths.first().is_some_and(|&w| w > 0) && widths.windows(2).all(|w| w[0] < w[1]);
        if !ascending || widths.last() != Some(&d_sae) {
            let what = format!("must ascend to d_sae = {d_sae}, got prefixes of {widths:?}");
            return Err(Error::setting(key, what));
        }
        Ok(widths)
    }
}

impl VariantSettings for MatryoshkaSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    /// Levels are a matter of training: what they leave is a plain SAE.
    fn without_ranks(&self, _apart: &[f32]) -> Option<Variant> {
        Some(Variant::Sae(SaeSettings {
            hook_point_in: self.hook_point_in.clone(),
            hook_point_out: self.hook_point_out.clone(),
            use_glu_encoder: false,
            use_skip_connection: false,
            apply_b_dec_to_input: self.apply_b_dec_to_input,
            use_direct_jumprelu_threshold: false,
            d_out: None,
        }))
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::BatchTopK, ActFn::TopK], "matryoshka")?;
        self.levels(common.features())?;
        check_centring(self.apply_b_dec_to_input, common, (&self.hook_point_in, &self.hook_point_out))
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        let encoder = LinearEncoder::zeros(q, settings, false, &share)?;
        let widths = self.levels(settings.d_sae())?;
        let extras = Extras { centred: self.apply_b_dec_to_input, widths, ..Extras::default() };
        Ok(Box::new(Coder::with(q, settings, share, Box::new(encoder), "W_D", extras)?))
    }
}
