//! Weights & Biases: what a server gets while a run goes on, what happens when it is not there, and which run is continued.

use lm_saes::{
    settings::{WandbResume, WandbSettings},
    training::trackers::{Record, Tracker, Wandb, WandbAccess},
};
use lm_saes_tests::stub::{Act, Asked, Stub};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const KEY: &str = "0123456789abcdef";

fn record(step: u64) -> Record {
    let values = vec![("losses/overall_loss".into(), 1.0 / step as f64), ("metrics/l0".into(), f64::NAN)];
    Record { step, tokens: step * 1000, values }
}

fn access(url: &str) -> WandbAccess {
    WandbAccess { key: Some(KEY.into()), base_url: url.into(), disabled: false }
}

fn settings() -> WandbSettings {
    WandbSettings { wandb_project: "saes".into(), exp_name: Some("first".into()), ..WandbSettings::default() }
}

fn tracker(dir: &Path, settings: &WandbSettings, access: WandbAccess) -> Wandb {
    Wandb::new(dir, settings, json!({"trainer": {"lr": 0.5}}), access)
}

/// Reads a run file with the original library: number of records by kind, the run, and the last line of history.
const READER: &str = r#"
import json, sys
from wandb.sdk.internal.datastore import DataStore
from wandb.proto import wandb_internal_pb2 as pb
store, counts, out = DataStore(), {}, {}
store.open_for_scan(sys.argv[1])
while (data := store.scan_data()) is not None:
    record = pb.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    counts[kind] = counts.get(kind, 0) + 1
    if kind == "run":
        config = {u.key: json.loads(u.value_json) for u in record.run.config.update}
        out["run"] = [record.run.run_id, record.run.project, record.run.display_name, config]
    if kind == "history":
        out["last"] = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
    if kind == "exit":
        out["exit"] = record.exit.exit_code
print(json.dumps({"counts": counts, **out}))
"#;

