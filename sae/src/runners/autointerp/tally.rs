//! The one thread that writes to the store and counts.

use super::{AutoInterpReport, Job, run::Event};
use crate::{
    Error, Result,
    autointerp::Usage,
    store::{FeatureRef, Interpretation},
    training::{Advance, Observer},
};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// Features that fail one after the other, none succeeding, before the run is ended.
const FAILURES_IN_A_ROW: usize = 20;
/// Between two notices of attempts that failed.
const NOTICE: Duration = Duration::from_secs(5);

/// Writes to the store, counts and tells: the one thread that does.
pub(super) struct Tally<'a> {
    job: &'a Job<'a>,
    began: Instant,
    explained: u64,
    scored: u64,
    failed: Vec<(u32, String)>,
    in_a_row: usize,
    sums: BTreeMap<String, (f64, u64)>,
    noticed: Option<Instant>,
}

impl<'a> Tally<'a> {
    pub fn new(job: &'a Job<'a>, began: Instant) -> Self {
        Self {
            job,
            began,
            explained: 0,
            scored: 0,
            failed: Vec::new(),
            in_a_row: 0,
            sums: BTreeMap::new(),
            noticed: None,
        }
    }

    pub fn take(&mut self, event: Event, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        match event {
            Event::Again(what) => {
                if self.noticed.is_none_or(|t| t.elapsed() >= NOTICE) {
                    observer.phase(&format!("asking again: {what}"));
                    self.noticed = Some(Instant::now());
                }
                return Ok(ControlFlow::Continue(()));
            }
            Event::Explained { feature, found } => {
                self.write(feature, &found)?;
                return Ok(ControlFlow::Continue(()));
            }
            Event::Done { feature, found, new } => {
                self.write(feature, &found)?;
                self.in_a_row = 0;
                *(if new { &mut self.explained } else { &mut self.scored }) += 1;
                for (name, score) in &found.scores {
                    let sum = self.sums.entry(name.clone()).or_default();
                    *sum = (sum.0 + score, sum.1 + 1);
                }
            }
            Event::Failed { feature, what } => {
                self.in_a_row += 1;
                if self.in_a_row >= FAILURES_IN_A_ROW {
                    return Err(self.hopeless(&format!("{} features failed in a row; {what}", self.in_a_row)));
                }
                observer.phase(&format!("feature {feature}: {what}"));
                self.failed.push((feature, what));
            }
            Event::Hopeless(what) => return Err(self.hopeless(&what)),
            Event::Broken(e) => return Err(e),
            Event::Left => return Ok(ControlFlow::Continue(())),
        }
        let done = self.explained + self.scored + self.failed.len() as u64;
        let total = self.job.tasks.len() as u64;
        let per_second = done as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        let left = (total - done) as f64 / per_second;
        let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        Ok(observer.advanced(&Advance { what: "features explained", done, total, per_second, remaining }))
    }

    fn write(&self, feature: u32, found: &Interpretation) -> Result<()> {
        let at = FeatureRef { dictionary: self.job.key.clone(), feature };
        self.job.store.set_interpretation(&at, Some(found))
    }

    fn hopeless(&self, what: &str) -> Error {
        let done = self.explained + self.scored;
        Error::Data {
            what: format!(
                "{what}; {done} features are explained and stored, the same command goes on from there"
            ),
        }
    }

    pub fn report(self, usage: Usage) -> AutoInterpReport {
        let job = self.job;
        let done = self.explained + self.scored + self.failed.len() as u64;
        AutoInterpReport {
            key: job.key.clone(),
            complete: done == job.tasks.len() as u64,
            explained: self.explained,
            scored: self.scored,
            skipped: job.features - job.tasks.len() as u64,
            failed: self.failed,
            scores: self.sums.into_iter().map(|(name, (sum, n))| (name, sum / n as f64)).collect(),
            usage,
            cost: usage.cost(job.how.prices()),
            took: self.began.elapsed(),
        }
    }
}
