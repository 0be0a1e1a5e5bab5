//! The command line, declared: names, help texts and examples, one file for each group of commands. Nothing is
//! executed here.

mod analysis;
mod device;
mod exchange;
mod run;
mod shared;
mod store;

pub use analysis::*;
pub use device::*;
pub use exchange::*;
pub use run::*;
pub use shared::*;
pub use store::*;

use clap::{Parser, Subcommand};
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
