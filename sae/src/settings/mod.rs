//! What users write in settings files: names and defaults as in the reference system.

mod dictionary;
mod dtype;
mod model;
pub use dictionary::DictionarySettings;
pub use dtype::DTypeName;
pub use model::{LanguageModelBackend, LanguageModelSettings};
