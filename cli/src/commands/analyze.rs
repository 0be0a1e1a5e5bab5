//! `lm-saes analyze`: what every feature does, into a store.

use crate::{
    args::Analyze,
    print,
    ranks::{self, Ranks},
};
use anyhow::Result;
use lm_saes::{
    runners::{self, Activity, AnalysisPlan, AnalyzeReport},
    settings,
};
use lm_saes_runtime::Registry;
use serde_json::json;

pub fn run(args: &Analyze, registry: &Registry, ranks: Option<&Ranks>) -> Result<()> {
    let mut settings =
        settings::load_analysis(&args.path, args.text.as_deref(), args.tokens, &args.overrides.set)?;
    if let Some(device) = &args.overrides.device {
        settings.device_type.clone_from(device);
    }
    if args.store.is_some() {
        settings.store.clone_from(&args.store);
    }
    if args.start.plan {
        return plan(&runners::plan_analysis(&settings, registry)?, args.json);
    }
    settings.device_type = ranks::device(ranks, &settings.device_type);
    let (world, mut observer) = ranks::joined(ranks, &settings.device_type, registry)?;
    let report = runners::analyze_with(&settings, registry, &mut *observer, args.start.start(), world)?;
    if !ranks::speaks(ranks) {
        return Ok(());
    }
    let address = settings.store_address();
    if args.json {
        let (tokens, took) = report.rate;
        println!(
            "{:#}",
            json!({
                "sae_name": report.keys[0].name,
                "sae_names": report.keys.iter().map(|k| &k.name).collect::<Vec<_>>(),
                "sae_series": report.keys[0].series,
                "complete": report.complete,
                "n_analyzed_tokens": report.n_analyzed_tokens,
                "n_contexts": report.n_contexts,
                "alive": report.alive,
                "d_sae": report.d_sae,
                "resumed_from": report.resumed_from,
                "tokens_per_second": tokens as f64 / took.as_secs_f64().max(1e-9),
                "store": address,
            })
        );
    } else {
        report_analysis(&report, &address);
    }
    Ok(())
}

fn plan(plan: &AnalysisPlan, as_json: bool) -> Result<()> {
    if as_json {
        let memory: Vec<_> =
            plan.memory.iter().map(|m| json!({"what": m.what, "bytes": m.bytes, "exact": m.exact})).collect();
        println!(
            "{:#}",
            json!({
                "device": plan.device,
                "tokens": plan.tokens,
                "batch_rows": plan.batch_rows,
                "d_sae": plan.d_sae,
                "layers": plan.layers,
                "active_features": {"per_token": plan.active.per_token(), "known": known(plan.active)},
                "memory": memory,
                "total_bytes": plan.total_bytes(),
                "obstacles": plan.obstacles,
            })
        );
        return Ok(());
    }
    println!(
        "up to {} tokens in batches of {}, {} features{}, on {}",
        print::count(plan.tokens),
        print::count(plan.batch_rows as u64),
        print::count(plan.d_sae as u64),
        if plan.layers > 1 { format!(" in each of {} layers", plan.layers) } else { String::new() },
        plan.device,
    );
    println!("{}", active_features(plan.active));
    print::memory(&plan.memory);
    println!("largest tensors");
    for t in &plan.largest {
        println!("  {:<28}{:>12}  {:?}", t.label, print::bytes(t.bytes as u64), t.shape);
    }
    print::whereabouts(plan.model_path.as_deref(), &plan.obstacles);
    Ok(())
}

/// How it is known how many features are active.
fn known(active: Activity) -> &'static str {
    match active {
        Activity::Selected(_) => "selected",
        Activity::Stated(_) => "stated",
        Activity::Unknown(_) => "unknown",
    }
}

fn active_features(active: Activity) -> String {
    match active {
        Activity::Selected(n) => format!("{n:.1} features active on a token, as the dictionary selects"),
        Activity::Stated(n) => {
            format!("{n:.1} features active on a token, as was measured when it was trained or published")
        }
        Activity::Unknown(_) => "how many features are active on a token is not recorded with the dictionary: memory is what all of \
                                 them on every token would take, the most it can be"
            .into(),
    }
}

/// What was analysed and where it is.
pub fn report_analysis(r: &AnalyzeReport, address: &str) {
    if let Some(tokens) = r.resumed_from {
        println!("continued after {} tokens", print::count(tokens));
    }
    let (tokens, took) = r.rate;
    println!(
        "analysed {} tokens in {} contexts ({} tokens/s, language model included): {} of {} features fired",
        print::count(r.n_analyzed_tokens),
        print::count(r.n_contexts),
        print::count((tokens as f64 / took.as_secs_f64().max(1e-9)) as u64),
        print::count(r.alive as u64),
        print::count(r.d_sae as u64),
    );
    match r.complete {
        true => println!("store: {address}"),
        false => println!("stopped; --resume continues"),
    }
}
