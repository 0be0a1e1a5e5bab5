//! `lm-saes sweep`: plan or run several trainings on one stream, and say how each went.

use super::train::{evaluation_json, report_evaluation};
use crate::{
    args::Sweep,
    print,
    ranks::{self, Ranks},
};
use anyhow::{Result, bail};
use lm_saes::{
    runners::{self, Memory, Outcome, SweepPlan, SweepReport},
    settings::SweepSettings,
};
use lm_saes_runtime::Registry;
use serde_json::{Value, json};

pub fn run(args: &Sweep, registry: &Registry, ranks: Option<&Ranks>) -> Result<()> {
    let mut settings = SweepSettings::load(&args.settings.file, &args.settings.overrides.set)?;
    if let Some(device) = &args.settings.overrides.device {
        settings.members.iter_mut().for_each(|m| m.settings.set_device(device));
    }
    if args.start.plan {
        let plan = runners::plan_sweep(&settings, registry)?;
        if args.settings.json {
            println!("{:#}", plan_json(&plan));
        } else {
            show_plan(&plan);
        }
        return Ok(());
    }
    for m in &mut settings.members {
        let device = ranks::device(ranks, &m.settings.device_type);
        m.settings.set_device(&device);
    }
    let device = settings.members.first().map_or_else(String::new, |m| m.settings.device_type.clone());
    let (world, mut observer) = ranks::joined(ranks, &device, registry)?;
    let report = runners::sweep_with(&settings, registry, &mut *observer, args.start.start(), world)?;
    if !ranks::speaks(ranks) {
        return Ok(());
    }
    if args.settings.json {
        println!("{:#}", report_json(&report));
    } else {
        show_report(&report);
    }
    let failed: Vec<&str> = report
        .members
        .iter()
        .filter(|m| matches!(m.outcome, Outcome::Failed(_)))
        .map(|m| m.name.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("{} of {} members failed: {}", failed.len(), report.members.len(), failed.join(", "));
    }
    Ok(())
}

fn show_report(r: &SweepReport) {
    if let Some(step) = r.resumed_from {
        println!("continued from step {step}");
    }
    println!(
        "{} dictionaries on {} tokens in {} ({} tokens/s, language model included)",
        r.members.len(),
        print::count(r.tokens),
        print::duration(r.elapsed),
        print::count((r.tokens as f64 / r.elapsed.as_secs_f64().max(1e-9)) as u64),
    );
    for m in &r.members {
        let (name, path) = (&m.name, m.path.display());
        match &m.outcome {
            Outcome::Complete { steps, .. } => println!("{name}: {} steps, {path}", print::count(*steps)),
            Outcome::EndOfStream { steps, .. } => println!(
                "{name}: {} steps until the text ended, {path} (--resume continues with more)",
                print::count(*steps)
            ),
            Outcome::Stopped => {
                println!("{name}: stopped; --resume continues from the snapshot in {}", r.root.display());
            }
            Outcome::Failed(why) => println!("{name}: failed: {why}"),
        }
        if let Some((quality, downstream)) = &m.evaluation {
            report_evaluation(quality, downstream);
        }
    }
}

fn show_plan(plan: &SweepPlan) {
    println!(
        "{} dictionaries from one stream; batches of {} tokens; device {}",
        plan.members.len(),
        print::count(plan.batch_rows as u64),
        plan.device
    );
    println!("hook points {}", plan.hook_points.join(", "));
    for (name, m) in &plan.members {
        let bytes: usize = m.memory.iter().map(|m| m.bytes).sum();
        println!(
            "  {name}: {} features, {} steps, {} of its own, {}",
            print::count(m.d_sae as u64),
            print::count(m.schedules.total_steps),
            print::bytes(bytes as u64),
            m.path.display()
        );
    }
    print::memory(&plan.memory);
    print::whereabouts(plan.model_path.as_deref(), &plan.obstacles);
}

fn plan_json(plan: &SweepPlan) -> Value {
    let memory = |all: &[Memory]| -> Vec<Value> {
        all.iter().map(|m| json!({"what": m.what, "bytes": m.bytes, "exact": m.exact})).collect()
    };
    let members: Vec<Value> = plan
        .members
        .iter()
        .map(|(name, m)| {
            json!({
                "name": name,
                "steps": m.schedules.total_steps,
                "d_sae": m.d_sae,
                "memory": memory(&m.memory),
                "path": m.path,
            })
        })
        .collect();
    json!({
        "device": plan.device,
        "batch_rows": plan.batch_rows,
        "hook_points": plan.hook_points,
        "members": members,
        "memory_bytes": plan.total_bytes(),
        "memory": memory(&plan.memory),
        "model_path": plan.model_path,
        "obstacles": plan.obstacles,
    })
}

fn report_json(r: &SweepReport) -> Value {
    let members: Vec<Value> = r
        .members
        .iter()
        .map(|m| {
            let (ended, steps, why) = match &m.outcome {
                Outcome::Complete { steps, .. } => ("Complete", Some(*steps), None),
                Outcome::EndOfStream { steps, .. } => ("EndOfStream", Some(*steps), None),
                Outcome::Stopped => ("Stopped", None, None),
                Outcome::Failed(why) => ("Failed", None, Some(why)),
            };
            json!({
                "name": m.name,
                "ended": ended,
                "steps": steps,
                "error": why,
                "path": m.path,
                "evaluation": m.evaluation.as_ref().map(|(q, d)| evaluation_json(q, d)),
            })
        })
        .collect();
    json!({
        "steps": r.steps,
        "tokens": r.tokens,
        "seconds": r.elapsed.as_secs_f64(),
        "resumed_from": r.resumed_from,
        "members": members,
    })
}
