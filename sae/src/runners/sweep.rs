//! The sweep job: several dictionaries from one pass of the language model over one stream, each with the weights and the
//! records it would have alone.

use super::{
    plan::dictionary_settings,
    train::{DURING, Start, check_folder, clear_for, data_identity, dictionary, finish, identity, trackers},
    workbench::Workbench,
};
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{Dictionary, ModelParts},
    settings::{ActivationFactorySettings, SweepMember, SweepSettings, required_model},
    training::{
        LiveSource, Observer, Replay, Trainer,
        evaluate::{self, Downstream, Quality},
        initialise,
        schedules::Schedules,
        snapshot,
        sweep::{Member, SavedState, SavedSweep, State, Sweep, Turn},
    },
};
use lm_saes_runtime::{Queue, Registry};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a sweep gave.
#[derive(Clone, Debug)]
pub struct SweepReport {
    /// The members, in the order of the settings.
    pub members: Vec<MemberReport>,
    /// Batches trained on, earlier processes' included.
    pub steps: u64,
    /// Tokens of the stream this process trained on.
    pub tokens: u64,
    /// Time of the training loop in this process.
    pub elapsed: Duration,
    /// Step this process continued from.
    pub resumed_from: Option<u64>,
    /// Where the sweep's snapshots are, if it was stopped or the data ended.
    pub root: PathBuf,
}

/// What became of one member.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Its name.
    pub name: String,
    /// Where its dictionary and records are.
    pub path: PathBuf,
    /// How it ended.
    pub outcome: Outcome,
    /// Quality and the model's loss, with `eval = true`, where this process ended it.
    pub evaluation: Option<(Quality, Downstream)>,
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were done.
    Complete {
        /// Steps.
        steps: u64,
        /// Tokens trained on.
        tokens: u64,
    },
    /// The data ended first; the dictionary was written.
    EndOfStream {
        /// Steps.
        steps: u64,
        /// Tokens trained on.
        tokens: u64,
    },
    /// The sweep was stopped; only its snapshot was written.
    Stopped,
    /// The member diverged.
    Failed(String),
}

/// Trains all members as the settings say.
///
/// # Errors
/// Whatever the settings, data or device refuse; snapshots written before stay. A member that diverges is an outcome, not an
/// error.
pub fn sweep(
    settings: &SweepSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<SweepReport> {
    let Some(first) = settings.members.first().map(|m| &m.settings) else {
        return Err(Error::setting("sweep", "has no members"));
    };
    let model = required_model(&first.model, &first.model_name)?;
    let resume = resume_from(settings, start)?;
    let factory = ActivationFactorySettings { hook_points: Vec::new(), ..first.activation_factory.clone() };
    let mut bench =
        Workbench::open(registry, &first.device_type, model, &factory, &first.datasets, observer)?;
    bench.factory.hook_points = hook_points(settings)?;
    Job { settings, bench, observer }.run(resume.as_deref())
}

/// Every hook point some member needs, once.
pub(super) fn hook_points(settings: &SweepSettings) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for m in &settings.members {
        let s = dictionary_settings(&m.settings)?;
        for hook in s.hook_points_in().into_iter().chain(s.hook_points_out()) {
            if !all.contains(&hook) {
                all.push(hook);
            }
        }
    }
    Ok(all)
}

/// The snapshot to continue from, after making sure that no unfinished run is lost by accident.
fn resume_from(settings: &SweepSettings, start: Start) -> Result<Option<PathBuf>> {
    settings.members.iter().try_for_each(|m| check_folder(m.settings.result_path()))?;
    if start == Start::Resume
        && let Some(path) = snapshot::latest(&settings.root)?
    {
        return Ok(Some(path));
    }
    let folders = settings.members.iter().map(|m| m.settings.result_path().as_path());
    folders.chain([settings.root.as_path()]).try_for_each(|folder| clear_for(folder, start))?;
    Ok(None)
}

struct Job<'a> {
    settings: &'a SweepSettings,
    bench: Workbench,
    observer: &'a mut dyn Observer,
}

