//! Names of dictionaries: a path on disk, `repository:path` on the hub, or `release:name` of the registry; in this order, as the
//! reference system resolves them (CHECKPOINTS §6).

use super::{
    client::Hub,
    place::{Facts, Folder, Place},
    readers,
    registry::Registry,
};
use crate::{
    Error, Result,
    dictionary::{
        self,
        checkpoint::{self, CONFIG, LoadOptions, Loaded},
    },
    parallel::Mesh,
    settings::{DictionarySettings, NormActivation},
};
use lm_saes_runtime::Queue;
use serde_json::{Map, Value};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// How a dictionary is opened.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOptions {
    /// Require exactly the expected tensors and keys.
    pub strict: bool,
    /// Fold the data-set norms into the weights, where the dictionary is of that mode.
    pub fold: bool,
    /// What the user knows beside the files.
    pub facts: Facts,
    /// Branch, tag or commit of a repository.
    pub revision: String,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { strict: true, fold: false, facts: Facts::default(), revision: "main".into() }
    }
}

/// A dictionary by name.
///
/// # Errors
/// A name that is nowhere, files of no known form, or what their reader refuses.
pub fn open(q: &mut Queue, hub: &Rc<Hub>, name: &str, options: &OpenOptions) -> Result<Loaded> {
    open_on(q, hub, name, options, &Mesh::solo())
}

/// [`open`], of what this rank of a mesh holds. Other tools' files are read whole, by one rank alone.
///
/// # Errors
/// As [`open`], and files of another form where ranks divide the dictionary.
pub fn open_on(
    q: &mut Queue,
    hub: &Rc<Hub>,
    name: &str,
    options: &OpenOptions,
    mesh: &Mesh,
) -> Result<Loaded> {
    let by = (!mesh.shards.is_solo()).then_some("model_parallel_size");
    open_by(q, hub, name, options, by, |q, path, load| checkpoint::load_on(q, path, load, mesh))
}

/// [`open`], of the part of a dictionary in this project's form that belongs to the rank at this place among those that divide its
/// features.
///
/// # Errors
/// As [`open_on`].
pub fn open_part(
    q: &mut Queue,
    hub: &Rc<Hub>,
    name: &str,
    options: &OpenOptions,
    model: dictionary::Place,
) -> Result<Loaded> {
    let by = (model.size() > 1).then_some("parts");
    open_by(q, hub, name, options, by, |q, path, load| {
        checkpoint::load_part(q, path, load, model, dictionary::Place::WHOLE)
    })
}

fn open_by(
    q: &mut Queue,
    hub: &Rc<Hub>,
    name: &str,
    options: &OpenOptions,
    divided_by: Option<&str>,
    load: impl FnOnce(&mut Queue, &Path, LoadOptions) -> Result<Loaded>,
) -> Result<Loaded> {
    let place = resolve(hub, name, options)?;
    if let Some(path) = ours(&place)? {
        refuse_facts(&place, &options.facts)?;
        let mut loaded = load(q, &path, LoadOptions { strict: options.strict, fold: false })?;
        if options.fold && loaded.dictionary.settings().norm_activation() == NormActivation::DatasetWise {
            loaded.dictionary.fold(q)?;
        }
        return Ok(loaded);
    }
    if let Some(key) = divided_by {
        let what = "divides dictionaries in this project's own form only; convert this one whole first (lm-saes convert FROM TO), and \
                    divide what that gives, or set it to 1";
        return Err(Error::setting(key, what));
    }
    let reading = readers::read(&place)?;
    reading.install(q, &place.shown(), place.source())
}

/// The settings of a dictionary by name and what is recorded beside them, its weights left where they are.
///
/// # Errors
/// As [`open`].
pub fn open_settings(
    hub: &Rc<Hub>,
    name: &str,
    options: &OpenOptions,
) -> Result<(DictionarySettings, Map<String, Value>)> {
    let place = resolve(hub, name, options)?;
    if let Some(path) = ours(&place)? {
        return checkpoint::load_record(&path);
    }
    let reading = readers::read(&place)?;
    let settings = serde_json::from_value(reading.settings)
        .map_err(|e| place.error(format!("cannot be expressed here: {e}")))?;
    Ok((settings, reading.about.extras(place.source())))
}

