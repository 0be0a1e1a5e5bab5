//! The one HTTP client of the project: blocking, TLS by rustls, bounded in time and size. It follows no redirects, so that keys
//! in headers go nowhere else, and leaves to its callers what a status means.

use std::{fmt, time::Duration};
use ureq::http::{HeaderMap, Request};

/// Longest body that is read.
const LONGEST: u64 = 16 << 20;

/// A client that keeps its connections.
#[derive(Clone, Debug)]
pub struct Http {
    agent: ureq::Agent,
}

/// What a server answered, whatever the status.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// How long the server asks to wait, where it says so in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds: f64 = self.header("retry-after")?.trim().parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Asking again cannot help: an address, header or proxy that is none.
    Malformed(String),
    /// No connection, a time-out, a body that was cut off or too long.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) | Self::Broken(what) => f.write_str(what),
        }
    }
}

impl From<ureq::Error> for Failure {
    fn from(e: ureq::Error) -> Self {
        match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                Self::Malformed(e.to_string())
            }
            e => Self::Broken(e.to_string()),
        }
    }
}

impl Http {
    /// A client that gives a request up after `timeout`, through `proxy` or what the environment names.
    ///
    /// # Errors
    /// A proxy address that cannot be one.
    pub fn new(timeout: Duration, proxy: Option<&str>) -> Result<Self, Failure> {
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false);
        if let Some(proxy) = proxy {
            config = config.proxy(Some(ureq::Proxy::new(proxy)?));
        }
        Ok(Self { agent: config.build().into() })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// [`Failure`], where there is no whole answer.
    pub fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|e| Failure::Malformed(e.to_string()))?;
        let mut response = self.agent.run(request)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.body_mut().with_config().limit(LONGEST).read_to_vec()?;
        Ok(Answer { status, headers, body })
    }
}
