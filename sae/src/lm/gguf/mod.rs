//! Reads `.gguf` files (versions 2 and 3): metadata, tensor descriptions, and tensors one at a time as f32 by positioned
//! reads. The whole header is checked on opening, so a truncated or hostile file is refused before any of it is used.
//! `names` presents a file as Hugging Face weights, `config` as their configuration, `vocab` rebuilds its tokenizer.

mod config;
mod dequant;
mod header;
mod names;
mod vocab;

use crate::{Error, Result};
pub use dequant::Format;
pub use header::Value;
pub use names::GgufWeights;
use rayon::prelude::*;
use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    file: File,
    metadata: HashMap<String, Value>,
    tensors: Vec<Tensor>,
    data_start: u64,
}

/// What the file says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Storage format.
    pub format: Format,
    /// Shape, slowest dimension first (the file has it reversed).
    pub shape: Vec<usize>,
    /// First byte, from the start of the data.
    offset: u64,
    /// Length in bytes.
    bytes: u64,
}

/// Values converted per task: 1 MiB of f32, a whole number of blocks in every format.
const CHUNK: usize = 1 << 18;

impl Gguf {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// Names the metadata key or the tensor that is malformed, does not fit the file or cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        let size = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        let header = header::read(&path, &file, size)?;
        let header::Header { metadata, tensors, data_start } = header;
        Ok(Self { path, file, metadata, tensors, data_start })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The description of a tensor, when there is one of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// A tensor as f32 with its shape, slowest dimension first; converted in parallel.
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let t = self.tensor(name).ok_or_else(|| Error::Tensor {
            path: self.path.clone(),
            name: name.into(),
            what: "missing".into(),
        })?;
        let (values, bytes) = t.format.block();
        let mut out = vec![0.0; t.shape.iter().product()];
        out.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, out)| {
            let mut raw = vec![0; out.len() / values * bytes];
            let at = self.data_start + t.offset + (i * CHUNK / values * bytes) as u64;
            self.file.read_exact_at(&mut raw, at).map_err(|e| Error::io(&self.path, e))?;
            t.format.dequantize(&raw, out);
            Ok::<(), Error>(())
        })?;
        Ok((t.shape.clone(), out))
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A string; `None` when the key is absent.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong(key, "a string")),
        }
    }

    /// A non-negative integer below 2^32; `None` when the key is absent.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Int(n)) if (0..1 << 32).contains(&n) => Ok(Some(n as usize)),
            Some(_) => Err(self.wrong(key, "an integer from 0 to 2^32 - 1")),
        }
    }

    /// A number; `None` when the key is absent.
    ///
    /// # Errors
    /// The key holds something else or is not finite.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Float(x)) if x.is_finite() => Ok(Some(x)),
            Some(&Value::Int(n)) => Ok(Some(n as f64)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    /// A boolean; `None` when the key is absent.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(b)) => Ok(Some(b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A value that must be there, by one of the readers above.
    fn need<'a, T>(&'a self, key: &str, read: impl Fn(&'a Self, &str) -> Result<Option<T>>) -> Result<T> {
        read(self, key)?.ok_or_else(|| Error::format(&self.path, format!("metadata key {key} is missing")))
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::format(&self.path, format!("metadata key {key}: expected {expected}"))
    }
}
