//! A whole training step of each variant against the dense products it cannot avoid, run in turns so that the ratio holds on a
//! busy machine; then criterion rows. The products are those of dense operands, forward and gradient of the weights; what
//! attention multiplies counts half, as the future is masked; where codes are sparse, decoding and its gradients do not count at
//! all. `VARIANT_ROUNDS` sets the rounds of the table (5), `VARIANTS` the rows by name (all but the CLT of full size, which
//! takes 6.5 GB). Peak memory is the process's, so it is a row's own where one row is named. With `VARIANT_TRACE` there is no
//! measuring: it prints where a step of each row spends its time, op by op.

use criterion::Criterion;
use lm_saes::{
    activations::Batch,
    dictionary::build,
    settings::{DictionarySettings, TrainerSettings, from_tree},
    training::{Trainer, schedules::Schedules},
};
use lm_saes_backends::{registry, traced::traced};
use lm_saes_benches::{median, timed};
use lm_saes_runtime::{Arena, DType, Device, GemmOpts, Queue, RandomKind, Tensor};
use serde_json::{Value, json};
use std::sync::Arc;

/// What is measured.
struct Row {
    name: &'static str,
    sae: Value,
    /// Hook points read or reconstructed.
    hook_points: Vec<String>,
    /// Of the trainer, beside those all rows share.
    trainer: Value,
    /// Rows of a batch, or contexts and tokens of each.
    rows: usize,
    contexts: Option<(usize, usize)>,
    k: Option<usize>,
    /// Multiplications a step cannot avoid, as products of sizes m, n, k and how many of each.
    products: Vec<([usize; 3], f64)>,
}

/// The reference system's recipe on four of its thirty-two contexts.
fn lorsa() -> Row {
    let (d, s, n_qk, d_qk, contexts, len) = (768, 6144, 48, 64, 4, 1024);
    let (rows, group) = (contexts * len, s / n_qk);
    let heads = (contexts * n_qk) as f64 / 2.0;
    Row {
        name: "lorsa",
        sae: json!({
            "sae_type": "lorsa", "hook_point_in": "in", "hook_point_out": "out", "d_model": d,
            "expansion_factor": s / d, "act_fn": "topk", "top_k": 64, "norm_activation": "inference",
            "n_qk_heads": n_qk, "d_qk_head": d_qk, "n_ctx": len, "rotary_dim": 16, "rotary_adjacent_pairs": false,
        }),
        hook_points: names(&["in", "out"]),
        trainer: json!({}),
        rows,
        contexts: Some((contexts, len)),
        k: Some(64),
        products: vec![
            // Queries, keys and values, and the gradients of their maps.
            ([rows, n_qk * d_qk, d], 2.0),
            ([rows, s, d], 1.0),
            ([n_qk * d_qk, d, rows], 2.0),
            ([s, d, rows], 1.0),
            // q·k twice, dq, dk; p·v, dz·v, dv.
            ([len, len, d_qk], 4.0 * heads),
            ([len, len, group], 3.0 * heads),
        ],
    }
}

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|h| (*h).to_string()).collect()
}

/// The two sides of an SAE with d 768 and F 6144 on batches of 4096; `codes` says how many of the products with codes are dense.
fn sae(name: &'static str, own: Value, trainer: Value, codes: f64) -> Row {
    let (d, s, rows) = (768, 6144, 4096);
    let mut sae = json!({
        "sae_type": "sae", "hook_point_in": "in", "hook_point_out": "in", "d_model": d, "expansion_factor": s / d,
        "norm_activation": "inference",
    });
    if let (Some(sae), Value::Object(own)) = (sae.as_object_mut(), own) {
        sae.extend(own);
    }
    let k = sae.get("top_k").and_then(Value::as_u64).map(|k| k as usize);
    Row {
        name,
        sae,
        hook_points: names(&["in"]),
        trainer,
        rows,
        contexts: None,
        k,
        // Encoding; then decoding, back to the codes, and the gradients of both matrices.
        products: vec![([rows, s, d], 1.0), ([rows, d, s], codes)],
    }
}

/// Two encoders; the gradient of either goes by entries, as that of one.
fn glu() -> Row {
    let own = json!({"act_fn": "topk", "top_k": 50, "use_glu_encoder": true});
    let mut row = sae("glu", own, json!({}), 0.0);
    row.products[0].1 = 2.0;
    row
}

/// A transcoder with a linear path beside the features: its product and the gradient of its matrix.
fn skip() -> Row {
    let own = json!({"hook_point_out": "out", "act_fn": "topk", "top_k": 50, "use_skip_connection": true});
    let mut row = sae("skip", own, json!({}), 0.0);
    row.hook_points = names(&["in", "out"]);
    row.products.push(([row.rows, 768, 768], 2.0));
    row
}

/// Dense codes read twice: decoding and the gate's own reconstruction, forward and back; one gradient of each matrix.
fn gated() -> Row {
    sae(
        "gated",
        json!({"sae_type": "gated", "act_fn": "relu"}),
        json!({"sparsity_loss_type": "power", "l1_coefficient": 1e-3}),
        6.0,
    )
}

