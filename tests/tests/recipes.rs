//! Settings files as the reference system's users write them, one for each of its recipes: all are read unchanged and planned
//! without their device, model or data.

use lm_saes::{
    runners::{self, Plan},
    settings::{KSchedule, SweepSettings, TrainSettings, load},
};
use lm_saes_backends::registry;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/src/settings/fixtures").join(name)
}

fn planned(name: &str) -> (TrainSettings, Plan) {
    let settings: TrainSettings = load(&fixture(name), &[]).unwrap();
    assert!(settings.mongo.is_some() && settings.wandb.is_some(), "{name}");
    let plan = runners::plan(&settings, &registry()).unwrap();
    for part in ["cuda", "EleutherAI/pythia-160m"] {
        assert!(plan.obstacles.iter().any(|o| o.contains(part)), "{name}: {part}: {:?}", plan.obstacles);
    }
    (settings, plan)
}

fn parameters(plan: &Plan) -> usize {
    plan.memory.iter().find(|m| m.what.contains("parameters")).unwrap().bytes / 4
}

const D: usize = 768;
const S: usize = 6144;

#[test]
fn batchtopk() {
    let (_, plan) = planned("pythia_batchtopk.toml");
    assert_eq!((plan.schedules.total_steps, plan.d_sae), (195_312, S));
    assert_eq!(parameters(&plan), 2 * D * S + S + D);
}

#[test]
fn jumprelu_with_tanh_quad() {
    let (settings, plan) = planned("pythia_jumprelu.toml");
    assert_eq!(settings.trainer.jumprelu_lr_factor, 0.1);
    assert_eq!(parameters(&plan), 2 * D * S + 2 * S + D);
}

#[test]
fn lorsa() {
    let (settings, plan) = planned("pythia_lorsa.toml");
    assert_eq!((plan.batch_rows, settings.initializer.model_layer), (32 * 1024, Some(6)));
    assert_eq!(parameters(&plan), 2 * 48 * (D + 1) * 64 + 2 * S * D + S + D);
}

#[test]
fn a_sweep_of_items() {
    let settings = SweepSettings::load(&fixture("pythia_sweep.toml"), &[]).unwrap();
    let plan = runners::plan_sweep(&settings, &registry()).unwrap();
    let names: Vec<&str> = plan.members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["pythia-160m-topk-25", "pythia-160m-topk-50"]);
    assert_eq!(settings.root, Path::new("results"));
}

#[test]
fn cross_layer_transcoder() {
    let (settings, plan) = planned("pythia_clt.toml");
    assert_eq!(settings.trainer.k_schedule_type, KSchedule::Exponential);
    assert_eq!(plan.schedules.k.as_ref().unwrap().k(0), 36_864);
    assert_eq!(parameters(&plan), 12 * (D * S + S) + 78 * S * D + 12 * D);
}

#[test]
fn crosscoder_with_a_factory_for_each_head() {
    let (settings, plan) = planned("pythia_crosscoder.toml");
    let hooks = ["blocks.4.hook_resid_post", "blocks.8.hook_resid_post"];
    assert_eq!(settings.activation_factory.hook_points, hooks);
    assert_eq!(parameters(&plan), 2 * (2 * D * S + S + D) + S);
}

#[test]
fn mixture_of_linear_transforms() {
    let (_, plan) = planned("pythia_molt.toml");
    assert_eq!(plan.d_sae, 310);
    assert_eq!(parameters(&plan), D * 310 + 2 * 310 + 2 * D * 5 * 5120 + D);
}
