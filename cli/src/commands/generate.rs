//! `lm-saes generate`: a language model's activations on disk.

use super::train::load_settings;
use crate::{
    args::Generate,
    print,
    ranks::{self, Ranks},
};
use anyhow::Result;
use lm_saes::{
    runners::{self, GeneratePlan},
    settings::GenerateSettings,
};
use lm_saes_runtime::Registry;
use serde_json::json;

pub fn run(args: &Generate, registry: &Registry, ranks: Option<&Ranks>) -> Result<()> {
    let mut settings: GenerateSettings = load_settings(&args.settings)?;
    if let Some(device) = &args.settings.overrides.device {
        settings.device_type.clone_from(device);
    }
    let plan = runners::plan_generate(&settings)?;
    if args.start.plan {
        match args.settings.json {
            true => println!("{:#}", json!(plan)),
            false => report_plan(&plan),
        }
        return Ok(());
    }
    if !args.settings.json && ranks::speaks(ranks) {
        report_plan(&plan);
    }
    settings.device_type = ranks::device(ranks, &settings.device_type);
    let (world, mut observer) = ranks::joined(ranks, &settings.device_type, registry)?;
    let r = runners::generate_with(&settings, registry, &mut *observer, args.start.start(), world)?;
    if !ranks::speaks(ranks) {
        return Ok(());
    }
    let (tokens, took) = r.rate;
    let per_second = tokens as f64 / took.as_secs_f64().max(1e-9);
    let output = settings.output_dir.display();
    if args.settings.json {
        let losses: serde_json::Map<_, _> = r.losses.iter().map(|(h, l)| (h.clone(), json!(l))).collect();
        println!(
            "{:#}",
            json!({
                "complete": r.complete,
                "tokens": r.tokens,
                "chunks": r.chunks,
                "resumed_from": r.resumed_from,
                "rounding_share_of_variance": losses,
                "tokens_per_second": per_second,
                "output_dir": settings.output_dir,
            })
        );
        return Ok(());
    }
    if let Some(chunks) = r.resumed_from {
        println!("continued after {} chunks", print::count(chunks));
    }
    println!(
        "{} tokens in {} chunks of each hook point ({} tokens/s)",
        print::count(r.tokens),
        print::count(r.chunks),
        print::count(per_second as u64),
    );
    for (hook, loss) in &r.losses {
        println!("  {hook}: rounding is {:.5} % of the variance", 100.0 * loss);
    }
    match r.complete {
        true => println!("activations: {output}"),
        false => println!("stopped; --resume continues"),
    }
    Ok(())
}

fn report_plan(p: &GeneratePlan) {
    for (hook, width) in &p.widths {
        println!("{hook}: {width} wide");
    }
    let token = print::bytes(p.bytes_per_token);
    match (p.bytes, p.chunks) {
        (Some(bytes), Some(chunks)) => println!(
            "at most {} on disk: {} chunks of {} tokens, {token} a token",
            print::bytes(bytes),
            print::count(chunks),
            print::count(p.tokens_per_chunk),
        ),
        _ => println!(
            "{token} a token on disk, in chunks of {} tokens, until the text ends; total_tokens bounds it",
            print::count(p.tokens_per_chunk)
        ),
    }
}
