//! The conversion job: a dictionary that selects by rank becomes one with fixed thresholds. Quality before and after is measured
//! on the same first tokens of the text, thresholds are chosen on those that follow.

use super::{
    plan::{Memory, model, weights},
    workbench::{Workbench, batch_rows, load_pretrained, open_queue},
};
use crate::{
    Error, Result,
    dictionary::{Calibration, Dictionary, build, checkpoint},
    parallel::Axis,
    settings::{ActFn, DTypeName, EvaluateSettings, required_model},
    training::{
        Advance, BatchSource, LiveSource, Observer,
        evaluate::{self, Quality},
        source::InputBuffers,
    },
};
use lm_saes_runtime::{Arena, Queue, Registry};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a conversion gave.
#[derive(Clone, Debug)]
pub struct ToJumpReluReport {
    /// Where the new dictionary is.
    pub path: PathBuf,
    /// The selection it had.
    pub act_fn: ActFn,
    /// Its k.
    pub top_k: usize,
    /// The threshold of each pool of competing features: of all, or of each layer or head.
    pub thresholds: Vec<f32>,
    /// Tokens they were chosen on.
    pub tokens: u64,
    /// Quality on tokens that are not among those, before and after.
    pub before: Quality,
    /// The same after.
    pub after: Quality,
}

/// What a conversion would take.
#[derive(Clone, Debug)]
pub struct ToJumpReluPlan {
    /// Memory by purpose, at the peak.
    pub memory: Vec<Memory>,
    /// Everything that stands in the way of running this here.
    pub obstacles: Vec<String>,
}

/// Converts the dictionary the settings name on about `tokens` tokens and writes the result to `out`; `settings.eval` says on how
/// many others it is measured.
///
/// # Errors
/// A dictionary that does not select by rank, a folder that holds a dictionary already, or whatever settings, data or device
/// refuse. Nothing is written then.
pub fn to_jumprelu(
    settings: &EvaluateSettings,
    out: &Path,
    tokens: u64,
    registry: &Registry,
    observer: &mut dyn Observer,
) -> Result<ToJumpReluReport> {
    check(settings, out, tokens)?;
    let model = required_model(&settings.model, &settings.model_name)?;
    let (factory, datasets) = (&settings.activation_factory, &settings.datasets);
    let mut bench = Workbench::open(registry, &settings.device_type, model, factory, datasets, observer)?;
    // Not folded: it comes out normalised as it went in.
    let loaded = load_pretrained(&mut bench.q, &settings.sae, false)?;
    bench.check_model(&loaded.extras, &settings.sae)?;
    bench.check_hooks(&*loaded.dictionary)?;
    let (rows, lm) = (bench.batch_rows()?, bench.lm.clone());
    let (act_fn, top_k) = (loaded.dictionary.settings().act_fn(), loaded.dictionary.settings().top_k());
    let mut source = LiveSource { stream: bench.stream()?, model: &*lm };
    let mut again = LiveSource { stream: bench.stream()?, model: &*lm };
    let q = &mut bench.q;
    let held_out = settings.eval.total_eval_tokens;
    observer.phase("measuring the dictionary as it is");
    let mut dictionary = loaded.dictionary;
    let before = measure(q, &mut *dictionary, &mut source, rows, held_out)?;
    let mut calibration = Calibration::new(q, &*dictionary)?;
    drop(dictionary);
    observer.phase("choosing thresholds");
    calibrate(q, &mut calibration, &mut source, rows, tokens, observer)?;
    let (thresholds, seen) = (calibration.thresholds()?, calibration.tokens());
    let mut converted = calibration.finish(q, &thresholds)?;
    observer.phase("measuring the dictionary with thresholds");
    let after = measure(q, &mut *converted, &mut again, rows, held_out)?;
    let mut extras = loaded.extras;
    let dtype = extras.get("dtype").cloned().and_then(|v| serde_json::from_value::<DTypeName>(v).ok());
    let record = json!({
        "from": settings.sae.pretrained_name_or_path, "act_fn": act_fn, "top_k": top_k, "tokens": seen,
        "thresholds": thresholds,
    });
    extras.insert("converted".into(), record);
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
    checkpoint::save(q, &*converted, out, dtype.unwrap_or_default(), &extras)?;
    Ok(ToJumpReluReport { path: out.into(), act_fn, top_k, thresholds, tokens: seen, before, after })
}

