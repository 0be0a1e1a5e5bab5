//! What a program may watch while training runs. The library prints nothing; a program implements this.

use super::trackers::Record;
use std::{ops::ControlFlow, path::Path, time::Duration};

/// How far training is, after one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Tokens a second since this process started training.
    pub tokens_per_second: f64,
    /// Time left at that rate.
    pub remaining: Duration,
    /// Loss of this step.
    pub loss: f64,
    /// Active features per token that counts in this step; absent when metrics are off.
    pub l0: Option<f64>,
    /// Explained variance of this step; absent when metrics are off.
    pub explained_variance: Option<f64>,
    /// Learning rate of this step.
    pub lr: f64,
}

/// How far one member of a sweep is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberProgress<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its figures; tokens a second are those of the stream.
    pub progress: Progress,
}

/// How far a pass over tokens or features is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advance {
    /// What is counted.
    pub what: &'static str,
    /// Done.
    pub done: u64,
    /// To do; the text may end earlier.
    pub total: u64,
    /// Done a second since this process started the pass.
    pub per_second: f64,
    /// Time left at that rate.
    pub remaining: Duration,
}

/// Watches training. Every method has an empty default.
pub trait Observer {
    /// A step was done. `Break` ends training after a snapshot.
    fn step(&mut self, _progress: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    /// A sweep trained on one more batch; these members are still in training or have just ended. `Break` ends the sweep after
    /// a snapshot. [`Observer::step`] and [`Observer::record`] are not called in sweeps.
    fn members(&mut self, _members: &[MemberProgress<'_>]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    /// A pass over tokens or features went on. `Break` ends it after a snapshot, where it has snapshots.
    fn advanced(&mut self, _advance: &Advance) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    /// A record was handed to the trackers.
    fn record(&mut self, _record: &Record) {}
    /// A snapshot was written.
    fn snapshot(&mut self, _path: &Path) {}
    /// A longer piece of work begins, such as loading the model or searching starting values.
    fn phase(&mut self, _what: &str) {}
}

/// Watches nothing.
pub struct Silent;
impl Observer for Silent {}
