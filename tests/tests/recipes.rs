//! Settings files as the reference system's users write them, one for each of its recipes: all are read unchanged and planned
//! without their device, model or data. And what the pages of the variants have to say about settings.

use lm_saes::{
    dictionary::{
        CltSettings, CrossCoderSettings, GatedSettings, LorsaSettings, MatryoshkaSettings, MoltSettings,
        SaeSettings, variants::Variant,
    },
    runners::{self, Plan},
    settings::{KSchedule, SweepSettings, TrainSettings, field_names, load},
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

#[test]
fn every_variant_has_a_page_with_formula_shapes_all_settings_when_to_use_it_and_source() {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/src/dictionary");
    let own: [(&str, &[&str]); 7] = [
        ("sae", field_names::<SaeSettings>()),
        ("gated", field_names::<GatedSettings>()),
        ("matryoshka", field_names::<MatryoshkaSettings>()),
        ("crosscoder", field_names::<CrossCoderSettings>()),
        ("clt", field_names::<CltSettings>()),
        ("lorsa", field_names::<LorsaSettings>()),
        ("molt", field_names::<MoltSettings>()),
    ];
    // The others are only read from other tools.
    let trained: Vec<&str> = own.iter().map(|(tag, _)| *tag).collect();
    let known = Variant::TAGS.iter().filter(|tag| !["matching_pursuit", "temporal"].contains(tag));
    assert!(known.clone().count() == own.len() && known.clone().all(|tag| trained.contains(tag)));
    for (tag, keys) in own {
        let page = std::fs::read_to_string(rooms.join(tag).join("README.md")).unwrap();
        for key in keys.iter().chain(&["act_fn"]) {
            assert!(page.contains(&format!("`{key}")), "{tag}: {key} is not explained");
        }
        for part in ["ŷ", "| shape |"] {
            assert!(page.contains(part), "{tag}: no {part:?}");
        }
        assert!(page.contains("Source: ") || page.contains("Sources: "), "{tag}: whose it is");
        let example = page.split("`cli/examples/").nth(1).and_then(|rest| rest.split('`').next());
        let example = rooms.join("../../../cli/examples").join(example.expect("an example"));
        assert!(example.is_file(), "{tag}: {}", example.display());
        assert!(page.to_lowercase().contains("when to use it"), "{tag}: when to use it");
    }
}
