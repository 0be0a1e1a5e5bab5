//! A training step on 1, 2 and 4 ranks: bytes each rank sends, by collective, against what `--plan` says; memory of moments; and, as
//! information, times: of a step, of exchanges, and how much of these was waited for. Ranks are threads that share the machine's
//! cores, so more of them are not faster. `PARALLEL_STEPS` sets the steps (4).

use lm_saes::{
    activations::Batch,
    dictionary::build_on,
    parallel::{Mesh, MeshSize, rows::most_rows},
    runners,
    settings::{DictionaryChoice, TrainSettings, from_tree},
    training::{Trainer, schedules::Schedules},
};
use lm_saes_backends::{comm::threads, registry};
use lm_saes_runtime::{DType, Group, Queue, RandomKind, Times, Traffic};
use serde_json::{Value, json};
use std::{collections::BTreeMap, thread, time::Instant};

const D: usize = 768;
const ROWS: usize = 4096;

struct Row {
    name: &'static str,
    sae: Value,
    hook_points: Vec<&'static str>,
    trainer: Value,
}

fn rows() -> Vec<Row> {
    let sae = |act_fn: &str, trainer: Value| Row {
        name: "",
        sae: json!({"sae_type": "sae", "hook_point_in": "a", "hook_point_out": "a", "d_model": D,
                    "expansion_factor": 8, "act_fn": act_fn, "top_k": 50, "norm_activation": "inference"}),
        hook_points: vec!["a"],
        trainer,
    };
    let hooks = ["a", "b", "c", "d"];
    let clt = |trainer: Value| Row {
        name: "",
        sae: json!({"sae_type": "clt", "hook_points_in": hooks, "hook_points_out": hooks, "d_model": D,
                    "expansion_factor": 4, "act_fn": "topk", "top_k": 32, "norm_activation": "inference"}),
        hook_points: hooks.to_vec(),
        trainer,
    };
    vec![
        Row { name: "topk, F 6144", ..sae("topk", json!({})) },
        Row { name: "topk, clipped", ..sae("topk", json!({"clip_grad_norm": 1e-3})) },
        Row { name: "batchtopk", ..sae("batchtopk", json!({})) },
        Row { name: "clt, 4 layers of 3072", ..clt(json!({})) },
        Row { name: "clt, clipped", ..clt(json!({"clip_grad_norm": 1e-3})) },
    ]
}

fn settings(row: &Row, ranks: usize) -> TrainSettings {
    let mut trainer = json!({"total_training_tokens": 1 << 24, "lr": 1e-4, "k_warmup_steps": 0,
                              "exp_result_path": "unused"});
    row.trainer.as_object().into_iter().flatten().for_each(|(key, value)| trainer[key] = value.clone());
    let tree = json!({
        "sae_name": "bench", "sae_series": "bench", "device_type": "cpu", "eval": false, "data_parallel_size": ranks,
        "sae": row.sae, "trainer": trainer,
        "activation_factory": {"target": "activations-1d", "hook_points": row.hook_points, "batch_size": ROWS,
                               "sources": [{"type": "dataset", "name": "none"}]},
        "datasets": {"none": {"dataset_name_or_path": "none.txt"}},
    });
    from_tree(&tree).unwrap_or_else(|e| panic!("{e}"))
}

/// What a rank counted in `steps` steps, and seconds of one.
struct Measured {
    traffic: BTreeMap<String, Traffic>,
    times: Times,
    seconds: f64,
}

