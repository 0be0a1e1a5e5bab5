//! What users write in settings files: names and defaults as in the reference system.

mod dictionary;
mod fields;
pub use dictionary::{
    ActFn, DictionaryChoice, DictionarySettings, NormActivation, PretrainedSettings, SaeSettings,
    parse_precision, precision,
};
pub use fields::field_names;
