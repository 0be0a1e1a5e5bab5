//! The command line, declared: names, help texts and examples. Nothing is executed here.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Train sparse autoencoders and their relatives on language models.
#[derive(Parser, Debug)]
#[command(
    name = "lm-saes",
    version,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "Examples:\n  lm-saes quickstart\n  lm-saes train topk.toml --plan\n  lm-saes evaluate evaluate.toml\n  lm-saes show feature quickstart 17 --store results/quickstart/lm-saes.db"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Load a back end from this shared library; its code runs with your rights
    ///
    /// Repeatable. Libraries named in the variable LM_SAES_PLUGINS, separated by colons, are loaded too.
    #[arg(long = "plugin", global = true, value_name = "FILE")]
    pub plugins: Vec<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Quickstart(Quickstart),
    Train(Train),
    Sweep(Sweep),
    Evaluate(Evaluate),
    Analyze(Analyze),
    #[command(name = "to-jumprelu")]
    ToJumpRelu(ToJumpRelu),
    Generate(Generate),
    Autointerp(Autointerp),
    Dla(Dla),
    Export(Export),
    Show(Show),
    List(List),
    Create(Create),
    Rename(Rename),
    Remove(Remove),
    Serve(Serve),
    Convert(Convert),
    Upload(Upload),
    Registry(ListRegistry),
    Devices(Devices),
}

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

/// How a settings file is read.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// Settings: TOML, YAML or JSON, with the reference system's names
    pub file: PathBuf,
    /// Override one setting, for example --set trainer.lr=1e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device to use instead of the one the settings name: cpu, cuda:0, npu:0, reference, auto
    #[arg(long)]
    pub device: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

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
    after_help = "Examples:\n  lm-saes train topk.toml --plan\n  lm-saes train topk.toml --set trainer.total_training_tokens=2000000\n  lm-saes train topk.toml --resume\n  mpirun -n 4 lm-saes train topk.toml --set data_parallel_size=4"
)]
pub struct Train {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Print steps, memory and the largest tensors, and stop
    #[arg(long)]
    pub plan: bool,
    /// Continue from the newest snapshot in the result folder
    #[arg(long, conflicts_with_all = ["plan", "overwrite"])]
    pub resume: bool,
    /// Throw away an unfinished run in the result folder
    #[arg(long, conflicts_with = "plan")]
    pub overwrite: bool,
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
    after_help = "Examples:\n  lm-saes sweep sweep.toml --plan\n  lm-saes sweep sweep.toml --set trainer.total_training_tokens=2000000\n  lm-saes sweep topk.toml --set 'grid.\"sae.top_k\"=[25,50]'\n  lm-saes sweep sweep.toml --resume"
)]
pub struct Sweep {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Print the members, their steps and the memory of all, and stop
    #[arg(long)]
    pub plan: bool,
    /// Continue all members from the newest snapshot of the sweep
    #[arg(long, conflicts_with_all = ["plan", "overwrite"])]
    pub resume: bool,
    /// Throw away an unfinished sweep
    #[arg(long, conflicts_with = "plan")]
    pub overwrite: bool,
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
    after_help = "Examples:\n  lm-saes generate generate.toml --plan\n  lm-saes generate generate.toml --set total_tokens=1000000\n  lm-saes generate generate.toml --set int8=true --resume"
)]
pub struct Generate {
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Print the disk space it will take, and stop
    #[arg(long)]
    pub plan: bool,
    /// Continue from the snapshot in the output folder
    #[arg(long, conflicts_with_all = ["plan", "overwrite"])]
    pub resume: bool,
    /// Replace chunks that are there
    #[arg(long, conflicts_with = "plan")]
    pub overwrite: bool,
}

