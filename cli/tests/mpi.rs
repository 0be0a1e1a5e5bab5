//! Jobs of several processes as `mpirun` starts them: they train as one does, and end together. Needs Debian's openmpi-bin; without it
//! the tests say SKIPPED.
#![cfg(target_os = "linux")]

use lm_saes_tests::tiny::{HOOK, dictionary, job, world};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

const LM_SAES: &str = env!("CARGO_BIN_EXE_lm-saes");
const MOST: Duration = Duration::from_secs(120);

fn mpirun(options: &[&str]) -> Command {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    // Two launchers that start at once in one folder can fail.
    let n = STARTED.fetch_add(1, Ordering::Relaxed);
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mpi-{}-{n}", std::process::id()));
    fs::create_dir_all(&own).unwrap();
    let mut command = Command::new("mpirun.openmpi");
    command.args(["--oversubscribe", "--allow-run-as-root", "--bind-to", "none"]).args(options);
    // Spinning ranks would keep each other from the few cores of a test machine.
    command.env("RAYON_NUM_THREADS", "1").env("TMPDIR", own).stdin(Stdio::null());
    command
}

/// Whether there is an `mpirun` to test with.
fn installed() -> bool {
    let there = Command::new("mpirun.openmpi").arg("--version").output().is_ok_and(|o| o.status.success());
    if !there {
        eprintln!("SKIPPED: mpirun.openmpi is not installed (Debian: openmpi-bin)");
    }
    there
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A settings file for `steps` steps on a tiny model, results in `dir/<result>`.
fn settings(dir: &Path, result: &str, steps: u64, change: impl Fn(&mut Value)) -> PathBuf {
    let mut tree = job(dir, result, &[]);
    tree["eval"] = json!(false);
    tree["trainer"]["total_training_tokens"] = json!(steps * 64);
    tree["trainer"]["log_frequency"] = json!(4);
    tree["trainer"]["n_checkpoints"] = json!(0);
    change(&mut tree);
    let path = dir.join(format!("{result}.json"));
    fs::write(&path, tree.to_string()).unwrap();
    path
}

fn losses(dir: &Path, result: &str) -> Vec<f64> {
    let log = fs::read_to_string(dir.join(result).join("metrics.jsonl")).unwrap();
    let record = |l: &str| serde_json::from_str::<Value>(l).unwrap()["losses/overall_loss"].as_f64().unwrap();
    log.lines().map(record).collect()
}

#[test]
fn processes_train_as_one_does_and_the_first_alone_reports() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let cross = json!({"sae_type": "crosscoder", "hook_points": [HOOK, "blocks.1.hook_resid_post"],
                       "d_model": 48, "expansion_factor": 4, "act_fn": "topk", "top_k": 8});
    for kind in ["batchtopk", "crosscoder"] {
        let change = |t: &mut Value| match kind {
            "batchtopk" => t["sae"]["act_fn"] = json!("batchtopk"),
            _ => {
                t["sae"] = cross.clone();
                t["activation_factory"]["hook_points"] = cross["hook_points"].clone();
            }
        };
        let alone = format!("{kind}-1");
        let out = Command::new(LM_SAES)
            .arg("train")
            .arg(settings(dir.path(), &alone, 24, change))
            .output()
            .unwrap();
        assert!(out.status.success(), "{kind}: {}", text(&out));
        let want = losses(dir.path(), &alone);
        for ranks in ["2", "4"] {
            let result = format!("{kind}-{ranks}");
            let file = settings(dir.path(), &result, 24, change);
            let size = format!("data_parallel_size={ranks}");
            let out =
                mpirun(&["-n", ranks, LM_SAES, "train"]).arg(file).args(["--set", &size]).output().unwrap();
            assert!(out.status.success(), "{result}: {}", text(&out));
            assert_eq!(text(&out).matches("trained 24 steps").count(), 1, "{result}: {}", text(&out));
            let got = losses(dir.path(), &result);
            assert_eq!(got.len(), 6);
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-4 * w.abs(), "{result}: {got:?} and {want:?}");
            }
            let files =
                |r: &str| dir.path().join(r).join("sae_weights.safetensors").metadata().unwrap().len();
            assert_eq!(files(&result), files(&alone));
        }
    }
}

