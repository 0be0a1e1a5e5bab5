//! The crate's one error type. Every message names the file, key, tensor or hook it is about and says what to do.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the domain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file does not have the form it should have.
    #[error("{path}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor in a file is missing or has another shape or type than needed.
    #[error("{path}: tensor {name}: {what}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Tensor name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A setting is unknown, missing or out of range.
    #[error("setting {key}: {what}")]
    Setting {
        /// Dotted key.
        key: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A hook point does not exist in the model.
    #[error("hook point {name:?} does not exist in {model}; it has {available}")]
    Hook {
        /// The name asked for.
        name: String,
        /// The model.
        model: String,
        /// The hook points there are.
        available: String,
    },
    /// A model family or feature that is not supported.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The thing.
        what: String,
        /// Why, and what is.
        why: String,
    },
    /// NaN or infinity where numbers must be finite.
    #[error("step {step}: {what} is not finite{hint}")]
    NonFinite {
        /// Training step.
        step: u64,
        /// Which quantity.
        what: String,
        /// What was kept and what to do.
        hint: String,
    },
    /// The data ended before the work did.
    #[error("{what}")]
    Data {
        /// Which data, and what to do.
        what: String,
    },
    /// The device refused or failed.
    #[error(transparent)]
    Runtime(#[from] lm_saes_runtime::Error),
}

impl Error {
    /// An I/O error at this path.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().into(), source }
    }
    /// A format error at this path.
    pub fn format(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().into(), what: what.into() }
    }
    /// A settings error.
    pub fn setting(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), what: what.into() }
    }
}
