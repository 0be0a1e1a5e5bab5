//! Settings of a dictionary: as users write them (strict: an unknown key is an error) and as checkpoints keep them in
//! `config.json` (lenient: fields of other versions are ignored). What every variant has is here, what one adds is in its
//! own room. VARIANTS §2; CHECKPOINTS §2.

use super::{Dictionary, Share, variants::Variant};
use crate::{
    Error, Result,
    parallel::placement::even,
    settings::{DTypeName, field_names},
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use std::{ops::Range, path::PathBuf};

/// Settings of a dictionary of any variant, told apart by `sae_type`. In files both parts are one flat table.
#[derive(Clone, Debug, PartialEq)]
pub struct DictionarySettings {
    /// What every variant has.
    pub common: CommonSettings,
    /// What the variant adds.
    pub variant: Variant,
}

/// What the settings of one variant answer to.
pub trait VariantSettings {
    /// Hook points read.
    fn hook_points_in(&self) -> Vec<String>;
    /// Hook points reconstructed.
    fn hook_points_out(&self) -> Vec<String>;
    /// Number of features (of each layer, where the variant has layers).
    fn d_sae(&self, common: &CommonSettings) -> usize {
        common.features()
    }
    /// For a dictionary that reads whole contexts: the longest it can.
    fn longest_context(&self) -> Option<usize> {
        None
    }
    /// Whether activations of a hook point may be this wide.
    fn accepts_width(&self, width: usize, common: &CommonSettings) -> bool {
        width == common.d_model
    }
    /// What multiplies decoder norms where the gates of several heads compare them; none: 1.
    fn gate_scales(&self) -> &[f32] {
        &[]
    }
    /// What the same weights are where every feature is judged by itself, and each head's compared values are multiplied by
    /// `apart`, if that is not the same settings.
    fn without_ranks(&self, _apart: &[f32]) -> Option<Variant> {
        None
    }
    /// Hook points that each have their own part of every tensor, which ranks may divide among them; 1 where there are none.
    fn heads(&self) -> usize {
        1
    }
    /// What ranks that divide the features need to divide evenly, and what that is called.
    fn divided(&self, common: &CommonSettings) -> Vec<(usize, &'static str)> {
        let mut all = vec![(self.d_sae(common), "the number of features")];
        if common.act_fn == ActFn::GroupMax {
            all.push((common.top_k, "the number of groups, top_k"));
        }
        all
    }
    /// Features of rank `index` among `parts` that divide them.
    fn features(&self, common: &CommonSettings, parts: usize, index: usize) -> Vec<Range<usize>> {
        vec![even(self.d_sae(common), parts, index)]
    }
    /// Width of what is reconstructed.
    fn d_out(&self, common: &CommonSettings) -> usize {
        common.d_model
    }
    /// Checks what types cannot express.
    fn validate(&self, common: &CommonSettings) -> Result<()>;
    /// This share of a dictionary of zeros.
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>>;
}

/// Activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActFn {
    /// x where x > 0.
    Relu,
    /// x where x > θ, θ learned.
    JumpRelu,
    /// The k largest positive entries of each row.
    TopK,
    /// The k·rows largest positive entries of the batch; of each layer's batch where there are layers.
    BatchTopK,
    /// The k largest positive entries of each row, all layers together.
    LayerTopK,
    /// The k·rows largest positive entries of the batch, all layers together.
    BatchLayerTopK,
    /// The k entries of each row with the largest magnitude, of either sign.
    AbsTopK,
    /// Features in k groups of equal size, the largest positive entry of each.
    GroupMax,
}

impl ActFn {
    /// Whether the activation has a budget k.
    pub fn has_k(self) -> bool {
        !matches!(self, Self::Relu | Self::JumpRelu)
    }

    /// Refuses all but `known`, for a variant that has only these.
    pub fn among(self, known: &[Self], sae_type: &str) -> Result<()> {
        if known.contains(&self) {
            return Ok(());
        }
        let name = |f: &Self| serde_json::to_value(f).ok().and_then(|v| v.as_str().map(String::from));
        let names: Vec<String> = known.iter().filter_map(name).collect();
        let what = format!(
            "{} does not exist for sae_type {sae_type}, which has {}",
            name(&self).unwrap_or_default(),
            names.join(", ")
        );
        Err(Error::setting("act_fn", what))
    }
}

/// How activations are scaled before they reach the dictionary (VARIANTS §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormActivation {
    /// Every token to norm √d.
    TokenWise,
    /// Mean norm of the batch, or of each context, to √d.
    BatchWise,
    /// Mean norm of the data set to √d.
    DatasetWise,
    /// Ours, SAELens' `layer_norm`: every token to mean 0 and standard deviation 1.
    LayerNorm,
    /// Not at all.
    Inference,
}

