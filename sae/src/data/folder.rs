//! Which files of a folder belong to a data set: all that can be read, or what the Python library `datasets` and the hub say by
//! file names and small JSON files beside them.

use crate::{Error, Result};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// `dataset_dict.json` of `DatasetDict.save_to_disk`.
#[derive(Deserialize)]
struct Splits {
    splits: Vec<String>,
}

/// `state.json` of `Dataset.save_to_disk`; other keys are of no use here.
#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    data_files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

/// The files under `folder` that `reads` takes, sorted, subfolders included. Where the folder is a data set with splits, those of
/// `split`; where it was saved by `datasets`, the files it names, which leaves out the caches beside them.
///
/// # Errors
/// [`Error::Format`] for a data set whose splits do not include it.
pub fn files(folder: &Path, split: &str, reads: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    if let Some(Splits { splits }) = described(&folder.join("dataset_dict.json"))? {
        let part = folder.join(split);
        if splits.iter().any(|s| s == split) && part.is_dir() {
            return files(&part, split, reads);
        }
        let what = format!("has the splits {} and no {split}; set split to one", splits.join(", "));
        return Err(Error::format(folder, what));
    }
    if let Some(State { data_files }) = described(&folder.join("state.json"))? {
        // A name that leads elsewhere was not written by that library.
        let inside = |f: &&DataFile| Path::new(&f.filename).file_name() == Some(f.filename.as_ref());
        let named = data_files.iter().filter(inside).map(|f| folder.join(&f.filename));
        return Ok(named.filter(|p| reads(p)).collect());
    }
    let mut found = Vec::new();
    collect(folder, reads, &mut found)?;
    found.sort();
    if found.iter().any(|p| is_hub_split(p, split)) {
        found.retain(|p| is_hub_split(p, split));
    }
    Ok(found)
}

/// `train-00000-of-00004.parquet`: how the hub names the files of a split.
fn is_hub_split(path: &Path, split: &str) -> bool {
    let rest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(split));
    rest.is_some_and(|n| n.starts_with('-') && n.contains("-of-"))
}

/// A JSON file, if it is there and of this form; a file of the same name and another form describes something else.
fn described<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let json = fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok(serde_json::from_slice(&json).ok())
}

/// Linked folders are left alone, so a link upwards cannot loop.
fn collect(folder: &Path, reads: &dyn Fn(&Path) -> bool, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let path = entry.path();
        if entry.file_type().map_err(|e| Error::io(&path, e))?.is_dir() {
            collect(&path, reads, out)?;
        } else if path.is_file() && reads(&path) {
            out.push(path);
        }
    }
    Ok(())
}
