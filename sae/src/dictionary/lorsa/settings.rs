//! Settings of a Lorsa dictionary. VARIANTS §9.

use super::Attention;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Share,
        checkpoint::Buffer,
        coder::Coder,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
        variants::Variant,
    },
    lm::{Rotary, RotaryScaling, rotary},
    settings::ActFn,
    tensorfile::Slot,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};

/// How queries and keys know their positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionalEmbedding {
    /// Rotary.
    #[default]
    Rotary,
    /// Not at all.
    None,
}

/// Kind of norm; only RMS exists on queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NormalizationType {
    /// Layer norm.
    Ln,
    /// RMS norm.
    Rms,
}

/// What a Lorsa dictionary has beside the common settings. Feature i reads through QK head `i / (d_sae/n_qk_heads)`.
#[allow(non_snake_case)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LorsaSettings {
    /// Hook point read, as a rule the normalised input of an attention layer.
    pub hook_point_in: String,
    /// Hook point reconstructed, as a rule the output of that layer.
    pub hook_point_out: String,
    /// Attention patterns; divides the number of features.
    pub n_qk_heads: usize,
    /// Width of a query or key.
    pub d_qk_head: usize,
    /// Positions of queries and keys.
    #[serde(default)]
    pub positional_embedding_type: PositionalEmbedding,
    /// Leading coordinates of a query or key that turn.
    pub rotary_dim: usize,
    /// Wavelength base.
    #[serde(default = "ten_thousand")]
    pub rotary_base: f64,
    /// Pairs are (0, 1), (2, 3), … instead of halves.
    #[serde(default = "yes")]
    pub rotary_adjacent_pairs: bool,
    /// Every coordinate of a query or key is repeated so many times before it turns.
    #[serde(default = "one")]
    pub rotary_scale: usize,
    /// Stretch long wavelengths as Llama 3.1 does.
    #[serde(default)]
    pub use_NTK_by_parts_rope: bool,
    /// By how much.
    #[serde(default = "unit")]
    pub NTK_by_parts_factor: f64,
    /// Wavelengths beyond `old_context_len` over this are stretched whole.
    #[serde(default = "unit")]
    pub NTK_by_parts_low_freq_factor: f64,
    /// Wavelengths below `old_context_len` over this are kept.
    #[serde(default = "unit")]
    pub NTK_by_parts_high_freq_factor: f64,
    /// Context length the wavelengths were made for.
    #[serde(default = "two_thousand")]
    pub old_context_len: usize,
    /// Longest context.
    pub n_ctx: usize,
    /// Scores are divided by it; √d_qk_head where not given, and always given in checkpoints.
    #[serde(default)]
    pub attn_scale: Option<f64>,
    /// Normalise each head's query and key before they turn.
    #[serde(default)]
    pub use_post_qk_ln: bool,
    /// Kind of that norm.
    #[serde(default)]
    pub normalization_type: Option<NormalizationType>,
    /// Added to the mean square in that norm.
    #[serde(default = "millionth")]
    pub eps: f64,
}

fn ten_thousand() -> f64 {
    10_000.0
}
fn two_thousand() -> usize {
    2048
}
fn yes() -> bool {
    true
}
fn one() -> usize {
    1
}
fn unit() -> f64 {
    1.0
}
fn millionth() -> f64 {
    1e-6
}

impl LorsaSettings {
    /// What scores are divided by.
    pub fn attn_scale(&self) -> f64 {
        self.attn_scale.unwrap_or((self.d_qk_head as f64).sqrt())
    }

    fn validate_positions(&self) -> Result<()> {
        let width = self.d_qk_head * self.rotary_scale;
        if self.rotary_dim % 2 == 1 || self.rotary_dim > width {
            let what =
                format!("must be even and at most {width}, the width of a query; got {}", self.rotary_dim);
            return Err(Error::setting("rotary_dim", what));
        }
        let positive = [
            ("rotary_base", self.rotary_base),
            ("NTK_by_parts_factor", self.NTK_by_parts_factor),
            ("NTK_by_parts_low_freq_factor", self.NTK_by_parts_low_freq_factor),
            ("NTK_by_parts_high_freq_factor", self.NTK_by_parts_high_freq_factor),
        ];
        match positive.iter().find(|(_, v)| !(v.is_finite() && *v > 0.0)) {
            Some((key, v)) => Err(Error::setting(*key, format!("must be positive, got {v}"))),
            None => Ok(()),
        }
    }
}

