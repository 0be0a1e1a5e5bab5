//! Language models: configuration, weights, one decoder-only forward with hook points, tokenizers.

pub mod gguf;
pub mod tokenizer;
pub mod weights;

pub use gguf::{Gguf, GgufWeights};
pub use tokenizer::{SpecialIds, Tokenizer};
