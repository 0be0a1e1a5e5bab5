//! Option lists that several commands have.

use clap::Args;
use lm_saes::runners::Start;
use std::path::PathBuf;

/// How a settings file is read.
#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// Settings: TOML, YAML or JSON, with the reference system's names
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
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

/// What replaces single settings of a file. The commands put an example of their own into the help of `set`.
#[derive(Args, Debug)]
pub struct Overrides {
    /// Override one setting, for example --set trainer.lr=1e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device to use instead of the one the settings name: cpu, cuda:0, npu:0, reference, auto
    #[arg(long)]
    pub device: Option<String>,
}

/// Whether to run at all, and what to do about an earlier run. The commands put their own words into the help.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Print what it will take, and stop
    #[arg(long)]
    pub plan: bool,
    /// Continue from the newest snapshot
    #[arg(long, conflicts_with_all = ["plan", "overwrite"])]
    pub resume: bool,
    /// Throw away an unfinished run
    #[arg(long, conflicts_with = "plan")]
    pub overwrite: bool,
}

impl StartArgs {
    /// What to do about an earlier run.
    pub fn start(&self) -> Start {
        match (self.resume, self.overwrite) {
            (true, _) => Start::Resume,
            (_, true) => Start::Overwrite,
            _ => Start::Fresh,
        }
    }
}

/// A dictionary of a store and one of its analyses, or a settings file that names them.
#[derive(Args, Debug)]
pub struct NamedArgs {
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
}
