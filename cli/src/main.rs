//! The `lm-saes` command: parse, run one command, turn its result into text and an exit code. Work happens in the
//! libraries; this crate owns printing.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod print;
mod progress;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let done = match &cli.command {
        args::Command::Quickstart(a) => commands::quickstart::run(a),
        args::Command::Train(a) => commands::train::run(a),
        args::Command::Evaluate(a) => commands::evaluate::run(a),
        args::Command::Devices(a) => commands::devices::run(a),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", print::chain(&e));
            ExitCode::FAILURE
        }
    }
}
