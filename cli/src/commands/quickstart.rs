//! `lm-saes quickstart`: the whole way from text to features on the built-in model, with nothing to set up.

use super::{
    analyze::report_analysis,
    serve, show,
    train::{report_evaluation, report_run},
};
use crate::{
    args::{DEFAULT_PORT, Quickstart},
    progress::Console,
    serve::Options,
};
use anyhow::{Context, Result};
use lm_saes::{
    activations::Target,
    runners::{self, AnalysisJob, Start, Workbench},
    settings::{self, ActivationFactorySettings, ActivationSource, AnalyzerSettings, TrainSettings},
    store::{self, DictionaryKey, FeatureFilter, FeatureQuery, SortBy, Store},
    training::Observer,
};
use lm_saes_runtime::Registry;
use serde_json::json;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::Path,
};

const MODEL: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../../assets/quickstart/config.json")),
    ("tokenizer.json", include_bytes!("../../assets/quickstart/tokenizer.json")),
    ("model.safetensors", include_bytes!("../../assets/quickstart/model.safetensors")),
];
const TEXT: &str = include_str!("../../assets/quickstart/text.jsonl");
const SETTINGS: &str = include_str!("../../assets/quickstart/train.toml");
/// One passage in this many is kept from training, for the evaluation.
const HELD_OUT: usize = 10;
/// Most tokens of the evaluation.
const EVALUATION_TOKENS: u64 = 16_384;
/// Most tokens of the analysis: all of the text it was trained on.
const ANALYSED_TOKENS: u64 = 1_000_000;
const ANALYSIS: &str = "default";
/// Features shown.
const FEATURES: u64 = 5;
const LOOK: show::Extent = show::Extent { samplings: 1, samples: 3, around: 9 };

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
    // A shortened run is short to its end.
    let evaluated = EVALUATION_TOKENS.min(args.tokens);
    let (quality, downstream) = runners::assess(&mut bench, &mut *report.dictionary, evaluated, evaluated)?;
    report_evaluation(&quality, &downstream);
    let address = args.out.join("lm-saes.db").display().to_string();
    let store = store::open(&address)?;
    for data in bench.datasets.values_mut() {
        data.dataset_name_or_path = args.out.join("text/train.jsonl").display().to_string();
    }
    whole_contexts(&mut bench.factory);
    let key = DictionaryKey::new(&settings.sae_name, &settings.sae_series);
    let job = AnalysisJob {
        dictionary: AnalysisJob::record(
            key.clone(),
            &settings.trainer.exp_result_path,
            &*report.dictionary,
            settings.model_name.clone(),
        )?,
        name: ANALYSIS,
        settings: &AnalyzerSettings::of_tokens(ANALYSED_TOKENS.min(args.tokens)),
        work_dir: &args.out.join("analysis"),
        about: json!({ "model": model }),
    };
    let dictionary = &mut *report.dictionary;
    let done = runners::analyze_on(&mut bench, dictionary, &job, &*store, &mut console, Start::Overwrite)?;
    report_analysis(&done, &address);
    println!("\nWhere a few features fire most strongly (peak in the middle; the brighter, the stronger):");
    for index in worth_a_look(&*store, &key, done.n_analyzed_tokens)? {
        if let Some(feature) = store.feature(&key, ANALYSIS, index)? {
            println!();
            show::feature(&feature, &store.analyses(&key)?[0], LOOK);
        }
    }
    println!(
        "\nsee more:  lm-saes serve --store {address} --runs {}\n           lm-saes show feature {} random --store {address}",
        args.out.display(),
        settings.sae_name
    );
    if !args.serve {
        return Ok(());
    }
    drop(bench);
    drop(report);
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let is_free = TcpListener::bind((host, DEFAULT_PORT)).is_ok();
    let options = Options {
        host,
        port: if is_free { DEFAULT_PORT } else { 0 },
        token: None,
        runs: Some(args.out.clone()),
        device: args.device.clone(),
        model: None,
    };
    serve::start(store, registry, options, &address)
}

/// Every passage once, as whole contexts.
fn whole_contexts(factory: &mut ActivationFactorySettings) {
    (factory.target, factory.batch_size, factory.buffer_size) = (Target::Activations2d, 16, None);
    for source in &mut factory.sources {
        if let ActivationSource::Dataset(s) = source {
            (s.repeat, s.shuffle_records) = (false, false);
        }
    }
}

/// Features that fire on between 0.02 % and 2 % of tokens, the strongest: rarer ones are noise in a small sample, denser ones
/// hard to read.
fn worth_a_look(store: &dyn Store, key: &DictionaryKey, tokens: u64) -> Result<Vec<u32>> {
    let share = |s: f64| Some((s * tokens as f64) as u64);
    let filter =
        FeatureFilter { min_act_times: share(2e-4), max_act_times: share(2e-2), ..FeatureFilter::default() };
    let query = FeatureQuery { filter, sort: SortBy::MaxAct, descending: true, offset: 0, limit: FEATURES };
    Ok(store.features(key, ANALYSIS, &query)?.features.iter().map(|f| f.index).collect())
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
