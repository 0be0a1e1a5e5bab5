//! The Hugging Face hub: files are fetched into the cache that Python's library uses, in its layout, so that either finds what the
//! other fetched. Downloads are resumed, checked against the hash the hub states, and renamed into place when whole.
//!
//! `HF_ENDPOINT`, `HF_TOKEN` (or the token file), `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they mean there.

use super::cache::{Cache, commit_like};
use crate::{Error, Result};
use serde_json::Value;
use sha1::Digest as _;
use std::{
    cell::RefCell,
    collections::HashMap,
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};
use ureq::{Agent, Body, http::Response};

/// Attempts of one request or download that goes on failing for reasons that pass.
const ATTEMPTS: u32 = 6;
/// Attempts to reach a server that does not answer at all.
const UNREACHED: u32 = 3;
/// Redirects followed.
const REDIRECTS: usize = 8;
/// Longest wait a server may ask for.
const LONGEST_WAIT: u64 = 60;

/// Told what is being fetched: name, bytes done, bytes in all.
pub type Progress = Box<dyn Fn(&str, u64, u64)>;

/// What a program sets once to be told of everything that is fetched.
pub static REPORT: OnceLock<fn(&str, u64, u64)> = OnceLock::new();

/// A connection to the hub and its cache.
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    cache: Cache,
    offline: bool,
    /// First wait before another attempt; doubled each time.
    pub first_wait: Duration,
    progress: Option<Progress>,
    lists: RefCell<HashMap<String, Vec<String>>>,
}

