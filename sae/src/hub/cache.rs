//! The hub's cache on disk, in the layout of Python's library: `models--OWNER--NAME/` (or `datasets--…`) with `{blobs/ETAG, refs/REVISION,
//! snapshots/COMMIT/FILE}`, files of a snapshot being links to blobs.

use super::client::Listing;
use crate::{Error, Result, files};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// A cache folder.
#[derive(Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Whether a revision is the full hash of a commit, whose files never change.
pub fn commit_like(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

impl Cache {
    /// At this folder, which need not exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    fn repo(&self, repo: &str) -> PathBuf {
        let kind = if repo.starts_with(super::client::DATASETS) { "" } else { "models--" };
        self.root.join(format!("{kind}{}", repo.replace('/', "--")))
    }

    /// The snapshot a revision stands for, if there is one.
    pub fn snapshot(&self, repo: &str, revision: &str) -> Option<PathBuf> {
        let repo = self.repo(repo);
        let commit = match commit_like(revision) {
            true => revision.to_string(),
            false => fs::read_to_string(repo.join("refs").join(revision)).ok()?.trim().to_string(),
        };
        Some(repo.join("snapshots").join(commit)).filter(|p| p.is_dir())
    }

    /// A file of it.
    pub fn find(&self, repo: &str, revision: &str, file: &str) -> Option<PathBuf> {
        self.snapshot(repo, revision).map(|s| s.join(file)).filter(|p| p.is_file())
    }

    /// The files of it that were fetched.
    pub fn list(&self, repo: &str, revision: &str) -> Option<Listing> {
        let snapshot = self.snapshot(repo, revision)?;
        let commit = snapshot.file_name().map(|c| c.to_string_lossy().into_owned());
        let names = super::place::Folder::Local(snapshot.clone()).list().ok()?;
        let size = |name: &String| fs::metadata(snapshot.join(name)).map(|m| m.len()).ok();
        let files = names.into_iter().map(|name| (name.clone(), size(&name))).collect();
        Some(Listing { commit, files })
    }

    /// Makes the revision stand for the commit.
    pub fn point(&self, repo: &str, revision: &str, commit: &str) -> Result<()> {
        let path = self.repo(repo).join("refs").join(revision);
        if commit_like(revision) || fs::read_to_string(&path).ok().as_deref().map(str::trim) == Some(commit) {
            return Ok(());
        }
        files::write_atomic(&path, |w| w.write_all(commit.as_bytes()))
    }

    /// Where the content with this etag belongs; its folder exists afterwards.
    pub fn blob(&self, repo: &str, etag: &str) -> Result<PathBuf> {
        let dir = self.repo(repo).join("blobs");
        fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(dir.join(etag))
    }

    /// Makes `file` of the commit's snapshot a link to the blob, and the revision one to the commit.
    pub fn link(&self, repo: &str, revision: &str, commit: &str, file: &str, blob: &Path) -> Result<PathBuf> {
        let root = self.repo(repo);
        self.point(repo, revision, commit)?;
        let path = root.join("snapshots").join(commit).join(file);
        let dir = path.parent().unwrap_or(&root);
        fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(up).join("blobs").join(blob.file_name().unwrap_or_default());
        if fs::read_link(&path).ok().as_ref() == Some(&target) {
            return Ok(path);
        }
        let fresh = path.with_file_name(format!(
            "{}.{}.link",
            path.file_name().unwrap_or_default().to_string_lossy(),
            std::process::id()
        ));
        let made = match std::os::unix::fs::symlink(&target, &fresh) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        };
        made.and_then(|()| fs::rename(&fresh, &path)).map_err(|e| Error::io(&path, e))?;
        Ok(path)
    }
}
