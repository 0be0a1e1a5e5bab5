//! What users write in settings files: names and defaults as in the reference system.

pub use crate::dictionary::settings::{
    ActFn, CommonSettings, DictionaryChoice, DictionarySettings, NormActivation, PretrainedSettings,
};
mod activations;
mod analyze;
mod autointerp;
mod data;
mod dtype;
mod evaluate;
mod fields;
mod generate;
mod initializer;
mod load;
mod logits;
mod model;
mod steps;
mod sweep;
mod train;
mod trainer;
pub use activations::{
    ActivationFactorySettings, ActivationSource, BufferShuffle, CachePath, CachedSource, DatasetSource,
};
pub use analyze::{AnalyzeSettings, AnalyzerSettings, SubsampleSettings, load_analysis};
pub use autointerp::{AutoInterpSettings, ExplainerSettings, ExplainerType, ScorerType};
pub use data::DatasetSettings;
pub use dtype::DTypeName;
pub use evaluate::load_evaluation;
pub use fields::field_names;
pub use generate::{CacheFormat, GenerateSettings};
pub use initializer::{BiasInit, InitializerSettings};
pub use load::{apply_override, from_tree, load, read_tree};
pub use logits::{LogitAttributorSettings, LogitSettings};
pub use model::{LanguageModelBackend, LanguageModelSettings};
pub use steps::Steps;
pub use sweep::{SweepMember, SweepSettings};
pub use train::{
    EvalSettings, EvaluateSettings, MongoSettings, TrainSettings, WandbResume, WandbSettings, required_model,
};
pub use trainer::{CheckpointMode, KSchedule, LrSchedule, OptimizerKind, TrainerSettings};
