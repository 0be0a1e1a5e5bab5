//! Settings of the activation stream (TRAINING §7.1): which text, which hook points, what a batch is.

use super::{DTypeName, LanguageModelSettings};
use crate::{
    Error, Result,
    activations::{StreamSettings, Target},
    data::{Overflow, TokenPolicy},
    lm::SpecialIds,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Settings of the activation stream; upstream's `ActivationFactoryConfig`, names and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationFactorySettings {
    /// Where batches come from.
    pub sources: Vec<ActivationSource>,
    /// What a row of a batch is.
    pub target: Target,
    /// Hook points to take activations from.
    pub hook_points: Vec<String>,
    /// Tokens of a batch with target `activations-1d`, contexts otherwise.
    pub batch_size: usize,
    /// Accepted for compatibility and without effect: text is tokenised by all threads of the process.
    #[serde(default = "four")]
    pub num_workers: usize,
    /// Tokens of a context, BOS and padding included. Without it, contexts are as long as the longest of their model batch.
    #[serde(default)]
    pub context_size: Option<usize>,
    /// Contexts the model runs on at a time.
    #[serde(default = "one")]
    pub model_batch_size: usize,
    /// Accepted for compatibility and without effect: activations are handed on in 32 bits.
    #[serde(default)]
    pub override_dtype: Option<DTypeName>,
    /// Rows collected before they are shuffled; without it they stay in order.
    #[serde(default)]
    pub buffer_size: Option<usize>,
    /// How they are shuffled.
    #[serde(default)]
    pub buffer_shuffle: Option<BufferShuffle>,
    /// Token ids that do not count, besides padding and BOS. (Upstream counts padding and BOS as soon as this is set; here
    /// they never count.)
    #[serde(default)]
    pub ignore_token_ids: Option<Vec<u32>>,
    /// Ours: whether EOS does not count either.
    #[serde(default)]
    pub ignore_special_tokens: bool,
    /// Ours: whether the first position of every context does not count. For models that park attention on it with huge
    /// norms and have no BOS there (SmolLM2 and others with `prepend_bos = false`).
    #[serde(default)]
    pub mask_first_position: bool,
    /// Ours: what becomes of records longer than a context.
    #[serde(default)]
    pub overflow: Overflow,
}

/// One source of batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ActivationSource {
    /// Text through the model.
    Dataset(DatasetSource),
    /// Activations cached on disk.
    Activations(CachedSource),
}

/// Text through the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSource {
    /// Key under `datasets`.
    pub name: String,
    /// Relative frequency of its model batches.
    #[serde(default = "unit")]
    pub sample_weights: f64,
    /// Accepted for compatibility and without effect, as upstream.
    #[serde(default)]
    pub is_dataset_tokenized: bool,
    /// Accepted for compatibility and without effect, as upstream: `model.prepend_bos` decides.
    #[serde(default = "yes")]
    pub prepend_bos: bool,
    /// Ours: start again at the end of the data, for as long as training goes on.
    #[serde(default)]
    pub repeat: bool,
    /// Ours: read the records in a random order, another one in every epoch, instead of as they stand in the files.
    #[serde(default)]
    pub shuffle_records: bool,
}

/// Activations cached on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachedSource {
    /// Its name.
    pub name: String,
    /// Relative frequency of its chunks.
    #[serde(default = "unit")]
    pub sample_weights: f64,
    /// Where the chunks are.
    pub path: CachePath,
    /// Accepted for compatibility: activations go to the device of the run.
    #[serde(default = "cpu")]
    pub device: String,
    /// Accepted for compatibility and without effect: activations are handed on in 32 bits.
    #[serde(default)]
    pub dtype: Option<DTypeName>,
    /// Accepted for compatibility and without effect: chunks are read one at a time.
    #[serde(default = "four")]
    pub num_workers: usize,
    /// Accepted for compatibility and without effect.
    #[serde(default = "eight")]
    pub prefetch: usize,
}

/// A folder with one folder for each hook point, or each hook point's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CachePath {
    /// One root.
    Root(PathBuf),
    /// A folder for each hook point.
    PerHook(BTreeMap<String, PathBuf>),
}

/// How the buffer is shuffled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferShuffle {
    /// Seed of the order of rows and records, and of which source comes next.
    pub perm_seed: u64,
    /// Accepted for compatibility and without effect: the order is the same on every device.
    pub generator_device: Option<String>,
}

impl Default for BufferShuffle {
    fn default() -> Self {
        Self { perm_seed: 42, generator_device: None }
    }
}

fn one() -> usize {
    1
}
fn four() -> usize {
    4
}
fn eight() -> usize {
    8
}
fn unit() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn cpu() -> String {
    "cpu".into()
}

