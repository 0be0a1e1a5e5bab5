//! Dictionaries and runs registered, renamed and removed from the command line, and output tokens read for an analysis that is
//! there: as a person at a terminal and as a script would, with the mistakes both make.

use lm_saes::store::{self, AnalysisRecord, DictionaryKey, FeatureAnalysis, Store};
use lm_saes_tests::tiny;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

fn lm_saes(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lm-saes"))
        .current_dir(dir)
        .args(args)
        .env_remove("LM_SAES_STORE")
        .env_remove("SAE_SERIES")
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn run(dir: &Path, args: &[&str]) -> String {
    let out = lm_saes(dir, args);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "lm-saes {}\n{stdout}{stderr}", args.join(" "));
    stdout.into_owned()
}

fn refused(dir: &Path, args: &[&str], why: &str) {
    let out = lm_saes(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} should be refused");
    assert!(error.contains(why), "{args:?}: {error}");
}

fn names(dir: &Path) -> Vec<String> {
    let listed: Value = serde_json::from_str(&run(dir, &["list", "--json"])).unwrap();
    let all = listed.as_array().unwrap().iter();
    all.map(|d| d["dictionary"]["key"]["name"].as_str().unwrap().to_owned()).collect()
}

/// A small dictionary in `dir/dictionary`.
fn saved(dir: &Path, factor: f64) {
    tiny::dictionary(
        dir,
        &json!({"sae_type": "sae", "d_model": tiny::D_MODEL, "expansion_factor": factor, "act_fn": "topk", "top_k": 4,
                "hook_point_in": tiny::HOOK, "hook_point_out": tiny::HOOK}),
    );
}

fn analysed(store: &dyn Store, key: &DictionaryKey, name: &str, settings: Value) {
    let mut w = store.begin_analysis(key, name).unwrap();
    let features: Vec<FeatureAnalysis> = (0..24)
        .map(|index| FeatureAnalysis { index, act_times: 3, max_act: 1.0, ..FeatureAnalysis::default() })
        .collect();
    w.features(&features).unwrap();
    let record = AnalysisRecord {
        name: name.into(),
        d_sae: 24,
        n_analyzed_tokens: 100,
        n_tokens: 100,
        n_contexts: 4,
        created_at: 1,
        settings,
    };
    w.commit(&record).unwrap();
}

#[test]
fn a_dictionary_is_created_renamed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    saved(dir, 0.5);
    refused(dir, &["create", "dictionary", "mine", "nowhere"], "nowhere");
    assert!(!dir.join("lm-saes.db").exists(), "no store for what is not there");
    run(dir, &["create", "dictionary", "mine", "dictionary", "--model-name", "tiny"]);
    refused(dir, &["create", "sae", "mine", "dictionary"], "rename or remove it");
    run(dir, &["create", "sae", "other", "dictionary", "--series", "second"]);
    let address = dir.join("lm-saes.db").display().to_string();
    let store = store::open(&address).unwrap();
    let mine = DictionaryKey::new("mine", "default");
    let record = store.dictionary(&mine).unwrap().unwrap();
    assert_eq!((record.d_sae, record.model_name.as_deref()), (24, Some("tiny")));
    assert_eq!(record.cfg["sae_type"], "sae");
    analysed(&*store, &mine, "default", json!({}));
    analysed(&*store, &mine, "second", json!({}));

    fs::rename(dir.join("dictionary"), dir.join("moved")).unwrap();
    run(dir, &["create", "dictionary", "mine", "moved", "--replace"]);
    let record = store.dictionary(&mine).unwrap().unwrap();
    assert!(record.path.ends_with("moved") && record.model_name.as_deref() == Some("tiny"), "{record:?}");
    saved(dir, 1.0);
    refused(dir, &["create", "dictionary", "mine", "dictionary", "--replace"], "24 features");

    refused(dir, &["rename", "dictionary", "nobody", "new"], "nobody");
    refused(dir, &["rename", "dictionary", "mine", ""], "needs a name");
    run(dir, &["create", "dictionary", "taken", "dictionary"]);
    refused(dir, &["rename", "dictionary", "mine", "taken"], "already");
    run(dir, &["rename", "dictionary", "mine", "new"]);
    assert_eq!(names(dir), ["new", "taken", "other"]);
    let new = DictionaryKey::new("new", "default");
    assert_eq!(store.analyses(&new).unwrap().len(), 2);

    // Nobody is there to be asked.
    refused(dir, &["remove", "dictionary", "new"], "say --yes");
    refused(dir, &["remove", "analysis", "new", "third", "--yes"], "default, second");
    assert_eq!(store.analyses(&new).unwrap().len(), 2);
    run(dir, &["remove", "analysis", "new", "second", "--yes"]);
    assert_eq!(store.analyses(&new).unwrap().len(), 1);
    run(dir, &["remove", "sae", "new", "-y"]);
    assert_eq!(names(dir), ["taken", "other"]);
    assert!(dir.join("moved/config.json").exists(), "weights stay");
}

