//! Properties of Lorsa dictionaries that need no stored values: folding, patterns, checkpoints, contexts, starting values.

use lm_saes::{
    dictionary::{
        Coefficients, DeadFeatures, Dictionary, ModelAttention, ModelParts, RandomInit, StepInput, build,
        checkpoint::{self, LoadOptions},
    },
    lm::{Lm, Positions, Rotary, RotaryScaling, Run, Tokens},
    runners::{self, Start, TrainReport},
    settings::{DTypeName, DictionarySettings, LanguageModelSettings},
    tensorfile::TensorFile,
    training::{LossSettings, Silent, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, Queue, RandomKind, Tensor};
use lm_saes_tests::{dense_codes, golden, queue, tiny};
use serde_json::{Map, Value, json};
use std::path::Path;

const D: usize = 12;
const S: usize = 36;
const K: usize = 5;
const LEN: usize = 10;
const ROWS: usize = 4 * LEN;
const ACTIVATIONS: [&str; 4] = ["relu", "jumprelu", "topk", "batchtopk"];

fn settings(change: Value) -> DictionarySettings {
    let mut all = json!({
        "sae_type": "lorsa", "d_model": D, "expansion_factor": 3.0, "hook_point_in": "a.in", "hook_point_out": "b.out",
        "act_fn": "topk", "top_k": K, "n_qk_heads": 6, "d_qk_head": 4, "rotary_dim": 4, "n_ctx": 16,
    });
    for (key, value) in change.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

fn random(q: &mut Queue, rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut t = q.empty(rows, cols, DType::F32).unwrap();
    q.random(RandomKind::Normal, (0.0, 1.0), seed, 0, &mut t).unwrap();
    t
}

/// A dictionary in which every parameter is random and the two hook points have different norms.
fn scrambled(q: &mut Queue, settings: &DictionarySettings) -> Box<dyn Dictionary> {
    let mut d = build(q, settings).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.5), 7 + i as u64, 0, &mut p.value).unwrap();
    }
    d.set_norms([("a.in".to_string(), 2.5), ("b.out".to_string(), 0.7)].into());
    d
}

fn plan(d: &mut dyn Dictionary, q: &Queue, rows: usize, loss: Option<&LossSettings>) {
    let mut planned = Arena::planning("step");
    d.plan(&mut planned, rows, K, loss).unwrap();
    let mut arena = Arena::build(&planned, q.device()).unwrap();
    d.plan(&mut arena, rows, K, loss).unwrap();
    assert_eq!(planned.used(), arena.used());
}

/// Codes and reconstruction of inputs `x`, contexts of [`LEN`].
fn apply(q: &mut Queue, d: &mut dyn Dictionary, x: &Tensor) -> (Vec<f32>, Vec<f32>) {
    plan(d, q, x.rows(), None);
    d.forward(q, &[x.view()], Some(LEN), K).unwrap();
    (dense_codes(q, d.codes()), q.download(d.reconstruction()[0]).unwrap())
}

