//! Settings of writing activations to disk (TRAINING §7.5, §10), with the reference system's names and defaults, and a few of our
//! own.

use super::{
    ActivationFactorySettings, ActivationSource, BufferShuffle, DTypeName, DatasetSettings,
    LanguageModelSettings, MongoSettings, from_tree,
    train::{auto, single},
};
use crate::{
    Error, Result,
    activations::Target,
    data::{Overflow, Storage},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf};

/// Settings of a cache of activations (upstream's `GenerateActivationsSettings`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateSettings {
    /// The language model.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Its name, recorded with each context.
    #[serde(default)]
    pub model_name: Option<String>,
    /// The text.
    #[serde(default)]
    pub dataset: Option<DatasetSettings>,
    /// Its name, recorded with each context.
    #[serde(default = "dataset_name")]
    pub dataset_name: String,
    /// Hook points to keep.
    pub hook_points: Vec<String>,
    /// Where the chunks go.
    pub output_dir: PathBuf,
    /// Whole contexts, or the tokens that count.
    #[serde(default = "contexts")]
    pub target: Target,
    /// Contexts the model runs on at a time.
    #[serde(default = "one")]
    pub model_batch_size: usize,
    /// Contexts of a chunk, or tokens with target `activations-1d`.
    pub batch_size: usize,
    /// Rows to collect before they are shuffled; without it they stay in order.
    #[serde(default)]
    pub buffer_size: Option<usize>,
    /// How they are shuffled.
    #[serde(default)]
    pub buffer_shuffle: Option<BufferShuffle>,
    /// Tokens to write, padding included; absent, all of the text.
    #[serde(default)]
    pub total_tokens: Option<u64>,
    /// Tokens of a context.
    #[serde(default = "context_size")]
    pub context_size: usize,
    /// Batches of a chunk.
    #[serde(default)]
    pub n_samples_per_chunk: Option<usize>,
    /// Accepted for compatibility and without effect.
    #[serde(default)]
    pub num_workers: Option<usize>,
    /// Must be safetensors.
    #[serde(default)]
    pub format: CacheFormat,
    /// Must be 1 or absent.
    #[serde(default)]
    pub n_shards: Option<usize>,
    /// Must be 0.
    #[serde(default)]
    pub start_shard: usize,
    /// Accepted for compatibility and without effect: `model` and `dataset` are given here.
    #[serde(default)]
    pub mongo: Option<MongoSettings>,
    /// Token ids that do not count, besides padding and BOS.
    #[serde(default)]
    pub ignore_token_ids: Option<Vec<u32>>,
    /// Device of the whole run.
    #[serde(default = "auto")]
    pub device_type: String,
    /// Type to store; absent, 32 bits.
    #[serde(default)]
    pub override_dtype: Option<DTypeName>,
    /// Ours: store 8-bit integers with a scale for each token. The reference system cannot read them.
    #[serde(default)]
    pub int8: bool,
    /// Ours: what becomes of records longer than a context.
    #[serde(default)]
    pub overflow: Overflow,
    /// Ours: whether the first position of every context does not count.
    #[serde(default)]
    pub mask_first_position: bool,
    /// Ours: seconds between snapshots; 0 is one after every chunk.
    #[serde(default = "snapshot_seconds")]
    pub snapshot_seconds: u64,
}

/// Form of the chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheFormat {
    /// safetensors.
    #[default]
    Safetensors,
    /// Python pickles, which are not written.
    Pt,
}

fn one() -> usize {
    1
}
fn contexts() -> Target {
    Target::Activations2d
}
fn context_size() -> usize {
    128
}
fn snapshot_seconds() -> u64 {
    60
}
fn dataset_name() -> String {
    "dataset".into()
}