/// Find out what every feature of a dictionary does, into a store
///
/// Runs a dictionary over text once and writes statistics, samples, output tokens and neighbours of every feature to a
/// store. A run that was cut off goes on with --resume; until it ends, the store shows the earlier analysis.
#[derive(Args, Debug)]
#[command(
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
    /// Override one setting, for example --set analyzer.quantile_bins=10 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device to use instead of the one the settings name: cpu, cuda:0, npu:0, reference, auto
    #[arg(long)]
    pub device: Option<String>,
    /// Print tokens, memory and the largest tensors, and stop
    #[arg(long)]
    pub plan: bool,
    /// Continue an analysis that was cut off
    #[arg(long, conflicts_with_all = ["plan", "overwrite"])]
    pub resume: bool,
    /// Throw away an analysis that was cut off
    #[arg(long, conflicts_with = "plan")]
    pub overwrite: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Give a TopK or BatchTopK dictionary fixed thresholds
///
/// Chooses a threshold (one for each layer or head that selects on its own) that as many activations exceed as the ranks
/// keep, and writes the dictionary with act_fn = jumprelu: what a token activates then depends on no other token. Prints L0
/// and explained variance before and after, on tokens that the thresholds were not chosen on.
#[derive(Args, Debug)]
#[command(
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
    /// Override one setting, for example --set eval.total_eval_tokens=20000 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device to use instead of the one the settings name: cpu, cuda:0, npu:0, reference, auto
    #[arg(long)]
    pub device: Option<String>,
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
    /// Name of a dictionary in the store, or a settings file: TOML, YAML or JSON, with the reference system's names
    #[arg(value_name = "NAME|FILE")]
    pub what: String,
    /// The store: a file, or mongodb://…; lm-saes.db if not given
    #[arg(long, value_name = "FILE|URI", env = "LM_SAES_STORE")]
    pub store: Option<String>,
    /// Series; may be left out while a name is unique
    #[arg(long, short, env = "SAE_SERIES")]
    pub series: Option<String>,
    /// Name of the analysis
    #[arg(long, short)]
    pub analysis: Option<String>,
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
    after_help = "Examples:\n  lm-saes dla quickstart --store results/quickstart/lm-saes.db --top-k 20\n  lm-saes dla my-sae --store mongodb://localhost/mechinterp --model models/pythia-160m\n  lm-saes dla dla.toml"
)]
pub struct Dla {
    /// Name of a dictionary in the store, or a settings file: TOML, YAML or JSON, with the reference system's names
    #[arg(value_name = "NAME|FILE")]
    pub what: String,
    /// The store: a file, or mongodb://…; lm-saes.db if not given
    #[arg(long, value_name = "FILE|URI", env = "LM_SAES_STORE")]
    pub store: Option<String>,
    /// Series; may be left out while a name is unique
    #[arg(long, short, env = "SAE_SERIES")]
    pub series: Option<String>,
    /// Name of the analysis
    #[arg(long, short)]
    pub analysis: Option<String>,
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
    /// Override one setting, for example --set direct_logit_attributor.top_k=20 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device to use instead of the one the settings name: cpu, cuda:0, npu:0, reference, auto
    #[arg(long)]
    pub device: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Write what an analysis found for other programs: pages, JSON, tensors, rows for Neuronpedia
///
/// html: a folder that opens in a browser without a server. json: one feature a line, texts included. safetensors:
/// statistics and decoder rows. neuronpedia: the folder its importer reads.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes export html quickstart --store results/quickstart/lm-saes.db --out pages\n  lm-saes export json quickstart --features 0-99,512 --out features.jsonl\n  lm-saes export safetensors quickstart --out statistics.safetensors\n  lm-saes export neuronpedia quickstart --model gpt2-small --set res-2k --out neuronpedia"
)]
pub struct Export {
    /// What to write
    pub format: ExportFormat,
    /// Name of the dictionary
    pub name: String,
    /// Where to: a folder for html and neuronpedia, a file otherwise
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Name of the analysis
    #[arg(long, short, default_value = "default")]
    pub analysis: String,
    /// Only these features, for example 0-99,512
    #[arg(long, value_name = "LIST")]
    pub features: Option<String>,
    /// Leave out features that never fired
    #[arg(long)]
    pub alive: bool,
    #[command(flatten)]
    pub neuronpedia: NeuronpediaArgs,
}

