//! Sweeps: members end with the bits they would have alone, whatever the others do, and a sweep cut off anywhere goes on to
//! the same bits.

use lm_saes::{
    runners::{self, Outcome, Start, SweepReport},
    settings::{DictionaryChoice, SweepMember, SweepSettings},
    training::{MemberProgress, Observer, Silent, snapshot},
};
use lm_saes_backends::registry;
use lm_saes_tests::tiny::{job, world};
use serde_json::{Value, json};
use std::{fs, ops::ControlFlow, path::Path};
use tempfile::TempDir;

const OTHER: &str = "blocks.1.hook_resid_pre";

/// A sweep of `members` tables of overrides on the tiny job, in a fresh folder.
fn sweep_of(members: Value, more: &[&str]) -> (TempDir, SweepSettings) {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let settings = again(&dir, members, more);
    (dir, settings)
}

fn again(dir: &TempDir, members: Value, more: &[&str]) -> SweepSettings {
    let mut tree = job(dir.path(), "sweep", more);
    tree["sweep"] = members;
    SweepSettings::from_tree(tree).unwrap()
}

/// Different budgets, widths, seeds, lengths, hook points, losses and ways of scaling.
fn mixed() -> Value {
    json!([
        {"name": "small", "sae.top_k": 4, "trainer.initial_k": 4, "initializer.seed": 5},
        {"name": "other", "sae.hook_point_in": OTHER, "sae.hook_point_out": OTHER, "sae.expansion_factor": 6,
         "activation_factory.hook_points": [OTHER], "trainer.total_training_tokens": 4000},
        {"name": "tokens", "sae.norm_activation": "token-wise", "sae.act_fn": "jumprelu",
         "initializer.init_log_jumprelu_threshold_value": -2.3, "trainer.lr": 1e-3,
         "trainer.sparsity_loss_type": "tanh", "trainer.l1_coefficient": 0.01},
        {"name": "raw", "sae.norm_activation": "inference", "trainer.auxk_coefficient": 0.03, "trainer.dead_threshold": 200,
         "initializer.grid_search_init_norm": false},
    ])
}

fn run(s: &SweepSettings, start: Start) -> SweepReport {
    runners::sweep(s, &registry(), &mut Silent, start).unwrap()
}

/// Trains a member by itself into `folder`.
fn alone(member: &SweepMember, folder: &Path) {
    let mut settings = member.settings.clone();
    settings.trainer.exp_result_path = folder.into();
    runners::train(&settings, &registry(), &mut Silent, Start::Fresh).unwrap();
}

fn assert_same(one: &Path, other: &Path) {
    let files = ["sae_weights.safetensors", "config.json", "metrics.jsonl"];
    let checkpoint = |p: &Path| fs::read_dir(p.join("checkpoints")).unwrap().count();
    assert_eq!(checkpoint(one), checkpoint(other), "{}", one.display());
    for file in files {
        let read = |p: &Path| fs::read(p.join(file)).unwrap();
        assert!(read(one) == read(other), "{file} of {} and {}", one.display(), other.display());
    }
}

#[test]
fn members_are_what_they_would_be_alone_bit_for_bit() {
    let (dir, s) = sweep_of(mixed(), &[]);
    let report = run(&s, Start::Fresh);
    for (member, report) in s.members.iter().zip(&report.members) {
        assert!(matches!(report.outcome, Outcome::Complete { .. }), "{report:?}");
        let folder = dir.path().join("alone").join(&member.name);
        alone(member, &folder);
        assert_same(&folder, &dir.path().join("sweep").join(&member.name));
    }
    // Nothing is left to resume.
    assert!(snapshot::latest(&s.root).unwrap().is_none());
}

#[test]
fn a_sweep_on_whole_contexts_is_the_same_as_single_runs_too() {
    let members = json!([{"name": "batch", "sae.norm_activation": "batch-wise"}, {"name": "set"}]);
    let (dir, s) =
        sweep_of(members, &["activation_factory.target=activations-2d", "activation_factory.batch_size=3"]);
    run(&s, Start::Fresh);
    for member in &s.members {
        let folder = dir.path().join("alone").join(&member.name);
        alone(member, &folder);
        assert_same(&folder, &dir.path().join("sweep").join(&member.name));
    }
}

