//! The command as a user meets it: what it prints, how it fails, and that a killed run ends with the same bits.

use lm_saes::tensorfile::{self, OutTensor, Precision, TensorFile};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn lm_saes(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lm-saes"));
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    lm_saes(dir).args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn failure(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    assert!(!out.status.success(), "{args:?} should fail: {}", text(&out.stdout));
    let message = text(&out.stderr);
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// The quickstart's model, text and settings in a fresh folder, made for short runs; returns folder and settings file.
fn project() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart");
    fs::create_dir_all(dir.path().join("model")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(assets.join(file), dir.path().join("model").join(file)).unwrap();
    }
    fs::copy(assets.join("text.jsonl"), dir.path().join("text.jsonl")).unwrap();
    let settings = fs::read_to_string(assets.join("train.toml"))
        .unwrap()
        .replace("{out}/text/train.jsonl", "text.jsonl")
        .replace("{out}/", "")
        .replace("{tokens}", "24576")
        .replace("log_frequency = 50", "log_frequency = 4")
        .replace("batch_size = 2048", "batch_size = 1024")
        .replace("buffer_size = 65536", "buffer_size = 8192");
    let path = dir.path().join("train.toml");
    fs::write(&path, settings).unwrap();
    (dir, path)
}

fn weights(dir: &Path, run: &str) -> Vec<u8> {
    fs::read(dir.join(run).join("sae_weights.safetensors")).expect("the run saved its weights")
}

#[test]
fn devices_lists_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), &["devices"]);
    assert!(out.status.success());
    // A build with CUDA says in the first line why there is no card.
    assert!(text(&out.stdout).lines().any(|line| line.starts_with("cpu:0")), "{}", text(&out.stdout));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error_worth_a_report() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lm-saes"))
        .arg("devices")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), text(&out.stderr)), (Some(141), String::new()));
}

