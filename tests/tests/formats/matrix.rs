//! Every property a dictionary can have in every form that is written: it reads back as the same function at the same hook points,
//! or it is refused by its name before anything is written. A form never changes it in silence.

use super::{close, read, transcoder};
use lm_saes::{
    dictionary::{Dictionary, build, checkpoint::Loaded},
    hub::{Facts, Format, writers},
    settings::{DTypeName, DictionarySettings, NormActivation, from_tree},
};
use lm_saes_runtime::Queue;
use lm_saes_tests::{apply, noise, queue};
use serde_json::{Map, Value, json};

const D: usize = 8;
const ROWS: usize = 12;

/// A property, which forms say it (in the order of [`Format::NAMES`]), and what a refusal has to name.
struct Row {
    settings: Value,
    said: &'static str,
    word: &'static str,
    /// A threshold that a selection over the batch has learned.
    running: bool,
}

fn row(settings: Value, said: &'static str, word: &'static str) -> Row {
    Row { settings, said, word, running: false }
}

fn learned(settings: Value, said: &'static str, word: &'static str) -> Row {
    Row { running: true, ..row(settings, said, word) }
}

/// An SAE with `more` beside the usual.
fn sae(more: Value) -> Value {
    let mut v = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 2.5, "act_fn": "relu", "top_k": 5, "norm_activation": "inference",
        "sparsity_include_decoder_norm": false, "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    });
    more.as_object().unwrap().iter().for_each(|(key, value)| v[key] = value.clone());
    v
}

fn coder(more: Value) -> Value {
    sae(transcoder(more))
}

/// A dictionary of another kind: no hook points of its own.
fn other(more: Value) -> Value {
    let mut v = sae(more.clone());
    for key in ["hook_point_in", "hook_point_out"] {
        if more.get(key).is_none() {
            v.as_object_mut().unwrap().remove(key);
        }
    }
    v
}