/// A member of every variant, all on whole contexts, which Lorsa needs.
fn variants() -> Value {
    let (into, out) = (
        ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"],
        ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"],
    );
    let member = |name: &str, tag: &str, act_fn: &str, hooks: &[&str], own: Value| {
        let mut all = json!({"name": name, "sae.sae_type": tag, "sae.d_model": 48, "sae.expansion_factor": 2,
            "sae.act_fn": act_fn, "sae.top_k": 8, "activation_factory.hook_points": hooks});
        own.as_object().unwrap().iter().for_each(|(key, v)| all[key] = v.clone());
        all
    };
    let one = |hooks: [&str; 2]| json!({"sae.hook_point_in": hooks[0], "sae.hook_point_out": hooks[1]});
    let with = |mut base: Value, more: Value| {
        more.as_object().unwrap().iter().for_each(|(key, v)| base[key] = v.clone());
        base
    };
    let unlike = json!({"initializer.init_encoder_with_decoder_transpose": false, "initializer.grid_search_init_norm": false});
    let (same, mlp) = (one([OTHER, OTHER]), with(one([into[0], out[0]]), unlike.clone()));
    let layers = json!({"sae.hook_points_in": into, "sae.hook_points_out": out});
    let attention = ["blocks.0.ln1.hook_normalized", "blocks.0.hook_attn_out"];
    let heads = json!({"sae.n_qk_heads": 4, "sae.d_qk_head": 12, "sae.n_ctx": 24, "sae.rotary_dim": 4});
    json!([
        member(
            "transcoder",
            "sae",
            "batchtopk",
            &[into[0], out[0]],
            with(mlp.clone(), json!({"sae.use_skip_connection": true}))
        ),
        member(
            "gated",
            "gated",
            "relu",
            &[OTHER],
            with(
                same.clone(),
                json!({
            "trainer.sparsity_loss_type": "power", "trainer.l1_coefficient": 0.1})
            )
        ),
        member(
            "matryoshka",
            "matryoshka",
            "batchtopk",
            &[OTHER],
            with(same, json!({"sae.widths": [24, 96]}))
        ),
        member(
            "crosscoder",
            "crosscoder",
            "topk",
            &[OTHER, out[1]],
            json!({"sae.hook_points": [OTHER, out[1]]})
        ),
        member("clt", "clt", "layertopk", &[into, out].concat(), with(layers, unlike.clone())),
        member(
            "molt",
            "molt",
            "topk",
            &[into[0], out[0]],
            with(
                mlp,
                json!({
            "sae.expansion_factor": 1, "sae.rank_counts": {"1": 24, "2": 16, "4": 8}})
            )
        ),
        member("lorsa", "lorsa", "topk", &attention, with(with(one(attention), heads), unlike)),
    ])
}

#[test]
fn members_of_every_variant_are_what_they_would_be_alone_bit_for_bit() {
    let more = [
        "activation_factory.target=activations-2d",
        "activation_factory.batch_size=3",
        "trainer.total_training_tokens=1440",
        "trainer.lr_warm_up_steps=2",
        "trainer.log_frequency=5",
    ];
    let (dir, s) = sweep_of(variants(), &more);
    let report = run(&s, Start::Fresh);
    for (member, report) in s.members.iter().zip(&report.members) {
        assert!(matches!(report.outcome, Outcome::Complete { .. }), "{}: {report:?}", member.name);
        let DictionaryChoice::Settings(dictionary) = &member.settings.sae else { panic!("a new dictionary") };
        let tag = if member.name == "transcoder" { "sae" } else { &member.name };
        assert_eq!(dictionary.sae_type(), tag);
        let folder = dir.path().join("alone").join(&member.name);
        alone(member, &folder);
        assert_same(&folder, &dir.path().join("sweep").join(&member.name));
    }
}

