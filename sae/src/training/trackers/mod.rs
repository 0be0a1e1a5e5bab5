//! Where metric records go: a trait, two writers of files, and Weights & Biases. Nothing is printed here; programs that show
//! progress implement [`crate::training::Observer`].

mod jsonl;
mod tensorboard;
mod wandb;
mod wire;

pub use jsonl::JsonLines;
pub use tensorboard::TensorBoard;
pub use wandb::{Wandb, WandbAccess};

use super::Observer;
use crate::Result;

/// One metric record: the step it belongs to and its values by the reference system's keys, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Completed steps.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Key and value.
    pub values: Vec<(String, f64)>,
}

impl Record {
    /// A value by key.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.values.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }
}

/// Receives metric records.
pub trait Tracker {
    /// Called before the first record; records after `step` completed steps, left by a run that was cut off, are void.
    fn start(&mut self, step: u64) -> Result<()>;
    /// Takes one record and makes it visible to readers.
    fn record(&mut self, record: &Record) -> Result<()>;
    /// Training is over, by an error if not `succeeded`; records that are still on their way arrive before this returns.
    fn end(&mut self, _succeeded: bool) -> Result<()> {
        Ok(())
    }
    /// What a person should hear of, once.
    fn notices(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Hands on what trackers want a person to hear of.
pub fn tell(trackers: &mut [Box<dyn Tracker>], observer: &mut dyn Observer) {
    trackers.iter_mut().flat_map(|t| t.notices()).for_each(|text| observer.phase(&text));
}
