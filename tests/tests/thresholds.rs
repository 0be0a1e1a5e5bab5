//! Selections over a batch become selections of single rows: running thresholds are remembered in training, kept in
//! checkpoints, follow folding, and make inference independent of the batch, in every variant that has such a selection. And
//! every selection by rank becomes one by fixed thresholds that keeps as many.

use lm_saes::{
    dictionary::{
        Calibration, Coefficients, Dictionary, RandomInit, StepInput, build,
        checkpoint::{self, LoadOptions},
    },
    settings::{DTypeName, DictionarySettings},
    training::{LossSettings, evaluate::plan_inference},
};
use lm_saes_runtime::{Queue, Tensor, View};
use lm_saes_tests::{dense_codes, noise, planned, queue};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const D: usize = 12;
const K: usize = 4;
/// Rows of a batch, in contexts of [`LEN`].
const ROWS: usize = 48;
const LEN: usize = 8;

fn with(base: &Value, more: Value) -> Value {
    let mut all = base.clone();
    more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    all
}

fn base() -> Value {
    json!({
        "d_model": D, "expansion_factor": 3.0, "top_k": K, "act_fn": "batchtopk", "norm_activation": "dataset-wise",
    })
}

/// One of every variant whose selection is over the batch.
fn over_the_batch() -> Vec<Value> {
    let hooks = json!({"hook_point_in": "a", "hook_point_out": "b"});
    let layers = json!({"sae_type": "clt", "hook_points_in": ["a", "b"], "hook_points_out": ["c", "d"]});
    let mut all = vec![with(
        &base(),
        json!({"sae_type": "crosscoder", "hook_points": ["a", "b"], "sparsity_include_decoder_norm": true}),
    )];
    for gated in [true, false] {
        let base = with(&base(), json!({"sparsity_include_decoder_norm": gated}));
        let one = with(&base, hooks.clone());
        all.push(with(&one, json!({"sae_type": "sae"})));
        all.push(with(&one, json!({"sae_type": "matryoshka", "widths": [6, 36]})));
        all.push(with(
            &one,
            json!({"sae_type": "lorsa", "n_qk_heads": 6, "d_qk_head": 4, "rotary_dim": 4, "n_ctx": LEN}),
        ));
        all.push(with(
            &one,
            json!({"sae_type": "molt", "rank_counts": {"1": 12, "2": 6, "3": 6}, "expansion_factor": 2.0}),
        ));
        all.push(with(&base, layers.clone()));
        all.push(with(&with(&base, layers.clone()), json!({"act_fn": "batchlayertopk"})));
    }
    all
}

fn settings(of: &Value) -> DictionarySettings {
    serde_json::from_value(of.clone()).unwrap_or_else(|e| panic!("{of}: {e}"))
}

/// Every parameter random, every hook point with a norm of its own.
fn dictionary(q: &mut Queue, of: &Value) -> Box<dyn Dictionary> {
    let mut d = build(q, &settings(of)).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate() {
        let values: Vec<f32> = noise(i as u64 + 3, p.value.len()).iter().map(|v| v * 0.7).collect();
        q.upload(&values, &mut p.value).unwrap();
    }
    let norms = [("a", 2.5), ("b", 0.7), ("c", 4.0), ("d", 1.6)];
    d.set_norms(norms.map(|(hook, norm)| (hook.to_string(), norm)).into());
    d
}

/// Normalised activations of each of these hook points.
fn batch(q: &mut Queue, hooks: &[String], seed: u64) -> Vec<Tensor> {
    let of = |h: &String| noise(seed * 100 + u64::from(h.as_bytes()[0]), ROWS * D);
    hooks.iter().map(|h| q.tensor(ROWS, D, &of(h)).unwrap()).collect()
}

