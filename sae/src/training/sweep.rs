//! Several trainings in step on one stream: every batch is made once, scaled once for all members that scale alike, and
//! trained on by each. Members end with the bits they would have alone. A snapshot holds all of them and the stream.

use super::{
    Observer, Progress, Silent, Trainer,
    observer::MemberProgress,
    resume::{check_identity, parsed},
    shared_rows::SharedRows,
    snapshot,
    source::BatchSource,
    trackers::{self, Tracker},
    trainer::Evaluate,
};
use crate::{
    Error, Result,
    dictionary::Dictionary,
    parallel::{Axis, together},
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

const STATE: &str = "sweep.json";

/// One training of a sweep.
pub struct Member {
    /// Told apart by this.
    pub name: String,
    /// Where its records go.
    pub trackers: Vec<Box<dyn Tracker>>,
    /// What it is, as in [`super::Fit::identity`].
    pub identity: Value,
    /// Whether it is measured on the language model every `eval_frequency` steps.
    pub evaluated: bool,
    /// How far it is.
    pub state: State,
}

/// How far a member is.
pub enum State {
    /// Being trained.
    Training(Box<Trainer>),
    /// Over: after so many steps, on so many tokens.
    Complete {
        /// Steps.
        steps: u64,
        /// Tokens.
        tokens: u64,
    },
    /// It diverged, with this message; the others go on.
    Failed(String),
    /// Another rank trains it.
    Elsewhere,
}

/// [`State`] on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SavedState {
    /// Its own folder holds its state.
    Training,
    /// Its result was written before this snapshot.
    Complete {
        /// Steps.
        steps: u64,
        /// Tokens.
        tokens: u64,
    },
    /// It diverged.
    Failed(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMember {
    name: String,
    identity: Value,
    state: SavedState,
}

/// What a snapshot of a sweep says beside the states of members and stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSweep {
    version: String,
    step: u64,
    data: Value,
    members: Vec<SavedMember>,
}

impl SavedSweep {
    /// Reads what the snapshot in `dir` says.
    ///
    /// # Errors
    /// A snapshot that is not a sweep's.
    pub fn read(dir: &Path) -> Result<Self> {
        if !dir.join(STATE).is_file() {
            let what = "is the snapshot of a single run, not of a sweep; resume that with `lm-saes train`, or choose another folder";
            return Err(Error::format(dir, what));
        }
        snapshot::read_json(&dir.join(STATE))
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Makes sure that the sweep had the same members with the same settings.
    ///
    /// # Errors
    /// Names the member, or the setting that differs.
    pub fn check(&self, members: &[(String, Value)], dir: &Path) -> Result<()> {
        let list = |names: Vec<&str>| names.join(", ");
        let (was, is): (Vec<&str>, Vec<&str>) = (
            self.members.iter().map(|m| m.name.as_str()).collect(),
            members.iter().map(|m| m.0.as_str()).collect(),
        );
        if was != is {
            let what = format!(
                "has the members {}, but the sweep in {} had {}; set them back to resume",
                list(is),
                dir.display(),
                list(was)
            );
            return Err(Error::setting("sweep", what));
        }
        self.members
            .iter()
            .zip(members)
            .try_for_each(|(saved, (_, identity))| check_identity(&saved.identity, identity, dir))
    }

    /// How far a member was.
    pub fn state(&self, name: &str) -> Option<&SavedState> {
        self.members.iter().find(|m| m.name == name).map(|m| &m.state)
    }
}

/// What one batch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Every member took a step; these, by index, took their last.
    Stepped(Vec<usize>),
    /// The observer asked to stop; members that took their last step.
    Stopped(Vec<usize>),
    /// The data has ended.
    EndOfStream,
}

/// Members in step.
pub struct Sweep {
    members: Vec<Member>,
    shared: SharedRows,
    step: u64,
    /// Tokens trained on by this process.
    tokens: u64,
    /// When this process began to train, and after how many steps.
    began: (Instant, u64),
    /// Those that divide the members.
    ranks: Axis,
}

impl Sweep {
    /// `members` have their starting values, and trainers planned for `rows` rows; batches come with these hook points. All of
    /// `ranks` see the same batches.
    pub fn new(
        q: &mut Queue,
        members: Vec<Member>,
        hook_points: &[String],
        rows: usize,
        ranks: Axis,
    ) -> Result<Self> {
        let readers: Vec<Option<&dyn Dictionary>> = members
            .iter()
            .map(|m| match &m.state {
                State::Training(trainer) => Some(trainer.dictionary()),
                _ => None,
            })
            .collect();
        let shared = SharedRows::new(q, &readers, hook_points, rows)?;
        Ok(Self { members, shared, step: 0, tokens: 0, began: (Instant::now(), 0), ranks })
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }
    /// Batches trained on.
    pub fn steps(&self) -> u64 {
        self.step
    }
    /// Tokens this process trained on.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// Members left to train here.
    pub fn left(&self) -> usize {
        self.members.iter().filter(|m| matches!(m.state, State::Training(_))).count()
    }
    /// Opens the members' trackers; before the first turn.
    pub fn start(&mut self) -> Result<()> {
        self.began = (Instant::now(), self.step);
        for m in &mut self.members {
            if let State::Training(trainer) = &m.state {
                let step = trainer.steps();
                m.trackers.iter_mut().try_for_each(|t| t.start(step))?;
            }
        }
        Ok(())
    }

    /// One batch for every member. A member whose loss is not finite fails alone.
    pub fn turn(
        &mut self,
        q: &mut Queue,
        source: &mut dyn BatchSource,
        mut evaluate: Option<&mut Evaluate<'_>>,
        observer: &mut dyn Observer,
    ) -> Result<Turn> {
        let mut batch = loop {
            match source.next(q)? {
                None => return Ok(Turn::EndOfStream),
                // Nothing to learn from padding alone.
                Some(batch) if batch.n_valid == 0 => {}
                Some(batch) => break batch,
            }
        };
        self.shared.scale(q, &mut batch)?;
        let mut reports = Vec::new();
        for (i, m) in self.members.iter_mut().enumerate() {
            let State::Training(trainer) = &mut m.state else { continue };
            let acts = self.shared.views(i, &batch);
            match trainer.step_normalised(q, source.hook_points(), &acts, &batch) {
                Ok(report) => reports.push((i, report)),
                Err(e @ Error::NonFinite { .. }) => {
                    observer.phase(&format!("{} has failed ({e}); the other members go on", m.name));
                    m.state = State::Failed(e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        self.tokens += batch.n_valid as u64;
        self.step += 1;
        drop(batch);
        let (mut done, mut progress) = (Vec::new(), Vec::new());
        let (began, first) = self.began;
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        for (i, report) in reports {
            let m = &mut self.members[i];
            let State::Training(trainer) = &mut m.state else { continue };
            let evaluate = evaluate.as_deref_mut().filter(|_| m.evaluated);
            trainer.after_step(q, &mut m.trackers, evaluate, &mut Silent, &report)?;
            trackers::tell(&mut m.trackers, observer);
            let tokens_per_second = self.tokens as f64 / seconds;
            progress
                .push((i, Progress { tokens_per_second, ..trainer.progress(&report, (began, first, 0)) }));
            if trainer.is_complete() {
                done.push(i);
            }
        }
        let all: Vec<MemberProgress<'_>> = progress
            .iter()
            .map(|(i, p)| MemberProgress { name: &self.members[*i].name, progress: *p })
            .collect();
        Ok(match observer.members(&all) {
            ControlFlow::Break(()) => Turn::Stopped(done),
            ControlFlow::Continue(()) => Turn::Stepped(done),
        })
    }

    /// Takes the trainer of a member out, which is complete then.
    pub fn complete(&mut self, member: usize) -> Option<Trainer> {
        let state = &mut self.members.get_mut(member)?.state;
        let State::Training(trainer) = state else { return None };
        let (steps, tokens) = (trainer.steps(), trainer.tokens());
        match std::mem::replace(state, State::Complete { steps, tokens }) {
            State::Training(trainer) => Some(*trainer),
            _ => None,
        }
    }

    /// Ends the trackers of a member that has ended well.
    pub fn end_trackers(&mut self, member: usize, observer: &mut dyn Observer) -> Result<()> {
        let Some(m) = self.members.get_mut(member) else { return Ok(()) };
        m.trackers.iter_mut().try_for_each(|t| t.end(true))?;
        trackers::tell(&mut m.trackers, observer);
        Ok(())
    }

    /// Whether a member in training asks for a snapshot after the last step.
    pub fn snapshot_due(&self) -> bool {
        self.members.iter().any(|m| matches!(&m.state, State::Training(t) if t.snapshot_due()))
    }

    /// Writes one snapshot of everything below `root`, there whole or not at all, and says where. `data` is what the stream depends
    /// on. All ranks take part: each writes its members side by side with the others, the first the rest.
    pub fn snapshot(
        &self,
        q: &mut Queue,
        source: &dyn BatchSource,
        data: &Value,
        root: &Path,
        kept: usize,
    ) -> Result<PathBuf> {
        let primary = self.ranks.rank() == 0;
        let mut fill = |dir: &Path| {
            // The first has made the folder.
            together(q, &self.ranks, Ok(()))?;
            let members = self.save_members(q, dir);
            let text = members.as_ref().map_or_else(|_| String::new(), |m| json!(m).to_string());
            let own = members.and_then(|_| match primary {
                true => source.save_state(q, &dir.join(snapshot::STREAM)),
                false => Ok(()),
            });
            together(q, &self.ranks, own)?;
            let all = self.ranks.gather_bytes(q, text.as_bytes())?;
            match primary {
                true => self.save_list(&all, data, dir),
                false => Ok(()),
            }
        };
        let path = match primary {
            true => snapshot::write(root, self.step, kept, fill)?,
            false => {
                let dir = snapshot::aside(root, self.step);
                fill(&dir)?;
                dir
            }
        };
        // Whoever goes on has a snapshot behind it.
        self.ranks.barrier(q)?;
        Ok(path)
    }

    /// Writes the states of the members that are here.
    fn save_members(&self, q: &mut Queue, dir: &Path) -> Result<Vec<SavedMember>> {
        let mut members = Vec::new();
        for m in &self.members {
            let state = match &m.state {
                State::Training(trainer) => {
                    trainer.save(q, &m.identity, &dir.join(&m.name))?;
                    SavedState::Training
                }
                State::Complete { steps, tokens } => SavedState::Complete { steps: *steps, tokens: *tokens },
                State::Failed(why) => SavedState::Failed(why.clone()),
                State::Elsewhere => continue,
            };
            members.push(SavedMember { name: m.name.clone(), identity: m.identity.clone(), state });
        }
        Ok(members)
    }

    /// Writes what all ranks say of their members, in the order of the settings.
    fn save_list(&self, told: &[Vec<u8>], data: &Value, dir: &Path) -> Result<()> {
        let path = dir.join(STATE);
        let mut all: BTreeMap<String, SavedMember> = BTreeMap::new();
        for bytes in told {
            let members: Vec<SavedMember> =
                serde_json::from_slice(bytes).map_err(|e| Error::format(&path, e.to_string()))?;
            all.extend(members.into_iter().map(|m| (m.name.clone(), m)));
        }
        let members = self.members.iter().filter_map(|m| all.remove(&m.name)).collect();
        let version = env!("CARGO_PKG_VERSION").into();
        snapshot::write_json(&path, &SavedSweep { version, step: self.step, data: data.clone(), members })
    }

    /// Takes up the sweep saved in `dir`; where `data` differs the stream starts at its beginning, for feeding further data.
    pub fn restore(
        &mut self,
        q: &mut Queue,
        source: &mut dyn BatchSource,
        saved: &SavedSweep,
        data: &Value,
        dir: &Path,
    ) -> Result<()> {
        self.step = saved.step;
        if saved.data == parsed(data) {
            source.load_state(q, &dir.join(snapshot::STREAM))?;
        }
        Ok(())
    }
}
