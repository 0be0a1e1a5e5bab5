//! Cross-layer transcoders: folding keeps the function whatever is ranked, the mask is honoured, metrics come by layer, and
//! gradients agree with central differences.

use lm_saes::{
    dictionary::{self, Coefficients, Dictionary, RandomInit, StepInput},
    training::{LossSettings, SparsityLoss, metrics::MetricWindow},
};
use lm_saes_backends::registry;
use lm_saes_runtime::{Arena, Queue, Tensor};
use lm_saes_tests::{dense_codes, gradients, noise, planned};
use serde_json::json;
use std::collections::BTreeMap;

const L: usize = 3;
const D: usize = 6;
const K: usize = 5;
const ACTIVATIONS: [&str; 6] = ["relu", "jumprelu", "topk", "layertopk", "batchtopk", "batchlayertopk"];
/// Average norms of the six hook points, all different.
const NORMS: [f32; 2 * L] = [0.7, 2.9, 5.3, 1.1, 3.7, 8.0];

fn queue(device: &str) -> Queue {
    Queue::new(&registry().open(device).unwrap()).unwrap()
}

fn clt(q: &mut Queue, act_fn: &str, gated: bool) -> Box<dyn Dictionary> {
    let hooks = |kind: &str| (0..L).map(|l| format!("{kind}.{l}")).collect::<Vec<_>>();
    let settings = json!({
        "sae_type": "clt", "d_model": D, "expansion_factor": 2.0, "act_fn": act_fn, "top_k": K,
        "sparsity_include_decoder_norm": gated, "hook_points_in": hooks("in"), "hook_points_out": hooks("out"),
        "jumprelu_threshold_window": 0.4,
    });
    let mut d = dictionary::build(q, &serde_json::from_value(settings).unwrap()).unwrap();
    let init =
        RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: Some(-1.5), seed: 3 };
    d.init_random(q, &init).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate().filter(|(_, p)| p.name.starts_with("b_")) {
        q.upload(&noise(i as u64, p.value.len()), &mut p.value).unwrap();
    }
    let norms = hooks("in").into_iter().chain(hooks("out")).zip(NORMS);
    d.set_norms(norms.collect::<BTreeMap<_, _>>());
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

fn batch(q: &mut Queue, seed: u64, rows: usize, scale: impl Fn(usize) -> f32) -> Vec<Tensor> {
    let one =
        |l: usize| -> Vec<f32> { noise(seed + l as u64, rows * D).iter().map(|v| v * scale(l)).collect() };
    (0..L).map(|l| q.tensor(rows, D, &one(l)).unwrap()).collect()
}

fn forward(q: &mut Queue, d: &mut dyn Dictionary, x: &[Tensor]) -> Vec<Vec<f32>> {
    let views: Vec<_> = x.iter().map(Tensor::view).collect();
    d.forward(q, &views, None, K).unwrap();
    d.reconstruction().into_iter().map(|y| q.download(y).unwrap()).collect()
}

#[test]
fn defect_1_folding_keeps_the_function_of_every_activation_and_gating() {
    let (q, rows) = (&mut queue("cpu"), 16);
    let root = (D as f32).sqrt();
    for act in ACTIVATIONS {
        for gated in [false, true] {
            let mut d = clt(q, act, gated);
            let _memory = plan(q, &mut *d, rows, None);
            let normalised = batch(q, 7, rows, |_| 1.0);
            let raw = batch(q, 7, rows, |l| NORMS[l] / root);
            let want = forward(q, &mut *d, &normalised);
            d.fold(q).unwrap();
            let _memory = plan(q, &mut *d, rows, None);
            let got = forward(q, &mut *d, &raw);
            for (t, (got, want)) in got.iter().zip(&want).enumerate() {
                let out = NORMS[L + t] / root;
                for (g, w) in got.iter().zip(want) {
                    assert!(
                        (g - w * out).abs() < 1e-4 * out,
                        "{act} gated {gated} target {t}: {g} {}",
                        w * out
                    );
                }
            }
        }
    }
}

