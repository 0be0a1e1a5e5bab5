//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

mod loss;
pub mod metrics;
pub mod optimizer;
pub mod schedules;
pub mod trackers;
pub use loss::{LossSettings, SparsityLoss};
