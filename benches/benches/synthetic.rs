//! Do dictionaries find features that are really there? Activations are sums of known directions, some of which appear only
//! together or only below another; each kind of dictionary trains on them for the same number of steps, and the table says how
//! many directions its decoder has found (cosine of at least 0.9) and how close it comes on average, beside a random decoder.
//! Everything is drawn by counter, so a run repeats. `SYNTHETIC_STEPS` sets the steps (1500), `SYNTHETIC_ONLY` picks kinds by name.

use lm_saes::{
    Result,
    activations::Batch,
    dictionary::{Dictionary, build},
    settings::{DictionarySettings, InitializerSettings, TrainerSettings, from_tree},
    training::{BatchSource, Silent, Trainer, initialise, schedules::Schedules},
};
use lm_saes_backends::registry;
use lm_saes_kernels::philox;
use lm_saes_runtime::Queue;
use serde_json::{Value, json};
use std::{path::Path, time::Instant};

const D: usize = 64;
const ROWS: usize = 1024;
/// Rows drawn once; training goes round them.
const SAMPLES: usize = 128 * ROWS;
/// True features: parents, each with children that appear only with it; pairs that mostly appear together; single ones.
const PARENTS: usize = 16;
const CHILDREN: usize = 3;
const PAIRS: usize = 16;
const SINGLES: usize = 32;
const TRUE: usize = PARENTS * (1 + CHILDREN) + 2 * PAIRS + SINGLES;
const SEED: u64 = 20;

/// Where each kind of true feature is.
const GROUPS: [(&str, std::ops::Range<usize>); 4] = [
    ("parents", 0..PARENTS),
    ("children", PARENTS..PARENTS * (1 + CHILDREN)),
    ("pairs", PARENTS * (1 + CHILDREN)..TRUE - SINGLES),
    ("singles", TRUE - SINGLES..TRUE),
];

/// Known directions and rows made of them.
struct World {
    /// `[TRUE, D]`, unit rows.
    directions: Vec<f32>,
    /// `[SAMPLES, D]`.
    rows: Vec<f32>,
    /// Mean number of features in a row.
    l0: f64,
}

impl World {
    fn draw() -> Self {
        let mut directions: Vec<f32> =
            (0..TRUE * D).map(|i| philox::normal(SEED, i as u64, 0.0, 1.0)).collect();
        for v in directions.chunks_mut(D) {
            let norm = v.iter().map(|v| v * v).sum::<f32>().sqrt();
            v.iter_mut().for_each(|v| *v /= norm);
        }
        let mut rows = vec![0.0; SAMPLES * D];
        let mut count = 0;
        for (r, row) in rows.chunks_mut(D).enumerate() {
            let at = |what: u64, i: usize| ((r as u64) << 12 | i as u64) + (what << 50);
            let chance = |i: usize| philox::uniform(SEED + 1, at(0, i), 0.0, 1.0);
            let strength = |i: usize| philox::normal(SEED + 2, at(1, i), 1.0, 0.25).max(0.3);
            for (i, v) in row.iter_mut().enumerate() {
                *v = philox::normal(SEED + 3, at(2, i), 0.0, 0.02);
            }
            for i in (0..TRUE).filter(|&i| present(i, &chance)) {
                count += 1;
                let a = strength(i);
                row.iter_mut().zip(&directions[i * D..]).for_each(|(x, v)| *x += a * v);
            }
        }
        Self { directions, rows, l0: f64::from(count) / SAMPLES as f64 }
    }

    /// Largest cosine of each true direction with a row of `decoder [S, D]`; with either sign where activations have both.
    fn closest(&self, decoder: &[f32], signed: bool) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let norms: Vec<f32> = decoder.chunks(D).map(|w| dot(w, w).sqrt().max(f32::MIN_POSITIVE)).collect();
        let best = |v: &[f32]| {
            let cosines = decoder.chunks(D).zip(&norms).map(|(w, n)| dot(v, w) / n);
            cosines.map(|c| if signed { c.abs() } else { c }).fold(-1.0, f32::max)
        };
        self.directions.chunks(D).map(best).collect()
    }
}

