//! Ranks that divide features, heads and rows of a dictionary train what one rank trains: the same entries are selected at every
//! step, losses and gradient norms agree to rounding, and so do the weights at the end.

use lm_saes::{
    activations::Batch,
    dictionary::{Dictionary, build, build_on},
    parallel::{Mesh, MeshSize, rows},
    settings::{DictionarySettings, TrainerSettings, from_tree},
    training::{Trainer, schedules::Schedules},
};
use lm_saes_runtime::{DType, Group, Queue, RandomKind};
use lm_saes_tests::{dense_codes, queue, ranks::on_ranks};
use serde_json::{Value, json};

const D: usize = 12;
const ROWS: usize = 48;
const CONTEXT: usize = 8;
const STEPS: u64 = 8;

/// A dictionary, what its trainer adds, and how many ranks may divide its heads.
struct Case {
    sae: Value,
    trainer: Value,
    heads: usize,
}

fn merged(base: &Value, more: &Value) -> Value {
    let mut all = base.clone();
    more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    all
}

fn case(base: &Value, more: Value, trainer: Value) -> Case {
    let sae = merged(&json!({"d_model": D, "norm_activation": "inference"}), &merged(base, &more));
    let heads = sae["hook_points"].as_array().map_or(1, Vec::len);
    Case { sae, trainer, heads }
}

fn saes() -> Vec<Case> {
    let sae = json!({
        "sae_type": "sae", "hook_point_in": "a", "hook_point_out": "b", "expansion_factor": 4, "top_k": 4,
    });
    let l1 = |kind: &str| json!({"sparsity_loss_type": kind, "l1_coefficient": 0.02});
    let auxk = json!({"auxk_coefficient": 0.05, "k_aux": 6, "dead_threshold": 60});
    let c = |more: Value, trainer: Value| case(&sae, more, trainer);
    vec![
        c(json!({"act_fn": "relu"}), l1("tanh")),
        c(json!({"act_fn": "relu", "use_skip_connection": true}), l1("tanh-quad")),
        c(
            json!({"act_fn": "jumprelu", "use_glu_encoder": true}),
            merged(&l1("power"), &json!({"lp_coefficient": 0.01})),
        ),
        c(json!({"act_fn": "jumprelu"}), merged(&l1("target-l0"), &json!({"target_l0": 5.0}))),
        c(json!({"act_fn": "jumprelu", "hook_point_out": "a", "apply_b_dec_to_input": true}), auxk.clone()),
        c(json!({"act_fn": "topk"}), auxk.clone()),
        c(json!({"act_fn": "topk", "use_glu_encoder": true}), l1("tanh-quad")),
        c(
            json!({"act_fn": "topk", "sparsity_include_decoder_norm": false}),
            json!({"initial_k": 20, "k_warmup_steps": 4}),
        ),
        c(json!({"act_fn": "batchtopk", "use_skip_connection": true}), auxk.clone()),
        c(json!({"act_fn": "batchtopk", "hook_point_out": "a", "apply_b_dec_to_input": true}), l1("power")),
        c(json!({"act_fn": "abstopk"}), json!({"clip_grad_norm": 0.01})),
        c(json!({"act_fn": "groupmax"}), json!({"optimizer_class": "sparseadam", "clip_grad_norm": 0.5})),
        c(json!({"sae_type": "gated", "act_fn": "relu", "hook_point_out": "a"}), l1("power")),
        c(json!({"sae_type": "matryoshka", "act_fn": "topk"}), l1("tanh")),
        c(json!({"sae_type": "matryoshka", "act_fn": "batchtopk"}), json!({})),
    ]
}

fn clts() -> Vec<Case> {
    let clt = json!({
        "sae_type": "clt", "hook_points_in": ["a", "b", "c"], "hook_points_out": ["b", "c", "a"],
        "expansion_factor": 2, "top_k": 4,
    });
    let l1 = |kind: &str| json!({"sparsity_loss_type": kind, "l1_coefficient": 0.02});
    let c = |more: Value, trainer: Value| case(&clt, more, trainer);
    vec![
        c(json!({"act_fn": "relu"}), l1("tanh-quad")),
        c(json!({"act_fn": "jumprelu"}), l1("power")),
        c(json!({"act_fn": "topk"}), l1("tanh")),
        c(json!({"act_fn": "layertopk"}), json!({"clip_grad_norm": 0.1})),
        c(json!({"act_fn": "layertopk", "sparsity_include_decoder_norm": false, "top_k": 30}), json!({})),
        c(json!({"act_fn": "batchtopk"}), l1("tanh-quad")),
        c(json!({"act_fn": "batchlayertopk"}), json!({})),
    ]
}