/// Runs where `LM_SAES_WANDB_PYTHON` names a Python that has `wandb`; CI installs one.
#[test]
fn the_original_library_reads_the_run_file() {
    let Some(python) = std::env::var_os("LM_SAES_WANDB_PYTHON") else {
        println!("not run: LM_SAES_WANDB_PYTHON names no Python with wandb");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut t = tracker(dir.path(), &settings(), WandbAccess::default());
    t.start(0).unwrap();
    // More than one block of the file.
    (1..=500).for_each(|s| t.record(&record(s)).unwrap());
    t.end(true).unwrap();
    let (_, file) = run_files(dir.path()).remove(0);
    let out = Command::new(python).args(["-c", READER]).arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let read: Value = serde_json::from_slice(&out.stdout).unwrap();
    let id = file.file_stem().unwrap().to_string_lossy().replace("run-", "");
    assert_eq!(read["counts"], json!({"header": 1, "run": 1, "summary": 500, "history": 500, "exit": 1}));
    assert_eq!(read["run"], json!([id, "saes", "first", {"trainer": {"lr": 0.5}}]));
    assert_eq!((&read["last"]["_step"], &read["exit"]), (&json!(500), &json!(0)));
    assert_eq!(read["last"]["losses/overall_loss"], 1.0 / 500.0);
}

/// What the server's own client asks when it sends a run file.
fn original_server(asked: &Asked) -> Act {
    if !asked.line.starts_with("POST /graphql") {
        return Act::Answer(200, "", json!({"exitcode": null, "limits": {}}).to_string());
    }
    let v = asked.json();
    let (query, variables) = (v["query"].as_str().unwrap_or_default().to_owned(), &v["variables"]);
    let viewer = json!({"id": "u", "entity": "me", "username": "me", "flags": "{}", "email": "a@b.c", "admin": false,
                        "teams": {"edges": []}});
    let info = json!({"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": null, "features": []});
    let bucket = json!({
        "id": "x", "name": variables["name"], "displayName": "first", "description": null, "config": "{}", "sweepName": null,
        "historyLineCount": 0, "project": {"id": "p", "name": "saes", "entity": {"id": "e", "name": "me"}},
    });
    let data = match &query {
        q if q.contains("upsertBucket") => json!({"upsertBucket": {"inserted": true, "bucket": bucket}}),
        q if q.contains("createRunFiles") => {
            json!({"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}})
        }
        q if q.contains("__type") || q.contains("__schema") => {
            json!({"QueryType": {"fields": []}, "MutationType": {"fields": []}, "ServerInfoType": {"fields": []},
                   "CreateArtifactInputType": {"inputFields": []}, "TreeResult": null})
        }
        _ => json!({"viewer": viewer, "serverInfo": info, "model": {"bucket": bucket}}),
    };
    Act::Answer(200, "", json!({ "data": data }).to_string())
}

/// Runs where `LM_SAES_WANDB_PYTHON` names a Python that has `wandb`; CI installs one.
#[test]
fn the_original_client_sends_an_offline_run() {
    let Some(python) = std::env::var_os("LM_SAES_WANDB_PYTHON") else {
        println!("not run: LM_SAES_WANDB_PYTHON names no Python with wandb");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut t = tracker(dir.path(), &settings(), WandbAccess::default());
    t.start(0).unwrap();
    (1..=30).for_each(|s| t.record(&record(s)).unwrap());
    t.end(true).unwrap();
    let (name, file) = run_files(dir.path()).remove(0);
    assert!(name.starts_with("offline-run-"));
    let stub = Stub::new(original_server);
    let out = Command::new(python)
        .args(["-m", "wandb", "sync", "--include-offline"])
        .arg(file.parent().unwrap())
        .current_dir(dir.path())
        .envs([
            ("WANDB_BASE_URL", stub.url.as_str()),
            ("WANDB_API_KEY", &"0".repeat(40)),
            ("WANDB_ERROR_REPORTING", "false"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{said}");
    let (sent, _) = lines(&stub);
    let steps: Vec<u64> = sent.iter().filter_map(|l| l["_step"].as_u64()).collect();
    assert_eq!(steps, (1..=30).collect::<Vec<_>>(), "{said}");
    assert_eq!(sent[1]["losses/overall_loss"], 0.5);
    assert!(file.with_extension("wandb.synced").is_file(), "{said}");
}

/// A server that knows one run, of five lines up to step 50.
fn server(asked: &Asked) -> Act {
    if !asked.line.starts_with("POST /graphql") {
        return Act::Answer(200, "", "{}".into());
    }
    let v = asked.json();
    let name = v["variables"]["name"].as_str().unwrap().to_owned();
    let data = match v["query"].as_str().unwrap() {
        q if q.contains("RunResumeStatus") && name == "known" => {
            let tail =
                json!([json!({"_step": 40}).to_string(), json!({"_step": 50}).to_string()]).to_string();
            json!({"model": {"bucket": {"id": "x", "name": name, "historyLineCount": 5, "historyTail": tail}}})
        }
        q if q.contains("RunResumeStatus") => json!({ "model": { "bucket": null } }),
        _ => json!({"upsertBucket": {"inserted": true, "bucket": {
            "id": "x", "name": name, "project": {"name": "saes", "entity": {"name": "me"}}}}}),
    };
    Act::Answer(200, "", json!({ "data": data }).to_string())
}

fn lines(stub: &Stub) -> (Vec<Value>, Vec<u64>) {
    let (mut lines, mut offsets) = (Vec::new(), Vec::new());
    for asked in stub.asked() {
        let v = asked.json();
        let history = &v["files"]["wandb-history.jsonl"];
        for line in history["content"].as_array().into_iter().flatten() {
            lines.push(serde_json::from_str(line.as_str().unwrap()).unwrap());
        }
        offsets.extend(history["offset"].as_u64());
    }
    (lines, offsets)
}

/// The run file below `dir`, and the name of its folder.
fn run_files(dir: &Path) -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir.join("wandb")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let id = name.rsplit('-').next().unwrap().to_owned();
            all.push((name, folder.join(format!("run-{id}.wandb"))));
        }
    }
    all.sort();
    all
}

fn contains(file: &Path, text: &str) -> bool {
    fs::read(file).unwrap().windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn a_run_is_registered_sent_line_by_line_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::new(server);
    let mut t = tracker(dir.path(), &settings(), access(&stub.url));
    t.start(0).unwrap();
    (1..=3).for_each(|s| t.record(&record(s)).unwrap());
    t.end(true).unwrap();
    let notices = t.notices();
    let all = stub.asked();
    let register = all[1].json();
    assert_eq!(register["variables"]["project"], "saes");
    assert_eq!(register["variables"]["displayName"], "first");
    let config: Value = serde_json::from_str(register["variables"]["config"].as_str().unwrap()).unwrap();
    assert_eq!(config, json!({"trainer": {"value": {"lr": 0.5}}}));
    let id = register["variables"]["name"].as_str().unwrap();
    assert_eq!(notices, [format!("wandb: {}/me/saes/runs/{id}", stub.url)]);
    // api:0123456789abcdef
    assert_eq!(all[1].headers["authorization"], "Basic YXBpOjAxMjM0NTY3ODlhYmNkZWY=");
    assert!(all[2..].iter().all(|a| a.line == format!("POST /files/me/saes/{id}/file_stream HTTP/1.1")));
    let (sent, offsets) = lines(&stub);
    assert_eq!(offsets[0], 0);
    assert_eq!(sent.iter().map(|l| l["_step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&sent[1]["losses/overall_loss"], &sent[1]["metrics/l0"]), (&json!(0.5), &json!("NaN")));
    assert_eq!(sent[2]["tokens"], 3000);
    let last = all.last().unwrap().json();
    assert_eq!((&last["complete"], &last["exitcode"]), (&json!(true), &json!(0)));
    let files = run_files(dir.path());
    assert!(
        files.len() == 1 && files[0].0.starts_with("run-") && contains(&files[0].1, "losses/overall_loss")
    );
    assert!(!contains(&files[0].1, KEY));
}

#[test]
fn without_a_key_only_the_file_is_written_and_disabled_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut t = tracker(dir.path(), &settings(), WandbAccess::default());
    t.start(0).unwrap();
    t.record(&record(1)).unwrap();
    t.end(true).unwrap();
    let files = run_files(dir.path());
    assert!(
        files[0].0.starts_with("offline-run-2") && contains(&files[0].1, "losses/overall_loss"),
        "{files:?}"
    );
    assert!(t.notices().is_empty());

    let dir = tempfile::tempdir().unwrap();
    let mut t = tracker(dir.path(), &settings(), WandbAccess { disabled: true, ..WandbAccess::default() });
    t.start(0).unwrap();
    t.record(&record(1)).unwrap();
    t.end(true).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_run_that_is_continued_adds_what_the_server_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::new(server);
    let known =
        WandbSettings { wandb_run_id: Some("known".into()), wandb_resume: WandbResume::Must, ..settings() };
    let mut t = tracker(dir.path(), &known, access(&stub.url));
    t.start(30).unwrap();
    [40, 50, 60].into_iter().for_each(|s| t.record(&record(s)).unwrap());
    t.end(true).unwrap();
    let (sent, offsets) = lines(&stub);
    assert_eq!((sent.len(), &sent[0]["_step"], offsets[0]), (1, &json!(60), 5));

    let refusal = |s: WandbSettings| {
        let dir = tempfile::tempdir().unwrap();
        tracker(dir.path(), &s, access(&stub.url)).start(0).unwrap_err().to_string()
    };
    let e = refusal(WandbSettings { wandb_resume: WandbResume::Never, ..known.clone() });
    assert!(e.contains("\"known\" exists already") && e.contains("wandb_resume = \"allow\""), "{e}");
    let e = refusal(WandbSettings { wandb_run_id: Some("other".into()), ..known.clone() });
    assert!(e.contains("\"other\" does not exist"), "{e}");
    let e = refusal(WandbSettings { wandb_run_id: None, ..known.clone() });
    assert!(e.contains("wandb.wandb_run_id"), "{e}");
    let e = refusal(WandbSettings { wandb_run_id: Some("../../x".into()), ..known });
    assert!(e.contains("letters, digits"), "{e}");
}

#[test]
fn a_resumed_training_takes_up_its_run_where_the_settings_allow() {
    let id = |dir: &Path, resume: WandbResume, step: u64| {
        let s = WandbSettings { wandb_resume: resume, ..settings() };
        let mut t = tracker(dir, &s, WandbAccess::default());
        t.start(step).unwrap();
        t.end(true).unwrap();
        let text = fs::read_to_string(dir.join("wandb/last-run.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["run_id"].as_str().unwrap().to_owned()
    };
    for (resume, same) in [(WandbResume::Allow, true), (WandbResume::Auto, true), (WandbResume::Never, false)]
    {
        let dir = tempfile::tempdir().unwrap();
        let first = id(dir.path(), resume, 0);
        assert_eq!(first == id(dir.path(), resume, 7), same, "{resume:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let first = id(dir.path(), WandbResume::Allow, 0);
    assert_ne!(first, id(dir.path(), WandbResume::Allow, 0), "a new training is a new run");
}

#[test]
fn a_server_that_fails_costs_neither_the_training_nor_the_records() {
    // Nobody is there at all.
    let dir = tempfile::tempdir().unwrap();
    let mut t = tracker(dir.path(), &settings(), access("http://127.0.0.1:9"));
    t.start(0).unwrap();
    t.record(&record(1)).unwrap();
    t.end(true).unwrap();
    let notices = t.notices();
    assert!(notices.len() == 1 && notices[0].contains("writing the run file only"), "{notices:?}");
    assert!(contains(&run_files(dir.path())[0].1, "losses/overall_loss"));

    // It goes away later.
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::new(|a| match a.line.starts_with("POST /graphql") {
        true => server(a),
        false => Act::Answer(410, "", "gone".into()),
    });
    let mut t = tracker(dir.path(), &settings(), access(&stub.url));
    t.start(0).unwrap();
    t.record(&record(1)).unwrap();
    t.end(true).unwrap();
    let notices = t.notices();
    assert!(notices[1].contains("status 410") && notices[1].contains("`wandb sync "), "{notices:?}");
    assert!(contains(&run_files(dir.path())[0].1, "losses/overall_loss"));

    // A busy moment is waited for.
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::new(|a| match (a.line.starts_with("POST /graphql"), a.n) {
        (false, 2) => Act::Answer(503, "retry-after: 0.01\r\n", String::new()),
        (false, 3) => Act::HangUp,
        (false, _) => Act::Answer(200, "", "{}".into()),
        (true, _) => server(a),
    });
    let mut t = tracker(dir.path(), &settings(), access(&stub.url));
    t.start(0).unwrap();
    t.record(&record(1)).unwrap();
    t.end(false).unwrap();
    assert_eq!(t.notices().len(), 1);
    assert_eq!(stub.asked().last().unwrap().json()["exitcode"], 1);

    // A key it does not know is an error before training begins.
    let stub = Stub::new(|_| Act::Answer(401, "", String::new()));
    let e = tracker(dir.path(), &settings(), access(&stub.url)).start(0).unwrap_err().to_string();
    assert!(e.contains("refuses WANDB_API_KEY") && e.contains("WANDB_MODE=offline"), "{e}");
}