impl ActivationFactorySettings {
    /// Seed of all random choices of the stream.
    pub fn seed(&self) -> u64 {
        self.buffer_shuffle.clone().unwrap_or_default().perm_seed
    }

    /// The stream's settings.
    pub fn stream(&self) -> StreamSettings {
        StreamSettings {
            target: self.target,
            hook_points: self.hook_points.clone(),
            batch_size: self.batch_size,
            buffer_size: self.buffer_size,
            shuffle_seed: self.seed(),
        }
    }

    /// How text becomes contexts, given the model's settings and its tokenizer's special ids.
    pub fn token_policy(&self, model: &LanguageModelSettings, ids: SpecialIds) -> Result<TokenPolicy> {
        let pad = ids.pad.or(ids.eos).ok_or_else(|| {
            Error::setting("model.pad_token_id", "the tokenizer has neither padding nor EOS token; set it")
        })?;
        let mut ignore_token_ids = self.ignore_token_ids.clone().unwrap_or_default();
        ignore_token_ids.extend(ids.eos.filter(|_| self.ignore_special_tokens));
        let policy = TokenPolicy {
            context_size: self.context_size,
            max_length: model.max_length,
            prepend_bos: model.prepend_bos,
            bos: ids.bos,
            eos: ids.eos,
            pad,
            overflow: self.overflow,
            ignore_token_ids,
            mask_first_position: self.mask_first_position,
        };
        policy.check()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::from_tree;
    use serde_json::json;

    fn example() -> serde_json::Value {
        json!({
            "target": "activations-1d",
            "hook_points": ["blocks.6.hook_resid_post"],
            "batch_size": 4096,
            "buffer_size": 16384,
            "sources": [{"type": "dataset", "name": "SlimPajama-3B"}],
            "buffer_shuffle": {"perm_seed": 7, "generator_device": "cuda"},
        })
    }

    fn read(tree: &serde_json::Value) -> Result<ActivationFactorySettings> {
        from_tree(tree)
    }

    #[test]
    fn the_training_example_parses_with_upstream_defaults() {
        let s = read(&example()).unwrap();
        assert_eq!((s.num_workers, s.model_batch_size, s.context_size, s.seed()), (4, 1, None, 7));
        let ActivationSource::Dataset(source) = &s.sources[0] else { panic!("{s:?}") };
        assert_eq!((source.sample_weights, source.prepend_bos, source.repeat), (1.0, true, false));
        assert_eq!(s.overflow, Overflow::Truncate);
        let again: ActivationFactorySettings = from_tree(&json!(s)).unwrap();
        assert_eq!(again, s);
    }

    #[test]
    fn cached_activations_parse_with_one_root_or_a_folder_for_each_hook() {
        let mut tree = example();
        tree["sources"] = json!([
            {"type": "activations", "name": "a", "path": "acts", "dtype": "torch.bfloat16"},
            {"type": "activations", "name": "b", "path": {"blocks.6.hook_resid_post": "x"}},
        ]);
        let s = read(&tree).unwrap();
        let ActivationSource::Activations(a) = &s.sources[0] else { panic!("{s:?}") };
        assert_eq!((a.prefetch, a.num_workers, a.device.as_str()), (8, 4, "cpu"));
        assert_eq!(a.path, CachePath::Root("acts".into()));
    }

    #[test]
    fn unknown_keys_and_targets_are_named() {
        let mut tree = example();
        tree["batchsize"] = json!(3);
        assert!(read(&tree).unwrap_err().to_string().contains("\"batch_size\""));
        let mut tree = example();
        tree["sources"][0]["is_tokenized"] = json!(true);
        assert!(read(&tree).unwrap_err().to_string().contains("is_dataset_tokenized"));
        let mut tree = example();
        tree["target"] = json!("activations-3d");
        assert!(read(&tree).unwrap_err().to_string().contains("activations-2d"));
    }

    #[test]
    fn the_policy_comes_from_settings_and_tokenizer() {
        let mut s = read(&example()).unwrap();
        (s.context_size, s.ignore_token_ids, s.ignore_special_tokens) = (Some(128), Some(vec![9]), true);
        let model = LanguageModelSettings::default();
        let ids = SpecialIds { bos: Some(1), eos: Some(2), pad: None };
        let p = s.token_policy(&model, ids).unwrap();
        assert_eq!((p.pad, p.bos, p.prepend_bos, p.max_length, p.room()), (2, Some(1), true, 2048, 127));
        assert_eq!(p.ignore_token_ids, [9, 2]);
        let e = s.token_policy(&model, SpecialIds::default()).unwrap_err().to_string();
        assert!(e.contains("pad_token_id"), "{e}");
    }
}
