//! What users write in settings files: names and defaults as in the reference system.

mod dictionary;
mod dtype;
mod fields;
mod model;
pub use dictionary::{
    ActFn, DictionaryChoice, DictionarySettings, NormActivation, PretrainedSettings, SaeSettings,
};
pub use dtype::DTypeName;
pub use fields::field_names;
pub use model::{LanguageModelBackend, LanguageModelSettings};
