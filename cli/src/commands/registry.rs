//! `lm-saes registry`: published dictionaries, where they are and how they are read.

use crate::args::ListRegistry;
use anyhow::{Context, Result, bail};
use lm_saes::hub::{Hub, OpenOptions, Registry, readers, resolve};
use serde_json::json;
use std::rc::Rc;

pub fn run(args: &ListRegistry) -> Result<()> {
    if let Some(file) = &args.refresh {
        let registry = Registry::open(file)?;
        let to = args.to.clone().or_else(Registry::own_table);
        let to = to.context("no folder to keep the table in; name a file with --to")?;
        registry.save(&to)?;
        println!(
            "{} releases, {} dictionaries in {}",
            registry.releases().len(),
            count(&registry),
            to.display()
        );
        return Ok(());
    }
    let registry = Registry::load()?;
    match args.name.as_deref().map(|n| n.split_once(':').map_or((n, None), |(r, id)| (r, Some(id)))) {
        None => list(&registry, args.json),
        Some((release, None)) => show(&registry, release, args.json)?,
        Some((release, Some(id))) => one(&registry, (release, id), args.json)?,
    }
    Ok(())
}

fn count(registry: &Registry) -> usize {
    registry.releases().values().map(|r| r.entries.len()).sum()
}

fn list(registry: &Registry, as_json: bool) {
    let all = registry.releases();
    if as_json {
        let rows: Vec<_> = all
            .iter()
            .map(|(name, r)| json!({"release": name, "repo": r.repo, "model": r.model, "dictionaries": r.entries.len()}))
            .collect();
        return println!("{:#}", json!(rows));
    }
    for (name, r) in all {
        println!("{name} · {} · {} dictionaries · {}", r.model, r.entries.len(), r.repo);
    }
}

fn show(registry: &Registry, release: &str, as_json: bool) -> Result<()> {
    let Some(found) = registry.releases().get(release) else {
        bail!("no release {release:?} is in the registry; near it are {}", registry.like(release));
    };
    if as_json {
        let rows: Vec<_> = found
            .entries
            .iter()
            .map(|(id, e)| json!({"name": format!("{release}:{id}"), "path": e.path, "l0": e.l0}))
            .collect();
        println!("{:#}", json!(rows));
        return Ok(());
    }
    for (id, entry) in &found.entries {
        let l0 = entry.l0.map_or(String::new(), |l0| format!(" · L0 {l0}"));
        println!("{release}:{id}{l0}");
    }
    Ok(())
}

fn one(registry: &Registry, (release, id): (&str, &str), as_json: bool) -> Result<()> {
    let Some((found, entry)) = registry.find(release, id)? else {
        bail!("no release {release:?} is in the registry; near it are {}", registry.like(release));
    };
    let name = format!("{release}:{id}");
    let hub = Rc::new(Hub::from_env());
    let hooks = readers::hooks(&resolve(&hub, &name, &OpenOptions::default())?);
    let value = json!({
        "name": name, "repo": found.repo, "path": entry.path, "loader": found.loader, "model": found.model,
        "hook_point_in": hooks.as_ref().map(|h| &h.0), "hook_point_out": hooks.as_ref().map(|h| &h.1),
        "l0": entry.l0, "explained_variance": entry.explained_variance,
        "norm_scaling_factor": entry.norm_scaling_factor,
    });
    if as_json {
        println!("{value:#}");
        return Ok(());
    }
    for (key, value) in value.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
        println!("{key}: {}", value.as_str().map_or_else(|| value.to_string(), String::from));
    }
    Ok(())
}
