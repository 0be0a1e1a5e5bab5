//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

mod loss;
pub mod metrics;
mod observer;
pub mod optimizer;
pub mod schedules;
pub mod snapshot;
pub mod source;
pub mod trackers;
mod trainer;
pub use loss::{LossSettings, SparsityLoss};
pub use observer::{Observer, Progress, Silent};
pub use source::{BatchSource, LiveSource};
pub use trainer::{Ended, Evaluate, Fit, StepReport, Trainer, resume_point, trainer_identity};
