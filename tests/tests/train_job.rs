//! Whole training and evaluation jobs on a tiny language model: what they leave on disk and what they refuse.

use lm_saes::{
    dictionary::build,
    parallel::Axis,
    runners::{self, Start, Workbench},
    settings::{EvaluateSettings, TrainSettings, from_tree},
    tensorfile::{self, OutTensor, Precision, TensorFile},
    training::{Ended, Observer, Progress, Silent, evaluate, snapshot},
};
use lm_saes_backends::registry;
use lm_saes_tests::tiny::{D_MODEL, HOOK, dictionary, job, settings, world};
use serde_json::{Value, json};
use std::{fs, ops::ControlFlow, path::Path};

fn train(s: &TrainSettings, start: Start) -> lm_saes::Result<runners::TrainReport> {
    runners::train(s, &registry(), &mut Silent, start)
}

fn refusal(s: &TrainSettings) -> String {
    train(s, Start::Fresh).err().expect("the job should be refused").to_string()
}

/// Rewrites the model's weights a little larger: as finetuning, same shapes and other values.
fn finetune(dir: &Path) {
    let path = dir.join("model/model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let larger = |t: tensorfile::TensorInfo| {
        let (shape, values) = file.f32(&t.name).unwrap();
        OutTensor { name: t.name, shape, values: values.iter().map(|v| v * 1.01).collect() }
    };
    let tensors: Vec<OutTensor> = file.list().into_iter().map(larger).collect();
    tensorfile::write(&path, &tensors, Precision::F32, &[("format", "pt".into())]).unwrap();
}

#[test]
fn a_dictionary_of_another_models_weights_is_refused_unless_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = settings(dir.path(), "out", &["eval=false", "trainer.total_training_tokens=640"]);
    train(&s, Start::Fresh).unwrap();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("out/config.json")).unwrap()).unwrap();
    let weights = config["lm_saes"]["model_identity"]["weights"].as_str().unwrap().to_string();
    let evaluate = |strict: bool| {
        let mut tree = job(dir.path(), "out", &[]);
        let sae = json!({"pretrained_name_or_path": dir.path().join("out"), "strict_loading": strict});
        let mut e = json!({"sae": sae, "eval": {"total_eval_tokens": 500, "downstream_tokens": 200}});
        for key in ["activation_factory", "model", "model_name", "datasets", "device_type"] {
            e[key] = tree[key].take();
        }
        let settings: EvaluateSettings = from_tree(&e).unwrap();
        runners::evaluate(&settings, &registry(), &mut Silent).map(drop).map_err(|e| e.to_string())
    };
    evaluate(true).unwrap();
    finetune(dir.path());
    let e = evaluate(true).unwrap_err();
    assert!(
        e.contains(&weights) && e.contains("other weights") && e.contains("strict_loading = false"),
        "{e}"
    );
    evaluate(false).unwrap();
}

/// Other tools' records know a model by its name only.
#[test]
fn a_dictionary_of_another_models_name_is_refused_where_both_names_are_known() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let hook = json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D_MODEL,
                      "expansion_factor": 2, "act_fn": "relu"});
    dictionary(dir.path(), &hook);
    let config = dir.path().join("dictionary/config.json");
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    record["lm_saes"]["model_name"] = json!("gpt2-small");
    fs::write(&config, record.to_string()).unwrap();
    let run = |name: Option<&str>, strict: bool| {
        let mut tree = job(dir.path(), "out", &[]);
        match name {
            Some(name) => tree["model"]["model_name"] = json!(name),
            None => drop(tree["model"].as_object_mut().unwrap().remove("model_name")),
        }
        let sae = json!({"pretrained_name_or_path": dir.path().join("dictionary"), "strict_loading": strict});
        let mut e = json!({"sae": sae, "eval": {"total_eval_tokens": 200, "downstream_tokens": 100}});
        for key in ["activation_factory", "model", "model_name", "datasets", "device_type"] {
            e[key] = tree[key].take();
        }
        let settings: EvaluateSettings = from_tree(&e).unwrap();
        runners::evaluate(&settings, &registry(), &mut Silent).map(drop).map_err(|e| e.to_string())
    };
    let e = run(Some("pythia-160m"), true).unwrap_err();
    assert!(
        e.contains("\"gpt2-small\"") && e.contains("\"pythia-160m\"") && e.contains("model_name ="),
        "{e}"
    );
    run(Some("pythia-160m"), false).unwrap();
    // The same model by another name, and a folder of which nobody said what it holds.
    run(Some("openai-community/gpt2"), true).unwrap();
    run(None, true).unwrap();
    // Training that starts from a dictionary asks the same.
    let from = format!("sae={}", json!({"pretrained_name_or_path": dir.path().join("dictionary")}));
    let s = settings(dir.path(), "again", &[&from, "model.model_name=pythia-160m", "eval=false"]);
    assert!(refusal(&s).contains("gpt2-small"));
}

