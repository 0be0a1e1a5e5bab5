//! Llama and models of its form: RMSNorm, rotary positions, grouped-query attention, gated MLP.

use super::{Family, Layout, Qkv};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases, Positions},
        config::Config,
    },
};

/// Names shared by most families since.
pub(super) const LAYOUT: Layout = Layout {
    base: "model.",
    later_base: "",
    embed: "embed_tokens",
    pos_embed: "",
    ln_final: "norm",
    unembed: "lm_head",
    block: "layers.{}.",
    ln1: "input_layernorm",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    o: "self_attn.o_proj",
    ln1_post: "",
    ln2: "post_attention_layernorm",
    mlp_gate: "mlp.gate_proj",
    mlp_in: "mlp.up_proj",
    mlp_out: "mlp.down_proj",
    ln2_post: "",
    conv1d: false,
};

pub(super) const FAMILY: Family = Family { model_types: &["llama"], layout: LAYOUT, read };

pub(super) fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = c.modern()?;
    a.activation = c.activation("hidden_act")?;
    let attention = c.flag_or("attention_bias", false)?;
    a.biases = Biases { qkv: attention, o: attention, mlp: c.flag_or("mlp_bias", false)?, unembed: false };
    a.positions = Positions::Rotary(vec![c.rotary(a.d_head, 10_000.0)?]);
    Ok(a)
}
