//! OLMo 2: norms on the sublayers' outputs instead of their inputs, and on whole query and key projections.

use super::{Family, Layout, llama};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, QkNorm},
        config::Config,
    },
};

pub(super) const FAMILY: Family = Family {
    model_types: &["olmo2"],
    layout: Layout {
        ln1: "",
        ln1_post: "post_attention_layernorm",
        ln2: "",
        ln2_post: "post_feedforward_layernorm",
        ..llama::LAYOUT
    },
    read,
};

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = llama::read(c)?;
    (a.pre_norm, a.post_norm) = (false, true);
    a.qk_norm = QkNorm::Whole;
    Ok(a)
}
