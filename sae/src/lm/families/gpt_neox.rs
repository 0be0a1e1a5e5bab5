//! GPT-NeoX and Pythia: parallel or sequential residual, partial rotary, q/k/v fused head by head.

use super::{Family, Layout, Qkv};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases, NormKind, Positions},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["gpt_neox"],
    layout: Layout {
        base: "gpt_neox.",
        later_base: "",
        embed: "embed_in",
        pos_embed: "",
        ln_final: "final_layer_norm",
        unembed: "embed_out",
        block: "layers.{}.",
        ln1: "input_layernorm",
        qkv: Qkv::PerHead("attention.query_key_value"),
        q_norm: "",
        k_norm: "",
        o: "attention.dense",
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
    let mut a = c.modern()?;
    a.norm = NormKind::Layer;
    a.norm_eps = c.number_or("layer_norm_eps", 1e-5)? as f32;
    a.gated = false;
    a.activation = c.activation("hidden_act")?;
    a.parallel = c.flag_or("use_parallel_residual", true)?;
    let attention = c.flag_or("attention_bias", true)?;
    a.biases = Biases { qkv: attention, o: attention, ..Biases::BLOCKS };
    let share = match c.number_or_none("rotary_pct")? {
        Some(share) => share,
        None => c.partial_rotary(0.25)?,
    };
    let dim = (a.d_head as f64 * share) as usize;
    let base = c.number_or("rotary_emb_base", 10_000.0)?;
    a.positions = Positions::Rotary(vec![c.rotary(dim, base)?]);
    Ok(a)
}
