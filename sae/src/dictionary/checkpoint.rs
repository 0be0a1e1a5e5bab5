//! Saved dictionaries: a directory with `config.json` and `sae_weights.safetensors` in the reference system's layout and
//! names (CHECKPOINTS §1-§3). Values are f32 on the device; files may hold any float type.
//!
//! Weights and settings must belong together: folded weights under unfolded settings would be normalised twice, silently. So
//! the weights file carries the settings too, and both files the mark of the save that wrote them. The weights are renamed into place
//! first; should the machine stop before `config.json` follows, the marks differ and loading takes the settings of the weights.

use super::{Dictionary, Param, build};
use crate::{
    Error, Result, files,
    settings::{DTypeName, DictionarySettings, NormActivation},
    tensorfile::{self, Slot, TensorFile, in_pieces},
};
use lm_saes_runtime::Queue;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The settings file.
pub const CONFIG: &str = "config.json";
/// The weights file.
pub const WEIGHTS: &str = "sae_weights.safetensors";
/// Where the reference system's releases have kept weights, in its order of search.
const WEIGHT_FILES: [&str; 3] = [WEIGHTS, "checkpoints/pruned.safetensors", "checkpoints/final.safetensors"];
/// Prefix of the average-norm scalars; hook points contain dots, so only the first one separates.
const NORM: &str = "dataset_average_activation_norm.";
/// Where the weights' metadata keep the running thresholds. Not among the tensors: strict readers refuse one they do not know.
const RUNNING_THRESHOLDS: &str = "lm_saes.running_threshold";
/// Key of this project's own entries in `config.json`, and the prefix of those in the weights' metadata.
const OURS: &str = "lm_saes";

/// A loaded dictionary.
pub struct Loaded {
    /// The dictionary.
    pub dictionary: Box<dyn Dictionary>,
    /// What else was recorded on saving (token policy, dtype, …); empty for checkpoints of other programs.
    pub extras: Map<String, Value>,
}

/// A constant tensor that other readers of checkpoints expect; written with the weights, not read.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// What and how it is stored.
    pub slot: Slot,
    /// Values.
    pub values: Vec<f32>,
}

/// How to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Require exactly the expected tensors.
    pub strict: bool,
    /// Fold the data-set norms into the weights; nothing to do for a dictionary that is folded already.
    pub fold: bool,
}

/// Saves into `dir`: both files, each whole or not at all, consistent at every instant. `extras` is recorded under `lm_saes` in
/// `config.json`, where other readers ignore it, beside `dtype` and `folded`.
pub fn save(
    q: &mut Queue,
    dictionary: &dyn Dictionary,
    dir: &Path,
    dtype: DTypeName,
    extras: &Map<String, Value>,
) -> Result<()> {
    let mut config = serde_json::to_value(dictionary.settings())
        .map_err(|e| Error::format(dir.join(CONFIG), e.to_string()))?;
    let folded = dictionary.settings().norm_activation() == NormActivation::Inference
        && !dictionary.norms().is_empty();
    let mut ours = extras.clone();
    ours.insert("dtype".into(), Value::String(dtype.to_string()));
    ours.insert("folded".into(), Value::Bool(folded));
    if let Some(object) = config.as_object_mut() {
        object.insert(OURS.into(), Value::Object(ours));
    }
    let mark = mark(q, dictionary, &config)?;
    if let Some(Value::Object(ours)) = config.get_mut(OURS) {
        ours.insert("save".into(), Value::String(mark.clone()));
    }
    let own = [("lm_saes.save", mark), ("lm_saes.config", config.to_string())];
    write(q, dictionary, &dir.join(WEIGHTS), dtype, own.into())?;
    write_json(&dir.join(CONFIG), &config)
}

/// Saves weights and average norms only, as the periodic snapshots of training do.
pub fn save_weights(q: &mut Queue, dictionary: &dyn Dictionary, file: &Path, dtype: DTypeName) -> Result<()> {
    write(q, dictionary, file, dtype, Vec::new())
}

/// Loads from a directory, or from a weights file with its `config.json` beside it.
///
/// # Errors
/// Name the file and key or tensor: no weights, unknown `sae_type`, missing, unexpected, misshapen or non-finite tensors.
pub fn load(q: &mut Queue, path: &Path, options: LoadOptions) -> Result<Loaded> {
    let weights = TensorFile::open(weights_file(path)?)?;
    let config = config_of(path, Some(&weights))?;
    let mut dictionary = build(q, &settings(path, &config)?)?;
    read_into(q, &mut *dictionary, &weights, options.strict)?;
    if options.fold && dictionary.settings().norm_activation() != NormActivation::Inference {
        dictionary.fold(q)?;
    }
    let extras = config.get(OURS).and_then(Value::as_object).cloned().unwrap_or_default();
    Ok(Loaded { dictionary, extras })
}