fn crosscoders() -> Vec<Case> {
    let crosscoder =
        json!({"sae_type": "crosscoder", "hook_points": ["a", "b"], "expansion_factor": 2, "top_k": 4});
    let l1 = |kind: &str| json!({"sparsity_loss_type": kind, "l1_coefficient": 0.02});
    let c = |more: Value, trainer: Value| case(&crosscoder, more, trainer);
    vec![
        c(json!({"act_fn": "relu"}), l1("tanh-quad")),
        c(json!({"act_fn": "jumprelu"}), merged(&l1("power"), &json!({"lp_coefficient": 0.01}))),
        c(json!({"act_fn": "topk"}), l1("tanh")),
        c(json!({"act_fn": "topk", "top_k": 1}), json!({"clip_grad_norm": 0.1})),
        c(json!({"act_fn": "batchtopk"}), l1("power")),
    ]
}

fn lorsas() -> Vec<Case> {
    let lorsa = json!({
        "sae_type": "lorsa", "hook_point_in": "a", "hook_point_out": "b", "expansion_factor": 4, "top_k": 4,
        "n_qk_heads": 4, "d_qk_head": 4, "n_ctx": CONTEXT, "rotary_dim": 4,
    });
    let norm = json!({"use_post_qk_ln": true, "normalization_type": "RMS"});
    let l1 = |kind: &str| json!({"sparsity_loss_type": kind, "l1_coefficient": 0.02});
    let auxk = json!({"auxk_coefficient": 0.05, "k_aux": 6, "dead_threshold": 60});
    let c = |more: Value, trainer: Value| case(&lorsa, more, trainer);
    vec![
        c(merged(&norm, &json!({"act_fn": "topk"})), l1("tanh")),
        c(json!({"act_fn": "topk"}), auxk.clone()),
        c(json!({"act_fn": "batchtopk"}), auxk),
        c(merged(&norm, &json!({"act_fn": "jumprelu"})), l1("power")),
    ]
}

fn molts() -> Vec<Case> {
    let molt = json!({
        "sae_type": "molt", "hook_point_in": "a", "hook_point_out": "b", "expansion_factor": 2.6667, "top_k": 4,
        "rank_counts": {"1": 16, "2": 8, "4": 8},
    });
    let l1 = |kind: &str| json!({"sparsity_loss_type": kind, "l1_coefficient": 0.02});
    let c = |more: Value, trainer: Value| case(&molt, more, trainer);
    vec![
        c(json!({"act_fn": "relu"}), l1("tanh-quad")),
        c(json!({"act_fn": "jumprelu"}), merged(&l1("power"), &json!({"lp_coefficient": 0.01}))),
        c(json!({"act_fn": "topk"}), l1("tanh")),
        c(json!({"act_fn": "batchtopk"}), json!({})),
    ]
}

/// Random parameters, the same whatever part of them is here; `tied` gives features in groups of five the same, so that what is
/// compared is often equal.
fn scramble(q: &mut Queue, d: &mut dyn Dictionary, settings: &DictionarySettings, tied: bool) {
    let whole = build(q, settings).unwrap();
    for (i, (p, w)) in d.params_mut().into_iter().zip(whole.params()).enumerate() {
        let mut t = q.empty(w.value.rows(), w.value.cols(), DType::F32).unwrap();
        let deviation = if p.name.contains("threshold") { 0.1 } else { 0.4 };
        q.random(RandomKind::Normal, (0.0, deviation), 7 + i as u64, 0, &mut t).unwrap();
        let mut held: Vec<f32> = q.download(&t).unwrap();
        if tied && w.value.rows() > 1 {
            let cols = w.value.cols();
            (0..held.len()).for_each(|j| held[j] = held[(j / cols % 5) * cols + j % cols]);
        } else if tied {
            held.fill(0.0);
        }
        let own = p.to_held(p.cut(w.to_stored(&held).into_owned()));
        q.upload(&own, &mut p.value).unwrap();
    }
}