/// Breaks off after a step.
struct StopAfter(u64);
impl Observer for StopAfter {
    fn members(&mut self, members: &[MemberProgress<'_>]) -> ControlFlow<()> {
        let step = members.iter().map(|m| m.progress.step).max();
        if step == Some(self.0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_sweep_broken_off_and_resumed_ends_with_the_same_bits() {
    let (dir, s) = sweep_of(mixed(), &["eval=false"]);
    run(&s, Start::Fresh);
    let whole = dir.path().join("whole");
    fs::rename(dir.path().join("sweep"), &whole).unwrap();
    // Before the batches of the starting values are used up, in the middle, and after one member has ended.
    for step in [3, 30, 71] {
        let report = runners::sweep(&s, &registry(), &mut StopAfter(step), Start::Resume).unwrap();
        assert_eq!(report.members[0].outcome, Outcome::Stopped);
    }
    let report = run(&s, Start::Resume);
    assert_eq!(report.resumed_from, Some(71));
    assert!(matches!(report.members[1].outcome, Outcome::Complete { steps: 62, .. }), "{report:?}");
    for member in &s.members {
        assert_same(&whole.join(&member.name), &dir.path().join("sweep").join(&member.name));
    }
}

#[test]
fn a_member_that_diverges_leaves_the_others_alone() {
    let members =
        json!([{"name": "good"}, {"name": "wild", "trainer.lr": 1e30, "trainer.lr_warm_up_steps": 0}]);
    let (dir, s) = sweep_of(members, &["eval=false"]);
    let report = run(&s, Start::Fresh);
    let Outcome::Failed(why) = &report.members[1].outcome else { panic!("{report:?}") };
    assert!(why.contains("not finite"), "{why}");
    let folder = dir.path().join("alone");
    alone(&s.members[0], &folder);
    assert_same(&folder, &dir.path().join("sweep/good"));
}

#[test]
fn data_that_ends_early_gives_every_member_a_dictionary_and_the_sweep_can_go_on() {
    let members = json!([{"name": "a"}, {"name": "b", "sae.top_k": 4}]);
    let (dir, s) = sweep_of(members.clone(), &["activation_factory.sources.0.repeat=false", "eval=false"]);
    let report = run(&s, Start::Fresh);
    for m in &report.members {
        assert!(matches!(m.outcome, Outcome::EndOfStream { steps, .. } if steps < 100), "{m:?}");
        assert!(m.path.join("sae_weights.safetensors").is_file());
    }
    let s = again(&dir, members, &["eval=false"]);
    let report = run(&s, Start::Resume);
    assert!(
        report.members.iter().all(|m| matches!(m.outcome, Outcome::Complete { steps: 100, .. })),
        "{report:?}"
    );
}

#[test]
fn an_unfinished_sweep_is_kept_and_resumed_only_as_it_was() {
    let (dir, s) = sweep_of(json!([{"name": "a"}, {"name": "b", "sae.top_k": 4}]), &["eval=false"]);
    runners::sweep(&s, &registry(), &mut StopAfter(5), Start::Fresh).unwrap();
    let refusal = |s: &SweepSettings, start| {
        runners::sweep(s, &registry(), &mut Silent, start).unwrap_err().to_string()
    };
    let e = refusal(&s, Start::Fresh);
    assert!(e.contains("step_5") && e.contains("--resume"), "{e}");
    let fewer = again(&dir, json!([{"name": "a"}]), &["eval=false"]);
    let e = refusal(&fewer, Start::Resume);
    assert!(e.contains("had a, b"), "{e}");
    let changed = again(&dir, json!([{"name": "a"}, {"name": "b", "sae.top_k": 5}]), &["eval=false"]);
    let e = refusal(&changed, Start::Resume);
    assert!(e.starts_with("setting sae.top_k: "), "{e}");
    assert_eq!(run(&s, Start::Overwrite).resumed_from, None);
}

#[test]
fn the_plan_is_the_sum_of_members_and_one_stream() {
    let (_dir, s) = sweep_of(mixed(), &[]);
    let plan = runners::plan_sweep(&s, &registry()).unwrap();
    let of = |memory: &[runners::Memory], what: &str| {
        memory.iter().find(|m| m.what.contains(what)).map(|m| m.bytes)
    };
    let sum: Option<usize> = plan.members.iter().map(|(_, m)| of(&m.memory, "parameters")).sum();
    assert_eq!(of(&plan.memory, "parameters"), sum);
    assert_eq!(plan.hook_points, ["blocks.0.hook_resid_post", OTHER]);
    let single = runners::plan(&s.members[0].settings, &registry()).unwrap();
    assert_eq!(of(&plan.memory, "shuffle buffer"), of(&single.memory, "shuffle buffer").map(|b| 2 * b));
    assert_eq!(of(&plan.memory, "language model"), of(&single.memory, "language model"));
    // Three ways of scaling one hook point, of which raw rows are one.
    assert_eq!(of(&plan.memory, "rows scaled"), Some(2 * 64 * 48 * 4));
}