fn scaled(q: &mut Queue, x: &Tensor, factor: f32) -> Tensor {
    let host: Vec<f32> = q.download(x).unwrap();
    let host: Vec<f32> = host.iter().map(|v| v * factor).collect();
    q.tensor(x.rows(), x.cols(), &host).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn value(q: &mut Queue, d: &dyn Dictionary, name: &str) -> Vec<f32> {
    let all = d.params();
    let p = all.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"));
    q.download(&p.value).unwrap()
}

#[test]
fn defect_1_folding_is_exact_for_every_activation_also_jumprelu_with_gating_and_without_a_decoder_bias() {
    let mut q = queue();
    let raw = random(&mut q, ROWS, D, 1);
    let root = (D as f32).sqrt();
    for act_fn in ACTIVATIONS {
        for gating in [true, false] {
            for (bias, norm) in [(true, false), (false, true)] {
                let settings = settings(json!({
                    "act_fn": act_fn, "sparsity_include_decoder_norm": gating, "use_decoder_bias": bias,
                    "use_post_qk_ln": norm, "normalization_type": "RMS",
                }));
                let mut d = scrambled(&mut q, &settings);
                let x = scaled(&mut q, &raw, root / 2.5);
                let (codes, before) = apply(&mut q, &mut *d, &x);
                let before: Vec<f32> = before.iter().map(|v| v * 0.7 / root).collect();
                d.fold(&mut q).unwrap();
                let (folded_codes, after) = apply(&mut q, &mut *d, &raw);
                assert!(largest_difference(&before, &after) < 2e-5, "{settings:?}");
                // z keeps the scale of training.
                assert!(largest_difference(&codes, &folded_codes) < 2e-5, "{settings:?}");
                assert!(codes.iter().any(|&c| c > 0.0), "{settings:?}: nothing was active");
            }
        }
    }
}

#[test]
fn defect_11_z_patterns_add_up_to_pre_activations_also_with_one_feature_a_qk_head() {
    let mut q = queue();
    let x = random(&mut q, LEN, D, 3);
    let features: Vec<usize> = (0..S).rev().collect();
    for n_qk_heads in [S, 6, 1] {
        let mut d = scrambled(&mut q, &settings(json!({"act_fn": "relu", "n_qk_heads": n_qk_heads})));
        let (codes, _) = apply(&mut q, &mut *d, &x);
        let patterns = d.z_patterns(&mut q, x.view(), &features).unwrap();
        for (&i, pattern) in features.iter().zip(&patterns) {
            let z: Vec<f32> = q.download(pattern).unwrap();
            for t in 0..LEN {
                let row = &z[t * LEN..(t + 1) * LEN];
                let sum = row.iter().sum::<f32>().max(0.0);
                assert!((sum - codes[t * S + i]).abs() < 1e-5, "{n_qk_heads} heads, z[{t}, {i}]: {sum}");
                assert!(row[t + 1..].iter().all(|&v| v == 0.0), "the future counts");
            }
        }
        assert!(d.z_patterns(&mut q, x.view(), &[S]).is_err());
    }
}

#[test]
fn only_a_dictionary_with_attention_has_z_patterns() {
    let mut q = queue();
    let json = json!({"sae_type": "sae", "d_model": D, "expansion_factor": 3.0, "hook_point_in": "a", "hook_point_out": "a"});
    let d = build(&mut q, &serde_json::from_value(json).unwrap()).unwrap();
    let x = random(&mut q, LEN, D, 3);
    let error = d.z_patterns(&mut q, x.view(), &[0]).err().unwrap().to_string();
    assert!(error.contains("Lorsa"), "{error}");
}

#[test]
fn a_saved_checkpoint_has_every_tensor_of_the_reference_systems_with_its_type_and_values() {
    let mut q = queue();
    let cases = golden::discover().remove("dict").unwrap();
    let mut compared = 0;
    for case in cases.iter().filter(|c| c.name.starts_with("lorsa")) {
        let options = LoadOptions { strict: true, fold: false };
        let loaded = checkpoint::load(&mut q, &case.path(""), options).unwrap();
        let dir = tempfile::tempdir().unwrap();
        checkpoint::save(&mut q, &*loaded.dictionary, dir.path(), DTypeName::F32, &Map::new()).unwrap();
        let theirs = TensorFile::open(case.path("sae_weights.safetensors")).unwrap();
        let ours = TensorFile::open(dir.path().join("sae_weights.safetensors")).unwrap();
        assert_eq!(ours.list(), theirs.list(), "{}", case.name);
        for t in theirs.list() {
            if let (Ok((_, want)), Ok((_, got))) = (theirs.f32(&t.name), ours.f32(&t.name)) {
                let same = want.iter().zip(&got).all(|(a, b)| a == b || (a - b).abs() < 1e-6);
                assert!(same, "{}: {}", case.name, t.name);
            } else {
                assert_eq!(ours.i64(&t.name).unwrap(), theirs.i64(&t.name).unwrap(), "{}", t.name);
            }
            compared += 1;
        }
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.path().join("config.json")).unwrap()).unwrap();
        let given: Value =
            serde_json::from_str(&std::fs::read_to_string(case.path("config.json")).unwrap()).unwrap();
        for (key, want) in given.as_object().unwrap() {
            let same = config[key] == *want || config[key].as_f64() == want.as_f64();
            assert!(same, "{}: {key} is {}, was {want}", case.name, config[key]);
        }
    }
    assert!(compared > 20, "the committed cases have more tensors");
}