/// One batch with some rows that do not count, the same on every rank.
fn batch(q: &mut Queue, step: u64) -> Batch {
    let one = |q: &mut Queue, hook: u64| {
        let mut t = q.empty(ROWS, D, DType::F32).unwrap();
        q.random(RandomKind::Normal, (0.0, 1.0), 1000 + 10 * step + hook, 0, &mut t).unwrap();
        t
    };
    let acts = (0..3).map(|hook| one(q, hook)).collect();
    let mask: Vec<u8> =
        (0..ROWS).map(|r| u8::from((r + step as usize) % 7 != 3 || step.is_multiple_of(2))).collect();
    let n_valid = mask.iter().filter(|&&m| m != 0).count();
    Batch { acts, tokens: vec![0; ROWS], mask, contexts: Some((ROWS / CONTEXT, CONTEXT)), n_valid }
}

/// What one rank saw: of each step what was selected `[rows, codes, S]` here, and figures; at the end the parameters as stored.
struct Seen {
    mesh: MeshSize,
    rank: usize,
    codes: Vec<Vec<f32>>,
    figures: Vec<[f64; 6]>,
    params: Vec<(String, Vec<f32>)>,
    features: Vec<usize>,
}

fn train(q: &mut Queue, mesh: &Mesh, case: &Case, tied: bool) -> lm_saes::Result<Seen> {
    let settings: DictionarySettings = from_tree(&case.sae)?;
    let mut d = build_on(q, &settings, mesh)?;
    scramble(q, &mut *d, &settings, tied);
    let base = json!({
        "total_training_tokens": 20 * ROWS, "lr": 2e-3, "lr_warm_up_steps": 0, "lr_cool_down_steps": 0,
        "k_warmup_steps": 0, "l1_coefficient_warmup_steps": 0,
    });
    let trainer: TrainerSettings = from_tree(&merged(&base, &case.trainer))?;
    let top_k = settings.act_fn().has_k().then(|| settings.top_k());
    let schedules = Schedules::resolve(&trainer, ROWS as u64, top_k)?;
    let most = rows::most_rows(ROWS, Some(CONTEXT), mesh.data.size());
    let features = d.share().features().iter().cloned().flatten().collect();
    let mut trainer = Trainer::new(q, d, trainer, schedules, most)?;
    let hooks = ["a", "b", "c"].map(String::from);
    let (mut codes, mut figures) = (Vec::new(), Vec::new());
    for step in 0..if tied { 1 } else { STEPS } {
        let mut batch = batch(q, step);
        let report = trainer.step(q, &hooks, &mut batch)?;
        codes.push(dense_codes(q, trainer.dictionary().codes()));
        let (l0, ev) = report.quality.unwrap();
        let terms = report.terms;
        let gradients = report.gradients;
        let penalty = terms.l_s.or(terms.l_aux).unwrap_or(0.0);
        figures.push([
            terms.loss.into(),
            terms.l_rec.into(),
            penalty.into(),
            l0,
            ev,
            gradients.before_clipping + gradients.applied,
        ]);
    }
    let d = trainer.dictionary();
    let mut params = Vec::new();
    for p in d.params() {
        params.push((p.name.clone(), p.to_stored(&q.download::<f32>(&p.value)?).into_owned()));
    }
    Ok(Seen { mesh: mesh.size(), rank: mesh.world.rank(), codes, figures, params, features })
}

/// The codes of all ranks at one step as a single rank has them, `[rows, codes, S]`.
fn joined(seen: &[Seen], step: usize, s: usize, wide: usize) -> Vec<f32> {
    let mut all = vec![f32::NAN; ROWS * wide * s];
    for rank in seen {
        let (data, head, _) = rank.mesh.place(rank.rank);
        let contexts = lm_saes::parallel::balanced(ROWS / CONTEXT, data, rank.mesh.data);
        let (here, n) = (wide / rank.mesh.head, rank.features.len());
        for (r, row) in
            (contexts.start * CONTEXT..contexts.end * CONTEXT).zip(rank.codes[step].chunks(here * n))
        {
            for (code, values) in row.chunks(n).enumerate() {
                let start = (r * wide + head * here + code) * s;
                rank.features.iter().zip(values).for_each(|(i, v)| all[start + i] = *v);
            }
        }
    }
    all
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}