/// Losses of a job of `kind` on data × head × model processes, which `mpirun` starts if they are several.
fn trained(dir: &Path, kind: &(&str, Value), [data, head, model]: [usize; 3]) -> Vec<f64> {
    let (name, change) = kind;
    let result = format!("{name}-{data}-{head}-{model}");
    let file = settings(dir, &result, 8, |t| {
        t["initializer"] = json!({"grid_search_init_norm": false, "init_encoder_with_decoder_transpose": false,
                                  "init_log_jumprelu_threshold_value": -2.0});
        t["trainer"]["log_frequency"] = json!(2);
        (t["sae"], t["activation_factory"]["hook_points"]) = (change["sae"].clone(), change["hooks"].clone());
        t["sae"]["d_model"] = json!(48);
        if change["contexts"] == true {
            (t["activation_factory"]["target"], t["activation_factory"]["batch_size"]) =
                (json!("activations-2d"), json!(8));
            (t["activation_factory"]["buffer_size"], t["trainer"]["total_training_tokens"]) =
                (json!(16), json!(1536));
        }
    });
    let ranks = data * head * model;
    let mut command = match ranks {
        1 => Command::new(LM_SAES),
        n => mpirun(&["-n", &n.to_string(), LM_SAES]),
    };
    command.arg("train").arg(file);
    for (key, n) in [("data", data), ("head", head), ("model", model)] {
        command.arg("--set").arg(format!("{key}_parallel_size={n}"));
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{result}: {}", text(&out));
    assert_eq!(text(&out).matches("trained 8 steps").count(), 1, "{result}: {}", text(&out));
    losses(dir, &result)
}

#[test]
fn every_variant_trains_on_every_mesh_as_one_process_does() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let (into, out) = ("blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out");
    let second = ["blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"];
    let attention = ["blocks.0.ln1.hook_normalized", "blocks.0.hook_attn_out"];
    let sae = |kind: &str, act_fn: &str| {
        json!({"hooks": [HOOK], "sae": {"sae_type": kind, "hook_point_in": HOOK, "hook_point_out": HOOK,
               "expansion_factor": 4, "act_fn": act_fn, "top_k": 8}})
    };
    let other = "blocks.1.hook_resid_post";
    let kinds = [
        ("sae", sae("sae", "topk")),
        ("gated", sae("gated", "relu")),
        ("matryoshka", sae("matryoshka", "batchtopk")),
        (
            "clt",
            json!({"hooks": [into, second[0], out, second[1]],
            "sae": {"sae_type": "clt", "hook_points_in": [into, second[0]], "hook_points_out": [out, second[1]],
                    "expansion_factor": 2, "act_fn": "batchtopk", "top_k": 8}}),
        ),
        (
            "crosscoder",
            json!({"hooks": [HOOK, other], "sae": {"sae_type": "crosscoder", "hook_points": [HOOK, other],
                              "expansion_factor": 4, "act_fn": "topk", "top_k": 8}}),
        ),
        (
            "lorsa",
            json!({"hooks": attention, "contexts": true, "sae": {"sae_type": "lorsa",
            "hook_point_in": attention[0], "hook_point_out": attention[1], "n_qk_heads": 6, "d_qk_head": 8,
            "rotary_dim": 8, "n_ctx": 24, "expansion_factor": 2, "act_fn": "topk", "top_k": 8}}),
        ),
        (
            "molt",
            json!({"hooks": [into, out], "sae": {"sae_type": "molt", "hook_point_in": into, "hook_point_out": out,
                        "rank_counts": {"1": 24, "2": 16, "4": 8}, "expansion_factor": 1, "act_fn": "relu"}}),
        ),
    ];
    for kind in &kinds {
        let want = trained(dir.path(), kind, [1, 1, 1]);
        let mut meshes = vec![[2, 1, 1], [1, 1, 2], [2, 1, 2]];
        if kind.0 == "crosscoder" {
            meshes.push([1, 2, 1]);
        }
        for mesh in meshes {
            let got = trained(dir.path(), kind, mesh);
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-4 * w.abs(), "{} on {mesh:?}: {got:?} and {want:?}", kind.0);
            }
        }
    }
}

/// What a command says as JSON on its standard output, but for how fast it was and where it wrote.
fn said(dir: &Path, command: &str, ranks: usize, tree: &Value) -> Value {
    let file = dir.join(format!("{command}-{ranks}.json"));
    fs::write(&file, tree.to_string()).unwrap();
    let mut job = match ranks {
        1 => Command::new(LM_SAES),
        n => mpirun(&["-n", &n.to_string(), LM_SAES]),
    };
    let out = job.arg(command).arg(file).arg("--json").output().unwrap();
    assert!(out.status.success(), "{command} on {ranks}: {}", text(&out));
    let mut said: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{command} on {ranks}: {e}: {}", text(&out)));
    for key in ["tokens_per_second", "output_dir", "store"] {
        said.as_object_mut().unwrap().remove(key);
    }
    said
}

