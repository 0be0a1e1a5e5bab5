//! SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of version 6 (every architecture) and of the versions
//! before it, whose settings are flat and partly named otherwise.

use super::temporal;
use crate::{
    Error, Result, files,
    hub::{
        place::Place,
        reading::{About, Order, Part, Reading, THRESHOLD, expansion, plain_sae, shaped},
        tensors::Tensors,
    },
    settings::DTypeName,
};
use serde_json::{Map, Value, json};
use std::{path::Path, rc::Rc};

/// The settings file.
pub const CONFIG: &str = "cfg.json";
/// The weights file.
pub const WEIGHTS: &str = "sae_weights.safetensors";

/// Keys every architecture has.
const COMMON: &[&str] = &[
    "d_in",
    "d_sae",
    "dtype",
    "device",
    "apply_b_dec_to_input",
    "normalize_activations",
    "reshape_activations",
    "metadata",
    "architecture",
];
/// Keys that say how a dictionary was trained and nothing about what it computes.
const TRAINING: &[&str] = &[
    "decoder_init_norm",
    "l1_coefficient",
    "lp_norm",
    "l1_warm_up_steps",
    "use_sparse_activations",
    "aux_loss_coefficient",
    "topk_threshold_lr",
    "use_matryoshka_aux_loss",
    "jumprelu_init_threshold",
    "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode",
    "l0_coefficient",
    "l0_warm_up_steps",
    "pre_act_loss_coefficient",
    "jumprelu_tanh_scale",
    "jumprelu_ste_to_input",
    "target_l0",
    "noise_sigma",
    "mse_loss_normalization",
    "from_pretrained_path",
    "finetuning_scaling_factor",
];
/// What describes the language model and its activations.
const METADATA: &[&str] = &[
    "model_name",
    "hook_name",
    "model_class_name",
    "hook_head_index",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "sae_lens_version",
    "sae_lens_training_version",
    "hook_name_out",
    "hook_head_index_out",
    "hf_hook_name",
    "hf_hook_name_out",
];

/// Reads a folder.
pub fn read(place: &Place) -> Result<Reading> {
    let path = place.folder.need(CONFIG)?;
    let text = files::read_text(&path)?;
    let cfg: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
    let weights = Rc::new(Tensors::open(place.folder.need(WEIGHTS)?)?);
    of_config(place, &path, modern(cfg), weights)
}

/// The settings of version 6 for those of an earlier one.
fn modern(cfg: Map<String, Value>) -> Map<String, Value> {
    let version = cfg.get("sae_lens_version").or(cfg.get("metadata").and_then(|m| m.get("sae_lens_version")));
    let major = version.and_then(Value::as_str).and_then(|v| v.split('.').next()?.parse::<u32>().ok());
    if major.is_some_and(|m| m >= 6) {
        return cfg;
    }
    let renamed = |key: String| match key.as_str() {
        "hook_point" => "hook_name".into(),
        "hook_point_head_index" => "hook_head_index".into(),
        "activation_fn_str" => "activation_fn".into(),
        _ => key,
    };
    let mut old: Map<String, Value> = cfg.into_iter().map(|(k, v)| (renamed(k), v)).collect();
    old.entry("apply_b_dec_to_input").or_insert(json!(true));
    old.entry("architecture").or_insert(json!("standard"));
    old.entry("prepend_bos").or_insert(json!(true));
    let z = old.get("hook_name").and_then(Value::as_str).is_some_and(|h| h.contains("hook_z"));
    old.entry("reshape_activations").or_insert(json!(if z { "hook_z" } else { "none" }));
    let k = old.get("activation_fn_kwargs").and_then(|a| a.get("k")).cloned();
    if let (Some("topk"), Some(k)) = (old.get("activation_fn").and_then(Value::as_str), k) {
        old.insert("architecture".into(), json!("topk"));
        old.insert("k".into(), k);
    }
    let norm = match old.get("normalize_activations") {
        None | Some(Value::Null | Value::Bool(false)) => json!("none"),
        Some(Value::Bool(true)) => json!("expected_average_only_in"),
        Some(other) => other.clone(),
    };
    old.insert("normalize_activations".into(), norm);
    let mut new = Map::new();
    let mut metadata = Map::new();
    for (key, value) in old {
        if METADATA.contains(&key.as_str()) {
            metadata.insert(key, value);
        } else if COMMON.contains(&key.as_str()) || ["k", "d_out"].contains(&key.as_str()) {
            new.insert(key, value);
        }
    }
    new.insert("metadata".into(), Value::Object(metadata));
    new
}

