//! What a store recorded of an analysis, to be used again: which dictionary it was of, which model, how contexts were made.

use crate::{
    Error, Result,
    settings::LanguageModelSettings,
    store::{AnalysisRecord, DictionaryKey, DictionaryRecord, Store},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// A dictionary and its analysis of this name.
///
/// # Errors
/// Either is not in the store; the message says what is.
pub(super) fn analysed(
    store: &dyn Store,
    key: &DictionaryKey,
    name: &str,
) -> Result<(DictionaryRecord, AnalysisRecord)> {
    let Some(dictionary) = store.dictionary(key)? else {
        let known: Vec<String> = store.dictionaries(None)?.iter().map(|d| d.key.to_string()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(Error::Data { what: format!("no dictionary {key} in this store; it has {known}") });
    };
    let all = store.analyses(key)?;
    let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
    let what = match names.is_empty() {
        true => format!("{key} has no analysis yet; make one with `lm-saes analyze`"),
        false => format!("{key} has no analysis {name:?}; it has {}", names.join(", ")),
    };
    let analysis = all.iter().find(|a| a.name == name).cloned().ok_or(Error::Data { what })?;
    Ok((dictionary, analysis))
}

/// A part of what an analysis recorded about itself.
pub(super) fn part<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T> {
    T::deserialize(value).map_err(|e| Error::Data {
        what: format!("the store's record of the analysis cannot be used: {name}: {e}; analyse again"),
    })
}

/// The layer of the dictionary's features that was analysed, where it has several.
pub(super) fn layer(analysis: &AnalysisRecord) -> Option<usize> {
    analysis.settings["analyzer"]["clt_layer"].as_u64().map(|l| l as usize)
}

/// The language model of an analysis, at `path` instead if one is given.
pub(super) fn language_model(
    analysis: &AnalysisRecord,
    path: Option<&Path>,
) -> Result<LanguageModelSettings> {
    let mut model = match (&analysis.settings["model"], path) {
        (Value::Null, None) => {
            let what = "this store does not say which language model the analysis was made with; name its folder with --model";
            return Err(Error::Data { what: what.into() });
        }
        (Value::Null, Some(_)) => LanguageModelSettings::default(),
        (recorded, _) => part("model", recorded)?,
    };
    if let Some(path) = path {
        model.model_from_pretrained_path = Some(path.into());
    }
    Ok(model)
}
