//! StableLM: Llama's blocks with LayerNorm and partial rotary positions; sequential, or parallel under one norm.

use super::{Family, llama};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases, NormKind, Positions},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family { model_types: &["stablelm"], layout: llama::LAYOUT, read };

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = c.modern()?;
    a.norm = NormKind::Layer;
    a.norm_eps = c.number_or("layer_norm_eps", 1e-5)? as f32;
    a.activation = c.activation("hidden_act")?;
    a.biases = Biases { qkv: c.flag_or("use_qkv_bias", false)?, ..Biases::default() };
    a.parallel = c.flag_or("use_parallel_residual", false)?;
    a.shared_norm = a.parallel;
    if c.flag_or("qk_layernorm", false)? {
        return Err(c.error("qk_layernorm", "true is not supported for stablelm"));
    }
    let dim = (a.d_head as f64 * c.partial_rotary(0.25)?) as usize;
    a.positions = Positions::Rotary(vec![c.rotary(dim, 10_000.0)?]);
    Ok(a)
}
