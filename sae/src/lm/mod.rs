//! Language models: configuration, weights, one decoder-only forward with hook points, tokenizers.

pub mod tokenizer;
pub mod weights;

pub use tokenizer::{SpecialIds, Tokenizer};
