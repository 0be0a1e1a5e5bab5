//! Settings of a language model (TRAINING §8): which one, where its files are, how text becomes tokens.

use super::DTypeName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which way of running the model upstream would choose. Here every family goes through the same forward, so the
/// choice only says whether weights are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LanguageModelBackend {
    /// Whatever suits the model.
    #[default]
    Auto,
    /// Upstream's hooked transformer.
    TransformerLens,
    /// Upstream's Hugging Face wrapper.
    Huggingface,
    /// No weights: token ids and traces only.
    TokenizerOnly,
}

/// Settings of a language model; upstream's `LanguageModelConfig`, names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LanguageModelSettings {
    /// Name of the model.
    pub model_name: String,
    /// Directory or `.gguf` file to load instead of resolving the name.
    pub model_from_pretrained_path: Option<PathBuf>,
    /// Where downloaded models are kept.
    pub cache_dir: Option<PathBuf>,
    /// Never ask the network.
    pub local_files_only: bool,
    /// Longest text, in tokens.
    pub max_length: usize,
    /// See [`LanguageModelBackend`].
    pub backend: LanguageModelBackend,
    /// Put BOS before every text.
    pub prepend_bos: bool,
    /// Used where the tokenizer names no BOS; then EOS is.
    pub bos_token_id: Option<u32>,
    /// Used where the tokenizer names no EOS; then `<|endoftext|>` is.
    pub eos_token_id: Option<u32>,
    /// Used where the tokenizer names no padding; then EOS is.
    pub pad_token_id: Option<u32>,
    /// Device name.
    pub device: String,
    /// Storage type of the weight matrices.
    pub dtype: DTypeName,
    /// Fold norm gains into the following maps and centre the writing weights, as upstream's loader does by default since
    /// April 2026. Off here: activations are those of the model's own hidden states.
    pub process_weights: bool,
}

impl Default for LanguageModelSettings {
    fn default() -> Self {
        Self {
            model_name: "gpt2".into(),
            model_from_pretrained_path: None,
            cache_dir: None,
            local_files_only: false,
            max_length: 2048,
            backend: LanguageModelBackend::Auto,
            prepend_bos: true,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
            device: "cpu".into(),
            dtype: DTypeName::F32,
            process_weights: false,
        }
    }
}
