//! `lm-saes devices`: what there is, why the rest is not, and whether a device computes what the reference does.

use crate::{args::Devices, print};
use anyhow::{Result, bail};
use lm_saes_backends::conformance;
use lm_saes_runtime::Registry;

pub fn run(args: &Devices, registry: &Registry) -> Result<()> {
    match &args.conformance {
        Some(device) => check(registry, device, args.only.as_deref().unwrap_or("")),
        None => list(registry),
    }
}

fn list(registry: &Registry) -> Result<()> {
    for backend in registry.backends() {
        if backend.count() == 0 {
            let why = backend.absence().unwrap_or_else(|| "none found".into());
            println!("{:<14} not available: {why}", backend.name());
        }
        for i in 0..backend.count() {
            let device = backend.open(i)?;
            let info = device.info();
            let memory = if info.memory > 0 { print::bytes(info.memory) } else { "unknown".into() };
            let repeatable = if info.deterministic { "deterministic" } else { "not deterministic" };
            println!("{:<14} {} · memory {memory} · {repeatable}", info.name, info.model);
        }
    }
    Ok(())
}

fn check(registry: &Registry, name: &str, only: &str) -> Result<()> {
    let device = registry.open(name)?;
    let report = conformance::run(&device, only);
    println!("{report}");
    for (case, why) in report.refusals() {
        println!("unsupported: {}: {why}", case.name());
    }
    let failed = report.failures().count();
    for (case, why) in report.failures() {
        println!("failed: {}: {why}", case.name());
    }
    if report.results.is_empty() {
        bail!("no case matches {only:?}");
    }
    if failed > 0 {
        bail!("{failed} of {} cases disagree with the reference", report.results.len());
    }
    Ok(())
}
