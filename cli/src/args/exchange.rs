//! The arguments of the commands that exchange dictionaries with other programs and the hub.

use clap::Args;
use std::path::PathBuf;

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
    /// Divide the features among so many files, one for each rank of a job; parts become one file with 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub parts: u64,
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
