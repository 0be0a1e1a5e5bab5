//! What a snapshot of a run holds, and taking the run up again so that every later bit is the same: dictionary, moments,
//! counters, metric window, stream position with its buffer, and the settings the run had.

use super::{metrics::SavedWindow, schedules::Schedules, snapshot, source::BatchSource, trainer::Trainer};
use crate::{
    Error, Result,
    dictionary::{
        Param, checkpoint,
        shards::{PARTS, Placed, Weights, part_file},
    },
    parallel::placement::{part_shape, runs},
    settings::{DTypeName, TrainerSettings},
    tensorfile::{self, Precision, Put, Slot},
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

const STATE: &str = "trainer.json";
const MOMENTS: &str = "optimizer.safetensors";

/// Contents of `trainer.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    version: String,
    step: u64,
    tokens: u64,
    schedules: Schedules,
    identity: Value,
    updates: Vec<(String, u64)>,
    window: Option<SavedWindow>,
    since: Option<Vec<u32>>,
    /// f64 bits; absent is 1.
    #[serde(default)]
    anneal_gain: Option<u64>,
    #[serde(default)]
    resampled: u64,
}

impl Trainer {
    /// Writes the complete state of the run but for its stream into `dir`: dictionary, moments, and the rest as JSON. For one rank that
    /// has all of it.
    pub fn save(&self, q: &mut Queue, identity: &Value, dir: &Path) -> Result<()> {
        let saved = self.state(q, identity)?;
        self.save_as(q, &saved, Some(dir))
    }

    /// What a snapshot says beside its tensors. All ranks of the mesh take part.
    pub(super) fn state(&self, q: &mut Queue, identity: &Value) -> Result<Saved> {
        let moments = self.parts.optimizer.moments();
        let window = self.parts.window.as_ref().map(|w| w.save(q)).transpose()?;
        let since = match &self.parts.dead {
            Some(dead) => {
                let own: Vec<u32> = q.download(&dead.since)?;
                Some(self.dictionary.share().whole(q, &own)?)
            }
            None => None,
        };
        Ok(Saved {
            version: env!("CARGO_PKG_VERSION").into(),
            step: self.step,
            tokens: self.tokens,
            schedules: self.schedules.clone(),
            identity: identity.clone(),
            updates: moments.iter().map(|m| (m.name.clone(), m.t)).collect(),
            window,
            since,
            anneal_gain: Some(self.anneal_gain.to_bits()),
            resampled: self.resampled,
        })
    }

    /// Writes tensors into `dir`, and on the first rank `saved`. Of the ranks that hold the same part of the dictionary the first one has
    /// a `dir`; the others hand it their moments.
    pub(super) fn save_as(&self, q: &mut Queue, saved: &Saved, dir: Option<&Path>) -> Result<()> {
        let Some(dir) = dir else {
            let mut moments = 0..2 * self.parts.optimizer.moments().len();
            return moments.try_for_each(|i| self.put_moments(q, i, &mut |_| Ok(())));
        };
        // Always in full precision, whatever the final weights will be stored as.
        checkpoint::save(q, &*self.dictionary, dir, DTypeName::F32, &Map::new())?;
        let (moments, params) = (self.parts.optimizer.moments(), self.dictionary.params());
        let share = self.dictionary.share();
        let (mut tensors, mut placed) = (Vec::new(), BTreeMap::new());
        for (m, p) in moments.iter().zip(&params) {
            for which in ["m", "v"] {
                let name = format!("{which}.{}", m.name);
                let (whole, cuts) = p.held_placement();
                let shape = match share.is_whole() {
                    true => vec![p.value.rows(), p.value.cols()],
                    false => part_shape(&whole, &cuts),
                };
                tensors.push(Slot::new(&*name, shape));
                placed.insert(name, Placed { whole, cuts });
            }
        }
        let (file, metadata) = match (share.is_whole(), share.part()) {
            (true, _) => (dir.join(MOMENTS), Vec::new()),
            (false, (index, count)) => {
                (part_file(&dir.join(MOMENTS), index, count), vec![(PARTS, json!(placed).to_string())])
            }
        };
        tensorfile::write_with(&file, &tensors, Precision::F32, &metadata, |i, put| {
            self.put_moments(q, i, put)
        })?;
        if share.part().0 == 0 { snapshot::write_json(&dir.join(STATE), saved) } else { Ok(()) }
    }

    /// First moments of parameter i/2, or where i is odd second ones.
    fn put_moments(&self, q: &mut Queue, i: usize, put: &mut Put<'_>) -> Result<()> {
        self.parts.optimizer.put_moments(q, i / 2, i % 2 == 1, put)
    }

    /// Takes up the run saved in `dir`. Settings under `trainer` and `sae` must agree; where those under `data` do not, the
    /// stream starts at its beginning, for feeding further data. Returns whether the stream was continued.
    ///
    /// # Errors
    /// Names what differs or is missing.
    pub fn restore(
        &mut self,
        q: &mut Queue,
        source: &mut dyn BatchSource,
        identity: &Value,
        dir: &Path,
    ) -> Result<bool> {
        let saved = self.restore_own(q, identity, dir)?;
        let same_data = saved["data"] == parsed(&identity["data"]);
        if same_data {
            source.load_state(q, &dir.join(snapshot::STREAM))?;
        }
        Ok(same_data)
    }

