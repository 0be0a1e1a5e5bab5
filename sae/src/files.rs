//! Files that are either the old version or the new one, never half: written aside, synced, renamed.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

/// Writes `path` through `fill`: to a temporary name in the same folder, synced, then renamed over `path`. On any error
/// the previous content of `path` is untouched and the temporary file is removed.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let aside = folder.join(name);
    let done = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&aside)?);
        fill(&mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(&aside, path)?;
        sync_folder(folder)
    })();
    done.map_err(|e: std::io::Error| {
        let _ = fs::remove_file(&aside);
        Error::io(path, e)
    })
}

/// Makes renames inside `folder` durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a file that may not be there.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

/// Reads a whole text file.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::io(path, e))
}
