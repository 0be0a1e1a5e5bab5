//! Settings of a data set (TRAINING §7.6): where its text is and how records are found in it.

use crate::{
    Error, Result,
    data::{SampleBy, TextOptions, TextSource},
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Settings of a data set; upstream's `DatasetConfig`, names and defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetSettings {
    /// A `.txt`, `.jsonl`, `.parquet` or `.arrow` file, or a folder of them (the last two in builds with the feature `parquet`). Names of hub data sets are accepted in settings, but their text must
    /// be on disk to run.
    pub dataset_name_or_path: String,
    /// Accepted for compatibility and without effect until hub data sets are fetched.
    pub cache_dir: Option<PathBuf>,
    /// Whether the name is certainly a path. Where it is not set, a path that exists is taken as one.
    pub is_dataset_on_disk: bool,
    /// Ours: field of a `.jsonl` record that holds the text.
    pub text_field: String,
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
            text_field: options.text_field,
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
        let path = Path::new(&self.dataset_name_or_path);
        if !path.exists() {
            let key = format!("datasets.{name:?}.dataset_name_or_path");
            let given = &self.dataset_name_or_path;
            let what = if self.is_dataset_on_disk || path.is_absolute() {
                format!(
                    "{given:?} does not exist; give a .txt, .jsonl, .parquet or .arrow file, or a folder of them"
                )
            } else {
                format!(
                    "{given:?} is no file or folder here, and data sets of the hub cannot be fetched yet; \
                     fetch it (`hf download --repo-type dataset {given}`) or save its text as .jsonl, and give the path of that file or folder"
                )
            };
            return Err(Error::setting(key, what));
        }
        let options = TextOptions { text_field: self.text_field.clone(), sample_by: self.sample_by };
        TextSource::open(path, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_settings_of_a_hub_data_set_parse_but_cannot_be_opened() {
        let s: DatasetSettings = toml::from_str("dataset_name_or_path = \"Hzfinfdu/SlimPajama-3B\"").unwrap();
        let e = s.open("SlimPajama-3B").err().unwrap().to_string();
        assert!(e.contains("datasets.\"SlimPajama-3B\".dataset_name_or_path"), "{e}");
        assert!(e.contains("Hzfinfdu/SlimPajama-3B") && e.contains(".jsonl"), "{e}");
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
