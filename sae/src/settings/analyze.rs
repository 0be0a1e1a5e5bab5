//! Settings of feature analysis (ANALYSIS §2.1, TRAINING §10), with the reference system's names and defaults, and a few of
//! our own.

use super::{
    ActivationFactorySettings, DTypeName, DatasetSettings, LanguageModelSettings, MongoSettings,
    PretrainedSettings, apply_override, from_tree, read_tree,
    train::{auto, one, one_or_many, or_default, single},
};
use crate::{Error, Result, activations::Target, dictionary::checkpoint, files};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Settings of an analysis (upstream's `AnalyzeSAESettings`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalyzeSettings {
    /// The dictionary.
    pub sae: PretrainedSettings,
    /// Name to register it under.
    pub sae_name: String,
    /// Series to register it in.
    pub sae_series: String,
    /// Where activations come from: whole contexts.
    #[serde(alias = "activation_factories", deserialize_with = "one_or_many")]
    pub activation_factory: ActivationFactorySettings,
    /// The language model.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Name of the language model, recorded with the dictionary.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Data sets by the names the sources use.
    #[serde(default, deserialize_with = "or_default")]
    pub datasets: BTreeMap<String, DatasetSettings>,
    /// What is looked at.
    pub analyzer: AnalyzerSettings,
    /// Accepted for compatibility and without effect: everything is computed in f32.
    #[serde(default)]
    pub amp_dtype: Option<DTypeName>,
    /// Name of the analysis.
    #[serde(default = "default_name")]
    pub feature_analysis_name: String,
    /// Database to write to, instead of `store`.
    #[serde(default)]
    pub mongo: Option<MongoSettings>,
    /// Where snapshots are kept while it runs; absent, a folder beside the dictionary.
    #[serde(default)]
    pub output_dir: Option<PathBuf>,
    /// Must be 1.
    #[serde(default = "one")]
    pub model_parallel_size: usize,
    /// Device of the whole run.
    #[serde(default = "auto")]
    pub device_type: String,
    /// Ours: where results are written, a file or `mongodb://…`; absent, `lm-saes.db` in the folder that holds the dictionary's.
    #[serde(default)]
    pub store: Option<String>,
}

/// One sampling of contexts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubsampleSettings {
    /// Peaks of at most this share of the feature's maximum.
    #[serde(default = "all")]
    pub proportion: f64,
    /// Contexts.
    pub n_samples: usize,
    /// Accepted for compatibility and without effect, as in the reference system: whole contexts are kept.
    #[serde(default)]
    pub max_length: Option<usize>,
}

/// What is looked at (upstream's `FeatureAnalyzerConfig`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnalyzerSettings {
    /// Tokens to run, padding included.
    pub total_analyzing_tokens: u64,
    /// Tokens that do not count, added to those of the activation factory.
    #[serde(default)]
    pub ignore_token_ids: Option<Vec<u32>>,
    /// Contexts kept of each feature, by name. `non_activating` is always those in which it is silent, whatever its proportion.
    #[serde(default = "default_subsamples")]
    pub subsamples: BTreeMap<String, SubsampleSettings>,
    /// Which layer of a cross-layer transcoder; absent, all of them in one pass, each registered as a dictionary `NAME-L0`, ….
    #[serde(default)]
    pub clt_layer: Option<usize>,
    /// Ours: groups of equally many contexts by peak; 0 is none.
    #[serde(default = "five")]
    pub quantile_bins: usize,
    /// Ours: contexts of each group.
    #[serde(default = "four")]
    pub quantile_samples: usize,
    /// Ours: features most often active together with each; 0 is none.
    #[serde(default = "ten")]
    pub n_coactivations: usize,
    /// Ours: features with the most similar decoder; 0 is none.
    #[serde(default = "ten")]
    pub n_neighbours: usize,
    /// Ours: output tokens promoted, and as many suppressed; 0 is none.
    #[serde(default = "ten")]
    pub n_logits: usize,
    /// Ours: seed of what is drawn.
    #[serde(default = "seed")]
    pub seed: u64,
    /// Ours: seconds between snapshots; 0 is one after every batch.
    #[serde(default = "snapshot_seconds")]
    pub snapshot_seconds: u64,
}

fn default_name() -> String {
    "default".into()
}
fn all() -> f64 {
    1.0
}
fn four() -> usize {
    4
}
fn five() -> usize {
    5
}
fn ten() -> usize {
    10
}
fn seed() -> u64 {
    42
}
fn snapshot_seconds() -> u64 {
    120
}
fn default_subsamples() -> BTreeMap<String, SubsampleSettings> {
    let of = |proportion, n_samples, max_length| SubsampleSettings { proportion, n_samples, max_length };
    [("top_activations".into(), of(1.0, 10, None)), ("non_activating".into(), of(0.3, 20, Some(50)))].into()
}

