//! Gemma 1, 2 and 3 (text): embeddings scaled by √d_model, gains stored less 1, tied unembedding; 2 and 3 add norms on the
//! sublayers' outputs and sliding windows, 2 soft caps, 3 a norm on queries and keys and a second rotary base.

use super::{Family, Layout, llama};
use crate::{
    Result,
    lm::{
        architecture::{Activation, Architecture, Positions, QkNorm, Rotary, RotaryScaling},
        config::Config,
    },
};

pub(super) const GEMMA: Family = Family { model_types: &["gemma"], layout: llama::LAYOUT, read: gemma };
pub(super) const GEMMA2: Family = Family { model_types: &["gemma2"], layout: LAYOUT, read: gemma2 };
pub(super) const GEMMA3: Family = Family { model_types: &["gemma3_text"], layout: LAYOUT, read: gemma3 };

const LAYOUT: Layout = Layout {
    ln1_post: "post_attention_layernorm",
    ln2: "pre_feedforward_layernorm",
    ln2_post: "post_feedforward_layernorm",
    ..llama::LAYOUT
};

fn gemma(c: &Config<'_>) -> Result<Architecture> {
    let mut a = c.modern()?;
    // Early configurations say "gelu" and mean the tanh form: what the models were trained with.
    a.activation = Activation::GeluTanh;
    a.biases.qkv = c.flag_or("attention_bias", false)?;
    a.biases.o = a.biases.qkv;
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 10_000.0)?]);
    a.tied = c.flag_or("tie_word_embeddings", true)?;
    a.gain_offset = 1.0;
    a.embed_scale = (a.d_model as f32).sqrt();
    Ok(a)
}

/// What 2 and 3 share. `full_every`: which layers see everything when `layer_types` does not say.
fn with_windows(c: &Config<'_>, full_every: usize) -> Result<(Architecture, Vec<bool>)> {
    let mut a = gemma(c)?;
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
    Ok(with_windows(c, 2)?.0)
}

fn gemma3(c: &Config<'_>) -> Result<Architecture> {
    let period = match c.size_or_none("sliding_window_pattern")? {
        Some(n) => n,
        None => c.size_or_none("_sliding_window_pattern")?.unwrap_or(6),
    };
    let (mut a, sliding) = with_windows(c, period)?;
    a.qk_norm = QkNorm::Head;
    let base = c.number_or("rope_local_base_freq", 10_000.0)?;
    let local = Rotary { dim: a.d_head, base, scaling: RotaryScaling::None, adjacent: false };
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 1_000_000.0)?, local]);
    a.layers.iter_mut().zip(sliding).for_each(|(layer, slides)| layer.rotary = slides.into());
    Ok(a)
}
