//! Sending files to a repository of the hub as one commit: small files inside the commit, large ones first to its storage (git LFS).
//! What is there already is not sent again, so an upload that was interrupted goes on with the first file that is missing.

use super::{
    client::{DATASETS, Failure, Hub, check_name},
    download::{git_hash_of, sha256_of},
    wire::{Payload, body_of, escape, header},
};
use crate::{Error, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};
use ureq::{Body, http::Response};

/// Type of what is said to the large files' storage.
const LFS: &str = "application/vnd.git-lfs+json";
/// Bytes at the beginning of a file by which the hub decides whether it is text.
const SAMPLE: u64 = 512;
/// Files asked about at a time.
const ASKED: usize = 256;

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// `owner/name`.
    pub repo: String,
    /// Branch.
    pub revision: String,
    /// Whether a repository that does not exist is made visible to its owner only.
    pub private: bool,
    /// The commit's message.
    pub message: String,
    /// What is sent.
    pub files: Vec<Outgoing>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Name in the repository.
    pub name: String,
    /// Where it is.
    pub from: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

impl Outgoing {
    /// A file on disk under this name.
    pub fn new(name: impl Into<String>, from: &Path) -> Result<Self> {
        let size = fs::metadata(from).map_err(|e| Error::io(from, e))?.len();
        Ok(Self { name: name.into(), from: from.into(), size })
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Inside the commit.
    Inside,
    /// To the storage of large files.
    Stored,
    /// Its content was in that storage already.
    Known,
    /// The repository has the same file.
    Same,
}

/// A commit that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Its hash; none if there was nothing to change.
    pub commit: Option<String>,
    /// Its page.
    pub url: String,
    /// What became of each file.
    pub files: Vec<(String, u64, Sent)>,
}

impl Hub {
    /// Sends, making the repository if it does not exist.
    ///
    /// # Errors
    /// No token, one that may not write, a commit by somebody else at the same time, no network. What the storage of large files
    /// took stays there; the repository changes with the commit alone.
    pub fn upload(&self, upload: &Upload) -> Result<Uploaded> {
        let repo = &upload.repo;
        for file in &upload.files {
            check_name(repo, &file.name)?;
        }
        if repo.starts_with(DATASETS) {
            return Err(self.error(repo, "is a data set; dictionaries go to repositories of models"));
        }
        if self.is_offline() {
            return Err(self.error(repo, "HF_HUB_OFFLINE forbids to send anything"));
        }
        if !self.wire.has_token() {
            return Err(
                self.error(repo, "needs a token that may write: set HF_TOKEN (hf.co/settings/tokens)")
            );
        }
        self.create(upload).map_err(|f| self.failed(repo, "", f))?;
        let ways = self.ways(upload).map_err(|f| self.failed(repo, "", f))?;
        let mut lines =
            vec![json!({"key": "header", "value": {"summary": upload.message, "description": ""}})];
        let mut files = Vec::new();
        for (file, way) in upload.files.iter().zip(ways) {
            let (line, sent) =
                self.send_one(repo, file, &way).map_err(|f| self.failed(repo, &file.name, f))?;
            lines.extend(line);
            files.push((file.name.clone(), file.size, sent));
        }
        let page = format!("{}/{repo}/tree/{}", self.wire.endpoint, upload.revision);
        if lines.len() == 1 {
            return Ok(Uploaded { commit: None, url: page, files });
        }
        let said = self.commit(upload, &lines).map_err(|f| self.failed(repo, "", f))?;
        let text = |key: &str| said[key].as_str().map(String::from);
        Ok(Uploaded { commit: text("commitOid"), url: text("commitUrl").unwrap_or(page), files })
    }

    /// Makes the repository; one that exists is fine, and so is a token that may write to it and make none.
    fn create(&self, upload: &Upload) -> std::result::Result<(), Failure> {
        let (owner, name) = upload.repo.split_once('/').unwrap_or_default();
        let body = json!({"name": name, "organization": owner, "type": "model", "private": upload.private});
        let url = format!("{}/api/repos/create", self.wire.endpoint);
        let response = self.post(&url, "application/json", &body)?;
        match response.status().as_u16() {
            200..300 | 409 => Ok(()),
            403 if self.wire.request("HEAD", &self.api(&upload.repo), None)?.status() == 200 => Ok(()),
            _ => Err(refused(response)),
        }
    }

    /// How the hub wants each file.
    fn ways(&self, upload: &Upload) -> std::result::Result<Vec<Way>, Failure> {
        let url = format!("{}/preupload/{}", self.api(&upload.repo), escape(&upload.revision, false));
        let mut ways = Vec::new();
        for files in upload.files.chunks(ASKED) {
            let ask = |f: &Outgoing| {
                Ok(json!({"path": f.name, "size": f.size, "sample": STANDARD.encode(sample(&f.from)?)}))
            };
            let asked = files.iter().map(ask).collect::<std::result::Result<Vec<Value>, Failure>>()?;
            let said = answer(self.post(&url, "application/json", &json!({ "files": asked }))?)?;
            for file in files {
                let find = |v: &&Value| v["path"] == file.name.as_str();
                let way = said["files"].as_array().and_then(|all| all.iter().find(find));
                let way = way.ok_or_else(|| {
                    Failure::Other(format!("the hub does not say how it wants {}", file.name))
                })?;
                ways.push(Way {
                    // Storage takes no empty files.
                    large: way["uploadMode"] == "lfs" && file.size > 0,
                    ignored: way["shouldIgnore"] == true,
                    has: way["oid"].as_str().map(String::from),
                });
            }
        }
        Ok(ways)
    }