/// Stops after five steps.
struct Stop;
impl Observer for Stop {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        if p.step == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_run_is_not_continued_on_other_weights() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = settings(dir.path(), "out", &["eval=false", "trainer.total_training_tokens=6400"]);
    let stopped = runners::train(&s, &registry(), &mut Stop, Start::Fresh).unwrap();
    assert_eq!(stopped.ended, Ended::Stopped);
    finetune(dir.path());
    let e = train(&s, Start::Resume).err().unwrap().to_string();
    assert!(e.contains("model_weights") && e.contains("to resume"), "{e}");
}

#[test]
fn a_job_leaves_a_folded_dictionary_that_evaluates_like_the_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = settings(dir.path(), "out", &[]);
    let report = train(&s, Start::Fresh).unwrap();
    assert_eq!((report.ended, report.steps), (Ended::Complete, 100));
    let (quality, loss) = report.evaluation.unwrap();
    let ev = quality.get("metrics/explained_variance").unwrap();
    assert!(ev > 0.5 && quality.get("metrics/l0").unwrap() <= 8.0, "{quality:?}");
    assert!(loss.original.is_finite() && loss.recovered().is_finite(), "{loss:?}");

    let out = dir.path().join("out");
    let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["norm_activation"], "inference");
    assert_eq!(config["lm_saes"]["token_policy"]["context_size"], 24);
    assert_eq!(config["lm_saes"]["model_name"], "tiny-llama");
    assert_eq!(config["lm_saes"]["dtype"], "torch.float32");
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> =
        log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [20, 40, 50, 60, 80, 100]);
    assert!(log.lines().last().unwrap().contains("metrics/downstream_loss_recovered"));
    assert!(
        out.join("checkpoints/33.safetensors").is_file() && out.join("checkpoints/66.safetensors").is_file()
    );
    // The run is over: nothing to resume.
    assert!(snapshot::latest(&out).unwrap().is_none());

    let mut e = job(dir.path(), "out", &[]);
    for key in ["initializer", "trainer", "sae_name", "sae_series"] {
        e.as_object_mut().unwrap().remove(key);
    }
    e["sae"] = json!({"pretrained_name_or_path": out});
    e["eval"] = json!({"total_eval_tokens": 65_536, "downstream_tokens": 65_536});
    let e: EvaluateSettings = from_tree(&e).unwrap();
    let (again, loss_again) = runners::evaluate(&e, &registry(), &mut Silent).unwrap();
    for key in ["metrics/explained_variance", "metrics/l0"] {
        let (a, b) = (quality.get(key).unwrap(), again.get(key).unwrap());
        assert!((a - b).abs() < 1e-4 * a.abs(), "{key}: {a} and {b}");
    }
    assert!((loss.reconstructed - loss_again.reconstructed).abs() < 1e-4, "{loss:?} {loss_again:?}");
}

#[test]
fn a_transcoder_job_replaces_the_output_from_the_input() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let hooks = ["blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"];
    let s = settings(
        dir.path(),
        "out",
        &[
            &format!("sae.hook_point_in={}", hooks[0]),
            &format!("sae.hook_point_out={}", hooks[1]),
            &format!("activation_factory.hook_points={hooks:?}"),
            "initializer.init_encoder_with_decoder_transpose=false",
        ],
    );
    let (quality, loss) = train(&s, Start::Fresh).unwrap().evaluation.unwrap();
    let log = fs::read_to_string(dir.path().join("out/metrics.jsonl")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    let (from, to) = (&first["losses/mse_loss"], quality.get("losses/mse_loss").unwrap());
    assert!(to < 0.8 * from.as_f64().unwrap(), "from {from} to {to}");
    assert!(loss.original != loss.ablated && loss.reconstructed.is_finite(), "{loss:?}");
}

#[test]
fn a_dictionary_that_reconstructs_exactly_recovers_all_of_the_loss() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    for norm in ["inference", "token-wise"] {
        let s = settings(dir.path(), "out", &[]);
        let model = s.model.as_ref().unwrap();
        let mut bench =
            Workbench::open(&registry(), "cpu", model, &s.activation_factory, &s.datasets, &mut Silent)
                .unwrap();
        let sae = json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D_MODEL,
                         "expansion_factor": 2, "act_fn": "relu", "norm_activation": norm});
        let mut sae = build(&mut bench.q, &from_tree(&sae).unwrap()).unwrap();
        // x = relu(x) − relu(−x)
        let signs: Vec<f32> = (0..2 * D_MODEL * D_MODEL)
            .map(|i| match (i / D_MODEL, i % D_MODEL) {
                (row, col) if row == col => 1.0,
                (row, col) if row == col + D_MODEL => -1.0,
                _ => 0.0,
            })
            .collect();
        for p in sae.params_mut().into_iter().filter(|p| p.name.starts_with('W')) {
            bench.q.upload(&signs, &mut p.value).unwrap();
        }
        // Fewer rows than a model batch has, so that blocks are used.
        let _memory = evaluate::plan_inference(&mut bench.q, &mut *sae, 40).unwrap();
        let mut text = bench.tokens().unwrap();
        let loss =
            evaluate::downstream(&mut bench.q, &bench.lm, &mut *sae, &mut text, (40, 500), &Axis::default())
                .unwrap();
        assert!((loss.reconstructed - loss.original).abs() < 1e-5, "{norm}: {loss:?}");
        assert!((loss.ablated - loss.original).abs() > 1e-3, "{norm}: {loss:?}");
        assert!((loss.recovered() - 1.0).abs() < 1e-2, "{norm}: {loss:?}");
    }
}

