//! `lm-saes rename`: a dictionary of a store, or the folder of a training run.

use super::{list, show};
use crate::args::{Rename, RenameWhat};
use anyhow::Result;
use lm_saes::{runners::RunFolder, store::DictionaryKey};
use serde_json::json;

pub fn run(args: &Rename) -> Result<()> {
    match &args.what {
        RenameWhat::Dictionary { name, new, store: at } => {
            let store = list::open(&at.store)?;
            let key = show::find(&*store, name, at.series.as_deref())?;
            store.rename_dictionary(&key, new)?;
            let new = DictionaryKey::new(new, &key.series);
            match at.json {
                true => println!("{:#}", json!({ "from": key, "to": new })),
                false => println!("{key} is now {new}"),
            }
        }
        RenameWhat::Run { path, new } => {
            let run = RunFolder::open(path)?;
            println!("{} is now {}", run.path().display(), run.rename(new)?.display());
        }
    }
    Ok(())
}
