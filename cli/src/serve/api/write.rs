//! What the API changes, and live inference. The guard has seen to who may.

use super::json;
use crate::serve::{
    app::{App, now},
    failure::Failure,
    pages::AnalysisAsk,
};
use axum::{
    body::Bytes,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use lm_saes::store::{Bookmark, FeatureList, FeatureRef, Interpretation};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json as object};
use std::{collections::BTreeSet, sync::Arc};

/// Longest explanation or note, in bytes.
const LONGEST: usize = 20_000;
/// Longest name, in bytes.
pub(super) const LONGEST_NAME: usize = 400;
/// Most tags of a bookmark, and bytes of one.
const TAGS: (usize, usize) = (32, 200);
/// Most features of a list.
const MEMBERS: usize = 10_000;
/// Most features told of a token.
const PER_TOKEN: usize = 50;
/// Features whose strongest context is shown: looking each up takes its time.
const PREVIEWS: usize = 240;

/// An explanation; absent or empty, it is removed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplanationBody {
    text: Option<String>,
}

/// A bookmark to set, or to remove with `bookmarked` false.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BookmarkBody {
    bookmarked: bool,
    tags: Option<Vec<String>>,
    notes: Option<String>,
}

/// A list to make, to describe anew, or to remove.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListBody {
    name: String,
    notes: Option<String>,
    #[serde(default)]
    remove: bool,
}

/// A feature to add to a list, which is made where it is not there, or to take out of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberBody {
    list: String,
    /// A dictionary's path segment.
    dictionary: String,
    feature: u32,
    #[serde(default)]
    remove: bool,
}

/// A text to run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InferBody {
    text: String,
    /// Tell of this feature only.
    feature: Option<u32>,
}

pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| Failure::bad(format!("the body is not what this needs: {e}")))
}

pub(super) fn short(what: &str, text: &str, most: usize) -> Result<(), Failure> {
    if text.len() > most {
        return Err(Failure::bad(format!("{what} has {} bytes; at most {most} are kept", text.len())));
    }
    Ok(())
}

/// A feature that exists.
fn feature_ref(app: &App, key: &str, index: u32) -> Result<FeatureRef, Failure> {
    let dictionary = app.dictionary(key)?;
    if index >= dictionary.d_sae {
        let last = dictionary.d_sae.saturating_sub(1);
        return Err(Failure::missing(format!("{} has features 0 to {last}, not {index}", dictionary.key)));
    }
    Ok(FeatureRef { dictionary: dictionary.key, feature: index })
}

/// Sets or removes an explanation.
pub async fn explanation(
    State(app): State<Arc<App>>,
    Path((key, index)): Path<(String, u32)>,
    body: Bytes,
) -> Response {
    let found = app.work(move |app| {
        let body: ExplanationBody = read(&body)?;
        let feature = feature_ref(app, &key, index)?;
        let text = body.text.as_deref().map(str::trim).filter(|t| !t.is_empty());
        let Some(text) = text else {
            app.store.set_interpretation(&feature, None)?;
            return Ok(object!({ "text": null }));
        };
        short("the explanation", text, LONGEST)?;
        // Scores belonged to the text that was there before.
        let written =
            Interpretation { text: text.into(), explainer: "manual".into(), ..Interpretation::default() };
        app.store.set_interpretation(&feature, Some(&written))?;
        Ok(object!(written))
    });
    json(found.await)
}

/// Sets or removes a bookmark.
pub async fn bookmark(
    State(app): State<Arc<App>>,
    Path((key, index)): Path<(String, u32)>,
    body: Bytes,
) -> Response {
    let found = app.work(move |app| {
        let body: BookmarkBody = read(&body)?;
        let feature = feature_ref(app, &key, index)?;
        let _changing = app.changing();
        if !body.bookmarked {
            app.store.set_bookmark(&feature, None)?;
            return Ok(object!({ "bookmarked": false }));
        }
        let before = existing(app, &key, index)?;
        let tags = match body.tags {
            Some(tags) => clean(tags)?,
            None => before.as_ref().map(|b| b.tags.clone()).unwrap_or_default(),
        };
        let notes = match body.notes {
            Some(notes) => Some(notes.trim().to_owned()).filter(|n| !n.is_empty()),
            None => before.as_ref().and_then(|b| b.notes.clone()),
        };
        short("the note", notes.as_deref().unwrap_or_default(), LONGEST)?;
        let created_at = before.map_or_else(now, |b| b.created_at);
        let bookmark = Bookmark { tags, notes, created_at };
        app.store.set_bookmark(&feature, Some(&bookmark))?;
        Ok(object!({ "bookmarked": true, "bookmark": bookmark }))
    });
    json(found.await)
}

