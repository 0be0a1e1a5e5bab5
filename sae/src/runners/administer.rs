//! Administration: dictionaries registered without an analysis, and folders of training runs renamed and removed. What a store
//! holds is renamed and removed by its own methods.

use super::workbench::pretrained_settings;
use crate::{
    Error, Result, files,
    settings::PretrainedSettings,
    store::{DictionaryKey, DictionaryRecord, Store},
};
use std::{
    ffi::OsStr,
    fs,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What makes a folder that of a training run.
const METRICS: &str = "metrics.jsonl";
/// A run that wrote its records this recently is taken to be running.
const RUNNING: Duration = Duration::from_secs(30);

/// The record of a saved dictionary: its settings and where it is, which may be a name on the hub whose files are there.
///
/// # Errors
/// Nothing there, or something that is no dictionary.
pub fn describe(
    sae: &PretrainedSettings,
    key: DictionaryKey,
    model_name: Option<String>,
) -> Result<DictionaryRecord> {
    let settings = pretrained_settings(sae)?;
    let path = &sae.pretrained_name_or_path;
    let cfg = serde_json::to_value(&settings).map_err(|e| Error::format(path, e.to_string()))?;
    let whole = path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string();
    let d_sae = u32::try_from(settings.d_sae())
        .map_err(|_| Error::format(path, format!("has {} features", settings.d_sae())))?;
    Ok(DictionaryRecord { key, path: whole, cfg, d_sae, model_name })
}

/// Registers a dictionary that has no analysis yet.
///
/// # Errors
/// One of that name is there and `replace` is not set, or it has analyses of another number of features; whatever the store
/// refuses.
pub fn register(store: &dyn Store, record: &DictionaryRecord, replace: bool) -> Result<()> {
    if let Some(known) = store.dictionary(&record.key)? {
        if !replace {
            let what = format!(
                "there is a dictionary {} already, at {}; rename or remove it, or choose another name",
                known.key, known.path
            );
            return Err(Error::Data { what });
        }
        if known.d_sae != record.d_sae && !store.analyses(&known.key)?.is_empty() {
            let what = format!(
                "{} is registered and analysed with {} features, and {} has {}; give that another name",
                known.key, known.d_sae, record.path, record.d_sae
            );
            return Err(Error::Data { what });
        }
    }
    store.put_dictionary(record)
}

/// A folder of a training run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Files in it and below.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl RunFolder {
    /// The run in this folder, to be renamed or removed.
    ///
    /// # Errors
    /// A folder without the records of a run, a link, one that holds other runs too, or one whose run is still writing.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| Err(Error::format(path, what));
        let about = fs::symlink_metadata(path).map_err(|e| Error::io(path, e))?;
        if !about.is_dir() {
            return bad("is no folder of a run".into());
        }
        let records = fs::symlink_metadata(path.join(METRICS)).ok().filter(fs::Metadata::is_file);
        let Some(records) = records else {
            return bad(format!("has no {METRICS}, so it is not taken for a training run"));
        };
        let age = records.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|age| age < RUNNING) {
            let seconds = RUNNING.as_secs();
            return bad(format!("wrote records in the last {seconds} seconds; stop the run, or wait"));
        }
        let path = path.canonicalize().map_err(|e| Error::io(path, e))?;
        let mut folder = Self { path, files: 0, bytes: 0 };
        folder.count(&folder.path.clone())?;
        Ok(folder)
    }

    fn count(&mut self, folder: &Path) -> Result<()> {
        let failed = |e| Error::io(folder, e);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let about = entry.metadata().map_err(failed)?;
            if !about.is_dir() {
                (self.files, self.bytes) = (self.files + 1, self.bytes + about.len());
                continue;
            }
            if entry.path().join(METRICS).is_file() {
                let what = format!("holds another run, {}; deal with that first", entry.path().display());
                return Err(Error::format(&self.path, what));
            }
            self.count(&entry.path())?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder another name beside its present one, in one instant.
    ///
    /// # Errors
    /// A name that is none or leads elsewhere, or is taken.
    pub fn rename(&self, name: &str) -> Result<PathBuf> {
        let one = matches!(
            Path::new(name).components().collect::<Vec<_>>()[..],
            [Component::Normal(only)] if only == OsStr::new(name)
        );
        if !one || name.contains(['\0', '\\']) {
            let what = format!("cannot be renamed to {name:?}: give one name, without the folder");
            return Err(Error::format(&self.path, what));
        }
        let to = self.path.with_file_name(name);
        if fs::symlink_metadata(&to).is_ok() {
            let what = format!("cannot be renamed: {} is there already", to.display());
            return Err(Error::format(&self.path, what));
        }
        fs::rename(&self.path, &to).map_err(|e| Error::io(&self.path, e))?;
        self.sync();
        Ok(to)
    }

    /// Removes the folder with everything in it. It is gone in one instant; what a kill leaves is called `.removed-…`.
    ///
    /// # Errors
    /// A file system that refuses.
    pub fn remove(self) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = self.path.with_file_name(format!(".removed-{name}-{}", std::process::id()));
        fs::rename(&self.path, &aside).map_err(|e| Error::io(&self.path, e))?;
        self.sync();
        fs::remove_dir_all(&aside).map_err(|e| Error::io(&aside, e))
    }

    fn sync(&self) {
        if let Some(parent) = self.path.parent() {
            // The change is made; how soon it is on the disk is up to the disk.
            let _ = files::sync_folder(parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose records are old.
    fn run(path: &Path) {
        fs::create_dir_all(path.join("snapshots/1")).unwrap();
        fs::write(path.join("snapshots/1/state"), [0; 100]).unwrap();
        fs::write(path.join(METRICS), "{}\n").unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().append(true).open(path.join(METRICS)).unwrap().set_modified(old).unwrap();
    }

    fn refused(path: &Path, why: &str) {
        let e = RunFolder::open(path).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }

    #[test]
    fn a_run_is_renamed_beside_itself_and_never_over_something() {
        let dir = tempfile::tempdir().unwrap();
        run(&dir.path().join("a"));
        run(&dir.path().join("b"));
        let a = RunFolder::open(&dir.path().join("a")).unwrap();
        assert_eq!((a.files, a.bytes), (2, 103));
        for bad in ["", ".", "..", "x/y", "../c", "/c", "c/", "./c", "b", "c\0"] {
            assert!(a.rename(bad).is_err(), "{bad:?}");
        }
        a.rename("c").unwrap();
        assert!(!dir.path().join("a").exists() && dir.path().join("c/snapshots/1/state").exists());
        assert!(dir.path().join("b").join(METRICS).exists());
    }

    #[test]
    fn a_removed_run_leaves_nothing_and_what_is_no_finished_run_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let all = dir.path().join("results");
        run(&all);
        run(&all.join("inner/one"));
        refused(&all, "another run");
        RunFolder::open(&all.join("inner/one")).unwrap().remove().unwrap();
        assert_eq!(fs::read_dir(all.join("inner")).unwrap().count(), 0);
        refused(&all.join("inner"), "not taken for a training run");
        refused(&dir.path().join("nothing"), "nothing");
        run(&all.join("inner/two"));
        fs::write(all.join("inner/two").join(METRICS), "{}\n{}\n").unwrap();
        refused(&all.join("inner/two"), "wrote records");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&all, dir.path().join("link")).unwrap();
            refused(&dir.path().join("link"), "no folder");
        }
        assert!(all.join(METRICS).exists());
    }
}
