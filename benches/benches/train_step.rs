//! A whole training step of a TopK dictionary (d 768, k 50, batch 4096, f32) against the encoder's product alone. First a
//! table in which both take turns, so that the ratio holds on a busy machine, and the peak memory of the step; then
//! criterion rows. `STEP_ROUNDS` sets the rounds of the table (7), `STEP_SIZES` the dictionary sizes (6144,24576); with
//! `STEP_VARIANTS=1` the table is of the kinds of SAE at F 6144, taking turns, against TopK.

use criterion::Criterion;
use lm_saes::{
    activations::Batch,
    dictionary::build,
    settings::{DictionarySettings, TrainerSettings, from_tree},
    training::{Trainer, schedules::Schedules},
};
use lm_saes_backends::registry;
use lm_saes_benches::{median, timed};
use lm_saes_runtime::{DType, GemmOpts, Queue, RandomKind, Tensor};
use serde_json::{Value, json};

const ROWS: usize = 4096;
const D: usize = 768;
const HOOK: &str = "blocks.6.hook_resid_post";

/// A dictionary in training on one batch of normal activations.
struct Step {
    trainer: Trainer,
    batch: Batch,
    hook_points: Vec<String>,
}

impl Step {
    fn new(q: &mut Queue, d_sae: usize, metrics: bool) -> lm_saes::Result<Self> {
        Self::of(q, d_sae, metrics, json!({}))
    }

    /// With other settings than those of a TopK SAE.
    fn of(q: &mut Queue, d_sae: usize, metrics: bool, change: Value) -> lm_saes::Result<Self> {
        let mut sae = json!({
            "sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D,
            "expansion_factor": d_sae / D, "act_fn": "topk", "top_k": 50, "norm_activation": "inference",
        });
        change.as_object().into_iter().flatten().for_each(|(key, v)| sae[key] = v.clone());
        let sae: DictionarySettings = from_tree(&sae)?;
        let settings: TrainerSettings = from_tree(&json!({
            "total_training_tokens": 1u64 << 40, "skip_metrics_calculation": !metrics, "n_checkpoints": 0,
            "k_warmup_steps": 0,
        }))?;
        let dictionary = build(q, &sae)?;
        let schedules = Schedules::resolve(&settings, ROWS as u64, Some(50))?;
        let mut trainer = Trainer::new(q, dictionary, settings, schedules, ROWS)?;
        for (seed, p) in trainer.dictionary_mut().params_mut().into_iter().enumerate() {
            if p.name.starts_with("W_") {
                q.random(RandomKind::Normal, (0.0, 0.03), seed as u64, 0, &mut p.value)?;
            }
        }
        let mut x = q.empty(ROWS, D, DType::F32)?;
        q.random(RandomKind::Normal, (0.0, 1.0), 9, 0, &mut x)?;
        let (tokens, mask) = (vec![0; ROWS], vec![1; ROWS]);
        let batch = Batch { acts: vec![x], tokens, mask, contexts: None, n_valid: ROWS };
        Ok(Self { trainer, batch, hook_points: vec![HOOK.into()] })
    }

    fn run(&mut self, q: &mut Queue) {
        self.trainer.step(q, &self.hook_points, &mut self.batch).expect("finite activations and a small lr");
    }
}

/// The encoder's product for the whole batch.
struct Encode {
    w: Tensor,
    h: Tensor,
}

impl Encode {
    fn new(q: &mut Queue, d_sae: usize) -> lm_saes::Result<Self> {
        let mut w = q.empty(d_sae, D, DType::F32)?;
        q.random(RandomKind::Normal, (0.0, 0.03), 1, 0, &mut w)?;
        Ok(Self { w, h: q.empty(ROWS, d_sae, DType::F32)? })
    }

    fn run(&mut self, q: &mut Queue, x: &Tensor) {
        let opts = GemmOpts { tb: true, ..Default::default() };
        q.gemm(x, &self.w, &mut self.h, opts).expect("the shapes fit");
    }
}

