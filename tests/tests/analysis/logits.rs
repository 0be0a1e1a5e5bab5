//! Direct logit attribution as a job of its own gives what an analysis finds on the way, for every kind of dictionary that has
//! directions, and says why not for the others.

use super::variants::{LOGITS, MLP_IN, MLP_OUT, RESID, S, sae, world};
use lm_saes::{
    runners::{Start, analyze, attribute_logits},
    settings::{AnalyzeSettings, LogitSettings, from_tree},
    store::{self, Logits, Store},
    training::Silent,
};
use serde_json::{Value, json};

/// Analysed into a store of its own, with so many output tokens.
fn analysed(job: &AnalyzeSettings, name: &str, n_logits: usize) -> (Box<dyn Store>, Vec<String>, String) {
    let address = job.sae.pretrained_name_or_path.with_file_name(name).display().to_string();
    let mut job = AnalyzeSettings { store: Some(address.clone()), ..job.clone() };
    job.analyzer.n_logits = n_logits;
    let report = analyze(&job, &lm_saes_backends::registry(), &mut Silent, Start::Fresh).unwrap();
    let names = report.keys.into_iter().map(|k| k.name).collect();
    (store::open(&address).unwrap(), names, address)
}

fn settings(name: &str, more: Value) -> LogitSettings {
    let mut tree = json!({ "sae_name": name, "sae_series": "s", "device_type": "cpu",
                           "direct_logit_attributor": { "top_k": LOGITS } });
    more.as_object().unwrap().iter().for_each(|(key, value)| tree[key] = value.clone());
    from_tree(&tree).unwrap()
}

fn logits(store: &dyn Store, name: &str) -> Vec<Option<Logits>> {
    let key = store::DictionaryKey::new(name, "s");
    (0..S as u32).map(|f| store.feature(&key, "default", f).unwrap().unwrap().analysis.logits).collect()
}

fn check(dictionary: &Value) {
    let registry = lm_saes_backends::registry();
    let dir = tempfile::tempdir().unwrap();
    let job = world(dir.path(), dictionary);
    let (with, names, _) = analysed(&job, "with.db", LOGITS);
    let (without, same, _) = analysed(&job, "without.db", 0);
    assert_eq!(names, same);
    for (layer, name) in names.iter().enumerate() {
        let whose = format!("{} {name}", dictionary["sae_type"]);
        assert!(logits(&*without, name).iter().all(Option::is_none), "{whose}");
        let report = attribute_logits(&settings(name, json!({})), &*without, &registry, &mut Silent).unwrap();
        assert_eq!(report.features, S, "{whose}");
        assert_eq!(report.layer, (names.len() > 1).then_some(layer), "{whose}");
        let found = logits(&*without, name);
        assert_eq!(found, logits(&*with, name), "{whose}");
        assert!(found.iter().flatten().all(|l| l.top_positive.len() == LOGITS), "{whose}");
    }
}

#[test]
fn on_its_own_it_finds_what_an_analysis_finds() {
    check(&sae(json!({})));
    check(&sae(json!({
        "sae_type": "lorsa", "hook_point_in": "blocks.1.ln1.hook_normalized", "hook_point_out": "blocks.1.hook_attn_out",
        "n_qk_heads": 8, "d_qk_head": 12, "rotary_dim": 12, "rotary_adjacent_pairs": false, "n_ctx": 24,
    })));
    for kind in [
        json!({"sae_type": "crosscoder", "hook_points": RESID}),
        json!({"sae_type": "clt", "hook_points_in": MLP_IN, "hook_points_out": MLP_OUT}),
    ] {
        let mut all = sae(kind);
        all.as_object_mut().unwrap().retain(|key, _| key != "hook_point_in" && key != "hook_point_out");
        check(&all);
    }
}

#[test]
fn another_number_of_tokens_replaces_those_that_are_there_and_the_rest_stays() {
    let registry = lm_saes_backends::registry();
    let dir = tempfile::tempdir().unwrap();
    let (store, _, _) = analysed(&world(dir.path(), &sae(json!({}))), "one.db", LOGITS);
    let key = store::DictionaryKey::new("d", "s");
    let before = store.feature(&key, "default", 3).unwrap().unwrap();
    let two = settings("d", json!({ "direct_logit_attributor": { "top_k": 2 } }));
    attribute_logits(&two, &*store, &registry, &mut Silent).unwrap();
    let mut after = store.feature(&key, "default", 3).unwrap().unwrap();
    let (old, new) = (before.analysis.logits.clone().unwrap(), after.analysis.logits.clone().unwrap());
    assert_eq!(new.top_positive, old.top_positive[..2]);
    assert_eq!(new.top_negative, old.top_negative[..2]);
    after.analysis.logits = before.analysis.logits.clone();
    assert_eq!(after, before);
}

#[test]
fn what_cannot_be_read_out_is_refused_in_words() {
    let registry = lm_saes_backends::registry();
    let dir = tempfile::tempdir().unwrap();
    let refused = |s: &LogitSettings, store: &dyn Store, why: &str| {
        let e = attribute_logits(s, store, &registry, &mut Silent).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    };
    let molt = sae(json!({
        "sae_type": "molt", "hook_point_in": MLP_IN[1], "hook_point_out": MLP_OUT[1],
        "rank_counts": {"1": 8, "2": 10, "3": 6},
    }));
    let (store, ..) = analysed(&world(dir.path(), &molt), "molt.db", 0);
    refused(&settings("d", json!({})), &*store, "no one direction");
    refused(&settings("other", json!({})), &*store, "it has d (s)");
    refused(&settings("d", json!({ "analysis_name": "second" })), &*store, "it has default");
    refused(&settings("d", json!({ "analysis_file": "a.pkl" })), &*store, "analysis_file");
    let dir = tempfile::tempdir().unwrap();
    let mut clt = sae(json!({"sae_type": "clt", "hook_points_in": MLP_IN, "hook_points_out": MLP_OUT}));
    clt.as_object_mut().unwrap().retain(|key, _| key != "hook_point_in" && key != "hook_point_out");
    let (store, ..) = analysed(&world(dir.path(), &clt), "clt.db", 0);
    refused(&settings("d-L0", json!({ "layer_idx": 2 })), &*store, "0 to 1");
    assert!(logits(&*store, "d-L0").iter().all(Option::is_none), "nothing was written");
}
