//! Training jobs on several ranks: the same batches, selections and losses as on one, whatever the variant; snapshots that any number
//! of ranks takes up; ranks that differ or fail. Ranks are threads here; `mpirun` starts them as processes in `cli/tests`.

use lm_saes::{
    Result,
    runners::{self, Start, TrainReport},
    settings::{TrainSettings, apply_override, from_tree},
    training::{Ended, Observer, Progress},
};
use lm_saes_backends::registry;
use lm_saes_runtime::Group;
use lm_saes_tests::{
    ranks::on_ranks,
    tiny::{D_MODEL, HOOK, job, world},
};
use serde_json::{Value, json};
use std::{fs, ops::ControlFlow, path::Path};

const STEPS: u64 = 24;
const INTO: [&str; 2] = ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"];
const OUT: [&str; 2] = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"];

/// Losses as they come; stops after a step where told to.
#[derive(Default)]
struct Watch {
    losses: Vec<f64>,
    stop_after: Option<u64>,
}

impl Observer for Watch {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        self.losses.push(p.loss);
        if self.stop_after == Some(p.step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A job whose dictionary is `sae`, all of it written below `dir`.
fn tree(dir: &Path, result: &str, sae: Value, hooks: &[&str], more: &[&str]) -> Value {
    let mut tree = job(dir, result, &[]);
    tree["sae"] = sae;
    tree["sae"]["d_model"] = json!(D_MODEL);
    tree["activation_factory"]["hook_points"] = json!(hooks);
    tree["trainer"]["total_training_tokens"] = json!(STEPS * 64);
    tree["trainer"]["log_frequency"] = json!(4);
    tree["trainer"]["n_checkpoints"] = json!(0);
    tree["initializer"]["init_log_jumprelu_threshold_value"] = json!(-2.0);
    more.iter().for_each(|o| apply_override(&mut tree, o).unwrap());
    tree
}

/// Runs the job on `ranks` ranks; what each reported, with the losses it saw.
fn run(tree: &Value, ranks: usize, start: Start, stop: Option<u64>) -> Vec<(Result<TrainReport>, Vec<f64>)> {
    let mut tree = tree.clone();
    tree["data_parallel_size"] = json!(ranks);
    let settings: TrainSettings = from_tree(&tree).unwrap();
    on_ranks(ranks, |_, comm| {
        let mut watch = Watch { losses: Vec::new(), stop_after: stop };
        let report = runners::train_with(&settings, &registry(), &mut watch, start, Group::new(comm));
        (report, watch.losses)
    })
}

/// Values of one key in the records of a run.
fn recorded(dir: &Path, result: &str, key: &str) -> Vec<f64> {
    let log = fs::read_to_string(dir.join(result).join("metrics.jsonl")).unwrap();
    let records = log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    records.filter_map(|r| r.get(key).and_then(Value::as_f64)).collect()
}

fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * w.abs().max(1e-3), "{what}, {i}: {g} and {w}");
    }
}

/// On 2 and 4 ranks the losses of every step, the records and the final evaluation are those of one rank to rounding; all ranks
/// see and find the same.
fn same_trajectory(sae: Value, hooks: &[&str], more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let what = format!("{} {}", sae["sae_type"], sae["act_fn"]);
    let alone = run(&tree(dir.path(), "r1", sae.clone(), hooks, more), 1, Start::Fresh, None);
    let (Ok(report), losses) = &alone[0] else { panic!("{what}: {:?}", alone[0].0.as_ref().err()) };
    assert_eq!((report.ended, losses.len() as u64), (Ended::Complete, STEPS), "{what}");
    for ranks in [2, 4] {
        let name = format!("r{ranks}");
        let each = run(&tree(dir.path(), &name, sae.clone(), hooks, more), ranks, Start::Fresh, None);
        for (rank, (got, seen)) in each.iter().enumerate() {
            let what = format!("{what} on rank {rank} of {ranks}");
            let got = got.as_ref().unwrap_or_else(|e| panic!("{what}: {e}"));
            close(&what, seen, losses, 1e-4);
            assert_eq!(seen, &each[0].1, "{what}: losses of ranks differ");
            assert_eq!((got.steps, got.tokens), (report.steps, report.tokens), "{what}");
            let (quality, downstream) = got.evaluation.as_ref().unwrap();
            let (first, same) = each[0].0.as_ref().unwrap().evaluation.as_ref().unwrap();
            assert_eq!(
                (&quality.values, downstream),
                (&first.values, same),
                "{what}: ranks evaluate differently"
            );
        }
        for key in [
            "losses/mse_loss",
            "losses/sparsity_loss",
            "metrics/explained_variance",
            "metrics/l0",
            "metrics/mean_feature_act",
            "metrics/l2_norm_error_ratio",
            "metrics/gradient_norm_per_param",
            "metrics/encoder_norm",
            "sparsity/above_1e-2",
        ] {
            let (got, want) = (recorded(dir.path(), &name, key), recorded(dir.path(), "r1", key));
            close(&format!("{what} on {ranks}: {key}"), &got, &want, 1e-3);
        }
    }
}

