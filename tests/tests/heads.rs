//! Crosscoders and mixtures of linear transforms: folding keeps the function of every activation, rows that do not count change
//! nothing, metrics are recorded by hook point and by rank, features have their order, heads can be compared. Gradients are
//! checked in `gradients`.

use lm_saes::{
    analysis::Decoders,
    dictionary::{self, Coefficients, Dictionary, RandomInit, StepInput},
    training::{LossSettings, SparsityLoss, metrics::MetricWindow},
};
use lm_saes_backends::registry;
use lm_saes_runtime::{Arena, Queue, Tensor};
use lm_saes_tests::{noise, planned};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const D: usize = 6;
const K: usize = 3;
const ACTIVATIONS: [&str; 4] = ["relu", "jumprelu", "topk", "batchtopk"];
/// Average norms of the hook points, all different.
const NORMS: [(&str, f32); 3] = [("a", 0.7), ("b", 2.9), ("c", 5.3)];

fn queue(device: &str) -> Queue {
    Queue::new(&registry().open(device).unwrap()).unwrap()
}

fn crosscoder(act_fn: &str) -> Value {
    json!({
        "sae_type": "crosscoder", "d_model": D, "expansion_factor": 2.0, "act_fn": act_fn, "top_k": K,
        "hook_points": ["a", "b", "c"], "jumprelu_threshold_window": 0.4,
    })
}

fn molt(act_fn: &str, gated: bool) -> Value {
    json!({
        "sae_type": "molt", "d_model": D, "expansion_factor": 2.0, "act_fn": act_fn, "top_k": K,
        "hook_point_in": "a", "hook_point_out": "c", "rank_counts": {"1": 5, "2": 4, "3": 3},
        "sparsity_include_decoder_norm": gated, "jumprelu_threshold_window": 0.4,
    })
}

fn every_setting() -> Vec<Value> {
    let of = |act: &&str| [crosscoder(act), molt(act, false), molt(act, true)];
    ACTIVATIONS.iter().flat_map(of).collect()
}

fn build(q: &mut Queue, settings: &Value) -> Box<dyn Dictionary> {
    let mut d = dictionary::build(q, &serde_json::from_value(settings.clone()).unwrap()).unwrap();
    let init =
        RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: Some(-1.5), seed: 3 };
    d.init_random(q, &init).unwrap();
    // Heads start alike; here they differ, as after training.
    for (i, p) in d.params_mut().into_iter().enumerate().filter(|(_, p)| !p.name.contains("threshold")) {
        q.upload(&noise(i as u64 + 1, p.value.len()), &mut p.value).unwrap();
    }
    d.set_norms(NORMS.map(|(hook, norm)| (hook.to_string(), norm)).into());
    d
}

fn plan(
    q: &mut Queue,
    d: &mut dyn Dictionary,
    rows: usize,
    loss: Option<&LossSettings>,
) -> (Arena, MetricWindow) {
    planned(q, d, rows, K, loss)
}

/// Activations of each of these hook points, `[rows, D]`, times a factor of the hook point.
fn batch(q: &mut Queue, hooks: &[String], rows: usize, factor: impl Fn(&str) -> f32) -> Vec<Tensor> {
    let one = |hook: &String| -> Vec<f32> {
        let seed = u64::from(hook.as_bytes()[0]);
        noise(seed, rows * D).iter().map(|v| v * factor(hook)).collect()
    };
    hooks.iter().map(|h| q.tensor(rows, D, &one(h)).unwrap()).collect()
}

/// What divides normalised activations of a hook point.
fn scale(hook: &str) -> f32 {
    let norm = NORMS.iter().find(|(h, _)| *h == hook).unwrap().1;
    norm / (D as f32).sqrt()
}

fn forward(q: &mut Queue, d: &mut dyn Dictionary, x: &[Tensor]) -> Vec<Vec<f32>> {
    let views: Vec<_> = x.iter().map(Tensor::view).collect();
    d.forward(q, &views, None, K).unwrap();
    d.reconstruction().into_iter().map(|y| q.download(y).unwrap()).collect()
}

