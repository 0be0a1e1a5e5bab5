//! Saved dictionaries: a directory with `config.json` and `sae_weights.safetensors` in the reference system's layout and
//! names (CHECKPOINTS §1-§3). Values are f32 on the device; files may hold any float type.
//!
//! Weights and settings must belong together: folded weights under unfolded settings would be normalised twice, silently. So
//! the weights file carries the settings too, and both files the mark of the save that wrote them. The weights are renamed into place
//! first; should the machine stop before `config.json` follows, the marks differ and loading takes the settings of the weights.
//!
//! A dictionary that several ranks hold is written by all of them at once, each its part (`shards`); [`join`] makes one file of
//! the parts, and [`load_part`] reads what any rank of any mesh needs from either form.

use super::{
    Dictionary, Param, Place, build_on, build_part,
    shards::{self, PARTS, Placed, Weights, part_file},
};
use crate::{
    Error, Result, files,
    parallel::{Mesh, placement::runs},
    settings::{DTypeName, DictionarySettings, NormActivation},
    tensorfile::{self, Precision, Slot, rounded},
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
/// Mark of the save, and the settings, in the weights' metadata.
const MARK: &str = "lm_saes.save";
const INSIDE: &str = "lm_saes.config";
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
/// `config.json`, where other readers ignore it, beside `dtype` and `folded`. Of a dictionary that several ranks hold each
/// rank writes its part, and the first one the settings; when all have, [`join`] or [`keep_parts`] follows.
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
    let contents = Contents::of(dictionary);
    let mark = contents.mark(q, dtype, &config)?;
    if let Some(Value::Object(ours)) = config.get_mut(OURS) {
        ours.insert("save".into(), Value::String(mark.clone()));
    }
    contents.write(q, &dir.join(WEIGHTS), dtype, vec![(MARK, mark), (INSIDE, config.to_string())])?;
    if dictionary.share().part().0 > 0 {
        return Ok(());
    }
    write_json(&dir.join(CONFIG), &config)?;
    if dictionary.share().is_whole() { shards::remove_parts(&dir.join(WEIGHTS)) } else { Ok(()) }
}

/// Lets the parts in `dir`, once all are written, take the place of a file of an earlier save, which would be read first.
pub fn keep_parts(dir: &Path) -> Result<()> {
    files::remove_if_there(&dir.join(WEIGHTS))
}

/// Makes one file of the parts in `dir`, the one that a single rank would have written, bit by bit, and removes the parts. Tensors
/// pass through the host in pieces.
///
/// # Errors
/// Parts that are missing or of different saves.
pub fn join(dir: &Path) -> Result<()> {
    let file = dir.join(WEIGHTS);
    let parts = Weights::open(&file)?;
    let mut metadata = parts.metadata();
    let (slots, precision) = parts.slots()?;
    let before = metadata.get(MARK).cloned().unwrap_or_default();
    let mut hash = Hash::after(&before)
        .ok_or_else(|| Error::format(parts.path(), format!("{MARK} in the metadata is no mark of a save")))?;
    for slot in &slots {
        parts.in_pieces(slot, &mut |v| hash.values(v, precision))?;
    }
    let after = hash.mark();
    let keys = ["version", MARK, INSIDE, RUNNING_THRESHOLDS];
    let kept = |key| Some((key, metadata.remove(key)?.replace(&before, &after)));
    let metadata: Vec<(&str, String)> = keys.into_iter().filter_map(kept).collect();
    tensorfile::write_with(&file, &slots, precision, &metadata, |i, put| parts.in_pieces(&slots[i], put))?;
    let config = dir.join(CONFIG);
    let text = files::read_text(&config)?.replace(&before, &after);
    files::write_atomic(&config, |w| w.write_all(text.as_bytes()))?;
    shards::remove_parts(&file)
}

/// Saves weights and average norms only, as the periodic snapshots of training do.
pub fn save_weights(q: &mut Queue, dictionary: &dyn Dictionary, file: &Path, dtype: DTypeName) -> Result<()> {
    Contents::of(dictionary).write(q, file, dtype, Vec::new())
}

/// Loads from a directory, or from a weights file with its `config.json` beside it.
///
/// # Errors
/// Name the file and key or tensor: no weights, unknown `sae_type`, missing, unexpected, misshapen or non-finite tensors.
pub fn load(q: &mut Queue, path: &Path, options: LoadOptions) -> Result<Loaded> {
    load_part(q, path, options, Place::WHOLE, Place::WHOLE)
}

