//! What users write in settings files: names and defaults as in the reference system.

mod dictionary;
pub use dictionary::DictionarySettings;