/// Loss terms of a step on `rows` rows of which `mask` says which count.
fn step(
    q: &mut Queue,
    d: &mut dyn Dictionary,
    x: &[Tensor],
    y: &[Tensor],
    mask: &[u8],
    loss: &LossSettings,
) -> f32 {
    let n_tokens: usize = mask.iter().map(|&m| usize::from(m)).sum();
    let weight: Vec<f32> = mask.iter().map(|&m| f32::from(m) / n_tokens as f32).collect();
    let (w, m) = (q.tensor(mask.len(), 1, &weight).unwrap(), q.tensor(1, mask.len(), mask).unwrap());
    let input = StepInput {
        inputs: x.iter().map(Tensor::view).collect(),
        labels: y.iter().map(Tensor::view).collect(),
        context: None,
        mask: Some(m.view()),
        weight: w.view(),
        n_tokens,
    };
    d.train_step(q, &input, loss, Coefficients { k: K, l1: 0.3, lp: 0.0, auxk: 0.0 }, None).unwrap().loss
}

#[test]
fn rows_that_do_not_count_change_neither_loss_nor_gradient() {
    let (q, rows) = (&mut queue("cpu"), 10);
    let loss = LossSettings { sparsity: Some(SparsityLoss::Tanh), ..LossSettings::default() };
    for act in ["relu", "jumprelu", "topk", "layertopk"] {
        let mut d = clt(q, act, true);
        let _memory = plan(q, &mut *d, rows, Some(&loss));
        let (x, y) = (batch(q, 1, rows, |_| 1.0), batch(q, 9, rows, |_| 1.0));
        let mask: Vec<u8> = (0..rows).map(|r| u8::from(r < 6)).collect();
        let masked = step(q, &mut *d, &x, &y, &mask, &loss);
        let gradient = gradients(q, &mut *d).concat();
        let first = |all: &[Tensor], q: &mut Queue| -> Vec<Tensor> {
            let six = |t: &Tensor| q.download::<f32>(t.rows_view(0..6)).unwrap();
            let host: Vec<Vec<f32>> = all.iter().map(six).collect();
            host.iter().map(|h| q.tensor(6, D, h).unwrap()).collect()
        };
        let (x, y) = (first(&x, q), first(&y, q));
        let alone = step(q, &mut *d, &x, &y, &[1; 6], &loss);
        assert!((masked - alone).abs() < 1e-5 * alone, "{act}: {masked} {alone}");
        let again = gradients(q, &mut *d).concat();
        assert!(gradient.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-5), "{act}");
    }
}

#[test]
fn defect_6_metrics_come_for_each_layer() {
    let (q, rows) = (&mut queue("cpu"), 8);
    let loss = LossSettings::default();
    let mut d = clt(q, "layertopk", true);
    let (_memory, mut window) = plan(q, &mut *d, rows, Some(&loss));
    let x = batch(q, 1, rows, |_| 1.0);
    step(q, &mut *d, &x, &x, &vec![1; rows], &loss);
    let weight = vec![1.0 / rows as f32; rows];
    let w = q.tensor(rows, 1, &weight).unwrap();
    let views = || x.iter().map(Tensor::view).collect();
    let input = StepInput {
        inputs: views(),
        labels: views(),
        context: None,
        mask: None,
        weight: w.view(),
        n_tokens: rows,
    };
    window.observe(q, &mut *d, &input, &weight).unwrap();
    let found: BTreeMap<String, f64> = window.quality(q).unwrap().into_iter().collect();
    let layers = |key: &str| (0..L).map(|l| found[&key.replace('#', &l.to_string())]).collect::<Vec<f64>>();
    let sum = |key: &str| layers(key).iter().sum::<f64>();
    assert!((sum("clt_metrics/layer#/l0") - found["metrics/l0"]).abs() < 1e-9);
    assert!(found["metrics/l0"] > 0.0 && found["metrics/l0"] <= K as f64);
    let mean = sum("clt_metrics/layer#/explained_variance") / L as f64;
    assert!((mean - found["metrics/explained_variance"]).abs() < 1e-9);
    assert_eq!(sum("sparsity/above_1e-2_layer#"), found["sparsity/above_1e-2"]);
}

