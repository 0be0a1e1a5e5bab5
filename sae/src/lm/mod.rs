//! Language models: configuration, weights, one decoder-only forward with hook points, tokenizers.

pub mod tokenizer;

pub use tokenizer::{SpecialIds, Tokenizer};