/// Whether true feature i is in a row with these chances, one for each feature.
fn present(i: usize, chance: &dyn Fn(usize) -> f32) -> bool {
    let [parents, children, pairs, _] = &GROUPS.map(|g| g.1);
    if parents.contains(&i) {
        return chance(i) < 0.08;
    }
    if children.contains(&i) {
        let parent = (i - children.start) / CHILDREN;
        return chance(parent) < 0.08 && chance(i) < 0.3;
    }
    if pairs.contains(&i) {
        // Four times in five a pair follows its first one's chance.
        let first = pairs.start + (i - pairs.start) / 2 * 2;
        let own = chance(i + TRUE) < 0.2;
        return chance(if own { i } else { first }) < 0.03;
    }
    // From one row in ten to one in two hundred.
    chance(i) < 0.1 / (1.0 + (i - (TRUE - SINGLES)) as f32 * 0.3)
}

/// The rows, round and round.
struct Rows<'a> {
    world: &'a World,
    hook_points: Vec<String>,
    next: usize,
}

impl BatchSource for Rows<'_> {
    fn hook_points(&self) -> &[String] {
        &self.hook_points
    }
    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        let from = self.next * ROWS % SAMPLES;
        self.next += 1;
        let acts = vec![q.tensor(ROWS, D, &self.world.rows[from * D..(from + ROWS) * D])?];
        Ok(Some(Batch { acts, tokens: vec![0; ROWS], mask: vec![1; ROWS], contexts: None, n_valid: ROWS }))
    }
    fn save_state(&self, _: &mut Queue, _: &Path) -> Result<()> {
        Ok(())
    }
    fn load_state(&mut self, _: &mut Queue, _: &Path) -> Result<()> {
        Ok(())
    }
}

/// Every kind of dictionary: name, settings of it, settings of its trainer.
fn kinds() -> Vec<(&'static str, Value, Value)> {
    let k = 5;
    let auxk = json!({"auxk_coefficient": 0.03125, "k_aux": 32, "dead_threshold": 50_000});
    let l1 = |kind: &str, c: f64| json!({"sparsity_loss_type": kind, "l1_coefficient": c});
    let top = |act_fn: &str| json!({"sae_type": "sae", "act_fn": act_fn, "top_k": k});
    let relu = json!({"sae_type": "sae", "act_fn": "relu"});
    let with = |mut base: Value, more: Value| {
        more.as_object().into_iter().flatten().for_each(|(key, v)| base[key] = v.clone());
        base
    };
    let annealed = json!({"p": 1.0, "p_end": 0.5, "anneal_start": 0.2, "anneal_end": 0.9});
    let resampled = json!({"resample_frequency": 250, "dead_threshold": 50_000});
    let steered = json!({"target_l0": k, "jumprelu_lr_factor": 1.0});
    let jump = json!({"sae_type": "sae", "act_fn": "jumprelu", "jumprelu_threshold_window": 0.4});
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
        ("topk", top("topk"), auxk.clone()),
        ("topk, resampling", top("topk"), resampled),
        ("batchtopk", top("batchtopk"), auxk.clone()),
        ("abstopk", top("abstopk"), auxk.clone()),
        ("groupmax", json!({"sae_type": "sae", "act_fn": "groupmax", "top_k": 8}), auxk.clone()),
        (
            "matryoshka, batchtopk",
            json!({"sae_type": "matryoshka", "act_fn": "batchtopk", "top_k": k, "widths": [16, 64, TRUE]}),
            auxk,
        ),
    ]
}

