//! Requests to the hub: repeated while it is busy, redirected without taking the token to another host, and what a refusal means
//! in words. Bodies are read from memory or from part of a file, so that a repeated request sends them again.

use super::client::Failure;
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    thread,
    time::Duration,
};
use ureq::{
    Agent, Body, SendBody,
    http::{Request, Response},
};

/// Attempts of one request or download that goes on failing for reasons that pass.
pub(super) const ATTEMPTS: u32 = 6;
/// Attempts to reach a server that does not answer at all.
const UNREACHED: u32 = 3;
/// Redirects followed.
pub(super) const REDIRECTS: usize = 8;
/// Longest wait a server may ask for.
const LONGEST_WAIT: u64 = 60;
/// Longest answer that is read as text.
const LONGEST_TEXT: u64 = 256 << 20;

/// A connection.
#[derive(Clone)]
pub(super) struct Wire {
    agent: Agent,
    /// Scheme, host and port, no slash at the end.
    pub endpoint: String,
    token: Option<String>,
    /// First wait before another attempt; doubled each time.
    pub first_wait: Duration,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    Nothing,
    /// Type and content.
    Text(&'static str, &'a [u8]),
    /// Bytes of a file: from, how many.
    Part(&'a Path, u64, u64),
}

impl Wire {
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("lm-saes/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let endpoint = endpoint.trim_end_matches('/').into();
        Self { agent, endpoint, token, first_wait: Duration::from_secs(1) }
    }

    /// Whether there is a token to show.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// A GET that follows redirects.
    pub fn get(&self, url: &str, range: Option<&str>) -> Result<Response<Body>, Failure> {
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

    /// The text of a GET that must succeed.
    pub fn text(&self, url: &str) -> Result<String, Failure> {
        let response = self.get(url, None)?;
        match response.status().as_u16() {
            200 => body_of(response),
            _ => Err(refusal(&response)),
        }
    }

    /// One request without a body.
    pub fn request(&self, method: &str, url: &str, range: Option<&str>) -> Result<Response<Body>, Failure> {
        self.send(method, url, range, &Payload::Nothing)
    }

    /// One request, repeated while the server is busy.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        range: Option<&str>,
        payload: &Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let mut attempt = 0;
        loop {
            let result = self.attempt(method, url, range, payload)?;
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

    /// The outer error is ours: a file that cannot be read, an address that is none.
    fn attempt(
        &self,
        method: &str,
        url: &str,
        range: Option<&str>,
        payload: &Payload<'_>,
    ) -> Result<Result<Response<Body>, ureq::Error>, Failure> {
        // Compressed transfer would hide the size.
        let mut request = Request::builder().method(method).uri(url).header("accept-encoding", "identity");
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let bad = |e: ureq::http::Error| Failure::Other(format!("{url}: {e}"));
        Ok(match payload {
            Payload::Nothing => self.agent.run(request.body(()).map_err(bad)?),
            Payload::Text(kind, bytes) => {
                self.agent.run(request.header("content-type", *kind).body(*bytes).map_err(bad)?)
            }
            Payload::Part(path, from, length) => {
                let local = |e: std::io::Error| Failure::Other(format!("{}: {e}", path.display()));
                let mut file = fs::File::open(path).map_err(local)?;
                file.seek(SeekFrom::Start(*from)).map_err(local)?;
                let mut part = file.take(*length);
                let request = request.header("content-length", length.to_string());
                self.agent.run(request.body(SendBody::from_reader(&mut part)).map_err(bad)?)
            }
        })
    }
}

/// An answer as text.
pub(super) fn body_of(mut response: Response<Body>) -> Result<String, Failure> {
    let text = response.body_mut().with_config().limit(LONGEST_TEXT).read_to_string();
    text.map_err(|e| Failure::Network(e.to_string()))
}

/// What a refused request means and what to do.
pub(super) fn refusal(response: &Response<Body>) -> Failure {
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

pub(super) fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(String::from)
}

/// Where a redirect leads, seen from `from`.
pub(super) fn follow(from: &str, location: &str) -> String {
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
pub(super) fn escape(text: &str, slashes: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (slashes && b == b'/');
    text.bytes().map(|b| if keep(b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}