/// Reads weights and norms from a file into a dictionary of the same settings.
pub fn load_weights(q: &mut Queue, dictionary: &mut dyn Dictionary, file: &Path, strict: bool) -> Result<()> {
    read_into(q, dictionary, &TensorFile::open(file)?, strict)
}

/// Whether a path is a dictionary in this form: by its settings, or by those its weights carry.
pub fn is_one(path: &Path) -> bool {
    let file = folder(path).join(CONFIG);
    let config = files::read_text(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let ours = |weights: &TensorFile| weights.metadata().contains_key("lm_saes.config");
    config.is_some_and(|c| c.get("sae_type").is_some())
        || weights_file(path).and_then(TensorFile::open).is_ok_and(|w| ours(&w))
}

/// The settings of a saved dictionary, without its weights.
pub fn load_settings(path: &Path) -> Result<DictionarySettings> {
    let weights = weights_file(path).and_then(TensorFile::open).ok();
    settings(path, &config_of(path, weights.as_ref())?)
}

fn settings(path: &Path, config: &Value) -> Result<DictionarySettings> {
    DictionarySettings::from_checkpoint(config.clone()).map_err(|e| match e {
        Error::Setting { what, key } => Error::format(folder(path).join(CONFIG), format!("{key}: {what}")),
        e => e,
    })
}

fn folder(path: &Path) -> &Path {
    match path.extension() {
        Some(e) if e == "safetensors" => path.parent().unwrap_or(Path::new(".")),
        _ => path,
    }
}

fn weights_file(path: &Path) -> Result<PathBuf> {
    if folder(path) != path {
        return Ok(path.into());
    }
    if let Some(found) = WEIGHT_FILES.iter().map(|f| path.join(f)).find(|f| f.is_file()) {
        return Ok(found);
    }
    let other = ["sae_weights.pt", "sae_weights.dcp"].iter().map(|f| path.join(f)).find(|f| f.exists());
    Err(match other {
        Some(found) => {
            let what = "only safetensors weights can be read; save the dictionary as safetensors first";
            Error::format(found, what)
        }
        None => Error::format(path, format!("no dictionary here: none of {}", WEIGHT_FILES.join(", "))),
    })
}

/// `config.json`, unless the weights are of another save than it, then the settings the weights carry.
fn config_of(path: &Path, weights: Option<&TensorFile>) -> Result<Value> {
    let file = folder(path).join(CONFIG);
    let beside = || -> Result<Value> {
        serde_json::from_str(&files::read_text(&file)?).map_err(|e| Error::format(&file, e.to_string()))
    };
    let metadata = weights.map(TensorFile::metadata).unwrap_or_default();
    let (Some(mark), Some(inside)) = (metadata.get("lm_saes.save"), metadata.get("lm_saes.config")) else {
        return beside();
    };
    match beside() {
        Ok(config) if config.pointer("/lm_saes/save").and_then(Value::as_str) == Some(mark) => Ok(config),
        _ => serde_json::from_str(inside)
            .map_err(|e| Error::format(folder(path).join(WEIGHTS), format!("settings in the metadata: {e}"))),
    }
}

fn write_json(file: &Path, value: &Value) -> Result<()> {
    let mut text = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut text, form))
        .map_err(|e| Error::format(file, e.to_string()))?;
    files::write_atomic(file, |w| w.write_all(&text))
}

/// FNV-1a over settings and weights: saving the same dictionary again gives the same files.
fn mark(q: &mut Queue, dictionary: &dyn Dictionary, config: &Value) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |word: u32| hash = (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3);
    config.to_string().bytes().for_each(|b| eat(b.into()));
    for p in dictionary.params() {
        in_pieces(q, &p.value, &mut |values| {
            values.iter().for_each(|v| eat(v.to_bits()));
            Ok(())
        })?;
    }
    dictionary.norms().values().for_each(|v| eat(v.to_bits()));
    running(dictionary).into_iter().flatten().for_each(|v| eat(v.to_bits()));
    Ok(format!("{hash:016x}"))
}

fn running(dictionary: &dyn Dictionary) -> Option<&[f32]> {
    dictionary.running_thresholds().values()
}