#[test]
fn a_run_is_renamed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let run_in = |name: &str| {
        let metrics = dir.join(name).join("metrics.jsonl");
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::write(&metrics, "{\"step\":1}\n").unwrap();
        let old = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().append(true).open(&metrics).unwrap().set_modified(old).unwrap();
    };
    run_in("results/a");
    run_in("results/b");
    refused(dir, &["rename", "run", "results/a", "b"], "there already");
    refused(dir, &["rename", "run", "results/a", "../a"], "one name");
    refused(dir, &["remove", "run", "results"], "metrics.jsonl");
    run(dir, &["rename", "run", "results/a", "c"]);
    refused(dir, &["remove", "run", "results/c"], "say --yes");
    run(dir, &["remove", "run", "results/c", "--yes"]);
    let left: Vec<_> = fs::read_dir(dir.join("results")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["b"]);
}

#[test]
fn output_tokens_are_read_for_an_analysis_that_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    saved(dir, 0.5);
    let model = tiny::model(dir).display().to_string();
    run(dir, &["create", "dictionary", "mine", "dictionary"]);
    refused(dir, &["dla", "mine"], "no analysis yet");
    let address = dir.join("lm-saes.db").display().to_string();
    let store = store::open(&address).unwrap();
    let key = DictionaryKey::new("mine", "default");
    analysed(&*store, &key, "default", json!({}));
    refused(dir, &["dla", "mine"], "--model");
    refused(dir, &["dla", "mine", "--model", &model, "--top-k", "0"], "top_k");
    run(dir, &["dla", "mine", "--model", &model, "--top-k", "3", "--device", "cpu"]);
    for feature in 0..24 {
        let f = store.feature(&key, "default", feature).unwrap().unwrap().analysis;
        let logits = f.logits.unwrap();
        assert_eq!((logits.top_positive.len(), logits.top_negative.len()), (3, 3));
        let down = logits.top_positive.windows(2).all(|w| w[0].logit >= w[1].logit);
        assert!(down && logits.top_positive[0].logit > logits.top_negative[0].logit, "feature {feature}");
    }
    // A settings file with the reference system's names.
    let file = json!({
        "sae": {"pretrained_name_or_path": "dictionary"}, "sae_name": "mine", "sae_series": "default",
        "model": {"model_name": "tiny", "model_from_pretrained_path": model},
        "direct_logit_attributor": {"top_k": 5}, "device_type": "cpu",
    });
    fs::write(dir.join("dla.json"), file.to_string()).unwrap();
    let told: Value = serde_json::from_str(&run(dir, &["dla", "dla.json", "--json"])).unwrap();
    assert_eq!((&told["top_k"], &told["features"]), (&json!(5), &json!(24)));
    let f = store.feature(&key, "default", 7).unwrap().unwrap().analysis;
    assert_eq!(f.logits.unwrap().top_positive.len(), 5);
}
