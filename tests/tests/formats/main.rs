//! Dictionaries in other tools' forms: read from files that NumPy, PyTorch and safetensors wrote (`tests/foreign/make.py`), written
//! by us and read again. What a form cannot say is refused by name.

mod matrix;

use lm_saes::{
    dictionary::{RandomInit, build, checkpoint::Loaded},
    hub::{Facts, Format, Hub, OpenOptions, open, writers},
    settings::{DTypeName, DictionarySettings},
    tensorfile::TensorFile,
};
use lm_saes_runtime::Queue;
use lm_saes_tests::{apply, noise, queue};
use serde_json::{Map, Value, json};
use std::{path::Path, rc::Rc};

fn read(q: &mut Queue, path: &Path, facts: Facts) -> lm_saes::Result<Loaded> {
    let nowhere = Rc::new(Hub::new("http://127.0.0.1:9", Path::new("/nonexistent"), None, true));
    open(q, &nowhere, &path.to_string_lossy(), &OpenOptions { facts, ..OpenOptions::default() })
}

fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: {i} is {g} instead of {w}");
    }
}

#[test]
fn files_of_the_original_libraries_compute_what_those_formulas_do() {
    let q = &mut queue();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign");
    for (path, file, hooks) in [
        ("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_5", "", ["blocks.3.hook_resid_post"; 2]),
        ("google/gemma-scope-9b-pt-res/embedding/width_4k/average_l0_6", "", ["hook_embed"; 2]),
        (
            "google/gemma-scope-2-1b-pt/transcoder/layer_7_width_16k_l0_small_affine",
            "",
            ["blocks.7.mlp.hook_in", "blocks.7.hook_mlp_out"],
        ),
        ("fnlp/Llama3_1-8B-Base-L15R-8x", "", ["blocks.15.hook_resid_post"; 2]),
        ("gpt2/resid_post_mlp_v5_32k/autoencoders", "7.pt", ["blocks.7.hook_resid_post"; 2]),
        (
            "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            ["blocks.19.hook_resid_post"; 2],
        ),
        ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4", "layer2.sae.pt", ["blocks.2.hook_resid_post"; 2]),
        ("ckkissane/attn-saes-gpt2-small-all-layers", "gpt2_L0_z.pt", ["blocks.0.attn.hook_z"; 2]),
        ("mwhanna/transcoders", "layer_4.safetensors", ["blocks.4.mlp.hook_in", "blocks.4.hook_mlp_out"]),
        ("mntss/clt", "", ["blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out"]),
        (
            "google/gemma-scope-2-270m-pt/clt/width_1k_l0_small",
            "",
            ["blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"],
        ),
        (
            "google/gemma-scope-2-1b-pt/crosscoder/layer_7_13_22_width_1k_l0_medium",
            "",
            ["blocks.7.hook_resid_post"; 2],
        ),
    ] {
        let folder = root.join(path);
        let place = if file.is_empty() { folder.clone() } else { folder.join(file) };
        let mut loaded = read(q, &place, Facts::default()).unwrap_or_else(|e| panic!("{path}: {e}"));
        let d = &mut *loaded.dictionary;
        assert_eq!([&d.hook_points_in()[0], &d.hook_points_out()[0]], hooks, "{path}");
        if path.contains("crosscoder") {
            assert_eq!(d.hook_points_in()[1..], ["blocks.13.hook_resid_post", "blocks.22.hook_resid_post"]);
            assert_eq!(loaded.extras["model_name"], "google/gemma-3-1b-pt");
        }
        let expected = TensorFile::open(folder.join("expected.safetensors")).unwrap();
        let get = |name: &str| expected.f32(name).unwrap().1;
        let layers = d.hook_points_in().len();
        let x = get("x");
        let xs: Vec<Vec<f32>> = x.chunks(x.len() / layers).map(<[f32]>::to_vec).collect();
        let (codes, ys) = apply(q, d, &xs, None).unwrap();
        close(path, &codes, &get("feature_acts"), 2e-5);
        let want = get("reconstructed");
        let width = d.settings().d_model();
        for (l, y) in ys.iter().enumerate() {
            let rows = want.chunks(width).enumerate().filter(|(i, _)| i % layers == l);
            let want: Vec<f32> = rows.flat_map(|(_, row)| row.to_vec()).collect();
            close(path, y, &want, 2e-5);
        }
    }
}

