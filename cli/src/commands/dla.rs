//! `lm-saes dla`: direct logit attribution for an analysis that is in a store.

use super::{list, named};
use crate::{args::Dla, print, progress::Console};
use anyhow::Result;
use lm_saes::{
    runners::{self, LogitReport},
    settings::{self, LogitSettings},
};
use lm_saes_runtime::Registry;
use serde_json::json;

pub fn run(args: &Dla, registry: &Registry) -> Result<()> {
    let (mut tree, is_file) = named::tree(&args.named)?;
    if let Some(top_k) = args.top_k {
        tree["direct_logit_attributor"]["top_k"] = json!(top_k);
    }
    if let Some(path) = &args.model {
        tree["model_path"] = json!(path);
    }
    if let Some(path) = &args.sae {
        tree["sae"]["pretrained_name_or_path"] = json!(path);
    }
    if let Some(layer) = args.layer {
        tree["layer_idx"] = json!(layer);
    }
    if let Some(device) = &args.overrides.device {
        tree["device_type"] = json!(device);
    }
    for o in &args.overrides.set {
        settings::apply_override(&mut tree, o)?;
    }
    let mut s: LogitSettings = settings::from_tree(&tree)?;
    s.check()?;
    let address = s.store_address();
    let store = list::open(&address)?;
    named::complete(&tree, is_file, &*store, &s.sae_name, &mut s.sae_series)?;
    let report = runners::attribute_logits(&s, &*store, registry, &mut Console::new())?;
    match args.json {
        true => println!("{:#}", as_json(&report, &address)),
        false => {
            let layer = report.layer.map_or(String::new(), |l| format!(" (layer {l})"));
            println!(
                "{} features of {}{layer}: the {} output tokens each promotes and suppresses most, in analysis {}, in {}",
                print::count(report.features as u64),
                report.key,
                report.top_k,
                report.analysis,
                print::duration(report.took)
            );
            println!("store: {address}");
        }
    }
    Ok(())
}

fn as_json(r: &LogitReport, address: &str) -> serde_json::Value {
    json!({
        "sae_name": r.key.name,
        "sae_series": r.key.series,
        "analysis": r.analysis,
        "features": r.features,
        "layer": r.layer,
        "top_k": r.top_k,
        "seconds": r.took.as_secs_f64(),
        "store": address,
    })
}