#[test]
fn the_scale_of_scores_left_to_the_default_is_written_as_a_number() {
    let mut q = queue();
    let d = build(&mut q, &settings(json!({}))).unwrap();
    let saved = serde_json::to_value(d.settings()).unwrap();
    assert_eq!(saved["attn_scale"], json!(2.0));
}

#[test]
fn settings_that_cannot_be_are_refused_by_key() {
    for (change, key) in [
        (json!({"n_qk_heads": 5}), "n_qk_heads"),
        (json!({"rotary_dim": 3}), "rotary_dim"),
        (json!({"rotary_dim": 6}), "rotary_dim"),
        (json!({"hook_point_out": "a.in"}), "hook_point_out"),
        (json!({"use_post_qk_ln": true}), "normalization_type"),
        (json!({"use_post_qk_ln": true, "normalization_type": "LN"}), "normalization_type"),
        (json!({"attn_scale": 0.0}), "attn_scale"),
        (json!({"n_ctx": 0}), "n_ctx"),
        (json!({"act_fn": "layertopk"}), "act_fn"),
    ] {
        let error = settings(change.clone()).validate().unwrap_err().to_string();
        assert!(error.contains(key), "{change}: {error}");
    }
    assert!(settings(json!({"rotary_dim": 6, "rotary_scale": 2})).validate().is_ok());
}

#[test]
fn single_tokens_long_contexts_and_pieces_of_contexts_are_refused() {
    let mut q = queue();
    let mut d = scrambled(&mut q, &settings(json!({})));
    plan(&mut *d, &q, ROWS, None);
    let x = random(&mut q, ROWS, D, 1);
    let mut error = |context| d.forward(&mut q, &[x.view()], context, K).unwrap_err().to_string();
    assert!(error(None).contains("activations-2d"));
    assert!(error(Some(20)).contains("n_ctx"));
    assert!(error(Some(7)).contains("whole contexts"));
}

#[test]
fn a_context_does_not_see_another() {
    let mut q = queue();
    let x = random(&mut q, ROWS, D, 1);
    let mut d = scrambled(&mut q, &settings(json!({})));
    let (all, _) = apply(&mut q, &mut *d, &x);
    for b in 0..ROWS / LEN {
        let mut alone = q.empty(LEN, D, DType::F32).unwrap();
        q.copy(x.rows_view(b * LEN..(b + 1) * LEN), &mut alone).unwrap();
        let (codes, _) = apply(&mut q, &mut *d, &alone);
        assert!(largest_difference(&codes, &all[b * LEN * S..(b + 1) * LEN * S]) < 1e-5);
    }
}

fn loss() -> LossSettings {
    LossSettings {
        sparsity: Some(SparsityLoss::TanhQuad),
        tanh_stretch: 4.0,
        frequency_scale: 0.01,
        p: 1.0,
        lp: true,
        auxk: true,
        k_aux: 4,
        lp_gated: true,
        auxk_detached: false,
        target_l0: 50.0,
    }
}

