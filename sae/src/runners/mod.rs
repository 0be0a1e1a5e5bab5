//! One function per job; what the command line and embedders call.

mod administer;
mod analyze;
mod autointerp;
mod convert;
mod evaluate;
mod generate;
mod live;
mod logits;
mod memory;
mod plan;
mod stored;
mod sweep;
mod to_jumprelu;
mod train;
mod upload;
mod workbench;

pub use administer::{RunFolder, describe, register};
pub use analyze::{
    Activity, AnalysisJob, AnalysisPlan, AnalyzeReport, analyze, analyze_on, analyze_with, plan_analysis,
};
pub use autointerp::{AutoInterpPlan, AutoInterpReport, auto_interp, plan_auto_interp};
pub use convert::{Conversion, Converted, convert};
pub use evaluate::{Stated, evaluate, evaluate_recorded, evaluate_with};
pub use generate::{GeneratePlan, GenerateReport, generate, generate_with, plan_generate};
pub use live::{LiveBench, LiveToken};
pub use logits::{LogitReport, attribute_logits};
pub use plan::{LargeTensor, MemberPlan, Memory, Plan, SweepPlan, plan, plan_sweep};
pub use sweep::{MemberReport, Outcome, SweepReport, sweep, sweep_with};
pub use to_jumprelu::{ToJumpReluPlan, ToJumpReluReport, plan_to_jumprelu, to_jumprelu};
pub use train::{Start, TrainReport, assess, train, train_on, train_with};
pub use upload::{Prepared, UploadJob, prepare_upload};
pub use workbench::{Workbench, model_path};