impl Job<'_> {
    fn run(mut self, resume: Option<&Path>) -> Result<SweepReport> {
        let rows = self.bench.batch_rows()?;
        let first = &self.settings.members[0].settings;
        let data = data_identity(first, &self.bench.factory);
        let identities = self.identities()?;
        let saved = resume.map(SavedSweep::read).transpose()?;
        if let (Some(saved), Some(dir)) = (&saved, resume) {
            saved.check(&identities, dir)?;
            self.observer.phase(&format!("resuming from {}", dir.display()));
        }
        let lm = self.bench.lm.clone();
        let mut live = LiveSource { stream: self.bench.stream()?, model: &*lm };
        let (mut held, mut members) = (Vec::new(), Vec::new());
        for (m, (name, identity)) in self.settings.members.iter().zip(identities) {
            let state = match saved.as_ref().and_then(|s| s.state(&name)) {
                Some(SavedState::Complete { steps, tokens }) => {
                    State::Complete { steps: *steps, tokens: *tokens }
                }
                Some(SavedState::Failed(why)) => State::Failed(why.clone()),
                _ => {
                    let from = resume.map(|dir| dir.join(&name));
                    let trainer = self.trainer(m, &identity, from.as_deref(), rows, &mut held, &mut live)?;
                    State::Training(Box::new(trainer))
                }
            };
            let trackers = trackers(&m.settings);
            members.push(Member { name, trackers, identity, evaluated: m.settings.eval, state });
        }
        let mut source = Replay::new(held, &mut live);
        let q = &mut self.bench.q;
        let mut sweep = Sweep::new(q, members, &self.bench.factory.hook_points, rows)?;
        if let (Some(saved), Some(dir)) = (&saved, resume) {
            sweep.restore(q, &mut source, saved, &data, dir)?;
        }
        self.train(sweep, &mut source, &data, saved.map(|s| s.step()))
    }

    /// Name and identity of every member.
    fn identities(&self) -> Result<Vec<(String, Value)>> {
        let of = |m: &SweepMember| {
            let sae = dictionary_settings(&m.settings)?;
            Ok((m.name.clone(), identity(&m.settings, &sae, &self.bench.lm)))
        };
        self.settings.members.iter().map(of).collect()
    }

    /// A trainer with its starting values, from a snapshot or from the first batches of the stream. Those go into `held`, and
    /// every member sees the same ones.
    fn trainer(
        &mut self,
        member: &SweepMember,
        identity: &Value,
        from: Option<&Path>,
        rows: usize,
        held: &mut Vec<Batch>,
        live: &mut LiveSource<'_>,
    ) -> Result<Trainer> {
        let settings = &member.settings;
        let (dictionary, new) = dictionary(&mut self.bench, settings)?;
        self.bench.check_hooks(&*dictionary)?;
        let top_k = dictionary.settings().act_fn().has_k().then(|| dictionary.settings().top_k());
        let schedules = Schedules::resolve(&settings.trainer, rows as u64, top_k)?;
        let q = &mut self.bench.q;
        let mut trainer = Trainer::new(q, dictionary, settings.trainer.clone(), schedules, rows)?;
        if let Some(dir) = from {
            trainer.restore_own(q, identity, dir)?;
        } else if new {
            self.observer.phase(&format!("starting values of {}", member.name));
            let mut source = Replay::new(std::mem::take(held), live);
            let model = Some(&*self.bench.lm as &dyn ModelParts);
            let dictionary = trainer.dictionary_mut();
            let done = initialise(q, dictionary, &settings.initializer, &mut source, model, self.observer)?;
            *held = done.batches;
            held.extend(source.into_held());
        }
        Ok(trainer)
    }

    fn train(
        mut self,
        mut sweep: Sweep,
        source: &mut Replay<'_>,
        data: &Value,
        resumed_from: Option<u64>,
    ) -> Result<SweepReport> {
        self.observer.phase("training");
        let root = self.settings.root.clone();
        let kept = self.settings.members.iter().map(|m| m.settings.trainer.snapshots_kept).max().unwrap_or(1);
        let lm = self.bench.lm.clone();
        let rows = self.bench.batch_rows()?;
        let evaluated = self.settings.members.iter().any(|m| m.settings.eval);
        let mut eval_tokens = if evaluated { Some(self.bench.tokens()?) } else { None };
        let start_of_text = eval_tokens.as_ref().map(|t| t.cursor());
        let mut measure = |q: &mut Queue, d: &mut dyn Dictionary| -> Result<Vec<(String, f64)>> {
            let (Some(tokens), Some(start)) = (&mut eval_tokens, &start_of_text) else {
                return Ok(Vec::new());
            };
            tokens.seek(start)?;
            Ok(evaluate::downstream(q, &lm, d, tokens, rows, DURING)?.values())
        };
        let mut reports: Vec<Option<MemberReport>> = self.settings.members.iter().map(|_| None).collect();
        sweep.start()?;
        let began = Instant::now();
        let mut stopped = false;
        while !sweep.is_over() && !stopped {
            let turn = sweep.turn(&mut self.bench.q, source, Some(&mut measure), self.observer)?;
            let (done, over) = match turn {
                Turn::Stepped(done) => (done, false),
                Turn::Stopped(done) => (done, true),
                Turn::EndOfStream => break,
            };
            for i in done {
                reports[i] = Some(self.finish(&mut sweep, i, true)?);
            }
            stopped = over && !sweep.is_over();
            if stopped || sweep.snapshot_due() {
                let path = sweep.snapshot(&mut self.bench.q, source, data, &root, kept)?;
                self.observer.snapshot(&path);
            }
        }
        self.bench.q.sync()?;
        let elapsed = began.elapsed();
        if !stopped && !sweep.is_over() {
            if sweep.steps() == 0 {
                let what =
                    "the data ended before the first batch was full; give more text or a smaller batch_size";
                return Err(Error::Data { what: what.into() });
            }
            let path = sweep.snapshot(&mut self.bench.q, source, data, &root, kept)?;
            self.observer.snapshot(&path);
            for (i, report) in reports.iter_mut().enumerate() {
                if matches!(sweep.members()[i].state, State::Training(_)) {
                    *report = Some(self.finish(&mut sweep, i, false)?);
                }
            }
        } else if !stopped && sweep.members().iter().any(|m| matches!(m.state, State::Complete { .. })) {
            snapshot::clear(&root)?;
        }
        let (steps, tokens) = (sweep.steps(), sweep.tokens());
        let members =
            reports.into_iter().enumerate().map(|(i, r)| r.unwrap_or_else(|| self.rest(&sweep, i))).collect();
        Ok(SweepReport { members, steps, tokens, elapsed, resumed_from, root })
    }

    /// Evaluates and writes a member that has ended, and lets go of its memory.
    fn finish(&mut self, sweep: &mut Sweep, i: usize, complete: bool) -> Result<MemberReport> {
        let mut report = self.rest(sweep, i);
        if let Some(trainer) = sweep.complete(i) {
            sweep.end_trackers(i, self.observer)?;
            let (steps, tokens) = (trainer.steps(), trainer.tokens());
            let mut dictionary = trainer.into_dictionary();
            let settings = &self.settings.members[i].settings;
            report.evaluation =
                finish(&mut self.bench, settings, &mut *dictionary, (steps, tokens), self.observer)?;
            report.outcome = if complete {
                Outcome::Complete { steps, tokens }
            } else {
                Outcome::EndOfStream { steps, tokens }
            };
        }
        Ok(report)
    }

    /// The report of a member this process did not end.
    fn rest(&self, sweep: &Sweep, i: usize) -> MemberReport {
        let SweepMember { name, settings } = &self.settings.members[i];
        let outcome = match &sweep.members()[i].state {
            State::Training(_) => Outcome::Stopped,
            State::Complete { steps, tokens } => Outcome::Complete { steps: *steps, tokens: *tokens },
            State::Failed(why) => Outcome::Failed(why.clone()),
        };
        MemberReport { name: name.clone(), path: settings.result_path().clone(), outcome, evaluation: None }
    }
}
