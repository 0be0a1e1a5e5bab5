//! What the API tells.

use super::json;
use crate::serve::{
    app::App,
    failure::Failure,
    pages::{AnalysisAsk, BookmarksAsk, FilterAsk, RunAsk, SearchAsk, any, find_feature, hits},
    runs as run_files,
};
use axum::{
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use lm_saes::store::Overview;
use serde_json::{Value, json as object};
use std::sync::Arc;

const PER_PAGE: u64 = 25;

/// All dictionaries with their analyses.
pub async fn dictionaries(State(app): State<Arc<App>>) -> Response {
    let found = app.work(|app| {
        let mut all: Vec<Value> = Vec::new();
        for d in app.store.dictionaries(None)? {
            let analyses = app.store.analyses(&d.key)?;
            all.push(object!({ "dictionary": d, "analyses": analyses }));
        }
        Ok(all)
    });
    json(found.await)
}

/// One of them.
pub async fn dictionary(State(app): State<Arc<App>>, Path(key): Path<String>) -> Response {
    let found = app.work(move |app| {
        let d = app.dictionary(&key)?;
        let analyses = app.store.analyses(&d.key)?;
        Ok(object!({ "dictionary": d, "analyses": analyses }))
    });
    json(found.await)
}

/// Density and maximum of every feature.
pub async fn overview(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
) -> Response {
    json(numbers(app, key, which).await.map(|(tokens, o)| {
        object!({ "n_analyzed_tokens": tokens, "act_times": o.act_times, "max_acts": o.max_acts })
    }))
}

/// Tokens that counted, and the two numbers of every feature.
async fn numbers(app: Arc<App>, key: String, which: AnalysisAsk) -> Result<(u64, Overview), Failure> {
    app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        let analysis = place.analysis()?;
        let all = app.store.overview(place.key(), &analysis.name)?.unwrap_or_default();
        Ok((analysis.n_analyzed_tokens, all))
    })
    .await
}

/// The same as bytes: all counts as u32, then all maxima as f32, little end first.
pub async fn overview_bytes(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
) -> Response {
    match numbers(app, key, which).await {
        Ok((_, o)) => {
            let counts = o.act_times.iter().flat_map(|n| n.to_le_bytes());
            let bytes: Vec<u8> = counts.chain(o.max_acts.iter().flat_map(|m| m.to_le_bytes())).collect();
            ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
        }
        Err(f) => f.into_response(),
    }
}

/// A page of the list.
pub async fn features(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    Query(ask): Query<FilterAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        let analysis = place.analysis()?;
        Ok(app.store.features(place.key(), &analysis.name, &ask.list(analysis, PER_PAGE)?)?)
    });
    json(found.await.map(|p| object!({ "total": p.total, "features": p.features })))
}

/// The index of one that passes the filter.
pub async fn random(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    Query(ask): Query<FilterAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        any(app, &place, &ask)
    });
    json(found.await.map(|index| object!({ "feature": index })))
}

/// Everything about one.
pub async fn feature(
    State(app): State<Arc<App>>,
    Path((key, index)): Path<(String, u32)>,
    Query(which): Query<AnalysisAsk>,
) -> Response {
    let found = app.work(move |app| {
        let place = app.place(&key, which.analysis.as_deref())?;
        let (_, feature) = find_feature(app, &place, index)?;
        Ok(feature)
    });
    json(found.await)
}

/// Features by words.
pub async fn search(State(app): State<Arc<App>>, Query(ask): Query<SearchAsk>) -> Response {
    json(app.work(move |app| hits(app, &ask)).await)
}

/// Bookmarks, newest first.
pub async fn bookmarks(State(app): State<Arc<App>>, Query(ask): Query<BookmarksAsk>) -> Response {
    let found = app.work(move |app| {
        let key = if ask.d.is_empty() { None } else { Some(app.dictionary(&ask.d)?.key) };
        let at = ask.page.unwrap_or(1).clamp(1, 1 << 40);
        let (all, total) = app.store.bookmarks(key.as_ref(), (at - 1) * PER_PAGE, PER_PAGE)?;
        let all: Vec<Value> =
            all.into_iter().map(|(f, b)| object!({ "feature": f, "bookmark": b })).collect();
        Ok(object!({ "total": total, "bookmarks": all }))
    });
    json(found.await)
}

/// All lists.
pub async fn lists(State(app): State<Arc<App>>) -> Response {
    json(app.work(|app| Ok(app.store.lists()?)).await)
}

/// Training runs.
pub async fn runs(State(app): State<Arc<App>>) -> Response {
    json(app.work(|app| Ok(app.runs.as_deref().map(run_files::find).unwrap_or_default())).await)
}

/// Records of one.
pub async fn run(State(app): State<Arc<App>>, Query(ask): Query<RunAsk>) -> Response {
    let found = app.work(move |app| {
        let run = run_files::named(app.runs.as_deref(), &ask.name)?;
        run_files::records(&run, ask.from)
    });
    json(found.await)
}
