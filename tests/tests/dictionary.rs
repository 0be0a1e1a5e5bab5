//! Properties of dictionaries that need no stored values: folding keeps the function, checkpoints come back and stay
//! consistent, damage is named, initialisation does what it says, memory is what was planned.

use lm_saes::{
    Error,
    dictionary::{
        Coefficients, DeadFeatures, Dictionary, RandomInit, StepInput, build,
        checkpoint::{self, LoadOptions},
        normalise::{Scaling, Scratch},
    },
    settings::{DTypeName, DictionarySettings, NormActivation},
    tensorfile::{self, OutTensor, Precision, TensorFile},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, Queue, RandomKind, Tensor};
use lm_saes_tests::{dense_codes, queue};
use serde_json::{Map, Value, json};
use std::{fs, path::Path};

const D: usize = 12;
const S: usize = 36;
const K: usize = 5;
const ROWS: usize = 40;

fn settings(change: Value) -> DictionarySettings {
    let mut all = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 3.0, "hook_point_in": "a.in", "hook_point_out": "b.out",
        "act_fn": "topk", "top_k": K,
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

fn plan(d: &mut dyn Dictionary, q: &Queue, rows: usize, loss: Option<&LossSettings>) -> (usize, usize) {
    let mut planned = Arena::planning("step");
    d.plan(&mut planned, rows, K, loss).unwrap();
    let mut arena = Arena::build(&planned, q.device()).unwrap();
    d.plan(&mut arena, rows, K, loss).unwrap();
    (planned.used(), arena.used())
}

/// Codes and reconstruction of raw inputs, both on the host, as a user of the dictionary gets them.
fn apply(q: &mut Queue, d: &mut dyn Dictionary, raw: &Tensor) -> (Vec<f32>, Vec<f32>) {
    let rows = raw.rows();
    plan(d, q, rows, None);
    let mut scratch = Scratch::new(q, rows).unwrap();
    let mut x = q.empty(rows, D, DType::F32).unwrap();
    let mut factors = q.empty(rows, 1, DType::F32).unwrap();
    let scaling = Scaling::of(d, "a.in").unwrap();
    scaling.scale(q, raw.view(), None, &mut scratch, factors.view_mut(), x.view_mut()).unwrap();
    d.forward(q, &[x.view()], None, K).unwrap();
    let codes = dense_codes(q, d.codes());
    let mut y = q.empty(rows, D, DType::F32).unwrap();
    let pair = (raw.view(), d.reconstruction()[0]);
    let scaling = Scaling::of(d, "b.out").unwrap();
    scaling.restore(q, pair, None, &mut scratch, factors.view_mut(), y.view_mut()).unwrap();
    (codes, q.download(&y).unwrap())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn defects_1_and_4_folding_changes_no_reconstruction_for_any_activation_gating_and_gate() {
    let mut q = queue();
    let raw = random(&mut q, ROWS, D, 1);
    for act_fn in ["relu", "jumprelu", "topk", "batchtopk"] {
        for gating in [true, false] {
            for glu in [true, false] {
                for bias in [true, false] {
                    let settings = settings(json!({
                        "act_fn": act_fn, "sparsity_include_decoder_norm": gating, "use_glu_encoder": glu, "use_decoder_bias": bias,
                    }));
                    let mut d = scrambled(&mut q, &settings);
                    let (codes, before) = apply(&mut q, &mut *d, &raw);
                    d.fold(&mut q).unwrap();
                    assert_eq!(d.settings().norm_activation(), NormActivation::Inference);
                    let (folded_codes, after) = apply(&mut q, &mut *d, &raw);
                    let difference = largest_difference(&before, &after);
                    assert!(difference < 2e-5, "{settings:?}: {difference}");
                    let active = |c: &[f32]| c.iter().map(|&v| v > 0.0).collect::<Vec<_>>();
                    assert_eq!(active(&codes), active(&folded_codes), "{settings:?}");
                    assert!(codes.iter().any(|&c| c > 0.0), "{settings:?}: nothing was active");
                }
            }
        }
    }
}

#[test]
fn folding_without_norms_or_in_another_mode_is_refused() {
    let mut q = queue();
    let mut d = scrambled(&mut q, &settings(json!({})));
    d.set_norms([("a.in".to_string(), 2.5)].into());
    let error = d.fold(&mut q).unwrap_err().to_string();
    assert!(error.contains("b.out"), "{error}");
    let mut d = scrambled(&mut q, &settings(json!({"norm_activation": "token-wise"})));
    assert!(d.fold(&mut q).unwrap_err().to_string().contains("dataset-wise"));
}

fn save(q: &mut Queue, d: &dyn Dictionary, dir: &Path) {
    checkpoint::save(q, d, dir, DTypeName::F32, &Map::new()).unwrap();
}

const STRICT: LoadOptions = LoadOptions { strict: true, fold: false };

fn values(q: &mut Queue, d: &dyn Dictionary) -> Vec<(String, Vec<f32>)> {
    d.params().into_iter().map(|p| (p.name.clone(), q.download(&p.value).unwrap())).collect()
}

fn load_error(q: &mut Queue, path: &Path) -> String {
    checkpoint::load(q, path, STRICT).err().expect("loading should have failed").to_string()
}

#[test]
fn a_saved_dictionary_comes_back_bit_by_bit_with_settings_norms_and_extras() {
    let mut q = queue();
    for change in [json!({"act_fn": "jumprelu", "use_glu_encoder": true}), json!({"use_decoder_bias": false})]
    {
        let dir = tempfile::tempdir().unwrap();
        let d = scrambled(&mut q, &settings(change));
        let extras = json!({"tokens": {"prepend_bos": true}}).as_object().unwrap().clone();
        checkpoint::save(&mut q, &*d, dir.path(), DTypeName::F32, &extras).unwrap();
        let loaded = checkpoint::load(&mut q, dir.path(), STRICT).unwrap();
        assert_eq!(loaded.dictionary.settings(), d.settings());
        assert_eq!(loaded.dictionary.norms(), d.norms());
        assert_eq!(values(&mut q, &*loaded.dictionary), values(&mut q, &*d));
        assert_eq!(loaded.extras["tokens"]["prepend_bos"], true);
        assert_eq!(loaded.extras["dtype"], "torch.float32");
        let file = TensorFile::open(dir.path().join("sae_weights.safetensors")).unwrap();
        assert_eq!(file.info("W_E").unwrap().shape, [D, S]);
        assert!(file.info("dataset_average_activation_norm.a.in").unwrap().shape.is_empty());
    }
}

#[test]
fn half_precision_files_round_to_nearest_and_say_so() {
    let mut q = queue();
    let dir = tempfile::tempdir().unwrap();
    let d = scrambled(&mut q, &settings(json!({})));
    checkpoint::save(&mut q, &*d, dir.path(), DTypeName::Bf16, &Map::new()).unwrap();
    let loaded = checkpoint::load(&mut q, dir.path(), STRICT).unwrap();
    assert_eq!(loaded.extras["dtype"], "torch.bfloat16");
    for ((name, got), (_, want)) in values(&mut q, &*loaded.dictionary).iter().zip(values(&mut q, &*d)) {
        let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs() / w.abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst <= 1.0 / 256.0, "{name}: {worst}");
    }
}

#[test]
fn a_folded_dictionary_is_saved_as_folded_and_never_folded_twice() {
    let mut q = queue();
    let dir = tempfile::tempdir().unwrap();
    let mut d = scrambled(&mut q, &settings(json!({})));
    d.fold(&mut q).unwrap();
    save(&mut q, &*d, dir.path());
    let config: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["norm_activation"], "inference");
    assert_eq!(config["lm_saes"]["folded"], true);
    let options = LoadOptions { strict: true, fold: true };
    let loaded = checkpoint::load(&mut q, dir.path(), options).unwrap();
    assert_eq!(values(&mut q, &*loaded.dictionary), values(&mut q, &*d));
}

