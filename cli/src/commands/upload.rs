//! `lm-saes upload`: a dictionary of any known form, sent to the Hugging Face hub.

use super::convert::conversion;
use crate::{args::Upload, print};
use anyhow::{Result, bail};
use lm_saes::{
    hub::{
        Hub,
        card::About,
        upload::{Sent, Uploaded},
    },
    runners::{Prepared, UploadJob, prepare_upload},
};
use lm_saes_runtime::Registry;
use serde_json::json;
use std::{path::Path, rc::Rc};

pub fn run(args: &Upload, registry: &Registry) -> Result<()> {
    let (repo, folder) = args.to.split_once(':').unwrap_or((&args.to, ""));
    if repo.split('/').filter(|part| !part.is_empty()).count() != 2 {
        bail!("{:?} is no name of a repository: owner/repository or owner/repository:folder", args.to);
    }
    let about =
        About { repo: repo.into(), folder: folder.trim_matches('/').into(), license: args.license.clone() };
    let job = UploadJob {
        conversion: conversion(&args.from, Path::new(""), &args.form)?,
        about,
        revision: args.branch.clone(),
        private: args.private,
        message: args.message.clone(),
    };
    let hub = Rc::new(Hub::from_env());
    let prepared = prepare_upload(&job, &hub, registry)?;
    if args.dry_run {
        show(&prepared, args.json);
        return Ok(());
    }
    report(&prepared.send(&hub)?, args.json);
    Ok(())
}

fn show(prepared: &Prepared, as_json: bool) {
    let upload = &prepared.upload;
    if as_json {
        let files: Vec<_> = upload.files.iter().map(|f| json!({"name": f.name, "bytes": f.size})).collect();
        let value = json!({
            "repo": upload.repo, "branch": upload.revision, "message": upload.message, "files": files, "card": prepared.card,
        });
        println!("{value:#}");
        return;
    }
    println!("would be sent to {} ({}): \"{}\"", upload.repo, upload.revision, upload.message);
    for file in &upload.files {
        println!("  {:>12}  {}", print::bytes(file.size), file.name);
    }
    println!("\n{}", prepared.card);
}

fn report(done: &Uploaded, as_json: bool) {
    let how = |sent: Sent| match sent {
        Sent::Inside | Sent::Stored => "sent",
        Sent::Known => "was in storage already",
        Sent::Same => "unchanged",
    };
    if as_json {
        let files: Vec<_> = done
            .files
            .iter()
            .map(|(name, bytes, sent)| json!({"name": name, "bytes": bytes, "what": how(*sent)}))
            .collect();
        println!("{:#}", json!({"commit": done.commit, "url": done.url, "files": files}));
        return;
    }
    for (name, bytes, sent) in &done.files {
        println!("  {:>12}  {name} · {}", print::bytes(*bytes), how(*sent));
    }
    match &done.commit {
        Some(commit) => println!("commit {commit}: {}", done.url),
        None => println!("nothing to change: {}", done.url),
    }
}