#[test]
fn contexts_in_several_chunks_give_what_one_chunk_gives() {
    let mut q = queue();
    // Planned for more rows than one chunk holds, and for so few that all are one.
    let (large, small) = (5000, 3000);
    for act_fn in ACTIVATIONS {
        for all_losses in [false, true] {
            let x = random(&mut q, small, D, 4);
            let y = random(&mut q, small, D, 6);
            let loss = LossSettings {
                sparsity: if all_losses { Some(SparsityLoss::TanhQuad) } else { None },
                lp: all_losses,
                auxk: all_losses,
                ..loss()
            };
            let mut results = Vec::new();
            for rows in [large, small] {
                let mut d = scrambled(&mut q, &settings(json!({"act_fn": act_fn})));
                plan(&mut *d, &q, rows, Some(&loss));
                let weight = q.tensor(small, 1, &vec![1.0 / small as f32; small]).unwrap();
                let input = StepInput {
                    inputs: vec![x.view()],
                    labels: vec![y.view()],
                    context: Some(LEN),
                    mask: None,
                    weight: weight.view(),
                    n_tokens: small,
                };
                let mut dead = DeadFeatures {
                    since: q.zeros(1, S, DType::U32).unwrap(),
                    fired: q.zeros(1, S, DType::U32).unwrap(),
                    dead: q.zeros(1, S, DType::U8).unwrap(),
                    threshold: 0,
                };
                let c = Coefficients { k: 3, l1: 0.1, lp: 0.1, auxk: 0.1 };
                let terms = d.train_step(&mut q, &input, &loss, c, Some(&mut dead)).unwrap();
                let grads: Vec<(String, Vec<f32>)> = (d.params().iter())
                    .map(|p| (p.name.clone(), q.download(p.grad.as_ref().unwrap()).unwrap()))
                    .collect();
                results.push((terms.loss, grads, dense_codes(&mut q, d.codes())));
            }
            let [(loss_a, grads_a, codes_a), (loss_b, grads_b, codes_b)] = &results[..] else {
                unreachable!()
            };
            assert!(largest_difference(codes_a, codes_b) < 1e-5, "{act_fn}");
            assert!((loss_a - loss_b).abs() < 1e-5 * loss_a, "{act_fn}: {loss_a} {loss_b}");
            for ((name, a), (_, b)) in grads_a.iter().zip(grads_b) {
                let largest = a.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
                // A bias of all keys alike changes no pattern: without positions' help its gradient is rounding.
                let floor = if name == "b_K" { 1e-4 } else { 0.0 };
                assert!(largest_difference(a, b) <= 2e-5 * largest + floor, "{act_fn} {name} {all_losses}");
            }
        }
    }
}

#[test]
fn a_step_never_holds_the_attention_matrices_of_its_batch() {
    let mut q = queue();
    let (contexts, len, n_qk) = (8, 512, 6);
    let loss = LossSettings::default();
    for act_fn in ACTIVATIONS {
        let settings = settings(json!({"act_fn": act_fn, "n_ctx": len, "n_qk_heads": n_qk}));
        let mut d = scrambled(&mut q, &settings);
        let mut arena = Arena::planning("step");
        d.plan(&mut arena, contexts * len, K, Some(&loss)).unwrap();
        let matrices = 4 * contexts * n_qk * len * len;
        assert!(arena.used() < matrices / 3, "{act_fn}: {} where the matrices take {matrices}", arena.used());
        // Nor does it grow like one: contexts twice as long and half as many take what these do.
        let settings = self::settings(json!({"act_fn": act_fn, "n_ctx": 2 * len, "n_qk_heads": n_qk}));
        let mut d = scrambled(&mut q, &settings);
        let mut longer = Arena::planning("step");
        d.plan(&mut longer, contexts * len, K, Some(&loss)).unwrap();
        assert!(longer.used() < arena.used() * 11 / 10, "{act_fn}: {} {}", longer.used(), arena.used());
    }
}

