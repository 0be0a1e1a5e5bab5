//! `lm-saes remove`: dictionaries and analyses from a store, training runs from the disk, after asking.

use super::{list, show};
use crate::{
    args::{Remove, RemoveWhat, StoreArgs},
    print,
};
use anyhow::{Result, bail};
use lm_saes::{
    runners::RunFolder,
    store::{DictionaryKey, Store},
};
use serde_json::json;
use std::{
    io::{IsTerminal, Write as _, stderr, stdin},
    path::Path,
};

pub fn run(args: &Remove) -> Result<()> {
    match &args.what {
        RemoveWhat::Dictionary { name, store, yes } => dictionary(name, store, *yes),
        RemoveWhat::Analysis { name, analysis, store, yes } => one_analysis(name, analysis, store, *yes),
        RemoveWhat::Run { path, yes } => training(path, *yes),
    }
}

fn dictionary(name: &str, at: &StoreArgs, yes: bool) -> Result<()> {
    let (store, key) = find(name, at)?;
    let analyses = store.analyses(&key)?.len();
    let explained = store.interpretations(&key)?.len() as u64;
    let marked = store.bookmarks(Some(&key), 0, 0)?.1;
    let with = format!(
        "{analyses} analyses, {} explanations, {} bookmarks",
        print::count(explained),
        print::count(marked)
    );
    agree(&format!("remove {key} with {with} from {}", at.store), yes)?;
    store.remove_dictionary(&key)?;
    told(at, &key, None);
    Ok(())
}

fn one_analysis(name: &str, analysis: &str, at: &StoreArgs, yes: bool) -> Result<()> {
    let (store, key) = find(name, at)?;
    let known: Vec<String> = store.analyses(&key)?.into_iter().map(|a| a.name).collect();
    if !known.iter().any(|k| k == analysis) {
        bail!("{key} has no analysis {analysis:?}; it has: {}", known.join(", "));
    }
    agree(&format!("remove analysis {analysis} of {key} from {}", at.store), yes)?;
    store.remove_analysis(&key, analysis)?;
    told(at, &key, Some(analysis));
    Ok(())
}

fn training(path: &Path, yes: bool) -> Result<()> {
    let run = RunFolder::open(path)?;
    let shown = run.path().display().to_string();
    let size = print::bytes(run.bytes);
    agree(&format!("remove {shown} with {} files, {size}, from the disk", run.files), yes)?;
    run.remove()?;
    println!("removed {shown}");
    Ok(())
}

fn find(name: &str, at: &StoreArgs) -> Result<(Box<dyn Store>, DictionaryKey)> {
    let store = list::open(&at.store)?;
    let key = show::find(&*store, name, at.series.as_deref())?;
    Ok((store, key))
}

fn told(at: &StoreArgs, key: &DictionaryKey, analysis: Option<&str>) {
    match (at.json, analysis) {
        (true, _) => println!("{:#}", json!({ "removed": key, "analysis": analysis })),
        (false, Some(analysis)) => println!("removed analysis {analysis} of {key}"),
        (false, None) => println!("removed {key}"),
    }
}

/// Goes on when `--yes` was given, or when the person at the terminal says so.
fn agree(what: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !stdin().is_terminal() {
        bail!("this would {what}; say --yes to do it");
    }
    eprint!("{what}? [y/N] ");
    stderr().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was removed"),
    }
}