impl VariantSettings for LorsaSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }

    fn longest_context(&self) -> Option<usize> {
        Some(self.n_ctx)
    }

    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK], "lorsa")?;
        if self.hook_point_in == self.hook_point_out {
            let what = "must differ from hook_point_in: attention is replaced, not copied";
            return Err(Error::setting("hook_point_out", what));
        }
        let sizes = [
            ("n_qk_heads", self.n_qk_heads),
            ("d_qk_head", self.d_qk_head),
            ("rotary_scale", self.rotary_scale),
            ("n_ctx", self.n_ctx),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, v)| *v == 0) {
            return Err(Error::setting(*key, "must be at least 1"));
        }
        if !common.features().is_multiple_of(self.n_qk_heads) {
            let what = format!(
                "{} does not divide the {} features, which share QK heads evenly",
                self.n_qk_heads,
                common.features()
            );
            return Err(Error::setting("n_qk_heads", what));
        }
        if self.positional_embedding_type == PositionalEmbedding::Rotary {
            self.validate_positions()?;
        }
        if self.use_post_qk_ln && self.normalization_type != Some(NormalizationType::Rms) {
            return Err(Error::setting("normalization_type", "must be \"RMS\" with use_post_qk_ln"));
        }
        if !(self.attn_scale().is_finite() && self.attn_scale() > 0.0) {
            return Err(Error::setting("attn_scale", format!("must be positive, got {}", self.attn_scale())));
        }
        Ok(())
    }

    fn divided(&self, common: &CommonSettings) -> Vec<(usize, &'static str)> {
        // Features of one QK head stay together.
        vec![
            (self.n_qk_heads, "the number of QK heads, n_qk_heads"),
            (common.features(), "the number of features"),
        ]
    }

    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        // Checkpoints say what the scale was, not that it was left to the default.
        let own = Self { attn_scale: Some(self.attn_scale()), ..self.clone() };
        let encoder = Attention::zeros(q, &settings.common, &own, &share)?;
        let settings = DictionarySettings { variant: Variant::Lorsa(own), ..settings.clone() };
        Ok(Box::new(Coder::new(q, &settings, share, Box::new(encoder), "W_O")?))
    }
}

impl LorsaSettings {
    /// The rotary positions; `None` without.
    pub(super) fn rotary(&self) -> Option<Rotary> {
        let scaling = match self.use_NTK_by_parts_rope {
            true => RotaryScaling::Llama3 {
                factor: self.NTK_by_parts_factor,
                low: self.NTK_by_parts_low_freq_factor,
                high: self.NTK_by_parts_high_freq_factor,
                original_ctx: self.old_context_len as f64,
            },
            false => RotaryScaling::None,
        };
        let turns = self.positional_embedding_type == PositionalEmbedding::Rotary && self.rotary_dim > 0;
        turns.then_some(Rotary {
            dim: self.rotary_dim,
            base: self.rotary_base,
            scaling,
            adjacent: self.rotary_adjacent_pairs,
        })
    }

    /// Constants other readers of checkpoints expect: the causal mask, what is written where it masks, and rotary tables as wide
    /// as what turns.
    pub(super) fn buffers(&self) -> Vec<Buffer> {
        let n = self.n_ctx;
        let mask = (0..n * n).map(|i| f32::from(u8::from(i % n <= i / n))).collect();
        let mut all = vec![
            Buffer { slot: Slot { boolean: true, ..Slot::new("mask", [n, n]) }, values: mask },
            Buffer { slot: Slot::new("IGNORE", []), values: vec![f32::NEG_INFINITY] },
        ];
        if self.positional_embedding_type == PositionalEmbedding::None {
            return all;
        }
        let half = self.rotary_dim / 2;
        let (cos, sin) = self.rotary().map_or_else(Default::default, |r| rotary::tables(&r, n));
        for (name, table) in [("rotary_sin", sin), ("rotary_cos", cos)] {
            let wide = |row: &[f32]| -> Vec<f32> {
                match self.rotary_adjacent_pairs {
                    true => row.iter().flat_map(|v| [*v; 2]).collect(),
                    false => [row, row].concat(),
                }
            };
            let values =
                if half == 0 { Vec::new() } else { table.chunks_exact(half).flat_map(wide).collect() };
            all.push(Buffer { slot: Slot::new(name, [n, self.rotary_dim]), values });
        }
        all
    }
}
