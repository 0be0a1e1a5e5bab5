//! `lm-saes to-jumprelu`: fixed thresholds in place of a selection by rank.

use crate::{args::ToJumpRelu, print, progress::Console};
use anyhow::Result;
use lm_saes::{runners, settings, training::evaluate::Quality};
use lm_saes_runtime::Registry;
use serde_json::{Value, json};

pub fn run(args: &ToJumpRelu, registry: &Registry) -> Result<()> {
    let mut settings = settings::load_evaluation(&args.path, args.text.as_deref(), &args.overrides.set)?;
    if let Some(device) = &args.overrides.device {
        settings.device_type.clone_from(device);
    }
    if args.plan {
        let plan = runners::plan_to_jumprelu(&settings, &args.out, args.tokens, registry)?;
        if args.json {
            let memory = plan.memory.iter();
            let memory: Vec<Value> =
                memory.map(|m| json!({"what": m.what, "bytes": m.bytes, "exact": m.exact})).collect();
            println!("{:#}", json!({"memory": memory, "obstacles": plan.obstacles}));
        } else {
            print::memory(&plan.memory);
            print::whereabouts(None, &plan.obstacles);
        }
        return Ok(());
    }
    let r = runners::to_jumprelu(&settings, &args.out, args.tokens, registry, &mut Console::new())?;
    if args.json {
        let quality =
            |q: &Quality| -> Value { q.values.iter().map(|(k, v)| (k.clone(), json!(v))).collect() };
        println!(
            "{:#}",
            json!({
                "path": r.path, "act_fn": r.act_fn, "top_k": r.top_k, "thresholds": r.thresholds,
                "tokens": r.tokens, "evaluated_tokens": r.before.tokens,
                "before": quality(&r.before), "after": quality(&r.after),
            })
        );
        return Ok(());
    }
    let thresholds: Vec<String> = r.thresholds.iter().map(|t| format!("{t:.4}")).collect();
    println!("thresholds {} chosen on {} tokens", thresholds.join(" "), print::count(r.tokens));
    for (when, q) in [("before", &r.before), ("after", &r.after)] {
        let value = |key: &str| q.get(key).unwrap_or(f64::NAN);
        println!(
            "{when:<7}explained variance {:.4} · L0 {:.2} · on {} other tokens",
            value("metrics/explained_variance"),
            value("metrics/l0"),
            print::count(q.tokens),
        );
    }
    println!("dictionary: {}", r.path.display());
    Ok(())
}