/// The settings every variant has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommonSettings {
    /// Width of the activations.
    pub d_model: usize,
    /// `d_sae = ⌊d_model · expansion_factor⌋`.
    pub expansion_factor: f64,
    /// Whether `b_D` exists.
    #[serde(default = "yes")]
    pub use_decoder_bias: bool,
    /// Activation function.
    #[serde(default = "relu")]
    pub act_fn: ActFn,
    /// Scaling of activations.
    #[serde(default = "dataset_wise")]
    pub norm_activation: NormActivation,
    /// Select by `h·‖W_D‖` rather than by `h`.
    #[serde(default = "yes")]
    pub sparsity_include_decoder_norm: bool,
    /// Final k of the top-k family.
    #[serde(default = "fifty")]
    pub top_k: usize,
    /// Kept for other readers of the file; decoding here is sparse wherever that pays.
    #[serde(default)]
    pub use_triton_kernel: bool,
    /// Kept for other readers of the file.
    #[serde(default = "triton_threshold")]
    pub sparsity_threshold_for_triton_spmm_kernel: f64,
    /// Full width of the straight-through window of a JumpReLU threshold.
    #[serde(default = "two")]
    pub jumprelu_threshold_window: f32,
    /// Ours: batchtopk and batchlayertopk select by the batch at inference too, as the reference system does, although training
    /// left a threshold.
    #[serde(default, skip_serializing_if = "is_off")]
    pub batch_selection_at_inference: bool,
    /// Load this checkpoint, with its own settings, instead of initialising.
    #[serde(default, skip_serializing)]
    pub sae_pretrained_name_or_path: Option<String>,
    /// Whether a loaded checkpoint must have exactly the expected tensors.
    #[serde(default = "yes", skip_serializing)]
    pub strict_loading: bool,
    /// Accepted for compatibility; the run's device decides.
    #[serde(default = "cpu", skip_serializing)]
    pub device: String,
    /// Precision of written weights; training keeps f32 master weights.
    #[serde(default, skip_serializing)]
    pub dtype: DTypeName,
}

fn yes() -> bool {
    true
}
fn is_off(flag: &bool) -> bool {
    !flag
}
fn relu() -> ActFn {
    ActFn::Relu
}
fn dataset_wise() -> NormActivation {
    NormActivation::DatasetWise
}
fn fifty() -> usize {
    50
}
fn triton_threshold() -> f64 {
    0.996
}
fn two() -> f32 {
    2.0
}
fn cpu() -> String {
    "cpu".into()
}
impl CommonSettings {
    /// `⌊d_model · expansion_factor⌋`, the number of features of most variants.
    pub fn features(&self) -> usize {
        (self.d_model as f64 * self.expansion_factor) as usize
    }
}

impl DictionarySettings {
    /// Reads a checkpoint's `config.json`: unknown fields are ignored, missing ones take their defaults.
    pub fn from_checkpoint(mut config: Value) -> Result<Self> {
        if let Some(object) = config.as_object_mut() {
            let tag = object.get("sae_type").and_then(Value::as_str).unwrap_or_default();
            // An unknown tag is reported below, with the variants there are.
            let own = Variant::fields(tag).unwrap_or_default();
            let common = field_names::<CommonSettings>();
            object.retain(|key, _| {
                key == "sae_type" || common.contains(&key.as_str()) || own.contains(&key.as_str())
            });
        }
        let settings: Self =
            serde_json::from_value(config).map_err(|e| Error::setting("sae", e.to_string()))?;
        settings.validate()?;
        Ok(settings)
    }

    /// Checks ranges and combinations that types cannot express.
    pub fn validate(&self) -> Result<()> {
        let c = &self.common;
        if c.d_model == 0 {
            return Err(Error::setting("d_model", "must be at least 1"));
        }
        // A NaN or negative factor truncates to 0 features.
        if self.d_sae() == 0 || self.d_sae() >= u32::MAX as usize {
            let what = format!("{} gives {} features", c.expansion_factor, self.d_sae());
            return Err(Error::setting("expansion_factor", what));
        }
        if c.act_fn.has_k() && c.top_k == 0 {
            return Err(Error::setting("top_k", "must be at least 1 with the top-k family"));
        }
        let window = c.jumprelu_threshold_window;
        if c.act_fn == ActFn::JumpRelu && (window.is_nan() || window <= 0.0) {
            let what = format!("must be positive, got {window}");
            return Err(Error::setting("jumprelu_threshold_window", what));
        }
        self.variant.facts().validate(c)
    }

