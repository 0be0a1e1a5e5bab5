//! Model families. A family is one short file: how its `config.json` becomes an [`Architecture`], and what its tensors are
//! called. To add one, write the file and name it in [`FAMILIES`].

mod falcon;
mod gemma;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod llama;
mod mistral;
mod olmo2;
mod phi;
mod qwen;
mod stablelm;

use super::{architecture::Architecture, config::Config};
use crate::{Error, Result};

/// How queries, keys and values are stored. Names are stems: `.weight` and `.bias` are appended.
#[derive(Clone, Copy, Debug)]
pub enum Qkv {
    /// Three maps.
    Separate([&'static str; 3]),
    /// One map whose outputs are all queries, then all keys, then all values.
    Blocks(&'static str),
    /// One map whose outputs are, head by head, its query, its key and its value.
    PerHead(&'static str),
}

/// Names of a family's tensors. Stems without `.weight`; those of a block without the block's prefix. Names of parts an
/// architecture does not have are empty and never asked for.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Layout {
    /// Before every name but the unembedding's; absent in files saved from the model without its head.
    pub base: &'static str,
    /// What later versions of the library write for it, if something else.
    pub later_base: &'static str,
    pub embed: &'static str,
    pub pos_embed: &'static str,
    pub ln_final: &'static str,
    pub unembed: &'static str,
    /// Prefix of a block, `{}` its number.
    pub block: &'static str,
    pub ln1: &'static str,
    pub qkv: Qkv,
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub o: &'static str,
    pub ln1_post: &'static str,
    pub ln2: &'static str,
    pub mlp_gate: &'static str,
    pub mlp_in: &'static str,
    pub mlp_out: &'static str,
    pub ln2_post: &'static str,
    /// Linear maps inside blocks are stored `[in, out]`.
    pub conv1d: bool,
}

/// A family of models.
pub struct Family {
    /// Values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// Tensor names.
    pub layout: Layout,
    /// Reads the configuration.
    pub read: fn(&Config<'_>) -> Result<Architecture>,
}

/// Every family.
pub const FAMILIES: &[&Family] = &[
    &gpt2::FAMILY,
    &gpt_neo::FAMILY,
    &gpt_neox::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma::GEMMA3_IMAGES,
    &phi::FAMILY,
    &olmo2::FAMILY,
    &stablelm::FAMILY,
    &gptj::FAMILY,
    &falcon::FAMILY,
];

/// The family that a configuration names.
///
/// # Errors
/// An unknown `model_type` is answered with the list of known ones.
pub fn find(config: &Config<'_>) -> Result<&'static Family> {
    let wanted = config.text("model_type")?;
    FAMILIES.iter().copied().find(|f| f.model_types.contains(&wanted)).ok_or_else(|| Error::Unsupported {
        what: format!("model_type {wanted:?}"),
        why: format!(
            "supported are {}",
            FAMILIES.iter().flat_map(|f| f.model_types).copied().collect::<Vec<_>>().join(", ")
        ),
    })
}