/// Memory of [`to_jumprelu`]; touches no data.
///
/// # Errors
/// As [`to_jumprelu`], as far as settings and checkpoint tell.
pub fn plan_to_jumprelu(
    settings: &EvaluateSettings,
    out: &Path,
    tokens: u64,
    registry: &Registry,
) -> Result<ToJumpReluPlan> {
    check(settings, out, tokens)?;
    let mut obstacles = Vec::new();
    let mut q = open_queue(registry, &settings.device_type)?;
    let factory = &settings.activation_factory;
    let rows = batch_rows(factory, factory.context_size)?;
    let dictionary = build(&mut q, &checkpoint::load_settings(&settings.sae.pretrained_name_or_path)?)?;
    let parameters: usize = dictionary.params().iter().map(|p| p.value.bytes()).sum();
    let mut calibration = Calibration::new(&mut q, &*dictionary)?;
    let mut step = Arena::planning("inference");
    calibration.form().plan(&mut step, rows, dictionary.settings().top_k(), None)?;
    let mut memory = vec![
        Memory { what: "dictionary, twice", bytes: 2 * parameters, exact: true },
        Memory { what: "encoding a batch", bytes: step.used(), exact: true },
        Memory { what: "counts of values", bytes: calibration.bytes(), exact: true },
    ];
    let architecture = model(settings.model.as_ref(), &mut obstacles).map(|(_, a)| a);
    memory.extend(architecture.zip(settings.model.as_ref()).map(|(a, model)| weights(&a, model)));
    Ok(ToJumpReluPlan { memory, obstacles })
}

/// What can be known before anything is loaded.
fn check(settings: &EvaluateSettings, out: &Path, tokens: u64) -> Result<()> {
    settings.check()?;
    if tokens == 0 {
        return Err(Error::setting("tokens", "thresholds need at least one token to be chosen on"));
    }
    if out.join(checkpoint::CONFIG).exists() || out.is_file() {
        let what = format!("{} is there already; name a folder that is not", out.display());
        return Err(Error::setting("out", what));
    }
    Calibration::check(&checkpoint::load_settings(&settings.sae.pretrained_name_or_path)?)
}

fn measure(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    source: &mut dyn BatchSource,
    rows: usize,
    tokens: u64,
) -> Result<Quality> {
    let _memory = evaluate::plan_inference(q, dictionary, rows)?;
    evaluate::quality(q, dictionary, source, (rows, tokens), &Axis::default())
}

/// Counts the values of at least `tokens` tokens, or of what text there is left.
fn calibrate(
    q: &mut Queue,
    calibration: &mut Calibration,
    source: &mut dyn BatchSource,
    rows: usize,
    tokens: u64,
    observer: &mut dyn Observer,
) -> Result<()> {
    let _memory = evaluate::plan_inference(q, calibration.form(), rows)?;
    let mut arena = Arena::planning("calibration");
    InputBuffers::plan(&mut arena, rows)?;
    let mut arena = Arena::build(&arena, q.device())?;
    let mut buffers = InputBuffers::plan(&mut arena, rows)?;
    let hooks = source.hook_points().to_vec();
    let began = Instant::now();
    while calibration.tokens() < tokens {
        let Some(mut batch) = source.next(q)? else { break };
        if batch.n_valid == 0 {
            continue;
        }
        buffers.load(q, calibration.form(), &hooks, &mut batch)?;
        let input = buffers.input(calibration.form(), &hooks, &batch)?;
        let (inputs, context) = (input.inputs.clone(), input.context);
        calibration.observe(q, &inputs, context, &batch.mask)?;
        let done = calibration.tokens();
        let per_second = done as f64 / began.elapsed().as_secs_f64().max(1e-9);
        let left = tokens.saturating_sub(done) as f64 / per_second;
        let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        let stop = observer.advanced(&Advance { what: "tokens", done, total: tokens, per_second, remaining });
        if stop.is_break() {
            break;
        }
    }
    if calibration.tokens() == 0 {
        let what = "the text ended before thresholds could be chosen: give more of it, or measure on less \
                    (eval.total_eval_tokens)";
        return Err(Error::Data { what: what.into() });
    }
    Ok(())
}
