//! Do dictionaries find features that are really there? Each kind trains on rows made of known features, some of which appear
//! only together or only below another, for the same number of steps; the table says how many it has found (cosine of at least
//! 0.9 with the truth) and how close it comes on average, beside what a random decoder of its shape scores. The worlds are in
//! `tests/src/synthetic`. Everything is drawn by counter, so a run repeats. `SYNTHETIC_STEPS` sets the steps (1500),
//! `SYNTHETIC_ONLY` picks kinds by a part of their names.

use lm_saes::Result;
use lm_saes_backends::registry;
use lm_saes_runtime::Queue;
use lm_saes_tests::synthetic::{
    self, Design, GROUPS, TRUE, World, attended, mean_max_cosine, random, recall,
};
use serde_json::{Value, json};
use std::time::Instant;

/// Rows drawn once; training goes round them.
const SAMPLES: usize = 128 * 1024;

/// A kind of dictionary: name, settings of it, settings of its trainer.
type Kind = (&'static str, Value, Value);

fn with(mut base: Value, more: Value) -> Value {
    more.as_object().into_iter().flatten().for_each(|(key, v)| base[key] = v.clone());
    base
}

fn top(act_fn: &str, k: usize) -> Value {
    json!({"act_fn": act_fn, "top_k": k})
}

fn auxk() -> Value {
    json!({"auxk_coefficient": 0.03125, "k_aux": 32, "dead_threshold": 50_000})
}

fn l1(kind: &str, c: f64) -> Value {
    json!({"sparsity_loss_type": kind, "l1_coefficient": c})
}

fn saes() -> Vec<Kind> {
    let k = 5;
    let relu = json!({"act_fn": "relu"});
    let annealed = json!({"p": 1.0, "p_end": 0.5, "anneal_start": 0.2, "anneal_end": 0.9});
    let resampled = json!({"resample_frequency": 250, "dead_threshold": 50_000});
    let steered = json!({"target_l0": k, "jumprelu_lr_factor": 1.0});
    let jump = json!({"act_fn": "jumprelu", "jumprelu_threshold_window": 0.4});
    vec![
        ("relu, L1", relu.clone(), l1("power", 2.0)),
        ("relu, p-annealing", relu, with(l1("power-sum", 2.0), annealed)),
        ("gated, L1", json!({"sae_type": "gated", "act_fn": "relu"}), l1("power", 2.0)),
        ("jumprelu, tanh", jump.clone(), with(l1("tanh", 1.0), json!({"lp_coefficient": 1e-3}))),
        (
            "jumprelu, target L0",
            with(jump, json!({"use_direct_jumprelu_threshold": true})),
            with(l1("target-l0", 10.0), steered),
        ),
        ("topk", top("topk", k), auxk()),
        ("topk, resampling", top("topk", k), resampled),
        ("batchtopk", top("batchtopk", k), auxk()),
        ("abstopk", top("abstopk", k), auxk()),
        ("groupmax", top("groupmax", 8), auxk()),
        (
            "matryoshka, batchtopk",
            with(top("batchtopk", k), json!({"sae_type": "matryoshka", "widths": [16, 64, TRUE]})),
            auxk(),
        ),
    ]
}

/// Every world with the kinds that train on it.
fn kinds() -> Vec<(Design, Vec<Kind>)> {
    let k = 5;
    let none = json!({});
    // Nothing brings a transform back that no row selects.
    let wide_at_first = json!({"lr": 5e-3, "initial_k": 32, "k_warmup_steps": 0.5});
    let batch = top("batchtopk", k);
    vec![
        (Design::Sae, saes()),
        (
            Design::Transcoder,
            vec![
                ("transcoder, topk", top("topk", k), auxk()),
                ("transcoder, batchtopk", batch.clone(), auxk()),
                (
                    "skip transcoder, batchtopk",
                    with(batch.clone(), json!({"use_skip_connection": true})),
                    auxk(),
                ),
                ("GLU transcoder, batchtopk", with(batch.clone(), json!({"use_glu_encoder": true})), auxk()),
            ],
        ),
        // A head has three quarters of the features.
        (
            Design::Crosscoder,
            vec![
                ("crosscoder, topk", top("topk", 4), none.clone()),
                ("crosscoder, batchtopk", top("batchtopk", 4), none.clone()),
            ],
        ),
        (
            Design::Layers,
            vec![
                ("CLT, layertopk", top("layertopk", k), none.clone()),
                ("CLT, batchlayertopk", top("batchlayertopk", k), none.clone()),
            ],
        ),
        (
            Design::Transforms,
            vec![
                ("MoLT, topk", top("topk", k), wide_at_first.clone()),
                ("MoLT, batchtopk", batch.clone(), wide_at_first),
            ],
        ),
        (
            Design::Attention,
            vec![("Lorsa, topk", top("topk", k), auxk()), ("Lorsa, batchtopk", batch, auxk())],
        ),
    ]
}

/// A line of the table.
fn line(name: &str, closest: &[(f32, usize)], baseline: &[(f32, usize)], rest: &str) {
    let percent = |share: f64| format!("{:.0}", 100.0 * share);
    let groups: Vec<String> = GROUPS.iter().map(|g| percent(recall(&closest[g.1.clone()]))).collect();
    println!(
        "| {name} | {} % | {:.3} | {} % / {:.3} | {} | {rest} |",
        percent(recall(closest)),
        mean_max_cosine(closest),
        percent(recall(baseline)),
        mean_max_cosine(baseline),
        groups.join(" / "),
    );
}

fn main() -> Result<()> {
    let steps = std::env::var("SYNTHETIC_STEPS").ok().and_then(|v| v.parse().ok()).unwrap_or(1500).max(20);
    let only = std::env::var("SYNTHETIC_ONLY").unwrap_or_default();
    let q = &mut Queue::new(&registry().open("auto")?)?;
    println!("{TRUE} true features, {steps} steps\n");
    let names: Vec<&str> = GROUPS.iter().map(|g| g.0).collect();
    println!(
        "| dictionary | recall | mean max cosine | random decoder: both | recall: {} (%) | L0 | explained | seconds |",
        names.join(" / ")
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut notes = Vec::new();
    for (design, kinds) in kinds() {
        let wanted: Vec<Kind> = kinds.into_iter().filter(|k| k.0.contains(&only)).collect();
        if wanted.is_empty() {
            continue;
        }
        let world = World::draw(design, SAMPLES);
        let drawn = random(q, &world)?;
        for (name, own, trainer) in wanted {
            let (began, signed) = (Instant::now(), name == "abstopk");
            let trained = synthetic::train(q, &world, &own, &trainer, steps)?;
            let closest = world.closest(&trained.features, signed);
            let seconds = began.elapsed().as_secs_f64();
            let rest = format!("{:.1} | {:.3} | {seconds:.1}", trained.l0, trained.explained);
            line(name, &closest, &world.closest(&drawn, signed), &rest);
            if design == Design::Attention {
                let mut trained = trained;
                let mut untrained = synthetic::train(q, &world, &own, &trainer, 0)?;
                let before = world.closest(&untrained.features, signed);
                let after = attended(q, &world, &mut *trained.dictionary, &closest)?;
                let before = attended(q, &world, &mut *untrained.dictionary, &before)?;
                notes.push(format!(
                    "{name}: overlap of patterns with the true ones {:.3} (before training {:.3}), mean cosine of values {:.3} ({:.3})",
                    after.overlap, before.overlap, after.values, before.values,
                ));
            }
        }
    }
    notes.iter().for_each(|note| println!("\n{note}"));
    Ok(())
}