/// What the hub says about a file.
struct Head {
    commit: String,
    etag: String,
    size: Option<u64>,
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
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("lm-saes/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Self {
            agent,
            endpoint: endpoint.trim_end_matches('/').into(),
            token,
            cache: Cache::new(cache),
            offline,
            first_wait: Duration::from_secs(1),
            progress: REPORT.get().map(|report| Box::new(*report) as Progress),
            lists: RefCell::default(),
        }
    }

    /// Reports what is fetched.
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
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
        let head = match self.head(repo, revision, file) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(None),
            // What was fetched before serves where the hub cannot be asked.
            Err(Failure::Network(_)) if cached.is_some() => return Ok(cached),
            Err(failure) => return Err(self.failed(repo, file, failure)),
        };
        let blob = self.cache.blob(repo, &head.etag)?;
        if !blob.is_file() {
            self.fetch(repo, revision, file, &head, &blob).map_err(|f| self.failed(repo, file, f))?;
        }
        self.cache.link(repo, revision, &head.commit, file, &blob).map(Some)
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

    /// The files of a language model that are read here, and the folder they are in.
    ///
    /// # Errors
    /// As [`Hub::find`]; a repository without weights in safetensors.
    pub fn model(&self, repo: &str) -> Result<PathBuf> {
        let all = self.list(repo, "main")?;
        let weights = all.iter().filter(|f| !f.contains('/') && f.ends_with(".safetensors"));
        let weights: Vec<&String> = weights.collect();
        if weights.is_empty() {
            return Err(self.error(repo, "has no weights in safetensors, which is what is read here"));
        }
        let beside = |f: &&String| {
            let read = [".json", ".model", "merges.txt", "vocab.txt"];
            !f.contains('/') && read.iter().any(|end| f.ends_with(end))
        };
        let mut folder = None;
        // What says that there is a model comes last: a snapshot that has it is whole.
        let config = |f: &&String| *f == "config.json";
        let beside: Vec<&String> = all.iter().filter(beside).collect();
        let (last, first): (Vec<&String>, Vec<&String>) = weights.into_iter().chain(beside).partition(config);
        for file in first.into_iter().chain(last) {
            let path =
                self.find(repo, "main", file)?.ok_or_else(|| self.error(repo, "has changed; try again"))?;
            folder = path.parent().map(Path::to_path_buf);
        }
        folder.ok_or_else(|| self.error(repo, "has no files"))
    }

    /// Names of all files of a repository.
    ///
    /// # Errors
    /// As [`Hub::find`].
    pub fn list(&self, repo: &str, revision: &str) -> Result<Vec<String>> {
        check_name(repo, "x")?;
        if let Some(list) = self.lists.borrow().get(&format!("{repo}@{revision}")) {
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
        self.lists.borrow_mut().insert(format!("{repo}@{revision}"), list.clone());
        Ok(list)
    }

    fn list_online(&self, repo: &str, revision: &str) -> std::result::Result<Vec<String>, Failure> {
        let url = format!("{}/api/models/{repo}/revision/{}", self.endpoint, escape(revision, false));
        let mut response = self.request("GET", &url, None)?;
        if response.status() != 200 {
            return Err(refusal(&response));
        }
        let text = response.body_mut().with_config().limit(256 << 20).read_to_string();
        let value: Value = serde_json::from_str(&text.map_err(|e| Failure::Network(e.to_string()))?)
            .map_err(|e| Failure::Other(format!("the list of files is no JSON: {e}")))?;
        let names =
            value["siblings"].as_array().into_iter().flatten().filter_map(|s| s["rfilename"].as_str());
        let mut names: Vec<String> = names.map(String::from).collect();
        names.sort();
        Ok(names)
    }

    /// What the hub says about a file; `None` if the repository has none of this name.
    fn head(&self, repo: &str, revision: &str, file: &str) -> std::result::Result<Option<Head>, Failure> {
        let mut url = self.url(repo, revision, file);
        for _ in 0..REDIRECTS {
            let response = self.request("HEAD", &url, None)?;
            let text = |name: &str| header(&response, name);
            let status = response.status().as_u16();
            if status == 404 && text("x-error-code").as_deref() == Some("EntryNotFound") {
                return Ok(None);
            }
            let etag = text("x-linked-etag").or(text("etag"));
            // A file elsewhere is described by the redirect to it; a repository that moved by where it moved to.
            let elsewhere = text("location").filter(|_| (300..400).contains(&status));
            if let (Some(etag), Some(commit)) = (etag, text("x-repo-commit")) {
                let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
                let plain =
                    |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                if !plain(&etag) || !plain(&commit) {
                    return Err(Failure::Other(format!("etag {etag:?} or commit {commit:?} is no name")));
                }
                let size = text("x-linked-size").or(text("content-length").filter(|_| elsewhere.is_none()));
                return Ok(Some(Head { commit, etag, size: size.and_then(|s| s.parse().ok()) }));
            }
            match elsewhere {
                Some(location) => url = follow(&url, &location),
                None if status == 200 => {
                    return Err(Failure::Other("the server states neither ETag nor X-Repo-Commit".into()));
                }
                None => return Err(refusal(&response)),
            }
        }
        Err(Failure::Other("redirected in circles".into()))
    }

    /// Downloads a blob, going on where an earlier attempt stopped.
    fn fetch(
        &self,
        repo: &str,
        revision: &str,
        file: &str,
        head: &Head,
        blob: &Path,
    ) -> std::result::Result<(), Failure> {
        let part = blob.with_file_name(format!("{}.incomplete", head.etag));
        let local = |e: std::io::Error| Failure::Other(format!("{}: {e}", part.display()));
        let mut out =
            fs::OpenOptions::new().create(true).append(true).read(true).open(&part).map_err(local)?;
        // Another process at the same file has the lock; when it is through there is nothing left to do.
        out.lock().map_err(local)?;
        if blob.is_file() {
            return Ok(());
        }
        let url = self.url(repo, revision, file);
        let mut last = Failure::Network("no attempt was made".into());
        for attempt in 0..ATTEMPTS {
            let done = out.metadata().map_err(local)?.len();
            if head.size.is_some_and(|size| done > size) {
                out.set_len(0).map_err(local)?;
                continue;
            }
            if head.size != Some(done) || done == 0 {
                match self.append(&url, file, head, done, &mut out) {
                    Ok(()) => {}
                    Err(failure @ Failure::Network(_)) => {
                        // An attempt that brought something does not count as one that failed.
                        let now = out.metadata().map_err(local)?.len();
                        if now <= done {
                            thread::sleep(self.first_wait * 2u32.pow(attempt));
                        }
                        last = failure;
                        continue;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            out.sync_all().map_err(local)?;
            if let Err(what) = verify(&part, head) {
                fs::remove_file(&part).map_err(local)?;
                return Err(Failure::Other(what));
            }
            return fs::rename(&part, blob).map_err(local);
        }
        Err(last)
    }

    /// Appends what is missing after `done` bytes.
    fn append(
        &self,
        url: &str,
        file: &str,
        head: &Head,
        done: u64,
        out: &mut fs::File,
    ) -> std::result::Result<(), Failure> {
        let range = (done > 0).then(|| format!("bytes={done}-"));
        let response = self.get(url, range.as_deref())?;
        let mut at = match response.status().as_u16() {
            200 => {
                // The whole file from the beginning.
                out.set_len(0).map_err(|e| Failure::Other(e.to_string()))?;
                0
            }
            206 => done,
            _ => return Err(refusal(&response)),
        };
        let mut reader = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| Failure::Network(e.to_string()))?;
            if n == 0 {
                break;
            }
            out.write_all(&buffer[..n]).map_err(|e| Failure::Other(e.to_string()))?;
            at += n as u64;
            if let Some(progress) = &self.progress {
                progress(file, at, head.size.unwrap_or(at));
            }
        }
        match head.size {
            Some(size) if at < size => Err(Failure::Network(format!("ended after {at} of {size} bytes"))),
            _ => Ok(()),
        }
    }

    /// A GET that follows redirects; the token stays with the host it is for.
    fn get(&self, url: &str, range: Option<&str>) -> std::result::Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..REDIRECTS {
            let response = self.request("GET", &url, range)?;
            match header(&response, "location").filter(|_| response.status().is_redirection()) {
                Some(location) => url = follow(&url, &location),
                None => return Ok(response),
            }
        }
        Err(Failure::Other("redirected in circles".into()))
    }

    /// One request, repeated while the server is busy.
    fn request(
        &self,
        method: &str,
        url: &str,
        range: Option<&str>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let mut attempt = 0;
        loop {
            let mut request = if method == "HEAD" { self.agent.head(url) } else { self.agent.get(url) };
            // Compressed transfer would hide the size.
            request = request.header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let result = request.call();
            attempt += 1;
            let wait = match &result {
                Ok(r) if r.status() == 429 || r.status().is_server_error() => {
                    let asked = header(r, "retry-after").and_then(|s| s.parse::<u64>().ok());
                    asked.map(|s| Duration::from_secs(s.min(LONGEST_WAIT)))
                }
                Ok(_) => return result.map_err(|e| Failure::Network(e.to_string())),
                Err(_) => None,
            };
            if attempt >= ATTEMPTS || (result.is_err() && attempt >= UNREACHED) {
                return match result {
                    Ok(response) => Err(refusal(&response)),
                    Err(e) => Err(Failure::Network(e.to_string())),
                };
            }
            thread::sleep(wait.unwrap_or(self.first_wait * 2u32.pow(attempt - 1)));
        }
    }

    fn url(&self, repo: &str, revision: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{}/{}", self.endpoint, escape(revision, false), escape(file, true))
    }

    fn error(&self, repo: &str, what: &str) -> Error {
        Error::Data { what: format!("{repo} on the hub: {what}") }
    }

    fn failed(&self, repo: &str, file: &str, failure: Failure) -> Error {
        let what = match failure {
            Failure::Network(what) => format!("cannot be reached at {} ({what})", self.endpoint),
            Failure::Other(what) => what,
        };
        let slash = if file.is_empty() { "" } else { "/" };
        Error::Data { what: format!("{repo}{slash}{file} on the hub: {what}") }
    }
}