fn jumprelu() -> Row {
    sae(
        "jumprelu",
        json!({"act_fn": "jumprelu"}),
        json!({"sparsity_loss_type": "tanh-quad", "l1_coefficient": 1e-3}),
        4.0,
    )
}

fn matryoshka() -> Row {
    sae(
        "matryoshka",
        json!({"sae_type": "matryoshka", "act_fn": "batchtopk", "top_k": 50, "widths": [384, 768, 1536, 3072, 6144]}),
        json!({}),
        0.0,
    )
}

/// Three layers of the width of the other rows. Its products are the encoders': decoders and gradients go by entries.
fn crosscoder() -> Row {
    let (d, s, rows, heads) = (768, 6144, 4096, 3);
    let hook_points = ["a", "b", "c"];
    Row {
        name: "crosscoder",
        sae: json!({
            "sae_type": "crosscoder", "hook_points": hook_points, "d_model": d, "expansion_factor": s / d,
            "act_fn": "topk", "top_k": 50, "norm_activation": "inference",
        }),
        hook_points: names(&hook_points),
        trainer: json!({}),
        rows,
        contexts: None,
        k: Some(50),
        products: vec![([rows, s, d], heads as f64)],
    }
}

/// Many transforms of small ranks, one in 124 active. Its products are those of all transforms, so that the ratio is what skipping
/// inactive ones leaves of them.
fn molt() -> Row {
    let (d, rows, wide) = (768, 4096, 1024);
    Row {
        name: "molt",
        sae: json!({
            "sae_type": "molt", "hook_point_in": "in", "hook_point_out": "out", "d_model": d,
            "expansion_factor": 2.5833333, "act_fn": "topk", "top_k": 16, "norm_activation": "inference",
            "rank_counts": {"16": 64, "8": 128, "4": 256, "2": 512, "1": 1024},
        }),
        hook_points: names(&["in", "out"]),
        trainer: json!({}),
        rows,
        contexts: None,
        k: Some(16),
        // For each of the five ranks U and V there, once more back, and their gradients.
        products: vec![([rows, wide, d], 10.0), ([rows, d, wide], 5.0), ([wide, d, rows], 10.0)],
    }
}

/// A CLT of `layers` layers of 6144 features, 256 of them active over all layers.
fn clt(name: &'static str, layers: usize) -> Row {
    let (d, s, rows, k) = (768, 6144, 1024, 256);
    let hooks = |kind: &str| (0..layers).map(|l| format!("{kind}{l}")).collect::<Vec<_>>();
    let (inputs, outputs) = (hooks("in"), hooks("out"));
    Row {
        name,
        sae: json!({
            "sae_type": "clt", "hook_points_in": inputs, "hook_points_out": outputs, "d_model": d,
            "expansion_factor": s / d, "act_fn": "layertopk", "top_k": k, "norm_activation": "inference",
        }),
        hook_points: [inputs, outputs].concat(),
        trainer: json!({}),
        rows,
        contexts: None,
        k: Some(k),
        products: vec![([rows, s, d], layers as f64)],
    }
}

fn rows() -> Vec<Row> {
    let wanted = std::env::var("VARIANTS").ok();
    let all = vec![
        sae("topk", json!({"act_fn": "topk", "top_k": 50}), json!({}), 0.0),
        sae("batchtopk", json!({"act_fn": "batchtopk", "top_k": 50}), json!({}), 0.0),
        sae("abstopk", json!({"act_fn": "abstopk", "top_k": 50}), json!({}), 0.0),
        sae("groupmax", json!({"act_fn": "groupmax", "top_k": 48}), json!({}), 0.0),
        glu(),
        skip(),
        jumprelu(),
        gated(),
        matryoshka(),
        crosscoder(),
        molt(),
        lorsa(),
        clt("clt", 4),
        clt("clt12", 12),
    ];
    let named = |r: &Row| wanted.as_ref().map_or(r.name != "clt12", |w| w.split(',').any(|w| w == r.name));
    all.into_iter().filter(named).collect()
}

/// A dictionary in training on one batch of normal activations.
struct Step {
    trainer: Trainer,
    batch: Batch,
    hook_points: Vec<String>,
    /// Bytes of parameters, arenas and the batch.
    planned: usize,
}

