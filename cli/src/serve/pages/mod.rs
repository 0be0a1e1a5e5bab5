//! The pages, one file each.

mod admin;
mod assets;
mod dictionary;
mod docs;
mod feature;
mod home;
mod infer;
mod marks;
mod run;
mod search;

pub use admin::totals;
pub use dictionary::{FilterAsk, any};
pub use feature::find as find_feature;
pub use marks::BookmarksAsk;
pub use run::RunAsk;
pub use search::{SearchAsk, hits};

use super::{app::App, failure::Failure};
use axum::{
    Router,
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use maud::Markup;
use serde::Deserialize;
use std::sync::Arc;

/// Addresses of the pages.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(home::home))
        .route("/d/{key}", get(dictionary::dictionary))
        .route("/d/{key}/random", get(dictionary::random))
        .route("/d/{key}/infer", get(infer::infer))
        .route("/d/{key}/f", get(feature::jump_to))
        .route("/d/{key}/f/{index}", get(feature::feature))
        .route("/embed/d/{key}/f/{index}", get(feature::embed))
        .route("/search", get(search::search))
        .route("/bookmarks", get(marks::bookmarks))
        .route("/lists", get(marks::lists))
        .route("/list", get(marks::list))
        .route("/runs", get(run::runs))
        .route("/run", get(run::run))
        .route("/admin", get(admin::admin))
        .route("/api", get(docs::docs))
        .route("/assets/{name}", get(assets::asset))
}

/// What every page below a dictionary may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AnalysisAsk {
    pub analysis: Option<String>,
}

/// Where no page is.
pub async fn nothing_here() -> Failure {
    Failure::missing("there is nothing at this address")
}

fn html(found: Result<Markup, Failure>) -> Response {
    match found {
        Ok(markup) => Html(markup.into_string()).into_response(),
        Err(f) => f.into_response(),
    }
}

fn redirect(found: Result<String, Failure>) -> Response {
    match found {
        Ok(to) => Redirect::to(&to).into_response(),
        Err(f) => f.into_response(),
    }
}
