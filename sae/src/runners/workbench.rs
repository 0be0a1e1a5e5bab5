//! What every job on text needs: a device queue, the language model, its tokenizer, and the policy that turns text into
//! contexts. Opened once; jobs borrow it.

use crate::{
    Error, Result,
    activations::{ActivationStream, Target, open_stream, open_tokens},
    data::{TokenPolicy, TokenStream, Tokenize},
    dictionary::{Dictionary, checkpoint},
    hub::{self, Facts, Hub, OpenOptions, client::hub_cache},
    lm::{HfDirectory, Lm, SpecialIds, Tokenizer, commit_of, same_model},
    parallel::{Mesh, rows::most_rows},
    settings::{
        ActivationFactorySettings, DatasetSettings, DictionarySettings, LanguageModelSettings,
        PretrainedSettings,
    },
    training::{Observer, source::needed},
};
use lm_saes_runtime::{Queue, Registry};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

/// Device, language model and text of a job.
pub struct Workbench {
    /// The device's queue.
    pub q: Queue,
    /// The language model; shared, so that a stream can hold on to it while jobs borrow the rest.
    pub lm: Arc<Lm>,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Where it was loaded from.
    pub model_path: PathBuf,
    /// How text becomes contexts.
    pub policy: TokenPolicy,
    /// Where batches come from.
    pub factory: ActivationFactorySettings,
    /// Text by the names the sources use.
    pub datasets: BTreeMap<String, DatasetSettings>,
    /// The ranks that work together, each with a workbench of its own.
    pub mesh: Mesh,
}

impl Workbench {
    /// Opens the device and loads the model.
    ///
    /// # Errors
    /// No such device (lists those there are), a model that is not on disk, or whatever its files lack.
    pub fn open(
        registry: &Registry,
        device: &str,
        model: &LanguageModelSettings,
        factory: &ActivationFactorySettings,
        datasets: &BTreeMap<String, DatasetSettings>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let mut q = open_queue(registry, device)?;
        let path = model_path(model)?;
        observer.phase(&format!("loading {}", path.display()));
        let given = SpecialIds { bos: model.bos_token_id, eos: model.eos_token_id, pad: model.pad_token_id };
        let tokenizer = Arc::new(Tokenizer::load(&path, given)?);
        let longest = longest_context(&path, model, factory)?;
        let limited = LanguageModelSettings { max_length: longest, ..model.clone() };
        let policy = factory.token_policy(&limited, tokenizer.special())?;
        let lm = Arc::new(Lm::load(&mut q, &path, model)?);
        for hook in &factory.hook_points {
            lm.hook_width(hook)?;
        }
        let (factory, datasets) = (factory.clone(), datasets.clone());
        Ok(Self { q, lm, tokenizer, model_path: path, policy, factory, datasets, mesh: Mesh::solo() })
    }

    /// A stream of activations from the beginning of the text.
    pub fn stream(&self) -> Result<ActivationStream> {
        open_stream(&self.factory, &self.datasets, &self.tokenize(), &self.policy)
    }

    /// A stream of token batches from the beginning of the text.
    ///
    /// # Errors
    /// As those of [`open_tokens`], and cached activations of single tokens, which the model cannot run on.
    pub fn tokens(&self) -> Result<TokenStream> {
        let tokens = open_tokens(&self.factory, &self.datasets, &self.tokenize(), &self.policy)?;
        if let Some(cache) = tokens.singles() {
            let what = format!(
                "{} holds single tokens, on which the model's loss cannot be measured; leave eval out, or generate                  the cache with target = \"activations-2d\"",
                cache.path().display()
            );
            return Err(Error::setting("activation_factory.sources", what));
        }
        Ok(tokens)
    }

    fn tokenize(&self) -> Arc<dyn Tokenize> {
        self.tokenizer.clone()
    }