#[test]
fn a_job_whose_scale_cannot_be_folded_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = settings(dir.path(), "out", &["sae.norm_activation=token-wise", "eval=false"]);
    train(&s, Start::Fresh).unwrap();
    let config = fs::read_to_string(dir.path().join("out/config.json")).unwrap();
    assert!(config.contains("token-wise"), "{config}");
}

#[test]
fn data_that_ends_early_still_gives_a_final_dictionary_and_can_go_on() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 100);
    let s = settings(dir.path(), "out", &["activation_factory.sources.0.repeat=false", "eval=false"]);
    let report = train(&s, Start::Fresh).unwrap();
    assert_eq!(report.ended, Ended::EndOfStream);
    assert!(report.steps > 10 && report.steps < 100, "{}", report.steps);
    assert!(dir.path().join("out/sae_weights.safetensors").is_file());
    let last = snapshot::latest(&dir.path().join("out")).unwrap().unwrap();
    assert!(last.ends_with(format!("step_{}", report.steps)));
    // Further data: the stream starts at its beginning, everything else goes on.
    fs::write(dir.path().join("text2.txt"), fs::read(dir.path().join("text.txt")).unwrap()).unwrap();
    let more = format!("datasets.text.dataset_name_or_path={:?}", dir.path().join("text2.txt"));
    let s = settings(dir.path(), "out", &["eval=false", &more]);
    let report = train(&s, Start::Resume).unwrap();
    assert_eq!((report.ended, report.steps), (Ended::Complete, 100));
}

#[test]
fn an_unfinished_run_is_not_thrown_away_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = settings(dir.path(), "out", &["eval=false"]);
    let stopped = runners::train(&s, &registry(), &mut Stop, Start::Fresh).unwrap();
    assert_eq!(stopped.ended, Ended::Stopped);
    let e = refusal(&s);
    assert!(e.contains("trainer.exp_result_path") && e.contains("step_5") && e.contains("--resume"), "{e}");
    assert_eq!(train(&s, Start::Resume).unwrap().resumed_from, Some(5));
    assert_eq!(train(&s, Start::Overwrite).unwrap().resumed_from, None);
}

#[test]
fn wrong_settings_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let hook = r#"activation_factory.hook_points=["blocks.7.hook_resid_post"]"#;
    let cases: [(&[&str], &[&str]); 9] = [
        (&[hook], &["blocks.7.hook_resid_post", "hook_resid_mid"]),
        (&["sae.d_model=40"], &["sae.d_model", "48 wide"]),
        (&["sae.hook_point_in=blocks.1.hook_resid_post"], &["activation_factory.hook_points", "blocks.1"]),
        (&["device_type=tpu"], &["device_type", "--device", "cpu:0"]),
        (&["datasets.text.dataset_name_or_path=/nowhere"], &["/nowhere"]),
        (&["model.model_from_pretrained_path=/nowhere"], &["model.model_from_pretrained_path"]),
        (&["model=null"], &["[model]"]),
        (&["data_parallel_size=2"], &["data_parallel_size"]),
        (&["trainer.total_training_tokens=10"], &["trainer.total_training_tokens", "64"]),
    ];
    for (more, parts) in cases {
        let e = refusal(&settings(dir.path(), "out", more));
        assert!(parts.iter().all(|p| e.contains(p)), "{more:?}: {e}");
        assert!(!dir.path().join("out").exists(), "{more:?} wrote something");
    }
}

#[test]
fn the_published_example_is_planned_without_its_device_model_or_data() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/src/settings/fixtures/pythia_topk.toml");
    let s: TrainSettings = lm_saes::settings::load(&file, &[]).unwrap();
    let plan = runners::plan(&s, &registry()).unwrap();
    assert_eq!((plan.schedules.total_steps, plan.d_sae, plan.batch_rows), (195_312, 6144, 4096));
    assert_eq!(plan.schedules.k.as_ref().unwrap().warm_up, 19_531);
    let of = |what: &str| plan.memory.iter().find(|m| m.what.contains(what)).unwrap().bytes;
    assert_eq!(of("parameters"), 4 * (2 * 768 * 6144 + 6144 + 768));
    assert!(of("moments") >= 2 * of("parameters") && of("moments") < 2 * of("parameters") + 100_000);
    assert!(plan.total_bytes() > of("step"));
    let w_e = plan.largest.iter().find(|t| t.label == "W_E").unwrap();
    assert_eq!((&w_e.shape[..], w_e.bytes), (&[768, 6144][..], 4 * 768 * 6144));
    assert!(plan.largest.is_sorted_by_key(|t| std::cmp::Reverse(t.bytes)));
    for part in ["cuda", "EleutherAI/pythia-160m"] {
        assert!(plan.obstacles.iter().any(|o| o.contains(part)), "{part}: {:?}", plan.obstacles);
    }
}
