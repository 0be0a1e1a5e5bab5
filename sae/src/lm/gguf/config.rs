//! Makes the `config.json` of a Hugging Face model out of a GGUF file's metadata: one function per architecture, and rotary
//! scaling, which a file states in keys or as a tensor of divisors.

use super::Gguf;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::f64::consts::TAU;

/// Reads keys of one architecture's section.
struct Section<'a> {
    file: &'a Gguf,
    arch: &'static str,
}

impl<'a> Section<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }
    fn count(&self, key: &str) -> Result<usize> {
        let n = self.file.need(&self.key(key), Gguf::count)?;
        if n == 0 { Err(self.file.wrong(&self.key(key), "a positive integer")) } else { Ok(n) }
    }
    fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.file.count(&self.key(key))?.filter(|&n| n > 0).unwrap_or(default))
    }
    /// Metadata floats are f32; the shortest decimal of it is the number that was meant (1e-5, not 9.99999974e-6).
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let x = self.file.number(&self.key(key))?;
        Ok(x.map(|x| format!("{}", x as f32).parse().unwrap_or(x)))
    }
    fn need(&self, key: &str) -> Result<f64> {
        let missing =
            || Error::format(self.file.path(), format!("metadata key {} is missing", self.key(key)));
        self.number(key)?.ok_or_else(missing)
    }

    /// What every architecture has in common.
    fn base(&self, model_type: &str) -> Result<(Value, usize, usize)> {
        let (width, heads) = (self.count("embedding_length")?, self.count("attention.head_count")?);
        let embedding = self.file.tensor("token_embd.weight").ok_or_else(|| Error::Tensor {
            path: self.file.path().into(),
            name: "token_embd.weight".into(),
            what: "missing".into(),
        })?;
        let id = |key: &str| -> Result<Value> {
            Ok(self.file.count(&format!("tokenizer.ggml.{key}_token_id"))?.into())
        };
        let config = json!({
            "model_type": model_type,
            "vocab_size": embedding.shape[0],
            "tie_word_embeddings": self.file.tensor("output.weight").is_none(),
            "bos_token_id": id("bos")?,
            "eos_token_id": id("eos")?,
        });
        Ok((config, width, heads))
    }
}

/// The entries of two objects.
fn with(base: Value, more: Value) -> Value {
    match (base, more) {
        (Value::Object(mut base), Value::Object(more)) => {
            base.extend(more);
            Value::Object(base)
        }
        (base, _) => base,
    }
}

/// `config.json` of this architecture.
pub(super) fn llama(file: &Gguf) -> Result<Value> {
    let s = Section { file, arch: "llama" };
    let (base, width, heads) = s.base("llama")?;
    if s.count_or("expert_count", 0)? > 0 {
        let what = format!("{}: a mixture of experts", file.path().display());
        return Err(Error::Unsupported { what, why: "dense feed-forward layers are".into() });
    }
    let head_dim = s.count_or("attention.key_length", width / heads)?;
    let rotary = s.count_or("rope.dimension_count", head_dim)?;
    if rotary != head_dim {
        let why = format!("rope.dimension_count is {rotary}, a head has {head_dim}");
        return Err(Error::Unsupported { what: format!("{}: partial rotary", file.path().display()), why });
    }
    let context = s.count("context_length")?;
    let theta = s.number("rope.freq_base")?.unwrap_or(10_000.0);
    let more = json!({
        "hidden_size": width,
        "intermediate_size": s.count("feed_forward_length")?,
        "num_hidden_layers": s.count("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": s.count_or("attention.head_count_kv", heads)?,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": s.need("attention.layer_norm_rms_epsilon")?,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(&s, head_dim, theta, context)?,
        "hidden_act": "silu",
        "attention_bias": file.tensor("blk.0.attn_q.bias").is_some(),
        "mlp_bias": file.tensor("blk.0.ffn_up.bias").is_some(),
    });
    Ok(with(base, more))
}

/// `config.json` of this architecture.
pub(super) fn gpt2(file: &Gguf) -> Result<Value> {
    let s = Section { file, arch: "gpt2" };
    let (base, width, heads) = s.base("gpt2")?;
    let context = s.count("context_length")?;
    let more = json!({
        "n_embd": width,
        "n_layer": s.count("block_count")?,
        "n_head": heads,
        "num_attention_heads": heads,
        "n_positions": context,
        "n_ctx": context,
        "n_inner": s.count_or("feed_forward_length", 4 * width)?,
        "layer_norm_epsilon": s.need("attention.layer_norm_epsilon")?,
        "activation_function": "gelu_new",
    });
    Ok(with(base, more))
}

/// `config.json` of this architecture.
pub(super) fn gpt_neox(file: &Gguf) -> Result<Value> {
    let s = Section { file, arch: "gptneox" };
    let (base, width, heads) = s.base("gpt_neox")?;
    let head_dim = width / heads;
    let context = s.count("context_length")?;
    let theta = s.number("rope.freq_base")?.unwrap_or(10_000.0);
    let more = json!({
        "hidden_size": width,
        "intermediate_size": s.count("feed_forward_length")?,
        "num_hidden_layers": s.count("block_count")?,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "layer_norm_eps": s.need("attention.layer_norm_epsilon")?,
        "rotary_pct": s.count_or("rope.dimension_count", head_dim)? as f64 / head_dim as f64,
        "rotary_emb_base": theta,
        "use_parallel_residual": file.flag("gptneox.use_parallel_residual")?.unwrap_or(true),
        "hidden_act": "gelu",
        "attention_bias": file.tensor("blk.0.attn_qkv.bias").is_some(),
    });
    Ok(with(base, more))
}

/// `rope_scaling` of a Hugging Face configuration, from the section's keys or from the tensor of frequency divisors.
fn rope_scaling(s: &Section<'_>, head_dim: usize, theta: f64, context: usize) -> Result<Value> {
    if s.file.tensor("rope_freqs.weight").is_some() {
        let (_, divisors) = s.file.f32("rope_freqs.weight")?;
        return Ok(scaling_of_divisors(&divisors, head_dim, theta, context));
    }
    let factor = match s.number("rope.scaling.factor")? {
        None => s.number("rope.scale_linear")?,
        factor => factor,
    };
    let kind = s.file.text(&s.key("rope.scaling.type"))?;
    let original = s.count_or("rope.scaling.original_context_length", context)?;
    Ok(match (kind, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => Value::Null,
        (None | Some("linear"), Some(1.0)) => Value::Null,
        (None | Some("linear"), Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
        (Some(other), factor) => json!({
            "rope_type": other,
            "factor": factor,
            "original_max_position_embeddings": original,
        }),
    })
}

/// Divisors of the rotary frequencies as configuration: Llama 3's rule when it gives these numbers, otherwise the general
/// form that lists them.
fn scaling_of_divisors(divisors: &[f32], head_dim: usize, theta: f64, context: usize) -> Value {
    let factor = divisors.iter().copied().fold(1.0f32, f32::max);
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let llama3 = |i: usize| {
        let wavelength = TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
    };
    if divisors.iter().all(|&d| d == 1.0) {
        return Value::Null;
    }
    if divisors.iter().enumerate().all(|(i, &d)| (f64::from(d) - llama3(i)).abs() <= 1e-4 * f64::from(d)) {
        return json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": 8192,
        });
    }
    json!({
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    })
}
