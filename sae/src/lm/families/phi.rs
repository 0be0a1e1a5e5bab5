//! Phi 1, 1.5 and 2: parallel blocks with one LayerNorm, partial rotary, biases everywhere, the unembedding included.

use super::{Family, Layout, llama};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases, NormKind, Positions},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["phi"],
    layout: Layout {
        ln_final: "final_layernorm",
        o: "self_attn.dense",
        ln2: "",
        mlp_gate: "",
        mlp_in: "mlp.fc1",
        mlp_out: "mlp.fc2",
        ..llama::LAYOUT
    },
    read,
};

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = c.modern()?;
    a.norm = NormKind::Layer;
    a.norm_eps = c.number_or("layer_norm_eps", 1e-5)? as f32;
    (a.parallel, a.shared_norm, a.gated) = (true, true, false);
    a.activation = c.activation("hidden_act")?;
    a.biases = Biases { unembed: true, ..Biases::BLOCKS };
    if c.flag_or("qk_layernorm", false)? {
        return Err(c.error("qk_layernorm", "true is not supported for phi"));
    }
    let dim = (a.d_head as f64 * c.partial_rotary(0.5)?) as usize;
    a.positions = Positions::Rotary(vec![c.rotary(dim, 10_000.0)?]);
    Ok(a)
}