#[test]
fn a_plan_needs_no_data() {
    let (dir, _) = project();
    fs::remove_file(dir.path().join("text.jsonl")).unwrap();
    let out = run(dir.path(), &["train", "train.toml", "--plan", "--json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(plan["steps"], 24);
    assert_eq!(plan["d_sae"], 2048);
    assert!(plan["obstacles"][0].as_str().unwrap().contains("text.jsonl"), "{plan}");
}

#[test]
fn errors_name_the_key_the_hook_and_the_file() {
    let (dir, _) = project();
    let fail = |set: &[&str]| {
        let mut args = vec!["train", "train.toml"];
        args.extend(set.iter().flat_map(|s| ["--set", s]));
        failure(dir.path(), &args)
    };
    let e = fail(&["trainer.lrr=1"]);
    assert!(e.contains("trainer.lrr") && e.contains("lr"), "{e}");
    let e = fail(&[
        "sae.hook_point_in=\"blocks.9.hook_resid_post\"",
        "activation_factory.hook_points=[\"blocks.9.hook_resid_post\"]",
    ]);
    assert!(e.contains("blocks.9.hook_resid_post") && e.contains("hook_resid_pre"), "{e}");
    let e = fail(&["datasets.prose.dataset_name_or_path=nowhere.jsonl"]);
    assert!(e.contains("nowhere.jsonl"), "{e}");
    let e = failure(dir.path(), &["train", "missing.toml"]);
    assert!(e.contains("missing.toml"), "{e}");
    let e = failure(dir.path(), &["train", "train.toml", "--device", "cuda:7"]);
    assert!(e.contains("cuda:7") && e.contains("cpu:0"), "{e}");
    fs::remove_file(dir.path().join("model/tokenizer.json")).unwrap();
    let e = fail(&[]);
    assert!(e.contains("tokenizer.json"), "{e}");
}

/// Runs the command with kill -9 after ever longer times until it ends by itself; returns how often it was killed.
fn kill_until_done(dir: &Path, args: &[&str]) -> usize {
    for attempt in 0..60 {
        let mut child = lm_saes(dir).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Later and later, so that kills fall on loading, initialisation, steps and snapshots, and the run gets to its end.
        let limit = Instant::now() + Duration::from_millis(150 + 130 * attempt as u64);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= limit => break None,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        match status {
            Some(status) => {
                assert!(status.success());
                assert!(attempt >= 2, "the run ended before it could be killed");
                return attempt;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }
    panic!("{args:?} never came to its end");
}

#[test]
fn a_run_killed_at_any_instant_resumes_to_the_same_bits() {
    let (dir, _) = project();
    let done = run(dir.path(), &["train", "train.toml", "--set", "trainer.exp_result_path=whole"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let set = ["trainer.snapshot_frequency=2", "trainer.exp_result_path=killed"];
    let args = ["train", "train.toml", "--resume", "--set", set[0], "--set", set[1]];
    let kills = kill_until_done(dir.path(), &args);
    assert!(
        weights(dir.path(), "killed") == weights(dir.path(), "whole"),
        "weights differ after {kills} kills"
    );
}

#[test]
fn a_sweep_killed_at_any_instant_ends_like_separate_runs() {
    let (dir, settings) = project();
    let hook = "blocks.1.hook_resid_post";
    let members = [
        ("narrow", vec!["sae.expansion_factor=4".to_string()]),
        // Ends before the other.
        (
            "early",
            vec![
                format!("sae.hook_point_in={hook}"),
                format!("sae.hook_point_out={hook}"),
                format!("activation_factory.hook_points=[\"{hook}\"]"),
                "trainer.total_training_tokens=12288".into(),
                "sae.expansion_factor=4".into(),
            ],
        ),
    ];
    let mut sweep = fs::read_to_string(&settings).unwrap();
    for (name, overrides) in &members {
        let path = format!("trainer.exp_result_path=alone/{name}");
        // As the sweep names it; the name is part of the file.
        let sae_name = format!("sae_name=quickstart-{name}");
        let mut args = vec!["train", "train.toml", "--set", &path, "--set", &sae_name];
        args.extend(overrides.iter().flat_map(|o| ["--set", o]));
        let done = run(dir.path(), &args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        sweep.push_str(&format!("\n[[sweep]]\nname = \"{name}\"\n"));
        for o in overrides {
            let (key, value) = o.split_once('=').unwrap();
            let value = if value.starts_with("blocks") { format!("\"{value}\"") } else { value.into() };
            sweep.push_str(&format!("{key} = {value}\n"));
        }
    }
    fs::write(dir.path().join("sweep.toml"), sweep).unwrap();
    let set = ["trainer.snapshot_frequency=2", "trainer.exp_result_path=together"];
    let args = ["sweep", "sweep.toml", "--resume", "--set", set[0], "--set", set[1]];
    let kills = kill_until_done(dir.path(), &args);
    for (name, _) in members {
        let (one, other) = (format!("alone/{name}"), format!("together/{name}"));
        for file in ["sae_weights.safetensors", "metrics.jsonl"] {
            let read = |folder: &str| fs::read(dir.path().join(folder).join(file)).unwrap();
            assert!(read(&one) == read(&other), "{file} of {name} differs after {kills} kills");
        }
    }
}

#[test]
fn a_sweeps_file_is_planned_and_not_mistaken_for_a_training_file() {
    let (dir, settings) = project();
    let train = fs::read_to_string(&settings).unwrap();
    fs::write(dir.path().join("grid.toml"), format!("{train}\n[grid]\n\"sae.top_k\" = [8, 16]\n")).unwrap();
    let out = run(dir.path(), &["sweep", "grid.toml", "--plan"]);
    let shown = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for part in ["2 dictionaries", "top_k_8: 2 048 features, 24 steps", "sae/top_k_16", "shuffle buffer"] {
        assert!(shown.contains(part), "{part:?} is missing from:\n{shown}");
    }
    let e = failure(dir.path(), &["train", "grid.toml"]);
    assert!(e.contains("lm-saes sweep grid.toml"), "{e}");
    let e = failure(dir.path(), &["sweep", "train.toml"]);
    assert!(e.contains("[grid]"), "{e}");
}

/// Trains in a fresh folder and leaves there what evaluates the dictionary: `evaluate.toml`.
fn trained() -> TempDir {
    let (dir, settings) = project();
    let done = run(dir.path(), &["train", "train.toml", "--set", "eval=true"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let train = fs::read_to_string(&settings).unwrap();
    let tables: String = train[train.find("[model]").unwrap()..].into();
    let evaluate = format!(
        "device_type = \"auto\"\n[sae]\npretrained_name_or_path = \"sae\"\n[eval]\ntotal_eval_tokens = 4096\ndownstream_tokens = 4096\n{tables}"
    );
    fs::write(dir.path().join("evaluate.toml"), evaluate).unwrap();
    dir
}

#[test]
fn a_trained_dictionary_is_evaluated_and_an_unfinished_run_is_not_lost() {
    let dir = trained();
    let out = run(dir.path(), &["evaluate", "evaluate.toml", "--json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let values: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let value = |key: &str| values[key].as_f64().unwrap_or(f64::NAN);
    assert!((23.0..=24.0).contains(&value("metrics/l0")), "{values}");
    assert!(value("metrics/explained_variance") > 0.3, "{values}");
    assert!(
        value("metrics/downstream_loss_reconstructed") < value("metrics/downstream_loss_ablated"),
        "{values}"
    );

    let shown = text(&run(dir.path(), &["show", "run", "sae"]).stdout);
    assert!(shown.contains("explained_variance"), "{shown}");

    let unfinished = dir.path().join("sae/checkpoints/step_1");
    fs::create_dir_all(&unfinished).unwrap();
    let e = failure(dir.path(), &["train", "train.toml"]);
    assert!(e.contains("--resume") && e.contains("step_1"), "{e}");
}

/// Rewrites one tensor of the trained dictionary; all else stays as it was written.
fn damage(dir: &Path, tensor: &str, change: fn(f32) -> f32) {
    let path = dir.join("sae/sae_weights.safetensors");
    let file = TensorFile::open(&path).unwrap();
    assert!(file.list().iter().any(|t| t.name == tensor), "no {tensor} in {:?}", file.list());
    let changed = |t: tensorfile::TensorInfo| {
        let (shape, mut values) = file.f32(&t.name).unwrap();
        if t.name == tensor {
            values.iter_mut().for_each(|v| *v = change(*v));
        }
        OutTensor { name: t.name, shape, values }
    };
    let tensors: Vec<OutTensor> = file.list().into_iter().map(changed).collect();
    drop(file);
    tensorfile::write(&path, &tensors, Precision::F32, &[("format", "pt".into())]).unwrap();
}

#[test]
fn a_check_passes_the_dictionary_that_was_trained_and_names_each_figure_a_damaged_one_misses() {
    let dir = trained();
    let dir = dir.path();
    let check = ["evaluate", "evaluate.toml", "--check"];
    let sound = run(dir, &check);
    assert!(sound.status.success(), "{}", text(&sound.stderr));
    assert!(text(&sound.stderr).contains("are near what its record states"), "{}", text(&sound.stderr));

    let whole = weights(dir, "sae");
    damage(dir, "W_D", |v| 3.0 * v);
    let e = failure(dir, &check);
    assert!(e.contains("--check: explained variance is ") && e.contains("its record states 0."), "{e}");
    assert!(!e.contains("L0 is"), "the encoder is whole: {e}");

    fs::write(dir.join("sae/sae_weights.safetensors"), &whole).unwrap();
    damage(dir, "b_E", |_| -100.0);
    let e = failure(dir, &check);
    for part in ["L0 is 0.0000, its record states 2", "explained variance is ", "hook point"] {
        assert!(e.contains(part), "{part:?} is missing from: {e}");
    }
    assert!(run(dir, &check[..2]).status.success(), "without --check it is measured and not judged");

    fs::write(dir.join("sae/sae_weights.safetensors"), &whole).unwrap();
    let path = dir.join("sae/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["lm_saes"].as_object_mut().unwrap().remove("stated").expect("training states its figures");
    fs::write(&path, config.to_string()).unwrap();
    let e = failure(dir, &check);
    assert!(e.contains("states neither L0 nor explained variance") && e.contains("eval = true"), "{e}");
}

#[test]
fn the_quickstart_runs_without_arguments_that_matter() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), &["quickstart", "--tokens", "40960"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let shown = text(&out.stdout);
    for part in [
        "explained variance",
        "L0",
        "silent",
        "recovered",
        "feature ",
        "features fired",
        "lm-saes.db",
        "lm-saes serve --store",
    ] {
        assert!(shown.contains(part), "{part:?} is missing from:\n{shown}");
    }
    assert!(dir.path().join("results/quickstart/sae/config.json").exists());
    assert!(dir.path().join("results/quickstart/sae/metrics.jsonl").exists());

    let convert =
        ["to-jumprelu", "results/quickstart/train.toml", "--out", "thresholds", "--tokens", "20000"];
    let more = ["--set", "eval.total_eval_tokens=5000", "--json"];
    let converted = json(dir.path(), &[&convert[..], &more[..]].concat());
    let l0 = |when: &str| converted[when]["metrics/l0"].as_f64().unwrap();
    assert!((l0("after") / l0("before") - 1.0).abs() < 0.1, "{converted:#}");
    assert!(dir.path().join("thresholds/config.json").exists());
    assert!(failure(dir.path(), &convert).contains("is there already"));
    let store = "results/quickstart/lm-saes.db";
    let listed = text(&run(dir.path(), &["list", "--store", store]).stdout);
    assert!(listed.contains("quickstart (quickstart) · sae of 2 048 features · quickstart-lm"), "{listed}");
    let show = |index: &str| {
        text(&run(dir.path(), &["show", "feature", "quickstart", index, "--store", store]).stdout)
    };
    let shown = show("random");
    for part in ["promotes", "neighbours", "top_activations (10)", "quantile_80_100", "["] {
        assert!(shown.contains(part), "{part:?} is missing from:\n{shown}");
    }
    let e = failure(dir.path(), &["show", "feature", "quickstart", "5000", "--store", store]);
    assert!(e.contains("0 to 2047"), "{e}");
    let e = failure(dir.path(), &["show", "feature", "other", "0", "--store", store]);
    assert!(e.contains("it has quickstart"), "{e}");
    let e = failure(dir.path(), &["list", "--store", "nowhere.db"]);
    assert!(e.contains("nowhere.db") && !dir.path().join("nowhere.db").exists(), "{e}");
}

fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Where a store goes: into this file, or with `LM_SAES_PAGES_ON=mongodb` into a database of the server that is named.
fn place(file: &str) -> String {
    let on_mongodb = std::env::var("LM_SAES_PAGES_ON").is_ok_and(|on| on == "mongodb");
    let database = if on_mongodb { lm_saes_tests::mongo_database() } else { None };
    database.unwrap_or_else(|| file.into())
}

#[test]
fn an_analysis_killed_at_any_instant_leaves_the_earlier_one_and_resumes_to_the_same_result() {
    let (dir, _) = project();
    let dir = dir.path();
    let done = run(dir, &["train", "train.toml"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    json(dir, &["analyze", "train.toml", "--tokens", "65536", "--store", "whole.db", "--json"]);
    let killed = place("killed.db");
    let earlier = json(dir, &["analyze", "train.toml", "--tokens", "8192", "--store", &killed, "--json"]);

    let args = ["analyze", "train.toml", "--tokens", "65536", "--store", &killed, "--resume"];
    let tokens =
        || json(dir, &["list", "--store", &killed, "--json"])[0]["analyses"][0]["n_analyzed_tokens"].clone();
    let mut kills = 0;
    for attempt in 0..40 {
        let mut child = lm_saes(dir)
            .args(args)
            .args(["--set", "analyzer.snapshot_seconds=0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + Duration::from_millis(200 + 150 * attempt);
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= limit => break None,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        if let Some(status) = status {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert_eq!(tokens(), earlier["n_analyzed_tokens"], "after kill {kills}");
    }
    assert!(kills >= 2, "the analysis ended before it could be killed");
    assert_ne!(tokens(), earlier["n_analyzed_tokens"]);
    assert!(!dir.join("sae/analysis_default").exists(), "snapshots are gone in the end");
    for feature in (0..2048).step_by(97) {
        let of = |store: &str| {
            json(dir, &["show", "feature", "quickstart", &feature.to_string(), "--store", store, "--json"])
        };
        assert_eq!(of(&killed), of("whole.db"), "feature {feature} after {kills} kills");
    }

    let e = failure(dir, &["analyze", "train.toml", "--set", "activation_factory.target=activations-1d"]);
    assert!(e.contains("activation_factory.target"), "{e}");
    let found = json(
        dir,
        &["analyze", "sae", "--text", "text.jsonl", "--tokens", "8192", "--store", "folder.db", "--json"],
    );
    assert_eq!((&found["sae_name"], &found["complete"]), (&"quickstart".into(), &true.into()));
}