#[test]
fn random_values_have_the_spread_the_reference_system_gives_them() {
    let mut q = queue();
    let big = settings(json!({
        "d_model": 64, "expansion_factor": 4.0, "n_qk_heads": 8, "d_qk_head": 16, "rotary_dim": 16,
        "use_post_qk_ln": true, "normalization_type": "RMS", "act_fn": "jumprelu",
    }));
    let mut d = build(&mut q, &big).unwrap();
    let init =
        RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: Some(-2.0), seed: 3 };
    d.init_random(&mut q, &init).unwrap();
    let deviation = |v: &[f32]| (v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32).sqrt();
    // Uniform in ±√(6/(d·d_qk + n_qk·d_qk)): the deviation is the bound over √3.
    let bound = (6.0 / ((64 + 8) * 16) as f32).sqrt();
    for name in ["W_Q", "W_K"] {
        let v = value(&mut q, &*d, name);
        assert!(v.iter().all(|v| v.abs() <= bound), "{name}");
        assert!((deviation(&v) / (bound / 3f32.sqrt()) - 1.0).abs() < 0.03, "{name}");
    }
    assert_ne!(value(&mut q, &*d, "W_Q"), value(&mut q, &*d, "W_K"));
    assert!((deviation(&value(&mut q, &*d, "W_V")) * 16.0 - 1.0).abs() < 0.03, "1/√S");
    assert!((deviation(&value(&mut q, &*d, "W_O")) * 8.0 - 1.0).abs() < 0.03, "1/√d");
    for (name, want) in
        [("b_Q", 0.0), ("b_K", 0.0), ("b_V", 0.0), ("b_D", 0.0), ("ln_q.w", 1.0), ("ln_k.w", 1.0)]
    {
        assert!(value(&mut q, &*d, name).iter().all(|&v| v == want), "{name}");
    }
    // One factor for all rows: the mean norm is set, and rows keep their proportions.
    let before = d.decoder_norms(&mut q).unwrap();
    d.set_decoder_norm(&mut q, 2.5, true).unwrap();
    let after = d.decoder_norms(&mut q).unwrap();
    let mean = after.iter().sum::<f32>() / after.len() as f32;
    assert!((mean - 2.5).abs() < 1e-4);
    assert!(before.iter().zip(&after).all(|(b, a)| (a / b - after[0] / before[0]).abs() < 1e-4));
    d.set_decoder_norm(&mut q, 3.0, false).unwrap();
    assert_eq!(d.decoder_norms(&mut q).unwrap(), after, "a norm above the mean changes nothing unless exact");
    assert!(d.encoder_from_decoder_transpose(&mut q, 1.0).is_err());
    assert!(d.set_encoder_norm(&mut q, 1.0).is_err());
}

#[test]
fn the_bias_of_values_centres_pre_activations() {
    let mut q = queue();
    let x = random(&mut q, ROWS, D, 5);
    let mut d = scrambled(&mut q, &settings(json!({"act_fn": "relu"})));
    plan(&mut *d, &q, ROWS, None);
    d.encoder_bias_from_mean_hidden_pre(&mut q, &[x.view()], Some(LEN)).unwrap();
    let mut sums = vec![0f32; S];
    for b in 0..ROWS / LEN {
        let patterns =
            d.z_patterns(&mut q, x.rows_view(b * LEN..(b + 1) * LEN), &(0..S).collect::<Vec<_>>()).unwrap();
        for (sum, pattern) in sums.iter_mut().zip(&patterns) {
            *sum += q.download::<f32>(pattern).unwrap().iter().sum::<f32>();
        }
    }
    assert!(sums.iter().all(|s| (s / ROWS as f32).abs() < 1e-5), "{sums:?}");
}

