//! Presents a GGUF file as a Hugging Face model: a `config.json` made from its metadata, and its tensors under Hugging Face
//! names and in Hugging Face layouts. One table per architecture; what llama.cpp's converter rearranged is put back.

use super::Gguf;
use crate::{Error, Result, lm::weights::WeightSource};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    f64::consts::TAU,
    path::{Path, PathBuf},
};

/// How a tensor in the file differs from the Hugging Face one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Not at all.
    Same,
    /// Stored `[out, in]`, Hugging Face has `[in, out]` (GPT-2's Conv1D).
    Transposed,
    /// Query rows with rotary pairs adjacent; Hugging Face keeps the two halves of each head apart.
    RotaryQ,
    /// The same for keys.
    RotaryK,
    /// Rows `[q, k, v] × heads`; Hugging Face has heads × `[q, k, v]`.
    HeadsLast,
}
use Layout::*;

/// One architecture: tensor names without `.weight` and `.bias`.
struct Family {
    /// Value of `general.architecture`.
    arch: &'static str,
    /// Tensors outside the blocks: GGUF name, Hugging Face name.
    whole: &'static [(&'static str, &'static str)],
    /// Prefix of a block's tensors, before the number.
    block: &'static str,
    /// Tensors of a block: GGUF name, Hugging Face name, layout.
    blocks: &'static [(&'static str, &'static str, Layout)],
    /// Makes `config.json` of the metadata.
    config: fn(&Gguf) -> Result<Value>,
}

