//! One dictionary: how often and how strongly its features fire, and a list of them, filtered and sorted.

use super::{AnalysisAsk, home, html, redirect};
use crate::{
    print,
    serve::{
        app::{App, Place, draw},
        failure::Failure,
        html::{Tab, analyses, density_bars, number, page, pager, percent, stretch},
        url::encode,
    },
};
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use lm_saes::store::{AnalysisRecord, FeatureFilter, FeatureQuery, FeatureSummary, SortBy};
use maud::{Markup, html};
use serde::Deserialize;
use std::sync::Arc;

const PER_PAGE: u64 = 25;

/// Which features: what the form sends, so numbers are text that may be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FilterAsk {
    /// All, also those that never fired.
    pub silent: String,
    pub min_percent: String,
    pub max_percent: String,
    pub min_max: String,
    pub max_max: String,
    pub explained: String,
    pub bookmarked: String,
    /// `index`, `density` or `max`.
    pub sort: String,
    /// `asc` or `desc`.
    pub order: String,
    pub page: String,
    pub per_page: String,
}

impl FilterAsk {
    /// What is not empty, for an address; `page` apart.
    fn query(&self, page: u64) -> String {
        let page = if page > 1 { page.to_string() } else { String::new() };
        let parts = [
            ("silent", &self.silent),
            ("min_percent", &self.min_percent),
            ("max_percent", &self.max_percent),
            ("min_max", &self.min_max),
            ("max_max", &self.max_max),
            ("explained", &self.explained),
            ("bookmarked", &self.bookmarked),
            ("sort", &self.sort),
            ("order", &self.order),
            ("page", &page),
        ];
        let given = parts.into_iter().filter(|(_, v)| !v.is_empty());
        given.map(|(k, v)| format!("{k}={}", encode(v))).collect::<Vec<_>>().join("&")
    }

    /// The number of the page, from 1.
    pub fn page(&self) -> Result<u64, Failure> {
        let page = parse::<u64>("page", &self.page)?.unwrap_or(1);
        // Far beyond any list, and safe to multiply.
        Ok(page.clamp(1, 1 << 40))
    }

    /// The page of the list that is asked for.
    pub fn list(&self, analysis: &AnalysisRecord, usual: u64) -> Result<FeatureQuery, Failure> {
        let limit = parse::<u64>("per_page", &self.per_page)?.unwrap_or(usual).clamp(1, 200);
        let sort = match self.sort.as_str() {
            "" | "index" => SortBy::Index,
            "density" => SortBy::ActTimes,
            "max" => SortBy::MaxAct,
            other => return Err(Failure::bad(format!("sort is index, density or max, not {other:?}"))),
        };
        let descending = match self.order.as_str() {
            "" | "asc" => false,
            "desc" => true,
            other => return Err(Failure::bad(format!("order is asc or desc, not {other:?}"))),
        };
        let offset = (self.page()? - 1) * limit;
        Ok(FeatureQuery { filter: filter(self, analysis)?, sort, descending, offset, limit })
    }
}

fn parse<T: std::str::FromStr>(name: &str, text: &str) -> Result<Option<T>, Failure> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Failure::bad(format!("{name} is a number, not {text:?}")))
}

/// What is asked for, in tokens of this analysis.
fn filter(ask: &FilterAsk, analysis: &AnalysisRecord) -> Result<FeatureFilter, Failure> {
    let tokens = |name, text: &str| -> Result<Option<f64>, Failure> {
        Ok(parse::<f64>(name, text)?.map(|p| p / 100.0 * analysis.n_analyzed_tokens as f64))
    };
    let choice = |name: &str, text: &str| match text {
        "" => Ok(None),
        "yes" => Ok(Some(true)),
        "no" => Ok(Some(false)),
        other => Err(Failure::bad(format!("{name} is yes or no, not {other:?}"))),
    };
    // A bound that is a whole number of tokens stays one in spite of rounding.
    let (up, down) = (|n: f64| (n - 1e-6).ceil() as u64, |n: f64| (n + 1e-6).floor() as u64);
    Ok(FeatureFilter {
        alive: ask.silent.is_empty(),
        min_act_times: tokens("min_percent", &ask.min_percent)?.map(up),
        max_act_times: tokens("max_percent", &ask.max_percent)?.map(down),
        min_max_act: parse("min_max", &ask.min_max)?,
        max_max_act: parse("max_max", &ask.max_max)?,
        explained: choice("explained", &ask.explained)?,
        bookmarked: choice("bookmarked", &ask.bookmarked)?,
    })
}

