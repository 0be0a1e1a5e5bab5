//! Administration: how much there is, and every dictionary, analysis and run with what can be done to it.

use super::html;
use crate::{
    print,
    serve::{
        app::App,
        failure::Failure,
        html::{Tab, page},
        runs, url,
    },
};
use axum::{extract::State, response::Response};
use lm_saes::store::{AnalysisRecord, DictionaryRecord};
use maud::{Markup, html};
use serde::Serialize;
use std::sync::Arc;

/// How much a store holds, and the folder of runs.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    dictionaries: usize,
    analyses: usize,
    /// Of all dictionaries.
    features: u64,
    explained: usize,
    bookmarks: u64,
    lists: usize,
    runs: usize,
}

/// Counted now.
pub fn totals(app: &App) -> Result<Totals, Failure> {
    let mut t = Totals {
        bookmarks: app.store.bookmarks(None, 0, 0)?.1,
        lists: app.store.lists()?.len(),
        runs: app.runs.as_deref().map_or(0, |root| runs::find(root).len()),
        ..Totals::default()
    };
    for d in app.store.dictionaries(None)? {
        t.dictionaries += 1;
        t.features += u64::from(d.d_sae);
        t.analyses += app.store.analyses(&d.key)?.len();
        t.explained += app.store.interpretations(&d.key)?.len();
    }
    Ok(t)
}

/// `/admin`
pub async fn admin(State(app): State<Arc<App>>) -> Response {
    let found = app.work(|app| {
        let mut all = Vec::new();
        for d in app.store.dictionaries(None)? {
            let analyses = app.store.analyses(&d.key)?;
            all.push((d, analyses));
        }
        let body = html! {
            h1 { "Administration" }
            section.card { (counts(&totals(app)?)) }
            h2 { "Dictionaries" }
            @if all.is_empty() { p { "This store is empty." } }
            ol.hits { @for (d, analyses) in &all { li.card { (dictionary(d, analyses)) } } }
            @if let Some(root) = &app.runs {
                h2 { "Runs " span.faint { "below " (root.display().to_string()) } }
                ol.hits { @for run in runs::find(root) { li.card { (one_run(&run)) } } }
            }
        };
        Ok(page(app, Tab::Admin, "Administration", Some("admin.js"), &body))
    });
    html(found.await)
}

fn counts(t: &Totals) -> Markup {
    let all = [
        ("dictionaries", t.dictionaries as u64),
        ("analyses", t.analyses as u64),
        ("features", t.features),
        ("explained", t.explained as u64),
        ("bookmarks", t.bookmarks),
        ("lists", t.lists as u64),
        ("runs", t.runs as u64),
    ];
    html! { dl.facts #totals { @for (name, n) in all { div { dt { (name) } dd { (print::count(n)) } } } } }
}

/// A button that works once the name has been typed again.
fn removal(name: &str, api: &str, what: &str) -> Markup {
    html! {
        form.remove.row data-api=(api) data-name=(name) {
            input name="confirm" aria-label={ "Name of the " (what) " to remove" } placeholder="its name, to remove it" autocomplete="off" size="18";
            button disabled { "Remove " (what) }
        }
    }
}

fn dictionary(d: &DictionaryRecord, analyses: &[AnalysisRecord]) -> Markup {
    let address = url::dictionary(&d.key);
    let api = format!("/api{address}");
    let field = |name: &str, label: &str, value: &str| {
        html! { label { (label) input type="text" name=(name) value=(value) autocomplete="off" maxlength="400"; } }
    };
    html! {
        div.row { a href=(address) { (d.key.name) } span.faint { "series " (d.key.series) " · " (print::count(d.d_sae.into())) " features" } }
        form.edit.filter data-api=(api) {
            (field("name", "Name", &d.key.name))
            (field("path", "Folder", &d.path))
            (field("model_name", "Model", d.model_name.as_deref().unwrap_or_default()))
            button { "Save" }
        }
        @for a in analyses {
            div.row.analysis {
                span { "analysis " b { (a.name) } " " span.faint { (print::count(a.n_analyzed_tokens)) " tokens" } }
                (removal(&a.name, &format!("{api}/analyses/remove"), "analysis"))
            }
        }
        (removal(&d.key.name, &format!("{api}/remove"), "dictionary"))
    }
}

fn one_run(run: &runs::Run) -> Markup {
    html! {
        div.row { a href={ "/run?name=" (url::encode(&run.name)) } { (run.name) } span.faint { (print::bytes(run.bytes)) " of records" } }
        form.move.filter data-run=(run.name) {
            label { "New name of the folder" input type="text" name="rename" autocomplete="off" maxlength="400" required; }
            button { "Rename" }
        }
        (removal(&run.name, "/api/runs", "run"))
    }
}
