//! The training loop (TRAINING §5): one step, and the loop round it with records, evaluation and snapshots. What a snapshot
//! holds is in `resume`.

use super::{
    LossSettings, Observer, Progress, anneal,
    metrics::{MetricWindow, StepFacts},
    optimizer::{GradientNorms, Optimizer},
    resample,
    schedules::Schedules,
    snapshot,
    source::{self, BatchSource, InputBuffers},
    trackers::{self, Record, Tracker},
};
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{Coefficients, DeadFeatures, Dictionary, LossTerms, checkpoint},
    parallel::{rows, together},
    settings::TrainerSettings,
};
use lm_saes_runtime::{Arena, DType, Queue, View};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A dictionary in training.
pub struct Trainer {
    pub(super) dictionary: Box<dyn Dictionary>,
    pub(super) settings: TrainerSettings,
    pub(super) loss: LossSettings,
    pub(super) schedules: Schedules,
    pub(super) parts: Parts,
    pub(super) step: u64,
    pub(super) tokens: u64,
    /// What p-annealing multiplies the sparsity coefficient by.
    pub(super) anneal_gain: f64,
    /// Features resampled so far.
    pub(super) resampled: u64,
}

/// Everything planned in arenas.
pub(super) struct Parts {
    pub(super) buffers: InputBuffers,
    pub(super) optimizer: Optimizer,
    pub(super) window: Option<MetricWindow>,
    pub(super) dead: Option<DeadFeatures>,
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Loss before the update.
    pub terms: LossTerms,
    /// Learning rates of the others and of the thresholds.
    pub lr: (f64, f64),
    /// Coefficients in force.
    pub coefficients: Coefficients,
    /// Sparsity coefficient in full precision.
    pub l1: f64,
    /// Gradient norms.
    pub gradients: GradientNorms,
    /// Tokens trained on before the step.
    pub tokens_before: u64,
    /// Active features per token that counts, and explained variance; absent when metrics are off.
    pub quality: Option<(f64, f64)>,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps were done.
    Complete,
    /// The data ended first.
    EndOfStream,
    /// The observer asked for it.
    Stopped,
}

/// Measures a dictionary in the middle of training; gives metric keys and values.
pub type Evaluate<'a> = dyn FnMut(&mut Queue, &mut dyn Dictionary) -> Result<Vec<(String, f64)>> + 'a;

/// What the loop works with.
pub struct Fit<'a> {
    /// Where batches come from.
    pub source: &'a mut dyn BatchSource,
    /// Where records go.
    pub trackers: &'a mut [Box<dyn Tracker>],
    /// Who watches.
    pub observer: &'a mut dyn Observer,
    /// Called every `eval_frequency` steps.
    pub evaluate: Option<&'a mut Evaluate<'a>>,
    /// What the run is: settings that a resumed run must share, by room.
    pub identity: &'a Value,
}

impl Trainer {
    /// A trainer of `dictionary` on batches of which this rank takes up to `rows` rows, all memory taken. Its mesh is the dictionary's.
    pub fn new(
        q: &mut Queue,
        mut dictionary: Box<dyn Dictionary>,
        settings: TrainerSettings,
        schedules: Schedules,
        rows: usize,
    ) -> Result<Self> {
        settings.check()?;
        let plans = Self::plan(&mut *dictionary, &settings, &schedules, rows)?;
        let [mut step, mut optimizer] = plans;
        step = Arena::build(&step, q.device())?;
        optimizer = Arena::build(&optimizer, q.device())?;
        let mut parts = parts(&mut step, &mut optimizer, &mut *dictionary, &settings, &schedules, rows)?;
        parts.optimizer.reset(q)?;
        if let Some(window) = &mut parts.window {
            window.reset(q)?;
        }
        if let Some(dead) = &mut parts.dead {
            for t in [&mut dead.since, &mut dead.fired, &mut dead.dead] {
                q.fill(t, 0.0)?;
            }
        }
        let loss = settings.loss();
        Ok(Self {
            dictionary,
            settings,
            loss,
            schedules,
            parts,
            step: 0,
            tokens: 0,
            anneal_gain: 1.0,
            resampled: 0,
        })
    }

    /// Planning arenas of a step and of the optimiser, with everything a run takes.
    pub fn plan(
        dictionary: &mut dyn Dictionary,
        settings: &TrainerSettings,
        schedules: &Schedules,
        rows: usize,
    ) -> Result<[Arena; 2]> {
        let (mut step, mut optimizer) = (Arena::planning("step"), Arena::planning("optimizer"));
        parts(&mut step, &mut optimizer, dictionary, settings, schedules, rows)?;
        Ok([step, optimizer])
    }

