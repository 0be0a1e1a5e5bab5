//! Dictionaries of other tools (SAELens, eai-sparsify, dictionary_learning), read from the files those tools wrote: their own
//! encodings and reconstructions of the same raw activations.

use lm_saes::{
    dictionary::Dictionary,
    hub::{Facts, Hub, OpenOptions, open, tensors::Tensors},
};
use lm_saes_runtime::Queue;
use lm_saes_tests::{
    apply,
    golden::{self, Case, Differences, Outcome},
    queue,
};
use serde_json::json;
use std::{path::Path, rc::Rc};

type Result<T> = std::result::Result<T, String>;

fn text<E: std::fmt::Display>(e: E) -> String {
    e.to_string()
}

/// A dictionary at a path of the case, with what its files do not say.
fn read(q: &mut Queue, path: &Path, facts: Facts) -> Result<Box<dyn Dictionary>> {
    let nowhere = Rc::new(Hub::new("http://127.0.0.1:9", Path::new("/nonexistent"), None, true));
    let options = OpenOptions { facts, ..OpenOptions::default() };
    Ok(open(q, &nowhere, &path.to_string_lossy(), &options).map_err(text)?.dictionary)
}

/// What the files of these cases leave out: dictionary_learning's say all, the transcoders' not what they reconstruct.
fn facts(case: &Case) -> Facts {
    let mut facts = Facts::default();
    if case.name.contains("transcoder") {
        facts.hook_out = Some("blocks.1.hook_mlp_out".into());
    }
    facts
}

fn check(case: &Case) -> Result<Outcome> {
    let q = &mut queue();
    let (inputs, expected) = (case.open("inputs.safetensors")?, case.open("expected.safetensors")?);
    let (shape, x) = inputs.f32("x").map_err(text)?;
    let temporal = case.name.starts_with("temporal");
    let context = temporal.then_some(shape[1]);
    let tolerance = case.tolerance("/tolerance")?;
    let folder = if case.has("run") { "run/layers.1" } else { "" };
    let mut differences = Differences::default();
    if case.has("ae_tensors.safetensors") {
        // The same tensors, as a reader of `.pt` has to return them.
        let (ours, theirs) =
            (Tensors::open(case.path("ae.pt")).map_err(text)?, case.open("ae_tensors.safetensors")?);
        for info in theirs.list() {
            if let Ok((shape, values)) = theirs.f32(&info.name) {
                differences.same(&info.name, ours.f32(&info.name).map_err(text)?, (shape, values));
            }
        }
    }
    let mut compare =
        |q: &mut Queue, folder: &str, facts: Facts, prefix: &str, y: &str, unit: bool| -> Result<()> {
            let mut d = read(q, &case.path(folder), facts)?;
            // Training checkpoints of batchtopk compute what they did in training; here they have to be told to.
            let of_training = prefix.is_empty() && case.name.starts_with("train_");
            d.running_thresholds_mut().select_by_batch(of_training);
            if unit {
                d.to_unit_decoder_norm(q).map_err(text)?;
            }
            let (codes, mut made) = apply(q, &mut *d, std::slice::from_ref(&x), context).map_err(text)?;
            let reconstructed = made.remove(0);
            for (name, got) in [("feature_acts", codes), (y, reconstructed)] {
                let name = format!("{prefix}{name}");
                let (_, want) = expected.f32(&name).map_err(text)?;
                differences.compare(&name, &got, &want, tolerance);
            }
            Ok(())
        };
    if case.name == "standard_expected_average" {
        // Without the factor the library warns and takes the weights as they are; here that has to be asked for.
        let refused = read(q, &case.path(""), facts(case)).err().unwrap_or_default();
        if !refused.contains("--norm-factor") {
            return Err(format!("a missing norm factor was not refused: {refused:?}"));
        }
        compare(q, "", Facts { lenient: true, ..facts(case) }, "", "reconstructed", false)?;
        let factor = case.number("/norm_scaling_factor/value")?;
        let known = Facts { norm_scaling_factor: Some(factor), ..facts(case) };
        compare(q, "", known, "norm_scaled.", "reconstructed", false)?;
    } else {
        // SAELens' decode leaves out a skip connection and what a temporal SAE predicts; its forward is the whole function.
        let y = if expected.contains("forward") { "forward" } else { "reconstructed" };
        compare(q, folder, facts(case), "", y, false)?;
    }
    if case.has("inference") && expected.contains("inference.feature_acts") {
        compare(q, "inference", facts(case), "inference.", "reconstructed", false)?;
        compare(q, "", facts(case), "inference.", "reconstructed", false)?;
    }
    if expected.contains("normalized_decoder.feature_acts") {
        compare(q, folder, facts(case), "normalized_decoder.", "reconstructed", true)?;
    }
    differences.outcome()
}

#[test]
fn golden_saelens_cases_agree() {
    golden::run("saelens", check);
}

/// Every key of SAELens' settings that changes the function, and one that nobody knows.
#[test]
fn what_a_saelens_dictionary_cannot_be_here_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden::discover();
    let Some(case) = source["saelens"].iter().find(|c| c.name == "standard_bdec") else { return };
    std::fs::copy(case.path("sae_weights.safetensors"), dir.path().join("sae_weights.safetensors")).unwrap();
    let text = std::fs::read_to_string(case.path("cfg.json")).unwrap();
    for (key, value, said) in [
        ("architecture", json!("jumpy"), "jumpy"),
        ("normalize_activations", json!("covariance_whitening"), "covariance_whitening"),
        ("normalize_activations", json!("unheard_of"), "unheard_of"),
        ("reshape_activations", json!("hook_q"), "hook_q"),
        ("dtype", json!("float64"), "float32"),
        ("new_secret", json!(3), "--lenient"),
        ("d_in", json!(0), "positive"),
        ("d_in", json!(17), "shape"),
    ] {
        let mut cfg: serde_json::Value = serde_json::from_str(&text).unwrap();
        cfg[key] = value;
        std::fs::write(dir.path().join("cfg.json"), cfg.to_string()).unwrap();
        let e = read(&mut queue(), dir.path(), Facts::default()).err().unwrap_or_default();
        let named = e.contains(key) || key == "d_in";
        assert!(e.contains(said) && named, "{key}: {e}");
    }
}