/// `VmHWM` of this process in MiB, where the system tells.
fn peak_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn table(q: &mut Queue, d_sae: usize, rounds: usize) -> lm_saes::Result<()> {
    let mut step = Step::new(q, d_sae, false)?;
    (0..2).for_each(|_| step.run(q));
    if let Some(mib) = peak_mib() {
        println!("F {d_sae}: peak memory {mib:.0} MiB before anything but the step ran");
    }
    let (mut encode, mut measured) = (Encode::new(q, d_sae)?, Step::new(q, d_sae, true)?);
    encode.run(q, &step.batch.acts[0]);
    measured.run(q);
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        times[0].push(timed(|| encode.run(q, &step.batch.acts[0])));
        times[1].push(timed(|| step.run(q)));
        times[2].push(timed(|| measured.run(q)));
    }
    let base = &times[0];
    for (name, own) in ["encode Gemm", "step", "step with metrics"].iter().zip(&times) {
        let threads = rayon::current_num_threads() as f64;
        let wall = median(own.iter().map(|t| 1e3 * t.0).collect());
        let cpu = median(own.iter().map(|t| 1e3 * t.1 / threads).collect());
        let by_wall = median(own.iter().zip(base).map(|(t, b)| t.0 / b.0).collect());
        let by_cpu = median(own.iter().zip(base).map(|(t, b)| t.1 / b.1).collect());
        println!(
            "F {d_sae:6} {name:18} {wall:8.1} ms wall, {cpu:8.1} ms of every core; ratio {by_wall:.3} by wall, {by_cpu:.3} by processor time"
        );
    }
    Ok(())
}

/// Steps of the kinds of SAE against one of TopK.
fn variants(q: &mut Queue, rounds: usize) -> lm_saes::Result<()> {
    let matryoshka = |act_fn: &str| json!({"sae_type": "matryoshka", "act_fn": act_fn});
    let kinds = [
        ("topk", json!({})),
        ("batchtopk", json!({"act_fn": "batchtopk"})),
        ("matryoshka, topk", matryoshka("topk")),
        ("matryoshka, batchtopk", matryoshka("batchtopk")),
        ("abstopk", json!({"act_fn": "abstopk"})),
        ("groupmax, k 48", json!({"act_fn": "groupmax", "top_k": 48})),
        ("topk, b_D in the input", json!({"apply_b_dec_to_input": true})),
        ("relu", json!({"act_fn": "relu"})),
        ("gated", json!({"sae_type": "gated", "act_fn": "relu"})),
    ];
    let mut steps = Vec::new();
    for (name, change) in kinds {
        steps.push((name, Step::of(q, 6144, false, change)?, Vec::new()));
    }
    for round in 0..rounds + 1 {
        for (_, step, times) in &mut steps {
            let time = timed(|| step.run(q));
            if round > 0 {
                times.push(time);
            }
        }
    }
    let base = steps[0].2.clone();
    for (name, _, times) in &steps {
        let wall = median(times.iter().map(|t| 1e3 * t.0).collect());
        let ratio = |of: fn(&(f64, f64)) -> f64| {
            median(times.iter().zip(&base).map(|(t, b)| of(t) / of(b)).collect())
        };
        let (by_wall, by_cpu) = (ratio(|t| t.0), ratio(|t| t.1));
        println!("{name:24} {wall:8.1} ms; {by_wall:.2} x topk by wall, {by_cpu:.2} by processor time");
    }
    Ok(())
}

fn main() {
    let variable = |name: &str| std::env::var(name).ok();
    let rounds = variable("STEP_ROUNDS").and_then(|v| v.parse().ok()).unwrap_or(7);
    let sizes = variable("STEP_SIZES").unwrap_or_else(|| "6144,24576".into());
    let sizes: Vec<usize> = sizes.split(',').filter_map(|s| s.parse().ok()).collect();
    let device = registry().open("cpu").expect("the cpu device always opens");
    if variable("STEP_VARIANTS").is_some() {
        let mut q = Queue::new(&device).expect("a queue on the cpu");
        variants(&mut q, rounds).expect("steps on synthetic activations");
        return;
    }
    for &d_sae in &sizes {
        let mut q = Queue::new(&device).expect("a queue on the cpu");
        table(&mut q, d_sae, rounds).expect("steps on synthetic activations");
    }
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for &d_sae in &sizes {
        let mut q = Queue::new(&device).expect("a queue on the cpu");
        let mut step = Step::new(&mut q, d_sae, false).expect("valid settings");
        let mut encode = Encode::new(&mut q, d_sae).expect("enough memory");
        let mut group = criterion.benchmark_group(format!("F {d_sae}"));
        group.bench_function("encode Gemm", |b| b.iter(|| encode.run(&mut q, &step.batch.acts[0])));
        group.bench_function("step", |b| b.iter(|| step.run(&mut q)));
        group.finish();
    }
    criterion.final_summary();
}