const FAMILIES: [Family; 3] = [
    Family {
        arch: "llama",
        whole: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")],
        block: "model.layers.",
        blocks: &[
            ("attn_norm", "input_layernorm", Same),
            ("attn_q", "self_attn.q_proj", RotaryQ),
            ("attn_k", "self_attn.k_proj", RotaryK),
            ("attn_v", "self_attn.v_proj", Same),
            ("attn_output", "self_attn.o_proj", Same),
            ("ffn_norm", "post_attention_layernorm", Same),
            ("ffn_gate", "mlp.gate_proj", Same),
            ("ffn_up", "mlp.up_proj", Same),
            ("ffn_down", "mlp.down_proj", Same),
        ],
        config: llama,
    },
    Family {
        arch: "gpt2",
        whole: &[
            ("token_embd", "transformer.wte"),
            ("position_embd", "transformer.wpe"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        block: "transformer.h.",
        blocks: &[
            ("attn_norm", "ln_1", Same),
            ("attn_qkv", "attn.c_attn", Transposed),
            ("attn_output", "attn.c_proj", Transposed),
            ("ffn_norm", "ln_2", Same),
            ("ffn_up", "mlp.c_fc", Transposed),
            ("ffn_down", "mlp.c_proj", Transposed),
        ],
        config: gpt2,
    },
    Family {
        arch: "gptneox",
        whole: &[
            ("token_embd", "gpt_neox.embed_in"),
            ("output_norm", "gpt_neox.final_layer_norm"),
            ("output", "embed_out"),
        ],
        block: "gpt_neox.layers.",
        blocks: &[
            ("attn_norm", "input_layernorm", Same),
            ("attn_qkv", "attention.query_key_value", HeadsLast),
            ("attn_output", "attention.dense", Same),
            ("ffn_norm", "post_attention_layernorm", Same),
            ("ffn_up", "mlp.dense_h_to_4h", Same),
            ("ffn_down", "mlp.dense_4h_to_h", Same),
        ],
        config: gpt_neox,
    },
];

/// Tensors that become configuration or carry nothing.
const NOT_WEIGHTS: [&str; 2] = ["rope_freqs.weight", "attn_rot_embd.weight"];

/// A GGUF file as a source of Hugging Face weights.
pub struct GgufWeights {
    file: Gguf,
    config: Value,
    /// Hugging Face name → name in the file and layout.
    names: BTreeMap<String, (String, Layout)>,
}

impl GgufWeights {
    /// Opens a file.
    ///
    /// # Errors
    /// A malformed file, an unknown architecture (the known ones are listed), a missing metadata key.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(Gguf::open(path)?)
    }

    /// Presents an open file.
    ///
    /// # Errors
    /// As [`GgufWeights::open`].
    pub fn new(file: Gguf) -> Result<Self> {
        let arch = file.need("general.architecture", Gguf::text)?;
        let family = FAMILIES.iter().find(|f| f.arch == arch).ok_or_else(|| Error::Unsupported {
            what: format!("{}: GGUF architecture {arch:?}", file.path().display()),
            why: format!("known are {}", FAMILIES.map(|f| f.arch).join(", ")),
        })?;
        let mut names = BTreeMap::new();
        for t in file.tensors() {
            let (name, layout) = match family.translate(&t.name) {
                Some(found) => found,
                None if NOT_WEIGHTS.iter().any(|n| t.name.ends_with(n)) => continue,
                None => {
                    let what = format!("is not part of the architecture {arch}");
                    return Err(Error::Tensor { path: file.path().into(), name: t.name.clone(), what });
                }
            };
            names.insert(name, (t.name.clone(), layout));
        }
        let config = (family.config)(&file)?;
        Ok(Self { file, config, names })
    }

    /// The file itself.
    pub fn file(&self) -> &Gguf {
        &self.file
    }

    /// Number of heads a rotary or grouped layout is made of.
    fn heads(&self, layout: Layout) -> Option<usize> {
        let key = if layout == RotaryK { "num_key_value_heads" } else { "num_attention_heads" };
        Some(self.config.get(key)?.as_u64()? as usize)
    }
}

impl Family {
    /// Hugging Face name and layout of a tensor in the file.
    fn translate(&self, name: &str) -> Option<(String, Layout)> {
        let (stem, end) = name.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
        if let Some((_, hf)) = self.whole.iter().find(|(gguf, _)| *gguf == stem) {
            return Some((format!("{hf}.{end}"), Same));
        }
        let (number, part) = stem.strip_prefix("blk.")?.split_once('.')?;
        let number: usize = number.parse().ok()?;
        let (_, hf, layout) = self.blocks.iter().find(|(gguf, ..)| *gguf == part)?;
        Some((format!("{}{number}.{hf}.{end}", self.block), *layout))
    }
}

impl WeightSource for GgufWeights {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn config(&self) -> Result<Value> {
        Ok(self.config.clone())
    }

    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let bad = |name: &str, what: String| Error::Tensor {
            path: PathBuf::from(self.file.path()),
            name: name.into(),
            what,
        };
        let (stored, layout) = self.names.get(name).ok_or_else(|| bad(name, "missing".into()))?;
        let (mut shape, values) = self.file.f32(stored)?;
        let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
        let values = match layout {
            Same => values,
            // A Conv1D bias has nothing to transpose.
            Transposed if shape.len() == 1 => values,
            Transposed => {
                shape = vec![cols, rows];
                transpose(&values, rows, cols)
            }
            RotaryQ | RotaryK | HeadsLast => {
                let parts = if *layout == HeadsLast { 3 } else { 2 };
                let heads = self.heads(*layout).filter(|&h| h > 0 && rows % (h * parts) == 0);
                let heads = heads.ok_or_else(|| {
                    bad(stored, format!("its {rows} rows do not divide into the model's heads"))
                })?;
                match layout {
                    HeadsLast => regroup(&values, cols, 1, 3, heads, rows / 3 / heads),
                    _ => regroup(&values, cols, heads, rows / 2 / heads, 2, 1),
                }
            }
        };
        Ok((shape, values))
    }
}

/// `[rows, cols]` → `[cols, rows]`.
fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    if rows > 0 {
        out.par_chunks_mut(rows).enumerate().for_each(|(c, out)| {
            out.iter_mut().enumerate().for_each(|(r, y)| *y = x[r * cols + c]);
        });
    }
    out
}

/// Rows indexed `[a, b, c, d]`, each of `cols` values → the same rows in the order `[a, c, b, d]`.
fn regroup(x: &[f32], cols: usize, a: usize, b: usize, c: usize, d: usize) -> Vec<f32> {
    let run = d * cols;
    let mut out = Vec::with_capacity(x.len());
    for i in 0..a {
        for k in 0..c {
            for j in 0..b {
                out.extend_from_slice(&x[((i * b + j) * c + k) * run..][..run]);
            }
        }
    }
    out
}

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

fn llama(file: &Gguf) -> Result<Value> {
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

fn gpt2(file: &Gguf) -> Result<Value> {
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

fn gpt_neox(file: &Gguf) -> Result<Value> {
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