#[test]
fn a_crash_between_the_two_files_leaves_settings_and_weights_of_one_save() {
    let mut q = queue();
    let dir = tempfile::tempdir().unwrap();
    let mut d = scrambled(&mut q, &settings(json!({})));
    save(&mut q, &*d, dir.path());
    let old = fs::read(dir.path().join("config.json")).unwrap();
    d.fold(&mut q).unwrap();
    save(&mut q, &*d, dir.path());
    // The state on disk had the machine stopped after the first rename.
    fs::write(dir.path().join("config.json"), old).unwrap();
    let loaded = checkpoint::load(&mut q, dir.path(), STRICT).unwrap();
    assert_eq!(loaded.dictionary.settings(), d.settings());
    assert_eq!(checkpoint::load_settings(dir.path()).unwrap(), *d.settings());
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_eq!(checkpoint::load(&mut q, dir.path(), STRICT).unwrap().dictionary.settings(), d.settings());
}

#[test]
fn settings_edited_by_hand_count() {
    let mut q = queue();
    let dir = tempfile::tempdir().unwrap();
    let d = scrambled(&mut q, &settings(json!({})));
    save(&mut q, &*d, dir.path());
    let file = dir.path().join("config.json");
    let text = fs::read_to_string(&file).unwrap().replace("\"top_k\": 5", "\"top_k\": 9");
    fs::write(&file, text).unwrap();
    let loaded = checkpoint::load(&mut q, dir.path(), STRICT).unwrap();
    assert_eq!(loaded.dictionary.settings().top_k(), 9);
}