/// Compares a mesh with one rank, step by step.
fn compare(case: &Case, size: MeshSize, one: &Seen, seen: &[Seen]) {
    let about = format!("{} {} on {size:?}", case.sae, case.trainer);
    let s = one.features.len();
    let wide = one.codes[0].len() / ROWS / s;
    for step in 0..one.codes.len() {
        let all = joined(seen, step, s, wide);
        let active = all.iter().filter(|v| **v != 0.0).count();
        assert!(active > 0, "{about}: nothing was active at step {step}");
        for (i, (a, b)) in all.iter().zip(&one.codes[step]).enumerate() {
            assert!((*a != 0.0) == (*b != 0.0), "{about}: step {step}, entry {i}: {a} is {b} on one rank");
            assert!(close((*a).into(), (*b).into(), 1e-4), "{about}: step {step}, entry {i}: {a}, {b}");
        }
        for rank in seen {
            for (i, (a, b)) in rank.figures[step].iter().zip(one.figures[step]).enumerate() {
                assert!(
                    close(*a, b, 1e-5),
                    "{about}: step {step}, figure {i} of rank {}: {a}, {b}",
                    rank.rank
                );
            }
        }
    }
    // Ranks with the same part have the same bits, whatever they computed in between.
    for (a, b) in seen.iter().flat_map(|a| seen.iter().map(move |b| (a, b))) {
        let ((_, ah, am), (_, bh, bm)) = (size.place(a.rank), size.place(b.rank));
        if (ah, am) == (bh, bm) {
            assert!(a.params == b.params, "{about}: ranks {} and {} drifted apart", a.rank, b.rank);
        }
        for ((name, x), (_, y)) in a.params.iter().zip(&b.params) {
            let replicated = ["b_D", "W_skip"].contains(&name.as_str()) || name.starts_with("b_D.");
            if replicated && ah == bh {
                assert!(x == y, "{about}: {name} of ranks {} and {} drifted apart", a.rank, b.rank);
            }
        }
    }
}

fn check(cases: Vec<Case>, tied: bool) {
    for case in cases {
        let one = train(&mut queue(), &Mesh::solo(), &case, tied).unwrap();
        let mut sizes = vec![(1, 1, 2), (1, 1, 4), (2, 1, 2), (3, 1, 2)];
        if case.heads > 1 {
            sizes.extend([(1, 2, 1), (1, 2, 2), (2, 2, 2)]);
        }
        for (data, head, model) in sizes {
            let size = MeshSize { data, head, model };
            let seen = on_ranks(size.ranks(), |_, comm| {
                let mesh = Mesh::new(Group::new(comm), size)?;
                train(&mut queue(), &mesh, &case, tied)
            });
            let about = format!("{} {} on {size:?}", case.sae, case.trainer);
            let seen: Vec<Seen> =
                seen.into_iter().map(|s| s.unwrap_or_else(|e| panic!("{about}: {e}"))).collect();
            compare(&case, size, &one, &seen);
        }
    }
}

#[test]
fn ranks_that_divide_the_features_of_an_sae_train_it_as_one_rank_does() {
    check(saes(), false);
}

#[test]
fn ranks_that_divide_a_cross_layer_transcoder_train_it_as_one_rank_does() {
    check(clts(), false);
}

#[test]
fn ranks_that_divide_features_and_hook_points_of_a_crosscoder_train_it_as_one_rank_does() {
    check(crosscoders(), false);
}

#[test]
fn ranks_that_divide_the_heads_of_lorsa_train_it_as_one_rank_does() {
    check(lorsas(), false);
}

#[test]
fn ranks_that_divide_every_rank_group_of_a_molt_train_it_as_one_rank_does() {
    check(molts(), false);
}

#[test]
fn of_equal_candidates_of_several_ranks_the_same_are_selected_as_on_one() {
    let all = saes().into_iter().chain(clts()).chain(crosscoders()).chain(molts());
    let ranked = |c: &Case| {
        let act_fn = c.sae["act_fn"].as_str().unwrap();
        act_fn.contains("topk") && c.sae["use_glu_encoder"].is_null()
    };
    check(all.filter(ranked).collect(), true);
}
