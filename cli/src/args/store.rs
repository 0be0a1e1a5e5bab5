//! The arguments of the commands that show, write out and administer what a store holds.

use super::shared::StoreArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

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