/// What the architectures share, checked.
pub struct Cfg<'a> {
    /// Where it is.
    pub place: &'a Place,
    path: &'a Path,
    /// As in the file.
    pub map: Map<String, Value>,
    /// Its weights.
    pub weights: Rc<Tensors>,
    /// Width read.
    pub d_in: usize,
    /// Features.
    pub d_sae: usize,
    /// The encoder sees `x − b_dec`.
    pub centred: bool,
    /// What multiplies activations first, from outside.
    pub scale: f32,
    /// The mode of ours that stands for theirs.
    pub norm: &'static str,
    /// Hook point read.
    pub hook: String,
}

fn of_config(place: &Place, path: &Path, map: Map<String, Value>, weights: Rc<Tensors>) -> Result<Reading> {
    let architecture = map.get("architecture").and_then(Value::as_str).unwrap_or("standard").to_string();
    let cfg = Cfg::new(place, path, map, weights)?;
    let mut reading = match architecture.as_str() {
        "standard" => cfg.sae("relu", &[])?,
        "jumprelu" => cfg.sae("jumprelu", &[])?,
        "topk" | "abstopk" => cfg.top_k(&architecture)?,
        "batchtopk" => cfg.top_k("batchtopk")?,
        "matryoshka_batchtopk" => cfg.matryoshka()?,
        "gated" => cfg.gated()?,
        "transcoder" | "skip_transcoder" => cfg.transcoder("relu", architecture.starts_with("skip"))?,
        "jumprelu_transcoder" | "jumprelu_skip_transcoder" => {
            cfg.transcoder("jumprelu", architecture.contains("skip"))?
        }
        "matching_pursuit" => cfg.matching_pursuit()?,
        "temporal" => temporal::read(&cfg)?,
        other => {
            return Err(cfg.error(
                "architecture",
                format!(
                    "{other:?} is not known; known are standard, gated, jumprelu, topk, abstopk, batchtopk, \
                     matryoshka_batchtopk, matching_pursuit, temporal and the transcoders"
                ),
            ));
        }
    };
    reading.about = cfg.about(reading.about);
    Ok(reading)
}

