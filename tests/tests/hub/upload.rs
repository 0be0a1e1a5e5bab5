//! Uploads against a server on this machine that plays the hub: what is sent where, what is not sent twice, what is refused, and
//! the page that goes with a dictionary.

use lm_saes::{
    hub::{
        Format, Hub, OpenOptions, card,
        upload::{Outgoing, Sent, Upload},
    },
    runners::{Conversion, UploadJob, prepare_upload},
};
use lm_saes_tests::stub::{Act, Asked, Stub};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::{
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What the server holds, and how it behaves.
#[derive(Default)]
struct State {
    /// Hashes in the storage of large files.
    stored: Vec<String>,
    /// Files of the last commit by name, with git's hash or the large file's.
    committed: Vec<(String, String)>,
    /// Requests to this path fail so: status, body, how often.
    trouble: Option<(&'static str, u16, &'static str, usize)>,
    /// Parts of large files.
    chunk: Option<usize>,
    parts: Vec<Vec<u8>>,
}

struct Hubs {
    stub: Stub,
    state: Arc<Mutex<State>>,
}

impl Hubs {
    fn start(state: State) -> Self {
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let stub = Stub::new(move |asked| answer(asked, &mut shared.lock().unwrap()));
        Self { stub, state }
    }

    fn hub(&self) -> Hub {
        let nowhere = Path::new("/nonexistent");
        Hub::new(&self.stub.url, nowhere, Some("secret".into()), false).waiting(Duration::from_millis(1))
    }

    fn lines(&self) -> Vec<String> {
        let line = |a: &Asked| a.line.trim_end_matches(" HTTP/1.1").to_string();
        self.stub.asked().iter().map(line).collect()
    }
}

fn ok(value: Value) -> Act {
    Act::Answer(200, "etag: \"part\"\r\n", value.to_string())
}

fn answer(asked: &Asked, state: &mut State) -> Act {
    let path = asked.line.split_whitespace().nth(1).unwrap_or_default().to_string();
    if let Some((at, status, body, n)) = &mut state.trouble
        && path.contains(*at)
        && *n > 0
    {
        *n -= 1;
        return Act::Answer(*status, "retry-after: 0\r\n", (*body).to_string());
    }
    let host = format!("http://{}", asked.headers.get("host").cloned().unwrap_or_default());
    match path.as_str() {
        "/api/repos/create" => Act::Answer(409, "", "{\"error\":\"exists\"}".into()),
        "/api/models/me/saes/preupload/main" => {
            let files = asked.json()["files"].as_array().cloned().unwrap_or_default();
            let one = |f: &Value| {
                let name = f["path"].as_str().unwrap();
                let has = state.committed.iter().find(|(n, _)| n == name).map(|(_, hash)| hash.clone());
                let mode = if name.ends_with(".safetensors") { "lfs" } else { "regular" };
                json!({"path": name, "uploadMode": mode, "shouldIgnore": false, "oid": has})
            };
            ok(json!({"files": files.iter().map(one).collect::<Vec<_>>()}))
        }
        "/me/saes.git/info/lfs/objects/batch" => {
            let body = asked.json();
            let object = &body["objects"][0];
            let hash = object["oid"].as_str().unwrap();
            let mut said = json!({"oid": hash, "size": object["size"]});
            if !state.stored.iter().any(|h| h == hash) {
                let upload = match state.chunk {
                    None => json!({"href": format!("{host}/storage/{hash}")}),
                    Some(n) => {
                        let parts = object["size"].as_u64().unwrap().div_ceil(n as u64);
                        let mut header = json!({"chunk_size": n.to_string()});
                        for i in 1..=parts {
                            header[format!("{i:05}")] = json!(format!("{host}/part/{i}"));
                        }
                        json!({"href": format!("{host}/complete/{hash}"), "header": header})
                    }
                };
                said["actions"] = json!({"upload": upload, "verify": {"href": format!("{host}/verify")}});
            }
            ok(json!({"transfer": "basic", "objects": [said]}))
        }
        "/verify" => ok(json!({})),
        "/api/models/me/saes/commit/main" => {
            let text = String::from_utf8(asked.body.clone()).unwrap();
            for line in text.lines().skip(1) {
                let line: Value = serde_json::from_str(line).unwrap();
                let name = line["value"]["path"].as_str().unwrap().to_string();
                let hash = match line["value"]["oid"].as_str() {
                    Some(hash) => {
                        assert!(state.stored.iter().any(|h| h == hash), "committed before it was stored");
                        hash.to_string()
                    }
                    None => "small".into(),
                };
                state.committed.push((name, hash));
            }
            ok(json!({"commitOid": "c0ffee", "commitUrl": "https://hub/commit/c0ffee"}))
        }
        _ => {
            if let Some(hash) = path.strip_prefix("/storage/") {
                assert_eq!(sha256(&asked.body), hash);
                state.stored.push(hash.into());
            } else if path.starts_with("/part/") {
                state.parts.push(asked.body.clone());
            } else if let Some(hash) = path.strip_prefix("/complete/") {
                let body = asked.json();
                assert_eq!(body["oid"], hash);
                assert_eq!(body["parts"].as_array().unwrap().len(), state.parts.len());
                assert_eq!(sha256(&state.parts.concat()), hash);
                state.stored.push(hash.into());
            } else {
                return Act::Answer(404, "", "{}".into());
            }
            ok(json!({}))
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn upload(dir: &Path) -> Upload {
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        Outgoing::new(format!("layer5/{name}"), &path).unwrap()
    };
    let large: Vec<u8> = (0..250_000u32).map(|i| (i % 251) as u8).collect();
    Upload {
        repo: "me/saes".into(),
        revision: "main".into(),
        private: true,
        message: "a dictionary".into(),
        files: vec![file("config.json", b"{}"), file("sae_weights.safetensors", &large)],
    }
}

#[test]
fn large_files_go_to_storage_and_one_commit_names_everything() {
    let dir = tempfile::tempdir().unwrap();
    let server = Hubs::start(State::default());
    let done = server.hub().upload(&upload(dir.path())).unwrap();
    assert_eq!(done.commit.as_deref(), Some("c0ffee"));
    assert_eq!(done.files.iter().map(|f| f.2).collect::<Vec<_>>(), [Sent::Inside, Sent::Stored]);
    let asked = server.stub.asked();
    let create = asked[0].json();
    assert_eq!(
        (&create["organization"], &create["name"], &create["private"]),
        (&json!("me"), &json!("saes"), &json!(true))
    );
    let sample = &asked[1].json()["files"][0];
    assert_eq!(
        (&sample["path"], &sample["size"], &sample["sample"]),
        (&json!("layer5/config.json"), &json!(2), &json!("e30="))
    );
    let commit = asked.last().unwrap();
    assert_eq!(commit.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> =
        String::from_utf8_lossy(&commit.body).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["value"]["summary"], "a dictionary");
    assert_eq!(
        lines[1],
        json!({"key": "file", "value": {"path": "layer5/config.json", "encoding": "base64", "content": "e30="}})
    );
    assert_eq!((&lines[2]["key"], &lines[2]["value"]["size"]), (&json!("lfsFile"), &json!(250_000)));
    assert!(asked.iter().all(|a| a.headers["authorization"] == "Bearer secret"));
}

#[test]
fn what_storage_has_is_not_sent_again_and_an_unchanged_repository_gets_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    // Everything was stored, then the commit failed.
    let mut state =
        State { trouble: Some(("/commit/", 409, "{\"error\":\"moved\"}", 1)), ..State::default() };
    state.chunk = Some(100_000);
    let server = Hubs::start(state);
    let e = server.hub().upload(&upload(dir.path())).unwrap_err().to_string();
    assert!(e.contains("moved") && e.contains("run the same command again"), "{e}");
    assert_eq!(
        server.state.lock().unwrap().parts.iter().map(Vec::len).collect::<Vec<_>>(),
        [100_000, 100_000, 50_000]
    );
    let before = server.lines().len();
    let done = server.hub().upload(&upload(dir.path())).unwrap();
    assert_eq!(done.files[1].2, Sent::Known);
    assert!(server.lines()[before..].iter().all(|l| !l.starts_with("PUT")), "{:?}", server.lines());
    // Git's hash of the small file, which the stub does not work out.
    server.state.lock().unwrap().committed[0].1 = "9e26dfeeb6e641a33dae4961196235bdb965b21b".into();
    let again = server.hub().upload(&upload(dir.path())).unwrap();
    assert_eq!((again.commit, again.files[0].2, again.files[1].2), (None, Sent::Same, Sent::Same));
}

#[test]
fn a_busy_server_is_asked_again_and_refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (at, status) in [("/preupload/", 429), ("/storage/", 503), ("/commit/", 500)] {
        let server = Hubs::start(State { trouble: Some((at, status, "", 2)), ..State::default() });
        assert!(server.hub().upload(&upload(dir.path())).unwrap().commit.is_some(), "{at}");
    }
    for (at, status, body, said) in [
        ("/preupload/", 401, "{\"error\":\"Invalid username or password.\"}", "HF_TOKEN"),
        ("/preupload/", 403, "{\"error\":\"read only\"}", "write access"),
        ("/objects/batch", 413, "{}", "may store"),
        ("/commit/", 409, "{}", "same moment"),
        ("/commit/", 429, "", "busy"),
        ("/repos/create", 400, "{\"error\":\"bad name\"}", "bad name"),
    ] {
        let server = Hubs::start(State { trouble: Some((at, status, body, 99)), ..State::default() });
        let e = server.hub().upload(&upload(dir.path())).unwrap_err().to_string();
        assert!(e.contains("me/saes") && e.contains(said), "{status}: {e}");
        assert!(server.state.lock().unwrap().committed.is_empty());
    }
}

#[test]
fn without_a_token_or_the_network_nothing_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = Hubs::start(State::default());
    let cache = Path::new("/nonexistent");
    let e =
        Hub::new(&server.stub.url, cache, None, false).upload(&upload(dir.path())).unwrap_err().to_string();
    assert!(e.contains("HF_TOKEN"), "{e}");
    let e = server.hub().offline().upload(&upload(dir.path())).unwrap_err().to_string();
    assert!(e.contains("HF_HUB_OFFLINE"), "{e}");
    assert!(server.lines().is_empty());
}