/// Weights, then norms, in pieces that take little host memory.
fn write(
    q: &mut Queue,
    dictionary: &dyn Dictionary,
    file: &Path,
    dtype: DTypeName,
    mut metadata: Vec<(&str, String)>,
) -> Result<()> {
    metadata.insert(0, ("version", env!("CARGO_PKG_VERSION").to_string()));
    metadata.extend(running(dictionary).map(|values| (RUNNING_THRESHOLDS, json!(values).to_string())));
    let (params, norms) = (dictionary.params(), dictionary.norms());
    let mut slots: Vec<_> = params.iter().map(|p| Slot::new(&*p.name, &*p.shape)).collect();
    let scalars = norms.iter().map(|(hook_point, norm)| Buffer {
        slot: Slot::new(format!("{NORM}{hook_point}"), []),
        values: vec![*norm],
    });
    // Booleans last: tensors of wider types stay aligned.
    let (booleans, floats): (Vec<_>, Vec<_>) = dictionary.buffers().into_iter().partition(|b| b.slot.boolean);
    let constants: Vec<Buffer> = floats.into_iter().chain(scalars).chain(booleans).collect();
    slots.extend(constants.iter().map(|b| b.slot.clone()));
    tensorfile::write_with(file, &slots, dtype.precision(), &metadata, |i, put| match params.get(i) {
        Some(p) => p.put_stored(q, put),
        None => put(&constants[i - params.len()].values),
    })
}

fn read_into(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    weights: &TensorFile,
    strict: bool,
) -> Result<()> {
    let stored: Vec<String> = weights.list().into_iter().map(|t| t.name).collect();
    let expected: BTreeSet<String> = dictionary.params().iter().map(|p| p.name.clone()).collect();
    if strict {
        let constants: Vec<String> = dictionary.buffers().into_iter().map(|b| b.slot.name).collect();
        let trainable: Vec<String> = stored.iter().filter(|n| !constants.contains(*n)).cloned().collect();
        check_names(weights.path(), &trainable, &expected)?;
    }
    for p in dictionary.params_mut() {
        if stored.contains(&p.name) {
            q.upload(&read_param(weights, p)?, &mut p.value)?;
        }
    }
    let mut norms = BTreeMap::new();
    for name in &stored {
        if let Some(hook_point) = name.strip_prefix(NORM) {
            let (_, values) = weights.f32(name)?;
            norms.extend(values.first().map(|&norm| (hook_point.to_string(), norm)));
        }
    }
    dictionary.set_norms(norms);
    read_running_thresholds(dictionary, weights)
}

/// Those of a file that has none are unknown: the dictionary then selects by the batch.
fn read_running_thresholds(dictionary: &mut dyn Dictionary, weights: &TensorFile) -> Result<()> {
    let stored = weights.metadata().remove(RUNNING_THRESHOLDS);
    let values = stored.as_ref().map(|text| serde_json::from_str(text)).transpose();
    let fit = values.is_ok_and(|values| dictionary.running_thresholds_mut().set(values));
    if fit {
        return Ok(());
    }
    let what = format!(
        "{RUNNING_THRESHOLDS} in the metadata is no list of thresholds of this dictionary: {}",
        stored.unwrap_or_default()
    );
    Err(Error::format(weights.path(), what))
}

fn check_names(file: &Path, stored: &[String], expected: &BTreeSet<String>) -> Result<()> {
    let missing: Vec<&str> = expected.iter().filter(|n| !stored.contains(n)).map(String::as_str).collect();
    let unexpected: Vec<&str> = stored
        .iter()
        .filter(|n| !expected.contains(*n) && !n.starts_with(NORM))
        .map(String::as_str)
        .collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    let list = |what: &str, names: &[&str]| match names {
        [] => String::new(),
        _ => format!(" {what} {};", names.join(", ")),
    };
    let what = format!(
        "the weights do not fit {CONFIG}:{}{} strict_loading = false loads what fits",
        list("missing", &missing),
        list("unexpected", &unexpected)
    );
    Err(Error::format(file, what))
}

fn read_param(weights: &TensorFile, p: &Param) -> Result<Vec<f32>> {
    let (shape, values) = weights.f32(&p.name)?;
    let values = p.expanded(&shape, values).ok_or_else(|| Error::Tensor {
        path: weights.path().into(),
        name: p.name.clone(),
        what: format!("has shape {shape:?}, expected {:?}", p.shape),
    })?;
    // A threshold of exactly 0 is a log-threshold of −∞.
    let zero_threshold = |v: &f32| p.group == super::ParamGroup::Thresholds && *v == f32::NEG_INFINITY;
    if let Some(at) = values.iter().position(|v| !v.is_finite() && !zero_threshold(v)) {
        let what = format!("element {at} is {}", values[at]);
        return Err(Error::Tensor { path: weights.path().into(), name: p.name.clone(), what });
    }
    Ok(p.to_held(values))
}
