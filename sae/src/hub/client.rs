//! The Hugging Face hub: files are fetched into the cache that Python's library uses, in its layout, so that either finds what the
//! other fetched. Repositories are named `owner/name`; those of data sets `datasets/owner/name`, as in the hub's addresses.
//!
//! `HF_ENDPOINT`, `HF_TOKEN` (or the token file), `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they mean there.

use super::{
    cache::{Cache, commit_like},
    download::{Download, Head},
    wire::{Wire, escape},
};
use crate::{Error, Result, lm::weights::indexed};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// Told what is being fetched or sent: name, bytes done, bytes in all.
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What a program sets once to be told of everything that is fetched or sent.
pub static REPORT: OnceLock<fn(&str, u64, u64)> = OnceLock::new();

/// Begins the names of data sets.
pub const DATASETS: &str = "datasets/";

/// A connection to the hub and its cache.
#[derive(Clone)]
pub struct Hub {
    pub(super) wire: Wire,
    cache: Cache,
    offline: bool,
    pub(super) progress: Option<Progress>,
    lists: Arc<Mutex<HashMap<String, Arc<Listing>>>>,
}

/// The files of a repository at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The commit the revision stands for, where that is known.
    pub commit: Option<String>,
    /// Names with their sizes, where those are known, sorted by name.
    pub files: Vec<(String, Option<u64>)>,
}

/// Why something was not had.
#[derive(Debug)]
pub(super) enum Failure {
    /// May pass.
    Network(String),
    /// Will not.
    Other(String),
}

