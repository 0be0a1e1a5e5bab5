//! The hub client against a server of our own on this machine: redirects, ranges, etags, refusals, busy servers, bodies cut short,
//! wrong hashes; and the cache shared with Python's library.

use lm_saes::{
    hub::{Hub, OpenOptions, open},
    lm::{Lm, Run, Tokens},
    settings::LanguageModelSettings,
    tensorfile::{self, OutTensor, Precision, TensorFile, TensorInfo},
};
use lm_saes_tests::queue;
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does to a file beside giving it.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Plain,
    /// The content is on another "host" (another port), named by a redirect that describes it.
    Elsewhere,
    /// Each answer ends after at most so many bytes of the body.
    Cut(usize),
    /// The first so many requests are answered 503, then 429.
    Busy(usize),
    /// The etag belongs to another content.
    WrongHash,
    /// A status whatever is asked.
    Refuse(u16, &'static str),
    /// Ranges are ignored.
    Whole,
}

struct Server {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

type Files = HashMap<&'static str, (Vec<u8>, Mood)>;

impl Server {
    /// Serves these files of `org/repo`.
    fn start(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let elsewhere = format!("http://{}", store.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let files = Arc::new(files);
        let busy = Arc::new(Mutex::new(HashMap::new()));
        for (listener, host) in [(listener, "hub"), (store, "store")] {
            let (files, seen, busy, elsewhere) =
                (files.clone(), seen.clone(), busy.clone(), elsewhere.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = answer(stream, host, &files, &seen, &busy, &elsewhere);
                }
            });
        }
        Self { address, seen }
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub::new(&self.address, cache, Some("secret".into()), false).waiting(Duration::from_millis(1))
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    host: &str,
    files: &Files,
    seen: &Mutex<Vec<String>>,
    busy: &Mutex<HashMap<String, usize>>,
    elsewhere: &str,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_string());
        }
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_string());
    let auth = headers.get("authorization").cloned().unwrap_or_default();
    let range = headers.get("range").cloned().unwrap_or_default();
    seen.lock().unwrap().push(format!("{host} {method} {path} [{range}] [{auth}]"));
    let mut reply = |status: u16, more: &[(&str, String)], body: &[u8], most: usize| {
        let mut head =
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        more.iter().for_each(|(k, v)| head += &format!("{k}: {v}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if method != "HEAD" {
            stream.write_all(&body[..body.len().min(most)])?;
        }
        stream.flush()
    };
    if path.starts_with("/api/models/org/repo/revision/") {
        let names: Vec<String> = files.keys().map(|f| format!("{{\"rfilename\":\"{f}\"}}")).collect();
        return reply(200, &[], format!("{{\"siblings\":[{}]}}", names.join(",")).as_bytes(), usize::MAX);
    }
    let name = path.strip_prefix("/org/repo/resolve/main/").or(path.strip_prefix("/blob/"));
    let Some((name, (body, mood))) = name.and_then(|n| Some((n, files.get(n)?))) else {
        let code = if path.starts_with("/org/repo/") { "EntryNotFound" } else { "RepoNotFound" };
        return reply(404, &[("X-Error-Code", code.into())], b"no", usize::MAX);
    };
    let mut etag = sha256(body);
    let mut most = usize::MAX;
    match *mood {
        Mood::Refuse(status, code) => {
            return reply(status, &[("X-Error-Code", code.into())], b"no", usize::MAX);
        }
        Mood::WrongHash => etag = sha256(b"something else"),
        Mood::Cut(n) => most = n,
        Mood::Busy(n) => {
            let mut busy = busy.lock().unwrap();
            let count = busy.entry(name.to_string()).or_insert(0);
            *count += 1;
            if *count <= n {
                let status = if *count % 2 == 1 { 503 } else { 429 };
                return reply(status, &[("Retry-After", "0".into())], b"busy", usize::MAX);
            }
        }
        _ => {}
    }
    let mut more = vec![("ETag", format!("\"{etag}\"")), ("X-Repo-Commit", COMMIT.to_string())];
    if *mood == Mood::Elsewhere && host == "hub" {
        more = vec![
            ("X-Linked-Etag", format!("\"{etag}\"")),
            ("X-Linked-Size", body.len().to_string()),
            ("X-Repo-Commit", COMMIT.to_string()),
            ("Location", format!("{elsewhere}/blob/{name}")),
        ];
        return reply(302, &more, b"", usize::MAX);
    }
    let from = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    match from.filter(|_| *mood != Mood::Whole) {
        Some(from) => {
            more.push(("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len())));
            reply(206, &more, &body[from..], most)
        }
        None => reply(200, &more, body, most),
    }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn one(name: &'static str, body: &[u8], mood: Mood) -> Files {
    HashMap::from([(name, (body.to_vec(), mood))])
}

#[test]
fn a_file_is_fetched_once_into_the_layout_of_pythons_cache() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(one("a/b.bin", b"content", Mood::Plain));
    let hub = server.hub(cache.path());
    let path = hub.find("org/repo", "main", "a/b.bin").unwrap().unwrap();
    let repo = cache.path().join("models--org--repo");
    assert_eq!(path, repo.join(format!("snapshots/{COMMIT}/a/b.bin")));
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(
        fs::canonicalize(&path).unwrap(),
        fs::canonicalize(repo.join("blobs").join(sha256(b"content"))).unwrap()
    );
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(hub.find("org/repo", "main", "a/b.bin").unwrap().is_some());
    let gets = server.seen().iter().filter(|s| s.starts_with("hub GET")).count();
    assert_eq!(gets, 1, "{:?}", server.seen());
    assert!(server.seen().iter().all(|s| s.ends_with("[Bearer secret]")));
    // A commit never changes: nothing is asked.
    let asked = server.seen().len();
    assert!(hub.find("org/repo", COMMIT, "a/b.bin").unwrap().is_some());
    assert_eq!(server.seen().len(), asked);
}

#[test]
fn the_token_stays_with_the_host_it_is_for() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(one("big.bin", b"far away", Mood::Elsewhere));
    let path = server.hub(cache.path()).find("org/repo", "main", "big.bin").unwrap().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"far away");
    let there: Vec<String> = server.seen().into_iter().filter(|s| s.starts_with("store")).collect();
    assert!(!there.is_empty() && there.iter().all(|s| s.ends_with("[]")), "{there:?}");
}

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_stopped() {
    let body: Vec<u8> = (0..100_000u32).flat_map(|i| i.to_le_bytes()).collect();
    for mood in [Mood::Cut(150_000), Mood::Whole] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(one("big.bin", &body, mood));
        let blobs = cache.path().join("models--org--repo/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", sha256(&body))), &body[..1000]).unwrap();
        let path = server.hub(cache.path()).find("org/repo", "main", "big.bin").unwrap().unwrap();
        assert!(fs::read(path).unwrap() == body);
        assert!(server.seen().iter().any(|s| s.contains("[bytes=1000-]")), "{:?}", server.seen());
        assert!(fs::read_dir(&blobs).unwrap().count() == 1, "nothing unfinished is left");
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(one("a.bin", b"patience", Mood::Busy(3)));
    let path = server.hub(cache.path()).find("org/repo", "main", "a.bin").unwrap().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"patience");
}