/// Steps on `batches` batches, each another one.
fn train(q: &mut Queue, d: &mut dyn Dictionary, batches: u64) {
    let loss = LossSettings::default();
    let _memory = planned(q, d, ROWS, K, Some(&loss));
    let weight = q.tensor(ROWS, 1, &[1.0 / ROWS as f32; ROWS]).unwrap();
    for seed in 1..=batches {
        let (x, y) = (batch(q, &d.hook_points_in(), seed), batch(q, &d.hook_points_out(), 50 + seed));
        let input = StepInput {
            inputs: x.iter().map(Tensor::view).collect(),
            labels: y.iter().map(Tensor::view).collect(),
            context: Some(LEN),
            mask: None,
            weight: weight.view(),
            n_tokens: ROWS,
        };
        let c = Coefficients { k: K, l1: 0.0, lp: 0.0, auxk: 0.0 };
        d.train_step(q, &input, &loss, c, None).unwrap();
    }
}

/// Codes and reconstructions of these rows at inference.
fn infer(q: &mut Queue, d: &mut dyn Dictionary, x: &[View<'_>]) -> (Vec<f32>, Vec<Vec<f32>>) {
    let rows = x[0].rows();
    let _memory = plan_inference(q, d, rows).unwrap();
    d.forward(q, x, Some(LEN.min(rows)), K).unwrap();
    let y = d.reconstruction().into_iter().map(|y| q.download(y).unwrap()).collect();
    (dense_codes(q, d.codes()), y)
}

fn views(x: &[Tensor]) -> Vec<View<'_>> {
    x.iter().map(Tensor::view).collect()
}

fn thresholds(d: &dyn Dictionary) -> Option<Vec<f32>> {
    d.running_thresholds().values().map(<[f32]>::to_vec)
}

#[test]
fn rows_encoded_alone_and_in_a_batch_have_the_same_codes_once_training_left_a_threshold() {
    let q = &mut queue();
    for of in over_the_batch() {
        let mut d = dictionary(q, &of);
        let x = batch(q, &d.hook_points_in(), 9);
        // A row without its context is another input to attention, so contexts stay whole.
        let alone = if of["sae_type"] == "lorsa" { LEN } else { 1 };
        let in_parts = |q: &mut Queue, d: &mut dyn Dictionary| -> Vec<f32> {
            let part = |r: usize| x.iter().map(move |x| x.rows_view(r..r + alone)).collect::<Vec<_>>();
            (0..ROWS).step_by(alone).flat_map(|r| infer(q, d, &part(r)).0).collect()
        };
        // Before training there is nothing but the batch to select by.
        assert_eq!(thresholds(&*d), None, "{of}");
        let by_batch = infer(q, &mut *d, &views(&x)).0;
        assert_ne!(by_batch, in_parts(q, &mut *d), "{of}");
        train(q, &mut *d, 3);
        let (whole, _) = infer(q, &mut *d, &views(&x));
        assert_eq!(whole, in_parts(q, &mut *d), "{of}");
        let active = |codes: &[f32]| codes.iter().filter(|&&c| c > 0.0).count();
        let (few, many) = (active(&by_batch) * 3 / 4, active(&by_batch) * 4 / 3);
        assert!((few..many).contains(&active(&whole)), "{of}: {} {}", active(&whole), active(&by_batch));
        // The reference system's way stays open.
        d.running_thresholds_mut().select_by_batch(true);
        assert_eq!(infer(q, &mut *d, &views(&x)).0, by_batch, "{of}");
    }
}

