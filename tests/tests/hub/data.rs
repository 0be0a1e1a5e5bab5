//! Data sets of the hub by name, from a server on this machine: which files, one after the other, resumed, offline, and a stream
//! of tokens that goes on exactly where it was.

use lm_saes::{
    data::{ContextReader, Order, Overflow, TextSource, TokenPolicy, TokenStream, Tokenize, WeightedSource},
    hub::Hub,
    settings::DatasetSettings,
};
use lm_saes_tests::stub::{Act, Asked, Stub};
use serde_json::json;
use sha2::Digest as _;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// Files by revision and name.
type Files = BTreeMap<(&'static str, String), Vec<u8>>;

struct Server {
    stub: Stub,
    /// What `main` is, and how many bytes of a file are sent at most at a time.
    now: Arc<Mutex<(&'static str, usize)>>,
}

impl Server {
    fn start(files: Files) -> Self {
        let now = Arc::new(Mutex::new((COMMIT, usize::MAX)));
        let shared = now.clone();
        Self { stub: Stub::new(move |asked| answer(asked, &files, *shared.lock().unwrap())), now }
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub::new(&self.stub.url, cache, None, false).waiting(Duration::from_millis(1))
    }

    /// Names of the files of which content was asked for.
    fn fetched(&self) -> Vec<String> {
        let name = |a: &Asked| {
            Some(a.line.strip_prefix("GET /datasets/org/data/resolve/")?.split(' ').next()?.to_string())
        };
        let name = |a: &Asked| Some(name(a)?.split_once('/')?.1.to_string());
        self.stub.asked().iter().filter_map(name).collect()
    }
}

fn answer(asked: &Asked, files: &Files, (main, most): (&'static str, usize)) -> Act {
    let path = asked.line.split(' ').nth(1).unwrap_or_default().replace("%2F", "/");
    let commit = |revision: &str| match revision {
        "main" => Some(main),
        "refs/convert/parquet" => Some(COMMIT),
        other => [COMMIT, LATER].into_iter().find(|c| *c == other),
    };
    // The conversion is a branch of its own with the same commit's name here.
    let has = |revision: &str, name: &str| {
        let at = commit(revision)?;
        let kind = if revision == "refs/convert/parquet" { "converted" } else { at };
        let other = || files.get(&("converted", name.to_string()));
        files.get(&(kind, name.to_string())).or_else(other)
    };
    if let Some(rest) = path.strip_prefix("/api/datasets/org/data/revision/") {
        let revision = rest.split('?').next().unwrap_or_default();
        let Some(sha) = commit(revision) else { return missing("RevisionNotFound") };
        let kind = if revision == "refs/convert/parquet" { "converted" } else { sha };
        let mine = files.iter().filter(|((k, _), _)| *k == kind);
        let siblings: Vec<_> = mine.map(|((_, n), b)| json!({"rfilename": n, "size": b.len()})).collect();
        if siblings.is_empty() {
            return missing("RevisionNotFound");
        }
        return Act::Answer(200, "", json!({"sha": sha, "siblings": siblings}).to_string());
    }
    let Some(rest) = path.strip_prefix("/datasets/org/data/resolve/") else { return missing("RepoNotFound") };
    let split = |rest: &str| {
        let (revision, name) = match rest.strip_prefix("refs/convert/parquet/") {
            Some(name) => ("refs/convert/parquet", name),
            None => rest.split_once('/')?,
        };
        Some((revision.to_string(), name.to_string()))
    };
    let Some((revision, name)) = split(rest) else { return missing("EntryNotFound") };
    let (Some(body), Some(sha)) = (has(&revision, &name), commit(&revision)) else {
        return missing("EntryNotFound");
    };
    let etag: String = sha2::Sha256::digest(body).iter().map(|b| format!("{b:02x}")).collect();
    let head = format!("etag: \"{etag}\"\r\nx-repo-commit: {sha}\r\n");
    let from = asked
        .headers
        .get("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) => {
            let range = format!("{head}content-range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
            Act::Bytes(206, range, body[from..].to_vec(), most)
        }
        None => Act::Bytes(200, head, body.clone(), most),
    }
}

fn missing(code: &str) -> Act {
    Act::Bytes(404, format!("x-error-code: {code}\r\n"), b"no".to_vec(), 2)
}

fn lines(words: &[&str]) -> Vec<u8> {
    words.iter().map(|w| format!("{}\n", json!({ "text": w }))).collect::<String>().into_bytes()
}

/// Three files to train on and one to test.
fn three() -> Files {
    let file = |name: &str, words: &[&str]| ((COMMIT, name.to_string()), lines(words));
    BTreeMap::from([
        file("data/train-00000-of-00003.jsonl", &["a", "b"]),
        file("data/train-00001-of-00003.jsonl", &["c"]),
        file("data/train-00002-of-00003.jsonl", &["d", "e", "f"]),
        file("data/test-00000-of-00001.jsonl", &["t"]),
        ((COMMIT, "README.md".to_string()), b"---\nlicense: mit\n---\n# Words\n".to_vec()),
    ])
}

fn settings() -> DatasetSettings {
    DatasetSettings { dataset_name_or_path: "org/data".into(), ..DatasetSettings::default() }
}

fn open(s: &DatasetSettings, hub: Hub) -> lm_saes::Result<TextSource> {
    s.open_with("words", || hub)
}

#[test]
fn files_are_fetched_one_after_the_other_and_the_next_one_early() {
    let (server, cache) = (Server::start(three()), tempfile::tempdir().unwrap());
    let source = open(&settings(), server.hub(cache.path())).unwrap();
    assert_eq!(server.fetched(), ["README.md"], "opening fetches no data");
    assert_eq!(source.read(0, 9).unwrap(), ["a", "b"]);
    let began = Instant::now();
    while server.fetched().len() < 3 && began.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    let train = |i: usize| format!("data/train-0000{i}-of-00003.jsonl");
    assert_eq!(
        server.fetched()[1..],
        [train(0), train(1)],
        "the next file and no more is fetched while one is read"
    );
    assert_eq!(source.read(2, 9).unwrap(), ["c"]);
    assert_eq!(source.records().unwrap(), 6);
    assert_eq!(source.read(3, 9).unwrap(), ["d", "e", "f"]);
    let repo = cache.path().join("datasets--org--data");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(repo.join(format!("snapshots/{COMMIT}/{}", train(2))).is_file());
    let test = DatasetSettings { split: "test".into(), ..settings() };
    assert_eq!(open(&test, server.hub(cache.path())).unwrap().read(0, 9).unwrap(), ["t"]);
}

#[test]
fn what_was_fetched_serves_offline_and_what_is_missing_is_counted() {
    let (server, cache) = (Server::start(three()), tempfile::tempdir().unwrap());
    let source = open(&settings(), server.hub(cache.path())).unwrap();
    source.records().unwrap();
    let asked = server.stub.asked().len();
    let offline = open(&settings(), server.hub(cache.path()).offline()).unwrap();
    assert_eq!(offline.records().unwrap(), 6);
    assert_eq!(offline.extent(), source.extent());
    assert_eq!(server.stub.asked().len(), asked);
    let snapshot = cache.path().join(format!("datasets--org--data/snapshots/{COMMIT}/data"));
    fs::remove_file(snapshot.join("train-00001-of-00003.jsonl")).unwrap();
    let e = open(&settings(), server.hub(cache.path()).offline()).err().unwrap().to_string();
    assert!(e.contains("3 files") && e.contains("2 are in the local cache"), "{e}");
}

#[test]
fn downloads_that_are_cut_off_go_on() {
    let mut files = three();
    let long: Vec<String> = (0..400).map(|i| format!("word {i}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    files.insert((COMMIT, "data/train-00000-of-00003.jsonl".into()), lines(&long));
    let (server, cache) = (Server::start(files), tempfile::tempdir().unwrap());
    server.now.lock().unwrap().1 = 3000;
    let source = open(&settings(), server.hub(cache.path())).unwrap();
    assert_eq!(source.read(399, 1).unwrap(), ["word 399"]);
    assert!(server.stub.asked().iter().any(|a| a.headers.get("range").is_some_and(|r| r == "bytes=3000-")));
}

#[test]
fn what_does_not_exist_is_named() {
    let (server, cache) = (Server::start(three()), tempfile::tempdir().unwrap());
    let fail = |s: DatasetSettings| open(&s, server.hub(cache.path())).err().unwrap().to_string();
    let e = fail(DatasetSettings { dataset_name_or_path: "org/other".into(), ..settings() });
    assert!(e.contains("org/other") && e.contains("does not exist"), "{e}");
    let e = fail(DatasetSettings { revision: "v2".into(), ..settings() });
    assert!(e.contains("no such revision"), "{e}");
    let e = fail(DatasetSettings { split: "validation".into(), ..settings() });
    assert!(e.contains("no files of split \"validation\""), "{e}");
}

#[cfg(feature = "parquet")]
#[test]
fn files_of_other_kinds_are_read_from_the_hubs_conversion() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/src/data/columns/fixtures/snappy.parquet");
    let parquet = fs::read(here).unwrap();
    let files = BTreeMap::from([
        ((COMMIT, "train.json.gz".to_string()), b"packed".to_vec()),
        (("converted", "default/partial-train/0000.parquet".to_string()), parquet.clone()),
        (("converted", "default/test/0000.parquet".to_string()), parquet),
    ]);
    let (server, cache) = (Server::start(files), tempfile::tempdir().unwrap());
    let source = open(&settings(), server.hub(cache.path())).unwrap();
    assert_eq!(source.records().unwrap(), 23);
    assert!(
        server.fetched().iter().all(|f| f == "default/partial-train/0000.parquet"),
        "{:?}",
        server.fetched()
    );
    let refs = cache.path().join("datasets--org--data/refs/refs/convert/parquet");
    assert_eq!(fs::read_to_string(refs).unwrap(), COMMIT);
}

#[cfg(not(feature = "parquet"))]
#[test]
fn files_that_this_build_does_not_read_say_which_build_does() {
    let files =
        BTreeMap::from([((COMMIT, "data/train-00000-of-00001.parquet".to_string()), b"PAR1".to_vec())]);
    let (server, cache) = (Server::start(files), tempfile::tempdir().unwrap());
    let e = open(&settings(), server.hub(cache.path())).err().unwrap().to_string();
    assert!(e.contains("train-00000-of-00001.parquet") && e.contains("--features parquet"), "{e}");
}

struct Letters;

impl Tokenize for Letters {
    fn encode(&self, text: &str) -> lm_saes::Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }
}

fn stream(s: &DatasetSettings, hub: Hub, repeat: bool, seed: Option<u64>) -> TokenStream {
    let policy = TokenPolicy {
        context_size: Some(3),
        max_length: 3,
        prepend_bos: true,
        bos: Some(1),
        eos: Some(2),
        pad: 0,
        overflow: Overflow::Pack,
        ignore_token_ids: Vec::new(),
        mask_first_position: false,
    };
    let source = Arc::new(open(s, hub).unwrap());
    let reader =
        ContextReader::new(source, Arc::new(Letters), policy, Order { repeat, shuffle_seed: seed }).unwrap();
    TokenStream::new(vec![WeightedSource { name: "words".into(), weight: 1.0, reader: reader.into() }], 1, 1)
        .unwrap()
}

#[test]
fn a_stream_over_fetched_files_goes_on_exactly_from_any_place() {
    let (server, cache) = (Server::start(three()), tempfile::tempdir().unwrap());
    for (repeat, seed) in [(false, None), (true, None), (true, Some(4))] {
        let mut straight = stream(&settings(), server.hub(cache.path()), repeat, seed);
        for _ in 0..20 {
            let mut moved = stream(&settings(), server.hub(cache.path()), repeat, seed);
            moved.seek(&straight.cursor()).unwrap();
            let batch = straight.next_batch().unwrap();
            assert_eq!(moved.next_batch().unwrap(), batch);
            assert_eq!(moved.cursor(), straight.cursor());
            assert!(batch.is_some() || !repeat);
        }
    }
}

#[test]
fn a_data_set_that_moved_on_is_not_taken_for_the_one_before() {
    let mut files = three();
    for ((_, name), body) in three() {
        files.insert((LATER, name), body);
    }
    let (server, cache) = (Server::start(files), tempfile::tempdir().unwrap());
    let mut before = stream(&settings(), server.hub(cache.path()), false, None);
    let first = before.next_batch().unwrap();
    let cursor = before.cursor();
    let second = before.next_batch().unwrap();
    assert_ne!(first, second);
    server.now.lock().unwrap().0 = LATER;
    let mut after = stream(&settings(), server.hub(cache.path()), false, None);
    let e = after.seek(&cursor).unwrap_err().to_string();
    assert!(e.contains(&format!("revision = \"{COMMIT}\"")), "{e}");
    let pinned = DatasetSettings { revision: COMMIT.into(), ..settings() };
    let mut same = stream(&pinned, server.hub(cache.path()), false, None);
    same.seek(&cursor).unwrap();
    assert_eq!(same.next_batch().unwrap(), second);
}