/// The bookmark a feature has.
fn existing(app: &App, key: &str, index: u32) -> Result<Option<Bookmark>, Failure> {
    let place = app.place(key, None)?;
    let Some(analysis) = &place.analysis else { return Ok(None) };
    Ok(app.store.feature(place.key(), &analysis.name, index)?.and_then(|f| f.bookmark))
}

/// Tags without empty ones and doubles, in the order given.
fn clean(tags: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut seen = BTreeSet::new();
    let tags = tags.into_iter().map(|t| t.trim().to_owned());
    let tags: Vec<String> = tags.filter(|t| !t.is_empty() && seen.insert(t.clone())).collect();
    if tags.len() > TAGS.0 {
        return Err(Failure::bad(format!("{} tags; at most {} are kept", tags.len(), TAGS.0)));
    }
    tags.iter().try_for_each(|t| short("a tag", t, TAGS.1))?;
    Ok(tags)
}

/// Makes, describes or removes a list.
pub async fn list(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: ListBody = read(&body)?;
        let name = body.name.trim();
        let _changing = app.changing();
        let known = app.store.lists()?.into_iter().find(|l| l.name == body.name || l.name == name);
        if body.remove {
            let known = known.ok_or_else(|| Failure::missing(format!("no list {:?}", body.name)))?;
            app.store.remove_list(&known.name)?;
            return Ok(object!({ "removed": known.name }));
        }
        let mut list = match known {
            Some(list) => list,
            None => FeatureList { name: named(name)?, ..FeatureList::default() },
        };
        if let Some(notes) = body.notes {
            short("the note", &notes, LONGEST)?;
            list.notes = notes.trim().into();
        }
        app.store.put_list(&list)?;
        Ok(object!(list))
    });
    json(found.await)
}

fn named(name: &str) -> Result<String, Failure> {
    if name.is_empty() {
        return Err(Failure::bad("a list needs a name"));
    }
    short("the name", name, LONGEST_NAME)?;
    Ok(name.into())
}

/// Adds a feature to a list or takes it out.
pub async fn member(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: MemberBody = read(&body)?;
        let feature = feature_ref(app, &body.dictionary, body.feature)?;
        let _changing = app.changing();
        let known = app.store.lists()?.into_iter().find(|l| l.name == body.list.trim());
        let mut list = match known {
            Some(list) => list,
            None if body.remove => return Err(Failure::missing(format!("no list {:?}", body.list))),
            None => FeatureList { name: named(body.list.trim())?, ..FeatureList::default() },
        };
        list.features.retain(|f| *f != feature);
        if !body.remove {
            if list.features.len() >= MEMBERS {
                return Err(Failure::bad(format!("the list has {MEMBERS} features; make another")));
            }
            list.features.push(feature);
        }
        app.store.put_list(&list)?;
        Ok(object!(list))
    });
    json(found.await)
}

/// Runs a text: its tokens, what is active on each, and what is known of those features.
pub async fn infer(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    Query(which): Query<AnalysisAsk>,
    body: Bytes,
) -> Response {
    match answer(app, key, which, body).await {
        Ok(value) => json(Ok(value)),
        Err(f) => f.into_response(),
    }
}

async fn answer(app: Arc<App>, key: String, which: AnalysisAsk, body: Bytes) -> Result<Value, Failure> {
    let body: InferBody = read(&body)?;
    let place = app.clone().work(move |app| app.place(&key, which.analysis.as_deref())).await?;
    let analysis = place.analysis()?.clone();
    let mut tokens = app.live.ask(place.dictionary.clone(), analysis.clone(), body.text).await?;
    for t in &mut tokens {
        t.features.retain(|(f, _)| body.feature.is_none_or(|only| only == *f));
        t.features.truncate(PER_TOKEN);
    }
    app.work(move |app| {
        let overview = app.store.overview(place.key(), &analysis.name)?.unwrap_or_default();
        let explanations = app.store.interpretations(place.key())?;
        let mut active: Vec<(u32, f32)> = tokens.iter().flat_map(|t| t.features.iter().copied()).collect();
        active.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        let mut seen = BTreeSet::new();
        active.retain(|(f, _)| seen.insert(*f));
        let mut features = Map::new();
        for (rank, (f, _)) in active.into_iter().enumerate() {
            let preview = match rank {
                ..PREVIEWS => app.store.feature(place.key(), &analysis.name, f)?.map(|f| f.analysis.preview),
                _ => None,
            };
            let known = object!({
                "preview": preview,
                "max_act": overview.max_acts.get(f as usize),
                "act_times": overview.act_times.get(f as usize),
                "explanation": explanations.get(&f).map(|i| &i.text),
            });
            features.insert(f.to_string(), known);
        }
        Ok(object!({ "tokens": tokens, "n_analyzed_tokens": analysis.n_analyzed_tokens, "features": features }))
    })
    .await
}
