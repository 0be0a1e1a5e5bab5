//! The SAEs other tools have (gated, Matryoshka, skip transcoders, AbsTopK, GroupMax, thresholds of their own): folding keeps the
//! function, training and inference select alike, wrong settings are refused by name, checkpoints come back, and what the
//! trainer does to features does what it says.

use lm_saes::{
    activations::Batch,
    dictionary::{
        Coefficients, Dictionary, RandomInit, StepInput, build,
        checkpoint::{self, LoadOptions},
        normalise::{Scaling, Scratch},
    },
    settings::{DTypeName, DictionarySettings, TrainerSettings, from_tree},
    training::{LossSettings, SparsityLoss, StepReport, Trainer, schedules::Schedules},
};
use lm_saes_runtime::{Arena, DType, Queue, RandomKind, Tensor};
use lm_saes_tests::{dense_codes, queue};
use serde_json::{Map, Value, json};

const D: usize = 12;
const S: usize = 36;
const K: usize = 6;
const ROWS: usize = 40;

/// One dictionary of each kind, with the settings it adds.
fn variants() -> Vec<Value> {
    let mut all = Vec::new();
    for gating in [true, false] {
        for act_fn in ["abstopk", "groupmax"] {
            for glu in [true, false] {
                all.push(json!({"act_fn": act_fn, "use_glu_encoder": glu, "sparsity_include_decoder_norm": gating}));
            }
        }
        for act_fn in ["relu", "jumprelu", "topk", "batchtopk", "abstopk", "groupmax"] {
            let plain = json!({"act_fn": act_fn, "sparsity_include_decoder_norm": gating});
            for (key, hook_out) in [("use_skip_connection", "b.out"), ("apply_b_dec_to_input", "a.in")] {
                let mut with = plain.clone();
                (with[key], with["hook_point_out"]) = (true.into(), hook_out.into());
                all.push(with);
            }
        }
        all.push(json!({
            "act_fn": "jumprelu", "sparsity_include_decoder_norm": gating, "use_direct_jumprelu_threshold": true,
        }));
        for act_fn in ["topk", "batchtopk"] {
            all.push(json!({
                "sae_type": "matryoshka", "act_fn": act_fn, "widths": [4, 16, S], "sparsity_include_decoder_norm": gating,
            }));
        }
    }
    all.push(json!({"sae_type": "gated", "act_fn": "relu", "hook_point_out": "a.in"}));
    all.push(json!({"sae_type": "gated", "act_fn": "relu", "apply_b_dec_to_input": false}));
    all
}

fn settings(change: &Value) -> Result<DictionarySettings, String> {
    let mut all = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": 3.0, "hook_point_in": "a.in", "hook_point_out": "b.out",
        "act_fn": "topk", "top_k": K,
    });
    change.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    let settings: DictionarySettings = from_tree(&all).map_err(|e| e.to_string())?;
    settings.validate().map_err(|e| e.to_string())?;
    Ok(settings)
}

fn random(q: &mut Queue, rows: usize, cols: usize, seed: u64) -> Tensor {
    let mut t = q.empty(rows, cols, DType::F32).unwrap();
    q.random(RandomKind::Normal, (0.0, 1.0), seed, 0, &mut t).unwrap();
    t
}

/// Every parameter random, norms of the hook points different.
fn scrambled(q: &mut Queue, change: &Value) -> Box<dyn Dictionary> {
    let mut d = build(q, &settings(change).unwrap()).unwrap();
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.5), 7 + i as u64, 0, &mut p.value).unwrap();
        if p.name == "activation_function.jumprelu_threshold" {
            let size: Vec<f32> = q.download::<f32>(&p.value).unwrap().iter().map(|v| v.abs()).collect();
            q.upload(&size, &mut p.value).unwrap();
        }
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

