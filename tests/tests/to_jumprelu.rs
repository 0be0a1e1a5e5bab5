//! The conversion job: from a trained dictionary's folder to one with fixed thresholds, measured on text of its own.

use lm_saes::{
    dictionary::checkpoint::{self, LoadOptions},
    runners::{self, Start},
    settings::{ActFn, EvaluateSettings, load_evaluation},
    training::Silent,
};
use lm_saes_backends::registry;
use lm_saes_tests::{queue, tiny};
use std::path::Path;

/// Trains a small dictionary into `dir/out` and returns its settings file.
fn trained(dir: &Path, more: &[&str]) -> std::path::PathBuf {
    tiny::world(dir, 60);
    let mut all = vec!["eval=false", "trainer.total_training_tokens=6400"];
    all.extend(more);
    let tree = tiny::job(dir, "out", &all);
    let settings = lm_saes::settings::from_tree(&tree).unwrap();
    runners::train(&settings, &registry(), &mut Silent, Start::Overwrite).unwrap();
    let path = dir.join("train.json");
    std::fs::write(&path, tree.to_string()).unwrap();
    path
}

fn conversion(path: &Path) -> EvaluateSettings {
    load_evaluation(path, None, &["eval.total_eval_tokens=1000".to_string()]).unwrap()
}

#[test]
fn a_trained_dictionary_keeps_its_l0_on_text_its_thresholds_were_not_chosen_on() {
    for act_fn in ["topk", "batchtopk"] {
        let dir = tempfile::tempdir().unwrap();
        let set = format!("sae.act_fn={act_fn}");
        let settings = conversion(&trained(dir.path(), &[&set]));
        let out = dir.path().join("converted");
        let r = runners::to_jumprelu(&settings, &out, 2000, &registry(), &mut Silent).unwrap();
        let value = |q: &lm_saes::training::evaluate::Quality, key: &str| q.get(key).unwrap();
        let (before, after) = (value(&r.before, "metrics/l0"), value(&r.after, "metrics/l0"));
        assert!((before - 8.0).abs() < 1.0 && (after / before - 1.0).abs() < 0.1, "{before} {after}");
        let [was, is] = [&r.before, &r.after].map(|q| value(q, "metrics/explained_variance"));
        assert!((was - is).abs() < 0.1, "{was} {is}");
        assert!(r.before.tokens == r.after.tokens && r.tokens >= 2000 && r.thresholds.len() == 1);
        let q = &mut queue();
        let loaded = checkpoint::load(q, &out, LoadOptions { strict: true, fold: false }).unwrap();
        assert_eq!(loaded.dictionary.settings().act_fn(), ActFn::JumpRelu);
        // How its activations are made travels on, and where it comes from.
        assert_eq!(loaded.extras["converted"]["act_fn"], act_fn);
        assert!(loaded.extras.contains_key("token_policy"));
        // The folder of a dictionary is enough, with text.
        let text = dir.path().join("text.txt");
        let again = load_evaluation(&dir.path().join("out"), Some(&text), &[]).unwrap();
        let plan = runners::plan_to_jumprelu(&again, &dir.path().join("other"), 10, &registry()).unwrap();
        assert!(plan.obstacles.is_empty() && plan.memory.iter().all(|m| m.bytes > 0), "{plan:?}");
    }
}

#[test]
fn what_cannot_be_converted_is_refused_before_anything_is_loaded_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = trained(dir.path(), &["sae.act_fn=relu", "sae.top_k=8"]);
    let out = dir.path().join("converted");
    let refusal = |settings: &EvaluateSettings, out: &Path, tokens: u64| {
        runners::to_jumprelu(settings, out, tokens, &registry(), &mut Silent).err().unwrap().to_string()
    };
    assert!(refusal(&conversion(&path), &out, 100).contains("no budget"));
    let settings = conversion(&trained(dir.path(), &["sae.act_fn=topk"]));
    assert!(refusal(&settings, &dir.path().join("out"), 100).contains("is there already"));
    assert!(refusal(&settings, &out, 0).contains("at least one token"));
    let mut short = settings.clone();
    short.eval.total_eval_tokens = 1_000_000_000;
    for source in &mut short.activation_factory.sources {
        if let lm_saes::settings::ActivationSource::Dataset(s) = source {
            s.repeat = false;
        }
    }
    assert!(refusal(&short, &out, 100).contains("eval.total_eval_tokens"));
    assert!(!out.exists());
}