#[test]
fn defects_1_2_and_3_folding_keeps_the_function_of_every_activation_and_gating() {
    let (q, rows) = (&mut queue("cpu"), 16);
    for settings in every_setting() {
        let mut d = build(q, &settings);
        let (inputs, outputs) = (d.hook_points_in(), d.hook_points_out());
        let normalised = batch(q, &inputs, rows, |_| 1.0);
        let raw = batch(q, &inputs, rows, scale);
        let _memory = plan(q, &mut *d, rows, None);
        let want = forward(q, &mut *d, &normalised);
        d.fold(q).unwrap();
        let _memory = plan(q, &mut *d, rows, None);
        let got = forward(q, &mut *d, &raw);
        for ((hook, got), want) in outputs.iter().zip(&got).zip(&want) {
            let largest = want.iter().fold(0.0, |m: f32, v| m.max(v.abs())) * scale(hook);
            for (g, w) in got.iter().zip(want) {
                let w = w * scale(hook);
                assert!((g - w).abs() < 1e-4 * largest, "{settings} {hook}: {g} {w}");
            }
        }
    }
}

struct Batch<'a> {
    x: &'a [Tensor],
    y: &'a [Tensor],
    mask: &'a [u8],
}

fn step(
    q: &mut Queue,
    d: &mut dyn Dictionary,
    b: &Batch<'_>,
    loss: &LossSettings,
) -> (f32, Vec<(String, f64)>) {
    with_input(q, b, |q, input, weight| {
        let c = Coefficients { k: K, l1: 0.3, lp: 0.0, auxk: 0.0 };
        let terms = d.train_step(q, input, loss, c, None).unwrap();
        (terms.loss, d.own_metrics(q, input, weight).unwrap())
    })
}

#[test]
fn defect_5_a_mask_takes_rows_out_of_loss_gradient_and_metrics() {
    let q = &mut queue("cpu");
    let loss = LossSettings { sparsity: Some(SparsityLoss::Tanh), ..LossSettings::default() };
    // The pool of batchtopk holds masked rows too, as in the reference system.
    for settings in every_setting().into_iter().filter(|s| s["act_fn"] != "batchtopk") {
        let mut results = Vec::new();
        for rows in [10, 6] {
            let mut d = build(q, &settings);
            let _memory = plan(q, &mut *d, 10, Some(&loss));
            let (inputs, outputs) = (d.hook_points_in(), d.hook_points_out());
            let (x, y) = (batch(q, &inputs, 10, |_| 1.0), batch(q, &outputs, 10, |_| 0.5));
            let first = |all: Vec<Tensor>, q: &mut Queue| -> Vec<Tensor> {
                let host: Vec<Vec<f32>> =
                    all.iter().map(|t| q.download(t.rows_view(0..rows)).unwrap()).collect();
                host.iter().map(|h| q.tensor(rows, D, h).unwrap()).collect()
            };
            let (x, y) = (first(x, q), first(y, q));
            let mask: Vec<u8> = (0..rows).map(|r| u8::from(r < 6)).collect();
            let (loss, metrics) = step(q, &mut *d, &Batch { x: &x, y: &y, mask: &mask }, &loss);
            let gradients: Vec<Vec<f32>> =
                d.params().iter().map(|p| q.download(p.grad.as_ref().unwrap()).unwrap()).collect();
            results.push((loss, metrics, gradients.concat()));
        }
        let [(loss, metrics, gradients), (want, want_metrics, want_gradients)] = &results[..] else {
            unreachable!()
        };
        assert!((loss - want).abs() < 1e-5 * want, "{settings}: {loss} {want}");
        let largest = want_gradients.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
        assert!(
            gradients.iter().zip(want_gradients).all(|(a, b)| (a - b).abs() < 1e-5 * largest),
            "{settings}"
        );
        assert!(!metrics.is_empty(), "{settings}");
        for ((name, got), (_, want)) in metrics.iter().zip(want_metrics) {
            assert!((got - want).abs() < 1e-5 * (1.0 + want.abs()), "{settings} {name}: {got} {want}");
        }
    }
}

