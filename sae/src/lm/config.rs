//! Reads values out of a Hugging Face `config.json`; every error names the file and the key.

use super::architecture::{Activation, Architecture, NormKind, Positions, Rotary, RotaryScaling};
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Largest width, count or vocabulary believed. Products of two stay far inside `usize`.
const LARGEST: u64 = 1 << 26;

/// A configuration with the path to name in errors.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl<'a> Config<'a> {
    /// Wraps a parsed `config.json`.
    pub fn new(path: &'a Path, json: &'a Value) -> Self {
        Self { path, json }
    }

    /// The file.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// What is in it.
    pub fn json(&self) -> &'a Value {
        self.json
    }

    /// The value of a key; `null` counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// An error about a key.
    pub fn error(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::format(self.path, format!("key {key}: {what}"))
    }

    fn typed<T>(&self, key: &str, kind: &str, cast: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key)
            .map(|v| cast(v).ok_or_else(|| self.error(key, format!("{v}, expected {kind}"))))
            .transpose()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    /// A positive integer, if there.
    pub fn size_or_none(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a positive integer below 2^26", |v| {
            v.as_u64().filter(|n| (1..=LARGEST).contains(n)).map(|n| n as usize)
        })
    }
    /// A positive integer.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.size_or_none(key)?)
    }
    /// A finite number, if there.
    pub fn number_or_none(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|n| n.is_finite()))
    }
    /// A finite number or this default.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number_or_none(key)?.unwrap_or(default))
    }
    /// A boolean or this default.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }
    /// A string.
    pub fn text(&self, key: &str) -> Result<&'a str> {
        self.required(key, self.typed(key, "a string", Value::as_str)?)
    }
    /// A list of strings, if there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, "a list of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// An activation function by its Hugging Face name.
    pub fn activation(&self, key: &str) -> Result<Activation> {
        match self.text(key)? {
            "gelu" => Ok(Activation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            other => Err(self.error(key, format!("{other:?} is not one of gelu, gelu_new, silu, relu"))),
        }
    }

    /// What newer families share: names of the sizes, RMSNorm, full rotary positions, gated MLP, no biases.
    /// A family starts from this and overrides what differs.
    pub fn modern(&self) -> Result<Architecture> {
        let d_model = self.size("hidden_size")?;
        let n_heads = self.size("num_attention_heads")?;
        let n_layers = self.size("num_hidden_layers")?;
        let d_head = match self.size_or_none("head_dim")? {
            Some(d) => d,
            None => d_model / n_heads,
        };
        let mut base = Architecture::new(d_model, n_layers, n_heads, d_head);
        base.n_kv_heads = self.size_or_none("num_key_value_heads")?.unwrap_or(n_heads);
        base.d_mlp = self.size("intermediate_size")?;
        base.d_vocab = self.size("vocab_size")?;
        base.n_ctx = self.size("max_position_embeddings")?;
        base.norm = NormKind::Rms;
        base.norm_eps = self.number_or("rms_norm_eps", 1e-6)? as f32;
        base.gated = true;
        base.tied = self.flag_or("tie_word_embeddings", false)?;
        Ok(base)
    }

    /// Rotary positions over `dim` coordinates of each head.
    pub fn rotary(&self, dim: usize, default_base: f64) -> Result<Rotary> {
        let nested = self.get("rope_parameters").map(|json| Config { path: self.path, json });
        let base = match self.number_or_none("rope_theta")? {
            Some(base) => base,
            None => nested.map_or(Ok(default_base), |c| c.number_or("rope_theta", default_base))?,
        };
        if base <= 0.0 {
            return Err(self.error("rope_theta", "must be positive"));
        }
        if nested.is_some_and(|c| c.json.as_object().is_some_and(|map| map.values().any(Value::is_object))) {
            return Err(
                self.error("rope_parameters", "differ by kind of layer, which this family is not known for")
            );
        }
        let scaling = match self.get("rope_scaling").or(self.get("rope_parameters")) {
            Some(json) => Config { path: self.path, json }.scaling()?,
            None => RotaryScaling::None,
        };
        Ok(Rotary { dim, base, scaling, adjacent: false })
    }

    /// Those of one kind of layer, where newer files tell them apart.
    pub fn rotary_of(&self, kind: &str, dim: usize, default_base: f64) -> Result<Option<Rotary>> {
        let Some(json) = self.get("rope_parameters").and_then(|p| p.get(kind)).filter(|v| v.is_object())
        else {
            return Ok(None);
        };
        let inner = Config { path: self.path, json };
        Ok(Some(Rotary { scaling: inner.scaling()?, ..inner.rotary(dim, default_base)? }))
    }

    /// Share of each head's coordinates that turn; newer files have it beside the other rotary parameters.
    pub fn partial_rotary(&self, default: f64) -> Result<f64> {
        let nested = self.get("rope_parameters").map(|json| Config { path: self.path, json });
        let inner = nested.map_or(Ok(default), |c| c.number_or("partial_rotary_factor", default))?;
        self.number_or("partial_rotary_factor", inner)
    }

    fn scaling(&self) -> Result<RotaryScaling> {
        let key = if self.get("rope_type").is_some() { "rope_type" } else { "type" };
        let positive = |key: &str| {
            let n = self.required(key, self.number_or_none(key)?)?;
            if n > 0.0 { Ok(n) } else { Err(self.error(key, "must be positive")) }
        };
        match self.typed(key, "a string", Value::as_str)? {
            // Dynamic scaling begins beyond the trained context, which the forward refuses anyway.
            None | Some("default" | "dynamic") => Ok(RotaryScaling::None),
            Some("linear") => Ok(RotaryScaling::Linear { factor: positive("factor")? }),
            Some("llama3") => Ok(RotaryScaling::Llama3 {
                factor: positive("factor")?,
                low: positive("low_freq_factor")?,
                high: positive("high_freq_factor")?,
                original_ctx: positive("original_max_position_embeddings")?,
            }),
            Some(other) => Err(Error::Unsupported {
                what: format!("{}: rope scaling {other:?}", self.path.display()),
                why: "only default, dynamic, linear and llama3 are".into(),
            }),
        }
    }

    /// Marks layers as sliding-window layers: by `layer_types` where the file has it, else by `otherwise(layer)`.
    pub fn windows(
        &self,
        a: &mut Architecture,
        window: usize,
        otherwise: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let types = self.texts("layer_types")?;
        if types.as_ref().is_some_and(|t| t.len() != a.n_layers) {
            return Err(self.error("layer_types", format!("expected {} entries", a.n_layers)));
        }
        let sliding = |i: usize| match &types {
            Some(t) => match t[i] {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => Err(self.error("layer_types", format!("{other:?} is not a known kind of layer"))),
            },
            None => Ok(otherwise(i)),
        };
        let marks = (0..a.n_layers).map(sliding).collect::<Result<Vec<bool>>>()?;
        for (layer, &slides) in a.layers.iter_mut().zip(&marks) {
            layer.window = if slides { window } else { 0 };
        }
        Ok(marks)
    }

    /// Refuses combinations no forward can run.
    pub fn check(&self, a: &Architecture) -> Result<()> {
        let bad = |what: String| Err(Error::format(self.path, what));
        if !a.n_heads.is_multiple_of(a.n_kv_heads) {
            return bad(format!("{} heads cannot share {} key-value heads", a.n_heads, a.n_kv_heads));
        }
        if a.d_head == 0 {
            return bad(format!("{} heads in a model of width {}", a.n_heads, a.d_model));
        }
        let wrong = |t: &&Rotary| t.dim == 0 || t.dim > a.d_head || t.dim % 2 == 1;
        if let Positions::Rotary(tables) = &a.positions
            && let Some(t) = tables.iter().find(wrong)
        {
            return bad(format!("{} rotary coordinates of {} a head", t.dim, a.d_head));
        }
        Ok(())
    }
}