#[test]
fn a_dictionary_is_prepared_with_its_page_and_opened_again_from_what_was_sent() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/saelens/abstopk");
    let job = |format, folder: &str| UploadJob {
        conversion: Conversion {
            from: case.to_string_lossy().into_owned(),
            to: PathBuf::new(),
            format,
            dtype: None,
            unit_decoder_norm: false,
            parts: 1,
            options: OpenOptions::default(),
        },
        about: card::About { repo: "me/saes".into(), folder: folder.into(), license: Some("mit".into()) },
        revision: "main".into(),
        private: false,
        message: None,
    };
    let (server, registry) = (Hubs::start(State::default()), lm_saes_backends::registry());
    let hub = Rc::new(server.hub());
    let own = prepare_upload(&job(Format::Own, "gpt2/layer5"), &hub, &registry).unwrap();
    assert!(server.lines().is_empty(), "preparing asks nothing");
    let names: Vec<&str> = own.upload.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        ["gpt2/layer5/README.md", "gpt2/layer5/config.json", "gpt2/layer5/sae_weights.safetensors"]
    );
    assert_eq!(own.upload.message, "Upload pretrained sparse dictionary gpt2/layer5");
    for said in [
        "---\nlicense: mit\n",
        "# gpt2/layer5",
        "| model | gpt2 |",
        "| features | 48 |",
        "abstopk, k = ",
        "lm-saes convert me/saes:gpt2/layer5 dictionary",
        "\"sae_type\": \"sae\"",
    ] {
        assert!(own.card.contains(said), "{said}:\n{}", own.card);
    }
    own.send(&hub).unwrap();
    let weights = own.upload.files.iter().find(|f| f.name.ends_with(".safetensors")).unwrap();
    assert!(server.state.lock().unwrap().stored.contains(&sha256(&fs::read(&weights.from).unwrap())));
    let theirs = prepare_upload(&job(Format::SaeLens, ""), &hub, &registry).unwrap();
    assert!(theirs.card.contains("library_name: saelens") && theirs.card.contains("SAE.load_from_disk"));
    assert!(theirs.upload.files.iter().any(|f| f.name == "cfg.json"));
    // The same dictionary gives the same bytes, so a repeated upload finds everything there.
    let again = prepare_upload(&job(Format::Own, "gpt2/layer5"), &hub, &registry).unwrap();
    assert_eq!(again.send(&hub).unwrap().files[2].2, Sent::Same);
}