/// Codes and reconstruction of raw inputs, as a user of the dictionary gets them.
fn apply(q: &mut Queue, d: &mut dyn Dictionary, raw: &Tensor) -> (Vec<f32>, Vec<f32>) {
    let rows = raw.rows();
    plan(d, q, rows, None);
    let mut scratch = Scratch::new(q, rows).unwrap();
    let (mut x, mut y) = (q.empty(rows, D, DType::F32).unwrap(), q.empty(rows, D, DType::F32).unwrap());
    let mut factors = q.empty(rows, 1, DType::F32).unwrap();
    let scaling = Scaling::of(d, &d.hook_points_in()[0]).unwrap();
    scaling.scale(q, raw.view(), None, &mut scratch, factors.view_mut(), x.view_mut()).unwrap();
    d.forward(q, &[x.view()], None, K).unwrap();
    let codes = dense_codes(q, d.codes());
    let pair = (raw.view(), d.reconstruction()[0]);
    let scaling = Scaling::of(d, &d.hook_points_out()[0]).unwrap();
    scaling.restore(q, pair, None, &mut scratch, factors.view_mut(), y.view_mut()).unwrap();
    (codes, q.download(&y).unwrap())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn folding_changes_no_reconstruction_of_any_variant() {
    let q = &mut queue();
    let raw = random(q, ROWS, D, 1);
    for change in variants() {
        let mut d = scrambled(q, &change);
        let (codes, before) = apply(q, &mut *d, &raw);
        d.fold(q).unwrap();
        let (folded, after) = apply(q, &mut *d, &raw);
        let size = before.iter().fold(1.0, |m: f32, v| m.max(v.abs()));
        let difference = largest_difference(&before, &after) / size;
        assert!(difference < 1e-5, "{change}: {difference}");
        let active = |c: &[f32]| c.iter().map(|&v| v != 0.0).collect::<Vec<_>>();
        assert_eq!(active(&codes), active(&folded), "{change}");
        assert!(codes.iter().any(|&c| c != 0.0), "{change}: nothing was active");
        assert_eq!(codes.iter().any(|&c| c < 0.0), change["act_fn"] == "abstopk", "{change}");
    }
}

#[test]
fn a_training_step_selects_and_reconstructs_what_inference_does() {
    let q = &mut queue();
    for change in variants() {
        let loss = LossSettings {
            sparsity: Some(SparsityLoss::PowerSum).filter(|_| change["act_fn"] != "abstopk"),
            p: 0.7,
            ..Default::default()
        };
        let mut d = scrambled(q, &change);
        d.check_loss(&loss).unwrap();
        let (x, y) = (random(q, ROWS, D, 2), random(q, ROWS, D, 3));
        plan(&mut *d, q, ROWS, None);
        d.forward(q, &[x.view()], None, K).unwrap();
        let codes = dense_codes(q, d.codes());
        let reconstruction: Vec<f32> = q.download(d.reconstruction()[0]).unwrap();
        plan(&mut *d, q, ROWS, Some(&loss));
        let weight = q.tensor(ROWS, 1, &[1.0 / ROWS as f32; ROWS]).unwrap();
        let (inputs, labels) = (vec![x.view()], vec![y.view()]);
        let input =
            StepInput { inputs, labels, context: None, mask: None, weight: weight.view(), n_tokens: ROWS };
        let c = Coefficients { k: K, l1: 0.1, lp: 0.0, auxk: 0.0 };
        d.train_step(q, &input, &loss, c, None).unwrap();
        assert_eq!(dense_codes(q, d.codes()), codes, "{change}");
        let trained: Vec<f32> = q.download(d.reconstruction()[0]).unwrap();
        // Prefixes are added one after the other.
        assert!(largest_difference(&trained, &reconstruction) < 1e-5, "{change}");
    }
}

#[test]
fn every_variant_comes_back_from_a_checkpoint_bit_by_bit() {
    let q = &mut queue();
    for change in variants() {
        let dir = tempfile::tempdir().unwrap();
        let d = scrambled(q, &change);
        checkpoint::save(q, &*d, dir.path(), DTypeName::F32, &Map::new()).unwrap();
        let back =
            checkpoint::load(q, dir.path(), LoadOptions { strict: true, fold: false }).unwrap().dictionary;
        assert_eq!(back.settings(), d.settings());
        for (a, b) in back.params().iter().zip(d.params()) {
            let (x, y): (Vec<f32>, Vec<f32>) = (q.download(&a.value).unwrap(), q.download(&b.value).unwrap());
            assert!(a.name == b.name && x == y, "{change}: {}", b.name);
        }
    }
}

#[test]
fn wrong_settings_are_refused_by_name_with_what_to_do() {
    for (change, key, says) in [
        (json!({"act_fn": "groupmax", "top_k": 5}), "top_k", "5 does not divide 36"),
        (
            json!({"use_skip_connection": true, "hook_point_out": "a.in"}),
            "use_skip_connection",
            "transcoders",
        ),
        (json!({"apply_b_dec_to_input": true}), "apply_b_dec_to_input", "hook_point_in = hook_point_out"),
        (json!({"use_direct_jumprelu_threshold": true}), "use_direct_jumprelu_threshold", "jumprelu"),
        (json!({"sae_type": "gated"}), "act_fn", "relu"),
        (json!({"sae_type": "matryoshka", "act_fn": "relu"}), "act_fn", "batchtopk"),
        (json!({"sae_type": "matryoshka", "widths": [4, 16, 30]}), "widths", "d_sae = 36"),
        (json!({"sae_type": "matryoshka", "widths": [16, 4, 36]}), "widths", "ascend"),
        (json!({"sae_type": "matryoshka", "widths": [36], "width_fractions": [1.0]}), "widths", "not both"),
        (json!({"sae_type": "matryoshka", "width": [36]}), "width", "widths"),
        (json!({"use_skip_conection": true}), "use_skip_conection", "use_skip_connection"),
    ] {
        let e = settings(&change).expect_err("should be refused");
        assert!(e.contains(key) && e.contains(says), "{change}: {e}");
    }
    let trainer =
        |change: Value| from_tree::<TrainerSettings>(&change).unwrap().check().unwrap_err().to_string();
    assert!(trainer(json!({"sparsity_loss_type": "target-l0"})).contains("trainer.target_l0"));
    assert!(trainer(json!({"p_end": 0.5})).contains("power-sum"));
    assert!(trainer(json!({"sparsity_loss_type": "power", "p": 0.5})).contains("trainer.p"));
    let q = &mut queue();
    for (change, sparsity) in [
        (json!({"act_fn": "abstopk"}), SparsityLoss::Tanh),
        (json!({"act_fn": "relu"}), SparsityLoss::TargetL0),
        (
            json!({"sae_type": "gated", "act_fn": "relu", "apply_b_dec_to_input": false}),
            SparsityLoss::TanhQuad,
        ),
    ] {
        let loss = LossSettings { sparsity: Some(sparsity), ..Default::default() };
        let e = scrambled(q, &change).check_loss(&loss).unwrap_err().to_string();
        assert!(e.contains("sparsity_loss_type"), "{e}");
    }
}

#[test]
fn default_matryoshka_levels_double_up_to_all_features() {
    let d = settings(
        &json!({"sae_type": "matryoshka", "act_fn": "batchtopk", "expansion_factor": 32.0 / 12.0 + 1e-9}),
    );
    let lm_saes::dictionary::variants::Variant::Matryoshka(m) = d.unwrap().variant else {
        panic!("matryoshka")
    };
    assert_eq!(m.levels(32).unwrap(), [2, 4, 8, 16, 32]);
}

#[test]
fn a_skip_connection_starts_at_zero_and_direct_thresholds_at_the_exponential_of_their_setting() {
    let q = &mut queue();
    let init =
        RandomInit { encoder_bound: 0.5, decoder_bound: 0.5, log_jumprelu_threshold: Some(-2.0), seed: 3 };
    let change =
        json!({"act_fn": "jumprelu", "use_skip_connection": true, "use_direct_jumprelu_threshold": true});
    let mut d = scrambled(q, &change);
    d.init_random(q, &init).unwrap();
    for (name, value) in [("W_skip", 0.0), ("activation_function.jumprelu_threshold", (-2.0f32).exp())] {
        let p = d.params().into_iter().find(|p| p.name == name).expect(name);
        assert!(q.download::<f32>(&p.value).unwrap().iter().all(|&v| v == value), "{name}");
    }
}

#[test]
fn a_direct_threshold_below_zero_counts_as_zero() {
    let q = &mut queue();
    let mut d = scrambled(q, &json!({"act_fn": "jumprelu", "use_direct_jumprelu_threshold": true}));
    for p in d.params_mut().into_iter().filter(|p| p.name.contains("threshold")) {
        q.fill(&mut p.value, -1.0).unwrap();
    }
    let raw = random(q, ROWS, D, 1);
    let (codes, _) = apply(q, &mut *d, &raw);
    // As a relu: on about half of all entries.
    let active = codes.iter().filter(|&&c| c > 0.0).count();
    assert!((ROWS * S / 3..ROWS * S * 2 / 3).contains(&active), "{active}");
    assert!(
        d.params()
            .iter()
            .all(|p| !p.name.contains("threshold") || q.download::<f32>(&p.value).unwrap()[0] == 0.0)
    );
}

/// Steps of a trainer on normal data in which nothing is masked.
struct Run {
    q: Queue,
    trainer: Trainer,
    steps: u64,
}

impl Run {
    fn new(change: &Value, trainer: Value) -> Self {
        let mut q = queue();
        let mut tree = json!({
            "total_training_tokens": 20 * ROWS, "lr": 1e-3, "lr_warm_up_steps": 0, "lr_cool_down_steps": 0,
            "k_warmup_steps": 0, "l1_coefficient_warmup_steps": 0,
        });
        trainer.as_object().unwrap().iter().for_each(|(k, v)| tree[k] = v.clone());
        let settings: TrainerSettings = from_tree(&tree).unwrap();
        let schedules = Schedules::resolve(&settings, ROWS as u64, None).unwrap();
        let dictionary = scrambled(&mut q, change);
        Self { trainer: Trainer::new(&mut q, dictionary, settings, schedules, ROWS).unwrap(), q, steps: 0 }
    }

    fn step(&mut self) -> StepReport {
        let acts = vec![random(&mut self.q, ROWS, D, 100 + self.steps)];
        let mut batch =
            Batch { acts, tokens: vec![0; ROWS], mask: vec![1; ROWS], contexts: None, n_valid: ROWS };
        self.steps += 1;
        self.trainer.step(&mut self.q, &["a.in".to_string()], &mut batch).unwrap()
    }

    fn param(&mut self, name: &str) -> Vec<f32> {
        let p =
            self.trainer.dictionary().params().into_iter().find(|p| p.name == name).expect("the parameter");
        self.q.download(&p.value).unwrap()
    }
}

#[test]
fn resampling_gives_dead_features_a_unit_decoder_and_a_small_encoder_along_an_input() {
    let change = json!({"act_fn": "relu", "hook_point_out": "a.in"});
    let mut run = Run::new(&change, json!({"resample_frequency": 3, "dead_threshold": 2 * ROWS, "lr": 1e-5}));
    // Two features that can never be active.
    let dead = [4, 9];
    for p in run.trainer.dictionary_mut().params_mut() {
        if p.name == "b_E" {
            dead.iter().for_each(|&i| run.q.fill(p.value.view_mut().slice_cols(i..i + 1), -1e3).unwrap());
        }
    }
    run.step();
    run.step();
    let before = run.param("W_D");
    run.step();
    let (w_e, w_d, b_e) = (run.param("W_E"), run.param("W_D"), run.param("b_E"));
    let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let rows = |w: &[f32], i: usize| w[i * D..(i + 1) * D].to_vec();
    let living: Vec<f32> = (0..S).filter(|i| !dead.contains(i)).map(|i| norm(&rows(&w_e, i))).collect();
    let mean = living.iter().sum::<f32>() / living.len() as f32;
    let batch = random(&mut run.q, ROWS, D, 102);
    let inputs: Vec<f32> = run.q.download(&batch).unwrap();
    for i in dead {
        let (e, d) = (rows(&w_e, i), rows(&w_d, i));
        assert!((norm(&d) - 1.0).abs() < 1e-5 && (norm(&e) - 0.2 * mean).abs() < 1e-4 * mean, "feature {i}");
        assert_eq!(b_e[i], 0.0);
        let cosine = |x: &[f32]| x.iter().zip(&d).map(|(x, d)| x * d).sum::<f32>() / norm(x);
        assert!(
            inputs.chunks(D).any(|x| (cosine(x) - 1.0).abs() < 1e-5),
            "feature {i} points along no input"
        );
        assert!(e.iter().zip(&d).all(|(e, d)| (e / (0.2 * mean) - d).abs() < 1e-3));
    }
    let moved = (0..S).filter(|&i| largest_difference(&rows(&before, i), &rows(&w_d, i)) > 1e-3);
    assert_eq!(moved.collect::<Vec<_>>(), dead, "only dead features move");
    run.step();
    assert_eq!(
        run.trainer.dead().map(|d| run.q.download::<u32>(&d.since).unwrap()[4] <= ROWS as u32),
        Some(true)
    );
}

#[test]
fn annealing_lowers_the_exponent_and_keeps_the_size_of_the_penalty() {
    for change in [
        json!({"act_fn": "relu", "hook_point_out": "a.in"}),
        json!({"sae_type": "gated", "act_fn": "relu", "hook_point_out": "a.in"}),
    ] {
        let annealed = json!({
            "sparsity_loss_type": "power-sum", "p": 1.0, "p_end": 0.2, "n_sparsity_updates": 4, "l1_coefficient": 0.1,
            "lr": 1e-9,
        });
        let mut run = Run::new(&change, annealed);
        let reports: Vec<StepReport> = (0..20).map(|_| run.step()).collect();
        let penalty = |s: usize| reports[s].terms.l_s.unwrap();
        let l1 = |s: usize| reports[s].l1;
        // Weights hardly move; batches differ by a few per cent.
        let drift = (0..20).map(|s| (penalty(s) / penalty(0) - 1.0).abs()).fold(0.0, f32::max);
        assert!(drift < 0.15, "{change}: the penalty drifts by {drift}");
        assert!(l1(4) == l1(0) && l1(5) != l1(4) && l1(19) != l1(10), "{change}");
    }
}

#[test]
fn target_l0_moves_thresholds_until_so_many_features_are_active() {
    for direct in [false, true] {
        let change = json!({
            "act_fn": "jumprelu", "hook_point_out": "a.in", "use_direct_jumprelu_threshold": direct,
            "jumprelu_threshold_window": 1.0,
        });
        let trainer = json!({
            "sparsity_loss_type": "target-l0", "target_l0": 5, "l1_coefficient": 300, "lr": 3e-3,
            "jumprelu_lr_factor": 5, "total_training_tokens": 400 * ROWS,
        });
        let mut run = Run::new(&change, trainer);
        let mut l0 = Vec::new();
        for _ in 0..400 {
            l0.extend(run.step().quality.map(|(l0, _)| l0));
        }
        let late = l0[350..].iter().sum::<f64>() / 50.0;
        assert!(l0[0] > 8.0 && (late - 5.0).abs() < 1.0, "direct {direct}: L0 from {} to {late}", l0[0]);
    }
}