#[test]
fn what_is_refused_says_what_to_do() {
    for (status, code, said) in [
        (401, "", "HF_TOKEN"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RevisionNotFound", "no such revision"),
        (429, "", "busy"),
        (503, "", "503"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(one("a.bin", b"", Mood::Refuse(status, code)));
        let e = server.hub(cache.path()).find("org/repo", "main", "a.bin").unwrap_err().to_string();
        assert!(e.contains("org/repo") && e.contains(said), "{status}: {e}");
    }
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(one("a.bin", b"right", Mood::WrongHash));
    let e = server.hub(cache.path()).find("org/repo", "main", "a.bin").unwrap_err().to_string();
    assert!(e.contains("hash") && e.contains("thrown away"), "{e}");
    assert_eq!(fs::read_dir(cache.path().join("models--org--repo/blobs")).unwrap().count(), 0);
    assert!(server.hub(cache.path()).find("org/repo", "main", "none.bin").unwrap().is_none());
    let e = server.hub(cache.path()).find("org/other", "main", "a.bin").unwrap_err().to_string();
    assert!(e.contains("org/other") && e.contains("does not exist"), "{e}");
    for bad in ["../x", "a/../../x", "a//b"] {
        assert!(server.hub(cache.path()).find("org/repo", "main", bad).is_err(), "{bad}");
    }
}

#[test]
fn what_was_fetched_serves_offline_and_when_the_server_is_gone() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(one("a.bin", b"kept", Mood::Plain));
    server.hub(cache.path()).find("org/repo", "main", "a.bin").unwrap().unwrap();
    let gone = Hub::new("http://127.0.0.1:9", cache.path(), None, false).waiting(Duration::from_millis(1));
    let offline = Hub::new("http://127.0.0.1:9", cache.path(), None, true);
    for hub in [&gone, &offline] {
        let path = hub.find("org/repo", "main", "a.bin").unwrap().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"kept");
        assert_eq!(hub.list("org/repo", "main").unwrap(), ["a.bin"]);
    }
    let e = offline.find("org/new", "main", "a.bin").unwrap_err().to_string();
    assert!(e.contains("HF_HUB_OFFLINE"), "{e}");
    let e = gone.find("org/new", "main", "a.bin").unwrap_err().to_string();
    assert!(e.contains("127.0.0.1:9"), "{e}");
}