/// Loads the part that belongs to the rank at these places among those that divide features and heads, from a file or from the
/// parts of any other division.
///
/// # Errors
/// As [`load`], and numbers of ranks that do not divide what they would share.
pub fn load_part(
    q: &mut Queue,
    path: &Path,
    options: LoadOptions,
    model: Place,
    head: Place,
) -> Result<Loaded> {
    load_built(q, path, options, |q, settings| build_part(q, settings, model, head))
}

/// Loads what this rank of a mesh holds, which works with the other ranks from then on.
///
/// # Errors
/// As [`load_part`].
pub fn load_on(q: &mut Queue, path: &Path, options: LoadOptions, mesh: &Mesh) -> Result<Loaded> {
    load_built(q, path, options, |q, settings| build_on(q, settings, mesh))
}

fn load_built(
    q: &mut Queue,
    path: &Path,
    options: LoadOptions,
    build: impl FnOnce(&mut Queue, &DictionarySettings) -> Result<Box<dyn Dictionary>>,
) -> Result<Loaded> {
    let weights = Weights::open(&weights_file(path)?)?;
    let config = config_of(path, Some(&weights))?;
    let mut dictionary = build(q, &settings(path, &config)?)?;
    read_into(q, &mut *dictionary, &weights, options.strict)?;
    if options.fold && dictionary.settings().norm_activation() != NormActivation::Inference {
        dictionary.fold(q)?;
    }
    Ok(Loaded { dictionary, extras: recorded(&config) })
}

/// Reads weights and norms from a file into a dictionary of the same settings.
pub fn load_weights(q: &mut Queue, dictionary: &mut dyn Dictionary, file: &Path, strict: bool) -> Result<()> {
    read_into(q, dictionary, &Weights::open(file)?, strict)
}

