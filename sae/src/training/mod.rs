//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.

mod anneal;
pub mod evaluate;
mod initializer;
mod loss;
pub mod metrics;
mod observer;
pub mod optimizer;
pub(crate) mod pieces;
mod replay;
mod resample;
mod resume;
pub mod schedules;
mod shared_rows;
pub mod snapshot;
pub mod source;
pub mod sweep;
pub mod trackers;
mod trainer;
pub(crate) use initializer::batches_taken;
pub use initializer::{Initialised, initialise};
pub use loss::{LossSettings, SparsityLoss};
pub use observer::{Advance, MemberProgress, Observer, Progress, Silent};
pub use replay::Replay;
pub(crate) use resume::difference;
pub use resume::{resume_point, trainer_identity};
pub use source::{BatchSource, LiveSource};
pub use trainer::{Ended, Evaluate, Fit, StepReport, Trainer};