#[test]
fn a_dictionary_is_opened_by_its_name_on_the_hub() {
    let read = |file: &str| {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/saelens/abstopk");
        fs::read(case.join(file)).unwrap()
    };
    let files = HashMap::from([
        ("some/sae/cfg.json", (read("cfg.json"), Mood::Plain)),
        ("some/sae/sae_weights.safetensors", (read("sae_weights.safetensors"), Mood::Elsewhere)),
        ("other/readme.txt", (b"no dictionary".to_vec(), Mood::Plain)),
    ]);
    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start(files));
    let hub = Rc::new(server.hub(cache.path()));
    let loaded = open(&mut queue(), &hub, "org/repo:some/sae", &OpenOptions::default()).unwrap();
    assert_eq!(loaded.dictionary.d_sae(), 48);
    assert_eq!(loaded.extras["source"]["repo"], "org/repo");
    assert_eq!(loaded.extras["model_name"], "gpt2");
    for (name, said) in [
        ("org/repo:other", "readme.txt"),
        ("org/repo:nowhere", "no files"),
        ("neither/here", "release:name"),
        ("gemma-scope-2-1b-pt-res:nonsense", "has no dictionary"),
        ("gemma-scope-2-1b-pt-rse-all:layer_12_width_16k_l0_small", "gemma-scope-2-1b-pt-res-all"),
    ] {
        let e = open(&mut queue(), &hub, name, &OpenOptions::default()).err().unwrap().to_string();
        assert!(e.contains(said), "{name}: {e}");
    }
}

/// A language model in two files, with a third that holds the same weights in another form, as some publish them.
#[test]
fn a_language_model_is_fetched_by_its_name_whole_and_without_what_is_there_twice() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/llama_gqa/model");
    let whole = TensorFile::open(source.join("model.safetensors")).unwrap();
    let tensor = |t: TensorInfo| {
        let (shape, values) = whole.f32(&t.name).unwrap();
        OutTensor { name: t.name, shape, values }
    };
    let all: Vec<OutTensor> = whole.list().into_iter().map(tensor).collect();
    let (dir, mut map) = (tempfile::tempdir().unwrap(), serde_json::Map::new());
    let mut files = Files::new();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second) = all.split_at(all.len() / 2);
    for (file, part) in [(shards[0], first), (shards[1], second)] {
        let path = dir.path().join(file);
        tensorfile::write(&path, part, Precision::F32, &[]).unwrap();
        map.extend(part.iter().map(|t| (t.name.clone(), file.into())));
        files.insert(file, (fs::read(&path).unwrap(), Mood::Cut(100_000)));
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    files.insert("model.safetensors.index.json", (index.into_bytes(), Mood::Busy(2)));
    files.insert("config.json", (fs::read(source.join("config.json")).unwrap(), Mood::Plain));
    files.insert("tokenizer.json", (b"{}".to_vec(), Mood::Plain));
    files.insert("consolidated.safetensors", (b"the same once more".to_vec(), Mood::Refuse(500, "")));
    files.insert("original/model.safetensors", (b"and again".to_vec(), Mood::Refuse(500, "")));

    let (cache, server) = (tempfile::tempdir().unwrap(), Server::start(files));
    let folder = server.hub(cache.path()).model("org/repo").unwrap();
    let q = &mut queue();
    let settings = LanguageModelSettings::default();
    let mut logits = |path: &Path| -> Vec<f32> {
        let lm = Lm::load(q, path, &settings).unwrap();
        let tokens = Tokens { ids: &[5, 9, 33, 120], batch: 1, len: 4, mask: None };
        let out = lm.run(q, &tokens, Run { capture: &[], edit: None, logits: true }).unwrap();
        q.download(&out.logits.unwrap()).unwrap()
    };
    assert_eq!(logits(&folder), logits(&source));
    let asked = server.seen();
    assert!(!asked.iter().any(|s| s.contains("consolidated") || s.contains("original")), "{asked:?}");
    assert!(asked.iter().any(|s| s.contains(shards[0]) && s.contains("[bytes=")), "it goes on: {asked:?}");

    let other = Server::start(one("pytorch_model.bin", b"", Mood::Plain));
    let empty = tempfile::tempdir().unwrap();
    let e = other.hub(empty.path()).model("org/repo").unwrap_err().to_string();
    assert!(e.contains("org/repo") && e.contains("neither model.safetensors nor its index"), "{e}");
}
