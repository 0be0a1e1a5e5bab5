//! Settings of direct logit attribution (ANALYSIS §4), with the reference system's names and defaults, and a few of our own.

use super::{LanguageModelSettings, MongoSettings, PretrainedSettings, train::single};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::PathBuf;

/// Settings of a direct logit attribution (upstream's `DirectLogitAttributeSettings`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogitSettings {
    /// The dictionary; absent, the one the store registers.
    #[serde(default)]
    pub sae: Option<PretrainedSettings>,
    /// Its name in the store.
    pub sae_name: String,
    /// Its series.
    #[serde(default = "default_name")]
    pub sae_series: String,
    /// Layer of the features of a cross-layer transcoder; absent, the one the analysis recorded.
    #[serde(default)]
    pub layer_idx: Option<usize>,
    /// The language model; absent, the one the analysis was made with.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Ours: where the model of the analysis is now.
    #[serde(default)]
    pub model_path: Option<PathBuf>,
    /// Accepted for compatibility.
    #[serde(default)]
    pub model_name: Option<String>,
    /// What is read out.
    #[serde(default)]
    pub direct_logit_attributor: LogitAttributorSettings,
    /// Database with the analysis, instead of `store`.
    #[serde(default)]
    pub mongo: Option<MongoSettings>,
    /// Pickles are not written: must be left out.
    #[serde(default)]
    pub analysis_file: Option<PathBuf>,
    /// Must be 1.
    #[serde(default = "one")]
    pub model_parallel_size: usize,
    /// Device of the whole run.
    #[serde(default = "auto")]
    pub device_type: String,
    /// Ours: name of the analysis.
    #[serde(default = "default_name")]
    pub analysis_name: String,
    /// Ours: the store with the analysis, a file or `mongodb://…`.
    #[serde(default)]
    pub store: Option<String>,
}

/// What is read out (upstream's `DirectLogitAttributorConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogitAttributorSettings {
    /// Output tokens promoted, and as many suppressed.
    pub top_k: usize,
    /// Accepted for compatibility and without effect, as in the reference system; `layer_idx` chooses.
    pub clt_layer: Option<usize>,
}

impl Default for LogitAttributorSettings {
    fn default() -> Self {
        Self { top_k: 10, clt_layer: None }
    }
}

fn default_name() -> String {
    "default".into()
}
fn one() -> usize {
    1
}
fn auto() -> String {
    "auto".into()
}

impl LogitSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        single("model_parallel_size", self.model_parallel_size)?;
        if self.analysis_file.is_some() {
            let what = "pickles are neither read nor written; leave it out and name a store, to which the result goes";
            return Err(Error::setting("analysis_file", what));
        }
        if !(1..=1000).contains(&self.direct_logit_attributor.top_k) {
            return Err(Error::setting("direct_logit_attributor.top_k", "must be from 1 to 1000"));
        }
        Ok(())
    }

    /// The address of the store.
    pub fn store_address(&self) -> String {
        let mongo = || self.mongo.as_ref().map(MongoSettings::address);
        self.store.clone().or_else(mongo).unwrap_or_else(|| "lm-saes.db".into())
    }
}