/// `/d/KEY`
pub async fn dictionary(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    Query(ask): Query<FilterAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        let body = match &place.analysis {
            Some(analysis) => overview(app, &place, analysis, &ask)?,
            None => html! {
                (title(&place))
                section.card.narrow {
                    p { "This dictionary has not been analysed. Do it with" }
                    pre { "lm-saes analyze " (place.dictionary.path) }
                }
            },
        };
        Ok(page(app, Tab::Dictionaries, &place.key().name, Some("overview.js"), &body))
    });
    html(found.await)
}

/// A feature that passes the filter, drawn evenly.
pub fn any(app: &App, place: &Place, ask: &FilterAsk) -> Result<u32, Failure> {
    let analysis = place.analysis()?;
    let filter = filter(ask, analysis)?;
    let index = app.store.random_feature(place.key(), &analysis.name, &filter, draw())?;
    index.ok_or_else(|| Failure::missing("no feature passes this filter; widen it"))
}

/// `/d/KEY/random`
pub async fn random(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    Query(ask): Query<FilterAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        Ok(place.feature(any(app, &place, &ask)?))
    });
    redirect(found.await)
}

fn title(place: &Place) -> Markup {
    html! {
        header.title {
            p.crumbs { a href="/" { "Dictionaries" } " / " (place.key().series) }
            h1 { (place.key().name) }
            dl.facts { (home::facts(&place.dictionary)) }
            (analyses(place, ""))
        }
    }
}

fn overview(app: &App, place: &Place, analysis: &AnalysisRecord, ask: &FilterAsk) -> Result<Markup, Failure> {
    let densities = app.densities(place, analysis)?;
    let alive: u64 = densities.iter().map(|&n| u64::from(n)).sum();
    let query = ask.list(analysis, PER_PAGE)?;
    let found = app.store.features(place.key(), &analysis.name, &query)?;
    let random =
        Place::with(&place.at("/random"), &FilterAsk { page: String::new(), ..ask.clone() }.query(1));
    Ok(html! {
        (title(place))
        div.actions {
            a.button #random href=(random) { "Random feature" }
            a.button href=(place.at("/infer")) { "Try text" }
            (jump(place))
        }
        div.two {
            section.card {
                h2 { "Features" }
                p.faint {
                    b { (print::count(alive)) } " of " (print::count(analysis.d_sae.into())) " fired on "
                    (print::count(analysis.n_analyzed_tokens)) " tokens in " (print::count(analysis.n_contexts)) " contexts"
                }
                (density_bars(&densities, None))
            }
            section.card {
                h2 { "Density and maximum" }
                figure #scatter data-source=(place.api("/overview.bin")) data-page=(place.at("/f/INDEX")) data-tokens=(analysis.n_analyzed_tokens) {
                    canvas width="640" height="300" tabindex="0" role="img" aria-label="Every feature by the share of tokens it fires on and its largest activation" {}
                    figcaption.faint { "Each point is a feature: click to open it, drag a rectangle to list those inside." }
                }
            }
        }
        (form(place, ask))
        (list(place, analysis, ask, &query, &found.features, found.total)?)
    })
}