fn sae(act_fn: &str) -> Value {
    json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "expansion_factor": 4,
           "act_fn": act_fn, "top_k": 8})
}

#[test]
fn topk_with_dead_features_and_clipping() {
    let more = [
        "trainer.auxk_coefficient=0.03",
        "trainer.k_aux=8",
        "trainer.dead_threshold=150",
        "trainer.clip_grad_norm=0.01",
    ];
    same_trajectory(sae("topk"), &[HOOK], &more);
}

#[test]
fn batchtopk_selects_over_the_rows_of_all_ranks() {
    same_trajectory(
        sae("batchtopk"),
        &[HOOK],
        &["trainer.auxk_coefficient=0.03", "trainer.k_aux=8", "trainer.dead_threshold=150"],
    );
}

#[test]
fn relu_with_tanh_quad_looks_at_the_whole_batch() {
    let more = ["trainer.sparsity_loss_type=tanh-quad", "trainer.l1_coefficient=0.01"];
    same_trajectory(sae("relu"), &[HOOK], &more);
}

#[test]
fn jumprelu_with_thresholds_and_a_target() {
    let lp = ["trainer.sparsity_loss_type=tanh", "trainer.lp_coefficient=0.001"];
    same_trajectory(sae("jumprelu"), &[HOOK], &lp);
    let target = ["trainer.sparsity_loss_type=target-l0", "trainer.target_l0=6"];
    same_trajectory(sae("jumprelu"), &[HOOK], &target);
}

#[test]
fn a_falling_exponent_and_resampling() {
    let more = [
        "trainer.sparsity_loss_type=power-sum",
        "trainer.l1_coefficient=0.001",
        "trainer.p_end=0.5",
        "trainer.anneal_end=20",
        "trainer.n_sparsity_updates=5",
        "trainer.resample_frequency=6",
        "trainer.resample_until=20",
        "trainer.dead_threshold=80",
    ];
    same_trajectory(sae("relu"), &[HOOK], &more);
}

#[test]
fn gated_and_matryoshka() {
    let mut gated = sae("relu");
    gated["sae_type"] = json!("gated");
    same_trajectory(gated, &[HOOK], &["trainer.sparsity_loss_type=power", "trainer.l1_coefficient=0.01"]);
    let mut nested = sae("batchtopk");
    (nested["sae_type"], nested["widths"]) = (json!("matryoshka"), json!([48, 192]));
    same_trajectory(nested, &[HOOK], &[]);
}

#[test]
fn crosscoder() {
    for act_fn in ["topk", "batchtopk"] {
        let hooks = [HOOK, "blocks.1.hook_resid_post"];
        let cross = json!({"sae_type": "crosscoder", "hook_points": hooks, "expansion_factor": 4,
                           "act_fn": act_fn, "top_k": 8});
        same_trajectory(
            cross,
            &hooks,
            &["trainer.sparsity_loss_type=tanh-quad", "trainer.l1_coefficient=0.01"],
        );
    }
}

#[test]
fn cross_layer_transcoder() {
    let hooks = [INTO, OUT].concat();
    for act_fn in ["topk", "batchtopk", "batchlayertopk", "jumprelu"] {
        let clt = json!({"sae_type": "clt", "hook_points_in": INTO, "hook_points_out": OUT,
                         "expansion_factor": 4, "act_fn": act_fn, "top_k": 8});
        let more = [
            "trainer.sparsity_loss_type=tanh-quad",
            "trainer.l1_coefficient=0.01",
            "trainer.clip_grad_norm=0.01",
            "initializer.grid_search_init_norm=false",
            "initializer.init_encoder_with_decoder_transpose=false",
        ];
        same_trajectory(clt, &hooks, &more);
    }
}