impl AnalyzerSettings {
    /// The defaults for so many tokens.
    pub fn of_tokens(total_analyzing_tokens: u64) -> Self {
        Self {
            total_analyzing_tokens,
            ignore_token_ids: None,
            subsamples: default_subsamples(),
            clt_layer: None,
            quantile_bins: five(),
            quantile_samples: four(),
            n_coactivations: ten(),
            n_neighbours: ten(),
            n_logits: ten(),
            seed: seed(),
            snapshot_seconds: snapshot_seconds(),
        }
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key under `analyzer`.
    pub fn check(&self) -> Result<()> {
        let bad = |key: &str, what: &str| Err(Error::setting(format!("analyzer.{key}"), what));
        if self.total_analyzing_tokens == 0 {
            return bad("total_analyzing_tokens", "must be at least 1");
        }
        for (name, s) in &self.subsamples {
            if !(s.proportion.is_finite() && s.proportion > 0.0) {
                return bad(&format!("subsamples.{name}.proportion"), "must be above 0; 1 is no limit");
            }
            if s.n_samples == 0 {
                return bad(&format!("subsamples.{name}.n_samples"), "must be at least 1; or leave it out");
            }
        }
        let quantiles = self.quantile_bins.checked_mul(self.quantile_samples);
        if quantiles.is_none_or(|n| n > 10_000) {
            return bad("quantile_bins", "times quantile_samples must be at most 10000");
        }
        Ok(())
    }
}

impl AnalyzeSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        single("model_parallel_size", self.model_parallel_size)?;
        if self.activation_factory.target != Target::Activations2d {
            let what = "must be activations-2d: samples are whole contexts";
            return Err(Error::setting("activation_factory.target", what));
        }
        if self.activation_factory.buffer_size.is_some() {
            let what = "must be left out: contexts are analysed in the order of the text";
            return Err(Error::setting("activation_factory.buffer_size", what));
        }
        self.analyzer.check()
    }

    /// The address of the store.
    pub fn store_address(&self) -> String {
        if let Some(address) = &self.store {
            return address.clone();
        }
        if let Some(m) = &self.mongo {
            return m.address();
        }
        let dictionary = &self.sae.pretrained_name_or_path;
        let beside = dictionary.parent().filter(|p| !p.as_os_str().is_empty());
        beside.map_or_else(|| "lm-saes.db".into(), |p| p.join("lm-saes.db").display().to_string())
    }

    /// Where snapshots are kept.
    pub fn work_dir(&self) -> PathBuf {
        let beside =
            || self.sae.pretrained_name_or_path.join(format!("analysis_{}", self.feature_analysis_name));
        self.output_dir.clone().unwrap_or_else(beside)
    }
}

/// Contexts run at a time where training settings are turned into those of an analysis.
const CONTEXTS: usize = 16;

/// Settings of an analysis from a path: analysis settings; training settings, whose result is then analysed on the text it was
/// trained on; or the folder of a dictionary, which knows its model and how its text was cut, with `text` to look at.
///
/// # Errors
/// Whatever is missing, by key.
pub fn load_analysis(
    path: &Path,
    text: Option<&Path>,
    tokens: Option<u64>,
    overrides: &[String],
) -> Result<AnalyzeSettings> {
    let mut tree = match path.is_dir() {
        true => of_dictionary(path)?,
        false => read_tree(path)?,
    };
    if tree.get("trainer").is_some() {
        tree = of_training(&tree);
    }
    if let Some(text) = text {
        tree["datasets"] = json!({ "text": { "dataset_name_or_path": text } });
        tree["activation_factory"]["sources"] = json!([{ "type": "dataset", "name": "text" }]);
    }
    if let Some(tokens) = tokens {
        tree["analyzer"]["total_analyzing_tokens"] = json!(tokens);
    }
    for o in overrides {
        apply_override(&mut tree, o)?;
    }
    from_tree(&tree)
}

