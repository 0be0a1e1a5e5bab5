//! `lm-saes quickstart`: the whole way from text to features on the built-in model, with nothing to set up.

use super::train::{report_evaluation, report_run};
use crate::{args::Quickstart, progress::Console};
use anyhow::{Context, Result};
use lm_saes::{
    data::TokenStream,
    runners::{self, FeatureLook, LookArgs, Start, Workbench},
    settings::{self, TrainSettings},
    training::Observer,
};
use lm_saes_runtime::Registry;
use std::{fs, io::IsTerminal, path::Path};

const MODEL: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../assets/quickstart/config.json")),
    ("tokenizer.json", include_bytes!("../../assets/quickstart/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../assets/quickstart/model.safetensors")),
];
const TEXT: &str = include_str!("../../assets/quickstart/text.jsonl");
const SETTINGS: &str = include_str!("../../assets/quickstart/train.toml");
/// One passage in this many is kept from training, for the evaluation.
const HELD_OUT: usize = 10;
/// Tokens of the evaluation and of the search for strong contexts.
const EVALUATION_TOKENS: u64 = 16_384;
const LOOK: LookArgs = LookArgs { tokens: 60_000, features: 5, contexts: 3, around: 9 };

pub fn run(args: &Quickstart, registry: &Registry) -> Result<()> {
    write_files(args)?;
    let path = args.out.join("train.toml");
    let mut settings: TrainSettings = settings::load(&path, &[])?;
    settings.device_type.clone_from(&args.device);
    println!("settings: {} (run it again with `lm-saes train {0}`)", path.display());
    let mut console = Console::new();
    let model = settings.model.clone().context("the quickstart's settings name no model")?;
    let (factory, datasets) = (&settings.activation_factory, &settings.datasets);
    let mut bench =
        Workbench::open(registry, &settings.device_type, &model, factory, datasets, &mut console)?;
    let mut report = runners::train_on(&mut bench, &settings, &mut console, Start::Overwrite)?;
    report_run(&report);
    for data in bench.datasets.values_mut() {
        data.dataset_name_or_path = args.out.join("text/held_out.jsonl").display().to_string();
    }
    console.phase("evaluating on passages kept from training");
    let (quality, downstream) =
        runners::assess(&mut bench, &mut *report.dictionary, EVALUATION_TOKENS, EVALUATION_TOKENS)?;
    report_evaluation(&quality, &downstream);
    let mut text = all_text(&mut bench, args)?;
    let look = runners::strongest_contexts(
        &mut bench.q,
        &bench.lm,
        &bench.tokenizer,
        &mut *report.dictionary,
        &mut text,
        LOOK,
    )?;
    println!("\nWhere a few features fire most strongly (peak in the middle; the brighter, the stronger):");
    for feature in &look.features {
        show(feature);
    }
    Ok(())
}

fn all_text(bench: &mut Workbench, args: &Quickstart) -> Result<TokenStream> {
    for data in bench.datasets.values_mut() {
        data.dataset_name_or_path = args.out.join("text/train.jsonl").display().to_string();
    }
    Ok(bench.tokens()?)
}

fn write_files(args: &Quickstart) -> Result<()> {
    let write = |name: &str, content: &[u8]| -> Result<()> {
        Ok(lm_saes::files::write_atomic(&args.out.join(name), |w| w.write_all(content))?)
    };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    for (name, content) in MODEL {
        write(&format!("model/{name}"), content)?;
    }
    let held_out = |i: usize| i % HELD_OUT == HELD_OUT - 1;
    for (name, keep) in [("train", false), ("held_out", true)] {
        let lines = TEXT.lines().enumerate().filter(|(i, _)| held_out(*i) == keep);
        let text: String = lines.flat_map(|(_, l)| [l, "\n"]).collect();
        write(&format!("text/{name}.jsonl"), text.as_bytes())?;
    }
    let settings =
        SETTINGS.replace("{out}", &toml_text(&args.out)).replace("{tokens}", &args.tokens.to_string());
    write("train.toml", settings.as_bytes())
}

/// A path as it stands inside a basic TOML string.
fn toml_text(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

fn show(feature: &FeatureLook) {
    println!("\nfeature {} · fires on {:.2} % of tokens", feature.feature, 100.0 * feature.density);
    let colour = std::io::stdout().is_terminal();
    for context in &feature.contexts {
        let peak = context.pieces.get(context.peak).map_or(0.0, |(_, a)| *a);
        let mut line = String::new();
        for (i, (text, activation)) in context.pieces.iter().enumerate() {
            let text = text.replace(['\n', '\r'], "⏎");
            line.push_str(&shade(&text, activation / peak, i == context.peak, colour));
        }
        println!("  {peak:>6.2}  {}", line.trim_start());
    }
}

/// A token by its share of the peak's activation: coloured on a terminal, the peak in brackets elsewhere.
fn shade(text: &str, share: f32, peak: bool, colour: bool) -> String {
    match (colour, share) {
        (false, _) if peak => format!("[{text}]"),
        (true, 0.66..) => format!("\x1b[1;97;41m{text}\x1b[0m"),
        (true, 0.33..0.66) => format!("\x1b[30;43m{text}\x1b[0m"),
        (true, 0.01..0.33) => format!("\x1b[33m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stands_out_with_and_without_colour() {
        assert_eq!(shade("cat", 1.0, true, false), "[cat]");
        assert_eq!(shade("cat", 0.0, false, true), "cat");
        assert!(shade("cat", 1.0, true, true).starts_with("\x1b[1;97;41m"));
    }
}
