//! Commands on a dictionary of a store take its name, or a settings file that names it.

use super::show;
use crate::args::NamedArgs;
use anyhow::Result;
use lm_saes::{settings, store::Store};
use serde_json::{Value, json};
use std::path::Path;

/// Settings from a name or a file, with what was given besides; and whether it was a file.
pub fn tree(args: &NamedArgs) -> Result<(Value, bool)> {
    let path = Path::new(&args.what);
    let known = ["toml", "yaml", "yml", "json"];
    let is_file = path.extension().is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)));
    let mut tree = match is_file {
        true => settings::read_tree(path)?,
        false => json!({ "sae_name": args.what }),
    };
    let given = [("sae_series", &args.series), ("analysis_name", &args.analysis), ("store", &args.store)];
    for (key, value) in given {
        if let Some(value) = value {
            tree[key] = json!(value);
        }
    }
    Ok((tree, is_file))
}

/// Where a name was given without its series, the only one it is in.
pub fn complete(
    tree: &Value,
    is_file: bool,
    store: &dyn Store,
    name: &str,
    series: &mut String,
) -> Result<()> {
    if !is_file && tree.get("sae_series").is_none_or(Value::is_null) {
        *series = show::find(store, name, None)?.series;
    }
    Ok(())
}
