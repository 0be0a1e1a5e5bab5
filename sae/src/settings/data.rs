//! Settings of a data set (TRAINING §7.6): where its text is and how records are found in it.

use crate::{
    Error, Result,
    data::{Content, Remote, SampleBy, TextOptions, TextSource, open_remote},
    hub::{
        Hub,
        client::{DATASETS, is_repo},
    },
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Settings of a data set; upstream's `DatasetConfig`, names and defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSettings {
    /// A `.txt`, `.jsonl`, `.parquet` or `.arrow` file, or a folder of them (the last two in builds with the feature `parquet`); or
    /// the name of a data set on the hub, `owner/name`, whose files are fetched one after the other.
    pub dataset_name_or_path: String,
    /// Where fetched files are kept, instead of the hub's cache.
    pub cache_dir: Option<PathBuf>,
    /// Whether the name is certainly a path. Where it is not set, a path that exists is taken as one.
    pub is_dataset_on_disk: bool,
    /// Ours: configuration of a data set on the hub that has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Ours: split of a data set that has them.
    pub split: String,
    /// Ours: branch, tag or commit on the hub.
    pub revision: String,
    /// Ours: field of a `.jsonl` record, or column, that holds the text.
    pub text_field: String,
    /// Ours: field or column that holds a chat, a list of messages with `role` and `content`, instead of text. The model's chat
    /// template makes it one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_field: Option<String>,
    /// Ours: field or column that holds token ids instead of text, as tokenised data sets have them (`input_ids`). They have to be
    /// those of the model's own tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_field: Option<String>,
    /// Ours: what one record of a `.txt` file is.
    pub sample_by: SampleBy,
}

impl Default for DatasetSettings {
    fn default() -> Self {
        let options = TextOptions::default();
        Self {
            dataset_name_or_path: "openwebtext".into(),
            cache_dir: None,
            is_dataset_on_disk: false,
            config: None,
            split: options.split,
            revision: "main".into(),
            text_field: "text".into(),
            messages_field: None,
            tokens_field: None,
            sample_by: options.sample_by,
        }
    }
}

impl DatasetSettings {
    /// Finds and indexes the text. `name` is the key of these settings under `datasets`.
    ///
    /// # Errors
    /// Says what to do when there is no such file or folder, or nothing readable in it.
    pub fn open(&self, name: &str) -> Result<TextSource> {
        self.open_with(name, Hub::from_env)
    }

    /// Whether what is not on disk under this name is looked for on the hub: it could be a repository's name and is none of a file.
    pub fn may_be_on_hub(&self) -> bool {
        let name = Path::new(&self.dataset_name_or_path);
        let files = ["txt", "jsonl", "ndjson", "json", "parquet", "arrow", "csv", "gz", "zst"];
        let is_file = name.extension().and_then(|e| e.to_str()).is_some_and(|e| files.contains(&e));
        !self.is_dataset_on_disk
            && !is_file
            && !name.is_absolute()
            && is_repo(&format!("{DATASETS}{}", self.dataset_name_or_path))
    }

    /// [`DatasetSettings::open`] with a connection of one's own, made only if the name is no path.
    ///
    /// # Errors
    /// As [`DatasetSettings::open`], and what the hub refuses.
    pub fn open_with(&self, name: &str, hub: impl FnOnce() -> Hub) -> Result<TextSource> {
        let given = &self.dataset_name_or_path;
        let path = Path::new(given);
        let content = match (&self.messages_field, &self.tokens_field) {
            (Some(_), Some(_)) => {
                let key = format!("datasets.{name:?}.tokens_field");
                return Err(Error::setting(
                    key,
                    "leave it or messages_field out: records are chats or token ids",
                ));
            }
            (Some(field), None) => Content::Messages(field.clone()),
            (None, Some(field)) => Content::Tokens(field.clone()),
            (None, None) => Content::Text(self.text_field.clone()),
        };
        let options = TextOptions { content, sample_by: self.sample_by, split: self.split.clone() };
        if path.exists() {
            return TextSource::open(path, &options);
        }
        let key = format!("datasets.{name:?}.dataset_name_or_path");
        if !self.may_be_on_hub() {
            let what = format!(
                "{given:?} does not exist; give a .txt, .jsonl, .parquet or .arrow file, a folder of them, or the name of a data set \
                 on the hub (owner/name)"
            );
            return Err(Error::setting(key, what));
        }
        let hub = match &self.cache_dir {
            Some(dir) => hub().at(dir),
            None => hub(),
        };
        let remote =
            Remote { name: given.clone(), config: self.config.clone(), revision: self.revision.clone() };
        open_remote(&hub, &remote, &options).map_err(|e| {
            Error::setting(
                key,
                format!("{given:?} is no file or folder here, so it was looked for on the hub; {e}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_is_looked_for_on_the_hub() {
        let s: DatasetSettings = toml::from_str("dataset_name_or_path = \"Hzfinfdu/SlimPajama-3B\"").unwrap();
        let nowhere = || Hub::new("http://127.0.0.1:9", Path::new("/nonexistent"), None, true);
        let e = s.open_with("SlimPajama-3B", nowhere).err().unwrap().to_string();
        assert!(e.contains("datasets.\"SlimPajama-3B\".dataset_name_or_path"), "{e}");
        assert!(e.contains("Hzfinfdu/SlimPajama-3B") && e.contains("HF_HUB_OFFLINE"), "{e}");
        for name in ["a/b/c", "c.jsonl", "text/c.parquet", "/a"] {
            let s = DatasetSettings { dataset_name_or_path: name.into(), ..s.clone() };
            let e = s.open_with("c", nowhere).err().unwrap().to_string();
            assert!(e.contains("does not exist") && e.contains(".jsonl"), "{e}");
        }
    }

    #[test]
    fn a_local_path_is_opened_with_its_field() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.jsonl"), "{\"content\": \"hello\"}\n").unwrap();
        let s = DatasetSettings {
            dataset_name_or_path: dir.path().display().to_string(),
            text_field: "content".into(),
            ..DatasetSettings::default()
        };
        assert_eq!(s.open("a").unwrap().read(0, 1).unwrap(), ["hello"]);
        let gone = DatasetSettings { dataset_name_or_path: "/none/here".into(), ..s };
        assert!(gone.open("a").err().unwrap().to_string().contains("\"/none/here\" does not exist"));
    }
}
