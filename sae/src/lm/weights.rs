//! Where weights come from: one trait with Hugging Face tensor names, and its implementation for Hugging Face directories.
//! Other formats present themselves as such a source, so the loader knows only one set of names and layouts.

use crate::{Error, Result, files, tensorfile::TensorFile};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A model's configuration and weights, whatever file they are in.
pub trait WeightSource {
    /// The file to name in errors about configuration.
    fn path(&self) -> &Path;

    /// The configuration in the form of a Hugging Face `config.json`.
    fn config(&self) -> Result<Value>;

    /// Every tensor, by its Hugging Face name.
    fn names(&self) -> Vec<String>;

    /// Shape and values of a tensor, row-major in the Hugging Face layout (`Linear` weights are `[out, in]`).
    ///
    /// # Errors
    /// [`Error::Tensor`] naming file and tensor when it is missing or not a float.
    fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)>;
}

/// A directory as `save_pretrained` writes it: `config.json` and `model.safetensors`, or several shards and
/// `model.safetensors.index.json`.
pub struct HfDirectory {
    config: PathBuf,
    shards: Vec<TensorFile>,
    /// Tensor name → position in `shards`.
    place: BTreeMap<String, usize>,
    /// The file that lists all tensors.
    listing: PathBuf,
}

impl HfDirectory {
    /// Opens the directory and checks every weight file's header.
    ///
    /// # Errors
    /// A missing, truncated or malformed file, named.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let config = path.join("config.json");
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        if single.is_file() {
            let file = TensorFile::open(&single)?;
            let place = file.list().into_iter().map(|t| (t.name, 0)).collect();
            return Ok(Self { config, shards: vec![file], place, listing: single });
        }
        if !index.is_file() {
            return Err(Error::format(
                path,
                "neither model.safetensors nor model.safetensors.index.json is here; convert other weight files to safetensors",
            ));
        }
        let mut by_file: BTreeMap<String, usize> = BTreeMap::new();
        let mut shards = Vec::new();
        let mut place = BTreeMap::new();
        for (name, file) in indexed(&index)? {
            let at = match by_file.get(&file) {
                Some(&at) => at,
                None => {
                    shards.push(TensorFile::open(path.join(&file))?);
                    by_file.insert(file, shards.len() - 1);
                    shards.len() - 1
                }
            };
            place.insert(name, at);
        }
        Ok(Self { config, shards, place, listing: index })
    }
}

/// The file of every tensor, as `model.safetensors.index.json` says.
///
/// # Errors
/// No such table, or a file outside the index's own folder.
pub(crate) fn indexed(index: &Path) -> Result<Vec<(String, String)>> {
    let json: Value = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::format(index, "key weight_map: expected tensor names with file names"))?;
    let plain = |(name, file): (&String, &Value)| match plain_name(file) {
        Some(file) => Ok((name.clone(), file.to_string())),
        None => Err(Error::format(index, format!("key weight_map.{name}: {file} is not a file name"))),
    };
    map.iter().map(plain).collect()
}

/// A file name without any folder: an index must not reach outside its directory.
fn plain_name(value: &Value) -> Option<&str> {
    let name = value.as_str()?;
    (Path::new(name).file_name()? == name).then_some(name)
}

impl WeightSource for HfDirectory {
    fn path(&self) -> &Path {
        &self.config
    }

    fn config(&self) -> Result<Value> {
        read_json(&self.config)
    }

    fn names(&self) -> Vec<String> {
        self.place.keys().cloned().collect()
    }

    fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        match self.place.get(name) {
            Some(&at) => self.shards[at].f32(name),
            None => {
                Err(Error::Tensor { path: self.listing.clone(), name: name.into(), what: "missing".into() })
            }
        }
    }
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&files::read_text(path)?).map_err(|e| Error::format(path, format!("not JSON: {e}")))
}