#[test]
fn the_running_threshold_is_the_first_batchs_smallest_kept_value_and_then_moves_a_twentieth_of_the_way() {
    let q = &mut queue();
    for of in over_the_batch() {
        let mut d = dictionary(q, &of);
        train(q, &mut *d, 1);
        let first = thresholds(&*d).unwrap();
        // What the batch kept, in compared values; of each layer, or of all.
        let mut seen = Vec::new();
        for seed in [1, 2] {
            let mut other = dictionary(q, &of);
            let x = batch(q, &d.hook_points_in(), seed);
            let codes = infer(q, &mut *other, &views(&x)).0;
            let heads = other.codes().len();
            let norms = match other.settings().gated() {
                true => other.decoder_norms(q).unwrap(),
                false => vec![1.0; heads * other.d_sae()],
            };
            let compared: Vec<f32> = codes.iter().zip(norms.iter().cycle()).map(|(c, n)| c * n).collect();
            let s = other.d_sae();
            let of_head = |head: usize| {
                let values = compared.chunks_exact(s).skip(head).step_by(heads).flatten();
                values.copied().filter(|v| *v > 0.0).fold(f32::INFINITY, f32::min)
            };
            let each: Vec<f32> = (0..heads).map(of_head).collect();
            seen.push(match first.len() {
                1 => vec![each.iter().copied().fold(f32::INFINITY, f32::min)],
                _ => each,
            });
        }
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs());
        assert!(close(&first, &seen[0]), "{of}: {first:?} {:?}", seen[0]);
        train(q, &mut *d, 1);
        assert!(close(&thresholds(&*d).unwrap(), &first), "{of}: the same batch moves nothing");
        let mut d = dictionary(q, &of);
        train(q, &mut *d, 2);
        let want: Vec<f32> = first.iter().zip(&seen[1]).map(|(old, new)| old + 0.05 * (new - old)).collect();
        assert!(close(&thresholds(&*d).unwrap(), &want), "{of}: {want:?}");
    }
}

#[test]
fn running_thresholds_come_back_from_checkpoints_of_any_precision_bit_by_bit() {
    let q = &mut queue();
    for of in over_the_batch() {
        let mut d = dictionary(q, &of);
        train(q, &mut *d, 2);
        let dir = tempfile::tempdir().unwrap();
        let options = LoadOptions { strict: true, fold: false };
        checkpoint::save(q, &*d, dir.path(), DTypeName::Bf16, &Map::new()).unwrap();
        let back = checkpoint::load(q, dir.path(), options).unwrap().dictionary;
        assert!(thresholds(&*d).is_some() && thresholds(&*back) == thresholds(&*d), "{of}");
        // No tensor beside the reference system's, whose loader refuses others.
        let file = lm_saes::tensorfile::TensorFile::open(dir.path().join(checkpoint::WEIGHTS)).unwrap();
        assert!(file.list().iter().all(|t| !t.name.contains("threshold")), "{of}");
        // Weights of before there were thresholds: what is known is forgotten rather than mixed with them.
        let older = tempfile::tempdir().unwrap();
        let untrained = dictionary(q, &of);
        checkpoint::save(q, &*untrained, older.path(), DTypeName::F32, &Map::new()).unwrap();
        checkpoint::load_weights(q, &mut *d, &older.path().join(checkpoint::WEIGHTS), true).unwrap();
        assert_eq!(thresholds(&*d), None, "{of}");
    }
}

#[test]
fn a_new_start_forgets_the_running_threshold() {
    let q = &mut queue();
    for of in over_the_batch() {
        let mut d = dictionary(q, &of);
        train(q, &mut *d, 1);
        let init =
            RandomInit { encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None, seed: 1 };
        d.init_random(q, &init).unwrap();
        assert_eq!(thresholds(&*d), None, "{of}");
    }
}