const D: usize = 8;

fn settings(extra: Value) -> DictionarySettings {
    let mut v = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 2.5, "act_fn": "topk", "top_k": 5, "norm_activation": "inference",
        "sparsity_include_decoder_norm": false, "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
    });
    extra.as_object().unwrap().iter().for_each(|(k, value)| v[k] = value.clone());
    serde_json::from_value(v).unwrap_or_else(|e| panic!("{e}"))
}

/// A dictionary with nothing at 0.
fn filled(q: &mut Queue, extra: Value) -> Loaded {
    let settings = settings(extra);
    let mut dictionary = build(q, &settings).unwrap();
    let init =
        RandomInit { seed: 3, encoder_bound: 0.4, decoder_bound: 0.4, log_jumprelu_threshold: Some(-2.0) };
    dictionary.init_random(q, &init).unwrap();
    for (i, p) in dictionary.params_mut().into_iter().enumerate() {
        let vector = p.shape.len() == 1;
        if vector || p.name == "W_skip" {
            let level = match p.name.as_str() {
                name if name.contains("log_jumprelu") => -2.0,
                name if name.contains("threshold") => 0.4,
                _ => 0.0,
            };
            let values: Vec<f32> =
                noise(50 + i as u64, p.value.len()).iter().map(|v| 0.3 * v + level).collect();
            q.upload(&values, &mut p.value).unwrap();
        }
    }
    let extras = Map::from_iter([("model_name".to_string(), json!("some/model"))]);
    Loaded { dictionary, extras }
}

fn transcoder(extra: Value) -> Value {
    let mut v = json!({"hook_point_in": "blocks.3.mlp.hook_in", "hook_point_out": "blocks.3.hook_mlp_out"});
    extra.as_object().unwrap().iter().for_each(|(k, value)| v[k] = value.clone());
    v
}

