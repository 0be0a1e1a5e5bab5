//! Training runs below a folder: those with a `metrics.jsonl`. A run is only ever opened by the name under which it was found, so
//! a request cannot name any other file.

use super::failure::Failure;
use serde::Serialize;
use serde_json::{Map, Value};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

const METRICS: &str = "metrics.jsonl";
/// Folders inside folders looked at.
const DEPTH: usize = 5;
/// Most runs listed.
const MOST: usize = 1000;
/// Folders looked at before giving up.
const FOLDERS: usize = 20_000;
/// Read at once of a run; the next request goes on from there.
const CHUNK: u64 = 8 << 20;

/// A run that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Path below the folder, `.` for the folder itself.
    pub name: String,
    /// Seconds since 1970 when it last wrote.
    pub changed: u64,
    /// Size of its records in bytes.
    pub bytes: u64,
    #[serde(skip)]
    path: PathBuf,
}

impl Run {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Records of a run from a place in its file.
#[derive(Debug, Default, Serialize)]
pub struct Records {
    /// Whether the file was written anew since, so that what is known has to be dropped.
    pub reset: bool,
    /// Where to go on.
    pub next: u64,
    /// Whether there is more now.
    pub more: bool,
    pub records: Vec<Map<String, Value>>,
}

/// All runs below `root`, the last changed first. Links are not followed.
pub fn find(root: &Path) -> Vec<Run> {
    let mut found = Vec::new();
    let mut left = FOLDERS;
    walk(root, root, DEPTH, &mut left, &mut found);
    found.sort_by(|a, b| b.changed.cmp(&a.changed).then(a.name.cmp(&b.name)));
    found
}

fn walk(root: &Path, folder: &Path, depth: usize, left: &mut usize, found: &mut Vec<Run>) {
    if found.len() >= MOST || *left == 0 {
        return;
    }
    *left -= 1;
    let path = folder.join(METRICS);
    if let Some(about) = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file) {
        let name = folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned();
        let changed = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        found.push(Run {
            name: if name.is_empty() { ".".into() } else { name },
            changed: changed.map_or(0, |d| d.as_secs()),
            bytes: about.len(),
            path,
        });
    }
    // A folder that cannot be read holds no runs for us.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(root, &entry.path(), depth - 1, left, found);
        }
    }
}

/// The run of this name.
pub fn named(root: Option<&Path>, name: &str) -> Result<Run, Failure> {
    let Some(root) = root else {
        return Err(Failure::missing("no folder of runs was given; start `lm-saes serve` with --runs DIR"));
    };
    let found = find(root).into_iter().find(|r| r.name == name);
    found.ok_or_else(|| Failure::missing(format!("no run {name:?} below {}", root.display())))
}

/// Whole records from byte `from`. A last line that is still being written is left for the next time.
pub fn records(run: &Run, from: u64) -> Result<Records, Failure> {
    let failed = |e: std::io::Error| Failure::missing(format!("{}: {e}", run.path.display()));
    let mut file = File::open(&run.path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let reset = from > size;
    let from = if reset { 0 } else { from };
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(CHUNK).read_to_end(&mut bytes).map_err(failed)?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|&b| b == b'\n');
    // A line that does not parse was cut off by a crash.
    let records = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let next = from + whole as u64;
    Ok(Records { reset, next, more: whole > 0 && next < size, records })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn run(root: &Path, name: &str, text: &str) {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join(METRICS), text).unwrap();
    }

    #[test]
    fn runs_are_found_by_the_names_they_have_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("runs");
        run(&root, "a/sae", "{\"step\":1}\n");
        run(&root, "b", "");
        run(dir.path(), "outside", "{\"secret\":1}\n");
        let mut names: Vec<String> = find(&root).into_iter().map(|r| r.name).collect();
        names.sort();
        assert_eq!(names, ["a/sae", "b"]);
        for name in ["../outside", "a/../../outside", "/etc", "", "a", "b/", "./b", "a\0"] {
            assert!(named(Some(&root), name).is_err(), "{name:?}");
        }
        assert!(named(None, "b").is_err());
        assert_eq!(named(Some(&root), "a/sae").unwrap().bytes, 11);
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("runs");
        run(dir.path(), "outside", "{}\n");
        fs::create_dir_all(root.join("c")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside").join(METRICS), root.join("c").join(METRICS))
            .unwrap();
        assert!(find(&root).is_empty());
    }

    #[test]
    fn records_are_read_as_they_come_and_anew_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), "r", "{\"step\":1}\n{\"step\":2}\n{\"st");
        let r = named(Some(dir.path()), "r").unwrap();
        let first = records(&r, 0).unwrap();
        assert_eq!((first.records.len(), first.next, first.reset), (2, 22, false));
        assert!(records(&r, first.next).unwrap().records.is_empty());
        let mut file = fs::OpenOptions::new().append(true).open(&r.path).unwrap();
        writeln!(file, "ep\":3}}").unwrap();
        let more = records(&r, first.next).unwrap();
        assert_eq!(more.records[0]["step"], 3);
        fs::write(&r.path, "{\"step\":1}\n").unwrap();
        let anew = records(&r, more.next).unwrap();
        assert!(anew.reset);
        assert_eq!((anew.records.len(), anew.next), (1, 11));
    }
}