#[test]
fn damaged_checkpoints_are_refused_by_file_and_tensor() {
    let mut q = queue();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert!(load_error(&mut q, path).contains("no dictionary here"));
    fs::write(path.join("sae_weights.pt"), "").unwrap();
    assert!(load_error(&mut q, path).contains("only safetensors"));

    let d = scrambled(&mut q, &settings(json!({"act_fn": "jumprelu"})));
    let write = |change: &dyn Fn(&mut Vec<OutTensor>)| {
        let mut tensors = vec![
            OutTensor { name: "W_E".into(), shape: vec![D, S], values: vec![0.5; D * S] },
            OutTensor { name: "b_E".into(), shape: vec![S], values: vec![0.5; S] },
            OutTensor { name: "W_D".into(), shape: vec![S, D], values: vec![0.5; D * S] },
            OutTensor { name: "b_D".into(), shape: vec![D], values: vec![0.5; D] },
            OutTensor {
                name: "activation_function.log_jumprelu_threshold".into(),
                shape: vec![S],
                values: vec![f32::NEG_INFINITY; S],
            },
        ];
        change(&mut tensors);
        let file = path.join("sae_weights.safetensors");
        tensorfile::write(&file, &tensors, Precision::F32, &[]).unwrap();
    };
    write(&|_| ());
    assert!(load_error(&mut q, path).contains("config.json"));
    let config = serde_json::to_string(d.settings()).unwrap();
    fs::write(path.join("config.json"), &config).unwrap();
    assert!(checkpoint::load(&mut q, path, STRICT).is_ok(), "a threshold of 0 is legal");

    write(&|t| drop(t.remove(1)));
    let error = load_error(&mut q, path);
    assert!(error.contains("missing b_E") && error.contains("strict_loading"), "{error}");
    let lenient = LoadOptions { strict: false, fold: false };
    assert!(checkpoint::load(&mut q, path, lenient).is_ok());
    write(&|t| t.push(OutTensor { name: "W_X".into(), shape: vec![1], values: vec![0.0] }));
    assert!(load_error(&mut q, path).contains("unexpected W_X"));
    write(&|t| t[0].shape = vec![S, D]);
    let error = load_error(&mut q, path);
    assert!(error.contains("W_E") && error.contains("[36, 12]") && error.contains("[12, 36]"), "{error}");
    write(&|t| t[2].values[7] = f32::NAN);
    let error = load_error(&mut q, path);
    assert!(error.contains("W_D") && error.contains("element 7 is NaN"), "{error}");

    write(&|_| ());
    fs::write(path.join("config.json"), config.replace("\"sae\"", "\"tlc\"")).unwrap();
    let error = load_error(&mut q, path);
    assert!(error.contains("config.json") && error.contains("tlc") && error.contains("`sae`"), "{error}");
    fs::write(path.join("config.json"), config.replace("\"d_model\":12,", "")).unwrap();
    assert!(load_error(&mut q, path).contains("d_model"));
    fs::write(path.join("config.json"), &config[..40]).unwrap();
    assert!(load_error(&mut q, path).contains("config.json"));
}