impl<'a> Cfg<'a> {
    fn new(
        place: &'a Place,
        path: &'a Path,
        mut map: Map<String, Value>,
        weights: Rc<Tensors>,
    ) -> Result<Self> {
        let bad = |key: &str, what: String| Error::format(path, format!("{key}: {what}"));
        let mut metadata = map.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        // Version 6 began with both forms.
        for key in METADATA {
            if let Some(value) = map.shift_remove(*key) {
                metadata.entry(*key).or_insert(value);
            }
        }
        map.insert("metadata".into(), Value::Object(metadata.clone()));
        let size = |key: &str| match map.get(key).and_then(Value::as_u64) {
            Some(n) if n > 0 && n < 1 << 32 => Ok(n as usize),
            _ => Err(bad(key, "has to be a positive number".into())),
        };
        let (d_in, d_sae) = (size("d_in")?, size("d_sae")?);
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let centred = map.get("apply_b_dec_to_input").and_then(Value::as_bool).unwrap_or(true);
        let stated = text("normalize_activations").unwrap_or("none").to_string();
        let mode = place.facts.normalize_activations.clone().unwrap_or(stated);
        let (norm, scale) = match mode.as_str() {
            "none" => ("inference", 1.0),
            "layer_norm" => ("layer-norm", 1.0),
            "constant_norm_rescale" => ("token-wise", 1.0),
            "constant_scalar_rescale" if text("architecture") == Some("temporal") => {
                let factor =
                    map.get("activation_normalization_factor").and_then(Value::as_f64).unwrap_or(1.0);
                ("inference", factor as f32)
            }
            "expected_average_only_in" => match place.facts.norm_scaling_factor {
                Some(factor) if factor.is_finite() && factor > 0.0 => ("inference", factor as f32),
                Some(factor) => return Err(bad("norm_scaling_factor", format!("{factor} is no factor"))),
                None if place.facts.lenient => ("inference", 1.0),
                None => {
                    return Err(bad(
                        "normalize_activations",
                        "expected_average_only_in needs the factor √d/mean norm, which these files do not hold; give it \
                         (lm-saes convert --norm-factor), or take the weights as they are (--lenient), as SAELens does with a warning"
                            .into(),
                    ));
                }
            },
            "covariance_whitening" => {
                return Err(bad(
                    "normalize_activations",
                    "covariance_whitening of a training checkpoint has no form here; save the inference model, which has \
                     it in its weights"
                        .into(),
                ));
            }
            other => return Err(bad("normalize_activations", format!("{other:?} is not known"))),
        };
        if let Some(other) = text("reshape_activations").filter(|r| !["none", "hook_z"].contains(r)) {
            return Err(bad(
                "reshape_activations",
                format!("{other:?} is not known; known are none and hook_z"),
            ));
        }
        let hook = place.hook_in(metadata.get("hook_name").and_then(Value::as_str).map(String::from))?;
        if metadata.get("hook_head_index").is_some_and(|h| !h.is_null()) {
            return Err(bad("hook_head_index", "dictionaries on one head of many are not read".into()));
        }
        let cfg = Self { place, path, map, weights, d_in, d_sae, centred, scale, norm, hook };
        cfg.check_dtype()?;
        Ok(cfg)
    }

    /// An error about a key of the settings.
    pub fn error(&self, key: &str, what: impl AsRef<str>) -> Error {
        Error::format(self.path, format!("{key}: {}", what.as_ref()))
    }

    fn check_dtype(&self) -> Result<()> {
        match self.map.get("dtype").and_then(Value::as_str) {
            Some("float64" | "torch.float64") => Err(self.error(
                "dtype",
                "float64: this program computes in float32; save the dictionary in float32 first",
            )),
            _ => Ok(()),
        }
    }

    /// Refuses keys that might mean something.
    fn check_keys(&self, own: &[&str]) -> Result<()> {
        let known = |key: &str| [COMMON, TRAINING, own].iter().any(|keys| keys.contains(&key));
        match self.map.keys().find(|k| !known(k)) {
            Some(key) if !self.place.facts.lenient => Err(self.error(
                key,
                "is not known and may change what the dictionary computes; ignore unknown keys with --lenient",
            )),
            _ => Ok(()),
        }
    }

    /// A whole number.
    pub fn count(&self, key: &str) -> Result<usize> {
        let value = self.map.get(key).and_then(Value::as_f64);
        match value {
            Some(v) if v >= 1.0 && v.fract() == 0.0 && v < 4e9 => Ok(v as usize),
            _ => {
                Err(self.error(key, format!("has to be a positive whole number, is {:?}", self.map.get(key))))
            }
        }
    }