fn rows() -> Vec<Row> {
    let at = |hook: &str| json!({"hook_point_in": hook, "hook_point_out": hook});
    let between = |hook_in: &str, hook_out: &str, act_fn: &str| {
        sae(json!({"hook_point_in": hook_in, "hook_point_out": hook_out, "act_fn": act_fn}))
    };
    let layers = |act_fn: &str| {
        other(json!({
            "sae_type": "clt", "act_fn": act_fn, "hook_points_in": ["blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"],
            "hook_points_out": ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"],
        }))
    };
    let matryoshka = json!({"sae_type": "matryoshka", "act_fn": "batchtopk", "widths": [8, 20]});
    // Of each row: this program's own form, the reference system's, SAELens', sparsify's, dictionary_learning's, circuit-tracer's.
    vec![
        row(sae(json!({})), "111.1.", "relu|hook_point"),
        row(sae(json!({"act_fn": "jumprelu"})), "111.1.", "jumprelu|hook_point"),
        row(
            sae(json!({"act_fn": "jumprelu", "use_direct_jumprelu_threshold": true})),
            "111.1.",
            "jumprelu|hook_point",
        ),
        row(sae(json!({"act_fn": "topk"})), "11111.", "topk"),
        row(sae(json!({"act_fn": "batchtopk"})), "11....", "batchtopk"),
        learned(sae(json!({"act_fn": "batchtopk"})), "111.1.", "batchtopk"),
        learned(
            sae(json!({"act_fn": "batchtopk", "batch_selection_at_inference": true})),
            "11....",
            "batchtopk",
        ),
        row(sae(json!({"act_fn": "abstopk"})), "1.1...", "abstopk"),
        row(sae(json!({"act_fn": "groupmax"})), "1..1..", "groupmax"),
        row(sae(json!({"apply_b_dec_to_input": true})), "111.1.", "relu|hook_point"),
        row(
            sae(json!({"apply_b_dec_to_input": true, "act_fn": "jumprelu"})),
            "111.1.",
            "jumprelu|hook_point",
        ),
        row(sae(json!({"apply_b_dec_to_input": true, "act_fn": "topk"})), "11111.", "topk"),
        row(sae(json!({"use_glu_encoder": true})), "11....", "use_glu_encoder"),
        row(sae(json!({"use_decoder_bias": false, "act_fn": "topk"})), "11111.", "topk"),
        row(sae(json!({"sparsity_include_decoder_norm": true})), "111.1.", "relu|hook_point"),
        row(
            sae(json!({"sparsity_include_decoder_norm": true, "act_fn": "jumprelu"})),
            "111.1.",
            "jumprelu|hook_point",
        ),
        row(
            sae(json!({"sparsity_include_decoder_norm": true, "act_fn": "topk"})),
            "11....",
            "sparsity_include_decoder_norm|topk",
        ),
        row(sae(json!({"norm_activation": "token-wise", "act_fn": "topk"})), "111...", "norm_activation"),
        row(sae(json!({"norm_activation": "batch-wise", "act_fn": "topk"})), "11....", "norm_activation"),
        row(sae(json!({"norm_activation": "layer-norm", "act_fn": "topk"})), "1.1...", "norm_activation"),
        row(sae(json!({"norm_activation": "dataset-wise", "act_fn": "topk"})), "11111.", "topk"),
        row(sae(matryoshka.clone()), "1.....", "matryoshka|batchtopk"),
        learned(sae(matryoshka), "1.1.1.", "matryoshka|batchtopk"),
        row(sae(json!({"sae_type": "gated"})), "1.1.1.", "gated|hook_point"),
        row(sae(json!({"sae_type": "gated", "apply_b_dec_to_input": false})), "1.1.1.", "gated|hook_point"),
        row(coder(json!({})), "111..1", "relu|transcoder"),
        row(coder(json!({"act_fn": "jumprelu"})), "111..1", "jumprelu|transcoder"),
        row(coder(json!({"act_fn": "topk"})), "11.1..", "topk|transcoder"),
        row(coder(json!({"use_skip_connection": true})), "1.1..1", "use_skip_connection|relu|transcoder"),
        row(
            coder(json!({"use_skip_connection": true, "act_fn": "topk"})),
            "1..1..",
            "use_skip_connection|topk|transcoder",
        ),
        row(coder(json!({"d_out": 6})), "1.1...", "d_out|relu|transcoder"),
        row(coder(json!({"norm_activation": "token-wise"})), "11....", "norm_activation"),
        row(coder(json!({"norm_activation": "dataset-wise"})), "111..1", "relu|transcoder"),
        row(coder(json!({"sae_type": "gated", "apply_b_dec_to_input": false})), "1.....", "gated|transcoder"),
        row(sae(at("blocks.3.hook_resid_pre")), "111.1.", "relu|hook_point"),
        row(sae(at("blocks.3.attn.hook_z")), "111.1.", "relu|hook_point"),
        row(sae(at("hook_embed")), "111.1.", "relu|hook_point"),
        row(with(at("blocks.3.hook_resid_mid"), json!({"act_fn": "topk"})), "11111.", "topk"),
        row(with(at("hook_embed"), json!({"act_fn": "topk"})), "11111.", "topk"),
        row(
            between("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out", "relu"),
            "111..1",
            "relu|transcoder",
        ),
        row(
            between("blocks.3.hook_resid_mid", "blocks.4.hook_mlp_out", "relu"),
            "111...",
            "relu|transcoder|blocks.",
        ),
        row(
            between("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out", "topk"),
            "11....",
            "topk|hook_normalized|transcoder",
        ),
        row(
            between("blocks.3.hook_resid_mid", "blocks.4.hook_mlp_out", "topk"),
            "11....",
            "topk|hook_resid_mid|transcoder",
        ),
        row(layers("relu"), "11...1", "clt"),
        row(layers("jumprelu"), "11...1", "clt"),
        row(layers("topk"), "11....", "clt|topk"),
        row(
            other(
                json!({"sae_type": "crosscoder", "sparsity_include_decoder_norm": true, "hook_points": ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]}),
            ),
            "11....",
            "crosscoder",
        ),
        row(
            coder(
                json!({"sae_type": "lorsa", "act_fn": "topk", "expansion_factor": 3, "n_qk_heads": 4, "d_qk_head": 4, "n_ctx": 4,
                         "rotary_dim": 4}),
            ),
            "11....",
            "lorsa",
        ),
        row(
            coder(json!({"sae_type": "molt", "expansion_factor": 2, "rank_counts": {"1": 8, "3": 8}})),
            "11....",
            "molt",
        ),
        row(
            sae(json!({"sae_type": "matching_pursuit", "residual_threshold": 0.1, "max_iterations": 3,
                       "stop_on_duplicate_support": true})),
            "1.....",
            "matching_pursuit",
        ),
        row(
            sae(
                json!({"sae_type": "temporal", "act_fn": "topk", "expansion_factor": 2, "n_heads": 2, "n_attn_layers": 1,
                       "bottleneck_factor": 2, "tied_weights": true, "apply_b_dec_to_input": true, "input_scale": 0.5}),
            ),
            "1.....",
            "temporal",
        ),
    ]
}