#[test]
fn running_thresholds_follow_folding() {
    let q = &mut queue();
    for of in over_the_batch() {
        let mut d = dictionary(q, &of);
        train(q, &mut *d, 2);
        let hooks = d.hook_points_in();
        let x = batch(q, &hooks, 9);
        let norms: BTreeMap<String, f32> = d.norms().clone();
        let (codes, y) = infer(q, &mut *d, &views(&x));
        let scale = |hook: &String| norms[hook] / (D as f32).sqrt();
        let raw: Vec<Tensor> = hooks
            .iter()
            .zip(&x)
            .map(|(hook, x)| {
                let raw: Vec<f32> = q.download::<f32>(x).unwrap().iter().map(|v| v * scale(hook)).collect();
                q.tensor(ROWS, D, &raw).unwrap()
            })
            .collect();
        d.fold(q).unwrap();
        let (folded, after) = infer(q, &mut *d, &views(&raw));
        let active = |c: &[f32]| c.iter().map(|&v| v > 0.0).collect::<Vec<_>>();
        assert_eq!(active(&codes), active(&folded), "{of}");
        for ((hook, y), after) in d.hook_points_out().iter().zip(&y).zip(&after) {
            let largest = y.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let worst = y.iter().zip(after).map(|(y, a)| (y * scale(hook) - a).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4 * largest * scale(hook), "{of} {hook}: {worst}");
        }
    }
}

/// One of every variant with every selection by rank it has.
fn by_rank() -> Vec<Value> {
    let of = |settings: Value| {
        let others: &[&str] = match (settings["sae_type"].as_str(), settings["act_fn"].as_str()) {
            (Some("clt"), Some("batchtopk")) => &["topk", "layertopk", "batchtopk", "batchlayertopk"],
            (_, Some("batchtopk")) => &["topk", "batchtopk"],
            _ => &[],
        };
        others.iter().map(|act_fn| with(&settings, json!({"act_fn": act_fn}))).collect::<Vec<_>>()
    };
    over_the_batch().into_iter().flat_map(of).collect()
}

/// How many activations each head or layer has over these batches, and its smallest compared value.
fn active(q: &mut Queue, d: &mut dyn Dictionary, batches: &[Vec<Tensor>]) -> Vec<(usize, f32)> {
    let (s, gated) = (d.d_sae(), d.settings().gated());
    let mut norms = d.decoder_norms(q).unwrap();
    let scales = d.settings().variant.facts().gate_scales().to_vec();
    norms.chunks_exact_mut(s).zip(scales).for_each(|(n, scale)| n.iter_mut().for_each(|n| *n *= scale));
    let heads = norms.len() / s;
    let mut all = vec![(0, f32::INFINITY); heads];
    for x in batches {
        let codes = infer(q, d, &views(x)).0;
        for (i, f) in codes.iter().enumerate().filter(|(_, f)| **f > 0.0) {
            let (head, column) = (i / s % heads, i % (heads * s));
            let compared = if gated { f * norms[column] } else { *f };
            all[head] = (all[head].0 + 1, all[head].1.min(compared));
        }
    }
    all
}

#[test]
fn thresholds_keep_as_many_activations_as_the_ranks_they_replace_in_every_layer_or_head_that_ranks_on_its_own()
 {
    let q = &mut queue();
    for of in by_rank() {
        let mut d = dictionary(q, &of);
        let batches: Vec<Vec<Tensor>> = (1..=8).map(|seed| batch(q, &d.hook_points_in(), seed)).collect();
        let before = active(q, &mut *d, &batches);
        let mut calibration = Calibration::new(q, &*d).unwrap();
        let memory = plan_inference(q, calibration.form(), ROWS).unwrap();
        for x in &batches {
            calibration.observe(q, &views(x), Some(LEN), &[1; ROWS]).unwrap();
        }
        drop(memory);
        let thresholds = calibration.thresholds().unwrap();
        let mut converted = calibration.finish(q, &thresholds).unwrap();
        assert_eq!(converted.settings().act_fn(), lm_saes::settings::ActFn::JumpRelu, "{of}");
        let after = active(q, &mut *converted, &batches);
        let own = thresholds.len() == before.len();
        assert_eq!(
            own,
            before.len() == 1
                || of["act_fn"] == "topk"
                || (of["sae_type"] == "clt" && of["act_fn"] == "batchtopk")
        );
        let sums = |all: &[(usize, f32)]| -> Vec<usize> {
            let each: Vec<usize> = all.iter().map(|a| a.0).collect();
            if own { each } else { vec![each.iter().sum()] }
        };
        for (was, is) in sums(&before).iter().zip(sums(&after)) {
            assert!(*was > 100 && is.abs_diff(*was) <= 1 + was / 200, "{of}: {was} became {is}");
        }
        // The sums agree and nothing below a threshold is let through: so the largest compared values are.
        if converted.settings().gated() == d.settings().gated() && of["sae_type"] != "crosscoder" {
            for (at, (_, smallest)) in after.iter().enumerate() {
                let threshold = if own { thresholds[at] } else { thresholds[0] };
                assert!(*smallest > threshold * (1.0 - 1e-5), "{of}: {smallest} {threshold}");
            }
        }
        // It is a dictionary like any other.
        let dir = tempfile::tempdir().unwrap();
        checkpoint::save(q, &*converted, dir.path(), DTypeName::F32, &Map::new()).unwrap();
        let options = LoadOptions { strict: true, fold: false };
        let mut back = checkpoint::load(q, dir.path(), options).unwrap().dictionary;
        assert_eq!(active(q, &mut *back, &batches[..1]), active(q, &mut *converted, &batches[..1]), "{of}");
        back.fold(q).unwrap();
    }
}