/// Where the name leads.
///
/// # Errors
/// A name of no form, or of a release the registry does not have.
pub fn resolve(hub: &Rc<Hub>, name: &str, options: &OpenOptions) -> Result<Place> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(Place::local(path, options.facts.clone()));
    }
    let parts: Vec<&str> = name.split(':').collect();
    let [left, right] = parts[..] else {
        return Err(Error::Data {
            what: format!(
                "{name:?} does not exist here, and it is no name of a dictionary on the hub (owner/repository:path) or in the \
                 registry (release:name)"
            ),
        });
    };
    let registry = Registry::load()?;
    if let Some((release, entry)) = registry.find(left, right)? {
        let facts = merged(release.facts(entry), &options.facts);
        return Ok(remote(hub, &release.repo, &entry.path, &options.revision, facts));
    }
    if !left.contains('/') {
        return Err(Error::Data {
            what: format!(
                "{name:?}: no release {left:?} is in the registry, which has {}; `lm-saes registry` lists and refreshes it. A \
                 repository on the hub is named owner/repository:path",
                registry.like(left)
            ),
        });
    }
    Ok(remote(hub, left, right, &options.revision, options.facts.clone()))
}

/// What the user says counts.
fn merged(known: Facts, user: &Facts) -> Facts {
    let user = user.clone();
    Facts {
        loader: user.loader.or(known.loader),
        model_name: user.model_name.or(known.model_name),
        hook_in: user.hook_in.or(known.hook_in),
        hook_out: user.hook_out.or(known.hook_out),
        norm_scaling_factor: user.norm_scaling_factor.or(known.norm_scaling_factor),
        normalize_activations: user.normalize_activations.or(known.normalize_activations),
        l0: user.l0.or(known.l0),
        explained_variance: user.explained_variance.or(known.explained_variance),
        lenient: user.lenient,
    }
}

fn remote(hub: &Rc<Hub>, repo: &str, path: &str, revision: &str, facts: Facts) -> Place {
    let path = path.trim_matches('/');
    let path = if path == "." { "" } else { path };
    let is_file = [".pt", ".pth", ".npz", ".safetensors", ".json"].iter().any(|end| path.ends_with(end));
    let (dir, file) = match (is_file, path.rsplit_once('/')) {
        (false, _) => (path, None),
        (true, Some((dir, file))) => (dir, Some(file.to_string())),
        (true, None) => ("", Some(path.to_string())),
    };
    let folder =
        Folder::Remote { hub: hub.clone(), repo: repo.into(), revision: revision.into(), path: dir.into() };
    Place { folder, file, text: format!("{repo}:{path}"), facts }
}

/// What our own files say is not overridden from outside.
fn refuse_facts(place: &Place, user: &Facts) -> Result<()> {
    let given = [
        (user.hook_in.is_some(), "--hook-in"),
        (user.hook_out.is_some(), "--hook-out"),
        (user.norm_scaling_factor.is_some(), "--norm-factor"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(place.error(format!(
            "{option} is for files of other tools, which may not say it; this dictionary's own {CONFIG} does"
        ))),
        None => Ok(()),
    }
}

/// The local path of a dictionary in our own form.
fn ours(place: &Place) -> Result<Option<PathBuf>> {
    let Folder::Local(dir) = &place.folder else {
        let other =
            place.facts.loader.is_some() || place.file.as_deref().is_some_and(|f| f != checkpoint::WEIGHTS);
        let config = if other { None } else { place.folder.get(CONFIG)? };
        let Some(dir) = config.and_then(|c| c.parent().map(Path::to_path_buf)) else { return Ok(None) };
        if !checkpoint::is_one(&dir) {
            return Ok(None);
        }
        place.folder.need(checkpoint::WEIGHTS)?;
        return Ok(Some(dir));
    };
    let path = place.file.as_ref().map_or(dir.clone(), |f| dir.join(f));
    let safe = place.file.as_deref().is_none_or(|f| f.ends_with(".safetensors"));
    Ok(Some(path).filter(|p| safe && place.facts.loader.is_none() && checkpoint::is_one(p)))
}