/// The settings of a dictionary for layer 0 of a model, two QK heads to each of the model's; `None` where its attention has
/// what Lorsa does not.
fn of_model(lm: &Lm, attention: &ModelAttention, len: usize) -> Option<DictionarySettings> {
    let a = lm.architecture();
    let layer = a.layers[0];
    if a.score_cap > 0.0 || (layer.window > 0 && layer.window < len) {
        return None;
    }
    let none = Rotary { dim: 0, base: 1.0, scaling: RotaryScaling::None, adjacent: false };
    let rotary = match &a.positions {
        Positions::Learned => none,
        Positions::Rotary(tables) => tables[layer.rotary],
    };
    let mut json = json!({
        "sae_type": "lorsa", "d_model": a.d_model, "expansion_factor": 2 * a.n_heads, "act_fn": "relu",
        "hook_point_in": "blocks.0.ln1.hook_normalized", "hook_point_out": "blocks.0.hook_attn_out",
        "n_qk_heads": 2 * a.n_heads, "d_qk_head": a.d_head, "rotary_dim": rotary.dim, "rotary_base": rotary.base,
        "rotary_adjacent_pairs": rotary.adjacent, "n_ctx": len, "attn_scale": 1.0 / f64::from(layer.scale),
        "positional_embedding_type": if rotary.dim > 0 { "rotary" } else { "none" },
        "use_post_qk_ln": attention.q_gain.is_some(), "normalization_type": "RMS", "eps": a.norm_eps,
    });
    match rotary.scaling {
        RotaryScaling::None => {}
        RotaryScaling::Llama3 { factor, low, high, original_ctx } => {
            json["use_NTK_by_parts_rope"] = true.into();
            json["NTK_by_parts_factor"] = factor.into();
            json["NTK_by_parts_low_freq_factor"] = low.into();
            json["NTK_by_parts_high_freq_factor"] = high.into();
            json["old_context_len"] = (original_ctx as u64).into();
        }
        RotaryScaling::Linear { .. } => return None,
    }
    Some(serde_json::from_value(json).unwrap())
}

#[test]
fn patterns_started_from_a_model_are_the_models() {
    let mut q = queue();
    let ids: Vec<u32> = (0..12).map(|i| (7 * i * i + 3) % 190).collect();
    let tokens = Tokens { ids: &ids, batch: 1, len: 12, mask: None };
    let hooks = ["blocks.0.ln1.hook_normalized", "blocks.0.attn.hook_pattern"];
    let mut compared = Vec::new();
    for case in golden::discover().remove("lm").unwrap() {
        for process_weights in [true, false] {
            let options = LanguageModelSettings { process_weights, ..Default::default() };
            let lm = Lm::load(&mut q, &case.path("model"), &options).unwrap();
            // Without a norm before attention, or with one across heads, there is nothing to start from.
            let Ok(attention) = lm.attention(&mut q, 0) else { continue };
            let Some(settings) = of_model(&lm, &attention, 12) else { continue };
            if lm.hook_width(hooks[0]).is_err() {
                continue;
            }
            let seen = lm.run(&mut q, &tokens, Run { capture: &hooks, ..Run::default() }).unwrap().captured;
            let mut d = scrambled(&mut q, &settings);
            let norm = 3.0;
            d.set_norms(hooks_norms(&settings, norm));
            d.queries_and_keys_from_model(&mut q, &attention).unwrap();
            // Values of 1 leave the pattern itself.
            for p in d.params_mut() {
                match p.name.as_str() {
                    "W_V" => q.fill(&mut p.value, 0.0).unwrap(),
                    "b_V" => q.fill(&mut p.value, 1.0).unwrap(),
                    _ => {}
                }
            }
            let a = (settings.d_model() as f32).sqrt() / norm;
            let x = scaled(&mut q, &seen[hooks[0]], a);
            let (n_heads, each) = (lm.architecture().n_heads, settings.d_sae() / lm.architecture().n_heads);
            let features: Vec<usize> = (0..n_heads).flat_map(|h| [h * each, (h + 1) * each - 1]).collect();
            let got = d.z_patterns(&mut q, x.view(), &features).unwrap();
            let want: Vec<f32> = q.download(&seen[hooks[1]]).unwrap();
            for (i, got) in got.iter().enumerate() {
                let got: Vec<f32> = q.download(got).unwrap();
                let want = &want[i / 2 * 144..(i / 2 + 1) * 144];
                let difference = largest_difference(&got, want);
                assert!(difference < 1e-5, "{} head {}: {difference}", case.name, i / 2);
            }
            compared.push(case.name.clone());
        }
    }
    assert!(compared.len() >= 6, "{compared:?}");
}

fn hooks_norms(settings: &DictionarySettings, norm: f32) -> std::collections::BTreeMap<String, f32> {
    let hooks = settings.hook_points_in().into_iter().chain(settings.hook_points_out());
    hooks.map(|h| (h, norm)).collect()
}