impl GenerateSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        single("n_shards", self.n_shards.unwrap_or(1))?;
        let bad = |key: &str, what: &str| Err(Error::setting(key, what));
        if self.start_shard != 0 {
            return bad("start_shard", "must be 0: there is one shard");
        }
        if self.format == CacheFormat::Pt {
            return bad("format", "pt is a pickle, which is not written; use safetensors");
        }
        if self.target == Target::Tokens {
            return bad("target", "tokens has no activations; use activations-1d or activations-2d");
        }
        if self.n_samples_per_chunk == Some(0) {
            return bad("n_samples_per_chunk", "must be at least 1; or leave it out");
        }
        if self.total_tokens == Some(0) {
            return bad("total_tokens", "must be at least 1; leave it out for the whole text");
        }
        if self.int8 && self.override_dtype.is_some() {
            return bad("int8", "and override_dtype exclude each other");
        }
        if self.hook_points.iter().any(|h| h.contains(['/', '\\']) || h.starts_with('.')) {
            return bad("hook_points", "name folders here and cannot contain / or begin with a point");
        }
        Ok(())
    }

    /// How activations are stored.
    pub fn storage(&self) -> Storage {
        match (self.int8, self.override_dtype) {
            (true, _) => Storage::Int8,
            (_, Some(DTypeName::Bf16)) => Storage::Bf16,
            (_, Some(DTypeName::F16)) => Storage::F16,
            _ => Storage::F32,
        }
    }

    /// The stream that gives the batches, and its text.
    ///
    /// # Errors
    /// No text is given.
    pub fn stream(&self) -> Result<(ActivationFactorySettings, BTreeMap<String, DatasetSettings>)> {
        let dataset = self.dataset.clone().ok_or_else(|| {
            Error::setting("dataset", "is needed; add a table [dataset] with dataset_name_or_path")
        })?;
        let mut factory: ActivationFactorySettings = from_tree(&json!({
            "sources": [],
            "target": self.target,
            "hook_points": self.hook_points,
            "batch_size": self.batch_size,
            "model_batch_size": self.model_batch_size,
            "context_size": self.context_size,
            "buffer_size": self.buffer_size,
            "buffer_shuffle": self.buffer_shuffle,
            "ignore_token_ids": self.ignore_token_ids,
            "overflow": self.overflow,
            "mask_first_position": self.mask_first_position,
        }))?;
        let source: ActivationSource = from_tree(&json!({ "type": "dataset", "name": self.dataset_name }))?;
        factory.sources.push(source);
        Ok((factory, [(self.dataset_name.clone(), dataset)].into()))
    }

    /// Batches of a chunk.
    pub fn batches_per_chunk(&self) -> usize {
        self.n_samples_per_chunk.unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn minimal() -> Value {
        json!({
            "model": {"model_name": "gpt2", "dtype": "torch.float16"}, "model_name": "gpt2",
            "dataset": {"dataset_name_or_path": "text.jsonl"}, "dataset_name": "openwebtext",
            "hook_points": ["blocks.3.hook_resid_post"], "output_dir": "activations", "batch_size": 16,
        })
    }

    #[test]
    fn the_reference_systems_settings_give_its_defaults_and_a_stream() {
        let s: GenerateSettings = from_tree(&minimal()).unwrap();
        s.check().unwrap();
        assert_eq!((s.context_size, s.model_batch_size, s.target), (128, 1, Target::Activations2d));
        assert_eq!((s.storage(), s.batches_per_chunk()), (Storage::F32, 1));
        let (factory, datasets) = s.stream().unwrap();
        assert_eq!((factory.batch_size, factory.context_size), (16, Some(128)));
        assert_eq!(datasets["openwebtext"].dataset_name_or_path, "text.jsonl");
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_key() {
        let refused = |key: &str, value: Value| {
            let mut tree = minimal();
            tree[key] = value;
            from_tree::<GenerateSettings>(&tree).and_then(|s| s.check()).unwrap_err().to_string()
        };
        for (key, value) in [
            ("format", json!("pt")),
            ("n_shards", json!(4)),
            ("target", json!("tokens")),
            ("total_tokens", json!(0)),
            ("hook_points", json!(["../x"])),
        ] {
            let e = refused(key, value);
            assert!(e.starts_with(&format!("setting {key}: ")), "{e}");
        }
    }
}
