//! Training runs and their curves, which follow a run that is still writing.

use super::html;
use crate::{
    print,
    serve::{
        app::{App, now},
        failure::Failure,
        html::{Tab, page},
        runs,
        url::encode,
    },
};
use axum::{
    extract::{Query, State},
    response::Response,
};
use maud::html;
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// Which run.
#[derive(Debug, Deserialize)]
pub struct RunAsk {
    pub name: String,
    /// Byte of its records to go on from.
    #[serde(default)]
    pub from: u64,
}

/// `/runs`
pub async fn runs(State(app): State<Arc<App>>) -> Response {
    let found = app.work(|app| {
        let Some(root) = &app.runs else {
            return Err(Failure::missing(
                "no folder of runs was given; start `lm-saes serve` with --runs DIR",
            ));
        };
        let all = runs::find(root);
        let body = html! {
            h1 { "Runs" }
            p.faint { "below " (root.display().to_string()) }
            @if all.is_empty() { p { "No run has written records yet." } }
            ol.hits {
                @for run in &all {
                    li.card.row {
                        a href={ "/run?name=" (encode(&run.name)) } { (run.name) }
                        span.faint {
                            (print::bytes(run.bytes)) " · last record "
                            (print::duration(Duration::from_secs(now().saturating_sub(run.changed)))) " ago"
                        }
                    }
                }
            }
        };
        Ok(page(app, Tab::Runs, "Runs", None, &body))
    });
    html(found.await)
}

/// `/run?name=NAME`
pub async fn run(State(app): State<Arc<App>>, Query(ask): Query<RunAsk>) -> Response {
    let found = app.work(move |app| {
        let run = runs::named(app.runs.as_deref(), &ask.name)?;
        let body = html! {
            header.title {
                p.crumbs { a href="/runs" { "Runs" } }
                div.row { h1 { (run.name) } span #state.faint role="status" { "loading" } }
            }
            div.filter {
                label { "Across"
                    select #across { option value="tokens" { "tokens" } option value="step" { "steps" } }
                }
                label.check { input #log type="checkbox"; "log scale" }
                label { "Smooth" input #smooth type="range" min="0" max="0.98" step="0.02" value="0"; }
                label { "Only" input #only placeholder="name" size="12"; }
            }
            div #curves data-source={ "/api/run?name=" (encode(&run.name)) } {}
        };
        Ok(page(app, Tab::Runs, &run.name, Some("run.js"), &body))
    });
    html(found.await)
}