#[test]
fn values_started_from_a_model_lie_where_its_values_vary_and_outputs_are_what_it_writes() {
    let mut q = queue();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lm/llama_gqa/model");
    let lm = Lm::load(&mut q, path.as_ref(), &LanguageModelSettings::default()).unwrap();
    let attention = lm.attention(&mut q, 1).unwrap();
    assert!(lm.attention(&mut q, 2).err().unwrap().to_string().contains("model_layer"));
    let settings = of_model(&lm, &attention, 12).unwrap();
    let (d_model, d_head) = (lm.architecture().d_model, lm.architecture().d_head);
    let mut d = build(&mut q, &settings).unwrap();
    let init = RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None, seed: 3 };
    d.init_random(&mut q, &init).unwrap();
    let x = random(&mut q, 300, d_model, 4);
    d.subspace_from_model(&mut q, &[x.view()], &attention).unwrap();
    let (w_v, w_o) = (value(&mut q, &*d, "W_V"), value(&mut q, &*d, "W_O"));
    let maps: Vec<f32> = q.download(&attention.w_v).unwrap();
    let outs: Vec<f32> = q.download(&attention.w_o).unwrap();
    let each = settings.d_sae() / lm.architecture().n_heads;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for i in 0..settings.d_sae() {
        let (v, o) = (&w_v[i * d_model..(i + 1) * d_model], &w_o[i * d_model..(i + 1) * d_model]);
        assert!((dot(v, v) - 1.0).abs() < 1e-4 && (dot(o, o) - 1.0).abs() < 1e-4, "unit rows");
        // o is along v·W_V^m·W_O^m of the model's head m.
        let mut want = vec![0f32; d_model];
        for e in i / each * d_head..(i / each + 1) * d_head {
            let through = dot(v, &maps[e * d_model..(e + 1) * d_model]);
            want.iter_mut().zip(&outs[e * d_model..]).for_each(|(w, o)| *w += through * o);
        }
        let cosine = dot(&want, o) / dot(&want, &want).sqrt();
        assert!((cosine - 1.0).abs() < 1e-4, "feature {i}: {cosine}");
    }
}

#[test]
fn decoder_rows_of_norm_1_change_no_reconstruction() {
    let mut q = queue();
    let x = random(&mut q, ROWS, D, 1);
    for act_fn in ACTIVATIONS {
        for gating in [true, false] {
            let settings = settings(json!({"act_fn": act_fn, "sparsity_include_decoder_norm": gating}));
            let mut d = scrambled(&mut q, &settings);
            let (codes, before) = apply(&mut q, &mut *d, &x);
            let norms = d.decoder_norms(&mut q).unwrap();
            let done = d.to_unit_decoder_norm(&mut q);
            if !gating && act_fn.ends_with("topk") {
                assert!(done.unwrap_err().to_string().contains("order"), "{act_fn}");
                continue;
            }
            done.unwrap();
            assert!(d.decoder_norms(&mut q).unwrap().iter().all(|n| (n - 1.0).abs() < 1e-5));
            let (scaled, after) = apply(&mut q, &mut *d, &x);
            assert!(largest_difference(&before, &after) < 2e-5, "{settings:?}");
            let expected: Vec<f32> = codes.iter().enumerate().map(|(i, c)| c * norms[i % S]).collect();
            assert!(largest_difference(&expected, &scaled) < 2e-5, "{settings:?}");
        }
    }
}