#[test]
fn metrics_are_recorded_by_hook_point_and_by_rank() {
    let (q, rows) = (&mut queue("cpu"), 8);
    let loss = LossSettings::default();
    for settings in [crosscoder("topk"), molt("topk", true)] {
        let mut d = build(q, &settings);
        let _memory = plan(q, &mut *d, rows, Some(&loss));
        let (inputs, outputs) = (d.hook_points_in(), d.hook_points_out());
        let (x, y) = (batch(q, &inputs, rows, |_| 1.0), batch(q, &outputs, rows, |_| 0.5));
        let (_, metrics) = step(q, &mut *d, &Batch { x: &x, y: &y, mask: &vec![1; rows] }, &loss);
        let found: BTreeMap<String, f64> = metrics.into_iter().collect();
        if d.settings().sae_type() == "molt" {
            let l0: Vec<f64> = (1..=3).map(|r| found[&format!("molt_metrics/l0_rank{r}")]).collect();
            assert!(l0.iter().sum::<f64>() > 0.0 && l0.iter().sum::<f64>() <= K as f64);
            let ranks: f64 = l0.iter().zip(1..).map(|(n, r)| n * f64::from(r)).sum();
            assert!((found["molt_metrics/total_rank_sum"] - ranks).abs() < 1e-9);
            assert!((found["molt_metrics/l0_rank2_ratio"] - l0[1] / 4.0).abs() < 1e-9);
        } else {
            let l_rec = |hook: &str| found[&format!("crosscoder_metrics/{hook}/l_rec")];
            let of: Vec<Vec<f32>> = d.reconstruction().into_iter().map(|v| q.download(v).unwrap()).collect();
            for ((hook, yhat), y) in outputs.iter().zip(&of).zip(&y) {
                let y: Vec<f32> = q.download(y).unwrap();
                let squares: f32 = yhat.iter().zip(&y).map(|(a, b)| (a - b) * (a - b)).sum();
                assert!(
                    (l_rec(hook) - f64::from(squares) / rows as f64).abs() < 1e-4 * l_rec(hook),
                    "{hook}"
                );
            }
        }
    }
}

#[test]
fn defect_5_explained_variance_and_l2_errors_of_a_crosscoder_are_numbers() {
    let (q, rows) = (&mut queue("cpu"), 8);
    let loss = LossSettings::default();
    for settings in ACTIVATIONS.map(crosscoder) {
        let mut d = build(q, &settings);
        let (_memory, mut window) = plan(q, &mut *d, rows, Some(&loss));
        let (inputs, outputs) = (d.hook_points_in(), d.hook_points_out());
        let (x, y) = (batch(q, &inputs, rows, |_| 1.0), batch(q, &outputs, rows, |_| 0.5));
        let mask = vec![1; rows];
        let b = Batch { x: &x, y: &y, mask: &mask };
        let l_rec = with_input(q, &b, |q, input, weight| {
            let c = Coefficients { k: K, l1: 0.3, lp: 0.0, auxk: 0.0 };
            d.train_step(q, input, &loss, c, None).unwrap();
            window.observe(q, &mut *d, input, weight).unwrap()
        });
        assert!(l_rec > 0.0);
        let found: BTreeMap<String, f64> = window.quality(q).unwrap().into_iter().collect();
        for name in ["metrics/explained_variance", "metrics/l2_norm_error", "metrics/l2_norm_error_ratio"] {
            assert!(found[name].is_finite() && found[name] != 0.0, "{settings} {name}: {found:?}");
        }
        assert!(found["metrics/l0"] > 0.0 && found["metrics/l0"] <= 2.0 * D as f64, "{settings}: {found:?}");
    }
}