#[test]
fn other_commands_of_several_processes_give_what_one_gives_and_report_once() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    world(dir, 60);
    let train = job(dir, "out", &[]);
    let hooks = dictionary(dir, &train["sae"]);
    let evaluate = json!({
        "sae": {"pretrained_name_or_path": dir.join("dictionary")}, "device_type": "cpu", "model": train["model"],
        "datasets": train["datasets"], "eval": {"total_eval_tokens": 500, "downstream_tokens": 500},
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text"}], "target": "activations-2d", "hook_points": hooks,
            "batch_size": 5, "context_size": 24, "model_batch_size": 4,
        },
    });
    let analyze = |ranks: usize| {
        let mut tree = evaluate.clone();
        tree.as_object_mut().unwrap().remove("eval");
        (tree["sae_name"], tree["sae_series"]) = (json!("d"), json!("s"));
        tree["analyzer"] = json!({"total_analyzing_tokens": 900});
        tree["store"] = json!(dir.join(format!("{ranks}.db")));
        tree["output_dir"] = json!(dir.join(format!("work-{ranks}")));
        tree
    };
    let generate = |ranks: usize| {
        json!({
            "model": train["model"], "model_name": "tiny", "dataset_name": "text", "device_type": "cpu",
            "dataset": train["datasets"]["text"], "hook_points": [HOOK], "batch_size": 4, "model_batch_size": 5,
            "output_dir": dir.join(format!("cache-{ranks}")), "context_size": 24, "total_tokens": 800,
        })
    };
    let sweep = |ranks: usize| {
        let mut tree = job(dir, &format!("sweep-{ranks}"), &["trainer.total_training_tokens=640"]);
        tree["sweep"] =
            json!([{"name": "a", "sae.top_k": 4}, {"name": "b"}, {"name": "c", "trainer.lr": 1e-3}]);
        tree["eval"] = json!(false);
        tree
    };
    let of = |command: &str, ranks: usize| match command {
        "evaluate" => evaluate.clone(),
        "generate" => generate(ranks),
        "analyze" => analyze(ranks),
        _ => sweep(ranks),
    };
    let chunk =
        |ranks: usize, name: &str| fs::read(dir.join(format!("cache-{ranks}/{HOOK}/{name}"))).unwrap();
    let weights = |ranks: usize, member: &str| {
        fs::read(dir.join(format!("sweep-{ranks}/{member}/sae_weights.safetensors"))).unwrap()
    };
    for command in ["evaluate", "generate", "analyze", "sweep"] {
        let alone = said(dir, command, 1, &of(command, 1));
        for ranks in [2, 3] {
            let told = said(dir, command, ranks, &of(command, ranks));
            if command != "sweep" {
                assert_eq!(told, alone, "{command} on {ranks}");
            }
        }
    }
    for ranks in [2, 3] {
        for name in fs::read_dir(dir.join(format!("cache-1/{HOOK}"))).unwrap().flatten() {
            let name = name.file_name().into_string().unwrap();
            assert!(chunk(ranks, &name) == chunk(1, &name), "{name} of {ranks} ranks");
        }
        for member in ["a", "b", "c"] {
            assert!(weights(ranks, member) == weights(1, member), "{member} of {ranks} ranks");
        }
    }
}

/// Processes that were started with the settings below `dir`, with their ranks.
fn ranks_of(dir: &Path) -> Vec<(u32, String)> {
    let mark = dir.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|e| {
            let pid = e.file_name().to_str()?.parse().ok()?;
            let read = |what: &str| {
                let bytes = fs::read(e.path().join(what)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', "\n")
            };
            let ours = read("cmdline").starts_with(LM_SAES) && read("cmdline").contains(&mark);
            let rank = read("environ")
                .lines()
                .find_map(|l| l.strip_prefix("OMPI_COMM_WORLD_RANK=").map(String::from));
            ours.then_some((pid, rank.unwrap_or_default()))
        })
        .collect()
}

fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(done) = ready() {
            return done;
        }
        assert!(began.elapsed() < MOST, "{what} took more than {MOST:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a long job on two ranks along the axis `key`, sends `signal` to the second after the first snapshot, and gives what the job
/// said when it ended.
fn struck(dir: &Path, key: &str, signal: &str) -> String {
    world(dir, 60);
    let file = settings(dir, "out", 4000, |t| t[key] = json!(2));
    let job: Child = mpirun(&["-n", "2", LM_SAES, "train"])
        .arg(file)
        .env("LM_SAES_RANK_TIMEOUT", "4")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the first snapshot", || dir.join("out/checkpoints/step_10").exists().then_some(()));
    let ranks = ranks_of(dir);
    let (pid, _) = ranks.iter().find(|(_, rank)| rank == "1").expect("the second rank");
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
    let began = Instant::now();
    let out = job.wait_with_output().unwrap();
    assert!(!out.status.success() && began.elapsed() < Duration::from_secs(60), "{}", text(&out));
    until("the end of all ranks", || ranks_of(dir).is_empty().then_some(()));
    text(&out)
}

/// One process finishes the run from the snapshot that is left, whatever wrote it; few of its steps.
fn goes_on(dir: &Path, key: &str) {
    let kept = fs::read_dir(dir.join("out/checkpoints")).unwrap().flatten();
    let whole: Vec<PathBuf> = kept.map(|e| e.path()).filter(|p| p.join("trainer.json").is_file()).collect();
    assert!(!whole.is_empty());
    let mut job = Command::new(LM_SAES)
        .args(["train", "out.json", "--resume", "--set", &format!("{key}=1")])
        .current_dir(dir)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let newest = |dir: &Path| {
        let all = fs::read_dir(dir.join("out/checkpoints")).unwrap().flatten();
        all.filter_map(|e| e.file_name().to_str()?.strip_prefix("step_")?.parse::<u64>().ok()).max()
    };
    let before = newest(dir);
    until("a later snapshot", || (newest(dir) > before).then_some(()));
    job.kill().unwrap();
    job.wait().unwrap();
}

#[test]
fn a_rank_that_is_killed_ends_the_job_and_the_snapshot_goes_on() {
    for key in ["data_parallel_size", "model_parallel_size"] {
        if installed() {
            let dir = tempfile::tempdir().unwrap();
            let said = struck(dir.path(), key, "-KILL");
            assert!(said.contains("rank 1"), "{said}");
            goes_on(dir.path(), key);
        }
    }
}

#[test]
fn a_rank_that_stands_still_is_named_and_ends_the_job() {
    for key in ["data_parallel_size", "model_parallel_size"] {
        if installed() {
            let dir = tempfile::tempdir().unwrap();
            let said = struck(dir.path(), key, "-STOP");
            assert!(said.contains("rank 1 did not take part in") && said.contains("within 4 s"), "{said}");
            goes_on(dir.path(), key);
        }
    }
}

#[test]
fn ranks_that_differ_and_commands_of_one_process_are_refused_once() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let file = settings(dir.path(), "out", 24, |t| t["data_parallel_size"] = json!(2));
    let file = file.to_str().unwrap();
    let one = ["-n", "1", LM_SAES, "train", file];
    let out = mpirun(&[&one[..], &[":"], &one[..], &["--set", "trainer.lr=0.5"]].concat()).output().unwrap();
    let said = text(&out);
    assert!(!out.status.success());
    assert_eq!(
        said.matches("setting trainer.lr: is 0.5 on rank 1, but 0.002 on rank 0").count(),
        1,
        "{said}"
    );
    assert!(!dir.path().join("out").exists());

    let out = mpirun(&["-n", "2", LM_SAES, "devices"]).output().unwrap();
    let said = text(&out);
    assert!(!out.status.success());
    assert_eq!(said.matches("start this command once").count(), 1, "{said}");

    let out = mpirun(&["-n", "3", LM_SAES, "train", file]).output().unwrap();
    assert_eq!(text(&out).matches("the job was started with 3").count(), 1, "{}", text(&out));

    let out = Command::new(LM_SAES).args(["train", file]).output().unwrap();
    assert!(text(&out).contains("mpirun -n 2"), "{}", text(&out));
    let out =
        Command::new(LM_SAES).args(["train", file]).env("RANK", "0").env("WORLD_SIZE", "2").output().unwrap();
    assert!(text(&out).contains("as torchrun does"), "{}", text(&out));
}
