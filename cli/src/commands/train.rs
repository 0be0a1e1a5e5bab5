//! `lm-saes train`: plan or run a training job, and say how it went. The other commands share its reports.

use crate::{
    args::{SettingsArgs, Train},
    print,
    ranks::{self, Ranks},
};
use anyhow::{Result, bail};
use lm_saes::{
    runners::{self, Plan, TrainReport},
    settings::{self, SweepSettings, TrainSettings},
    training::{
        Ended,
        evaluate::{Downstream, Quality},
    },
};
use lm_saes_runtime::Registry;
use serde_json::{Map, Value, json};

pub fn run(args: &Train, registry: &Registry, ranks: Option<&Ranks>) -> Result<()> {
    if SweepSettings::is_sweep(&settings::read_tree(&args.settings.file)?) {
        let file = args.settings.file.display();
        bail!("{file} describes several dictionaries; run `lm-saes sweep {file}`");
    }
    let mut settings: TrainSettings = load_settings(&args.settings)?;
    if let Some(device) = &args.settings.overrides.device {
        settings.set_device(device);
    }
    if args.start.plan {
        let plan = runners::plan(&settings, registry)?;
        if args.settings.json {
            println!("{:#}", plan_json(&plan))
        } else {
            show_plan(&plan)
        }
        return Ok(());
    }
    settings.set_device(&ranks::device(ranks, &settings.device_type));
    let (world, mut observer) = ranks::joined(ranks, &settings.device_type, registry)?;
    let report = runners::train_with(&settings, registry, &mut *observer, args.start.start(), world)?;
    if !ranks::speaks(ranks) {
        return Ok(());
    }
    if args.settings.json {
        println!("{:#}", run_json(&report));
        return Ok(());
    }
    report_run(&report);
    if let Some((quality, downstream)) = &report.evaluation {
        report_evaluation(quality, downstream);
    }
    Ok(())
}

/// Reads a command's settings file with its overrides.
pub fn load_settings<T: serde::de::DeserializeOwned>(args: &SettingsArgs) -> Result<T> {
    Ok(settings::load(&args.file, &args.overrides.set)?)
}

/// Where a run ended and what it left.
pub fn report_run(r: &TrainReport) {
    if let Some(step) = r.resumed_from {
        println!("continued from step {step}");
    }
    // Batches are equal but for the last, so steps divide the tokens between this process and earlier ones.
    let share = (r.steps - r.resumed_from.unwrap_or(0)) as f64 / r.steps.max(1) as f64;
    let rate = (share * r.tokens as f64 / r.elapsed.as_secs_f64().max(1e-9)) as u64;
    println!(
        "trained {} steps on {} tokens in {} ({} tokens/s, language model included)",
        print::count(r.steps),
        print::count(r.tokens),
        print::duration(r.elapsed),
        print::count(rate),
    );
    match r.ended {
        Ended::Complete => println!("dictionary: {}", r.path.display()),
        Ended::EndOfStream => println!(
            "dictionary: {} (the text ended before the planned number of steps; --resume continues with more)",
            r.path.display()
        ),
        Ended::Stopped => println!("stopped; --resume continues from the snapshot in {}", r.path.display()),
    }
}

/// How good a dictionary is.
pub fn report_evaluation(quality: &Quality, downstream: &Downstream) {
    let value = |key: &str| quality.get(key).unwrap_or(f64::NAN);
    println!(
        "explained variance {:.4} · L0 {:.1} · features silent on these {} tokens {:.1} %",
        value("metrics/explained_variance"),
        value("metrics/l0"),
        print::count(quality.tokens),
        100.0 * quality.dead_share,
    );
    println!(
        "model loss {:.4} → {:.4} with the reconstruction ({:.4} with zeros): {:.1} % recovered",
        downstream.original,
        downstream.reconstructed,
        downstream.ablated,
        100.0 * downstream.recovered(),
    );
}

/// An evaluation by the reference system's keys.
pub fn evaluation_json(quality: &Quality, downstream: &Downstream) -> Value {
    let mut map: Map<String, Value> =
        quality.values.iter().cloned().chain(downstream.values()).map(|(k, v)| (k, json!(v))).collect();
    map.insert("tokens".into(), json!(quality.tokens));
    map.insert("dead_share".into(), json!(quality.dead_share));
    Value::Object(map)
}

fn run_json(r: &TrainReport) -> Value {
    json!({
        "ended": format!("{:?}", r.ended),
        "steps": r.steps,
        "tokens": r.tokens,
        "seconds": r.elapsed.as_secs_f64(),
        "resumed_from": r.resumed_from,
        "path": r.path,
        "evaluation": r.evaluation.as_ref().map(|(q, d)| evaluation_json(q, d)),
    })
}

fn show_plan(plan: &Plan) {
    println!(
        "{} steps of {} tokens: {} tokens; {} features; device {}",
        print::count(plan.schedules.total_steps),
        print::count(plan.batch_rows as u64),
        print::count(plan.tokens()),
        print::count(plan.d_sae as u64),
        plan.device,
    );
    let ranks = plan.ranks.ranks();
    if ranks > 1 {
        let sent: usize = plan.communication.iter().map(|c| c.bytes).sum();
        println!("{ranks} ranks, each of which sends {} in a step", print::bytes(sent as u64));
        print::shares(&plan.communication);
        print!("of each rank: ");
    }
    print::memory(&plan.memory);
    println!("largest tensors");
    for t in &plan.largest {
        println!("  {:<28}{:>12}  {:?}", t.label, print::bytes(t.bytes as u64), t.shape);
    }
    print::whereabouts(plan.model_path.as_deref(), &plan.obstacles);
}

fn plan_json(plan: &Plan) -> Value {
    let memory: Vec<Value> =
        plan.memory.iter().map(|m| json!({"what": m.what, "bytes": m.bytes, "exact": m.exact})).collect();
    let largest: Vec<Value> =
        plan.largest.iter().map(|t| json!({"label": t.label, "shape": t.shape, "bytes": t.bytes})).collect();
    json!({
        "device": plan.device,
        "steps": plan.schedules.total_steps,
        "batch_rows": plan.batch_rows,
        "tokens": plan.tokens(),
        "d_sae": plan.d_sae,
        "ranks": plan.ranks.ranks(),
        "communication": plan.communication.iter()
            .map(|m| json!({"what": m.what, "bytes": m.bytes, "exact": m.exact})).collect::<Vec<_>>(),
        "memory_bytes": plan.total_bytes(),
        "memory": memory,
        "largest": largest,
        "model_path": plan.model_path,
        "obstacles": plan.obstacles,
    })
}