    /// Which model this is, as dictionaries trained on it record it.
    pub fn model_identity(&self) -> Value {
        let mut identity = json!({ "name": self.lm.name(), "weights": self.lm.weights_hash() });
        if let Some(commit) = commit_of(&self.model_path) {
            identity["revision"] = json!(commit);
        }
        identity
    }

    /// Refuses a dictionary whose record says that it was trained on other weights or, where it knows no weights (other tools'
    /// do not), that it belongs to a model of another name; unless loading is not to be strict.
    ///
    /// # Errors
    /// Both models by name and, where they are known, by revision and hash.
    pub fn check_model(&self, extras: &Map<String, Value>, s: &PretrainedSettings) -> Result<()> {
        if !s.strict_loading {
            return Ok(());
        }
        let theirs = &extras.get("model_identity").cloned().unwrap_or_default();
        let ours = self.model_identity();
        if theirs["weights"].is_null() {
            return self.check_name(extras, s);
        }
        if theirs["weights"] == ours["weights"] {
            return Ok(());
        }
        let shown = |v: &Value| {
            let revision = v["revision"].as_str().map_or(String::new(), |r| format!(" at revision {r}"));
            let text = |key: &str| v[key].as_str().unwrap_or("unknown").to_string();
            format!("{}{revision} (weights {})", text("name"), text("weights"))
        };
        let what = format!(
            "{} was trained on {}, the model here is {}, with other weights; use that model, or set strict_loading = false in \
             the dictionary's table to go on",
            s.pretrained_name_or_path.display(),
            shown(theirs),
            shown(&ours)
        );
        Err(Error::setting("model", what))
    }

    fn check_name(&self, extras: &Map<String, Value>, s: &PretrainedSettings) -> Result<()> {
        let theirs =
            extras.get("model_name").and_then(Value::as_str).filter(|n| !["", "unknown"].contains(n));
        let (Some(theirs), Some(ours)) = (theirs, self.lm.stated_name()) else { return Ok(()) };
        if same_model(theirs, ours) {
            return Ok(());
        }
        let what = format!(
            "{} belongs to the model {theirs:?} by its record, the model here is {ours:?}; use that model, or, if this is it, say so \
             with model_name = {theirs:?} and its folder in model_from_pretrained_path",
            s.pretrained_name_or_path.display()
        );
        Err(Error::setting("model.model_name", what))
    }

    /// Rows of a full batch.
    pub fn batch_rows(&self) -> Result<usize> {
        batch_rows(&self.factory, self.policy.context_size)
    }

    /// Most rows this rank gets of a batch of `rows`.
    pub fn own_rows(&self, rows: usize) -> usize {
        let whole = self.factory.target == Target::Activations2d;
        let context = self.policy.context_size.filter(|_| whole);
        most_rows(rows, context, self.mesh.data.size())
    }

    /// Checks that the model and the stream give what the dictionary needs, in its width.
    pub fn check_hooks(&self, dictionary: &dyn Dictionary) -> Result<()> {
        let settings = dictionary.settings();
        let (d_model, d_out) = (settings.d_model(), settings.d_out());
        let read = dictionary.hook_points_in();
        for hook in needed(dictionary) {
            let width = self.lm.hook_width(&hook)?;
            let refused = match read.contains(&hook) || d_out == d_model {
                true => (!settings.accepts_width(width)).then_some(("sae.d_model", d_model)),
                false => (width != d_out).then_some(("sae.d_out", d_out)),
            };
            if let Some((key, ours)) = refused {
                let what = format!("is {ours}, but {hook} of {} is {width} wide", self.lm.name());
                return Err(Error::setting(key, what));
            }
            if !self.factory.hook_points.contains(&hook) {
                let what = format!("must contain {hook:?}, which the dictionary needs");
                return Err(Error::setting("activation_factory.hook_points", what));
            }
        }
        Ok(())
    }
}