/// Analysis of the result of a training run, on its own text, in order and once.
fn of_training(training: &Value) -> Value {
    let given = training.get("activation_factory").or_else(|| training.get("activation_factories"));
    let mut factory = given.cloned().unwrap_or_default();
    let all = match &mut factory {
        Value::Array(all) => all.iter_mut().collect(),
        one => vec![one],
    };
    for map in all.into_iter().filter_map(Value::as_object_mut) {
        map.insert("target".into(), json!(Target::Activations2d));
        map.insert("batch_size".into(), json!(CONTEXTS));
        map.shift_remove("buffer_size");
        map.shift_remove("buffer_shuffle");
        map.entry("context_size").or_insert(json!(256));
        for source in map.get_mut("sources").and_then(Value::as_array_mut).into_iter().flatten() {
            // A cache is read once as it is.
            if source["type"] == "dataset" {
                source["repeat"] = json!(false);
            }
        }
    }
    let result = training["trainer"].get("exp_result_path").cloned().unwrap_or_else(|| json!("results"));
    let mut tree = json!({
        "sae": { "pretrained_name_or_path": result },
        "activation_factory": factory,
        "analyzer": { "total_analyzing_tokens": DEFAULT_TOKENS },
    });
    for key in ["sae_name", "sae_series", "model", "model_name", "datasets", "mongo", "device_type"] {
        if let Some(value) = training.get(key) {
            tree[key] = value.clone();
        }
    }
    tree
}

/// Tokens looked at where nothing says how many.
const DEFAULT_TOKENS: u64 = 1_000_000;

pub(super) fn of_dictionary(path: &Path) -> Result<Value> {
    let settings = checkpoint::load_settings(path)?;
    let config: Value = serde_json::from_str(&files::read_text(&path.join(checkpoint::CONFIG))?)
        .map_err(|e| Error::format(path.join(checkpoint::CONFIG), e.to_string()))?;
    let ours = &config["lm_saes"];
    let policy = &ours["token_policy"];
    let folder = path.file_name().map_or("dictionary".into(), |n| n.to_string_lossy().into_owned());
    let mut factory = json!({
        "target": Target::Activations2d,
        "hook_points": settings.hook_points_in(),
        "batch_size": CONTEXTS,
        "model_batch_size": CONTEXTS,
        "context_size": policy["context_size"].as_u64().unwrap_or(256),
        "sources": [],
    });
    for key in ["overflow", "ignore_token_ids", "mask_first_position"] {
        if let Some(value) = policy.get(key) {
            factory[key] = value.clone();
        }
    }
    Ok(json!({
        "sae": { "pretrained_name_or_path": path },
        "sae_name": ours["sae_name"].as_str().unwrap_or(&folder),
        "sae_series": ours["sae_series"].as_str().unwrap_or("default"),
        "model": ours["model"],
        "model_name": ours["model_name"],
        "activation_factory": factory,
        "analyzer": { "total_analyzing_tokens": DEFAULT_TOKENS },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_analysis_example_parses_unchanged() {
        let tree: serde_json::Value = toml::from_str(include_str!("fixtures/pythia_analyze.toml")).unwrap();
        let s: AnalyzeSettings = from_tree(&tree).unwrap();
        s.check().unwrap();
        assert_eq!(s.analyzer, AnalyzerSettings::of_tokens(100_000_000));
        assert_eq!(s.feature_analysis_name, "default");
        assert_eq!(s.store_address(), "mongodb://localhost:27017/mechinterp");
        assert_eq!(AnalyzeSettings { mongo: None, ..s }.store_address(), "path/to/lm-saes.db");
    }

    #[test]
    fn training_settings_become_those_of_an_analysis() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.toml");
        std::fs::write(&path, include_str!("fixtures/pythia_topk.toml")).unwrap();
        let set = ["activation_factory.context_size=64".to_string()];
        let s = load_analysis(&path, Some(Path::new("other.jsonl")), Some(5000), &set).unwrap();
        s.check().unwrap();
        assert_eq!((s.sae_name.as_str(), s.analyzer.total_analyzing_tokens), ("pythia-160m-sae", 5000));
        assert_eq!(s.activation_factory.context_size, Some(64));
        assert_eq!(s.datasets["text"].dataset_name_or_path, "other.jsonl");
    }

    #[test]
    fn what_cannot_be_analysed_is_refused_by_key() {
        let tree: serde_json::Value = toml::from_str(include_str!("fixtures/pythia_analyze.toml")).unwrap();
        let refused = |key: &str, value: serde_json::Value| {
            let mut tree = tree.clone();
            *tree.pointer_mut(key).unwrap() = value;
            from_tree::<AnalyzeSettings>(&tree).unwrap().check().unwrap_err().to_string()
        };
        assert!(
            refused("/activation_factory/target", "activations-1d".into())
                .contains("activation_factory.target")
        );
        assert!(
            refused("/analyzer/total_analyzing_tokens", 0.into()).contains("analyzer.total_analyzing_tokens")
        );
    }
}
