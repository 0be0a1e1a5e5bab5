//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

mod loss;
pub use loss::{LossSettings, SparsityLoss};