#[test]
fn mixture_of_linear_transforms() {
    for act_fn in ["relu", "batchtopk"] {
        let molt = json!({"sae_type": "molt", "hook_point_in": INTO[0], "hook_point_out": OUT[0],
                          "rank_counts": {"1": 24, "2": 16, "4": 8}, "expansion_factor": 1, "act_fn": act_fn, "top_k": 6});
        same_trajectory(molt, &[INTO[0], OUT[0]], &["initializer.init_encoder_with_decoder_transpose=false"]);
    }
}

#[test]
fn low_rank_sparse_attention_takes_whole_contexts() {
    for act_fn in ["topk", "batchtopk"] {
        let hooks = ["blocks.0.ln1.hook_normalized", "blocks.0.hook_attn_out"];
        let lorsa = json!({"sae_type": "lorsa", "hook_point_in": hooks[0], "hook_point_out": hooks[1],
                           "n_qk_heads": 6, "d_qk_head": 8, "rotary_dim": 8, "n_ctx": 24, "expansion_factor": 2,
                           "act_fn": act_fn, "top_k": 8});
        let more = [
            "activation_factory.target=activations-2d",
            "activation_factory.batch_size=8",
            "activation_factory.buffer_size=16",
            "trainer.total_training_tokens=4608",
            "initializer.init_encoder_with_decoder_transpose=false",
        ];
        same_trajectory(lorsa, &hooks, &more);
    }
}

/// What the plan says each rank sends of gradients is what was counted, step by step.
#[test]
fn the_planned_communication_is_what_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let clt = json!({"sae_type": "clt", "hook_points_in": INTO, "hook_points_out": OUT, "expansion_factor": 4,
                     "act_fn": "topk", "top_k": 8});
    let clt_hooks = [INTO, OUT].concat();
    let plain: &[&str] = &[
        "trainer.skip_metrics_calculation=true",
        "eval=false",
        "initializer.init_encoder_with_decoder_transpose=false",
        "initializer.grid_search_init_norm=false",
    ];
    let clipped = &[plain, &["trainer.clip_grad_norm=0.01"]].concat();
    for (name, sae, hooks, more) in [
        ("sae", sae("topk"), &[HOOK][..], plain),
        ("clt", clt.clone(), &clt_hooks, plain),
        ("clipped", clt, &clt_hooks, clipped),
    ] {
        for ranks in [2, 4] {
            let mut of = tree(dir.path(), &format!("{name}{ranks}"), sae.clone(), hooks, more);
            let each = run(&of, ranks, Start::Fresh, None);
            of["data_parallel_size"] = json!(ranks);
            let settings: TrainSettings = from_tree(&of).unwrap();
            let plan = runners::plan(&settings, &registry()).unwrap();
            let planned =
                |what: &str| plan.communication.iter().find(|c| c.what == what).unwrap().bytes as u64;
            assert_eq!(plan.ranks.ranks(), ranks);
            for (report, _) in each {
                let traffic = report.unwrap().traffic;
                let sent = |kind: &str| traffic.get(&format!("exchanges {kind}")).map_or(0, |t| t.sent);
                assert_eq!(
                    sent("reduce_scatter") + sent("all_reduce"),
                    STEPS * planned("gradients"),
                    "{name} on {ranks}"
                );
                let rows = if name == "clipped" { planned("norms of gradient rows") } else { 0 };
                let gathered = STEPS * (planned("parameters") + rows);
                assert_eq!(sent("all_gather"), gathered, "{name} on {ranks}");
                // More tokens pass the model than train: some do not count, some wait in the buffer.
                let gathered = traffic["world all_gather"].sent as f64;
                let estimate = (STEPS * planned("model activations")) as f64;
                assert!(gathered > estimate && gathered < 4.0 * estimate, "{gathered} and {estimate}");
            }
        }
    }
    let alone: TrainSettings = from_tree(&tree(dir.path(), "x", self::sae("topk"), &[HOOK], &[])).unwrap();
    let plan = runners::plan(&alone, &registry()).unwrap();
    assert!(plan.communication.is_empty());
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let more = ["trainer.auxk_coefficient=0.03", "trainer.k_aux=8", "trainer.dead_threshold=150"];
    let of = |name: &str| tree(dir.path(), name, sae("batchtopk"), &[HOOK], &more);
    let whole = run(&of("whole"), 1, Start::Fresh, None).remove(0).1;
    let mut losses = Vec::new();
    for (ranks, stop, ended) in
        [(1, Some(7), Ended::Stopped), (2, Some(15), Ended::Stopped), (1, None, Ended::Complete)]
    {
        let start = if losses.is_empty() { Start::Fresh } else { Start::Resume };
        let mut each = run(&of("parts"), ranks, start, stop);
        for (report, _) in &each {
            assert_eq!(report.as_ref().unwrap().ended, ended);
        }
        losses.append(&mut each[0].1);
    }
    close("resumed on 2 ranks and on 1", &losses, &whole, 1e-4);
    for key in ["metrics/l0", "sparsity/above_1e-2"] {
        let (got, want) = (recorded(dir.path(), "parts", key), recorded(dir.path(), "whole", key));
        close(key, &got, &want, 1e-3);
    }
}

