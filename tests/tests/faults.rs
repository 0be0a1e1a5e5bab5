//! Faults a training job meets in the field, through the same function the program calls: bad input gets one error naming the
//! file, key or tensor; a full disk and a kill at any instant lose nothing that was saved.

use lm_saes::{
    Error, Result,
    lm::Lm,
    runners::{Start, TrainReport, train},
    settings::{LanguageModelSettings, TrainSettings, from_tree},
    tensorfile::{OutTensor, Precision, TensorFile, write},
    training::{Ended, Observer, Progress, Silent, snapshot},
};
use lm_saes_tests::{damage::Random, gguf::GgufFile};
use serde_json::{Value, json};
use std::{
    fs,
    ops::ControlFlow,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

const HOOK: &str = "blocks.1.hook_resid_pre";
const STEPS: usize = 40;
const BATCH: usize = 64;
/// Names the folder of the world to a child process.
const WORLD: &str = "LM_SAES_FAULTS_WORLD";

/// A folder with the committed Llama model, a tokenizer of the words `w2` … `w191`, and text.
fn world() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/llama_gqa/model");
    for file in ["config.json", "model.safetensors"] {
        fs::write(model.join(file), fs::read(fixture.join(file)).unwrap()).unwrap();
    }
    let words = (0..192).map(|i| (if i < 2 { format!("<{i}>") } else { format!("w{i}") }, i.into()));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words.collect::<serde_json::Map<_, _>>(), "unk_token": "<1>"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(model.join("tokenizer_config.json"), r#"{"bos_token": "<0>", "eos_token": "<1>"}"#).unwrap();
    let mut random = Random::new(1);
    let line = |n: usize, random: &mut Random| {
        let words: Vec<String> = (0..8 + n % 9).map(|_| format!("w{}", 2 + random.below(190))).collect();
        json!({ "text": words.join(" ") }).to_string() + "\n"
    };
    let text: String = (0..400).map(|n| line(n, &mut random)).collect();
    fs::write(dir.path().join("text.jsonl"), text).unwrap();
    dir
}

/// Settings of a run in a world; `root` is where results go.
fn tree(world: &Path, root: &Path) -> Value {
    json!({
        "sae": {"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": 48, "expansion_factor": 4,
            "act_fn": "topk", "top_k": 6},
        "sae_name": "faults", "sae_series": "tests",
        "initializer": {"grid_search_init_norm": false},
        "trainer": {"total_training_tokens": STEPS * BATCH, "lr": 1e-3, "lr_warm_up_steps": 4, "log_frequency": 5, "initial_k": 12, "k_warmup_steps": 10,
            "snapshot_frequency": 2, "snapshots_kept": 2, "n_checkpoints": 0, "exp_result_path": root},
        "activation_factory": {"target": "activations-1d", "hook_points": [HOOK], "batch_size": BATCH, "context_size": 16,
            "model_batch_size": 4, "buffer_size": 256, "buffer_shuffle": {"perm_seed": 7},
            "sources": [{"type": "dataset", "name": "text"}]},
        "model": {"model_name": "tiny", "model_from_pretrained_path": world.join("model")},
        "model_name": "tiny",
        "datasets": {"text": {"dataset_name_or_path": world.join("text.jsonl"), "is_dataset_on_disk": true}},
        "device_type": "cpu",
    })
}

fn run(tree: &Value, observer: &mut dyn Observer) -> Result<TrainReport> {
    let settings: TrainSettings = from_tree(tree)?;
    train(&settings, &lm_saes_backends::registry(), observer, Start::Resume)
}

fn whole(tree: &Value) -> TrainReport {
    let report = run(tree, &mut Silent).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.ended, report.steps), (Ended::Complete, STEPS as u64));
    report
}

/// Bytes of the final dictionary.
fn weights(root: &Path) -> Vec<u8> {
    fs::read(root.join("sae_weights.safetensors")).unwrap()
}

