//! Falcon as in its 7B model: parallel blocks with one LayerNorm, many query heads over one key-value head, rotary
//! positions. The grouped form of 40B and later and the ALiBi form are refused.

use super::{Family, Layout, Qkv};
use crate::{
    Result,
    lm::{
        architecture::{Activation, Architecture, Biases, Positions},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["falcon"],
    layout: Layout {
        base: "transformer.",
        later_base: "",
        embed: "word_embeddings",
        pos_embed: "",
        ln_final: "ln_f",
        unembed: "lm_head",
        block: "h.{}.",
        ln1: "input_layernorm",
        qkv: Qkv::Blocks("self_attention.query_key_value"),
        q_norm: "",
        k_norm: "",
        o: "self_attention.dense",
        ln1_post: "",
        ln2: "post_attention_layernorm",
        mlp_gate: "",
        mlp_in: "mlp.dense_h_to_4h",
        mlp_out: "mlp.dense_4h_to_h",
        ln2_post: "",
        conv1d: false,
    },
    read,
};

fn read(c: &Config<'_>) -> Result<Architecture> {
    for (key, default, supported) in
        [("new_decoder_architecture", false, false), ("alibi", false, false), ("multi_query", true, true)]
    {
        if c.flag_or(key, default)? != supported {
            return Err(c.error(key, format!("only {supported} is supported for falcon")));
        }
    }
    let (d_model, n_heads) = (c.size("hidden_size")?, c.size("num_attention_heads")?);
    let mut a = Architecture::new(d_model, c.size("num_hidden_layers")?, n_heads, d_model / n_heads);
    a.n_kv_heads = 1;
    a.d_mlp = c.size_or_none("ffn_hidden_size")?.unwrap_or(4 * d_model);
    a.d_vocab = c.size("vocab_size")?;
    a.n_ctx = c.size_or_none("max_position_embeddings")?.unwrap_or(2048);
    a.norm_eps = c.number_or("layer_norm_epsilon", 1e-5)? as f32;
    a.activation = if c.has("activation") { c.activation("activation")? } else { Activation::GeluErf };
    let bias = c.flag_or("bias", false)?;
    a.biases = Biases { qkv: bias, o: bias, mlp: bias, unembed: false };
    a.parallel = c.flag_or("parallel_attn", true)?;
    a.shared_norm = a.parallel;
    a.tied = c.flag_or("tie_word_embeddings", true)?;
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 10_000.0)?]);
    Ok(a)
}