    /// The dictionary.
    pub fn dictionary(&self) -> &dyn Dictionary {
        &*self.dictionary
    }
    /// The dictionary, to change.
    pub fn dictionary_mut(&mut self) -> &mut dyn Dictionary {
        &mut *self.dictionary
    }
    /// The dictionary, when training is over.
    pub fn into_dictionary(self) -> Box<dyn Dictionary> {
        self.dictionary
    }
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }
    /// Tokens trained on.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// The schedules.
    pub fn schedules(&self) -> &Schedules {
        &self.schedules
    }
    /// Dead-feature bookkeeping, kept with the auxiliary loss.
    pub fn dead(&self) -> Option<&DeadFeatures> {
        self.parts.dead.as_ref()
    }

    /// Coefficients of step `s`.
    pub fn coefficients(&self, s: u64) -> Coefficients {
        let settings = self.dictionary.settings();
        let k = self.schedules.k.as_ref().map_or(settings.top_k(), |k| k.k(s));
        Coefficients {
            k: k.min(self.dictionary.most_active()),
            l1: self.l1(s) as f32,
            lp: self.settings.lp_coefficient.unwrap_or(0.0) as f32,
            auxk: self.settings.auxk_coefficient.unwrap_or(0.0) as f32,
        }
    }

    fn l1(&self, s: u64) -> f64 {
        self.schedules.l1.at(s) * self.anneal_gain
    }

    /// One step on a batch whose activations lie in the order of `hook_points`; they are normalised in place. Where several ranks
    /// train, all call this with the same batch.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when loss or gradients are not finite.
    pub fn step(&mut self, q: &mut Queue, hook_points: &[String], batch: &mut Batch) -> Result<StepReport> {
        let counted = batch.n_valid;
        let data = self.dictionary.base().mesh.data.clone();
        let mut share;
        let own = match data.is_solo() {
            true => batch,
            false => {
                share = rows::share(q, batch, &data)?;
                &mut share
            }
        };
        let weight = self.parts.buffers.load_share(q, &*self.dictionary, hook_points, own, counted)?;
        self.step_on(q, hook_points, &source::views(own), own, &weight, counted)
    }

    /// One step on activations that were normalised elsewhere, in the order of `hook_points`; `batch` says what its rows are.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_normalised(
        &mut self,
        q: &mut Queue,
        hook_points: &[String],
        acts: &[View<'_>],
        batch: &Batch,
    ) -> Result<StepReport> {
        let weight = self.parts.buffers.load_rows(q, batch, batch.n_valid)?;
        self.step_on(q, hook_points, acts, batch, &weight, batch.n_valid)
    }

    fn step_on(
        &mut self,
        q: &mut Queue,
        hook_points: &[String],
        acts: &[View<'_>],
        batch: &Batch,
        weight: &[f32],
        counted: usize,
    ) -> Result<StepReport> {
        let (s, tokens_before) = (self.step, self.tokens);
        let (coefficients, l1) = (self.coefficients(s), self.l1(s));
        let p = self.schedules.p.map(|p| [p.at(s), p.at(s + 1)]);
        if let Some([p, _]) = p {
            self.loss.p = p as f32;
        }
        let lr = self.settings.lr * self.schedules.lr.factor(s);
        let lr = (lr, lr * self.settings.jumprelu_lr_factor);
        let Parts { buffers, optimizer, window, dead } = &mut self.parts;
        let dictionary = &mut *self.dictionary;
        let input = buffers.input_of(dictionary, hook_points, acts, batch)?;
        let terms = dictionary.train_step(q, &input, &self.loss, coefficients, dead.as_mut())?;
        if !terms.loss.is_finite() {
            let what = blame(q, hook_points, acts)?;
            return Err(Error::NonFinite { step: s + 1, what, hint: String::new() });
        }
        optimizer.begin(q, dictionary)?;
        let mut quality = None;
        if let Some(window) = window {
            window.observe(q, dictionary, &input, weight)?;
            window.losses(q, dictionary, &terms)?;
            quality = Some(window.last());
        }
        if let Some(exponents) = p.filter(|[now, next]| now != next) {
            self.anneal_gain *= anneal::ratio(q, dictionary, weight, exponents)?;
        }
        let gradients = optimizer.step(q, dictionary, lr, s + 1)?;
        let often = self.settings.resample_frequency;
        let due = often > 0 && (s + 1).is_multiple_of(often) && s < self.schedules.resample_until;
        if let Some(dead) = dead.as_mut().filter(|_| due) {
            let on = (&input, weight);
            self.resampled += resample::resample(q, dictionary, optimizer, dead, on, &self.settings, s)?;
        }
        if let Some(window) = window {
            window.gradients(gradients);
        }
        self.step += 1;
        self.tokens += counted as u64;
        Ok(StepReport { terms, lr, coefficients, l1, gradients, tokens_before, quality })
    }

    /// Trains until all steps are done, the data ends, or the observer breaks off.
    ///
    /// # Errors
    /// Whatever fails; snapshots written before stay. [`Error::NonFinite`] says which the last one is.
    pub fn fit(&mut self, q: &mut Queue, mut fit: Fit<'_>) -> Result<Ended> {
        for t in fit.trackers.iter_mut() {
            t.start(self.step)?;
        }
        trackers::tell(fit.trackers, fit.observer);
        let ended = self.fit_steps(q, &mut fit);
        let told = fit.trackers.iter_mut().try_for_each(|t| t.end(ended.is_ok()));
        trackers::tell(fit.trackers, fit.observer);
        // What went wrong in training comes first.
        let ended = ended?;
        told.map(|()| ended)
    }

    fn fit_steps(&mut self, q: &mut Queue, fit: &mut Fit<'_>) -> Result<Ended> {
        let began = (Instant::now(), self.step, self.tokens);
        let mesh = self.dictionary.base().mesh.clone();
        while !self.is_complete() {
            let Some(mut batch) = fit.source.next(q)? else {
                self.snapshot(q, fit)?;
                return Ok(Ended::EndOfStream);
            };
            // Nothing to learn from padding alone; and the rest of a text may not do for all ranks.
            if batch.n_valid == 0 || !rows::enough(&batch, mesh.data.size()) {
                continue;
            }
            let report = self.step(q, fit.source.hook_points(), &mut batch).map_err(|e| self.with_hint(e))?;
            drop(batch);
            let flow = fit.observer.step(&self.progress(&report, began));
            self.after_step(q, fit.trackers, fit.evaluate.as_deref_mut(), fit.observer, &report)?;
            trackers::tell(fit.trackers, fit.observer);
            if self.snapshot_due() {
                self.snapshot(q, fit)?;
            }
            // One rank's wish to stop is everybody's.
            let mut stop = [f64::from(u8::from(flow.is_break()))];
            mesh.world.sum_f64(q, &mut stop)?;
            if stop[0] > 0.0 && !self.is_complete() {
                self.snapshot(q, fit)?;
                return Ok(Ended::Stopped);
            }
        }
        q.sync()?;
        Ok(Ended::Complete)
    }

    /// Records, evaluation and weight snapshots that are due.
    pub(super) fn after_step(
        &mut self,
        q: &mut Queue,
        trackers: &mut [Box<dyn Tracker>],
        evaluate: Option<&mut Evaluate<'_>>,
        observer: &mut dyn Observer,
        report: &StepReport,
    ) -> Result<()> {
        let mut values = Vec::new();
        if self.step.is_multiple_of(self.settings.log_frequency) {
            values.extend(self.record(q, report)?);
        }
        if let Some(evaluate) = evaluate.filter(|_| self.step.is_multiple_of(self.settings.eval_frequency)) {
            values.extend(evaluate(q, &mut *self.dictionary)?);
        }
        if !values.is_empty() {
            let record = Record { step: self.step, tokens: self.tokens, values };
            trackers.iter_mut().try_for_each(|t| t.record(&record))?;
            observer.record(&record);
        }
        if self.schedules.checkpoints.contains(&self.step) && self.dictionary.base().mesh.data.rank() == 0 {
            let file =
                snapshot::folder(&self.settings.exp_result_path).join(format!("{}.safetensors", self.step));
            checkpoint::save_weights(q, &*self.dictionary, &file, self.dictionary.settings().dtype())?;
        }
        Ok(())
    }

    /// Whether a full snapshot belongs after the last step.
    pub(super) fn snapshot_due(&self) -> bool {
        let due = self.settings.snapshot_frequency;
        due > 0 && self.step.is_multiple_of(due) && !self.is_complete()
    }

    /// Whether all steps are done.
    pub fn is_complete(&self) -> bool {
        self.step >= self.schedules.total_steps
    }

    fn record(&mut self, q: &mut Queue, report: &StepReport) -> Result<Vec<(String, f64)>> {
        let Some(window) = &mut self.parts.window else { return Ok(Vec::new()) };
        let facts = StepFacts {
            lr: report.lr.0,
            tokens_before: report.tokens_before,
            coefficients: report.coefficients,
            losses: [self.loss.sparsity.is_some(), self.loss.lp, self.loss.auxk],
            has_k: self.dictionary.settings().act_fn().has_k(),
        };
        let mut values = window.record(q, &mut *self.dictionary, &facts)?;
        if self.settings.resample_frequency > 0 {
            values.push(("sparsity/resampled_features".into(), self.resampled as f64));
        }
        if self.schedules.p.is_some() {
            values.push(("details/p".into(), f64::from(self.loss.p)));
        }
        window.reset(q)?;
        Ok(values)
    }

    pub(super) fn progress(
        &self,
        report: &StepReport,
        (start, step, tokens): (Instant, u64, u64),
    ) -> Progress {
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        let done = (self.step - step).max(1) as f64;
        let left = (self.schedules.total_steps - self.step) as f64;
        Progress {
            step: self.step,
            total_steps: self.schedules.total_steps,
            tokens: self.tokens,
            tokens_per_second: (self.tokens - tokens) as f64 / seconds,
            remaining: Duration::try_from_secs_f64(left * seconds / done).unwrap_or(Duration::MAX),
            loss: f64::from(report.terms.loss),
            l0: report.quality.map(|v| v.0),
            explained_variance: report.quality.map(|v| v.1),
            lr: report.lr.0,
        }
    }

    fn with_hint(&self, e: Error) -> Error {
        match e {
            Error::NonFinite { step, what, .. } => {
                let kept = snapshot::latest(&self.settings.exp_result_path).ok().flatten();
                let hint = match kept {
                    Some(path) => format!(
                        "; training stopped, the last good snapshot is {}. Remove the cause (often lr is too high) and resume",
                        path.display()
                    ),
                    None => "; training stopped before the first snapshot. Remove the cause (often lr is too high) and start again".into(),
                };
                Error::NonFinite { step, what, hint }
            }
            e => e,
        }
    }

    fn snapshot(&mut self, q: &mut Queue, fit: &mut Fit<'_>) -> Result<()> {
        let mesh = self.dictionary.base().mesh.clone();
        let saved = self.state(q, fit.identity)?;
        if mesh.data.rank() == 0 {
            // The ranks that together hold the dictionary write side by side; the first one makes the folder and gives it its name.
            let root = self.settings.exp_result_path.clone();
            let wrote = |q: &mut Queue, own: Result<()>| together(q, &mesh.shards, own);
            if mesh.is_primary() {
                let path = snapshot::write(&root, self.step, self.settings.snapshots_kept, |dir| {
                    wrote(q, Ok(()))?;
                    let own = self.save_as(q, &saved, Some(dir));
                    let own = own.and_then(|()| fit.source.save_state(q, &dir.join(snapshot::STREAM)));
                    wrote(q, own)
                })?;
                fit.observer.snapshot(&path);
            } else {
                wrote(q, Ok(()))?;
                let own = self.save_as(q, &saved, Some(&snapshot::aside(&root, self.step)));
                wrote(q, own)?;
            }
        } else {
            self.save_as(q, &saved, None)?;
        }
        // Whoever goes on has a snapshot behind it.
        mesh.world.barrier(q)
    }
}

