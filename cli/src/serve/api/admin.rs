//! What administration changes: dictionaries and runs renamed, moved and removed. The guard has seen to who may; what cannot be
//! taken back has to be named a second time.

use super::{
    json,
    write::{LONGEST_NAME, read, short},
};
use crate::serve::{app::App, failure::Failure, pages::totals, runs, url::segment};
use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use lm_saes::{
    runners::{self, RunFolder},
    settings::{PretrainedSettings, from_tree},
    store::DictionaryKey,
};
use serde::Deserialize;
use serde_json::json as object;
use std::sync::Arc;

/// What to change of a dictionary; what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditBody {
    name: Option<String>,
    path: Option<String>,
    /// Empty, none is recorded.
    model_name: Option<String>,
}

/// The name of what goes, once more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveBody {
    confirm: String,
}

/// An analysis to remove.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnalysisBody {
    analysis: String,
    confirm: String,
}

/// A run to rename, or to remove with its name in `confirm`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunBody {
    name: String,
    rename: Option<String>,
    confirm: Option<String>,
}

fn conflict(e: &lm_saes::Error) -> Failure {
    Failure::new(StatusCode::CONFLICT, e.to_string())
}

fn confirmed(name: &str, said: &str) -> Result<(), Failure> {
    match said == name {
        true => Ok(()),
        false => Err(Failure::bad(format!("confirm has to be {name:?}, the name of what goes"))),
    }
}

/// How much there is.
pub async fn stats(State(app): State<Arc<App>>) -> Response {
    json(app.work(|app| Ok(object!(totals(app)?))).await)
}

/// Renames a dictionary, or says where it is now and what model it belongs to.
pub async fn edit(State(app): State<Arc<App>>, Path(key): Path<String>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: EditBody = read(&body)?;
        let _changing = app.changing();
        let mut record = app.dictionary(&key)?;
        let name = body.name.as_deref().map(str::trim).filter(|n| *n != record.key.name);
        if let Some(name) = name {
            short("the name", name, LONGEST_NAME)?;
            if name.is_empty() {
                return Err(Failure::bad("a dictionary needs a name"));
            }
            let wanted = DictionaryKey::new(name, &record.key.series);
            if app.store.dictionary(&wanted)?.is_some() {
                let message = format!("there is a dictionary {wanted} already; choose another name");
                return Err(Failure::new(StatusCode::CONFLICT, message));
            }
        }
        let mut changed = false;
        if let Some(path) = body.path.as_deref().map(str::trim).filter(|p| *p != record.path) {
            let sae: PretrainedSettings = from_tree(&object!({ "pretrained_name_or_path": path }))
                .map_err(|e| Failure::bad(e.to_string()))?;
            let model = record.model_name.clone();
            let found = runners::describe(&sae, record.key.clone(), model)
                .map_err(|e| Failure::bad(e.to_string()))?;
            if found.d_sae != record.d_sae {
                let message =
                    format!("{path} has {} features, {} has {}", found.d_sae, record.key, record.d_sae);
                return Err(Failure::bad(message));
            }
            (record, changed) = (found, true);
        }
        if let Some(model) = body.model_name {
            short("the model's name", &model, LONGEST_NAME)?;
            let model = Some(model.trim().to_owned()).filter(|m| !m.is_empty());
            changed |= model != record.model_name;
            record.model_name = model;
        }
        if changed {
            app.store.put_dictionary(&record)?;
        }
        if let Some(name) = name {
            app.store.rename_dictionary(&record.key, name)?;
            record.key.name = name.into();
        }
        Ok(object!({ "dictionary": record, "segment": segment(&record.key) }))
    });
    json(found.await)
}

/// Removes a dictionary with everything known about it.
pub async fn remove(State(app): State<Arc<App>>, Path(key): Path<String>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: RemoveBody = read(&body)?;
        let _changing = app.changing();
        let key = app.dictionary(&key)?.key;
        confirmed(&key.name, &body.confirm)?;
        app.store.remove_dictionary(&key)?;
        Ok(object!({ "removed": key }))
    });
    json(found.await)
}

/// Removes an analysis.
pub async fn remove_analysis(State(app): State<Arc<App>>, Path(key): Path<String>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: AnalysisBody = read(&body)?;
        let _changing = app.changing();
        let place = app.place(&key, Some(&body.analysis))?;
        let analysis = place.analysis()?;
        confirmed(&analysis.name, &body.confirm)?;
        app.store.remove_analysis(place.key(), &analysis.name)?;
        Ok(object!({ "removed": place.key(), "analysis": analysis.name }))
    });
    json(found.await)
}

/// Renames or removes a training run.
pub async fn run(State(app): State<Arc<App>>, body: Bytes) -> Response {
    let found = app.work(move |app| {
        let body: RunBody = read(&body)?;
        let _changing = app.changing();
        let run = runs::named(app.runs.as_deref(), &body.name)?;
        if run.name == "." {
            return Err(Failure::bad("this is the folder of all runs; rename or remove it from a terminal"));
        }
        let folder = RunFolder::open(run.folder()).map_err(|e| conflict(&e))?;
        match (body.rename.as_deref().map(str::trim), body.confirm) {
            (Some(new), None) => {
                short("the name", new, LONGEST_NAME)?;
                folder.rename(new).map_err(|e| conflict(&e))?;
                Ok(object!({ "renamed": run.name, "to": new }))
            }
            (None, Some(said)) => {
                confirmed(&run.name, &said)?;
                folder.remove()?;
                Ok(object!({ "removed": run.name }))
            }
            _ => Err(Failure::bad("say either what to rename it to, or confirm that it goes")),
        }
    });
    json(found.await)
}