#[test]
fn defect_13_one_layer_encodes_as_among_all_with_gating_and_without() {
    let (q, rows) = (&mut queue("cpu"), 9);
    for act in ACTIVATIONS {
        for gated in [false, true] {
            let mut d = clt(q, act, gated);
            let _memory = plan(q, &mut *d, rows, None);
            let x = batch(q, 5, rows, |_| 1.0);
            forward(q, &mut *d, &x);
            let all: Vec<_> = (0..L).map(|l| dense_codes(q, vec![d.codes()[l]])).collect();
            for l in 0..L {
                match (d.encode_one(q, l, x[l].view(), K), act.contains("layer")) {
                    (Ok(one), false) => {
                        assert_eq!(dense_codes(q, vec![one]), all[l], "{act} {gated} layer {l}")
                    }
                    (Err(e), true) => assert!(e.to_string().contains("compete"), "{e}"),
                    (done, _) => panic!("{act}: {:?}", done.map(|_| ())),
                }
            }
            let e = d.encode_one(q, L, x[0].view(), K).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains("compete") || e.contains("layer 3"), "{e}");
        }
    }
}

#[test]
fn same_layer_only_decoders_start_with_nothing_written_to_later_layers() {
    let q = &mut queue("cpu");
    let hooks = |kind: &str| (0..L).map(|l| format!("{kind}.{l}")).collect::<Vec<_>>();
    let settings = json!({
        "sae_type": "clt", "d_model": D, "expansion_factor": 2.0, "act_fn": "topk", "top_k": K,
        "hook_points_in": hooks("in"), "hook_points_out": hooks("out"), "init_cross_layer_decoder_all_zero": true,
    });
    let mut d = dictionary::build(q, &serde_json::from_value(settings).unwrap()).unwrap();
    let init = RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None, seed: 3 };
    d.init_random(q, &init).unwrap();
    for t in 0..L {
        let w = d.params().into_iter().find(|p| p.name == format!("W_D.{t}")).unwrap();
        let host: Vec<f32> = q.download(&w.value).unwrap();
        let (before, own) = host.split_at(t * 2 * D * D);
        assert!(before.iter().all(|v| *v == 0.0) && own.iter().filter(|v| **v != 0.0).count() > D * D, "{t}");
    }
    // So layer 0 alone decides what is written to it, and each layer moves its own reconstruction only.
    let _memory = plan(q, &mut *d, 4, None);
    let x = batch(q, 5, 4, |_| 1.0);
    let before = forward(q, &mut *d, &x);
    let mut moved = x;
    moved[0] = batch(q, 77, 4, |_| 1.0).swap_remove(0);
    let after = forward(q, &mut *d, &moved);
    assert!(before[0] != after[0] && before[1..] == after[1..]);
}

#[test]
fn batchlayertopk_keeps_the_best_of_all_layers_and_rows_and_the_first_among_equals() {
    let rows = 7;
    for gated in [false, true] {
        let codes: Vec<Vec<f32>> = ["cpu", "reference"]
            .map(|device| {
                let q = &mut queue(device);
                let mut d = clt(q, "batchlayertopk", gated);
                let _memory = plan(q, &mut *d, rows, None);
                let mut x = batch(q, 5, rows, |_| 1.0);
                // Two rows alike, so that entries tie.
                for x in &mut x {
                    let row: Vec<f32> = q.download(x.rows_view(2..3)).unwrap();
                    q.upload(&row, x.rows_mut(4..5)).unwrap();
                }
                forward(q, &mut *d, &x);
                let norms = d.decoder_norms(q).unwrap();
                let codes = dense_codes(q, d.codes());
                let weigh = |(i, f): (usize, &f32)| f * if gated { norms[i % norms.len()] } else { 1.0 };
                let kept: Vec<f32> = codes.iter().enumerate().map(weigh).filter(|g| *g > 0.0).collect();
                assert_eq!(kept.len(), K * rows, "{device} {gated}");
                // With every place open, what was kept before is the largest there is.
                let mut all = clt(q, "relu", false);
                let _memory = plan(q, &mut *all, rows, None);
                forward(q, &mut *all, &x);
                let every = dense_codes(q, all.codes());
                let mut every: Vec<f32> = every.iter().enumerate().map(weigh).collect();
                every.sort_by(|a, b| b.total_cmp(a));
                let least = kept.iter().copied().fold(f32::INFINITY, f32::min);
                assert!((least - every[K * rows - 1]).abs() < 1e-5, "{device} {gated}: {least}");
                codes
            })
            .into();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(codes[0].iter().zip(&codes[1]).all(close), "{gated}");
    }
}

