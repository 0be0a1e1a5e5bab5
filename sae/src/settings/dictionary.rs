//! Settings of a dictionary, as saved in its `config.json` (VARIANTS §2, §6; CHECKPOINTS §2).

/// Settings of a dictionary of any variant.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "sae_type")]
pub enum DictionarySettings {}