#[test]
fn a_checkpoint_with_fewer_qk_heads_loads_with_each_repeated() {
    let mut q = queue();
    let norm = json!({"n_qk_heads": 3, "use_post_qk_ln": true, "normalization_type": "RMS"});
    let mut few = scrambled(&mut q, &settings(norm));
    let dir = tempfile::tempdir().unwrap();
    checkpoint::save_weights(&mut q, &*few, &dir.path().join("sae_weights.safetensors"), DTypeName::F32)
        .unwrap();
    let load = |q: &mut Queue, n_qk_heads: usize| {
        let mut config = serde_json::to_value(few.settings()).unwrap();
        config["n_qk_heads"] = n_qk_heads.into();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        checkpoint::load(q, dir.path(), LoadOptions { strict: true, fold: false }).map(|l| l.dictionary)
    };
    let mut many = load(&mut q, 6).unwrap();
    assert!(load(&mut q, 4).err().unwrap().to_string().contains("W_Q"), "4 heads cannot come of 3");
    let x = random(&mut q, ROWS, D, 1);
    let (a, b) = (apply(&mut q, &mut *few, &x), apply(&mut q, &mut *many, &x));
    assert!(largest_difference(&a.1, &b.1) < 1e-5, "each feature reads through a copy of its head");
}

/// A job on whole contexts of the tiny model; `more` overrides by dotted key.
fn lorsa_job(dir: &Path, more: &[&str]) -> lm_saes::Result<TrainReport> {
    let own = [
        "sae.sae_type=lorsa",
        "sae.hook_point_in=blocks.1.ln1.hook_normalized",
        "sae.hook_point_out=blocks.1.hook_attn_out",
        "activation_factory.hook_points=[\"blocks.1.ln1.hook_normalized\",\"blocks.1.hook_attn_out\"]",
        "sae.n_qk_heads=8",
        "sae.d_qk_head=12",
        "sae.rotary_dim=12",
        "sae.rotary_adjacent_pairs=false",
        "sae.n_ctx=24",
        "activation_factory.target=activations-2d",
        "activation_factory.batch_size=4",
        "initializer.init_encoder_with_decoder_transpose=false",
        "initializer.grid_search_init_norm=false",
        "initializer.initialize_lorsa_with_mhsa=true",
        "initializer.initialize_W_D_with_active_subspace=true",
        "initializer.model_layer=1",
        "trainer.auxk_coefficient=0.03125",
        "trainer.dead_threshold=2000",
    ];
    let s = tiny::settings(dir, "out", &[&own, more].concat());
    runners::train(&s, &lm_saes_backends::registry(), &mut Silent, Start::Overwrite)
}

#[test]
fn a_job_starts_from_the_models_attention_and_leaves_a_dictionary_that_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    let report = lorsa_job(dir.path(), &[]).unwrap();
    let (quality, loss) = report.evaluation.unwrap();
    let ev = quality.get("metrics/explained_variance").unwrap();
    assert!(ev > 0.5 && quality.get("metrics/l0").unwrap() <= 8.0, "{quality:?}");
    assert!(loss.reconstructed.is_finite(), "{loss:?}");
    let mut q = queue();
    let options = LoadOptions { strict: true, fold: true };
    let loaded = checkpoint::load(&mut q, &dir.path().join("out"), options).unwrap();
    assert_eq!(loaded.dictionary.settings(), report.dictionary.settings());
}

#[test]
fn a_job_says_what_lorsa_needs() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    for (change, what) in [
        (
            &["activation_factory.target=activations-1d", "activation_factory.batch_size=64"][..],
            "activations-2d",
        ),
        (&["sae.n_ctx=20"], "n_ctx"),
        (&["initializer.model_layer=7"], "model_layer"),
        (&["sae.d_qk_head=16"], "d_qk_head"),
        (&["sae.n_qk_heads=6"], "n_qk_heads"),
        (&["sae.use_post_qk_ln=true", "sae.normalization_type=RMS"], "use_post_qk_ln"),
        (&["sae.attn_scale=1.0"], "attn_scale"),
        (&["sae.norm_activation=token-wise"], "dataset-wise"),
        (&["initializer.init_encoder_with_decoder_transpose=true"], "init_encoder_with_decoder_transpose"),
    ] {
        let error = lorsa_job(dir.path(), change).err().unwrap_or_else(|| panic!("{change:?} was accepted"));
        assert!(error.to_string().contains(what), "{change:?}: {error}");
    }
}