impl Hub {
    /// As the environment says.
    pub fn from_env() -> Self {
        let var = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()));
        let home = hub_home();
        let file = var("HF_TOKEN_PATH").map(PathBuf::from).or(home.as_ref().map(|h| h.join("token")));
        let saved = || fs::read_to_string(file?).ok().map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
        let token = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")).or_else(saved);
        Self::new(&endpoint, &hub_cache().unwrap_or_else(|| ".cache/huggingface/hub".into()), token, offline)
    }

    /// With these settings, whatever the environment says.
    pub fn new(endpoint: &str, cache: &Path, token: Option<String>, offline: bool) -> Self {
        Self {
            wire: Wire::new(endpoint, token),
            cache: Cache::new(cache),
            offline,
            progress: REPORT.get().map(|report| Arc::new(*report) as Progress),
            lists: Arc::default(),
        }
    }

    /// Reports what is fetched.
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Reports nothing, for work in the background.
    pub fn quiet(self) -> Self {
        Self { progress: None, ..self }
    }

    /// The first wait before another attempt; doubled each time.
    pub fn waiting(mut self, first: Duration) -> Self {
        self.wire.first_wait = first;
        self
    }

    /// Whether nothing may be asked of the network.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The same cache, nothing asked of the network.
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// The same connection with another cache.
    pub fn at(mut self, cache: &Path) -> Self {
        self.cache = Cache::new(cache);
        self
    }

    /// A file of a repository in the cache, fetched if it is not there or no longer what the hub has; `None` if the repository
    /// has no such file.
    ///
    /// # Errors
    /// A repository that does not exist or may not be read, no network and nothing cached, a download that stays broken.
    pub fn find(&self, repo: &str, revision: &str, file: &str) -> Result<Option<PathBuf>> {
        check_name(repo, file)?;
        let cached = self.cache.find(repo, revision, file);
        if cached.is_some() && commit_like(revision) {
            return Ok(cached);
        }
        if self.offline {
            return match cached {
                Some(path) => Ok(Some(path)),
                None if self.cache.snapshot(repo, revision).is_some() => Ok(None),
                None => {
                    Err(self.error(repo, "is not in the local cache, and HF_HUB_OFFLINE forbids to fetch it"))
                }
            };
        }
        let url = format!(
            "{}/{repo}/resolve/{}/{}",
            self.wire.endpoint,
            escape(revision, false),
            escape(file, true)
        );
        let head = match Head::ask(&self.wire, &url) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            // What was fetched before serves where the hub cannot be asked.
            Err(Failure::Network(_)) if cached.is_some() => return Ok(cached),
            Err(failure) => return Err(self.failed(repo, file, failure)),
        };
        let blob = self.cache.blob(repo, &head.etag)?;
        if !blob.is_file() {
            let progress = self.progress.as_ref();
            let download = Download { wire: &self.wire, url: &url, file, head: &head, progress };
            download.run(&blob).map_err(|f| self.failed(repo, file, f))?;
        }
        self.cache.link(repo, revision, &head.commit, file, &blob).map(Some)
    }

    /// The files of a language model that are read here, and the folder they are in.
    ///
    /// # Errors
    /// As [`Hub::find`]; a repository without weights in safetensors.
    pub fn model(&self, repo: &str) -> Result<PathBuf> {
        let all = self.list(repo, "main")?;
        let weights = self.weights(repo, &all)?;
        let beside = |f: &&String| {
            let read = [".json", ".model", "merges.txt", "vocab.txt", ".jinja"];
            !f.contains('/') && read.iter().any(|end| f.ends_with(end))
        };
        let mut folder = None;
        // What says that there is a model comes last: a snapshot that has it is whole.
        let config = |f: &&String| *f == "config.json";
        let beside: Vec<&String> = all.iter().filter(beside).collect();
        let (last, first): (Vec<&String>, Vec<&String>) = weights.iter().chain(beside).partition(config);
        for file in first.into_iter().chain(last) {
            let path =
                self.find(repo, "main", file)?.ok_or_else(|| self.error(repo, "has changed; try again"))?;
            folder = path.parent().map(Path::to_path_buf);
        }
        folder.ok_or_else(|| self.error(repo, "has no files"))
    }

    /// The files a model's weights are in: one, or those that the index names. Beside them some repositories have the same
    /// weights once more in another form.
    fn weights(&self, repo: &str, all: &[String]) -> Result<Vec<String>> {
        const SINGLE: &str = "model.safetensors";
        const INDEX: &str = "model.safetensors.index.json";
        let is_there = |name: &str| all.iter().any(|f| f == name);
        if is_there(SINGLE) {
            return Ok(vec![SINGLE.into()]);
        }
        let index = if is_there(INDEX) { self.find(repo, "main", INDEX)? } else { None };
        let index = index.ok_or_else(|| {
            self.error(
                repo,
                "has neither model.safetensors nor its index; weights are read from safetensors here",
            )
        })?;
        let files: BTreeSet<String> = indexed(&index)?.into_iter().map(|(_, file)| file).collect();
        Ok(files.into_iter().collect())
    }

    /// Names of all files of a repository.
    ///
    /// # Errors
    /// As [`Hub::find`].
    pub fn list(&self, repo: &str, revision: &str) -> Result<Vec<String>> {
        Ok(self.listing(repo, revision)?.files.iter().map(|(name, _)| name.clone()).collect())
    }

    /// All files of a repository and the commit they are of; without the network what the cache has of them.
    ///
    /// # Errors
    /// As [`Hub::find`].
    pub fn listing(&self, repo: &str, revision: &str) -> Result<Arc<Listing>> {
        check_name(repo, "x")?;
        let key = format!("{repo}@{revision}");
        let lists = || self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = lists().get(&key) {
            return Ok(list.clone());
        }
        let list = match self.offline {
            true => None,
            false => match self.list_online(repo, revision) {
                Ok(list) => Some(list),
                Err(Failure::Network(_)) if self.cache.snapshot(repo, revision).is_some() => None,
                Err(failure) => return Err(self.failed(repo, "", failure)),
            },
        };
        let list = match list {
            Some(list) => list,
            None => self.cache.list(repo, revision).ok_or_else(|| {
                self.error(repo, "is not in the local cache, and HF_HUB_OFFLINE forbids to ask for it")
            })?,
        };
        let list = Arc::new(list);
        lists().insert(key, list.clone());
        Ok(list)
    }

    /// Lets the cache's `revision` stand for a commit of which files were fetched by its hash.
    pub(crate) fn remember(&self, repo: &str, revision: &str, commit: &str) -> Result<()> {
        self.cache.point(repo, revision, commit)
    }

    fn list_online(&self, repo: &str, revision: &str) -> std::result::Result<Listing, Failure> {
        let text =
            self.wire.text(&format!("{}/revision/{}?blobs=true", self.api(repo), escape(revision, false)))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| Failure::Other(format!("the list of files is no JSON: {e}")))?;
        let commit = value["sha"].as_str().filter(|c| commit_like(c)).map(String::from);
        let named = |s: &Value| Some((s["rfilename"].as_str()?.to_string(), s["size"].as_u64()));
        let mut files: Vec<_> =
            value["siblings"].as_array().into_iter().flatten().filter_map(named).collect();
        files.sort();
        Ok(Listing { commit, files })
    }

    /// Where the hub answers questions about a repository.
    pub(super) fn api(&self, repo: &str) -> String {
        match repo.strip_prefix(DATASETS) {
            Some(name) => format!("{}/api/datasets/{name}", self.wire.endpoint),
            None => format!("{}/api/models/{repo}", self.wire.endpoint),
        }
    }

    pub(super) fn error(&self, repo: &str, what: &str) -> Error {
        Error::Data { what: format!("{repo} on the hub: {what}") }
    }

    pub(super) fn failed(&self, repo: &str, file: &str, failure: Failure) -> Error {
        let what = match failure {
            Failure::Network(what) => format!("cannot be reached at {} ({what})", self.wire.endpoint),
            Failure::Other(what) => what,
        };
        let slash = if file.is_empty() { "" } else { "/" };
        Error::Data { what: format!("{repo}{slash}{file} on the hub: {what}") }
    }
}

/// Whether this could be the name of a repository; some data sets have no owner in theirs.
pub(crate) fn is_repo(repo: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let dataset = repo.strip_prefix(DATASETS);
    match dataset.unwrap_or(repo).split_once('/') {
        Some((owner, name)) => plain(owner) && plain(name),
        None => dataset.is_some_and(plain),
    }
}

/// `owner/name`, and a path that stays inside.
pub(super) fn check_name(repo: &str, file: &str) -> Result<()> {
    if !is_repo(repo) || file.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Error::Data {
            what: format!("{repo}:{file} is no name of a file in a repository on the hub"),
        });
    }
    Ok(())
}

fn hub_home() -> Option<PathBuf> {
    let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("HF_HOME")
        .or_else(|| var("XDG_CACHE_HOME").map(|c| c.join("huggingface")))
        .or_else(|| var("HOME").map(|h| h.join(".cache/huggingface")))
}

/// Where Python's library keeps what it fetched.
pub fn hub_cache() -> Option<PathBuf> {
    let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).or_else(|| hub_home().map(|h| h.join("hub")))
}
