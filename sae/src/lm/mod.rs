//! Language models: configuration, weights, one decoder-only forward with hook points, tokenizers.

mod architecture;
mod block;
mod chat;
mod config;
mod families;
mod forward;
pub mod gguf;
mod hooks;
mod identity;
mod model;
mod parameters;
mod parts;
mod process;
pub(crate) mod rotary;
pub mod tokenizer;
pub mod weights;

pub use architecture::{Architecture, Positions, Rotary, RotaryScaling};
pub use chat::ChatTemplate;
pub use forward::Tokens;
pub use gguf::{Gguf, GgufWeights};
pub use hooks::{Edit, EditFn, Output, Run};
pub use identity::{commit_of, same_model};
pub use model::Lm;
pub use tokenizer::{SpecialIds, Tokenizer};
pub use weights::{HfDirectory, WeightSource};
