//! `lm-saes list`: what is in a store.

use crate::{args::List, print};
use anyhow::{Result, bail};
use lm_saes::store::{self, Store};
use serde_json::json;
use std::path::Path;

/// Opens a store that has to exist already.
pub fn open(address: &str) -> Result<Box<dyn Store>> {
    if !address.contains("://") && !Path::new(address).exists() {
        bail!("{address}: there is no such store; name it with --store, or make one with `lm-saes analyze`");
    }
    Ok(store::open(address)?)
}

pub fn run(args: &List) -> Result<()> {
    let store = open(&args.store.store)?;
    let mut all = Vec::new();
    for dictionary in store.dictionaries(args.store.series.as_deref())? {
        let analyses = store.analyses(&dictionary.key)?;
        all.push((dictionary, analyses));
    }
    if args.store.json {
        let rows: Vec<_> = all.iter().map(|(d, a)| json!({ "dictionary": d, "analyses": a })).collect();
        println!("{:#}", json!(rows));
        return Ok(());
    }
    if all.is_empty() {
        println!("{} holds no dictionaries", args.store.store);
    }
    for (d, analyses) in all {
        let kind = d.cfg["sae_type"].as_str().unwrap_or("dictionary");
        let model = d.model_name.as_deref().unwrap_or("no model named");
        println!("{} · {kind} of {} features · {model} · {}", d.key, print::count(d.d_sae.into()), d.path);
        for a in analyses {
            let tokens = print::count(a.n_analyzed_tokens);
            println!("  analysis {} · {tokens} tokens in {} contexts", a.name, print::count(a.n_contexts));
        }
    }
    Ok(())
}