impl Step {
    fn new(q: &mut Queue, row: &Row) -> lm_saes::Result<Self> {
        let sae: DictionarySettings = from_tree(&row.sae)?;
        let mut settings = json!({
            "total_training_tokens": 1u64 << 40, "skip_metrics_calculation": true, "n_checkpoints": 0,
            "k_warmup_steps": 0,
        });
        if let (Some(all), Some(own)) = (settings.as_object_mut(), row.trainer.as_object()) {
            all.extend(own.clone());
        }
        let settings: TrainerSettings = from_tree(&settings)?;
        let mut dictionary = build(q, &sae)?;
        let schedules = Schedules::resolve(&settings, row.rows as u64, row.k)?;
        let arenas = Trainer::plan(&mut *dictionary, &settings, &schedules, row.rows)?;
        let parameters: usize = dictionary.params().iter().map(|p| p.value.bytes()).sum();
        let batch = 4 * row.rows * sae.d_model() * row.hook_points.len();
        let planned = parameters + arenas.iter().map(Arena::used).sum::<usize>() + batch;
        let mut trainer = Trainer::new(q, dictionary, settings, schedules, row.rows)?;
        for (seed, p) in trainer.dictionary_mut().params_mut().into_iter().enumerate() {
            if p.name.starts_with("W_") || p.name.contains("_matrices") {
                q.random(RandomKind::Normal, (0.0, 0.03), seed as u64, 0, &mut p.value)?;
            }
        }
        let mut acts = Vec::new();
        for seed in 0..row.hook_points.len() as u64 {
            let mut x = q.empty(row.rows, sae.d_model(), DType::F32)?;
            q.random(RandomKind::Normal, (0.0, 1.0), 9 + seed, 0, &mut x)?;
            acts.push(x);
        }
        let (tokens, mask) = (vec![0; row.rows], vec![1; row.rows]);
        let batch = Batch { acts, tokens, mask, contexts: row.contexts, n_valid: row.rows };
        Ok(Self { trainer, batch, hook_points: row.hook_points.clone(), planned })
    }

    fn run(&mut self, q: &mut Queue) {
        self.trainer.step(q, &self.hook_points, &mut self.batch).expect("finite activations and a small lr");
    }
}

/// The products alone. Each runs once and counts as often as the step needs it.
struct Products {
    list: Vec<(Tensor, Tensor, Tensor, f64)>,
}

impl Products {
    fn new(q: &mut Queue, row: &Row) -> lm_saes::Result<Self> {
        let mut list = Vec::new();
        for &([m, n, k], times) in &row.products {
            let mut operand = |rows, cols| -> lm_saes::Result<Tensor> {
                let mut t = q.empty(rows, cols, DType::F32)?;
                q.random(RandomKind::Normal, (0.0, 1.0), 3, 0, &mut t)?;
                Ok(t)
            };
            let (a, b) = (operand(m, k)?, operand(n, k)?);
            list.push((a, b, q.empty(m, n, DType::F32)?, times));
        }
        Ok(Self { list })
    }

    /// Wall and processor seconds.
    fn run(&mut self, q: &mut Queue) -> (f64, f64) {
        let opts = GemmOpts { tb: true, ..Default::default() };
        let mut sum = (0.0, 0.0);
        for (a, b, c, times) in &mut self.list {
            let (wall, cpu) = timed(|| q.gemm(&*a, &*b, &mut *c, opts).expect("the shapes fit"));
            sum = (sum.0 + *times * wall, sum.1 + *times * cpu);
        }
        sum
    }
}

/// `VmHWM` of this process in MiB, where the system tells.
fn peak_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Prints how a row fares, and hands out its trainer: of the largest row there is no room for two.
fn table(q: &mut Queue, row: &Row, rounds: usize) -> lm_saes::Result<Step> {
    let mut step = Step::new(q, row)?;
    (0..2).for_each(|_| step.run(q));
    let planned = step.planned as f64 / f64::from(1 << 20);
    println!(
        "{}: planned {planned:.0} MiB, peak {:.0} MiB (of the process, all rows before it included)",
        row.name,
        peak_mib()
    );
    let mut products = Products::new(q, row)?;
    products.run(q);
    let (mut base, mut own, mut by_wall, mut by_cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (alone, whole) = (products.run(q), timed(|| step.run(q)));
        base.push(1e3 * alone.0);
        own.push(1e3 * whole.0);
        by_wall.push(whole.0 / alone.0);
        by_cpu.push(whole.1 / alone.1);
    }
    println!(
        "{}: products {:.1} ms, step {:.1} ms wall; ratio {:.3} by wall, {:.3} by processor time",
        row.name,
        median(base),
        median(own),
        median(by_wall),
        median(by_cpu),
    );
    Ok(step)
}

/// Prints what the ops of five steps took.
fn trace(device: &Arc<dyn Device>, row: &Row) -> lm_saes::Result<()> {
    let (mut q, trace) = traced(device)?;
    let mut step = Step::new(&mut q, row)?;
    (0..2).for_each(|_| step.run(&mut q));
    trace.clear();
    (0..5).for_each(|_| step.run(&mut q));
    println!("{}, five steps\n{trace}", row.name);
    Ok(())
}

fn main() {
    let rounds = std::env::var("VARIANT_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(5);
    let device = registry().open("cpu").expect("the cpu device always opens");
    if std::env::var_os("VARIANT_TRACE").is_some() {
        rows().iter().for_each(|row| trace(&device, row).expect("steps on synthetic activations"));
        return;
    }
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for row in rows() {
        let mut q = Queue::new(&device).expect("a queue on the cpu");
        let mut step = table(&mut q, &row, rounds).expect("steps on synthetic activations");
        criterion.bench_function(row.name, |b| b.iter(|| step.run(&mut q)));
    }
    criterion.final_summary();
}