#[test]
fn what_is_written_in_another_form_reads_back_as_the_same_function() {
    let q = &mut queue();
    let centred = |extra: Value| {
        let mut v = extra;
        v["apply_b_dec_to_input"] = json!(true);
        v
    };
    let relu = json!({"act_fn": "relu"});
    let jump = json!({"act_fn": "jumprelu", "use_direct_jumprelu_threshold": true});
    let gated_jump = json!({"act_fn": "jumprelu", "sparsity_include_decoder_norm": true});
    let topk = json!({});
    let gated = json!({"sae_type": "gated", "act_fn": "relu"});
    let clt = json!({
        "sae_type": "clt", "act_fn": "jumprelu", "hook_points_in": ["blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"],
        "hook_points_out": ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"],
    });
    let skip = json!({"act_fn": "jumprelu", "use_skip_connection": true});
    let cases = [
        (
            Format::Upstream,
            vec![
                relu.clone(),
                centred(relu.clone()),
                centred(jump.clone()),
                gated_jump.clone(),
                topk.clone(),
                clt.clone(),
            ],
        ),
        (
            Format::SaeLens,
            vec![
                relu.clone(),
                centred(jump.clone()),
                gated_jump.clone(),
                centred(topk.clone()),
                json!({"act_fn": "abstopk"}),
                gated.clone(),
                json!({"norm_activation": "layer-norm"}),
                json!({"norm_activation": "token-wise"}),
                transcoder(relu.clone()),
                transcoder(skip.clone()),
                transcoder(json!({"act_fn": "relu", "d_out": 6})),
            ],
        ),
        (
            Format::Sparsify,
            vec![
                topk.clone(),
                centred(topk.clone()),
                json!({"act_fn": "groupmax"}),
                transcoder(json!({"use_skip_connection": true})),
            ],
        ),
        (
            Format::DictionaryLearning,
            vec![
                relu.clone(),
                centred(relu.clone()),
                centred(jump.clone()),
                jump.clone(),
                topk.clone(),
                centred(topk),
                gated,
            ],
        ),
        (Format::CircuitTracer, vec![transcoder(relu), transcoder(skip), clt]),
    ];
    for (format, all) in cases {
        for mut extra in all {
            if extra["sae_type"] == "clt" {
                extra["hook_point_in"] = json!(null);
            }
            let what = format!("{format:?} {extra}");
            let mut loaded = match extra["sae_type"] == "clt" {
                true => filled_clt(q, extra),
                false => filled(q, extra),
            };
            let dir = tempfile::tempdir().unwrap();
            let layers = loaded.dictionary.hook_points_in().len();
            let xs: Vec<Vec<f32>> = (0..layers).map(|l| noise(7 + l as u64, 12 * D)).collect();
            let (codes, ys) = apply(q, &mut *loaded.dictionary, &xs, None).unwrap();
            assert!(codes.iter().any(|c| *c != 0.0), "{what}: nothing is active");
            let path = writers::write(q, &mut loaded, dir.path(), format, DTypeName::F32)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut back = read(q, &path, Facts::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let d = &mut *back.dictionary;
            assert_eq!(d.hook_points_in(), loaded.dictionary.hook_points_in(), "{what}");
            assert_eq!(d.hook_points_out(), loaded.dictionary.hook_points_out(), "{what}");
            assert_eq!(back.extras["model_name"], "some/model", "{what}");
            let (again, made) = apply(q, d, &xs, None).unwrap();
            close(&what, &again, &codes, 1e-5);
            for (a, b) in made.iter().zip(&ys) {
                close(&what, a, b, 1e-5);
            }
        }
    }
}

fn filled_clt(q: &mut Queue, mut extra: Value) -> Loaded {
    extra.as_object_mut().unwrap().remove("hook_point_in");
    let mut v = serde_json::to_value(settings(json!({}))).unwrap();
    for key in ["hook_point_in", "hook_point_out", "use_glu_encoder"] {
        v.as_object_mut().unwrap().remove(key);
    }
    extra.as_object().unwrap().iter().for_each(|(k, value)| v[k] = value.clone());
    let settings: DictionarySettings = serde_json::from_value(v).unwrap_or_else(|e| panic!("{e}"));
    let mut dictionary = build(q, &settings).unwrap();
    for (i, p) in dictionary.params_mut().into_iter().enumerate() {
        let log = p.name.contains("log_jumprelu");
        let values: Vec<f32> = noise(90 + i as u64, p.value.len())
            .iter()
            .map(|v| if log { 0.5 * v - 1.5 } else { 0.5 * v })
            .collect();
        q.upload(&values, &mut p.value).unwrap();
    }
    Loaded { dictionary, extras: Map::from_iter([("model_name".to_string(), json!("some/model"))]) }
}

#[test]
fn what_a_form_cannot_say_is_refused_by_name_before_anything_is_written() {
    let q = &mut queue();
    for (format, extra, said) in [
        (Format::SaeLens, json!({"act_fn": "batchtopk"}), "batchtopk"),
        (Format::SaeLens, json!({"act_fn": "groupmax"}), "groupmax"),
        (Format::SaeLens, json!({"use_glu_encoder": true}), "use_glu_encoder"),
        (Format::SaeLens, json!({"norm_activation": "batch-wise"}), "batch-wise"),
        (Format::SaeLens, json!({"sparsity_include_decoder_norm": true}), "--unit-decoder-norm"),
        (Format::SaeLens, transcoder(json!({})), "topk"),
        (
            Format::SaeLens,
            transcoder(json!({"act_fn": "relu", "norm_activation": "token-wise"})),
            "norm_activation",
        ),
        (Format::Sparsify, json!({"act_fn": "relu"}), "relu"),
        (Format::Sparsify, json!({"norm_activation": "token-wise"}), "token-wise"),
        (Format::Sparsify, transcoder(json!({"d_out": 4})), "d_out"),
        (Format::DictionaryLearning, transcoder(json!({})), "transcoder"),
        (Format::DictionaryLearning, json!({"act_fn": "batchtopk"}), "batchtopk"),
        (Format::CircuitTracer, json!({"act_fn": "relu"}), "hook_point_in = hook_point_out"),
        (Format::CircuitTracer, transcoder(json!({})), "topk"),
        (Format::Upstream, json!({"act_fn": "abstopk"}), "abstopk"),
        (Format::Upstream, json!({"norm_activation": "layer-norm"}), "layer-norm"),
        (Format::Upstream, json!({"sae_type": "gated", "act_fn": "relu"}), "gated"),
        (Format::Upstream, transcoder(json!({"use_skip_connection": true})), "use_skip_connection"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut loaded = filled(q, extra.clone());
        let e = writers::write(q, &mut loaded, dir.path(), format, DTypeName::F32).unwrap_err().to_string();
        assert!(e.contains(said), "{format:?} {extra}: {e}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{format:?} {extra}");
    }
}

#[test]
fn a_selection_by_decoder_norms_is_written_once_the_rows_have_norm_1() {
    let q = &mut queue();
    let mut loaded = filled(q, json!({"sparsity_include_decoder_norm": true}));
    let x = [noise(4, 12 * D)];
    let (_, before) = apply(q, &mut *loaded.dictionary, &x, None).unwrap();
    loaded.dictionary.to_unit_decoder_norm(q).unwrap();
    let dir = tempfile::tempdir().unwrap();
    writers::write(q, &mut loaded, dir.path(), Format::SaeLens, DTypeName::F32).unwrap();
    let mut back = read(q, dir.path(), Facts::default()).unwrap();
    let (_, after) = apply(q, &mut *back.dictionary, &x, None).unwrap();
    close("reconstruction", &after[0], &before[0], 1e-5);
}

#[test]
fn numbers_of_64_bits_are_taken_only_where_they_are_exact() {
    let q = &mut queue();
    let mut loaded = filled(q, json!({"act_fn": "relu"}));
    let dir = tempfile::tempdir().unwrap();
    writers::write(q, &mut loaded, dir.path(), Format::SaeLens, DTypeName::F32).unwrap();
    let path = dir.path().join("sae_weights.safetensors");
    let weights = TensorFile::open(&path).unwrap();
    let wide = |value: f64| {
        let mut tensors = std::collections::BTreeMap::new();
        let names: Vec<String> = weights.list().into_iter().map(|t| t.name).collect();
        for name in names {
            let (shape, values) = weights.f32(&name).unwrap();
            let first = if name == "b_enc" { value } else { f64::from(values[0]) };
            let values = std::iter::once(first).chain(values[1..].iter().map(|v| f64::from(*v)));
            tensors.insert(name, (shape, values.flat_map(f64::to_le_bytes).collect::<Vec<u8>>()));
        }
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, (shape, bytes))| {
                let view =
                    safetensors::tensor::TensorView::new(safetensors::Dtype::F64, shape.clone(), bytes);
                (name.clone(), view.unwrap())
            })
            .collect();
        safetensors::serialize(views, None).unwrap()
    };
    let (exact, inexact) = (wide(0.25), wide(0.1));
    std::fs::write(&path, exact).unwrap();
    read(q, dir.path(), Facts::default()).unwrap();
    std::fs::write(&path, inexact).unwrap();
    let e = read(q, dir.path(), Facts::default()).err().unwrap().to_string();
    assert!(e.contains("b_enc") && e.contains("float32"), "{e}");
}