#[test]
fn batchlayertopk_keeps_its_budget_where_layers_have_equal_values_and_the_first_layers_among_equals() {
    let rows = 7;
    for device in ["cpu", "reference"] {
        let q = &mut queue(device);
        let mut d = clt(q, "batchlayertopk", false);
        // Every layer reads the same, so that every value is there once in each layer.
        for p in d.params_mut().into_iter().filter(|p| ["W_E", "b_E"].contains(&p.name.as_str())) {
            let host: Vec<f32> = q.download(&p.value).unwrap();
            let first = host[..host.len() / L].repeat(L);
            q.upload(&first, &mut p.value).unwrap();
        }
        let x = batch(q, 5, rows, |_| 1.0).swap_remove(0);
        let same: Vec<_> = (0..L).map(|_| x.view()).collect();
        let _memory = plan(q, &mut *d, rows, None);
        d.forward(q, &same, None, K).unwrap();
        let codes: Vec<Vec<f32>> = d.codes().into_iter().map(|c| dense_codes(q, vec![c])).collect();
        let kept = |l: usize| codes[l].iter().filter(|f| **f > 0.0).count();
        assert_eq!((0..L).map(kept).sum::<usize>(), K * rows, "{device}");
        // 35 = 11 of every layer and the next largest of the first two.
        assert_eq!((kept(0), kept(1), kept(2)), (12, 12, 11), "{device}");
        assert!(codes[0] == codes[1] && codes[1].iter().zip(&codes[2]).all(|(a, b)| a == b || *b == 0.0));
    }
}

#[test]
fn batchlayertopk_never_holds_the_pre_activations_of_all_layers() {
    let q = &mut queue("cpu");
    let (rows, s) = (512, 100 * D);
    let hooks = |kind: &str| (0..8).map(|l| format!("{kind}.{l}")).collect::<Vec<_>>();
    let settings = json!({
        "sae_type": "clt", "d_model": D, "expansion_factor": 100.0, "act_fn": "batchlayertopk", "top_k": K,
        "hook_points_in": hooks("in"), "hook_points_out": hooks("out"),
    });
    let mut d = dictionary::build(q, &serde_json::from_value(settings).unwrap()).unwrap();
    let mut arena = Arena::planning("a forward");
    d.plan(&mut arena, rows, K, None).unwrap();
    let one_layer = 4 * rows * s;
    assert!((one_layer..3 * one_layer / 2).contains(&arena.used()), "{} of {one_layer}", arena.used());
}

#[test]
fn gradients_agree_with_central_differences() {
    let (q, rows) = (&mut queue("reference"), 5);
    // With the decoder norms in the penalty only ungraded, decoders are checked without a penalty.
    for (act, sparsity) in ACTIVATIONS.iter().flat_map(|a| [(*a, None), (*a, Some(SparsityLoss::TanhQuad))]) {
        let loss = LossSettings { sparsity, ..LossSettings::default() };
        let mut d = clt(q, act, false);
        let _memory = plan(q, &mut *d, rows, Some(&loss));
        let (x, y) = (batch(q, 1, rows, |_| 1.0), batch(q, 9, rows, |_| 1.0));
        step(q, &mut *d, &x, &y, &[1, 1, 0, 1, 1], &loss);
        let held = gradients(q, &mut *d);
        let names = d.params().into_iter().map(|p| p.name.clone());
        let grads: Vec<(String, Vec<f32>)> = names.zip(held).collect();
        for (i, (name, grad)) in grads.iter().enumerate() {
            // A threshold's gradient is a straight-through estimate, and norms have none.
            if name.contains("threshold") || (sparsity.is_some() && name.starts_with("W_D")) {
                continue;
            }
            let host: Vec<f32> = q.download(&d.params()[i].value).unwrap();
            for at in (0..host.len()).step_by(host.len() / 4 + 1) {
                let mut loss_at = |q: &mut Queue, moved: f32| {
                    let mut host = host.clone();
                    host[at] += moved;
                    q.upload(&host, &mut d.params_mut()[i].value).unwrap();
                    f64::from(step(q, &mut *d, &x, &y, &[1, 1, 0, 1, 1], &loss))
                };
                let h = 2e-3;
                let slope = (loss_at(q, h) - loss_at(q, -h)) / f64::from(2.0 * h);
                loss_at(q, 0.0);
                let error = (slope - f64::from(grad[at])).abs();
                assert!(
                    error < 3e-3 * (1.0 + slope.abs()),
                    "{act} {sparsity:?} {name}[{at}]: {} {slope}",
                    grad[at]
                );
            }
        }
    }
}