#[test]
fn ranks_with_other_settings_are_told_which_rank_and_which_key() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let told = on_ranks(2, |rank, comm| {
        let lr = format!("trainer.lr={}", if rank == 1 { 0.5 } else { 0.25 });
        let more = [&lr, "data_parallel_size=2"];
        let settings: TrainSettings =
            from_tree(&tree(dir.path(), "out", sae("topk"), &[HOOK], &more)).unwrap();
        let watch = &mut Watch::default();
        let done = runners::train_with(&settings, &registry(), watch, Start::Fresh, Group::new(comm));
        done.err().unwrap().to_string()
    });
    let want = "setting trainer.lr: is 0.5 on rank 1, but 0.25 on rank 0; all ranks need the same settings";
    assert_eq!(told, [want, want]);
    assert!(!dir.path().join("out").exists());
}

#[test]
fn what_only_the_first_rank_finds_out_ends_all_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let of = tree(dir.path(), "out", sae("topk"), &[HOOK], &[]);
    for (report, _) in run(&of, 2, Start::Fresh, Some(5)) {
        assert_eq!(report.unwrap().ended, Ended::Stopped);
    }
    for (rank, (report, losses)) in run(&of, 2, Start::Fresh, None).into_iter().enumerate() {
        let e = report.err().unwrap().to_string();
        assert!(e.contains("an unfinished run has its snapshot in"), "rank {rank}: {e}");
        assert!(losses.is_empty());
    }
}

#[test]
fn a_rank_that_fails_on_the_way_ends_the_others_and_leaves_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let mut of = tree(dir.path(), "out", sae("topk"), &[HOOK], &["trainer.snapshot_frequency=4"]);
    of["data_parallel_size"] = json!(2);
    let settings: TrainSettings = from_tree(&of).unwrap();
    /// Panics as a bug would.
    struct Falls(u64);
    impl Observer for Falls {
        fn step(&mut self, p: &Progress) -> ControlFlow<()> {
            assert!(p.step < self.0, "planted");
            ControlFlow::Continue(())
        }
    }
    let ended = on_ranks(2, |rank, comm| {
        let mut falls = Falls(if rank == 1 { 10 } else { u64::MAX });
        let job = std::panic::AssertUnwindSafe(|| {
            runners::train_with(&settings, &registry(), &mut falls, Start::Fresh, Group::new(comm))
        });
        std::panic::catch_unwind(job).map(|done| done.err().map(|e| e.to_string()))
    });
    assert!(ended[1].is_err());
    let told = ended[0].as_ref().unwrap().as_ref().unwrap();
    assert!(told.contains("rank 1 has left the job"), "{told}");
    let kept = lm_saes::training::snapshot::latest(&dir.path().join("out")).unwrap().unwrap();
    assert!(kept.ends_with("step_8"), "{}", kept.display());
    for (report, losses) in run(&of, 1, Start::Resume, None) {
        assert_eq!((report.unwrap().ended, losses.len() as u64), (Ended::Complete, STEPS - 8));
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let refused = |more: &[&str]| {
        let s: TrainSettings = from_tree(&tree(dir.path(), "out", sae("topk"), &[HOOK], more)).unwrap();
        let done = runners::train_with(&s, &registry(), &mut Watch::default(), Start::Fresh, Group::solo());
        done.err().unwrap().to_string()
    };
    let e = refused(&["data_parallel_size=2"]);
    assert!(e.starts_with("setting data_parallel_size") && e.contains("mpirun -n 2"), "{e}");
    let e = refused(&["data_parallel_size=3"]);
    assert!(e.contains("batch_size = 64 must be divisible"), "{e}");
}
