//! Gemma 1, 2 and 3: embeddings scaled by √d_model, gains stored less 1, tied unembedding; 2 and 3 add norms on the
//! sublayers' outputs and sliding windows, 2 soft caps, 3 a norm on queries and keys and a second rotary base. Of the
//! sizes of 3 that also see images the part for text is read.

use super::{Family, Layout, llama};
use crate::{
    Result,
    lm::{
        architecture::{Activation, Architecture, Positions, QkNorm, Rotary, RotaryScaling},
        config::Config,
    },
};
use serde_json::{Value, json};

pub(super) const GEMMA: Family = Family { model_types: &["gemma"], layout: llama::LAYOUT, read: gemma };
pub(super) const GEMMA2: Family = Family { model_types: &["gemma2"], layout: LAYOUT, read: gemma2 };
pub(super) const GEMMA3: Family = Family { model_types: &["gemma3_text"], layout: LAYOUT, read: gemma3 };

/// Gemma 3 from 4B on: the settings of the part for text lie in those of the whole, its tensors under one of two names.
pub(super) const GEMMA3_IMAGES: Family = Family {
    model_types: &["gemma3"],
    layout: Layout { base: "language_model.model.", later_base: "model.language_model.", ..LAYOUT },
    read: text_part,
};

const LAYOUT: Layout = Layout {
    ln1_post: "post_attention_layernorm",
    ln2: "pre_feedforward_layernorm",
    ln2_post: "post_feedforward_layernorm",
    ..llama::LAYOUT
};

fn gemma(c: &Config<'_>) -> Result<Architecture> {
    let mut a = common(c)?;
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 10_000.0)?]);
    Ok(a)
}

/// All but positions.
fn common(c: &Config<'_>) -> Result<Architecture> {
    let mut a = c.modern()?;
    // Early configurations say "gelu" and mean the tanh form: what the models were trained with.
    a.activation = Activation::GeluTanh;
    a.biases.qkv = c.flag_or("attention_bias", false)?;
    a.biases.o = a.biases.qkv;
    a.tied = c.flag_or("tie_word_embeddings", true)?;
    a.gain_offset = 1.0;
    a.embed_scale = (a.d_model as f32).sqrt();
    Ok(a)
}

/// What 2 and 3 share. `full_every`: which layers see everything when `layer_types` does not say.
fn with_windows(c: &Config<'_>, full_every: usize) -> Result<(Architecture, Vec<bool>)> {
    let mut a = common(c)?;
    a.post_norm = true;
    let width = c.number_or("query_pre_attn_scalar", 256.0)?;
    a = a.with_score_scale(width.powf(-0.5) as f32);
    a.score_cap = c.number_or("attn_logit_softcapping", 0.0)? as f32;
    a.logit_cap = c.number_or("final_logit_softcapping", 0.0)? as f32;
    let window = c.size("sliding_window")?;
    let sliding = c.windows(&mut a, window, |i| (i + 1) % full_every != 0)?;
    Ok((a, sliding))
}

fn gemma2(c: &Config<'_>) -> Result<Architecture> {
    let mut a = with_windows(c, 2)?.0;
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 10_000.0)?]);
    Ok(a)
}

fn gemma3(c: &Config<'_>) -> Result<Architecture> {
    let period = match c.size_or_none("sliding_window_pattern")? {
        Some(n) => n,
        None => c.size_or_none("_sliding_window_pattern")?.unwrap_or(6),
    };
    let (mut a, sliding) = with_windows(c, period)?;
    a.qk_norm = QkNorm::Head;
    let global = match c.rotary_of("full_attention", a.d_head, 1_000_000.0)? {
        Some(global) => global,
        None => c.rotary(a.d_head, 1_000_000.0)?,
    };
    let base = c.number_or("rope_local_base_freq", 10_000.0)?;
    let plain = Rotary { dim: a.d_head, base, scaling: RotaryScaling::None, adjacent: false };
    let local = c.rotary_of("sliding_attention", a.d_head, base)?.unwrap_or(plain);
    a.positions = Positions::Rotary(vec![global, local]);
    a.layers.iter_mut().zip(sliding).for_each(|(layer, slides)| layer.rotary = slides.into());
    Ok(a)
}

/// What the published settings leave out, as transformers fills it in.
const DEFAULTS: [(&str, u64); 9] = [
    ("vocab_size", 262_208),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
    ("max_position_embeddings", 131_072),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("sliding_window", 4096),
];

fn text_part(c: &Config<'_>) -> Result<Architecture> {
    let Some(Value::Object(mut text)) = c.json().get("text_config").cloned() else {
        return Err(c.error("text_config", "missing; it describes the part for text"));
    };
    for (key, value) in DEFAULTS {
        text.entry(key).or_insert_with(|| json!(value));
    }
    if let Some(tied) = c.json().get("tie_word_embeddings") {
        text.entry("tie_word_embeddings").or_insert_with(|| tied.clone());
    }
    gemma3(&Config::new(c.path(), &Value::Object(text)))
}
