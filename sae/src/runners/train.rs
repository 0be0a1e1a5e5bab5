//! The training job: model, stream, dictionary, starting values, training, evaluation, folding, and the final checkpoint.

use super::workbench::{Workbench, load_pretrained_on, open_queue};
use crate::{
    Error, Result,
    dictionary::{Dictionary, ModelParts, build_on, checkpoint},
    lm::Lm,
    parallel::{Axis, Mesh, Together, agree, on_primary, together},
    settings::{
        ActivationFactorySettings, DictionaryChoice, DictionarySettings, NormActivation, PretrainedSettings,
        TrainSettings, required_model,
    },
    training::{
        Ended, Fit, LiveSource, Observer, Replay, Trainer,
        evaluate::{self, Downstream, Quality},
        initialise, resume_point,
        schedules::Schedules,
        snapshot,
        trackers::{JsonLines, TensorBoard, Tracker, Wandb, WandbAccess},
        trainer_identity,
    },
};
use lm_saes_runtime::{Group, Queue, Registry, Traffic};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Tokens of an evaluation in the middle of training.
pub(super) const DURING: u64 = 16_384;
/// Tokens of the evaluation after training.
const AFTER: u64 = 65_536;

/// What to do about an earlier run in the same place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Refuse to touch an unfinished run.
    #[default]
    Fresh,
    /// Continue it from its newest snapshot; without one, start.
    Resume,
    /// Throw it away.
    Overwrite,
}

/// What a training job gave.
pub struct TrainReport {
    /// Why training ended. When it was stopped, only the snapshot was written.
    pub ended: Ended,
    /// Steps done, earlier processes' included.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Time of the training loop in this process.
    pub elapsed: Duration,
    /// Step this process continued from.
    pub resumed_from: Option<u64>,
    /// Decoder norm the search chose, with its loss.
    pub best_norm: Option<(f32, f64)>,
    /// Quality and the model's loss, with `eval = true` and a complete run.
    pub evaluation: Option<(Quality, Downstream)>,
    /// What this rank moved while training, by axis of the mesh and kind of collective; nothing on one rank.
    pub traffic: BTreeMap<String, Traffic>,
    /// Where the final dictionary is.
    pub path: PathBuf,
    /// The dictionary as saved.
    pub dictionary: Box<dyn Dictionary>,
}

