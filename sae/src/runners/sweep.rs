//! The sweep job: several dictionaries from one pass of the language model over one stream, each with the weights and the
//! records it would have alone.

use super::{
    plan::dictionary_settings,
    train::{DURING, Start, check_folder, clear_for, data_identity, dictionary, finish, identity, trackers},
    workbench::{Workbench, open_queue},
};
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{Dictionary, ModelParts},
    parallel::{Axis, Mesh, MeshSize, agree, on_primary},
    settings::{ActivationFactorySettings, SweepMember, SweepSettings, required_model},
    training::{
        LiveSource, Observer, Replay, Trainer,
        evaluate::{self, Downstream, Quality},
        initialise,
        schedules::Schedules,
        snapshot,
        sweep::{Member, SavedState, SavedSweep, State, Sweep, Turn},
        trainer_identity,
    },
};
use lm_saes_runtime::{Group, Queue, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
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

/// An evaluation on its way to another rank, numbers as the bits of f64.
#[derive(Serialize, Deserialize)]
struct Told {
    tokens: u64,
    values: Vec<(String, u64)>,
    predictions: u64,
    numbers: [u64; 4],
}

impl Told {
    fn of((q, d): &(Quality, Downstream)) -> Self {
        Self {
            tokens: q.tokens,
            values: q.values.iter().map(|(k, v)| (k.clone(), v.to_bits())).collect(),
            predictions: d.predictions,
            numbers: [q.dead_share, d.original, d.reconstructed, d.ablated].map(f64::to_bits),
        }
    }

    fn read(self) -> (Quality, Downstream) {
        let [dead_share, original, reconstructed, ablated] = self.numbers.map(f64::from_bits);
        let values = self.values.into_iter().map(|(k, v)| (k, f64::from_bits(v))).collect();
        let quality = Quality { tokens: self.tokens, values, dead_share };
        (quality, Downstream { predictions: self.predictions, original, reconstructed, ablated })
    }
}

/// How a member ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    sweep_with(settings, registry, observer, start, Group::solo())
}

/// [`sweep`] as one of the ranks of `world`, among which the members are dealt, one after the other. Every rank runs the language model
/// on its own, so that members have the bits they would have alone; the first reports all.
///
/// # Errors
/// As [`sweep`]; settings that differ between ranks, or a rank that is missing.
pub fn sweep_with(
    settings: &SweepSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
    world: Group,
) -> Result<SweepReport> {
    let Some(first) = settings.members.first().map(|m| &m.settings) else {
        return Err(Error::setting("sweep", "has no members"));
    };
    let size = MeshSize { data: world.size(), ..MeshSize::SOLO };
    let members = settings.members.len();
    if world.size() > members {
        let what = format!(
            "has {members} members for {} ranks, each of which needs at least one; start it with `mpirun -n {members} lm-saes …`",
            world.size()
        );
        return Err(Error::setting("sweep", what));
    }
    let ranks = Mesh::new(world, size)?.world;
    let model = required_model(&first.model, &first.model_name)?;
    let mut q = open_queue(registry, &first.device_type)?;
    if !ranks.is_solo() {
        observer.phase(&format!("{} ranks", ranks.size()));
        agree(&mut q, &ranks, &described(settings, start)?)?;
    }
    let resume = on_primary(&mut q, &ranks, |_| resume_from(settings, start))?;
    drop(q);
    let factory = ActivationFactorySettings { hook_points: Vec::new(), ..first.activation_factory.clone() };
    let mut bench =
        Workbench::open(registry, &first.device_type, model, &factory, &first.datasets, observer)?;
    bench.factory.hook_points = hook_points(settings)?;
    Job { settings, bench, observer, ranks }.run(resume.as_deref())
}