    /// [`Trainer::restore`] without the stream; returns the identity saved.
    pub(crate) fn restore_own(&mut self, q: &mut Queue, identity: &Value, dir: &Path) -> Result<Value> {
        let saved: Saved = snapshot::read_json(&dir.join(STATE))?;
        check_identity(&saved.identity, identity, dir)?;
        checkpoint::load_weights(q, &mut *self.dictionary, &dir.join(checkpoint::WEIGHTS), true)?;
        self.restore_moments(q, &dir.join(MOMENTS), &saved.updates)?;
        if let (Some(window), Some(saved)) = (&mut self.parts.window, &saved.window) {
            window.restore(q, saved)?;
        }
        if let (Some(dead), Some(since)) = (&mut self.parts.dead, &saved.since) {
            q.upload(&self.dictionary.share().own(since), &mut dead.since)?;
        }
        (self.step, self.tokens) = (saved.step, saved.tokens);
        self.anneal_gain = saved.anneal_gain.map_or(1.0, f64::from_bits);
        self.resampled = saved.resampled;
        Ok(saved.identity)
    }

    fn restore_moments(&mut self, q: &mut Queue, path: &Path, updates: &[(String, u64)]) -> Result<()> {
        let file = Weights::open(path)?;
        let optimizer = &self.parts.optimizer;
        let of = |(i, p): (usize, &&Param)| {
            let cols = p.value.cols();
            let here = optimizer.rows_here(i).into_iter().map(|r| r.start * cols..r.end * cols);
            let (whole, cuts) = p.held_placement();
            (whole.iter().product::<usize>(), within(&runs(&whole, &cuts), here))
        };
        let placed: Vec<_> = self.dictionary.params().iter().enumerate().map(of).collect();
        for (m, (elements, here)) in self.parts.optimizer.moments_mut().iter_mut().zip(placed) {
            for (which, to) in [("m", &mut m.m), ("v", &mut m.v)] {
                let name = format!("{which}.{}", m.name);
                let stored = file.shape(&name)?;
                if stored.iter().product::<usize>() != elements {
                    let what = format!("has shape {stored:?}, expected {elements} values");
                    return Err(Error::Tensor { path: path.into(), name, what });
                }
                q.upload(&file.f32_runs(&name, &here)?, to)?;
            }
            let count = updates.iter().find(|(name, _)| *name == m.name);
            m.t = count.map(|(_, t)| *t).ok_or_else(|| {
                Error::format(path.with_file_name(STATE), format!("no update count of {}", m.name))
            })?;
        }
        Ok(())
    }
}

/// Where in the whole the elements `wanted` of a part are, whose own elements are the whole's `runs`, one after the other.
fn within(runs: &[Range<usize>], wanted: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    for wanted in wanted {
        let mut first = 0;
        for run in runs {
            let here = wanted.start.max(first)..wanted.end.min(first + run.len());
            if !here.is_empty() {
                all.push(run.start + here.start - first..run.start + here.end - first);
            }
            first += run.len();
        }
    }
    all
}

/// The snapshot a run should continue from: the one named, or the newest below the result path.
pub fn resume_point(settings: &TrainerSettings, resume: bool) -> Result<Option<PathBuf>> {
    if let Some(path) = &settings.from_pretrained_path {
        if !path.join(STATE).is_file() {
            let what = format!("{} is no snapshot directory ({STATE} is missing)", path.display());
            return Err(Error::setting("trainer.from_pretrained_path", what));
        }
        return Ok(Some(path.clone()));
    }
    if resume { snapshot::latest(&settings.exp_result_path) } else { Ok(None) }
}

/// Makes sure that what decides the weights is as it was in the run saved in `dir`.
pub(super) fn check_identity(saved: &Value, identity: &Value, dir: &Path) -> Result<()> {
    for room in ["trainer", "sae", "model_weights"] {
        // Earlier snapshots do not know the weights of the language model.
        if room == "model_weights" && saved[room].is_null() {
            continue;
        }
        if let Some((key, was, is)) = difference(room, &saved[room], &parsed(&identity[room])) {
            let what = format!("is {is}, but the run in {} had {was}; set it back to resume", dir.display());
            return Err(Error::setting(key, what));
        }
    }
    Ok(())
}

/// As it will look when read back: text does not keep every float to the last bit.
pub(super) fn parsed(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

/// The first key in which two trees differ, with both values.
pub(crate) fn difference(key: &str, was: &Value, is: &Value) -> Option<(String, Value, Value)> {
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).find_map(|k| {
                difference(
                    &format!("{key}.{k}"),
                    a.get(k).unwrap_or(&Value::Null),
                    b.get(k).unwrap_or(&Value::Null),
                )
            })
        }
        _ if was == is => None,
        _ => Some((key.into(), was.clone(), is.clone())),
    }
}

/// Settings under `trainer` that a resumed run may change without changing the weights.
const FREE: [&str; 9] = [
    "log_frequency",
    "eval_frequency",
    "skip_metrics_calculation",
    "n_checkpoints",
    "check_point_save_mode",
    "from_pretrained_path",
    "exp_result_path",
    "snapshot_frequency",
    "snapshots_kept",
];

/// The trainer's room of [`Fit::identity`].
pub fn trainer_identity(settings: &TrainerSettings) -> Value {
    let mut value = serde_json::to_value(settings).unwrap_or(Value::Null);
    if let Some(map) = value.as_object_mut() {
        FREE.iter().for_each(|key| drop(map.remove(*key)));
    }
    value
}