#[test]
fn defect_7_tanh_quad_is_a_loss_of_every_variant() {
    let (q, rows) = (&mut queue("cpu"), 8);
    let loss = LossSettings { sparsity: Some(SparsityLoss::TanhQuad), ..LossSettings::default() };
    let sae = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 2.0, "act_fn": "relu", "hook_point_in": "a",
        "hook_point_out": "a",
    });
    let clt = json!({
        "sae_type": "clt", "d_model": D, "expansion_factor": 2.0, "act_fn": "relu", "hook_points_in": ["a", "b"],
        "hook_points_out": ["b", "c"],
    });
    for settings in every_setting().into_iter().chain([sae, clt]) {
        let mut d = build(q, &settings);
        let _memory = plan(q, &mut *d, rows, Some(&loss));
        let (inputs, outputs) = (d.hook_points_in(), d.hook_points_out());
        let (x, y) = (batch(q, &inputs, rows, |_| 1.0), batch(q, &outputs, rows, |_| 0.5));
        let b = Batch { x: &x, y: &y, mask: &vec![1; rows] };
        let terms = with_input(q, &b, |q, input, _| {
            let c = Coefficients { k: K, l1: 0.3, lp: 0.0, auxk: 0.0 };
            d.train_step(q, input, &loss, c, None).unwrap()
        });
        let l_s = terms.l_s.unwrap();
        assert!(l_s.is_finite() && l_s > 0.0, "{settings}: {l_s}");
        assert!((terms.loss - terms.l_rec - l_s).abs() < 1e-4 * terms.loss, "{settings}");
    }
}

#[test]
fn defect_4_starting_values_leave_nothing_of_what_memory_held_also_in_the_bias_of_a_gate() {
    let q = &mut queue("cpu");
    let sae = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 2.0, "act_fn": "jumprelu", "hook_point_in": "a",
        "hook_point_out": "a", "use_glu_encoder": true,
    });
    let clt = json!({
        "sae_type": "clt", "d_model": D, "expansion_factor": 2.0, "act_fn": "jumprelu",
        "hook_points_in": ["a", "b"], "hook_points_out": ["b", "c"],
    });
    for settings in every_setting().into_iter().chain([sae, clt]) {
        let mut d = build(q, &settings);
        for p in d.params_mut() {
            q.upload(&vec![f32::NAN; p.value.len()], &mut p.value).unwrap();
        }
        let (encoder_bound, decoder_bound) = (1.0, 1.0);
        let log_jumprelu_threshold = Some(-1.5);
        d.init_random(q, &RandomInit { encoder_bound, decoder_bound, log_jumprelu_threshold, seed: 3 })
            .unwrap();
        for p in d.params() {
            let values: Vec<f32> = q.download(&p.value).unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{settings} {}", p.name);
            assert!(!p.name.starts_with("b_") || values.iter().all(|v| *v == 0.0), "{settings} {}", p.name);
        }
    }
}

#[test]
fn defect_14_features_of_a_mixture_are_in_the_order_of_ascending_ranks() {
    let q = &mut queue("cpu");
    // As text "10" comes before "2".
    let settings = json!({
        "sae_type": "molt", "d_model": 10, "expansion_factor": 0.3, "act_fn": "relu", "hook_point_in": "a",
        "hook_point_out": "b", "rank_counts": {"10": 1, "2": 2},
    });
    let mut d = dictionary::build(q, &serde_json::from_value(settings).unwrap()).unwrap();
    let names: Vec<String> = d.params().iter().map(|p| p.name.clone()).collect();
    let ranked = ["U_matrices.2", "V_matrices.2", "U_matrices.10", "V_matrices.10"];
    assert_eq!(names[2..6], ranked);
    // Feature 2 alone fires, with the only transform of rank 10.
    for p in d.params_mut() {
        let value = if p.name.ends_with(".10") { 1.0 } else { 0.0 };
        let values = if p.name == "b_E" { vec![-1.0, -1.0, 2.0] } else { vec![value; p.value.len()] };
        q.upload(&values, &mut p.value).unwrap();
    }
    let _memory = planned(q, &mut *d, 1, 1, None);
    let x = q.tensor(1, 10, &[1.0; 10]).unwrap();
    d.forward(q, &[x.view()], None, 1).unwrap();
    let y: Vec<f32> = q.download(d.reconstruction()[0]).unwrap();
    assert!(y.iter().all(|y| (y - 2.0 * 10.0 * 10.0).abs() < 1e-2), "{y:?}");
}