fn parts(
    step: &mut Arena,
    optimizer: &mut Arena,
    dictionary: &mut dyn Dictionary,
    settings: &TrainerSettings,
    schedules: &Schedules,
    rows: usize,
) -> Result<Parts> {
    let top_k = dictionary.settings().top_k();
    let max_k = schedules.k.as_ref().map_or(top_k, |k| k.k(0).max(top_k)).min(dictionary.most_active());
    let loss = settings.loss();
    dictionary.check_loss(&loss)?;
    dictionary.share().check_loss(&loss)?;
    dictionary.plan(step, rows, max_k, Some(&loss))?;
    let mut counters = |label, dtype| step.tensor(label, 1, dictionary.share().len(), dtype);
    let dead = if loss.auxk || settings.resample_frequency > 0 {
        Some(DeadFeatures {
            since: counters("tokens since active", DType::U32)?,
            fired: counters("rows active", DType::U32)?,
            dead: counters("dead features", DType::U8)?,
            threshold: settings.dead_threshold as u32,
        })
    } else {
        None
    };
    let window = match settings.skip_metrics_calculation {
        true => None,
        false => Some(MetricWindow::plan(step, dictionary, rows)?),
    };
    Ok(Parts {
        buffers: InputBuffers::plan(step, rows)?,
        optimizer: Optimizer::plan(step, optimizer, dictionary, settings)?,
        window,
        dead,
    })
}

/// What a loss that is not finite came from: activations, or the step itself.
fn blame(q: &mut Queue, hook_points: &[String], acts: &[View<'_>]) -> Result<String> {
    for (hook_point, acts) in hook_points.iter().zip(acts) {
        if q.download::<f32>(*acts)?.iter().any(|v| !v.is_finite()) {
            return Ok(format!("the activation of {hook_point}"));
        }
    }
    Ok("the loss".into())
}
