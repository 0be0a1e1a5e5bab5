//! Presents a GGUF file as a Hugging Face model: its tensors under Hugging Face names and in Hugging Face layouts. One table
//! per architecture; what llama.cpp's converter rearranged is put back. The configuration is made in `config`.

use super::{Gguf, config};
use crate::{Error, Result, lm::weights::WeightSource};
use rayon::prelude::*;
use serde_json::Value;
use std::{
    collections::BTreeMap,
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
        config: config::llama,
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
        config: config::gpt2,
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
        config: config::gpt_neox,
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
