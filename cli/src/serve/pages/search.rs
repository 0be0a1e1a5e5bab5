//! Search over explanations, and over the tokens features peak on and promote.

use super::html;
use crate::serve::{
    app::{App, Place},
    failure::Failure,
    html::{Tab, page, visible},
    url::{self, encode},
};
use axum::{
    extract::{Query, State},
    response::Response,
};
use lm_saes::store::{DictionaryKey, DictionaryRecord, SearchHit};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

/// Most hits shown.
pub const MOST: usize = 100;

/// What to search, and where.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SearchAsk {
    pub q: String,
    /// A dictionary's path segment; absent, all.
    pub d: String,
    pub analysis: Option<String>,
}

/// What was found, of one dictionary or all.
pub fn hits(app: &App, ask: &SearchAsk) -> Result<Vec<SearchHit>, Failure> {
    if ask.q.chars().count() > 200 {
        return Err(Failure::bad("search for at most 200 characters"));
    }
    let key: Option<DictionaryKey> = if ask.d.is_empty() { None } else { Some(app.dictionary(&ask.d)?.key) };
    let analysis = ask.analysis.as_deref().filter(|a| !a.is_empty()).unwrap_or("default");
    Ok(app.store.search(key.as_ref(), analysis, &ask.q, MOST)?)
}

/// `/search`
pub async fn search(State(app): State<Arc<App>>, Query(ask): Query<SearchAsk>) -> Response {
    let found = app.work(move |app| {
        let hits = hits(app, &ask)?;
        let all = app.store.dictionaries(None)?;
        Ok(page(app, Tab::None, "Search", None, &body(&ask, &all, &hits)))
    });
    html(found.await)
}

fn body(ask: &SearchAsk, all: &[DictionaryRecord], hits: &[SearchHit]) -> Markup {
    html! {
        h1 { "Search" }
        form.card.filter action="/search" {
            input name="q" value=(ask.q) aria-label="Words" placeholder="Words" maxlength="200" autofocus;
            label { "in"
                select name="d" {
                    option value="" selected[ask.d.is_empty()] { "all dictionaries" }
                    @for d in all {
                        @let segment = url::segment(&d.key);
                        option value=(segment) selected[segment == ask.d] { (d.key.name) " (" (d.key.series) ")" }
                    }
                }
            }
            button { "Search" }
        }
        @if !ask.q.trim().is_empty() {
            p.faint {
                @if hits.len() == MOST { "The first " (MOST) " features" } @else { b #total { (hits.len()) } " features" }
                " whose explanation or tokens have all of these words, the last as a beginning."
            }
        }
        ol.hits {
            @for hit in hits {
                @let key = &hit.feature.dictionary;
                @let address = format!("{}/f/{}", url::dictionary(key), hit.feature.feature);
                @let address = match ask.analysis.as_deref() {
                    Some(a) if !a.is_empty() && a != "default" => Place::with(&address, &format!("analysis={}", encode(a))),
                    _ => address,
                };
                li.card {
                    a href=(address) { (key.name) " #" (hit.feature.feature) }
                    @if let Some(text) = &hit.explanation { p.says { (marked(text, &ask.q)) } }
                    @if let Some(tokens) = &hit.tokens { p.faint.tokens { (marked(&visible(tokens), &ask.q)) } }
                }
            }
        }
    }
}

/// `text` with the words searched for standing out, the last also as the beginning of one.
fn marked(text: &str, query: &str) -> Markup {
    let words: Vec<String> = query
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect();
    let hit = |piece: &str| {
        let piece = piece.to_lowercase();
        words.iter().enumerate().any(|(i, w)| piece == *w || (i + 1 == words.len() && piece.starts_with(w)))
    };
    let mut pieces: Vec<&str> = Vec::new();
    let mut from = 0;
    let mut inside = None;
    for (at, c) in text.char_indices() {
        let now = c.is_alphanumeric();
        if inside.is_some_and(|was| was != now) {
            pieces.push(&text[from..at]);
            from = at;
        }
        inside = Some(now);
    }
    pieces.push(&text[from..]);
    html! { @for piece in pieces { @if hit(piece) { mark { (piece) } } @else { (piece) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_found_stand_out_and_everything_is_escaped() {
        let html = marked("<b>Cats & catalogue</b>, dog", "dog cat").into_string();
        assert_eq!(
            html,
            "&lt;b&gt;<mark>Cats</mark> &amp; <mark>catalogue</mark>&lt;/b&gt;, <mark>dog</mark>"
        );
    }
}