/// Why something was not had.
enum Failure {
    /// May pass.
    Network(String),
    /// Will not.
    Other(String),
}

/// What a refused request means and what to do.
fn refusal(response: &Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let code = header(response, "x-error-code").unwrap_or_default();
    Failure::Other(match (status, code.as_str()) {
        (_, "RevisionNotFound") => "has no such revision".into(),
        (_, "GatedRepo") | (403, _) => {
            "may not be read with this token; accept its terms on its page, or use another token (HF_TOKEN)"
                .into()
        }
        (401, _) => "does not exist, or needs a token: set HF_TOKEN".into(),
        (404, _) => "does not exist".into(),
        (429, _) => "the server is busy (429) and stayed so; try again later".into(),
        (500.., _) => return Failure::Network(format!("the server answers {status} and went on doing so")),
        _ => format!("the server answers {status}"),
    })
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

/// Size and hash: sha256 for large files, git's for small ones; other etags say nothing about the content.
fn verify(path: &Path, head: &Head) -> std::result::Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let size = fs::metadata(path).map_err(io)?.len();
    if head.size.is_some_and(|s| s != size) {
        return Err(format!("has {size} bytes, the hub says {}", head.size.unwrap_or(0)));
    }
    let hex = head.etag.chars().all(|c| c.is_ascii_hexdigit());
    let mut file = fs::File::open(path).map_err(io)?;
    let found = match head.etag.len() {
        64 if hex => digest(sha2::Sha256::new(), &mut file).map_err(io)?,
        40 if hex => {
            let mut hasher = sha1::Sha1::new();
            hasher.update(format!("blob {size}\0"));
            digest(hasher, &mut file).map_err(io)?
        }
        _ => return Ok(()),
    };
    match found == head.etag {
        true => Ok(()),
        false => Err(format!(
            "what arrived has the hash {found}, the hub says {}; it was thrown away, try again",
            head.etag
        )),
    }
}

fn digest<D: sha1::Digest>(mut hasher: D, file: &mut fs::File) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// `owner/name`, and a path that stays inside.
fn check_name(repo: &str, file: &str) -> Result<()> {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let owner_and_name = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
    if !owner_and_name || file.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Error::Data {
            what: format!("{repo}:{file} is no name of a file in a repository on the hub"),
        });
    }
    Ok(())
}

/// Where a redirect leads, seen from `from`.
fn follow(from: &str, location: &str) -> String {
    match location.starts_with('/') {
        true => format!("{}{location}", origin(from)),
        false => location.into(),
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    &url[..end]
}

/// Percent-encodes; slashes stay where they separate folders.
fn escape(text: &str, slashes: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (slashes && b == b'/');
    text.bytes().map(|b| if keep(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
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