    /// One file's line of the commit, its content being where it belongs.
    fn send_one(
        &self,
        repo: &str,
        file: &Outgoing,
        way: &Way,
    ) -> std::result::Result<(Option<Value>, Sent), Failure> {
        if way.ignored {
            return Err(Failure::Other("is kept out by the repository's .gitignore; change that".into()));
        }
        let local = |e: std::io::Error| Failure::Other(format!("{}: {e}", file.from.display()));
        let hash = if way.large { sha256_of(&file.from) } else { git_hash_of(&file.from) }.map_err(local)?;
        if way.has.as_deref() == Some(&hash) {
            return Ok((None, Sent::Same));
        }
        if !way.large {
            let content = STANDARD.encode(fs::read(&file.from).map_err(local)?);
            let value = json!({"path": file.name, "encoding": "base64", "content": content});
            return Ok((Some(json!({"key": "file", "value": value})), Sent::Inside));
        }
        let sent = self.store(repo, file, &hash)?;
        let value = json!({"path": file.name, "algo": "sha256", "oid": hash, "size": file.size});
        Ok((Some(json!({"key": "lfsFile", "value": value})), sent))
    }

    /// Brings a large file into storage, in the parts it asks for.
    fn store(&self, repo: &str, file: &Outgoing, hash: &str) -> std::result::Result<Sent, Failure> {
        let object = json!({"oid": hash, "size": file.size});
        let ask = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256", "objects": [object],
        });
        let url = format!("{}/{repo}.git/info/lfs/objects/batch", self.wire.endpoint);
        let said = answer(self.post(&url, LFS, &ask)?)?;
        let said = &said["objects"][0];
        if let Some(what) = said["error"]["message"].as_str() {
            return Err(Failure::Other(format!("storage refuses it: {what}")));
        }
        let Some(href) = said["actions"]["upload"]["href"].as_str() else { return Ok(Sent::Known) };
        let fields = &said["actions"]["upload"]["header"];
        let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok());
        match number(&fields["chunk_size"]).filter(|size| *size > 0) {
            None => drop(self.put(href, file, 0, file.size)?),
            Some(size) => {
                let mut parts = Vec::new();
                for (i, from) in (0..file.size).step_by(size as usize).enumerate() {
                    let n = i + 1;
                    // Numbers are padded with zeros to one length.
                    let part = fields.as_object().into_iter().flatten().find(|(k, _)| k.parse() == Ok(n));
                    let to = part.and_then(|(_, v)| v.as_str());
                    let to =
                        to.ok_or_else(|| Failure::Other(format!("storage names no place for part {n}")))?;
                    let etag = header(&self.put(to, file, from, size.min(file.size - from))?, "etag");
                    let etag =
                        etag.ok_or_else(|| Failure::Other(format!("storage gives no etag for part {n}")))?;
                    parts.push(json!({"partNumber": n, "etag": etag}));
                }
                answer(self.post(href, LFS, &json!({"oid": hash, "parts": parts}))?)?;
            }
        }
        if let Some(href) = said["actions"]["verify"]["href"].as_str() {
            answer(self.post(href, LFS, &object)?)?;
        }
        Ok(Sent::Stored)
    }

    fn put(
        &self,
        url: &str,
        file: &Outgoing,
        from: u64,
        length: u64,
    ) -> std::result::Result<Response<Body>, Failure> {
        let response = self.wire.send("PUT", url, None, &Payload::Part(&file.from, from, length))?;
        if !response.status().is_success() {
            return Err(refused(response));
        }
        if let Some(progress) = &self.progress {
            progress(&file.name, from + length, file.size);
        }
        Ok(response)
    }

    fn commit(&self, upload: &Upload, lines: &[Value]) -> std::result::Result<Value, Failure> {
        let url = format!("{}/commit/{}", self.api(&upload.repo), escape(&upload.revision, false));
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        answer(self.wire.send("POST", &url, None, &Payload::Text("application/x-ndjson", body.as_bytes()))?)
    }

    fn post(
        &self,
        url: &str,
        kind: &'static str,
        body: &Value,
    ) -> std::result::Result<Response<Body>, Failure> {
        self.wire.send("POST", url, None, &Payload::Text(kind, body.to_string().as_bytes()))
    }
}

/// How the hub wants a file.
struct Way {
    large: bool,
    ignored: bool,
    /// Hash of the file it has under this name.
    has: Option<String>,
}

fn sample(path: &Path) -> std::result::Result<Vec<u8>, Failure> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|f| f.take(SAMPLE).read_to_end(&mut start));
    read.map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
    Ok(start)
}

/// What was answered, which must be a success.
fn answer(response: Response<Body>) -> std::result::Result<Value, Failure> {
    if !response.status().is_success() {
        return Err(refused(response));
    }
    let text = body_of(response)?;
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// What a refusal to write means, with the server's own words.
fn refused(response: Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let text = body_of(response).unwrap_or_default();
    let said = serde_json::from_str::<Value>(&text).ok().and_then(|v| v["error"].as_str().map(String::from));
    let said =
        said.map(|s| format!(" (\"{}\")", s.chars().take(300).collect::<String>())).unwrap_or_default();
    Failure::Other(match status {
        401 => format!(
            "the token is not valid{said}; set HF_TOKEN to one that may write (hf.co/settings/tokens)"
        ),
        403 => format!(
            "the token may not write here{said}; use one with write access to this owner's repositories, or another owner"
        ),
        404 => format!("does not exist, or the token may not see it{said}"),
        409 | 412 => format!(
            "somebody else changed it at the same moment{said}; run the same command again, large files are not sent twice"
        ),
        413 => format!("is more than the account may store{said}"),
        _ => format!("the server answers {status}{said}"),
    })
}
