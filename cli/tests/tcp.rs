//! Jobs of several processes without MPI, as torchrun and `srun` start them: they meet by TCP, train as one does, and end together.
#![cfg(target_os = "linux")]

use lm_saes_tests::tiny::{job, world};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const LM_SAES: &str = env!("CARGO_BIN_EXE_lm-saes");
const MOST: Duration = Duration::from_secs(120);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A settings file for `steps` steps on `ranks` ranks, results in `dir/<result>`.
fn settings(dir: &Path, result: &str, steps: u64, ranks: usize) -> PathBuf {
    let mut tree = job(dir, result, &["eval=false", "trainer.log_frequency=4", "trainer.n_checkpoints=0"]);
    tree["trainer"]["total_training_tokens"] = json!(steps * 64);
    tree["data_parallel_size"] = json!(ranks);
    let path = dir.join(format!("{result}.json"));
    fs::write(&path, tree.to_string()).unwrap();
    path
}

fn losses(dir: &Path, result: &str) -> Vec<f64> {
    let log = fs::read_to_string(dir.join(result).join("metrics.jsonl")).unwrap();
    let record = |l: &str| serde_json::from_str::<Value>(l).unwrap()["losses/overall_loss"].as_f64().unwrap();
    log.lines().map(record).collect()
}

/// One rank; `place` are its launcher's variables.
fn rank(file: &Path, place: &[(&str, String)]) -> Child {
    Command::new(LM_SAES)
        .arg("train")
        .arg(file)
        .envs(place.iter().map(|(name, value)| (*name, value.as_str())))
        .env("RAYON_NUM_THREADS", "1")
        .env("LM_SAES_RANK_TIMEOUT", "20")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn torchrun(rank: usize, size: usize, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", size.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("MASTER_ADDR", "127.0.0.1".into()),
        ("MASTER_PORT", port.to_string()),
    ]
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn processes_started_by_torchrun_and_by_srun_train_as_one_does() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let alone = rank(&settings(dir.path(), "alone", 24, 1), &[]).wait_with_output().unwrap();
    assert!(alone.status.success(), "{}", text(&alone));
    let want = losses(dir.path(), "alone");
    assert_eq!(want.len(), 6);
    for (result, size) in [("torchrun", 2), ("srun", 3), ("four", 4)] {
        // Three ranks need a batch that divides; theirs is compared with itself on every rank only.
        let file = match size {
            3 => {
                let file = settings(dir.path(), result, 24, 3);
                let tree =
                    fs::read_to_string(&file).unwrap().replace("\"batch_size\":64", "\"batch_size\":66");
                fs::write(&file, tree).unwrap();
                file
            }
            _ => settings(dir.path(), result, 24, size),
        };
        let port = free_port();
        let place = |r: usize| match result {
            "srun" => vec![
                ("SLURM_PROCID", r.to_string()),
                ("SLURM_STEP_NUM_TASKS", size.to_string()),
                ("SLURM_LOCALID", r.to_string()),
                ("SLURM_STEP_NODELIST", "localhost".into()),
                ("SLURM_JOB_ID", (port % 9999).to_string()),
                ("SLURM_STEP_ID", "3".into()),
            ],
            _ => torchrun(r, size, port),
        };
        // The last is there first.
        let ranks: Vec<Child> = (0..size).rev().map(|r| rank(&file, &place(r))).collect();
        let mut said = Vec::new();
        for rank in ranks {
            let out = rank.wait_with_output().unwrap();
            assert!(out.status.success(), "{result}: {}", text(&out));
            said.push(text(&out));
        }
        let (first, others) = said.split_last().unwrap();
        assert!(first.contains(&format!("{size} ranks, connected by host memory")), "{first}");
        assert!(others.iter().all(String::is_empty), "{others:?}");
        let got = losses(dir.path(), result);
        if size != 3 {
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() <= 1e-4 * w, "{result}: {got:?} and {want:?}");
            }
        }
        assert!(!got.is_empty() && got.iter().all(|l| l.is_finite()));
    }
}

#[test]
fn a_process_that_is_killed_is_named_and_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let (file, port) = (settings(dir.path(), "out", 4000, 2), free_port());
    let first = rank(&file, &torchrun(0, 2, port));
    let mut second = rank(&file, &torchrun(1, 2, port));
    let began = Instant::now();
    while !dir.path().join("out/checkpoints/step_10").exists() {
        assert!(began.elapsed() < MOST, "no snapshot within {MOST:?}");
        thread::sleep(Duration::from_millis(10));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let began = Instant::now();
    let out = first.wait_with_output().unwrap();
    assert!(!out.status.success() && began.elapsed() < Duration::from_secs(30), "{}", text(&out));
    assert!(text(&out).contains("rank 1 has left the job"), "{}", text(&out));
    let kept = fs::read_dir(dir.path().join("out/checkpoints")).unwrap().flatten();
    assert!(kept.map(|e| e.path()).any(|p| p.join("trainer.json").is_file()));
}

#[test]
fn ranks_that_cannot_meet_are_told_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let file = settings(dir.path(), "out", 24, 2);
    let place = torchrun(0, 2, free_port());
    let out = rank(&file, &place[..3]).wait_with_output().unwrap();
    assert!(!out.status.success());
    assert!(text(&out).contains("MASTER_ADDR and MASTER_PORT do not say where they meet"), "{}", text(&out));
    // The other one never comes.
    let mut command = Command::new(LM_SAES);
    command.arg("train").arg(&file).envs(place).env("LM_SAES_RANK_TIMEOUT", "1");
    let out = command.output().unwrap();
    assert!(text(&out).contains("1 of 2 ranks have come in time"), "{}", text(&out));
    assert!(!dir.path().join("out").exists());
}
