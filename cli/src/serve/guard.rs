//! Stands before every handler: names this server answers to, where changes may come from, how long an answer may take, and
//! the headers that keep a browser from doing anything else with what it gets.

use super::{app::App, failure::Failure, html};
use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Longest answer; live inference may have to load a language model first.
const TIME: Duration = Duration::from_secs(30);
const LIVE_TIME: Duration = Duration::from_secs(300);
const POLICY: &str =
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors ";

/// See the module.
pub async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let time = if path.ends_with("/infer") && request.method() == Method::POST { LIVE_TIME } else { TIME };
    let response = match check(&app, &request) {
        Err(refusal) => refusal.into_response(),
        Ok(()) => match tokio::time::timeout(time, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let message = format!("no answer within {} s; try again later", time.as_secs());
                Failure::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
            }
        },
    };
    dress(&app, &path, response)
}

fn check(app: &App, request: &Request) -> Result<(), Failure> {
    let headers = request.headers();
    let host = text(headers, header::HOST);
    if app.loopback {
        let named = [host, request.uri().host()].into_iter().flatten();
        if host.is_none() || !named.into_iter().all(is_local) {
            let message = format!(
                "this server answers to localhost and 127.0.0.1, not to {:?}; other names need --host",
                host.unwrap_or_default()
            );
            return Err(Failure::new(StatusCode::MISDIRECTED_REQUEST, message));
        }
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let forbidden = |message: &str| Err(Failure::new(StatusCode::FORBIDDEN, message));
    let own = |origin: &str| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some() && authority == host
    };
    if headers.contains_key(header::ORIGIN) && !text(headers, header::ORIGIN).is_some_and(own) {
        return forbidden("changes may only come from this server's own pages");
    }
    if headers.get("sec-fetch-site").is_some_and(|v| v != "same-origin" && v != "none") {
        return forbidden("changes may only come from this server's own pages");
    }
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        let message = "send JSON, with content-type: application/json";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if let Some(token) = &app.token {
        let shown = text(headers, header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
        if !shown.is_some_and(|s| same(s.as_bytes(), token.as_bytes())) {
            let message = "this needs the token that `lm-saes serve` was started with";
            return Err(Failure::new(StatusCode::UNAUTHORIZED, message));
        }
    }
    Ok(())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Whether a Host header names this machine itself, on any port (which a tunnel may have changed).
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || port.starts_with(':') => name,
            _ => return false,
        },
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Takes the same time wherever the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// Turns a failure into what the asker reads, and adds the headers every answer has.
fn dress(app: &App, path: &str, mut response: Response) -> Response {
    let failure = response.extensions_mut().remove::<Failure>().or_else(|| {
        // Refusals of the framework itself, such as a body that is too large.
        let status = response.status();
        let reason = match status {
            StatusCode::PAYLOAD_TOO_LARGE => format!("more than {} bytes", super::net::MAX_BODY),
            StatusCode::METHOD_NOT_ALLOWED => "not with this method".into(),
            _ => status.canonical_reason().unwrap_or("refused").to_lowercase(),
        };
        status.is_client_error().then(|| Failure::new(status, reason))
    });
    if let Some(f) = failure {
        let allow = response.headers().get(header::ALLOW).cloned();
        let body = if path.starts_with("/api/") {
            Json(json!({ "error": f.message })).into_response()
        } else {
            Html(html::failure_page(app, &f).into_string()).into_response()
        };
        response = (f.status, body).into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    let embeddable = path.starts_with("/embed/");
    let policy = format!("{POLICY}{}", if embeddable { "*" } else { "'none'" });
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if !embeddable {
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "localhost:24577",
            "LOCALHOST:1",
            "127.0.0.1:80",
            "127.0.0.2",
            "[::1]:24577",
            "[::1]",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "192.168.0.1",
            "[::1]evil",
            "[fe80::1]:80",
            "localhost@evil",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn tokens_agree_only_in_full() {
        assert!(same(b"secret", b"secret"));
        assert!(!same(b"secret", b"secre") && !same(b"secret", b"Secret") && !same(b"", b"x"));
    }
}
