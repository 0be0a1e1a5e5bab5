//! The arguments of the commands that run a model or a dictionary: training, evaluation, generation.

use super::shared::{Overrides, SettingsArgs, StartArgs};
use clap::Args;
use std::path::PathBuf;

/// Train a small SAE on the built-in language model; no arguments, no network
///
/// Trains a TopK SAE on the built-in 1.8 M-parameter model for about a minute on two cores, prints how good it is,
/// analyses every feature and shows where a few of them fire.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lm-saes quickstart\n  lm-saes quickstart --serve")]
pub struct Quickstart {
    /// Folder for the model, the settings and the trained SAE
    #[arg(long, default_value = "results/quickstart")]
    pub out: PathBuf,
    /// Tokens to train on
    #[arg(long, default_value_t = DEFAULT_QUICKSTART_TOKENS)]
    pub tokens: u64,
    /// Device: cpu, cuda:0, npu:0, reference, auto
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// In the end, show the result in the browser as `lm-saes serve` does
    #[arg(long)]
    pub serve: bool,
}

/// About a minute on two AVX-512 cores.
pub const DEFAULT_QUICKSTART_TOKENS: u64 = 2_000_000;

/// Train a dictionary from a settings file
///
/// Writes config.json, sae_weights.safetensors, metrics.jsonl and TensorBoard events to trainer.exp_result_path. With
/// snapshots (trainer.snapshot_frequency) a run that was cut off continues with --resume to the same bits.
///
/// Several ranks train together when mpirun or srun starts them (Open MPI or MPICH; nothing of it is needed otherwise):
/// data_parallel_size of them share the rows of every batch and the runs of the language model. The result is that of one
/// rank to rounding. A rank that is not heard of for LM_SAES_RANK_TIMEOUT seconds (600) ends the job; LM_SAES_MPI names the MPI
/// library where it is not found.
#[derive(Args, Debug)]
#[command(
    mut_arg("plan", |a| a.help("Print steps, memory and the largest tensors, and stop")),
    mut_arg("resume", |a| a.help("Continue from the newest snapshot in the result folder")),
    mut_arg("overwrite", |a| a.help("Throw away an unfinished run in the result folder")),
    after_help = "Examples:\n  lm-saes train topk.toml --plan\n  lm-saes train topk.toml --set trainer.total_training_tokens=2000000\n  lm-saes train topk.toml --resume\n  mpirun -n 4 lm-saes train topk.toml --set data_parallel_size=4"
)]
pub struct Train {
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub start: StartArgs,
}

/// Train several dictionaries on one stream of activations
///
/// The dictionaries are trained side by side: the language model runs once, and every dictionary ends with the bits that
/// `lm-saes train` would have given it alone.
///
/// The file is a training file that also says what differs, in a table [grid] ("sae.top_k" = [25, 50, 100]; every
/// combination), in tables [[sweep]] (name = "wide", sae.expansion_factor = 32), or in both. Each dictionary gets a
/// folder of its own below trainer.exp_result_path.
#[derive(Args, Debug)]
#[command(
    mut_arg("plan", |a| a.help("Print the members, their steps and the memory of all, and stop")),
    mut_arg("resume", |a| a.help("Continue all members from the newest snapshot of the sweep")),
    mut_arg("overwrite", |a| a.help("Throw away an unfinished sweep")),
    after_help = "Examples:\n  lm-saes sweep sweep.toml --plan\n  lm-saes sweep sweep.toml --set trainer.total_training_tokens=2000000\n  lm-saes sweep topk.toml --set 'grid.\"sae.top_k\"=[25,50]'\n  lm-saes sweep sweep.toml --resume"
)]
pub struct Sweep {
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub start: StartArgs,
}

/// Measure a trained dictionary: explained variance, L0, loss recovered
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lm-saes evaluate evaluate.toml --set eval.total_eval_tokens=100000")]
pub struct Evaluate {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Fail when L0 or explained variance is far from what the dictionary's record states
    #[arg(long)]
    pub check: bool,
}

/// Write a language model's activations to disk
///
/// Training, evaluation and analysis then read them (a source with type = "activations" and path = the folder) and the model does
/// not run again. A run that was cut off goes on with --resume.
#[derive(Args, Debug)]
#[command(
    mut_arg("plan", |a| a.help("Print the disk space it will take, and stop")),
    mut_arg("resume", |a| a.help("Continue from the snapshot in the output folder")),
    mut_arg("overwrite", |a| a.help("Replace chunks that are there")),
    after_help = "Examples:\n  lm-saes generate generate.toml --plan\n  lm-saes generate generate.toml --set total_tokens=1000000\n  lm-saes generate generate.toml --set int8=true --resume"
)]
pub struct Generate {
    #[command(flatten)]
    pub settings: SettingsArgs,
    #[command(flatten)]
    pub start: StartArgs,
}

/// Give a TopK or BatchTopK dictionary fixed thresholds
///
/// Chooses a threshold (one for each layer or head that selects on its own) that as many activations exceed as the ranks
/// keep, and writes the dictionary with act_fn = jumprelu: what a token activates then depends on no other token. Prints L0
/// and explained variance before and after, on tokens that the thresholds were not chosen on.
#[derive(Args, Debug)]
#[command(
    mut_arg("set", |a| a.help("Override one setting, for example --set eval.total_eval_tokens=20000 (repeatable)")),
    after_help = "Examples:\n  lm-saes to-jumprelu topk.toml --out results/topk-jumprelu\n  lm-saes to-jumprelu results/my-sae --text corpus.jsonl --out results/my-sae-jumprelu --tokens 1000000"
)]
pub struct ToJumpRelu {
    /// Settings of an evaluation, settings of a training run (its result is converted), or the folder of a dictionary
    pub path: PathBuf,
    /// Folder for the new dictionary
    #[arg(long)]
    pub out: PathBuf,
    /// Text to choose thresholds on instead of that of the settings: a .txt or .jsonl file or a folder of them
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Tokens to choose thresholds on
    #[arg(long, default_value_t = 262_144)]
    pub tokens: u64,
    /// Print what memory it takes, and stop
    #[arg(long)]
    pub plan: bool,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