/// Tokens a context may have: what the settings say, and no more than the model takes.
fn longest_context(
    path: &Path,
    model: &LanguageModelSettings,
    factory: &ActivationFactorySettings,
) -> Result<usize> {
    let n_ctx = Lm::read_architecture(path)?.n_ctx;
    if let Some(size) = factory.context_size.filter(|size| *size > n_ctx) {
        let what = format!("is {size}, but the model in {} takes at most {n_ctx} tokens", path.display());
        return Err(Error::setting("activation_factory.context_size", what));
    }
    Ok(model.max_length.min(n_ctx))
}

/// Rows of a full batch: tokens in 1-D, contexts times their length in 2-D.
pub(super) fn batch_rows(factory: &ActivationFactorySettings, context_size: Option<usize>) -> Result<usize> {
    let rows = match (factory.target, context_size) {
        (Target::Activations1d, _) => factory.batch_size,
        (Target::Activations2d, Some(len)) => factory.batch_size * len,
        (Target::Activations2d, None) => {
            let what = "is needed with target activations-2d: batches need contexts of one length";
            return Err(Error::setting("activation_factory.context_size", what));
        }
        (Target::Tokens, _) => {
            let what = "tokens has no activations; use activations-1d or activations-2d";
            return Err(Error::setting("activation_factory.target", what));
        }
    };
    if rows == 0 {
        return Err(Error::setting("activation_factory.batch_size", "must be at least 1"));
    }
    Ok(rows)
}

/// Opens a device; the error says how to name another.
pub(super) fn open_queue(registry: &Registry, device: &str) -> Result<Queue> {
    let opened = registry.open(device).map_err(|e| {
        Error::setting(
            "device_type",
            format!("{e}; name another one here or on the command line (--device cpu)"),
        )
    })?;
    Ok(Queue::new(&opened)?)
}

/// Loads a saved dictionary as its settings say, folded only when asked to.
pub(super) fn load_pretrained(
    q: &mut Queue,
    s: &PretrainedSettings,
    fold: bool,
) -> Result<checkpoint::Loaded> {
    load_pretrained_on(q, s, fold, &Mesh::solo())
}

/// [`load_pretrained`], of what this rank of a mesh holds.
pub(super) fn load_pretrained_on(
    q: &mut Queue,
    s: &PretrainedSettings,
    fold: bool,
    mesh: &Mesh,
) -> Result<checkpoint::Loaded> {
    let (name, options) = pretrained_name(s, fold);
    let mut loaded = hub::open_on(q, &Rc::new(Hub::from_env()), &name, &options, mesh)?;
    if let Some(by_batch) = s.batch_selection_at_inference {
        loaded.dictionary.running_thresholds_mut().select_by_batch(by_batch);
    }
    Ok(loaded)
}

/// Settings of a saved dictionary, its weights left alone; nothing is fetched.
pub(super) fn pretrained_settings(s: &PretrainedSettings) -> Result<DictionarySettings> {
    Ok(pretrained_record(s)?.0)
}

/// [`pretrained_settings`], and what is recorded beside them.
pub(super) fn pretrained_record(s: &PretrainedSettings) -> Result<(DictionarySettings, Map<String, Value>)> {
    let (name, options) = pretrained_name(s, false);
    hub::open_settings(&Rc::new(Hub::from_env().offline()), &name, &options)
}

fn pretrained_name(s: &PretrainedSettings, fold: bool) -> (String, OpenOptions) {
    let facts = Facts { lenient: !s.strict_loading, ..Facts::default() };
    let options = OpenOptions { strict: s.strict_loading, fold, facts, ..OpenOptions::default() };
    (s.pretrained_name_or_path.to_string_lossy().into_owned(), options)
}

/// Where the model is on disk: the path given, the name as a path, or the local cache of the Hugging Face hub; what is not
/// there is fetched.
///
/// # Errors
/// Says where was looked and what to set.
pub fn model_path(model: &LanguageModelSettings) -> Result<PathBuf> {
    find_model(model, true)
}

