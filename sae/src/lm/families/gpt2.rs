//! GPT-2: learned positions, LayerNorm, fused q|k|v stored `[in, out]`, tied unembedding.

use super::{Family, Layout, Qkv};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases},
        config::Config,
    },
};

pub(super) const LAYOUT: Layout = Layout {
    base: "transformer.",
    later_base: "",
    embed: "wte",
    pos_embed: "wpe",
    ln_final: "ln_f",
    unembed: "lm_head",
    block: "h.{}.",
    ln1: "ln_1",
    qkv: Qkv::Blocks("attn.c_attn"),
    q_norm: "",
    k_norm: "",
    o: "attn.c_proj",
    ln1_post: "",
    ln2: "ln_2",
    mlp_gate: "",
    mlp_in: "mlp.c_fc",
    mlp_out: "mlp.c_proj",
    ln2_post: "",
    conv1d: true,
};

pub(super) const FAMILY: Family = Family { model_types: &["gpt2"], layout: LAYOUT, read };

/// Sizes, norm and activation under the names that GPT-2 gave them.
pub(super) fn sizes(c: &Config<'_>) -> Result<Architecture> {
    let (d_model, n_heads) = (c.size("n_embd")?, c.size("n_head")?);
    let mut a = Architecture::new(d_model, c.size("n_layer")?, n_heads, d_model / n_heads);
    a.d_mlp = c.size_or_none("n_inner")?.unwrap_or(4 * d_model);
    a.d_vocab = c.size("vocab_size")?;
    a.n_ctx = c.size("n_positions")?;
    a.norm_eps = c.number_or("layer_norm_epsilon", 1e-5)? as f32;
    a.activation = c.activation("activation_function")?;
    Ok(a)
}

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = sizes(c)?;
    a.biases = Biases::BLOCKS;
    a.tied = c.flag_or("tie_word_embeddings", true)?;
    if !c.flag_or("scale_attn_weights", true)? {
        a = a.with_score_scale(1.0);
    }
    if c.flag_or("scale_attn_by_inverse_layer_idx", false)? {
        a.layers.iter_mut().enumerate().for_each(|(i, l)| l.scale /= (i + 1) as f32);
    }
    Ok(a)
}