#[test]
fn initialisation_sets_norms_transposes_and_biases() {
    let mut q = queue();
    let mut d = build(&mut q, &settings(json!({"act_fn": "jumprelu", "use_glu_encoder": true}))).unwrap();
    let mut init =
        RandomInit { encoder_bound: 0.5, decoder_bound: 2.0, log_jumprelu_threshold: None, seed: 3 };
    let error = d.init_random(&mut q, &init).unwrap_err().to_string();
    assert!(error.contains("init_log_jumprelu_threshold_value"), "{error}");
    init.log_jumprelu_threshold = Some(-2.0);
    d.init_random(&mut q, &init).unwrap();
    for (name, v) in values(&mut q, &*d) {
        let largest = v.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        match name.as_str() {
            "W_E" | "W_E_glu" => assert!((0.4..=0.5).contains(&largest), "{name} {largest}"),
            "W_D" => assert!((1.8..=2.0).contains(&largest), "{name} {largest}"),
            "activation_function.log_jumprelu_threshold" => assert!(v.iter().all(|&x| x == -2.0)),
            _ => assert_eq!(largest, 0.0, "{name}"),
        }
    }

    d.set_decoder_norm(&mut q, 2.0, true).unwrap();
    assert!(d.decoder_norms(&mut q).unwrap().iter().all(|n| (n - 2.0).abs() < 1e-5));
    d.set_decoder_norm(&mut q, 3.0, false).unwrap();
    assert!(d.decoder_norms(&mut q).unwrap().iter().all(|n| (n - 2.0).abs() < 1e-5), "only shrinks");
    d.set_decoder_norm(&mut q, 1.5, false).unwrap();
    assert!(d.decoder_norms(&mut q).unwrap().iter().all(|n| (n - 1.5).abs() < 1e-5));
    d.encoder_from_decoder_transpose(&mut q, 2.0).unwrap();
    assert!(d.encoder_norms(&mut q).unwrap().iter().all(|n| (n - 3.0).abs() < 1e-5));
    d.set_encoder_norm(&mut q, 0.25).unwrap();
    assert!(d.encoder_norms(&mut q).unwrap().iter().all(|n| (n - 0.25).abs() < 1e-5));

    let x = random(&mut q, 700, D, 5);
    d.decoder_bias_from_mean(&mut q, &[x.view()]).unwrap();
    let host: Vec<f32> = q.download(&x).unwrap();
    let mean = |c: usize| host.iter().skip(c).step_by(D).sum::<f32>() / 700.0;
    let all = values(&mut q, &*d);
    let b_d = &all.iter().find(|(name, _)| name == "b_D").unwrap().1;
    assert!((0..D).all(|c| (b_d[c] - mean(c)).abs() < 1e-5));
}

#[test]
fn defect_4_the_bias_of_a_glu_gate_starts_at_zero_whatever_was_there() {
    let mut q = queue();
    let mut d = scrambled(&mut q, &settings(json!({"use_glu_encoder": true})));
    let init = RandomInit { encoder_bound: 0.5, decoder_bound: 2.0, log_jumprelu_threshold: None, seed: 3 };
    d.init_random(&mut q, &init).unwrap();
    let all = values(&mut q, &*d);
    let bias = &all.iter().find(|(name, _)| name == "b_E_glu").unwrap().1;
    assert!(bias.len() == S && bias.iter().all(|&b| b == 0.0));
}

#[test]
fn encoder_bias_from_the_mean_centres_pre_activations_and_repeating_it_changes_nothing() {
    let mut q = queue();
    let x = random(&mut q, 700, D, 5);
    let mut d = scrambled(&mut q, &settings(json!({"act_fn": "relu"})));
    plan(&mut *d, &q, 700, None);
    d.encoder_bias_from_mean_hidden_pre(&mut q, &[x.view()], None).unwrap();
    let first = values(&mut q, &*d);
    d.encoder_bias_from_mean_hidden_pre(&mut q, &[x.view()], None).unwrap();
    assert_eq!(values(&mut q, &*d), first);
    let host: Vec<f32> = q.download(&x).unwrap();
    let (w_e, b_e) = (&first[0].1, &first[1].1);
    for f in 0..S {
        let h = |r: usize| (0..D).map(|c| host[r * D + c] * w_e[f * D + c]).sum::<f32>() + b_e[f];
        let mean = (0..700).map(h).sum::<f32>() / 700.0;
        assert!(mean.abs() < 1e-4, "feature {f}: {mean}");
    }
}