/// What to write.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    Html,
    Json,
    Safetensors,
    Neuronpedia,
}

/// Names that only the format neuronpedia needs.
#[derive(Args, Debug)]
#[command(next_help_heading = "For neuronpedia")]
pub struct NeuronpediaArgs {
    /// The model as Neuronpedia calls it; the last part of its name if not given
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// Source set without the layer; the name of the dictionary if not given
    #[arg(long, value_name = "ID")]
    pub set: Option<String>,
    /// Layer, where the hook points do not say it
    #[arg(long)]
    pub layer: Option<usize>,
    /// Release; the name of the series if not given
    #[arg(long, value_name = "ID")]
    pub release: Option<String>,
    /// Who made it
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    pub creator: String,
    /// Id of the user of your instance the rows will belong to
    #[arg(long, value_name = "ID", default_value = "unknown")]
    pub creator_id: String,
    /// Where to read more
    #[arg(long)]
    pub url: Option<String>,
    /// Top samples of each feature
    #[arg(long, default_value_t = 20)]
    pub samples: usize,
}

/// Show a feature, or how a training run went
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes show feature quickstart random --store results/quickstart/lm-saes.db\n  lm-saes show run results/quickstart/sae"
)]
pub struct Show {
    #[command(subcommand)]
    pub what: ShowWhat,
}

#[derive(Subcommand, Debug)]
pub enum ShowWhat {
    /// One feature: statistics, output tokens, neighbours and samples in colour
    #[command(
        after_help = "Example:\n  lm-saes show feature quickstart 17 --store results/quickstart/lm-saes.db"
    )]
    Feature(ShowFeature),
    /// How a training run went: its last metrics
    #[command(after_help = "Example:\n  lm-saes show run results/quickstart/sae")]
    Run(ShowRun),
}

/// Which store, and what in it.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// The store: a file, or mongodb://…
    #[arg(long, value_name = "FILE|URI", env = "LM_SAES_STORE", default_value = "lm-saes.db")]
    pub store: String,
    /// Series; may be left out while a name is unique
    #[arg(long, short, env = "SAE_SERIES")]
    pub series: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ShowFeature {
    /// Name of the dictionary
    pub name: String,
    /// Feature index, or `random` for one that fires
    pub index: String,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Name of the analysis
    #[arg(long, short, default_value = "default")]
    pub analysis: String,
    /// Samples of each sampling
    #[arg(long, short, default_value_t = 5)]
    pub num_samples: usize,
    /// Tokens shown before and after the peak
    #[arg(long, short = 'r', default_value_t = 20)]
    pub visible_range: usize,
}

#[derive(Args, Debug)]
pub struct ShowRun {
    /// Result folder of the run
    pub path: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// List the dictionaries and analyses of a store
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lm-saes list --store results/quickstart/lm-saes.db")]
pub struct List {
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Register a trained dictionary in a store, without analysing it
///
/// `lm-saes analyze` registers what it analyses by itself.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes create dictionary my-sae results/my-sae --store results/lm-saes.db\n  lm-saes create dictionary my-sae moved/my-sae --replace"
)]
pub struct Create {
    #[command(subcommand)]
    pub what: CreateWhat,
}

#[derive(Subcommand, Debug)]
pub enum CreateWhat {
    /// A dictionary by its folder, or by its name on the hub where its files are in the cache
    #[command(
        visible_alias = "sae",
        after_help = "Example:\n  lm-saes create dictionary my-sae results/my-sae"
    )]
    Dictionary(CreateDictionary),
}