#[test]
fn defect_15_transforms_of_norm_1_leave_the_function_as_it_was() {
    let (q, rows) = (&mut queue("cpu"), 16);
    for act_fn in ACTIVATIONS {
        for gated in [false, true] {
            let mut d = build(q, &molt(act_fn, gated));
            let x = batch(q, &d.hook_points_in(), rows, |_| 1.0);
            let _memory = plan(q, &mut *d, rows, None);
            let before = forward(q, &mut *d, &x).concat();
            let done = d.to_unit_decoder_norm(q);
            if !gated && act_fn.contains("topk") {
                assert!(done.unwrap_err().to_string().contains("ranks pre-activations"));
                continue;
            }
            done.unwrap();
            assert!(d.decoder_norms(q).unwrap().iter().all(|n| (n - 1.0).abs() < 1e-5));
            let after = forward(q, &mut *d, &x).concat();
            let largest = before.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert!(largest > 0.1);
            assert!(
                before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4 * largest),
                "{act_fn} {gated}"
            );
        }
    }
    let mut d = build(q, &crosscoder("relu"));
    assert!(d.to_unit_decoder_norm(q).unwrap_err().to_string().contains("crosscoder"));
}

#[test]
fn heads_of_a_crosscoder_have_inner_products_and_a_mixture_has_no_vectors() {
    let q = &mut queue("cpu");
    let d = build(q, &crosscoder("relu"));
    let w: Vec<f32> = q.download(&d.params().iter().find(|p| p.name == "W_D").unwrap().value).unwrap();
    let inner = Decoders::of(&*d, None).unwrap().inner_products(q).unwrap();
    let (s, n) = (2 * D, 3);
    assert_eq!(inner.len(), s);
    for (i, inner) in inner.iter().enumerate() {
        let row = |h: usize| &w[(h * s + i) * D..(h * s + i + 1) * D];
        for (a, b) in (0..n * n).map(|at| (at / n, at % n)) {
            let want: f32 = row(a).iter().zip(row(b)).map(|(a, b)| a * b).sum();
            assert!((inner[a * n + b] - want).abs() < 1e-5, "feature {i}, heads {a} and {b}");
        }
    }
    assert!(Decoders::of(&*build(q, &molt("relu", true)), None).is_none());
}

/// Runs `with` on the batch.
fn with_input<T>(
    q: &mut Queue,
    b: &Batch<'_>,
    with: impl FnOnce(&mut Queue, &StepInput<'_>, &[f32]) -> T,
) -> T {
    let n_tokens: usize = b.mask.iter().map(|&m| usize::from(m)).sum();
    let weight: Vec<f32> = b.mask.iter().map(|&m| f32::from(m) / n_tokens as f32).collect();
    let (w, m) = (q.tensor(b.mask.len(), 1, &weight).unwrap(), q.tensor(1, b.mask.len(), b.mask).unwrap());
    let input = StepInput {
        inputs: b.x.iter().map(Tensor::view).collect(),
        labels: b.y.iter().map(Tensor::view).collect(),
        context: None,
        mask: Some(m.view()),
        weight: w.view(),
        n_tokens,
    };
    with(q, &input, &weight)
}
