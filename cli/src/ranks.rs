//! A command as one rank of a job that `mpirun`, `srun` or torchrun started: joins the others, runs, and sees to it that no rank outlives one
//! that failed.

use crate::{args, print, progress::Console};
use anyhow::{Result, anyhow, bail};
use lm_saes::training::{Observer, Silent};
use lm_saes_backends::comm::{
    launch::{Joined, Launch, Launcher},
    on_device,
};
use lm_saes_runtime::{Group, Registry};
use std::{process::ExitCode, thread, time::Duration};

/// Seconds a rank is waited for, unless `LM_SAES_RANK_TIMEOUT` says otherwise: more than writing a snapshot takes.
const PATIENCE: u64 = 600;
/// How long the other ranks leave it to the first to report what all have found.
const COURTESY: Duration = Duration::from_secs(2);

/// This process among the ranks of its job.
pub struct Ranks {
    job: Joined,
    patience: Duration,
    /// Its number on its machine, for choosing a device.
    local: usize,
}

impl Ranks {
    /// Whether this rank prints.
    fn is_primary(&self) -> bool {
        self.job.rank() == 0
    }

    /// All ranks, connected as their devices allow, and by what.
    fn world(&self, device: &str, registry: &Registry) -> Result<(Group, String)> {
        let (engine, by) = on_device(&registry.open(device)?, self.job.world(), self.patience)?;
        Ok((Group::new(engine), by))
    }

    /// The device this rank takes where the settings name one without a number: each rank of a machine its own.
    fn device<'a>(&self, named: &'a str) -> std::borrow::Cow<'a, str> {
        match named {
            "auto" | "cpu" | "reference" => named.into(),
            one if one.contains(':') => named.into(),
            many => format!("{many}:{}", self.local).into(),
        }
    }
}

/// Runs a command that a launcher started several times.
pub fn run(cli: &args::Cli, launch: Launch, command: impl FnOnce(Option<&Ranks>) -> Result<()>) -> ExitCode {
    let alone = match &cli.command {
        args::Command::Train(a) => a.start.plan,
        args::Command::Sweep(a) => a.start.plan,
        args::Command::Analyze(a) => a.start.plan,
        args::Command::Generate(a) => a.start.plan,
        args::Command::Evaluate(_) => false,
        _ => true,
    };
    if alone && launch.launcher == Launcher::Torchrun {
        // Variables that may have been set for something else.
        return report(command(None), None);
    }
    if launch.rank == 0 || !alone {
        match join(launch, alone) {
            Ok(ranks) => report(command(Some(&ranks)), Some(&ranks)),
            Err(e) if launch.rank == 0 => report(Err(e), None),
            Err(_) => ExitCode::FAILURE,
        }
    } else {
        ExitCode::FAILURE
    }
}

fn join(launch: Launch, alone: bool) -> Result<Ranks> {
    if alone {
        bail!(
            "{} processes were started, but only train, sweep, generate, evaluate and analyze run on several ranks (and none with \
             --plan); start this command once",
            launch.size
        );
    }
    let patience = match std::env::var("LM_SAES_RANK_TIMEOUT") {
        Ok(text) => text.parse().ok().filter(|&s| s > 0).ok_or_else(|| {
            anyhow!("LM_SAES_RANK_TIMEOUT is {text:?}; it is how many seconds a rank is waited for")
        })?,
        Err(_) => PATIENCE,
    };
    let patience = Duration::from_secs(patience);
    let job = launch.join(patience)?;
    Ok(Ranks { job, patience, local: launch.local_rank.unwrap_or(0) })
}

/// The world of a rank whose device this is, and an observer that speaks for all on the first alone.
pub fn joined(
    ranks: Option<&Ranks>,
    device: &str,
    registry: &Registry,
) -> Result<(Group, Box<dyn Observer>)> {
    let Some(ranks) = ranks else { return Ok((Group::solo(), Box::new(Console::new()))) };
    let (world, by) = ranks.world(device, registry)?;
    if !ranks.is_primary() {
        return Ok((world, Box::new(Silent)));
    }
    let mut observer = Console::new();
    observer.phase(&format!("{} ranks, connected by {by}", world.size()));
    Ok((world, Box::new(observer)))
}

/// Whether this process says how it went.
pub fn speaks(ranks: Option<&Ranks>) -> bool {
    ranks.is_none_or(Ranks::is_primary)
}

/// The device of this process where the settings name `device`.
pub fn device(ranks: Option<&Ranks>, device: &str) -> String {
    ranks.map_or_else(|| device.into(), |ranks| ranks.device(device).into_owned())
}

/// Prints what went wrong, and ends the job with it.
pub fn report(done: Result<()>, ranks: Option<&Ranks>) -> ExitCode {
    let Err(e) = done else { return ExitCode::SUCCESS };
    match ranks {
        Some(ranks) => {
            if ranks.is_primary() {
                eprintln!("error: {}", print::chain(&e));
            } else {
                thread::sleep(COURTESY);
                eprintln!("error on rank {}: {}", ranks.job.rank(), print::chain(&e));
            }
            ranks.job.abort(1);
        }
        None => eprintln!("error: {}", print::chain(&e)),
    }
    ExitCode::FAILURE
}
