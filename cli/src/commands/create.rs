//! `lm-saes create`: a dictionary into a store, by its folder alone.

use crate::args::{Create, CreateDictionary, CreateWhat};
use anyhow::Result;
use lm_saes::{
    runners,
    settings::{PretrainedSettings, from_tree},
    store::{self, DictionaryKey},
};
use serde_json::json;

/// The series of dictionaries that name none.
const SERIES: &str = "default";

pub fn run(args: &Create) -> Result<()> {
    match &args.what {
        CreateWhat::Dictionary(a) => dictionary(a),
    }
}

fn dictionary(args: &CreateDictionary) -> Result<()> {
    let key = DictionaryKey::new(&args.name, args.store.series.as_deref().unwrap_or(SERIES));
    let sae: PretrainedSettings = from_tree(&json!({ "pretrained_name_or_path": args.path }))?;
    // Before the store, which is made where there is none.
    let mut record = runners::describe(&sae, key, args.model_name.clone())?;
    let store = store::open(&args.store.store)?;
    if let Some(known) = store.dictionary(&record.key)?.filter(|_| args.model_name.is_none()) {
        record.model_name = known.model_name;
    }
    runners::register(&*store, &record, args.replace)?;
    if args.store.json {
        println!("{:#}", json!(record));
    } else {
        println!("{} is registered in {}", record.key, args.store.store);
    }
    Ok(())
}
