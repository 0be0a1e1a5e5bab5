//! Text typed by the reader: which features fire on which token.

use super::{AnalysisAsk, html};
use crate::serve::{
    app::App,
    html::{Tab, analyses, page},
};
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use maud::html;
use std::sync::Arc;

/// `/d/KEY/infer`
pub async fn infer(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        place.analysis()?;
        let body = html! {
            header.title {
                p.crumbs { a href="/" { "Dictionaries" } " / " a #up href=(place.url()) { (place.key().name) } }
                h1 { "Try text" }
                (analyses(&place, "/infer"))
            }
            form #live.card data-api=(place.api("/infer")) data-page=(place.at("/f/INDEX")) {
                textarea name="text" rows="4" maxlength="20000" aria-label="Text to run" placeholder="Type a text. The first run loads the language model." autofocus {}
                div.row { button { "Run" } span.faint { "or Ctrl + Enter" } }
            }
            section.card #shown hidden {
                h2 { "Tokens" }
                p.faint { "Choose a token to see what fires on it." }
                p.toks #tokens {}
            }
            section.card #active hidden {
                h2 #which { "Features" }
                ol.features #found {}
            }
        };
        let title = format!("Try text · {}", place.key().name);
        Ok(page(app, Tab::Dictionaries, &title, Some("infer.js"), &body))
    });
    html(found.await)
}