/// What must be the same on all ranks.
fn described(settings: &SweepSettings, start: Start) -> Result<Value> {
    let of = |m: &SweepMember| {
        let s = &m.settings;
        let about = json!({
            "trainer": trainer_identity(&s.trainer),
            "sae": dictionary_settings(s)?,
            "data": data_identity(s, &s.activation_factory),
            "initializer": s.initializer,
            "eval": s.eval,
            "exp_result_path": s.result_path(),
        });
        Ok((m.name.clone(), about))
    };
    let members = settings.members.iter().map(of).collect::<Result<Map<_, _>>>()?;
    Ok(json!({ "sweep": members, "sweep_result_path": settings.root, "start": format!("{start:?}") }))
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
    ranks: Axis,
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
        for (i, (m, (name, identity))) in self.settings.members.iter().zip(identities).enumerate() {
            let state = match saved.as_ref().and_then(|s| s.state(&name)) {
                _ if i % self.ranks.size() != self.ranks.rank() => State::Elsewhere,
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
            let trackers = match state {
                State::Elsewhere => Vec::new(),
                _ => trackers(&m.settings),
            };
            members.push(Member { name, trackers, identity, evaluated: m.settings.eval, state });
        }
        let mut source = Replay::new(held, &mut live);
        let q = &mut self.bench.q;
        let ranks = self.ranks.clone();
        let mut sweep = Sweep::new(q, members, &self.bench.factory.hook_points, rows, ranks)?;
        if let (Some(saved), Some(dir)) = (&saved, resume) {
            sweep.restore(q, &mut source, saved, &data, dir)?;
        }
        self.train(sweep, &mut source, &data, saved.map(|s| s.step()))
    }

    /// Sums over all ranks.
    fn told<const N: usize>(&mut self, own: [usize; N]) -> Result<[usize; N]> {
        let mut all = own.map(|n| n as f64);
        self.ranks.sum_f64(&mut self.bench.q, &mut all)?;
        Ok(all.map(|n| n as usize))
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
        let (dictionary, new) = dictionary(&mut self.bench, settings, &Mesh::solo())?;
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
            Ok(evaluate::downstream(q, &lm, d, tokens, (rows, DURING), &Axis::default())?.values())
        };
        let mut reports: Vec<Option<MemberReport>> = self.settings.members.iter().map(|_| None).collect();
        sweep.start()?;
        let began = Instant::now();
        let mut stopped = false;
        let [mut left] = self.told([sweep.left()])?;
        while left > 0 && !stopped {
            let turn = sweep.turn(&mut self.bench.q, source, Some(&mut measure), self.observer)?;
            let (done, over) = match turn {
                Turn::Stepped(done) => (done, false),
                Turn::Stopped(done) => (done, true),
                Turn::EndOfStream => break,
            };
            for i in done {
                reports[i] = Some(self.finish(&mut sweep, i, true)?);
            }
            // One rank's wish to stop is everybody's, and so is a snapshot.
            let [n, stops, due] =
                self.told([sweep.left(), usize::from(over), usize::from(sweep.snapshot_due())])?;
            left = n;
            stopped = stops > 0 && left > 0;
            if stopped || due > 0 {
                let path = sweep.snapshot(&mut self.bench.q, source, data, &root, kept)?;
                self.observer.snapshot(&path);
            }
        }
        self.bench.q.sync()?;
        let elapsed = began.elapsed();
        let complete = |m: &Member| matches!(m.state, State::Complete { .. });
        let [complete] = self.told([sweep.members().iter().filter(|m| complete(m)).count()])?;
        if !stopped && left > 0 {
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
        } else if !stopped && complete > 0 {
            // Results that are not on disk yet may need it.
            self.ranks.barrier(&mut self.bench.q)?;
            on_primary(&mut self.bench.q, &self.ranks, |_| snapshot::clear(&root))?;
        }
        let (steps, tokens) = (sweep.steps(), sweep.tokens());
        let reports: Vec<MemberReport> =
            reports.into_iter().enumerate().map(|(i, r)| r.unwrap_or_else(|| self.rest(&sweep, i))).collect();
        let members = self.gathered(reports)?;
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

    /// The reports of all ranks.
    fn gathered(&mut self, mut reports: Vec<MemberReport>) -> Result<Vec<MemberReport>> {
        if self.ranks.is_solo() {
            return Ok(reports);
        }
        let of = |r: &MemberReport| (r.outcome.clone(), r.evaluation.as_ref().map(Told::of));
        let own: Vec<_> = reports.iter().map(of).collect();
        let all = self.ranks.gather_bytes(&mut self.bench.q, json!(own).to_string().as_bytes())?;
        for (i, report) in reports.iter_mut().enumerate() {
            let mut told: Vec<(Outcome, Option<Told>)> = serde_json::from_slice(&all[i % all.len()])
                .map_err(|e| Error::Data { what: format!("reports of another rank: {e}") })?;
            let (outcome, evaluation) = told.swap_remove(i);
            (report.outcome, report.evaluation) = (outcome, evaluation.map(Told::read));
        }
        Ok(reports)
    }

    /// The report of a member this process did not end.
    fn rest(&self, sweep: &Sweep, i: usize) -> MemberReport {
        let SweepMember { name, settings } = &self.settings.members[i];
        let outcome = match &sweep.members()[i].state {
            State::Training(_) | State::Elsewhere => Outcome::Stopped,
            State::Complete { steps, tokens } => Outcome::Complete { steps: *steps, tokens: *tokens },
            State::Failed(why) => Outcome::Failed(why.clone()),
        };
        MemberReport { name: name.clone(), path: settings.result_path().clone(), outcome, evaluation: None }
    }
}