struct StopAfter(u64);
impl Observer for StopAfter {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        if p.step == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Numbers of the snapshots below a folder.
fn snapshots(root: &Path) -> Vec<u64> {
    snapshot::list(root).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// The error of a run whose world or settings were spoiled.
fn spoiled(spoil: impl Fn(&Path, &mut Value)) -> Error {
    let world = world();
    let root = world.path().join("results");
    let mut tree = tree(world.path(), &root);
    spoil(world.path(), &mut tree);
    let error = run(&tree, &mut Silent).err().unwrap_or_else(|| panic!("accepted: {tree}"));
    assert!(!root.join("sae_weights.safetensors").exists(), "a result was written in spite of {error}");
    error
}

fn cut(path: &Path, bytes: usize) {
    let all = fs::read(path).unwrap();
    fs::write(path, &all[..all.len() - bytes]).unwrap();
}

#[test]
fn a_bad_model_is_one_error_naming_file_key_or_tensor() {
    let model = |file: &'static str| move |world: &Path| world.join("model").join(file);
    let config = model("config.json");
    let tensors = model("model.safetensors");
    let tokenizer = model("tokenizer.json");
    type Spoil<'a> = &'a dyn Fn(&Path);
    let cases: [(Spoil<'_>, &[&str]); 9] = [
        (&|w| cut(&tensors(w), 1), &["model.safetensors", "not a complete safetensors file"]),
        (&|w| fs::write(tensors(w), [0xFF; 40]).unwrap(), &["model.safetensors", "header of"]),
        (&|w| cut(&config(w), 5), &["config.json", "not JSON"]),
        (&|w| fs::remove_file(config(w)).unwrap(), &["config.json"]),
        (
            &|w| fs::remove_file(tokenizer(w)).unwrap(),
            &["model", "looked for tokenizer.json", "tokenizer_config.json"],
        ),
        (&|w| cut(&tokenizer(w), 5), &["tokenizer.json", "not a usable tokenizer"]),
        (&|w| cut(&model("tokenizer_config.json")(w), 5), &["tokenizer_config.json", "not JSON"]),
        (
            &|w| retype(&tensors(w), "model.norm.weight", |t| t.shape = vec![6, 8]),
            &["model.norm.weight", "[6, 8]"],
        ),
        (
            &|w| retype(&tensors(w), "model.norm.weight", |t| t.name = "other".into()),
            &["model.norm.weight", "missing"],
        ),
    ];
    for (spoil, parts) in cases {
        let message = spoiled(|world, _| spoil(world)).to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message:?} should name {parts:?}");
        assert!(!message.contains('\n'), "more than one line: {message}");
    }
}

/// Changes one tensor of a file.
fn retype(path: &Path, name: &str, change: impl Fn(&mut OutTensor)) {
    let file = TensorFile::open(path).unwrap();
    let mut all: Vec<OutTensor> = file
        .list()
        .into_iter()
        .map(|t| {
            let (shape, values) = file.f32(&t.name).unwrap();
            OutTensor { name: t.name, shape, values }
        })
        .collect();
    change(all.iter_mut().find(|t| t.name == name).expect("the tensor is there"));
    write(path, &all, Precision::F32, &[]).unwrap();
}

#[test]
fn a_bad_gguf_model_is_one_error_naming_key_or_tensor() {
    let file = || {
        GgufFile::new("llama")
            .count("llama.embedding_length", 48)
            .count("llama.attention.head_count", 4)
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.tokens", &["a", "b"])
            .texts("tokenizer.ggml.merges", &[])
            .count("tokenizer.ggml.eos_token_id", 0)
            .f32("token_embd.weight", &[2, 48], &[0.5; 96])
    };
    let mut short = file().bytes();
    short.truncate(short.len() - 64);
    let cases: [(Vec<u8>, &[&str]); 4] = [
        (short, &["model.gguf", "tensor token_embd.weight", "cut short"]),
        (file().bytes(), &["model.gguf", "llama.context_length is missing"]),
        (GgufFile::new("llama").bytes(), &["model.gguf", "no tokenizer", "tokenizer.ggml.model"]),
        (b"not a model at all".to_vec(), &["model.gguf", "not a GGUF file"]),
    ];
    for (bytes, parts) in cases {
        let message = spoiled(|world, tree| {
            let path = world.join("model.gguf");
            fs::write(&path, &bytes).unwrap();
            tree["model"]["model_from_pretrained_path"] = json!(path);
        })
        .to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message:?} should name {parts:?}");
    }
}

#[test]
fn bad_settings_and_text_are_one_error_naming_key_or_file() {
    type Spoil<'a> = &'a dyn Fn(&Path, &mut Value);
    let text = |world: &Path| world.join("text.jsonl");
    let cases: [(Spoil<'_>, &[&str]); 9] = [
        (
            &|_, t| t["trainer"]["snapshot_frequncy"] = json!(3),
            &["trainer.snapshot_frequncy", "snapshot_frequency"],
        ),
        (&|_, t| t["sae"]["d_model"] = json!(32), &["sae.d_model", "32", "48"]),
        (&|_, t| t["device_type"] = json!("cpuu"), &["device_type", "cpu"]),
        (
            &|_, t| t["model"]["model_from_pretrained_path"] = json!("/nowhere"),
            &["/nowhere", "does not exist"],
        ),
        (
            &|_, t| t["activation_factory"]["hook_points"][0] = json!("blocks.9.hook_resid_post"),
            &["blocks.9.hook_resid_post", "does not exist", "hook_resid_post", "hook_embed"],
        ),
        (&|w, _| fs::remove_file(text(w)).unwrap(), &["text.jsonl"]),
        (&|w, _| fs::write(text(w), "{\"text\": \"w3\"}\n{\"text\": \n").unwrap(), &["text.jsonl", "2"]),
        (&|w, _| fs::write(text(w), "{\"words\": \"w3\"}\n").unwrap(), &["text.jsonl", "text"]),
        (&|w, _| fs::write(text(w), "").unwrap(), &["text.jsonl", "holds no text"]),
    ];
    for (spoil, parts) in cases {
        let message = spoiled(spoil).to_string();
        assert!(parts.iter().all(|p| message.contains(p)), "{message:?} should name {parts:?}");
    }
}

#[test]
fn nan_in_the_models_weights_stops_the_run_before_its_first_step_by_name() {
    let error = spoiled(|world, _| {
        let path = world.join("model/model.safetensors");
        retype(&path, "model.embed_tokens.weight", |t| t.values.fill(f32::NAN));
    });
    assert!(matches!(&error, Error::NonFinite { step: 0, .. }), "{error}");
    assert!(error.to_string().contains(HOOK), "{error}");
}

#[test]
fn a_word_that_makes_activations_infinite_stops_the_run_and_leaves_the_last_good_snapshot() {
    let world = world();
    let root = world.path().join("results");
    let tree = tree(world.path(), &root);
    // The last word, whose embedding is spoiled, comes in the second half of what is read only.
    let path = world.path().join("text.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let (early, late) = text.split_at(text.match_indices('\n').nth(120).unwrap().0);
    fs::write(&path, early.replace("w191", "w190") + late).unwrap();
    let d_model = 48;
    retype(&world.path().join("model/model.safetensors"), "model.embed_tokens.weight", |t| {
        let at = t.values.len() - d_model;
        t.values[at..].fill(f32::INFINITY);
    });
    let stopped = || run(&tree, &mut Silent).err().expect("a word is bad").to_string();
    let error = stopped();
    let newest = snapshot::latest(&root).unwrap().expect("a snapshot before the word");
    assert!(error.contains("is not finite") && error.contains(&*newest.to_string_lossy()), "{error}");
    assert!(snapshots(&root).iter().all(|&step| step > 7), "{:?}", snapshots(&root));
    assert_eq!(stopped(), error, "continued from that snapshot");
}

#[test]
fn a_model_that_is_exchanged_on_the_way_is_refused_and_the_snapshot_stays() {
    let world = world();
    let root = world.path().join("results");
    let tree = tree(world.path(), &root);
    assert_eq!(run(&tree, &mut StopAfter(7)).unwrap().ended, Ended::Stopped);
    let model = world.path().join("model/model.safetensors");
    let good = fs::read(&model).unwrap();
    retype(&model, "model.embed_tokens.weight", |t| t.values.fill(f32::INFINITY));
    let error = run(&tree, &mut Silent).err().expect("it is another model").to_string();
    let newest = snapshot::latest(&root).unwrap().expect("the snapshot of step 7");
    assert!(error.contains("model_weights") && error.contains(&*newest.to_string_lossy()), "{error}");
    fs::write(&model, good).unwrap();
    whole(&tree);
}

/// Stops a run at step 7, lets `fail` run it on a full disk, and checks that the snapshot stayed and leads to the same result.
fn disk_full(world: &Path, root: &Path, fail: impl FnOnce(&Value) -> String) {
    let reference = world.join("reference");
    whole(&tree(world, &reference));
    let tree = tree(world, root);
    assert_eq!(run(&tree, &mut StopAfter(7)).unwrap().ended, Ended::Stopped);
    let before = snapshots(root);
    assert_eq!(before, [6, 7]);
    let message = fail(&tree);
    assert!(message.contains("step_8") && message.contains(&*root.to_string_lossy()), "{message}");
    assert_eq!(snapshots(root), before, "after: {message}");
    whole(&tree);
    assert!(weights(root) == weights(&reference), "the continued run ended elsewhere");
}

#[test]
fn a_file_that_cannot_grow_leaves_the_previous_snapshot_to_continue_from() {
    let world = world();
    let root = world.path().join("results");
    disk_full(world.path(), &root, |_| {
        // 64 KiB a file: less than the moments, more than everything written before them.
        let limited = r#"trap "" XFSZ; ulimit -f 128; exec "$0" "$@""#;
        let mut shell = Command::new("sh");
        let out = shell
            .args(["-c", limited])
            .arg(std::env::current_exe().unwrap())
            .args(CHILD)
            .env(WORLD, world.path())
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        assert!(!out.status.success(), "the child trained on a full disk");
        [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat()
    });
}

#[test]
fn a_full_disk_leaves_the_previous_snapshot_to_continue_from() {
    let world = world();
    let Some(disk) = SmallDisk::mount(&world.path().join("disk")) else {
        eprintln!("SKIPPED: mounting a small tmpfs needs root");
        return;
    };
    let root = disk.0.join("results");
    disk_full(world.path(), &root, |tree| {
        let filler = disk.0.join("filler");
        // Whatever fits, then 64 KiB back: room for the weights' start but not for a snapshot.
        let mut size = 16 << 20;
        while size >= 4096 {
            let all = fs::metadata(&filler).map_or(0, |m| m.len() as usize) + size;
            let grown = fs::File::options().create(true).append(true).open(&filler).and_then(|mut f| {
                use std::io::Write;
                f.write_all(&vec![0; size])
            });
            if grown.is_err() {
                let _ = fs::File::options()
                    .write(true)
                    .open(&filler)
                    .and_then(|f| f.set_len((all - size) as u64));
                size /= 2;
            }
        }
        let length = fs::metadata(&filler).unwrap().len();
        fs::File::options().write(true).open(&filler).unwrap().set_len(length - (64 << 10)).unwrap();
        let message = run(tree, &mut Silent).err().expect("the disk is full").to_string();
        assert!(message.contains("No space left"), "{message}");
        fs::remove_file(&filler).unwrap();
        message
    });
}

/// A tmpfs of 8 MiB, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(path);
        let ok = mount.stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        ok.then(|| Self(path.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Arguments that make this binary run the child below.
const CHILD: [&str; 4] = ["--ignored", "--exact", "a_child_process_trains", "--nocapture"];

#[test]
#[ignore = "the part of other tests here that runs in a process of its own"]
fn a_child_process_trains() {
    let world = PathBuf::from(std::env::var_os(WORLD).expect("run by other tests only"));
    let tree = tree(&world, &world.join("results"));
    run(&tree, &mut Silent).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_run_killed_at_any_instant_and_resumed_ends_with_the_same_bits() {
    let world = world();
    let (root, reference) = (world.path().join("results"), world.path().join("reference"));
    whole(&tree(world.path(), &reference));
    let mut random = Random::new(11);
    let (mut killed, mut goal) = (0, 0);
    while goal < STEPS as u64 - 8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(CHILD)
            .env(WORLD, world.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // At the latest a few snapshots further than the process before, and anywhere between two of them.
        goal += 1 + random.below(8) as u64;
        while child.try_wait().unwrap().is_none() && snapshots(&root).last().is_none_or(|&s| s < goal) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(random.below(15_000) as u64));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
        goal = goal.max(snapshots(&root).last().copied().unwrap_or(STEPS as u64));
    }
    assert!(killed > 1, "the processes ended before they were killed");
    whole(&tree(world.path(), &root));
    assert!(weights(&root) == weights(&reference), "the killed run ended elsewhere ({killed} kills)");
}

#[test]
fn a_damaged_configuration_never_panics_or_asks_for_memory_the_file_cannot_fill() {
    let world = world();
    let model = world.path().join("model");
    let good = fs::read(model.join("config.json")).unwrap();
    let mut q = lm_saes_tests::queue();
    let mut refused = 0;
    for seed in 0..400 {
        let bad = lm_saes_tests::damage::damage(&good, &mut Random::new(seed));
        fs::write(model.join("config.json"), bad).unwrap();
        if let Err(e) = Lm::load(&mut q, &model, &LanguageModelSettings::default()) {
            let text = e.to_string();
            let named =
                ["config.json", "model.safetensors", "model_type", "rope"].iter().any(|n| text.contains(n));
            assert!(named, "damage {seed}: {text}");
            refused += 1;
        }
    }
    assert!(refused > 100, "only {refused} of 400 damaged configurations were refused");
}
