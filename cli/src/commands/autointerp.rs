//! `lm-saes autointerp`: features explained in words by a language model, and the explanations tested.

use super::{list, named};
use crate::{args::Autointerp, print, progress::Console};
use anyhow::{Context as _, Result, bail};
use lm_saes::{
    autointerp::OpenAi,
    runners::{self, AutoInterpPlan, AutoInterpReport},
    settings::{self, AutoInterpSettings},
};
use serde_json::{Value, json};
use std::env;

/// Failures listed one by one.
const LISTED: usize = 5;

pub fn run(args: &Autointerp) -> Result<()> {
    let (settings, address) = settings_of(args)?;
    settings.check()?;
    let store = list::open(&address)?;
    let plan = runners::plan_auto_interp(&settings, &*store)?;
    if args.plan {
        match args.json {
            true => println!("{:#}", json!(plan)),
            false => report_plan(&plan),
        }
        return Ok(());
    }
    if !args.json {
        report_plan(&plan);
    }
    let how = &settings.auto_interp;
    let chat = OpenAi::new(how, env::var("OPENAI_API_KEY").ok(), env::var("OPENAI_BASE_URL").ok())?;
    if plan.to_explain + plan.to_score > 0 {
        eprintln!("asking {} at {}", how.openai_model, chat.url());
    }
    let report = runners::auto_interp(&settings, &*store, &chat, &mut Console::new())?;
    match args.json {
        true => println!("{:#}", report_json(&report, &address)),
        false => report_run(&report, &address),
    }
    let tried = report.explained + report.scored;
    if let (0, Some((feature, what))) = (tried, report.failed.first()) {
        bail!("all {} features failed; feature {feature}: {what}", report.failed.len());
    }
    Ok(())
}

/// The settings and the address of the store.
fn settings_of(args: &Autointerp) -> Result<(AutoInterpSettings, String)> {
    let (mut tree, is_file) = named::tree(&args.named)?;
    for (key, value) in [("openai_model", &args.model), ("openai_base_url", &args.base_url)] {
        if let Some(value) = value {
            tree["auto_interp"][key] = json!(value);
        }
    }
    if let Some(list) = &args.features {
        tree["features"] = json!(features(list)?);
    }
    for o in &args.set {
        settings::apply_override(&mut tree, o)?;
    }
    let mut s: AutoInterpSettings = settings::from_tree(&tree)?;
    let address = s.store_address();
    named::complete(&tree, is_file, &*list::open(&address)?, &s.sae_name, &mut s.sae_series)?;
    Ok((s, address))
}

/// `0-3,7` as numbers.
fn features(list: &str) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| -> Result<u32> {
            text.trim().parse().with_context(|| format!("{part:?} is no feature or range; write 0-99,512"))
        };
        let (from, to) = (number(from)?, number(to)?);
        if from > to || to - from > 10_000_000 {
            bail!("{part:?} is no range of features");
        }
        all.extend(from..=to);
    }
    if all.is_empty() {
        bail!("--features names none; write a list such as 0-99,512");
    }
    Ok(all)
}

fn report_plan(p: &AutoInterpPlan) {
    println!(
        "{} features: {} never fire, {} are done, {} to explain, {} to score",
        print::count(p.features),
        print::count(p.silent),
        print::count(p.done),
        print::count(p.to_explain),
        print::count(p.to_score),
    );
    let cost = match p.cost {
        Some(cost) => format!("about {cost:.2} at the prices given"),
        None => "set auto_interp.prompt_price and completion_price (per million tokens) for the cost".into(),
    };
    println!(
        "{} requests, about {} tokens sent and {} received (estimates) · {cost}",
        print::count(p.requests),
        print::count(p.prompt_tokens),
        print::count(p.completion_tokens),
    );
}

fn report_run(r: &AutoInterpReport, address: &str) {
    println!(
        "{} features explained, {} scored only, {} failed, {} had nothing to do, in {}",
        print::count(r.explained),
        print::count(r.scored),
        print::count(r.failed.len() as u64),
        print::count(r.skipped),
        print::duration(r.took),
    );
    for (name, mean) in &r.scores {
        println!("  {name:<10} mean {mean:.3}");
    }
    for (feature, what) in r.failed.iter().take(LISTED) {
        println!("  feature {feature} failed: {what}");
    }
    if !r.failed.is_empty() {
        println!("  the same command tries those that failed again");
    }
    println!(
        "{} requests ({} repeated), {} tokens sent, {} received{}",
        print::count(r.usage.requests),
        print::count(r.usage.retries),
        print::count(r.usage.prompt_tokens),
        print::count(r.usage.completion_tokens),
        r.cost.map_or(String::new(), |c| format!(", {c:.4} at the prices given")),
    );
    println!("store: {address}");
}

fn report_json(r: &AutoInterpReport, address: &str) -> Value {
    let failed: Vec<Value> =
        r.failed.iter().map(|(f, what)| json!({ "feature": f, "error": what })).collect();
    json!({
        "sae_name": r.key.name,
        "sae_series": r.key.series,
        "complete": r.complete,
        "explained": r.explained,
        "scored": r.scored,
        "skipped": r.skipped,
        "failed": failed,
        "mean_scores": r.scores,
        "usage": r.usage,
        "cost": r.cost,
        "seconds": r.took.as_secs_f64(),
        "store": address,
    })
}

#[cfg(test)]
mod tests {
    use super::features;

    #[test]
    fn lists_of_features_are_numbers_and_ranges() {
        assert_eq!(features("0-3, 7").unwrap(), [0, 1, 2, 3, 7]);
        for bad in ["", "a", "3-1", "0-4000000000", "-1"] {
            assert!(features(bad).is_err(), "{bad}");
        }
    }
}