#[test]
fn the_active_subspace_confines_decoder_rows_to_where_labels_vary() {
    let mut q = queue();
    let mut d = scrambled(&mut q, &settings(json!({})));
    let noise = random(&mut q, 300, D, 9);
    let mut host: Vec<f32> = q.download(&noise).unwrap();
    for (i, v) in host.iter_mut().enumerate() {
        if !(3..6).contains(&(i % D)) {
            *v = 1.0;
        }
    }
    let y = q.tensor(300, D, &host).unwrap();
    d.decoder_from_active_subspace(&mut q, &[y.view()], 3).unwrap();
    let w_d = &values(&mut q, &*d)[2].1;
    for (i, v) in w_d.iter().enumerate() {
        if !(3..6).contains(&(i % D)) {
            assert!(v.abs() < 1e-4, "{i}: {v}");
        }
    }
    assert!(w_d.iter().any(|v| v.abs() > 0.1));
}

#[test]
fn normalised_rows_have_norm_root_d_by_token_batch_or_context_and_zero_rows_stay_zero() {
    let mut q = queue();
    let noise = random(&mut q, 12, D, 2);
    let mut host: Vec<f32> = q.download(&noise).unwrap();
    host[..D].fill(0.0);
    let x = q.tensor(12, D, &host).unwrap();
    let norms = |v: &[f32]| -> Vec<f32> {
        v.chunks(D).map(|r| r.iter().map(|e| e * e).sum::<f32>().sqrt()).collect()
    };
    let root = (D as f32).sqrt();
    for (mode, context, group) in [
        ("token-wise", None, 1),
        ("batch-wise", None, 12),
        ("batch-wise", Some(4), 4),
        ("token-wise", Some(4), 1),
    ] {
        let d = build(&mut q, &settings(json!({"norm_activation": mode}))).unwrap();
        let (mut scratch, mut factor) =
            (Scratch::new(&mut q, 12).unwrap(), q.empty(12, 1, DType::F32).unwrap());
        let scaling = Scaling::of(&*d, "a.in").unwrap();
        let mut y = q.empty(12, D, DType::F32).unwrap();
        scaling.scale(&mut q, x.view(), context, &mut scratch, factor.view_mut(), y.view_mut()).unwrap();
        let got = norms(&q.download::<f32>(&y).unwrap());
        assert_eq!(got[0], 0.0);
        for part in got.chunks(group).skip(usize::from(group == 1)) {
            let mean = part.iter().sum::<f32>() / group as f32;
            assert!((mean - root).abs() < 1e-5, "{mode} {context:?}: {mean}");
        }
        assert!(
            scaling.scale(&mut q, x.view(), Some(5), &mut scratch, factor.view_mut(), y.view_mut()).is_err()
                || group == 1
        );
    }
    let d = build(&mut q, &settings(json!({}))).unwrap();
    assert!(Scaling::of(&*d, "a.in").unwrap_err().to_string().contains("a.in"));
}

#[test]
fn a_step_needs_exactly_the_planned_memory_and_refuses_more_rows_or_another_k() {
    let mut q = queue();
    let loss = LossSettings {
        sparsity: Some(SparsityLoss::Tanh),
        tanh_stretch: 4.0,
        frequency_scale: 0.01,
        p: 1.0,
        target_l0: 50.0,
        lp: false,
        auxk: true,
        k_aux: 8,
        lp_gated: true,
        auxk_detached: true,
    };
    for act_fn in ["relu", "jumprelu", "topk", "batchtopk"] {
        let mut d = scrambled(&mut q, &settings(json!({"act_fn": act_fn})));
        let x = random(&mut q, ROWS, D, 4);
        let refused = |e: Result<(), Error>| e.unwrap_err().to_string();
        assert!(refused(d.forward(&mut q, &[x.view()], None, K)).contains("planned for steps"));
        let (planned, used) = plan(&mut *d, &q, ROWS - 1, Some(&loss));
        assert_eq!(planned, used);
        assert!(refused(d.forward(&mut q, &[x.view()], None, K)).contains("40 rows"));
        plan(&mut *d, &q, ROWS, Some(&loss));
        assert_eq!(d.forward(&mut q, &[x.view()], None, K + 1).is_err(), act_fn.ends_with("topk"));
        assert!(d.forward(&mut q, &[x.view().slice_cols(1..D)], None, K).is_err());
        assert!(d.forward(&mut q, &[], None, K).is_err());
    }
}