    /// Settings of the same weights with an activation that judges every feature by itself; see [`VariantSettings::without_ranks`].
    pub(super) fn without_ranks(&self, act_fn: ActFn, apart: &[f32]) -> Self {
        let variant = self.variant.facts().without_ranks(apart);
        let common = CommonSettings { act_fn, ..self.common.clone() };
        Self { common, variant: variant.unwrap_or_else(|| self.variant.clone()) }
    }

    /// Without gating by decoder norms, unless the variant insists on it.
    pub(super) fn ungated_if_allowed(self) -> Self {
        let common = CommonSettings { sparsity_include_decoder_norm: false, ..self.common.clone() };
        let ungated = Self { common, variant: self.variant.clone() };
        if ungated.validate().is_ok() { ungated } else { self }
    }

    /// The tag in files.
    pub fn sae_type(&self) -> &'static str {
        self.variant.sae_type()
    }
    /// Width of the activations.
    pub fn d_model(&self) -> usize {
        self.common.d_model
    }
    /// Number of features.
    pub fn d_sae(&self) -> usize {
        self.variant.facts().d_sae(&self.common)
    }
    /// Whether activations of a hook point may be this wide.
    pub fn accepts_width(&self, width: usize) -> bool {
        self.variant.facts().accepts_width(width, &self.common)
    }
    /// Width of what is reconstructed; `d_model` but in a transcoder between activations of two widths.
    pub fn d_out(&self) -> usize {
        self.variant.facts().d_out(&self.common)
    }
    /// Activation function.
    pub fn act_fn(&self) -> ActFn {
        self.common.act_fn
    }
    /// Whether selection compares `h·‖W_D‖` rather than `h`.
    pub fn gated(&self) -> bool {
        self.common.sparsity_include_decoder_norm
    }
    /// Final k of the top-k family.
    pub fn top_k(&self) -> usize {
        self.common.top_k
    }
    /// Scaling of activations.
    pub fn norm_activation(&self) -> NormActivation {
        self.common.norm_activation
    }
    /// Hook points read.
    pub fn hook_points_in(&self) -> Vec<String> {
        self.variant.facts().hook_points_in()
    }
    /// Hook points reconstructed.
    pub fn hook_points_out(&self) -> Vec<String> {
        self.variant.facts().hook_points_out()
    }
    /// The checkpoint to load instead of initialising.
    pub fn pretrained(&self) -> Option<&str> {
        self.common.sae_pretrained_name_or_path.as_deref()
    }
    /// Whether a loaded checkpoint must have exactly the expected tensors.
    pub fn strict_loading(&self) -> bool {
        self.common.strict_loading
    }
    /// Precision of written weights.
    pub fn dtype(&self) -> DTypeName {
        self.common.dtype
    }
}

/// One flat table, the tag first.
#[derive(Serialize)]
struct Flat<'a> {
    sae_type: &'static str,
    #[serde(flatten)]
    common: &'a CommonSettings,
    #[serde(flatten)]
    variant: &'a Variant,
}

impl Serialize for DictionarySettings {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Flat { sae_type: self.sae_type(), common: &self.common, variant: &self.variant }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for DictionarySettings {
    // By hand: serde cannot refuse unknown keys of a flattened struct.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut own = Map::deserialize(d)?;
        let tag = own.shift_remove("sae_type").ok_or_else(|| D::Error::missing_field("sae_type"))?;
        let tag = tag.as_str().unwrap_or_default();
        let quoted = |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let fields = Variant::fields(tag).ok_or_else(|| {
            D::Error::custom(format!("unknown variant `{tag}`, expected one of {}", quoted(Variant::TAGS)))
        })?;
        let shared = field_names::<CommonSettings>();
        let mut common = Map::new();
        for key in own.keys().cloned().collect::<Vec<_>>() {
            if shared.contains(&key.as_str()) {
                common.extend(own.shift_remove(&key).map(|value| (key, value)));
            } else if !fields.contains(&key.as_str()) {
                let known = quoted(&[shared, fields].concat());
                return Err(D::Error::custom(format!("unknown field `{key}`, expected one of {known}")));
            }
        }
        Ok(Self {
            common: serde_json::from_value(Value::Object(common)).map_err(D::Error::custom)?,
            variant: Variant::parse(tag, Value::Object(own)).map_err(D::Error::custom)?,
        })
    }
}