fn measure(settings: &TrainSettings, mesh: &Mesh, hooks: &[&str], steps: u64) -> lm_saes::Result<Measured> {
    let DictionaryChoice::Settings(about) = &settings.sae else { unreachable!("the bench has settings") };
    let mut q = Queue::new(&registry().open("cpu")?)?;
    let mut dictionary = build_on(&mut q, about, mesh)?;
    for (i, p) in dictionary.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.02), 7 + i as u64, 0, &mut p.value)?;
    }
    let top_k = about.act_fn().has_k().then(|| about.top_k());
    let schedules = Schedules::resolve(&settings.trainer, ROWS as u64, top_k)?;
    let most = most_rows(ROWS, None, mesh.data.size());
    let mut trainer = Trainer::new(&mut q, dictionary, settings.trainer.clone(), schedules, most)?;
    let hook_points: Vec<String> = hooks.iter().map(ToString::to_string).collect();
    let mut begun = None;
    for step in 0..=steps {
        let acts = (0..hooks.len() as u64).map(|h| {
            let mut t = q.empty(ROWS, D, DType::F32)?;
            q.random(RandomKind::Normal, (0.0, 1.0), 1000 + 10 * step + h, 0, &mut t)?;
            Ok(t)
        });
        let acts = acts.collect::<lm_saes::Result<_>>()?;
        let mut batch =
            Batch { acts, tokens: vec![0; ROWS], mask: vec![1; ROWS], contexts: None, n_valid: ROWS };
        trainer.step(&mut q, &hook_points, &mut batch)?;
        q.sync()?;
        // The first step warms up.
        begun.get_or_insert_with(|| (Instant::now(), mesh.traffic(), mesh.exchanges.times()));
    }
    let Some((began, before, times)) = begun else { unreachable!("there was a step") };
    let mut traffic = mesh.traffic();
    for (kind, t) in &mut traffic {
        t.sent -= before.get(kind).map_or(0, |b| b.sent);
        t.sent /= steps;
    }
    let now = mesh.exchanges.times();
    let times = Times { busy: now.busy - times.busy, waited: now.waited - times.waited };
    Ok(Measured { traffic, times, seconds: began.elapsed().as_secs_f64() / steps as f64 })
}

fn on_ranks(settings: &TrainSettings, hooks: &[&str], ranks: usize, steps: u64) -> Measured {
    let size = MeshSize { data: ranks, head: 1, model: 1 };
    let mut all: Vec<Measured> = thread::scope(|s| {
        let start =
            |comm| s.spawn(move || measure(settings, &Mesh::new(Group::new(comm), size)?, hooks, steps));
        let started: Vec<_> = threads::threads(ranks, threads::PATIENCE).into_iter().map(start).collect();
        let joined = |r: thread::ScopedJoinHandle<'_, lm_saes::Result<Measured>>| r.join().expect("no panic");
        started.into_iter().map(|r| joined(r).unwrap_or_else(|e| panic!("{e}"))).collect()
    });
    all.swap_remove(0)
}

fn main() {
    let steps = std::env::var("PARALLEL_STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    println!("bytes each rank sends in a step; planned in brackets where the plan is exact");
    for row in rows() {
        for ranks in [1, 2, 4] {
            let settings = settings(&row, ranks);
            let plan = runners::plan(&settings, &registry()).unwrap_or_else(|e| panic!("{e}"));
            let planned =
                |what: &str| plan.communication.iter().find(|m| m.what == what).map_or(0, |m| m.bytes as u64);
            let moments = plan.memory.iter().find(|m| m.what == "optimizer moments").map_or(0, |m| m.bytes);
            let got = on_ranks(&settings, &row.hook_points, ranks, steps);
            let sent = |kind: &str| got.traffic.get(&format!("exchanges {kind}")).map_or(0, |t| t.sent);
            let (reduced, summed, gathered) =
                (sent("reduce_scatter"), sent("all_reduce"), sent("all_gather"));
            let others: u64 =
                got.traffic.iter().filter(|(k, _)| !k.starts_with("exchanges")).map(|(_, t)| t.sent).sum();
            assert_eq!(reduced + summed, planned("gradients"), "{} on {ranks}", row.name);
            let updates = planned("parameters") + planned("norms of gradient rows");
            assert_eq!(gathered, updates, "{} on {ranks}", row.name);
            let ms = |seconds: f64| 1e3 * seconds;
            let per_step = |d: std::time::Duration| ms(d.as_secs_f64()) / steps as f64;
            println!(
                "{:<22} {ranks} ranks  reduce_scatter {reduced} + all_reduce {summed} [{}]  all_gather {gathered} [{updates}]  \
                 others {others}  moments {moments}  step {:.0} ms  exchanges {:.0} ms  waited {:.0} ms",
                row.name,
                planned("gradients"),
                ms(got.seconds),
                per_step(got.times.busy),
                per_step(got.times.waited),
            );
        }
    }
}
