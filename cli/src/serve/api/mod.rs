//! The JSON API: everything the pages show, and every change. `pages/docs.rs` describes it for readers.

mod admin;
mod read;
mod write;

use super::{app::App, failure::Failure};
use axum::{
    Json, Router,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use std::sync::Arc;

/// Addresses of the API.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/dictionaries", get(read::dictionaries))
        .route("/api/admin", get(admin::stats))
        .route("/api/d/{key}", get(read::dictionary).post(admin::edit))
        .route("/api/d/{key}/remove", post(admin::remove))
        .route("/api/d/{key}/analyses/remove", post(admin::remove_analysis))
        .route("/api/d/{key}/overview", get(read::overview))
        .route("/api/d/{key}/overview.bin", get(read::overview_bytes))
        .route("/api/d/{key}/features", get(read::features))
        .route("/api/d/{key}/random", get(read::random))
        .route("/api/d/{key}/f/{index}", get(read::feature))
        .route("/api/d/{key}/f/{index}/explanation", post(write::explanation))
        .route("/api/d/{key}/f/{index}/bookmark", post(write::bookmark))
        .route("/api/d/{key}/infer", post(write::infer))
        .route("/api/search", get(read::search))
        .route("/api/bookmarks", get(read::bookmarks))
        .route("/api/lists", get(read::lists).post(write::list))
        .route("/api/lists/members", post(write::member))
        .route("/api/runs", get(read::runs).post(admin::run))
        .route("/api/run", get(read::run))
}

fn json<T: Serialize>(found: Result<T, Failure>) -> Response {
    match found {
        Ok(value) => Json(value).into_response(),
        Err(f) => f.into_response(),
    }
}
