//! Sparse dictionaries on language models, written directly on the tensor runtime: language-model forward, data and
//! activation streams, dictionary variants with hand-written gradients, training, evaluation. Devices are handed in as
//! [`lm_saes_runtime::Queue`]s; no vendor is named here, nothing is printed, and there is no unsafe code.

#![forbid(unsafe_code)]

pub mod activations;
pub mod analysis;
pub mod autointerp;
pub mod data;
pub mod dictionary;
mod error;
pub mod export;
pub mod files;
pub mod http;
pub mod hub;
pub mod lm;
pub mod parallel;
pub mod runners;
pub mod settings;
pub mod store;
pub mod tensorfile;
pub mod training;

pub use error::{Error, Result};
