//! The arguments of the commands that find out what features do.

use super::shared::{NamedArgs, Overrides, StartArgs};
use clap::Args;
use std::path::PathBuf;

/// Find out what every feature of a dictionary does, into a store
///
/// Runs a dictionary over text once and writes statistics, samples, output tokens and neighbours of every feature to a
/// store. A run that was cut off goes on with --resume; until it ends, the store shows the earlier analysis.
#[derive(Args, Debug)]
#[command(
    mut_arg("plan", |a| a.help("Print tokens, memory and the largest tensors, and stop")),
    mut_arg("resume", |a| a.help("Continue an analysis that was cut off")),
    mut_arg("overwrite", |a| a.help("Throw away an analysis that was cut off")),
    mut_arg("set", |a| a.help("Override one setting, for example --set analyzer.quantile_bins=10 (repeatable)")),
    after_help = "Examples:\n  lm-saes analyze results/quickstart/train.toml --plan\n  lm-saes analyze results/quickstart/train.toml\n  lm-saes analyze results/my-sae --text corpus.jsonl --tokens 3000000\n  lm-saes analyze analyze.toml --set analyzer.total_analyzing_tokens=10000000"
)]
pub struct Analyze {
    /// Settings of an analysis, settings of a training run (its result is analysed), or the folder of a dictionary
    pub path: PathBuf,
    /// Text to look at instead of that of the settings: a .txt or .jsonl file or a folder of them
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Tokens to run
    #[arg(long)]
    pub tokens: Option<u64>,
    /// Where to write: a file, or mongodb://…; lm-saes.db beside the dictionary's folder if not given
    #[arg(long, value_name = "FILE|URI")]
    pub store: Option<String>,
    #[command(flatten)]
    pub overrides: Overrides,
    #[command(flatten)]
    pub start: StartArgs,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Have a language model explain features in words, and test the explanations
///
/// Asks any endpoint that speaks OpenAI's chat completions about the texts `lm-saes analyze` stored; explanations and scores go
/// into the same store. The key is read from OPENAI_API_KEY, the address from OPENAI_BASE_URL, where the settings give none. A
/// run that was cut off goes on when the same command is given again.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes autointerp quickstart --store results/quickstart/lm-saes.db --model gpt-4o-mini --plan\n  lm-saes autointerp my-sae --model llama3 --base-url http://localhost:11434/v1 --features 0-99,512\n  lm-saes autointerp autointerp.toml --set auto_interp.scorer_type='[\"detection\",\"intruder\"]'"
)]
pub struct Autointerp {
    #[command(flatten)]
    pub named: NamedArgs,
    /// Model to ask
    #[arg(long)]
    pub model: Option<String>,
    /// Address of the endpoint up to /v1
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Features to explain, such as 0-99,512; all that fire if not given
    #[arg(long, value_name = "LIST")]
    pub features: Option<String>,
    /// Print what would be asked and an estimate of its cost, and stop; asks nothing
    #[arg(long)]
    pub plan: bool,
    /// Override one setting, for example --set auto_interp.prompt_price=0.15 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Read which output tokens features promote and suppress, for an analysis in a store
///
/// Direct logit attribution: every decoder vector through the language model's final norm and unembedding. `lm-saes analyze` does
/// the same on its way; this does it for an analysis made without (analyzer.n_logits = 0), with another number of tokens, or
/// by the reference system. No text is run.
#[derive(Args, Debug)]
#[command(
    mut_arg("set", |a| a.help("Override one setting, for example --set direct_logit_attributor.top_k=20 (repeatable)")),
    after_help = "Examples:\n  lm-saes dla quickstart --store results/quickstart/lm-saes.db --top-k 20\n  lm-saes dla my-sae --store mongodb://localhost/mechinterp --model models/pythia-160m\n  lm-saes dla dla.toml"
)]
pub struct Dla {
    #[command(flatten)]
    pub named: NamedArgs,
    /// Output tokens promoted to keep, and as many suppressed
    #[arg(long, short = 'k')]
    pub top_k: Option<usize>,
    /// Language model, instead of the one the analysis was made with
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
    /// The dictionary's folder, instead of the one the store knows
    #[arg(long, value_name = "DIR")]
    pub sae: Option<PathBuf>,
    /// Layer of the features of a cross-layer transcoder, instead of the one that was analysed
    #[arg(long)]
    pub layer: Option<usize>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
