//! Jobs of several ranks, each a thread of the test.

use lm_saes_backends::comm::threads::threads;
use lm_saes_runtime::Comm;
use std::{thread, time::Duration};

/// How long ranks of a test wait for each other.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// What `job` returns on each of `size` ranks that know each other.
pub fn on_ranks<T: Send>(size: usize, job: impl Fn(usize, Box<dyn Comm>) -> T + Sync) -> Vec<T> {
    thread::scope(|s| {
        let start = |(rank, comm)| {
            let job = &job;
            s.spawn(move || job(rank, comm))
        };
        let ranks: Vec<_> = threads(size, PATIENCE).into_iter().enumerate().map(start).collect();
        ranks.into_iter().map(|r| r.join().expect("a rank came to its end")).collect()
    })
}