#[test]
fn gating_by_decoder_norms_decides_what_a_converted_dictionary_lets_through() {
    let q = &mut queue();
    for of in by_rank().into_iter().filter(|of| of["sparsity_include_decoder_norm"] == true) {
        let mut d = dictionary(q, &of);
        let x = batch(q, &d.hook_points_in(), 1);
        let before = infer(q, &mut *d, &views(&x)).0;
        let mut calibration = Calibration::new(q, &*d).unwrap();
        let memory = plan_inference(q, calibration.form(), ROWS).unwrap();
        calibration.observe(q, &views(&x), Some(LEN), &[1; ROWS]).unwrap();
        drop(memory);
        let thresholds = calibration.thresholds().unwrap();
        let mut converted = calibration.finish(q, &thresholds).unwrap();
        let after = infer(q, &mut *converted, &views(&x)).0;
        let same = before.iter().zip(&after).filter(|(b, a)| (**b > 0.0) == (**a > 0.0)).count();
        let changed = before.len() - same;
        let kept = before.iter().filter(|b| **b > 0.0).count();
        // One batch decided, so a selection over the batch comes back but for values in the threshold's bin; ranks of single
        // rows only on the whole.
        let most = if of["act_fn"].as_str().unwrap().starts_with("batch") { 2 + kept / 100 } else { kept };
        assert!(changed <= most, "{of}: {changed} of {kept}");
        let values = before.iter().zip(&after).filter(|(b, a)| **b > 0.0 && **a > 0.0);
        assert!(values.into_iter().all(|(b, a)| (a - b).abs() < 1e-5 * b.abs()), "{of}");
    }
}

#[test]
fn what_has_no_rank_that_thresholds_can_replace_is_refused_with_the_reason() {
    let q = &mut queue();
    let hooks = json!({"sae_type": "sae", "hook_point_in": "a", "hook_point_out": "a"});
    for (change, why) in [
        (json!({"act_fn": "relu"}), "no budget"),
        (json!({"act_fn": "jumprelu"}), "thresholds already"),
        (json!({"act_fn": "abstopk"}), "either sign"),
        (json!({"act_fn": "groupmax"}), "each group"),
        (json!({"sae_type": "gated", "act_fn": "relu"}), "no budget"),
    ] {
        let d = dictionary(q, &with(&with(&base(), hooks.clone()), change.clone()));
        let e = Calibration::new(q, &*d).err().unwrap().to_string();
        assert!(e.contains(why), "{change}: {e}");
    }
    let d = dictionary(q, &with(&base(), hooks));
    let e = Calibration::new(q, &*d).unwrap().thresholds().unwrap_err().to_string();
    assert!(e.contains("no text"), "{e}");
}