fn with(mut a: Value, b: Value) -> Value {
    a.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
    sae(a)
}

/// The dictionary of a row, with nothing at 0.
fn made(q: &mut Queue, row: &Row) -> Loaded {
    let mut settings = row.settings.clone();
    let map = settings.as_object_mut().unwrap();
    if map["sae_type"] == "crosscoder" || map["sae_type"] == "clt" {
        map.remove("hook_point_in");
        map.remove("hook_point_out");
    }
    let settings: DictionarySettings = from_tree(&settings).unwrap_or_else(|e| panic!("{settings}: {e}"));
    let mut dictionary = build(q, &settings).unwrap_or_else(|e| panic!("{settings:?}: {e}"));
    for (i, p) in dictionary.params_mut().into_iter().enumerate() {
        let (size, level) = match p.name.as_str() {
            name if name.contains("log_jumprelu") => (0.4, -1.5),
            name if name.contains("threshold") => (0.1, 0.3),
            _ => (0.5, 0.0),
        };
        let values: Vec<f32> = noise(70 + i as u64, p.value.len()).iter().map(|v| size * v + level).collect();
        q.upload(&values, &mut p.value).unwrap();
    }
    if settings.norm_activation() == NormActivation::DatasetWise {
        let hooks = [dictionary.hook_points_in(), dictionary.hook_points_out()].concat();
        dictionary.set_norms(hooks.into_iter().enumerate().map(|(i, h)| (h, 2.0 + i as f32)).collect());
    }
    if row.running {
        assert!(dictionary.running_thresholds_mut().set(Some(vec![0.4])));
    }
    Loaded { dictionary, extras: Map::from_iter([("model_name".to_string(), json!("some/model"))]) }
}

type Function = (Vec<f32>, Vec<Vec<f32>>, Vec<String>, Vec<String>);

/// Activations, reconstructions and hook points.
fn function(q: &mut Queue, d: &mut dyn Dictionary) -> Function {
    let hooks = (d.hook_points_in(), d.hook_points_out());
    let xs: Vec<Vec<f32>> = (0..hooks.0.len()).map(|l| noise(7 + l as u64, ROWS * D)).collect();
    let (codes, ys) = apply(q, d, &xs, Some(4)).unwrap();
    (codes, ys, hooks.0, hooks.1)
}

#[test]
fn every_property_is_kept_by_a_form_or_refused_by_its_name() {
    let q = &mut queue();
    let mut wrong = Vec::new();
    for row in rows() {
        for ((name, format), said) in Format::NAMES.into_iter().zip(row.said.chars()) {
            let what =
                format!("{name}: {}{}", row.settings, if row.running { " with a threshold" } else { "" });
            let mut loaded = made(q, &row);
            let before = function(q, &mut *loaded.dictionary);
            assert!(before.0.iter().any(|c| *c != 0.0), "{what}: nothing is active");
            let dir = tempfile::tempdir().unwrap();
            match writers::write(q, &mut loaded, dir.path(), format, DTypeName::F32) {
                Err(e) => {
                    let text = e.to_string();
                    let named = row.word.split('|').any(|word| text.contains(word));
                    let nothing = std::fs::read_dir(dir.path()).unwrap().count() == 0;
                    if said == '1' || !named || !nothing {
                        wrong.push(format!(
                            "{what}: refused (named {named}, nothing written {nothing}): {text}"
                        ));
                    }
                }
                Ok(_) if said != '1' => wrong.push(format!("{what}: written, though the form cannot say it")),
                Ok(path) => match read(q, &path, Facts::default()) {
                    Err(e) => wrong.push(format!("{what}: written and not read again: {e}")),
                    Ok(mut back) => {
                        let after = function(q, &mut *back.dictionary);
                        if (&after.2, &after.3) != (&before.2, &before.3) {
                            wrong.push(format!("{what}: hook points became {:?} {:?}", after.2, after.3));
                        }
                        // With norms of a data set in the weights activations are those of raw inputs; what they make is the same.
                        let folded = row.settings["norm_activation"] == "dataset-wise"
                            && name != "lm-saes"
                            && name != "upstream";
                        if !folded {
                            close(&what, &after.0, &before.0, 2e-5);
                        }
                        after.1.iter().zip(&before.1).for_each(|(a, b)| close(&what, a, b, 2e-5));
                        if back.extras.get("model_name") != Some(&json!("some/model")) {
                            wrong.push(format!(
                                "{what}: the model became {:?}",
                                back.extras.get("model_name")
                            ));
                        }
                    }
                },
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the table are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
