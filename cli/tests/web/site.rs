//! Servers and stores for the tests.

use lm_saes::store::*;
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

/// Text that would run if it were ever markup.
pub const HOSTILE: &str =
    "</i></p><script>window.hacked=1</script><img src=x onerror=\"window.hacked=2\">'\"&amp;";
/// A name that would climb.
pub const CLIMBING: &str = "../../etc/passwd";

/// A running server; ends with the value.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// What it said when it started.
    pub said: Vec<String>,
}

impl Server {
    /// Serves the store at this address with more arguments.
    pub fn start(store: &str, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lm-saes"))
            .args(["serve", "--port", "0", "--device", "cpu", "--store"])
            .arg(store)
            .args(args)
            .env_remove("LM_SAES_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let expected = if args.contains(&"0.0.0.0") {
            3
        } else if args.contains(&"--token") {
            2
        } else {
            1
        };
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let said: Vec<String> = out.lines().take(expected).map_while(Result::ok).collect();
        let address = said.first().and_then(|l| l.split_once("http://")?.1.split('/').next());
        let Some(address) = address else {
            let mut error = String::new();
            let _ = child.stderr.take().expect("its errors").read_to_string(&mut error);
            panic!("no address in {said:?}: {error}");
        };
        let address = address.replace("0.0.0.0", "127.0.0.1");
        Self { child, address, said }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a new store goes: into a file, or with `LM_SAES_PAGES_ON=mongodb` into a database of the server that is named.
pub fn place(file: &Path) -> String {
    let on_mongodb = std::env::var("LM_SAES_PAGES_ON").is_ok_and(|on| on == "mongodb");
    let database = if on_mongodb { lm_saes_tests::mongo_database() } else { None };
    database.unwrap_or_else(|| file.display().to_string())
}

/// A store made up by hand: a dictionary with everything a store can hold, one with hostile names, one without an analysis. Its
/// address, and a folder that goes with the value.
pub fn made_up() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let address = place(&dir.path().join("made up.db"));
    let store = open(&address).unwrap();
    for key in [lorsa(), hostile(), DictionaryKey::new("..", "")] {
        register(&*store, &key);
        analyse(&*store, &key, "default");
    }
    analyse(&*store, &lorsa(), "another one");
    register(&*store, &DictionaryKey::new("raw", "default"));
    let says = Interpretation {
        text: format!("names of rivers {HOSTILE}"),
        explainer: HOSTILE.into(),
        scores: [("detection".to_owned(), 0.75)].into(),
        ..Interpretation::default()
    };
    for key in [lorsa(), hostile()] {
        let feature = FeatureRef { dictionary: key, feature: 3 };
        store.set_interpretation(&feature, Some(&says)).unwrap();
        store.set_metric(&feature, HOSTILE, 0.5).unwrap();
    }
    let marked = FeatureRef { dictionary: hostile(), feature: 3 };
    let bookmark =
        Bookmark { tags: vec![HOSTILE.into()], notes: Some(HOSTILE.into()), created_at: 1_700_000_000 };
    store.set_bookmark(&marked, Some(&bookmark)).unwrap();
    store
        .put_list(&FeatureList { name: HOSTILE.into(), notes: HOSTILE.into(), features: vec![marked] })
        .unwrap();
    (dir, address)
}

pub fn lorsa() -> DictionaryKey {
    DictionaryKey::new("lorsa/l6", "default")
}

pub fn hostile() -> DictionaryKey {
    DictionaryKey::new(HOSTILE, CLIMBING)
}

fn register(store: &dyn Store, key: &DictionaryKey) {
    store.put_dictionary(&record(key)).unwrap();
}

/// A dictionary of twelve features.
pub fn record(key: &DictionaryKey) -> DictionaryRecord {
    DictionaryRecord {
        key: key.clone(),
        path: "results/lorsa".into(),
        cfg: json!({"sae_type": "lorsa", "d_model": 8, "act_fn": "topk", "top_k": 3, "hook_point_in": HOSTILE}),
        d_sae: 12,
        model_name: Some(HOSTILE.into()),
    }
}

fn analyse(store: &dyn Store, key: &DictionaryKey, name: &str) {
    let mut w = store.begin_analysis(key, name).unwrap();
    let contexts: Vec<Context> = (0..8)
        .map(|id| Context {
            id,
            origin: HOSTILE.into(),
            ids: (0..80).collect(),
            texts: (0..80).map(|t| if t == 40 { HOSTILE.into() } else { format!(" w{id}t{t}\n") }).collect(),
        })
        .collect();
    w.contexts(&contexts).unwrap();
    let features: Vec<FeatureAnalysis> = (0..12).map(feature).collect();
    w.features(&features).unwrap();
    w.commit(&AnalysisRecord {
        name: name.into(),
        d_sae: 12,
        n_analyzed_tokens: 10_000,
        n_tokens: 10_000,
        n_contexts: 125,
        created_at: 1_700_000_000,
        settings: json!({}),
    })
    .unwrap();
}

/// Feature `i`; every fourth never fired.
fn feature(i: u32) -> FeatureAnalysis {
    if i.is_multiple_of(4) {
        return FeatureAnalysis { index: i, ..FeatureAnalysis::default() };
    }
    let sample = |context: u32| Sample {
        context,
        acts: vec![(10, 1.0), (40, i as f32), (60, -0.5)],
        z_pattern: vec![(40, 10, 0.5), (40, 39, 0.25)],
    };
    let token = TokenLogit { token: HOSTILE.into(), logit: 2.5 };
    FeatureAnalysis {
        index: i,
        act_times: u64::from(i) * 10,
        max_act: i as f32,
        mean_act: 0.5,
        n_contexts: 9,
        histogram: Histogram { width: 0.5, counts: vec![30, 0, 2, 1] },
        samplings: vec![
            Sampling { name: "top_activations".into(), samples: vec![sample(1), sample(2)] },
            Sampling { name: HOSTILE.into(), samples: vec![Sample { context: 6, ..Sample::default() }] },
        ],
        coactivations: vec![Related { feature: (i + 1) % 12, value: 0.75 }],
        neighbours: vec![Related { feature: (i + 2) % 12, value: -0.25 }],
        decoder_norms: vec![1.5, 0.5],
        decoder_similarities: vec![1.0, 0.125, 0.125, 1.0],
        decoder_inner_products: vec![2.25, 0.1, 0.1, 0.25],
        peak_tokens: vec![" river".into(), HOSTILE.into()],
        logits: Some(Logits { top_positive: vec![token.clone()], top_negative: vec![token] }),
        preview: vec![(" a".into(), 0.0), (HOSTILE.into(), i as f32)],
    }
}

/// The built-in model with a small SAE trained on it and analysed: its folder and its store.
pub struct Trained {
    pub dir: PathBuf,
    pub store: String,
}

/// Trained once for all tests.
pub fn trained() -> &'static Trained {
    static ONCE: OnceLock<Trained> = OnceLock::new();
    ONCE.get_or_init(train)
}