/// A field that leads to a feature.
pub fn jump(place: &Place) -> Markup {
    html! {
        form.jump action=(crate::serve::url::dictionary(place.key()) + "/f") {
            @if let Some(name) = place.hidden() { input type="hidden" name="analysis" value=(name); }
            label for="goto" { "Feature" }
            input #goto name="i" type="number" min="0" max=(place.dictionary.d_sae.saturating_sub(1)) required placeholder="index";
            button { "Go" }
        }
    }
}

fn form(place: &Place, ask: &FilterAsk) -> Markup {
    let choice = |name: &str, label: &str, value: &str| {
        html! {
            label { (label)
                select name=(name) {
                    option value="" selected[value.is_empty()] { "either" }
                    option value="yes" selected[value == "yes"] { "yes" }
                    option value="no" selected[value == "no"] { "no" }
                }
            }
        }
    };
    let field = |name: &str, label: &str, value: &str| {
        html! { input name=(name) aria-label=(label) placeholder=(label) value=(value) inputmode="decimal" size="8" maxlength="24"; }
    };
    html! {
        form #filter.card.filter action=(crate::serve::url::dictionary(place.key())) {
            @if let Some(name) = place.hidden() { input type="hidden" name="analysis" value=(name); }
            fieldset { legend { "Fires on, % of tokens" }
                (field("min_percent", "at least", &ask.min_percent)) "–" (field("max_percent", "at most", &ask.max_percent))
            }
            fieldset { legend { "Maximum activation" }
                (field("min_max", "at least", &ask.min_max)) "–" (field("max_max", "at most", &ask.max_max))
            }
            (choice("explained", "Explained", &ask.explained))
            (choice("bookmarked", "Bookmarked", &ask.bookmarked))
            label { "Sort by"
                select name="sort" {
                    option value="" selected[ask.sort.is_empty()] { "index" }
                    option value="density" selected[ask.sort == "density"] { "density" }
                    option value="max" selected[ask.sort == "max"] { "maximum" }
                }
            }
            label { "Order"
                select name="order" {
                    option value="" selected[ask.order.is_empty()] { "smallest first" }
                    option value="desc" selected[ask.order == "desc"] { "largest first" }
                }
            }
            label.check { input type="checkbox" name="silent" value="1" checked[!ask.silent.is_empty()]; "those that never fired too" }
            button { "Filter" }
            a.quiet href=(place.url()) { "Reset" }
        }
    }
}

fn list(
    place: &Place,
    analysis: &AnalysisRecord,
    ask: &FilterAsk,
    query: &FeatureQuery,
    features: &[FeatureSummary],
    total: u64,
) -> Result<Markup, Failure> {
    let pages = total.div_ceil(query.limit);
    let at = ask.page()?;
    let pages = pager(at, pages, |p| Place::with(&place.url(), &ask.query(p)));
    Ok(html! {
        section #list {
            p.faint { b #total { (print::count(total)) } " features" }
            (rows(place, analysis, features))
            @if features.is_empty() { p { "None passes this filter." } }
            (pages)
        }
    })
}

/// Features as a list.
pub fn rows(place: &Place, analysis: &AnalysisRecord, features: &[FeatureSummary]) -> Markup {
    let tokens = analysis.n_analyzed_tokens.max(1) as f64;
    html! {
        div.columns aria-hidden="true" { span { "feature" } span {} span { "strongest context" } span.num { "density" } span.num { "maximum" } }
        ol.features {
            @for f in features {
                li {
                    a.index href=(place.feature(f.index)) { (f.index) }
                    span.star title="bookmarked" { @if f.bookmarked { "★" } }
                    div.what {
                        @if let Some(text) = &f.explanation { p.says { (text) } }
                        @if f.preview.is_empty() { p.faint { "never fired" } }
                        (stretch(&f.preview, f.max_act))
                    }
                    span.num title="share of tokens" { (percent(f.act_times as f64 / tokens)) }
                    span.num title="maximum activation" { (number(f.max_act.into())) }
                }
            }
        }
    }
}