/// Whether a path is a dictionary in this form: by its settings, or by those its weights carry.
pub fn is_one(path: &Path) -> bool {
    let file = folder(path).join(CONFIG);
    let config = files::read_text(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let ours = |weights: &Weights| weights.metadata().contains_key(INSIDE);
    config.is_some_and(|c| c.get("sae_type").is_some())
        || weights_file(path).and_then(|f| Weights::open(&f)).is_ok_and(|w| ours(&w))
}

/// The settings of a saved dictionary, without its weights.
pub fn load_settings(path: &Path) -> Result<DictionarySettings> {
    Ok(load_record(path)?.0)
}

/// [`load_settings`], and what is recorded beside them.
pub fn load_record(path: &Path) -> Result<(DictionarySettings, Map<String, Value>)> {
    let weights = weights_file(path).and_then(|f| Weights::open(&f)).ok();
    let config = config_of(path, weights.as_ref())?;
    Ok((settings(path, &config)?, recorded(&config)))
}

fn recorded(config: &Value) -> Map<String, Value> {
    config.get(OURS).and_then(Value::as_object).cloned().unwrap_or_default()
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
    if let Some(found) = WEIGHT_FILES.iter().map(|f| path.join(f)).find(|f| Weights::exists(f)) {
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
fn config_of(path: &Path, weights: Option<&Weights>) -> Result<Value> {
    let file = folder(path).join(CONFIG);
    let beside = || -> Result<Value> {
        serde_json::from_str(&files::read_text(&file)?).map_err(|e| Error::format(&file, e.to_string()))
    };
    let metadata = weights.map(Weights::metadata).unwrap_or_default();
    let (Some(mark), Some(inside)) = (metadata.get(MARK), metadata.get(INSIDE)) else {
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

/// FNV-1a: saving the same dictionary again gives the same files.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    /// Goes on where this mark was taken.
    fn after(mark: &str) -> Option<Self> {
        u64::from_str_radix(mark, 16).ok().map(Self)
    }
    fn mark(&self) -> String {
        format!("{:016x}", self.0)
    }
    fn eat(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    /// As they come back from the file.
    fn values(&mut self, values: &[f32], precision: Precision) -> Result<()> {
        values.iter().for_each(|v| self.eat(rounded(*v, precision).to_bits()));
        Ok(())
    }
}

/// What a weights file has: trainable tensors, constants and norms, in this order.
struct Contents<'a> {
    dictionary: &'a dyn Dictionary,
    params: Vec<&'a Param>,
    constants: Vec<Buffer>,
}

impl<'a> Contents<'a> {
    fn of(dictionary: &'a dyn Dictionary) -> Self {
        let scalars = dictionary.norms().iter().map(|(hook_point, norm)| Buffer {
            slot: Slot::new(format!("{NORM}{hook_point}"), []),
            values: vec![*norm],
        });
        // Booleans last: tensors of wider types stay aligned.
        let (booleans, floats): (Vec<_>, Vec<_>) =
            dictionary.buffers().into_iter().partition(|b| b.slot.boolean);
        let constants = floats.into_iter().chain(scalars).chain(booleans).collect();
        Self { dictionary, params: dictionary.params(), constants }
    }

    fn running(&self) -> Option<&[f32]> {
        self.dictionary.running_thresholds().values()
    }

    fn put(&self, q: &mut Queue, i: usize, put: &mut tensorfile::Put<'_>) -> Result<()> {
        match self.params.get(i) {
            Some(p) => p.put_stored(q, put),
            None => put(&self.constants[i - self.params.len()].values),
        }
    }

    /// Of settings and tensors; a part's is of the settings alone, which all ranks have, and [`join`] goes on from there.
    fn mark(&self, q: &mut Queue, dtype: DTypeName, config: &Value) -> Result<String> {
        let mut hash = Hash::new();
        config.to_string().bytes().for_each(|b| hash.eat(b.into()));
        self.running().into_iter().flatten().for_each(|v| hash.eat(v.to_bits()));
        if self.dictionary.share().is_whole() {
            for i in 0..self.params.len() + self.constants.len() {
                self.put(q, i, &mut |v| hash.values(v, dtype.precision()))?;
            }
        }
        Ok(hash.mark())
    }

    /// Into `file`, or into this rank's part of it, in pieces that take little host memory.
    fn write(
        &self,
        q: &mut Queue,
        file: &Path,
        dtype: DTypeName,
        mut metadata: Vec<(&str, String)>,
    ) -> Result<()> {
        metadata.insert(0, ("version", env!("CARGO_PKG_VERSION").to_string()));
        metadata.extend(self.running().map(|values| (RUNNING_THRESHOLDS, json!(values).to_string())));
        let params = self.params.iter().map(|p| Slot::new(&*p.name, &*p.shape));
        let slots: Vec<Slot> = params.chain(self.constants.iter().map(|b| b.slot.clone())).collect();
        let put = |i: usize, put: &mut tensorfile::Put<'_>| self.put(q, i, put);
        let share = self.dictionary.share();
        if share.is_whole() {
            return tensorfile::write_with(file, &slots, dtype.precision(), &metadata, put);
        }
        let cut = self.params.iter().filter(|p| !p.cuts.is_empty());
        let placed: BTreeMap<&str, Placed> =
            cut.map(|p| (p.name.as_str(), Placed { whole: p.whole.clone(), cuts: p.cuts.clone() })).collect();
        metadata.push((PARTS, json!(placed).to_string()));
        let (index, count) = share.part();
        tensorfile::write_with(&part_file(file, index, count), &slots, dtype.precision(), &metadata, put)
    }
}

fn read_into(q: &mut Queue, dictionary: &mut dyn Dictionary, weights: &Weights, strict: bool) -> Result<()> {
    let stored: Vec<String> = weights.names().into_iter().collect();
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
fn read_running_thresholds(dictionary: &mut dyn Dictionary, weights: &Weights) -> Result<()> {
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

fn read_param(weights: &Weights, p: &Param) -> Result<Vec<f32>> {
    let shape = weights.shape(&p.name)?;
    let values = if shape == p.whole {
        weights.f32_runs(&p.name, &runs(&p.whole, &p.cuts))?
    } else {
        let misfit = || Error::Tensor {
            path: weights.path().into(),
            name: p.name.clone(),
            what: format!("has shape {shape:?}, expected {:?}", p.whole),
        };
        p.cut(p.expanded(&shape, weights.f32(&p.name)?.1).ok_or_else(misfit)?)
    };
    // A threshold of exactly 0 is a log-threshold of −∞.
    let zero_threshold = |v: &f32| p.group == super::ParamGroup::Thresholds && *v == f32::NEG_INFINITY;
    if let Some(at) = values.iter().position(|v| !v.is_finite() && !zero_threshold(v)) {
        let what = format!("element {at} is {}", values[at]);
        return Err(Error::Tensor { path: weights.path().into(), name: p.name.clone(), what });
    }
    Ok(p.to_held(values))
}
