//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

pub mod evaluate;
mod initializer;
mod loss;
pub mod metrics;
mod observer;
pub mod optimizer;
mod replay;
mod resume;
pub mod schedules;
pub mod snapshot;
pub mod source;
pub mod trackers;
mod trainer;
pub use initializer::{Initialised, initialise};
pub use loss::{LossSettings, SparsityLoss};
pub use observer::{Observer, Progress, Silent};
pub use replay::Replay;
pub use resume::{resume_point, trainer_identity};
pub use source::{BatchSource, LiveSource};
pub use trainer::{Ended, Evaluate, Fit, StepReport, Trainer};