pub fn quickstart() -> DictionaryKey {
    DictionaryKey::new("quickstart", "quickstart")
}

fn train() -> Trained {
    // Cleared by the next time, since a static is never dropped.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web");
    let _ = fs::remove_dir_all(&dir);
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart");
    fs::create_dir_all(dir.join("model")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(assets.join(file), dir.join("model").join(file)).unwrap();
    }
    fs::copy(assets.join("text.jsonl"), dir.join("text.jsonl")).unwrap();
    let root = dir.display().to_string();
    let settings = fs::read_to_string(assets.join("train.toml"))
        .unwrap()
        .replace("{out}/text/train.jsonl", &format!("{root}/text.jsonl"))
        .replace("{out}", &root)
        .replace("{tokens}", "32768")
        .replace("log_frequency = 50", "log_frequency = 2")
        .replace("expansion_factor = 16", "expansion_factor = 4")
        .replace("batch_size = 2048", "batch_size = 1024")
        .replace("buffer_size = 65536", "buffer_size = 8192");
    fs::write(dir.join("train.toml"), settings).unwrap();
    let store = place(&dir.join("lm-saes.db"));
    for args in
        [vec!["train", "train.toml"], vec!["analyze", "train.toml", "--tokens", "32768", "--store", &store]]
    {
        let out = Command::new(env!("CARGO_BIN_EXE_lm-saes"))
            .current_dir(&dir)
            .args(&args)
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Trained { dir, store }
}

/// An open store.
pub fn stored(address: &str) -> Box<dyn Store> {
    open(address).unwrap_or_else(|e| panic!("{address}: {e}"))
}