/// Trains as the settings say, everything opened and closed here.
pub fn train(
    settings: &TrainSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<TrainReport> {
    train_with(settings, registry, observer, start, Group::solo())
}

/// [`train`] as one of the ranks of `world`, all of which call this with the same settings. The first writes and reports; the others'
/// observers should be silent.
///
/// # Errors
/// As [`train`]; settings that differ between ranks, sizes that do not fit the number of ranks, or a rank that is missing.
pub fn train_with(
    settings: &TrainSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
    world: Group,
) -> Result<TrainReport> {
    settings.check()?;
    let model = required_model(&settings.model, &settings.model_name)?;
    let factory = &settings.activation_factory;
    let mesh = Mesh::new(world, settings.mesh_size())?;
    if !mesh.is_solo() {
        observer.phase(&format!("{} ranks", mesh.world.size()));
        let mut all = run_config(settings);
        all["eval"] = json!(settings.eval);
        all["start"] = json!(format!("{start:?}"));
        // Every rank has a device of its own, all of one kind.
        all["device_type"] = json!(settings.device_type.split(':').next());
        agree(&mut open_queue(registry, &settings.device_type)?, &mesh.world, &all)?;
    }
    let mut bench =
        Workbench::open(registry, &settings.device_type, model, factory, &settings.datasets, observer)?;
    bench.mesh = mesh;
    train_on(&mut bench, settings, observer, start)
}

/// Trains on a workbench that is open already, which stays usable.
///
/// # Errors
/// Whatever the settings, data or device refuse. Snapshots written before an error stay.
pub fn train_on(
    bench: &mut Workbench,
    settings: &TrainSettings,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<TrainReport> {
    settings.check()?;
    let root = settings.trainer.exp_result_path.clone();
    let mesh = bench.mesh.clone();
    let resume = on_primary(&mut bench.q, &mesh.world, |_| resume_from(settings, start))?;
    // Starting values are chosen on whole batches, by all ranks that divide the rows alike.
    let (mut dictionary, new) = dictionary(bench, settings, &mesh.without_data())?;
    bench.check_hooks(&*dictionary)?;
    let rows = bench.batch_rows()?;
    let own_rows = bench.own_rows(rows);
    let top_k = dictionary.settings().act_fn().has_k().then(|| dictionary.settings().top_k());
    let schedules = Schedules::resolve(&settings.trainer, rows as u64, top_k)?;
    let identity = identity(settings, dictionary.settings(), &bench.lm);
    let producer = Together { model: &*bench.lm, ranks: mesh.world.clone() };
    let mut stream = LiveSource { stream: bench.stream()?, model: &producer };
    let mut eval_tokens = if settings.eval { Some(bench.tokens()?) } else { None };
    let q = &mut bench.q;
    let (mut held, mut best_norm) = (Vec::new(), None);
    let mut initial = |q: &mut Queue, dictionary: &mut dyn Dictionary| -> Result<()> {
        let model = Some(&*bench.lm as &dyn ModelParts);
        let done = initialise(q, dictionary, &settings.initializer, &mut stream, model, observer)?;
        (held, best_norm) = (done.batches, done.best_norm);
        Ok(())
    };
    let fresh = new && resume.is_none();
    if fresh && !mesh.data.is_solo() {
        let memory = evaluate::plan_inference(q, &mut *dictionary, rows)?;
        initial(q, &mut *dictionary)?;
        for p in dictionary.params_mut() {
            mesh.data.broadcast(q, &mut p.value, 0)?;
        }
        q.sync()?;
        drop(memory);
    }
    dictionary.base_mut().mesh = mesh.clone();
    let mut trainer = Trainer::new(q, dictionary, settings.trainer.clone(), schedules, own_rows)?;
    if fresh && mesh.data.is_solo() {
        initial(q, trainer.dictionary_mut())?;
    }
    let mut source = Replay::new(held, &mut stream);
    if let Some(dir) = &resume {
        observer.phase(&format!("resuming from {}", dir.display()));
        trainer.restore(q, &mut source, &identity, dir)?;
    }
    let resumed_from = resume.is_some().then(|| trainer.steps());
    observer.phase("training");
    let began = Instant::now();
    let (lm, start_of_text) = (&bench.lm, eval_tokens.as_ref().map(|t| t.cursor()));
    let mut measure = |q: &mut Queue, d: &mut dyn Dictionary| -> Result<Vec<(String, f64)>> {
        let (Some(tokens), Some(start)) = (&mut eval_tokens, &start_of_text) else { return Ok(Vec::new()) };
        tokens.seek(start)?;
        let mesh = d.base().mesh.clone();
        d.base_mut().mesh = mesh.without_data();
        let done = evaluate::downstream(q, lm, d, tokens, (own_rows, DURING), &mesh.data);
        d.base_mut().mesh = mesh;
        Ok(done?.values())
    };
    let ended = trainer.fit(
        q,
        Fit {
            source: &mut source,
            trackers: &mut if mesh.is_primary() { trackers(settings) } else { Vec::new() },
            observer,
            evaluate: if settings.eval { Some(&mut measure) } else { None },
            identity: &identity,
        },
    )?;
    let elapsed = began.elapsed();
    let traffic = mesh.traffic();
    let (steps, tokens) = (trainer.steps(), trainer.tokens());
    if steps == 0 {
        let what = "the data ended before the first batch was full; give more text or a smaller batch_size";
        return Err(Error::Data { what: what.into() });
    }
    drop(source);
    let mut dictionary = trainer.into_dictionary();
    let evaluation = match ended {
        Ended::Stopped => None,
        _ => finish(bench, settings, &mut *dictionary, (steps, tokens), observer)?,
    };
    if ended == Ended::Complete {
        on_primary(&mut bench.q, &mesh.world, |_| snapshot::clear(&root))?;
    }
    let path = root;
    Ok(TrainReport {
        ended,
        steps,
        tokens,
        elapsed,
        resumed_from,
        best_norm,
        evaluation,
        traffic,
        path,
        dictionary,
    })
}

/// Records go to files beside the result, and to Weights & Biases where the settings have a table for it.
pub(super) fn trackers(settings: &TrainSettings) -> Vec<Box<dyn Tracker>> {
    let root = settings.result_path();
    let mut all: Vec<Box<dyn Tracker>> = vec![
        Box::new(JsonLines::new(root.join("metrics.jsonl"))),
        Box::new(TensorBoard::new(root.join("tensorboard"))),
    ];
    if let Some(wandb) = &settings.wandb {
        all.push(Box::new(Wandb::new(root, wandb, run_config(settings), WandbAccess::from_env())));
    }
    all
}

/// The settings as a tracker shows them: all that decide the result, no addresses and no keys.
fn run_config(settings: &TrainSettings) -> Value {
    let sae = match &settings.sae {
        DictionaryChoice::Settings(s) => json!(s),
        DictionaryChoice::Pretrained(p) => json!({ "pretrained_name_or_path": p.pretrained_name_or_path }),
    };
    json!({
        "sae": sae,
        "sae_name": settings.sae_name,
        "sae_series": settings.sae_series,
        "initializer": settings.initializer,
        "trainer": settings.trainer,
        "activation_factory": settings.activation_factory,
        "datasets": settings.datasets,
        "model": settings.model,
        "model_name": settings.model_name,
        "device_type": settings.device_type,
        "fold_activation_scale": settings.fold_activation_scale,
    })
}

/// Evaluates if asked to, folds if asked to, and writes the final checkpoint.
pub(super) fn finish(
    bench: &mut Workbench,
    settings: &TrainSettings,
    dictionary: &mut dyn Dictionary,
    (steps, tokens): (u64, u64),
    observer: &mut dyn Observer,
) -> Result<Option<(Quality, Downstream)>> {
    let mut evaluation = None;
    let mesh = dictionary.base().mesh.clone();
    if settings.eval {
        observer.phase("evaluating");
        evaluation = Some(assess(bench, dictionary, AFTER, AFTER)?);
    }
    dictionary.base_mut().mesh = mesh.without_data();
    // The other modes have no constant scale; a default setting must not cost the result of a long run.
    let foldable = dictionary.settings().norm_activation() == NormActivation::DatasetWise;
    if settings.fold_activation_scale && foldable {
        dictionary.fold(&mut bench.q)?;
    }
    let mut extras = extras(bench, settings, steps, tokens);
    if let Some((quality, _)) = &evaluation {
        let figures = ["l0", "explained_variance"].map(|k| (k, quality.get(&format!("metrics/{k}"))));
        extras.insert("stated".into(), figures.into_iter().map(|(k, v)| (k.to_string(), json!(v))).collect());
    }
    let dtype = dictionary.settings().dtype();
    let (q, to) = (&mut bench.q, &settings.trainer.exp_result_path);
    if dictionary.share().is_whole() {
        on_primary(q, &mesh.world, |q| checkpoint::save(q, dictionary, to, dtype, &extras))?;
        return Ok(evaluation);
    }
    // Each part by one of the ranks that hold it, all at once; then one file of them.
    let own = match mesh.data.rank() {
        0 => checkpoint::save(q, dictionary, to, dtype, &extras),
        _ => Ok(()),
    };
    together(q, &mesh.world, own)?;
    on_primary(q, &mesh.world, |_| checkpoint::join(to))?;
    Ok(evaluation)
}

/// Quality on `tokens` tokens and the model's loss on `downstream` of them, from the beginning of the workbench's text. The
/// dictionary's data ranks take the batches in turns.
pub fn assess(
    bench: &mut Workbench,
    dictionary: &mut dyn Dictionary,
    tokens: u64,
    downstream: u64,
) -> Result<(Quality, Downstream)> {
    let mesh = dictionary.base().mesh.clone();
    dictionary.base_mut().mesh = mesh.without_data();
    let done = assess_among(bench, dictionary, tokens, downstream, &mesh.data);
    dictionary.base_mut().mesh = mesh;
    done
}

fn assess_among(
    bench: &mut Workbench,
    dictionary: &mut dyn Dictionary,
    tokens: u64,
    downstream: u64,
    ranks: &Axis,
) -> Result<(Quality, Downstream)> {
    bench.check_hooks(dictionary)?;
    let rows = bench.batch_rows()?;
    let producer = Together { model: &*bench.lm, ranks: bench.mesh.world.clone() };
    let mut source = LiveSource { stream: bench.stream()?, model: &producer };
    let mut text = bench.tokens()?;
    let q = &mut bench.q;
    let _memory = evaluate::plan_inference(q, dictionary, rows)?;
    let quality = evaluate::quality(q, dictionary, &mut source, (rows, tokens), ranks)?;
    let loss = evaluate::downstream(q, &bench.lm, dictionary, &mut text, (rows, downstream), ranks)?;
    q.sync()?;
    Ok((quality, loss))
}

/// The snapshot to continue from, after making sure that no unfinished run is lost by accident.
fn resume_from(settings: &TrainSettings, start: Start) -> Result<Option<PathBuf>> {
    let root = &settings.trainer.exp_result_path;
    check_folder(root)?;
    let resume = resume_point(&settings.trainer, start == Start::Resume)?;
    if resume.is_some() {
        return Ok(resume);
    }
    clear_for(root, start)?;
    Ok(None)
}

/// Makes sure, before any work is done, that results can go to `root`.
pub(super) fn check_folder(root: &Path) -> Result<()> {
    if root.exists() && !root.is_dir() {
        let what = format!("{} is a file; results need a folder", root.display());
        return Err(Error::setting("trainer.exp_result_path", what));
    }
    Ok(())
}

/// Makes room for a new run in `root`.
///
/// # Errors
/// An unfinished run is there and is not to be thrown away.
pub(super) fn clear_for(root: &Path, start: Start) -> Result<()> {
    match (start, snapshot::latest(root)?) {
        (Start::Fresh, Some(unfinished)) => {
            let what = format!(
                "an unfinished run has its snapshot in {}; continue it (--resume), start over (--overwrite), or choose \
                 another folder",
                unfinished.display()
            );
            Err(Error::setting("trainer.exp_result_path", what))
        }
        (Start::Overwrite, Some(_)) => snapshot::clear(root),
        _ => Ok(()),
    }
}

/// The dictionary to train, and whether it is new.
pub(super) fn dictionary(
    bench: &mut Workbench,
    settings: &TrainSettings,
    mesh: &Mesh,
) -> Result<(Box<dyn Dictionary>, bool)> {
    // Training goes on in the normalised space, so nothing is folded on loading.
    let load = |bench: &mut Workbench, p: &PretrainedSettings| {
        let loaded = load_pretrained_on(&mut bench.q, p, false, mesh)?;
        bench.check_model(&loaded.extras, p)?;
        Ok((loaded.dictionary, false))
    };
    match &settings.sae {
        DictionaryChoice::Pretrained(p) => load(bench, p),
        DictionaryChoice::Settings(s) => match s.pretrained() {
            Some(name) => {
                let p = PretrainedSettings {
                    pretrained_name_or_path: name.into(),
                    fold_activation_scale: false,
                    strict_loading: s.strict_loading(),
                    device: String::new(),
                    dtype: s.dtype(),
                    batch_selection_at_inference: None,
                };
                load(bench, &p)
            }
            None => Ok((build_on(&mut bench.q, s, mesh)?, true)),
        },
    }
}

/// What a resumed run must share with the one it continues.
pub(super) fn identity(settings: &TrainSettings, dictionary: &DictionarySettings, lm: &Lm) -> Value {
    json!({
        "trainer": trainer_identity(&settings.trainer),
        "sae": dictionary,
        "data": data_identity(settings, &settings.activation_factory),
        // The same path or name may lead to other weights by now.
        "model_weights": lm.weights_hash(),
    })
}

/// What decides the batches.
pub(super) fn data_identity(settings: &TrainSettings, factory: &ActivationFactorySettings) -> Value {
    json!({ "activation_factory": factory, "datasets": settings.datasets, "model": settings.model })
}

/// What a checkpoint records beside the dictionary's own settings: how its activations were made.
fn extras(bench: &Workbench, settings: &TrainSettings, steps: u64, tokens: u64) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.into(), value);
    put("model_name", json!(settings.model_name.as_deref().unwrap_or(bench.lm.name())));
    put("model", json!(settings.model));
    put("model_identity", bench.model_identity());
    put("token_policy", json!(bench.policy));
    put("sae_name", json!(settings.sae_name));
    put("sae_series", json!(settings.sae_series));
    put("trained", json!({"steps": steps, "tokens": tokens}));
    map
}