#[test]
fn a_smaller_batch_on_the_same_plan_gives_what_its_own_plan_gives() {
    let mut q = queue();
    let loss = LossSettings {
        sparsity: Some(SparsityLoss::TanhQuad),
        tanh_stretch: 4.0,
        frequency_scale: 0.01,
        p: 1.0,
        target_l0: 50.0,
        lp: true,
        auxk: true,
        k_aux: 4,
        lp_gated: true,
        auxk_detached: false,
    };
    // More rows than one block, so that blocks are crossed too.
    let (large, small) = (5000, 4200);
    for act_fn in ["relu", "jumprelu", "topk", "batchtopk"] {
        let x = random(&mut q, large, D, 4);
        let y = random(&mut q, large, D, 6);
        let mut results = Vec::new();
        for rows in [large, small] {
            let mut d = scrambled(&mut q, &settings(json!({"act_fn": act_fn})));
            plan(&mut *d, &q, rows, Some(&loss));
            let weight = q.tensor(small, 1, &vec![1.0 / small as f32; small]).unwrap();
            let input = StepInput {
                inputs: vec![x.rows_view(0..small)],
                labels: vec![y.rows_view(0..small)],
                context: None,
                mask: None,
                weight: weight.view(),
                n_tokens: small,
            };
            let since: Vec<u32> = (0..S as u32).map(|f| f * 100).collect();
            let mut dead = DeadFeatures {
                since: q.tensor(1, S, &since).unwrap(),
                fired: q.zeros(1, S, DType::U32).unwrap(),
                dead: q.zeros(1, S, DType::U8).unwrap(),
                // All features count as dead, so the auxiliary loss has something to choose from.
                threshold: 0,
            };
            let c = Coefficients { k: 3, l1: 0.1, lp: 0.1, auxk: 0.1 };
            let terms = d.train_step(&mut q, &input, &loss, c, Some(&mut dead)).unwrap();
            assert!(terms.l_aux.unwrap() > 0.0);
            let grads: Vec<Vec<f32>> =
                d.params().iter().map(|p| q.download(p.grad.as_ref().unwrap()).unwrap()).collect();
            results.push((terms.loss, grads, dense_codes(&mut q, d.codes())));
        }
        // Blocks end elsewhere, so sums are added in another order.
        let [(loss_a, grads_a, codes_a), (loss_b, grads_b, codes_b)] = &results[..] else { unreachable!() };
        assert_eq!(codes_a, codes_b, "{act_fn}");
        assert!((loss_a - loss_b).abs() < 1e-5 * loss_a, "{act_fn}: {loss_a} {loss_b}");
        for (a, b) in grads_a.iter().zip(grads_b) {
            let largest = a.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            assert!(largest_difference(a, b) <= 1e-5 * largest, "{act_fn}");
        }
    }
}

#[test]
fn defect_15_unit_decoder_norms_are_made_up_for_by_the_encoder() {
    let mut q = queue();
    let x = random(&mut q, ROWS, D, 1);
    for act_fn in ["relu", "jumprelu", "topk", "batchtopk"] {
        for glu in [false, true] {
            let mut d = scrambled(&mut q, &settings(json!({"act_fn": act_fn, "use_glu_encoder": glu})));
            let (_, before) = apply(&mut q, &mut *d, &x);
            d.to_unit_decoder_norm(&mut q).unwrap();
            assert!(d.decoder_norms(&mut q).unwrap().iter().all(|n| (n - 1.0).abs() < 1e-5));
            let (_, after) = apply(&mut q, &mut *d, &x);
            assert!(largest_difference(&before, &after) < 2e-5, "{act_fn} {glu}");
        }
    }
}