/// [`model_path`], fetching only if told to.
pub(super) fn find_model(model: &LanguageModelSettings, fetch: bool) -> Result<PathBuf> {
    if let Some(path) = &model.model_from_pretrained_path {
        if !path.exists() {
            let what = format!("{} does not exist", path.display());
            return Err(Error::setting("model.model_from_pretrained_path", what));
        }
        return Ok(path.clone());
    }
    let name = Path::new(&model.model_name);
    if name.exists() {
        return Ok(name.into());
    }
    let cache = model.cache_dir.clone().or_else(hub_cache);
    let cached = cache.as_ref().and_then(|c| in_cache(c, &model.model_name));
    if let Some(whole) = cached.as_ref().filter(|c| is_whole(c)) {
        return Ok(whole.clone());
    }
    let hub = Hub::from_env();
    let fetched = match &cache {
        Some(cache) if fetch && !model.local_files_only && !hub.is_offline() => {
            hub.at(cache).model(&model.model_name).map_err(|e| e.to_string())
        }
        _ => Err("nothing may be fetched here".into()),
    };
    // Another program may have fetched less than is needed here; what is missing is told when it is opened.
    fetched.or_else(|why| cached.ok_or(why)).map_err(|why| {
        let cache = cache.map_or("no cache folder".into(), |c| c.display().to_string());
        let what = format!(
            "{:?} is no directory or file here and not in the local hub cache ({cache}), and it could not be fetched: {why}; \
             name its folder in model.model_from_pretrained_path",
            model.model_name
        );
        Error::setting("model.model_name", what)
    })
}

/// The snapshot that `main` points to, as much of it as was fetched.
fn in_cache(cache: &Path, name: &str) -> Option<PathBuf> {
    let repo = cache.join(format!("models--{}", name.replace('/', "--")));
    let commit = fs::read_to_string(repo.join("refs/main")).ok()?;
    Some(repo.join("snapshots").join(commit.trim())).filter(|p| p.join("config.json").is_file())
}

/// Whether a snapshot has what a model needs: Python fetches file by file, what a program asks for first.
fn is_whole(snapshot: &Path) -> bool {
    let needed = ["config.json", "tokenizer.json"];
    needed.iter().all(|file| snapshot.join(file).is_file()) && HfDirectory::open(snapshot).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorfile::{self, Precision};

    #[test]
    fn a_model_is_found_in_the_hub_cache_by_name() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--org--tiny");
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::create_dir_all(repo.join("snapshots/abc")).unwrap();
        let snapshot = repo.join("snapshots/abc");
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        fs::write(repo.join("refs/main"), "abc\n").unwrap();
        let mut model = LanguageModelSettings {
            model_name: "org/tiny".into(),
            cache_dir: Some(cache.path().into()),
            local_files_only: true,
            ..Default::default()
        };
        // All there is, where nothing may be fetched; a part of what is needed where something may.
        assert!(model_path(&model).unwrap().ends_with("snapshots/abc"));
        assert!(!is_whole(&snapshot));
        fs::write(snapshot.join("tokenizer.json"), "{}").unwrap();
        let index = json!({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).to_string();
        fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
        tensorfile::write(&snapshot.join("1.safetensors"), &[], Precision::F32, &[]).unwrap();
        assert!(!is_whole(&snapshot), "one of two files of weights is no model");
        tensorfile::write(&snapshot.join("2.safetensors"), &[], Precision::F32, &[]).unwrap();
        assert!(is_whole(&snapshot));
        model.model_name = "org/other".into();
        let e = model_path(&model).unwrap_err().to_string();
        assert!(e.starts_with("setting model.model_name: \"org/other\""), "{e}");
        model.model_from_pretrained_path = Some("/nonexistent/model".into());
        assert!(model_path(&model).unwrap_err().to_string().contains("/nonexistent/model"));
    }
}
