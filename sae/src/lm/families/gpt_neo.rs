//! GPT-Neo: GPT-2 with separate unbiased queries, keys and values, unscaled scores, and every other layer local.

use super::{Family, Layout, Qkv};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["gpt_neo"],
    layout: Layout {
        qkv: Qkv::Separate(["attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"]),
        o: "attn.attention.out_proj",
        conv1d: false,
        ..super::gpt2::LAYOUT
    },
    read,
};

fn read(c: &Config<'_>) -> Result<Architecture> {
    let (d_model, n_heads) = (c.size("hidden_size")?, c.size("num_heads")?);
    let mut a =
        Architecture::new(d_model, c.size("num_layers")?, n_heads, d_model / n_heads).with_score_scale(1.0);
    a.d_mlp = c.size_or_none("intermediate_size")?.unwrap_or(4 * d_model);
    a.d_vocab = c.size("vocab_size")?;
    a.n_ctx = c.size("max_position_embeddings")?;
    a.norm_eps = c.number_or("layer_norm_epsilon", 1e-5)? as f32;
    a.activation = c.activation("activation_function")?;
    a.biases = Biases { qkv: false, ..Biases::BLOCKS };
    a.tied = c.flag_or("tie_word_embeddings", true)?;
    let window = c.size("window_size")?;
    let kinds = c.texts("attention_layers")?.unwrap_or_default();
    if kinds.len() != a.n_layers {
        return Err(c.error("attention_layers", format!("expected {} entries", a.n_layers)));
    }
    for (layer, kind) in a.layers.iter_mut().zip(kinds) {
        layer.window = match kind {
            "global" => 0,
            "local" => window,
            other => return Err(c.error("attention_layers", format!("{other:?} is not global or local"))),
        };
    }
    Ok(a)
}