/// A trained dictionary's L0 and explained variance over its last steps, and its decoder.
fn train(
    q: &mut Queue,
    world: &World,
    sae: &Value,
    trainer: &Value,
    steps: usize,
) -> Result<(f64, f64, Vec<f32>)> {
    let mut settings = json!({
        "hook_point_in": "x", "hook_point_out": "x", "d_model": D, "expansion_factor": TRUE / D,
    });
    sae.as_object().into_iter().flatten().for_each(|(key, v)| settings[key] = v.clone());
    let settings: DictionarySettings = from_tree(&settings)?;
    let mut training = json!({
        "total_training_tokens": steps * ROWS, "lr": 2e-3, "lr_warm_up_steps": 0.05, "k_warmup_steps": 0,
        "n_checkpoints": 0,
    });
    trainer.as_object().into_iter().flatten().for_each(|(key, v)| training[key] = v.clone());
    let training: TrainerSettings = from_tree(&training)?;
    let starting = InitializerSettings {
        grid_search_init_norm: true,
        init_log_jumprelu_threshold_value: Some(-1.0),
        ..Default::default()
    };
    let mut source = Rows { world, hook_points: vec!["x".into()], next: 0 };
    let schedules = Schedules::resolve(&training, ROWS as u64, None)?;
    let dictionary = build(q, &settings)?;
    let mut trainer = Trainer::new(q, dictionary, training, schedules, ROWS)?;
    initialise(q, trainer.dictionary_mut(), &starting, &mut source, None, &mut Silent)?;
    let (mut l0, mut ev, last) = (0.0, 0.0, steps / 20);
    for step in 0..steps {
        let Some(mut batch) = source.next(q)? else { break };
        let quality = trainer.step(q, &source.hook_points, &mut batch)?.quality.unwrap_or_default();
        if step + last >= steps {
            (l0, ev) = (l0 + quality.0 / last as f64, ev + quality.1 / last as f64);
        }
    }
    Ok((l0, ev, decoder(q, trainer.dictionary())?))
}

fn decoder(q: &mut Queue, dictionary: &dyn Dictionary) -> Result<Vec<f32>> {
    let w_d = dictionary.params().into_iter().find(|p| p.name == "W_D");
    w_d.map_or(Ok(Vec::new()), |p| Ok(q.download(&p.value)?))
}

fn row(name: &str, world: &World, decoder: &[f32], l0: Option<(f64, f64)>, seconds: f64) {
    let closest = world.closest(decoder, name == "abstopk");
    let found = |of: &[f32]| 100.0 * of.iter().filter(|&&c| c >= 0.9).count() as f64 / of.len() as f64;
    let mean = closest.iter().sum::<f32>() / closest.len() as f32;
    let by_group: Vec<String> =
        GROUPS.iter().map(|(_, range)| format!("{:.0}", found(&closest[range.clone()]))).collect();
    let (l0, ev) = l0.map_or(("".into(), "".into()), |(l0, ev)| (format!("{l0:.1}"), format!("{ev:.3}")));
    println!(
        "| {name} | {:.0} % | {mean:.3} | {} | {l0} | {ev} | {seconds:.1} |",
        found(&closest),
        by_group.join(" / ")
    );
}

fn main() -> Result<()> {
    let steps = std::env::var("SYNTHETIC_STEPS").ok().and_then(|v| v.parse().ok()).unwrap_or(1500).max(20);
    let only = std::env::var("SYNTHETIC_ONLY").unwrap_or_default();
    let q = &mut Queue::new(&registry().open("auto")?)?;
    let began = Instant::now();
    let world = World::draw();
    println!(
        "{TRUE} true features in {D} dimensions, {:.1} in a row; {steps} steps of {ROWS} rows; drawn in {:.1} s\n",
        world.l0,
        began.elapsed().as_secs_f64()
    );
    let names: Vec<&str> = GROUPS.iter().map(|g| g.0).collect();
    println!(
        "| dictionary | recall | mean max cosine | recall: {} (%) | L0 | explained | seconds |",
        names.join(" / ")
    );
    println!("|---|---|---|---|---|---|---|");
    let random: Vec<f32> = (0..TRUE * D).map(|i| philox::normal(SEED + 9, i as u64, 0.0, 1.0)).collect();
    row("random decoder", &world, &random, None, 0.0);
    for (name, sae, trainer) in kinds().iter().filter(|k| k.0.contains(&only)) {
        let began = Instant::now();
        let (l0, ev, decoder) = train(q, &world, sae, trainer, steps)?;
        row(name, &world, &decoder, Some((l0, ev)), began.elapsed().as_secs_f64());
    }
    Ok(())
}
