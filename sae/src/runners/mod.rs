//! One function per job; what the command line and embedders call.

mod contexts;
mod evaluate;
mod plan;
mod train;
mod workbench;

pub use contexts::{ContextLook, FeatureLook, Look, LookArgs, strongest_contexts};
pub use evaluate::evaluate;
pub use plan::{LargeTensor, Memory, Plan, plan};
pub use train::{Start, TrainReport, assess, train, train_on};
pub use workbench::{Workbench, model_path};
