//! The arguments of the commands on devices.

use clap::Args;

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