/// A saved dictionary, named where settings may also describe a new one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainedSettings {
    /// Checkpoint directory.
    pub pretrained_name_or_path: PathBuf,
    /// Fold the data-set norm into the weights after loading.
    #[serde(default = "yes")]
    pub fold_activation_scale: bool,
    /// Require exactly the expected tensors.
    #[serde(default = "yes")]
    pub strict_loading: bool,
    /// Accepted for compatibility; the run's device decides.
    #[serde(default = "cpu")]
    pub device: String,
    /// Precision of written weights.
    #[serde(default)]
    pub dtype: DTypeName,
    /// Ours: whether batchtopk selects by the batch although a running threshold is stored; absent, the checkpoint decides.
    #[serde(default)]
    pub batch_selection_at_inference: Option<bool>,
}

/// The value of `sae` in a runner's settings.
#[derive(Clone, Debug, PartialEq)]
pub enum DictionaryChoice {
    /// A new dictionary, or one loaded through `sae_pretrained_name_or_path`.
    Settings(DictionarySettings),
    /// A saved dictionary.
    Pretrained(PretrainedSettings),
}

impl<'de> Deserialize<'de> for DictionaryChoice {
    // By hand: serde's untagged enums lose the message of the form that was meant.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(d)?;
        if value.get("pretrained_name_or_path").is_some() {
            serde_json::from_value(value).map(Self::Pretrained).map_err(D::Error::custom)
        } else {
            serde_json::from_value(value).map(Self::Settings).map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn minimal() -> Value {
        json!({"sae_type": "sae", "d_model": 10, "expansion_factor": 2.59, "hook_point_in": "a", "hook_point_out": "b"})
    }

    #[test]
    fn defaults_are_the_reference_systems_and_d_sae_truncates() {
        let s: DictionarySettings = serde_json::from_value(minimal()).unwrap();
        assert_eq!(s.d_sae(), 25);
        assert_eq!(serde_json::to_value(&s).unwrap()["use_glu_encoder"], false);
        let s = s.common;
        assert!(s.use_decoder_bias && s.sparsity_include_decoder_norm && s.strict_loading);
        assert_eq!((s.act_fn, s.norm_activation), (ActFn::Relu, NormActivation::DatasetWise));
        assert_eq!((s.top_k, s.jumprelu_threshold_window), (50, 2.0));
    }

    #[test]
    fn a_settings_file_refuses_unknown_keys_and_a_checkpoint_ignores_them() {
        let mut config = minimal();
        config["tok_k"] = json!(3);
        let error = serde_json::from_value::<DictionarySettings>(config.clone()).unwrap_err().to_string();
        assert!(error.contains("tok_k") && error.contains("top_k"), "{error}");
        assert_eq!(DictionarySettings::from_checkpoint(config).unwrap().d_sae(), 25);
    }

    #[test]
    fn an_unknown_variant_is_refused_with_the_variants_there_are() {
        let mut config = minimal();
        config["sae_type"] = json!("sea");
        let error = DictionarySettings::from_checkpoint(config).unwrap_err().to_string();
        assert!(error.contains("`sea`") && error.contains("`sae`"), "{error}");
    }

    #[test]
    fn device_dtype_and_loading_options_are_read_but_not_saved() {
        let mut config = minimal();
        config["dtype"] = json!("torch.bfloat16");
        config["device"] = json!("cuda");
        config["sae_pretrained_name_or_path"] = json!("here");
        let settings: DictionarySettings = serde_json::from_value(config).unwrap();
        assert_eq!((settings.dtype(), settings.pretrained()), (DTypeName::Bf16, Some("here")));
        let saved = serde_json::to_value(&settings).unwrap();
        let keys: Vec<&str> = saved.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "sae_type",
                "d_model",
                "expansion_factor",
                "use_decoder_bias",
                "act_fn",
                "norm_activation",
                "sparsity_include_decoder_norm",
                "top_k",
                "use_triton_kernel",
                "sparsity_threshold_for_triton_spmm_kernel",
                "jumprelu_threshold_window",
                "hook_point_in",
                "hook_point_out",
                "use_glu_encoder"
            ]
        );
        assert_eq!(saved["act_fn"], "relu");
        assert_eq!(saved["norm_activation"], "dataset-wise");
    }

    #[test]
    fn a_pretrained_entry_is_recognised_by_its_path() {
        let choice: DictionaryChoice =
            serde_json::from_value(json!({"pretrained_name_or_path": "x"})).unwrap();
        let DictionaryChoice::Pretrained(p) = choice else { panic!("not recognised") };
        assert!(p.fold_activation_scale && p.strict_loading);
        assert!(matches!(serde_json::from_value(minimal()), Ok(DictionaryChoice::Settings(_))));
    }
}