#[derive(Args, Debug)]
pub struct CreateDictionary {
    /// Name in the store
    pub name: String,
    /// Folder of the dictionary
    pub path: PathBuf,
    /// The language model it belongs to
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Change where a registered dictionary is; its analyses stay
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Rename a dictionary of a store, or a training run
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes rename dictionary old new --store results/lm-saes.db\n  lm-saes rename run results/my-sae second"
)]
pub struct Rename {
    #[command(subcommand)]
    pub what: RenameWhat,
}

#[derive(Subcommand, Debug)]
pub enum RenameWhat {
    /// A dictionary within its series, with its analyses, explanations, bookmarks and places in lists
    #[command(visible_alias = "sae", after_help = "Example:\n  lm-saes rename dictionary old new")]
    Dictionary {
        /// Name of the dictionary
        name: String,
        /// Its new name
        new: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// The folder of a training run; a store that knows a dictionary in it has to be told with create --replace
    #[command(after_help = "Example:\n  lm-saes rename run results/my-sae second")]
    Run {
        /// Result folder of the run
        path: PathBuf,
        /// New name of the folder, beside the old one
        new: String,
    },
}

/// Remove a dictionary or an analysis from a store, or a training run from the disk
///
/// Asks first; where nobody can answer, --yes is needed.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes remove dictionary my-sae --store results/lm-saes.db\n  lm-saes remove analysis my-sae second --yes\n  lm-saes remove run results/my-sae"
)]
pub struct Remove {
    #[command(subcommand)]
    pub what: RemoveWhat,
}

