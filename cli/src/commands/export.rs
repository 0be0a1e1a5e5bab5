//! `lm-saes export`: what an analysis found, as files for other programs.

use super::{list, show};
use crate::{
    args::{Export, ExportFormat},
    html, print,
    progress::Console,
};
use anyhow::Result;
use lm_saes::{
    export::{self, NeuronpediaSettings, Selection, Which},
    training::{Advance, Observer},
};
use serde_json::json;
use std::{path::Path, time::Instant};

pub fn run(args: &Export) -> Result<()> {
    let store = list::open(&args.store.store)?;
    let key = show::find(&*store, &args.name, args.store.series.as_deref())?;
    let ranges = args.features.as_deref().map(Which::parse).transpose()?.unwrap_or_default();
    let from = Selection::open(&*store, &key, &args.analysis, &Which { ranges, alive: args.alive })?;
    let (mut console, began) = (Console::new(), Instant::now());
    let total = from.features.len();
    console.phase(&format!("exporting {total} features of {key}"));
    let progress = |done: usize| {
        let per_second = done as f64 / began.elapsed().as_secs_f64().max(1e-9);
        let left = (total - done) as f64 / per_second.max(1e-9);
        let (done, total) = (done as u64, total as u64);
        let remaining = std::time::Duration::try_from_secs_f64(left).unwrap_or_default();
        // A file that was begun is finished or not there; stopping early would leave neither.
        let _ = console.advanced(&Advance { what: "features", done, total, per_second, remaining });
    };
    let written = match args.format {
        ExportFormat::Html => html::export(&from, &args.out, progress)?,
        ExportFormat::Json => export::json(&from, &args.out, progress).map(|()| args.out.clone())?,
        ExportFormat::Safetensors => {
            let decoder = decoder(&from);
            export::tensors(&from, decoder, &args.out, progress).map(|()| args.out.clone())?
        }
        ExportFormat::Neuronpedia => export::neuronpedia(&from, &names(args, &from), &args.out, progress)?,
    };
    drop(console);
    if args.store.json {
        println!("{:#}", json!({ "dictionary": key, "features": total, "written": written }));
    } else {
        println!("{} features of {key}: {}", print::count(total as u64), written.display());
    }
    Ok(())
}

/// Rows of the decoder, where the dictionary's folder is at hand; says so where it is not.
fn decoder(from: &Selection<'_>) -> Option<(Vec<usize>, Vec<f32>)> {
    match export::decoder_rows(Path::new(&from.dictionary.path)) {
        Ok(Some(rows)) => Some(rows),
        Ok(None) => {
            eprintln!("a dictionary of this kind has no matrix of decoder rows: only statistics are written");
            None
        }
        Err(e) => {
            eprintln!("only statistics are written, no decoder rows: {e}");
            None
        }
    }
}

fn names(args: &Export, from: &Selection<'_>) -> NeuronpediaSettings {
    let (given, d) = (&args.neuronpedia, &from.dictionary);
    let model = d.model_name.as_deref().unwrap_or("model");
    let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model).to_lowercase();
    let kind = d.cfg["sae_type"].as_str().unwrap_or("dictionary");
    NeuronpediaSettings {
        model: given.model.clone().unwrap_or(last),
        set: given.set.clone().unwrap_or_else(|| d.key.name.clone()),
        description: format!("{kind} of {} features", d.d_sae),
        layer: given.layer,
        release: given.release.clone().unwrap_or_else(|| d.key.series.clone()),
        title: format!("{} ({})", d.key.name, d.key.series),
        creator: given.creator.clone(),
        creator_id: given.creator_id.clone(),
        url: given.url.clone(),
        samples: given.samples,
    }
}
