//! All dictionaries of the store.

use super::html;
use crate::{
    print,
    serve::{
        app::App,
        html::{Tab, page},
        url,
    },
};
use axum::{extract::State, response::Response};
use lm_saes::store::{AnalysisRecord, DictionaryRecord};
use maud::{Markup, html};
use std::sync::Arc;

/// `/`
pub async fn home(State(app): State<Arc<App>>) -> Response {
    let found = app.work(|app| {
        let mut all = Vec::new();
        for dictionary in app.store.dictionaries(None)? {
            let analyses = app.store.analyses(&dictionary.key)?;
            all.push((dictionary, analyses));
        }
        Ok(page(app, Tab::Dictionaries, "Dictionaries", None, &body(&all)))
    });
    html(found.await)
}

fn body(all: &[(DictionaryRecord, Vec<AnalysisRecord>)]) -> Markup {
    html! {
        h1 { "Dictionaries" }
        @if all.is_empty() {
            section.card.narrow {
                p { "This store is empty. Train a dictionary and analyse it:" }
                pre { "lm-saes train settings.toml\nlm-saes analyze settings.toml --store STORE" }
            }
        }
        ul.cards { @for (d, analyses) in all { li.card { (card(d, analyses)) } } }
    }
}

fn card(d: &DictionaryRecord, analyses: &[AnalysisRecord]) -> Markup {
    html! {
        h2 { a href=(url::dictionary(&d.key)) { (d.key.name) } }
        p.faint { "series " (d.key.series) }
        dl.facts { (facts(d)) }
        @for a in analyses {
            p.faint {
                "analysis " b { (a.name) } " · " (print::count(a.n_analyzed_tokens)) " tokens in " (print::count(a.n_contexts)) " contexts"
            }
        }
        @if analyses.is_empty() { p.faint { "not analysed yet" } }
    }
}

/// What a dictionary is, as far as its settings say.
pub fn facts(d: &DictionaryRecord) -> Markup {
    let text = |key: &str| match &d.cfg[key] {
        serde_json::Value::String(s) => Some(s.clone()),
        serde_json::Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    let read = text("hook_point_in");
    let written = text("hook_point_out").filter(|out| Some(out) != read.as_ref());
    let rows = [
        ("kind", text("sae_type")),
        ("features", Some(print::count(d.d_sae.into()))),
        ("width", text("d_model")),
        ("activation", text("act_fn")),
        ("k", text("top_k").filter(|_| text("act_fn").is_some_and(|a| a.contains("topk")))),
        ("reads", read),
        ("writes", written),
        ("model", d.model_name.clone()),
    ];
    html! {
        @for (name, value) in rows {
            @if let Some(value) = value { div { dt { (name) } dd { (value) } } }
        }
    }
}
