//! What people keep: bookmarks and lists.

use super::html;
use crate::{
    print,
    serve::{
        app::App,
        failure::Failure,
        html::{Tab, page, pager, stretch},
        url::{self, encode, segment},
    },
};
use axum::{
    extract::{Query, State},
    response::Response,
};
use lm_saes::store::{Bookmark, Feature, FeatureRef};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

const PER_PAGE: u64 = 25;

/// Which bookmarks.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BookmarksAsk {
    /// A dictionary's path segment; absent, all.
    pub d: String,
    pub page: Option<u64>,
}

/// Which list.
#[derive(Debug, Deserialize)]
pub struct ListAsk {
    name: String,
}

/// `/bookmarks`
pub async fn bookmarks(State(app): State<Arc<App>>, Query(ask): Query<BookmarksAsk>) -> Response {
    let found = app.work(move |app| {
        let key = if ask.d.is_empty() { None } else { Some(app.dictionary(&ask.d)?.key) };
        let at = ask.page.unwrap_or(1).clamp(1, 1 << 40);
        let (found, total) = app.store.bookmarks(key.as_ref(), (at - 1) * PER_PAGE, PER_PAGE)?;
        let all = app.store.dictionaries(None)?;
        let body = html! {
            h1 { "Bookmarks" }
            form.filter {
                label { "of"
                    select name="d" {
                        option value="" selected[ask.d.is_empty()] { "all dictionaries" }
                        @for d in &all {
                            @let s = segment(&d.key);
                            option value=(s) selected[s == ask.d] { (d.key.name) " (" (d.key.series) ")" }
                        }
                    }
                }
                button { "Show" }
            }
            p.faint { b #total { (print::count(total)) } " bookmarks" }
            @if total == 0 { p { "Star a feature to find it here." } }
            ol.hits { @for (feature, bookmark) in &found { (bookmarked(app, feature, bookmark)?) } }
            (pager(at, total.div_ceil(PER_PAGE), |p| format!("/bookmarks?d={}&page={p}", encode(&ask.d))))
        };
        Ok(page(app, Tab::Bookmarks, "Bookmarks", Some("marks.js"), &body))
    });
    html(found.await)
}

fn bookmarked(app: &App, at: &FeatureRef, b: &Bookmark) -> Result<Markup, Failure> {
    let api = format!("{}/f/{}/bookmark", url::dictionary(&at.dictionary), at.feature);
    Ok(html! {
        li.card {
            div.row {
                (link(at))
                button.quiet.unmark type="button" data-api={ "/api" (api) } { "Remove" }
            }
            @if !b.tags.is_empty() { p.tags { @for tag in &b.tags { span.tag { (tag) } } } }
            @if let Some(notes) = &b.notes { p.notes { (notes) } }
            (glance(app, at)?)
        }
    })
}

fn link(at: &FeatureRef) -> Markup {
    let address = format!("{}/f/{}", url::dictionary(&at.dictionary), at.feature);
    html! { a href=(address) { (at.dictionary.name) " #" (at.feature) } }
}

/// What a feature is about, in one or two lines.
fn glance(app: &App, at: &FeatureRef) -> Result<Markup, Failure> {
    let place = app.place(&segment(&at.dictionary), None)?;
    let found: Option<Feature> = match &place.analysis {
        Some(a) => app.store.feature(&at.dictionary, &a.name, at.feature)?,
        None => None,
    };
    Ok(html! {
        @if let Some(f) = found {
            @if let Some(i) = &f.interpretation { p.says { (i.text) } }
            (stretch(&f.analysis.preview, f.analysis.max_act))
        }
    })
}

/// `/lists`
pub async fn lists(State(app): State<Arc<App>>) -> Response {
    let found = app.work(|app| {
        let all = app.store.lists()?;
        let body = html! {
            h1 { "Lists" }
            form #newlist.card.filter {
                input name="name" placeholder="Name of a new list" aria-label="Name of a new list" maxlength="200" required;
                input name="notes" placeholder="What it is about" aria-label="What it is about" maxlength="10000";
                button { "Make" }
            }
            @if all.is_empty() { p { "A list keeps features in order, also of several dictionaries." } }
            ol.hits {
                @for list in &all {
                    li.card {
                        a href={ "/list?name=" (encode(&list.name)) } { (list.name) }
                        " " span.faint { (list.features.len()) " features" }
                        @if !list.notes.is_empty() { p.notes { (list.notes) } }
                    }
                }
            }
        };
        Ok(page(app, Tab::Lists, "Lists", Some("marks.js"), &body))
    });
    html(found.await)
}

/// `/list?name=NAME`
pub async fn list(State(app): State<Arc<App>>, Query(ask): Query<ListAsk>) -> Response {
    let found = app.work(move |app| {
        let all = app.store.lists()?;
        let list = all.iter().find(|l| l.name == ask.name);
        let list = list.ok_or_else(|| Failure::missing(format!("no list {:?}", ask.name)))?;
        let body = html! {
            p.crumbs { a href="/lists" { "Lists" } }
            div.row { h1 { (list.name) } button.quiet #removelist type="button" data-list=(list.name) { "Remove the list" } }
            @if !list.notes.is_empty() { p.notes { (list.notes) } }
            @if list.features.is_empty() { p { "Empty: bookmark a feature, then add it here from its page." } }
            ol.hits {
                @for at in &list.features {
                    li.card {
                        div.row {
                            (link(at))
                            button.quiet.unlist type="button" data-list=(list.name) data-dictionary=(segment(&at.dictionary)) data-feature=(at.feature) { "Remove" }
                        }
                        (glance(app, at)?)
                    }
                }
            }
        };
        Ok(page(app, Tab::Lists, &list.name, Some("marks.js"), &body))
    });
    html(found.await)
}