    /// A flag, off where it is missing.
    pub fn flag(&self, key: &str) -> bool {
        self.map.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Encoder, decoder and biases as parts; `d_out` is the width of the decoder.
    fn parts(&self, d_out: usize) -> Result<Vec<Part>> {
        let (w, d, s) = (&self.weights, self.d_in, self.d_sae);
        if w.has("scaling_factor")
            && shaped(w, "scaling_factor", &[s])?.iter().any(|v| (v - 1.0).abs() > 1e-5)
        {
            return Err(
                w.error("scaling_factor", "factors of a finetuned SAE other than 1 have no form here")
            );
        }
        Ok(vec![
            Part::scaled(w, "W_enc", "W_E", &[d, s], self.scale),
            Part::plain(w, "b_enc", "b_E", &[s]),
            Part::scaled(w, "W_dec", "W_D", &[s, d_out], 1.0 / self.scale),
            Part::scaled(w, "b_dec", "b_D", &[d_out], 1.0 / self.scale),
        ])
    }

    fn threshold(&self) -> Result<Part> {
        let (w, s) = (&self.weights, self.d_sae);
        // What is below 0 passes nothing that a ReLU would not.
        let clamp = |v: Vec<f32>| v.into_iter().map(|t| t.max(0.0)).collect();
        let exp = |v: Vec<f32>| v.into_iter().map(f32::exp).collect();
        Ok(match w.has("threshold") {
            true => Part::mapped(w, "threshold", THRESHOLD, Order::Stored, &[s], clamp),
            false => Part::mapped(w, "log_threshold", THRESHOLD, Order::Stored, &[s], exp),
        })
    }

    fn settings(&self, act_fn: &str) -> Value {
        let mut settings = plain_sae(self.d_in, self.d_sae, act_fn, &self.hook, &self.hook);
        settings["norm_activation"] = json!(self.norm);
        if self.centred {
            settings["apply_b_dec_to_input"] = json!(true);
        }
        settings
    }

    fn sae(&self, act_fn: &str, own: &[&str]) -> Result<Reading> {
        self.check_keys(own)?;
        let mut parts = self.parts(self.d_in)?;
        if act_fn == "jumprelu" {
            parts.push(self.threshold()?);
        }
        Ok(Reading::new("saelens", self.settings(act_fn), parts))
    }

    /// Activations times decoder norms are those of unit decoder rows.
    fn top_k(&self, act_fn: &str) -> Result<Reading> {
        let mut reading = self.sae(act_fn, &["k", "rescale_acts_by_decoder_norm"])?;
        reading.settings["top_k"] = json!(self.count("k")?);
        // Training checkpoints of batchtopk rescale unless told not to.
        let default = act_fn == "batchtopk";
        reading.unit_norm =
            self.map.get("rescale_acts_by_decoder_norm").and_then(Value::as_bool).unwrap_or(default);
        if reading.unit_norm {
            reading.settings["sparsity_include_decoder_norm"] = json!(true);
        }
        reading.running = self.running()?;
        Ok(reading)
    }

    fn matryoshka(&self) -> Result<Reading> {
        self.check_keys(&["k", "rescale_acts_by_decoder_norm", "matryoshka_widths"])?;
        let widths = self.map.get("matryoshka_widths").and_then(Value::as_array);
        let mut widths: Vec<u64> = widths.into_iter().flatten().filter_map(Value::as_u64).collect();
        // The library lets the last width be all features.
        if let Some(last) = widths.last_mut() {
            *last = self.d_sae as u64;
        }
        let mut settings = self.settings("batchtopk");
        let rescaled = self.map.get("rescale_acts_by_decoder_norm").and_then(Value::as_bool).unwrap_or(true);
        settings["sae_type"] = json!("matryoshka");
        settings["widths"] = json!(widths);
        settings["top_k"] = json!(self.count("k")?);
        settings["sparsity_include_decoder_norm"] = json!(rescaled);
        let mut reading = Reading::new("saelens", settings, self.parts(self.d_in)?);
        reading.unit_norm = rescaled;
        reading.running = self.running()?;
        Ok(reading)
    }

    /// The threshold that a training checkpoint of a selection over the batch has learned.
    fn running(&self) -> Result<Option<f32>> {
        let stored = self.weights.has("topk_threshold");
        Ok(if stored { Some(self.weights.scalar("topk_threshold")? as f32) } else { None })
    }

    fn gated(&self) -> Result<Reading> {
        self.check_keys(&[])?;
        let (w, d, s) = (&self.weights, self.d_in, self.d_sae);
        let mut settings = self.settings("relu");
        settings["sae_type"] = json!("gated");
        settings["apply_b_dec_to_input"] = json!(self.centred);
        let parts = vec![
            Part::scaled(w, "W_enc", "W_E", &[d, s], self.scale),
            Part::plain(w, "b_gate", "b_gate", &[s]),
            Part::plain(w, "r_mag", "r_mag", &[s]),
            Part::plain(w, "b_mag", "b_mag", &[s]),
            Part::scaled(w, "W_dec", "W_D", &[s, d], 1.0 / self.scale),
            Part::scaled(w, "b_dec", "b_D", &[d], 1.0 / self.scale),
        ];
        Ok(Reading::new("saelens", settings, parts))
    }

    fn transcoder(&self, act_fn: &str, skip: bool) -> Result<Reading> {
        self.check_keys(&["d_out"])?;
        if self.centred {
            return Err(self.error(
                "apply_b_dec_to_input",
                "is true, which a transcoder cannot be: b_dec is no point among its inputs",
            ));
        }
        if self.norm != "inference" || self.scale != 1.0 {
            return Err(self.error(
                "normalize_activations",
                "a transcoder whose output is scaled back by figures of its input has no form here; only none is read",
            ));
        }
        let d_out = self.count("d_out")?;
        let metadata = self.map.get("metadata").and_then(|m| m.get("hook_name_out"));
        let out = self.place.hook_out(metadata.and_then(Value::as_str).map(String::from))?;
        let mut settings = plain_sae(self.d_in, self.d_sae, act_fn, &self.hook, &out);
        let mut parts = self.parts(d_out)?;
        if d_out != self.d_in {
            settings["d_out"] = json!(d_out);
        }
        if skip {
            settings["use_skip_connection"] = json!(true);
            parts.push(Part::turned(&self.weights, "W_skip", "W_skip", [d_out, self.d_in], 1.0));
        }
        if act_fn == "jumprelu" {
            parts.push(self.threshold()?);
        }
        Ok(Reading::new("saelens", settings, parts))
    }

    fn matching_pursuit(&self) -> Result<Reading> {
        self.check_keys(&["residual_threshold", "max_iterations", "stop_on_duplicate_support"])?;
        if self.scale != 1.0 {
            return Err(self.error(
                "normalize_activations",
                "a factor cannot be folded into an encoder that is its decoder",
            ));
        }
        let (w, d, s) = (&self.weights, self.d_in, self.d_sae);
        let most = self.map.get("max_iterations").and_then(Value::as_u64).unwrap_or(d as u64);
        let settings = json!({
            "sae_type": "matching_pursuit",
            "d_model": d,
            "expansion_factor": expansion(d, s),
            "act_fn": "relu",
            "norm_activation": self.norm,
            "sparsity_include_decoder_norm": false,
            "use_decoder_bias": self.centred,
            "hook_point_in": self.hook,
            "hook_point_out": self.hook,
            "residual_threshold": self.map.get("residual_threshold").and_then(Value::as_f64).unwrap_or(0.01),
            "max_iterations": most,
            "stop_on_duplicate_support": self.map.get("stop_on_duplicate_support").and_then(Value::as_bool).unwrap_or(true),
        });
        let mut parts = vec![Part::plain(w, "W_dec", "W_D", &[s, d])];
        if self.centred {
            parts.push(Part::plain(w, "b_dec", "b_D", &[d]));
        }
        Ok(Reading::new("saelens", settings, parts))
    }

    /// What the files say beside the function.
    fn about(&self, about: About) -> About {
        let metadata = self.map.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        let dtype = self.map.get("dtype").and_then(Value::as_str).and_then(|d| d.parse::<DTypeName>().ok());
        let name = metadata.get("model_name").and_then(Value::as_str).map(String::from);
        About {
            model_name: self.place.facts.model_name.clone().or(name),
            dtype: dtype.unwrap_or_default(),
            l0: metadata.get("l0").and_then(Value::as_f64).or(self.place.facts.l0),
            explained_variance: self.place.facts.explained_variance,
            metadata,
            ..about
        }
    }
}
