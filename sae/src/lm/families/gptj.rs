//! GPT-J: parallel blocks with one LayerNorm, rotary positions over neighbouring pairs, attention without biases, an
//! unembedding with one.

use super::{Family, Layout, Qkv, gpt2};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, Biases, Positions, Rotary},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["gptj"],
    layout: Layout {
        pos_embed: "",
        qkv: Qkv::Separate(["attn.q_proj", "attn.k_proj", "attn.v_proj"]),
        o: "attn.out_proj",
        ln2: "",
        mlp_in: "mlp.fc_in",
        mlp_out: "mlp.fc_out",
        conv1d: false,
        ..gpt2::LAYOUT
    },
    read,
};

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = gpt2::sizes(c)?;
    (a.parallel, a.shared_norm) = (true, true);
    a.biases = Biases { qkv: false, o: false, mlp: true, unembed: true };
    a.tied = c.flag_or("tie_word_embeddings", false)?;
    let dim = c.size_or_none("rotary_dim")?.unwrap_or(a.d_head);
    a.positions = Positions::Rotary(vec![Rotary { adjacent: true, ..c.rotary(dim, 10_000.0)? }]);
    Ok(a)
}
