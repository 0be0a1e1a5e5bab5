//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

mod loss;
pub mod schedules;
pub use loss::{LossSettings, SparsityLoss};
