//! The `lm-saes` command: parse, run one command, turn its result into text and an exit code. Work happens in the
//! libraries; this crate owns printing.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod html;
mod print;
mod progress;
mod ranks;
mod serve;

use anyhow::Result;
use clap::Parser;
use lm_saes_backends::comm::launch::Launch;
use lm_saes_runtime::Registry;
use ranks::Ranks;
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    quiet_when_nobody_reads();
    let cli = args::Cli::parse();
    match Launch::from_env() {
        Some(launch) => ranks::run(&cli, launch, |ranks| run(&cli, ranks)),
        None => ranks::report(run(&cli, None), None),
    }
}

/// `lm-saes show … | head` ends here instead of with a panic's report: who closes the pipe has read enough.
fn quiet_when_nobody_reads() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let closed = |m: &String| m.starts_with("failed printing to stdout") && m.contains("Broken pipe");
        if info.payload().downcast_ref::<String>().is_some_and(closed) {
            // What a shell shows of a program that SIGPIPE ended.
            std::process::exit(141);
        }
        report(info);
    }));
}

fn run(cli: &args::Cli, ranks: Option<&Ranks>) -> Result<()> {
    let registry = registry(cli)?;
    // Only ever set here.
    let _ = lm_saes::hub::client::REPORT.set(progress::fetching);
    match &cli.command {
        args::Command::Quickstart(a) => commands::quickstart::run(a, &registry),
        args::Command::Train(a) => commands::train::run(a, &registry, ranks),
        args::Command::Sweep(a) => commands::sweep::run(a, &registry, ranks),
        args::Command::Evaluate(a) => commands::evaluate::run(a, &registry, ranks),
        args::Command::ToJumpRelu(a) => commands::to_jumprelu::run(a, &registry),
        args::Command::Analyze(a) => commands::analyze::run(a, &registry, ranks),
        args::Command::Generate(a) => commands::generate::run(a, &registry, ranks),
        args::Command::Autointerp(a) => commands::autointerp::run(a),
        args::Command::Dla(a) => commands::dla::run(a, &registry),
        args::Command::Export(a) => commands::export::run(a),
        args::Command::Show(a) => commands::show::run(a),
        args::Command::Serve(a) => commands::serve::run(a, &registry),
        args::Command::List(a) => commands::list::run(a),
        args::Command::Create(a) => commands::create::run(a),
        args::Command::Rename(a) => commands::rename::run(a),
        args::Command::Remove(a) => commands::remove::run(a),
        args::Command::Convert(a) => commands::convert::run(a, &registry),
        args::Command::Upload(a) => commands::upload::run(a, &registry),
        args::Command::Registry(a) => commands::registry::run(a),
        args::Command::Devices(a) => commands::devices::run(a, &registry),
    }
}

/// The built-in back ends and those of the plugins asked for.
fn registry(cli: &args::Cli) -> Result<Registry> {
    let mut registry = lm_saes_backends::registry();
    let named = std::env::var_os("LM_SAES_PLUGINS").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|p| !p.as_os_str().is_empty());
    for path in cli.plugins.iter().cloned().chain(named) {
        registry.load_plugin(Path::new(&path))?;
    }
    Ok(registry)
}