#[derive(Subcommand, Debug)]
pub enum RemoveWhat {
    /// A dictionary with its analyses, explanations and bookmarks; its weights stay on the disk
    #[command(visible_alias = "sae", after_help = "Example:\n  lm-saes remove dictionary my-sae --yes")]
    Dictionary {
        /// Name of the dictionary
        name: String,
        #[command(flatten)]
        store: StoreArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// One analysis of a dictionary
    #[command(after_help = "Example:\n  lm-saes remove analysis my-sae second --yes")]
    Analysis {
        /// Name of the dictionary
        name: String,
        /// Name of the analysis
        analysis: String,
        #[command(flatten)]
        store: StoreArgs,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// The folder of a training run with everything in it, weights included
    #[command(after_help = "Example:\n  lm-saes remove run results/my-sae --yes")]
    Run {
        /// Result folder of the run
        path: PathBuf,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Look at a store in the browser
///
/// Pages on dictionaries, features and training runs, search, bookmarks and explanations, and live inference, from this
/// binary alone. Only this machine can reach them, unless --host says otherwise; then changes and live inference need a
/// token, made up and printed where none is given, and anyone who reaches the port can read.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes serve --store results/quickstart/lm-saes.db --runs results\n  lm-saes serve --store mongodb://localhost/mechinterp --port 8080\n  lm-saes serve --host 0.0.0.0 --token SECRET"
)]
pub struct Serve {
    /// The store: a file, or mongodb://…
    #[arg(long, value_name = "FILE|URI", env = "LM_SAES_STORE", default_value = "lm-saes.db")]
    pub store: String,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// What changes have to show
    #[arg(long, env = "LM_SAES_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Folder of training runs whose curves to show
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Device of live inference: cpu, cuda:0, npu:0, reference, auto
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Language model of live inference, instead of the one each analysis was made with
    #[arg(long, value_name = "DIR|FILE")]
    pub model: Option<PathBuf>,
}

/// The reference system's.
pub const DEFAULT_PORT: u16 = 24577;
/// Read a dictionary of any known form and write it in another
///
/// FROM is a folder or file, owner/repository:path on the Hugging Face hub, or release:name of the registry. Read are this
/// program's and the reference system's dictionaries, SAELens (6 and older), Gemma Scope 1 and 2, Llama Scope, sparsify,
/// dictionary_learning, OpenAI's, circuit-tracer's transcoders and cross-layer transcoders, and a few more. What the other form
/// cannot express is refused by name.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes convert results/quickstart/sae out --to-format saelens\n  lm-saes convert gemma-scope-2-1b-pt-res-all:layer_12_width_16k_l0_small gemma-l12\n  lm-saes convert saprmarks/dictionaries:trainer_0 out --to-format upstream"
)]
pub struct Convert {
    /// The dictionary
    pub from: String,
    /// Folder to write, new or empty
    pub to: PathBuf,
    #[command(flatten)]
    pub form: Form,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

// How a dictionary is read and written. No doc comment: clap would take it for that of the command.
#[derive(Args, Debug)]
pub struct Form {
    /// lm-saes, upstream, saelens, sparsify, dictionary-learning, circuit-tracer
    #[arg(long, default_value = "lm-saes")]
    pub to_format: String,
    /// Precision to write (float32, bfloat16, float16) instead of that of what is read
    #[arg(long)]
    pub dtype: Option<String>,
    /// Make decoder rows unit vectors: the same reconstructions, activations times the norms
    #[arg(long)]
    pub unit_decoder_norm: bool,
    /// The hook point it reads, where its files say none or a wrong one
    #[arg(long, value_name = "HOOK")]
    pub hook_in: Option<String>,
    /// The hook point it reconstructs, where its files say none or a wrong one
    #[arg(long, value_name = "HOOK")]
    pub hook_out: Option<String>,
    /// What multiplies activations first, where its files lack it (√d/mean norm)
    #[arg(long, value_name = "FACTOR")]
    pub norm_factor: Option<f64>,
    /// Take what is unknown or missing in its files as other tools do, in silence
    #[arg(long)]
    pub lenient: bool,
    /// Branch, tag or commit on the hub
    #[arg(long, default_value = "main")]
    pub revision: String,
}

/// Send a dictionary to the Hugging Face hub, with a page that says what it is
///
/// FROM is named as for `convert`; TO is owner/repository, or owner/repository:folder for one of several. The dictionary is written
/// in the form asked for (lm-saes, which others read as the reference system's) and sent as one commit together with README.md: kind,
/// model, hook points, figures, settings, how to load it. HF_TOKEN has to be one that may write. An upload that was interrupted goes
/// on when the same command is run again.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes upload results/topk me/gpt2-saes:layer5 --dry-run\n  lm-saes upload results/topk me/gpt2-saes:layer5 --to-format saelens --license mit"
)]
pub struct Upload {
    /// The dictionary
    pub from: String,
    /// owner/repository or owner/repository:folder
    pub to: String,
    #[command(flatten)]
    pub form: Form,
    /// Branch to commit to
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub branch: String,
    /// If the repository does not exist, let only its owner see it
    #[arg(long)]
    pub private: bool,
    /// Licence the page states, such as mit or cc-by-4.0
    #[arg(long)]
    pub license: Option<String>,
    /// Message of the commit
    #[arg(long, short)]
    pub message: Option<String>,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Published dictionaries: list releases, find one by name, take over a newer list
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  lm-saes registry\n  lm-saes registry gemma-scope-2-1b-pt-res-all\n  lm-saes registry gemma-scope-2-1b-pt-res-all:layer_12_width_16k_l0_small\n  lm-saes registry --refresh sae_lens-6.54.12-py3-none-any.whl"
)]
pub struct ListRegistry {
    /// A release, or release:name; all releases if not given
    pub name: Option<String>,
    /// Take the list from this wheel of SAELens, pretrained_saes.yaml or table
    #[arg(long, value_name = "FILE")]
    pub refresh: Option<PathBuf>,
    /// Write the refreshed table here instead of beside the hub's cache
    #[arg(long, value_name = "FILE", requires = "refresh")]
    pub to: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// List devices; optionally check one against the reference
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  lm-saes devices\n  lm-saes devices --conformance cpu")]
pub struct Devices {
    /// Run the conformance table on this device against the scalar reference
    #[arg(long, value_name = "DEVICE")]
    pub conformance: Option<String>,
    /// Only ops whose name contains this text
    #[arg(long, requires = "conformance", value_name = "TEXT")]
    pub only: Option<String>,
}
