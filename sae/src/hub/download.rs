//! Downloads into the cache: going on where an earlier attempt stopped, checked against size and hash, renamed into place when
//! whole.

use super::{
    client::{Failure, Progress},
    wire::{ATTEMPTS, REDIRECTS, Wire, follow, header, refusal},
};
use sha1::Digest as _;
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    thread,
};

/// What the hub says about a file.
pub(super) struct Head {
    pub commit: String,
    pub etag: String,
    pub size: Option<u64>,
}

impl Head {
    /// Asks; `None` if the repository has no file of this name.
    pub fn ask(wire: &Wire, url: &str) -> Result<Option<Self>, Failure> {
        let mut url = url.to_string();
        for _ in 0..REDIRECTS {
            let response = wire.request("HEAD", &url, None)?;
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
                return Ok(Some(Self { commit, etag, size: size.and_then(|s| s.parse().ok()) }));
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
}

/// One download.
pub(super) struct Download<'a> {
    pub wire: &'a Wire,
    pub url: &'a str,
    /// Name for progress.
    pub file: &'a str,
    pub head: &'a Head,
    pub progress: Option<&'a Progress>,
}

impl Download<'_> {
    /// Fetches the content to `blob`.
    pub fn run(&self, blob: &Path) -> Result<(), Failure> {
        let head = self.head;
        let part = blob.with_file_name(format!("{}.incomplete", head.etag));
        let local = |e: std::io::Error| Failure::Other(format!("{}: {e}", part.display()));
        let mut out =
            fs::OpenOptions::new().create(true).append(true).read(true).open(&part).map_err(local)?;
        // Another process at the same file has the lock; when it is through there is nothing left to do.
        out.lock().map_err(local)?;
        if blob.is_file() {
            return Ok(());
        }
        let mut last = Failure::Network("no attempt was made".into());
        let mut failed = 0;
        while failed < ATTEMPTS {
            let done = out.metadata().map_err(local)?.len();
            if head.size.is_some_and(|size| done > size) {
                out.set_len(0).map_err(local)?;
                continue;
            }
            if head.size != Some(done) || done == 0 {
                match self.append(done, &mut out) {
                    Ok(()) => {}
                    Err(failure @ Failure::Network(_)) => {
                        // An attempt that brought something does not count as one that failed.
                        let now = out.metadata().map_err(local)?.len();
                        if now <= done {
                            thread::sleep(self.wire.first_wait * 2u32.pow(failed));
                            failed += 1;
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
    fn append(&self, done: u64, out: &mut fs::File) -> Result<(), Failure> {
        let range = (done > 0).then(|| format!("bytes={done}-"));
        let response = self.wire.get(self.url, range.as_deref())?;
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
            if let Some(progress) = self.progress {
                progress(self.file, at, self.head.size.unwrap_or(at));
            }
        }
        match self.head.size {
            Some(size) if at < size => Err(Failure::Network(format!("ended after {at} of {size} bytes"))),
            _ => Ok(()),
        }
    }
}

/// Size and hash: sha256 for large files, git's for small ones; other etags say nothing about the content.
fn verify(path: &Path, head: &Head) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let size = fs::metadata(path).map_err(io)?.len();
    if head.size.is_some_and(|s| s != size) {
        return Err(format!("has {size} bytes, the hub says {}", head.size.unwrap_or(0)));
    }
    let hex = head.etag.chars().all(|c| c.is_ascii_hexdigit());
    let found = match head.etag.len() {
        64 if hex => sha256_of(path).map_err(io)?,
        40 if hex => git_hash_of(path).map_err(io)?,
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

/// The hash of a large file.
pub(super) fn sha256_of(path: &Path) -> std::io::Result<String> {
    digest(sha2::Sha256::new(), &mut fs::File::open(path)?)
}

/// The hash that git gives a file.
pub(super) fn git_hash_of(path: &Path) -> std::io::Result<String> {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", fs::metadata(path)?.len()));
    digest(hasher, &mut fs::File::open(path)?)
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
