//! Style, scripts and the icon, part of the binary.

use crate::serve::failure::Failure;
use axum::{
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const FILES: [(&str, &str, &str); 10] = [
    ("app.css", CSS, include_str!("../assets/app.css")),
    ("theme.js", JS, include_str!("../assets/theme.js")),
    ("base.js", JS, include_str!("../assets/base.js")),
    ("overview.js", JS, include_str!("../assets/overview.js")),
    ("feature.js", JS, include_str!("../assets/feature.js")),
    ("infer.js", JS, include_str!("../assets/infer.js")),
    ("admin.js", JS, include_str!("../assets/admin.js")),
    ("marks.js", JS, include_str!("../assets/marks.js")),
    ("run.js", JS, include_str!("../assets/run.js")),
    ("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

/// One of the files. Browsers ask again each time and are told when theirs is still right.
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(n, ..)| *n == name) else {
        return Failure::missing("there is no such file").into_response();
    };
    let tag = format!("\"{:016x}\"", fnv(text.as_bytes()));
    let caching = [(header::ETAG, tag.clone()), (header::CACHE_CONTROL, "no-cache".into())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, *kind)], *text).into_response()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
