//! Full snapshots on disk: `checkpoints/step_N` directories that are there whole or not at all, the newest few kept.

use crate::{Error, Result, files};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    path::{Path, PathBuf},
};

const FOLDER: &str = "checkpoints";
const PREFIX: &str = "step_";
/// State of the stream in a full snapshot.
pub const STREAM: &str = "stream.safetensors";

/// Folder of the weight and full snapshots below the result path.
pub fn folder(root: &Path) -> PathBuf {
    root.join(FOLDER)
}

/// Full snapshots below the result path by ascending step.
pub fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = folder(root);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
        let path = entry.map_err(|e| Error::io(&folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix(PREFIX).and_then(|n| n.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest full snapshot below the result path.
pub fn latest(root: &Path) -> Result<Option<PathBuf>> {
    Ok(list(root)?.pop().map(|(_, path)| path))
}

/// Where the snapshot after `step` steps is written before it takes its name.
pub fn aside(root: &Path, step: u64) -> PathBuf {
    folder(root).join(format!(".{PREFIX}{step}.new"))
}

/// Writes the snapshot after `step` steps: `fill` writes into a folder aside, which then takes its name. Keeps the newest
/// `kept`. On any error the earlier snapshots are untouched.
pub fn write(root: &Path, step: u64, kept: usize, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = folder(root);
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(path, e)
    };
    clear_leftovers(root)?;
    let aside = aside(root, step);
    fs::create_dir_all(&aside).map_err(io(&aside))?;
    let target = folder.join(format!("{PREFIX}{step}"));
    let done = fill(&aside).and_then(|()| {
        files::sync_folder(&aside).map_err(io(&aside))?;
        remove(&target)?;
        fs::rename(&aside, &target).map_err(io(&target))?;
        files::sync_folder(&folder).map_err(io(&folder))
    });
    if let Err(e) = done {
        // The disk may be full; the half-written folder must not stay.
        let _ = fs::remove_dir_all(&aside);
        return Err(e);
    }
    let all = list(root)?;
    for (_, old) in all.iter().take(all.len().saturating_sub(kept)) {
        remove(old)?;
    }
    Ok(target)
}

/// Removes what a run that was cut off left half written or half removed.
pub fn clear_leftovers(root: &Path) -> Result<()> {
    let folder = folder(root);
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!(".{PREFIX}")) {
            fs::remove_dir_all(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        }
    }
    Ok(())
}

/// Removes every full snapshot, for a run that starts afresh.
pub fn clear(root: &Path) -> Result<()> {
    clear_leftovers(root)?;
    list(root)?.iter().try_for_each(|(_, path)| remove(path))
}

/// Takes the name away first, so that a half-removed snapshot is never mistaken for one.
fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = path.with_file_name(format!(".{name}.old"));
    fs::rename(path, &aside).and_then(|()| fs::remove_dir_all(&aside)).map_err(|e| Error::io(path, e))
}

/// Writes a value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::format(path, e.to_string()))?;
    files::write_atomic(path, |w| w.write_all(&text))
}

/// Reads a value from JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&files::read_text(path)?).map_err(|e| Error::format(path, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(root: &Path) -> Vec<u64> {
        list(root).unwrap().into_iter().map(|(s, _)| s).collect()
    }

    fn put(root: &Path, step: u64) -> Result<PathBuf> {
        write(root, step, 2, |dir| write_json(&dir.join("trainer.json"), &step))
    }

    #[test]
    fn the_newest_two_are_kept_and_the_latest_is_found_by_number() {
        let dir = tempfile::tempdir().unwrap();
        assert!(latest(dir.path()).unwrap().is_none());
        for step in [9, 10, 100] {
            put(dir.path(), step).unwrap();
        }
        assert_eq!(steps(dir.path()), [10, 100]);
        let newest = latest(dir.path()).unwrap().unwrap();
        assert_eq!(read_json::<u64>(&newest.join("trainer.json")).unwrap(), 100);
    }

    #[test]
    fn a_failed_or_cut_off_snapshot_leaves_the_earlier_ones_alone() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), 1).unwrap();
        let full = write(dir.path(), 2, 2, |_| Err(Error::Data { what: "disk full".into() }));
        assert_eq!(full.unwrap_err().to_string(), "disk full");
        assert_eq!(steps(dir.path()), [1]);
        // As after a kill in the middle of writing and of removing.
        for name in [".step_3.new", ".step_0.old"] {
            fs::create_dir(folder(dir.path()).join(name)).unwrap();
        }
        assert_eq!(steps(dir.path()), [1]);
        put(dir.path(), 4).unwrap();
        assert_eq!(fs::read_dir(folder(dir.path())).unwrap().count(), 2);
    }

    #[test]
    fn writing_the_same_step_again_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), 1).unwrap();
        put(dir.path(), 1).unwrap();
        assert_eq!(steps(dir.path()), [1]);
    }
}
