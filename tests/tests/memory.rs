//! What `lm-saes train --plan` and `lm-saes analyze --plan` say a run will take, against the most a process of its own has taken.

use lm_saes::{
    analysis::{Rules, rows_at_once},
    lm::Lm,
    runners::{self, Activity, AnalysisPlan, Memory, Start},
    settings::{AnalyzeSettings, LanguageModelSettings, from_tree},
    store::{self, DictionaryKey},
    tensorfile::{self, Precision, Slot},
    training::Silent,
};
use lm_saes_backends::registry;
use lm_saes_runtime::Queue;
use lm_saes_tests::tiny::{self, HOOK};
use serde_json::{Value, json};
use std::{env, fs, path::Path, process::Command};

/// Names the settings file of the run a child process is to make.
const RUN: &str = "LM_SAES_MEMORY_RUN";

/// Nothing, unless this process is the child of another test: then the run, and its peak on standard output.
#[test]
fn running_child() {
    let Some(file) = env::var_os(RUN) else { return };
    let tree: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    match tree.get("analyzer") {
        None => runners::train(&from_tree(&tree).unwrap(), &registry(), &mut Silent, Start::Fresh).map(drop),
        Some(_) => {
            runners::analyze(&from_tree(&tree).unwrap(), &registry(), &mut Silent, Start::Fresh).map(drop)
        }
    }
    .unwrap();
    println!("peak {} KiB", peak());
}

/// The most this process has taken, in KiB.
fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").into()
}

/// Names the model that a child process is to load.
const MODEL: &str = "LM_SAES_MEMORY_MODEL";

/// Nothing, unless this process is the child of another test: then a model is loaded.
#[test]
fn loading_child() {
    let Some(folder) = env::var_os(MODEL) else { return };
    let device = registry().open("cpu").unwrap();
    let q = &mut Queue::new(&device).unwrap();
    let lm = Lm::load(q, Path::new(&folder), &LanguageModelSettings::default()).unwrap();
    assert_eq!(lm.architecture().n_layers, LAYERS);
    println!("peak {} KiB", peak());
}

const LAYERS: usize = 32;

/// A Llama of 38 million parameters in bfloat16, in two files.
fn sharded(dir: &Path) {
    let [d, mlp, vocab] = [256, 1024, 8192];
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": d, "intermediate_size": mlp, "vocab_size": vocab,
        "num_hidden_layers": LAYERS, "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut slots = vec![
        Slot::new("model.embed_tokens.weight", [vocab, d]),
        Slot::new("lm_head.weight", [vocab, d]),
        Slot::new("model.norm.weight", [d]),
    ];
    for i in 0..LAYERS {
        let at = |name: &str, shape: &[usize]| Slot::new(format!("model.layers.{i}.{name}.weight"), shape);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            slots.push(at(&format!("self_attn.{name}"), &[d, d]));
        }
        slots.extend([
            at("mlp.gate_proj", &[mlp, d]),
            at("mlp.up_proj", &[mlp, d]),
            at("mlp.down_proj", &[d, mlp]),
        ]);
        slots.extend([at("input_layernorm", &[d]), at("post_attention_layernorm", &[d])]);
    }
    let mut map = serde_json::Map::new();
    for (i, part) in slots.chunks(slots.len().div_ceil(2)).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        part.iter().for_each(|s| drop(map.insert(s.name.clone(), json!(file))));
        tensorfile::write_with(
            &dir.join(file),
            part,
            Precision::Bf16,
            &[("format", "pt".into())],
            |i, put| put(&vec![0.01; part[i].shape.iter().product()]),
        )
        .unwrap();
    }
    fs::write(dir.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn a_sharded_model_in_16_bits_is_converted_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    sharded(dir.path());
    let architecture = Lm::read_architecture(dir.path()).unwrap();
    let weights = 4 * architecture.matrix_elements() as usize;
    let piece = 4 * architecture.largest_piece() as usize;
    let measured = child("loading_child", MODEL, dir.path());
    println!("weights {weights}, largest piece {piece}, peak {measured}");
    // A piece as it is stored (half as large), as f32, and what the program itself takes.
    assert!(measured > weights && measured < weights + piece * 3 / 2 + (40 << 20), "{measured}");
}

/// Planned and measured bytes of a job in a world of its own.
fn both(more: &dyn Fn(&mut Value)) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 60);
    let mut job = tiny::job(dir.path(), "out", &["initializer.grid_search_init_norm=false", "eval=false"]);
    more(&mut job);
    let plan = runners::plan(&from_tree(&job).unwrap(), &registry()).unwrap();
    assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
    show(&plan.memory);
    (plan.total_bytes(), measured(&job, dir.path()))
}

fn show(memory: &[Memory]) {
    memory.iter().for_each(|m| println!("  {:<32}{:>8.1} MiB", m.what, m.bytes as f64 / 1048576.0));
}

fn measured(job: &Value, dir: &Path) -> usize {
    let file = dir.join("job.json");
    fs::write(&file, job.to_string()).unwrap();
    child("running_child", RUN, &file)
}

/// Peak of the test `name` in a process of its own, told by a variable what to do.
fn child(name: &str, variable: &str, value: &Path) -> usize {
    let out = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(variable, value)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let peak = text.lines().find_map(|l| l.split("peak ").nth(1)?.strip_suffix(" KiB"));
    let peak = peak.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)));
    peak.parse::<usize>().unwrap() * 1024
}

fn set(room: &mut Value, values: &[(&str, u32)]) {
    values.iter().for_each(|(key, value)| room[*key] = json!(value));
}

fn assert_planned(name: &str, more: &dyn Fn(&mut Value)) {
    let (planned, measured) = both(more);
    let ratio = planned as f64 / measured as f64;
    println!("{name}: planned {planned}, measured {measured}, ratio {ratio:.3}");
    assert!((ratio - 1.0).abs() < 0.05, "{name}: planned {planned}, measured {measured}, ratio {ratio:.3}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_sae_is_what_its_run_takes() {
    assert_planned("sae", &|job| {
        job["sae"]["expansion_factor"] = json!(2048);
        let trainer = [("total_training_tokens", 20_480), ("snapshot_frequency", 0), ("lr_warm_up_steps", 2)];
        set(&mut job["trainer"], &trainer);
        let stream = [("batch_size", 1024), ("buffer_size", 200_000), ("model_batch_size", 2000)];
        set(&mut job["activation_factory"], &stream);
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_a_cross_layer_transcoder_is_what_its_run_takes() {
    let hooks = |kind: &str| [0, 1].map(|l| format!("blocks.{l}.{kind}"));
    let (inputs, outputs) = (hooks("ln2.hook_normalized"), hooks("hook_mlp_out"));
    for act_fn in ["topk", "layertopk", "batchlayertopk"] {
        assert_planned(act_fn, &|job| {
            job["sae"] = json!({"sae_type": "clt", "d_model": 48, "expansion_factor": 1536, "act_fn": act_fn,
                                "top_k": 32, "hook_points_in": inputs, "hook_points_out": outputs});
            job["initializer"]["init_encoder_with_decoder_transpose"] = json!(false);
            job["trainer"]["clip_grad_norm"] = json!(1.0);
            let trainer = [("initial_k", 32), ("total_training_tokens", 4096), ("lr_warm_up_steps", 2)];
            set(&mut job["trainer"], &trainer);
            job["activation_factory"]["hook_points"] = json!([&inputs[..], &outputs[..]].concat());
            let stream = [("batch_size", 256), ("buffer_size", 50_000), ("model_batch_size", 500)];
            set(&mut job["activation_factory"], &stream);
        });
    }
}

/// The model, and lines of text that fill contexts: without padding, which does not count.
#[cfg(target_os = "linux")]
fn full_contexts(dir: &Path, lines: usize) {
    tiny::model(dir);
    let word = |line: usize, i: usize| format!("w{}", 2 + (line * 31 + i * 17 + i * line % 13) % 190);
    let line = |n: usize| (0..32).map(|i| word(n, i)).collect::<Vec<_>>().join(" ") + "\n";
    fs::write(dir.join("text.txt"), (0..lines).map(line).collect::<String>()).unwrap();
}

/// An analysis of the dictionary in `dir/dictionary`.
#[cfg(target_os = "linux")]
fn analysis(dir: &Path, captured: &[String], analyzer: &Value) -> Value {
    json!({
        "sae": {"pretrained_name_or_path": dir.join("dictionary")}, "sae_name": "d", "sae_series": "s", "device_type": "cpu",
        "model": {"model_name": "tiny-llama", "model_from_pretrained_path": dir.join("model")},
        "datasets": {"text": {"dataset_name_or_path": dir.join("text.txt"), "sample_by": "line"}},
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text"}], "target": "activations-2d", "hook_points": captured,
            "batch_size": 64, "context_size": 24, "model_batch_size": 16,
        },
        "analyzer": analyzer,
    })
}

#[cfg(target_os = "linux")]
fn planned(plan: &AnalysisPlan, what: &str) -> Option<usize> {
    plan.memory.iter().find(|m| m.what == what).map(|m| m.bytes)
}

/// What an analysis was planned to take, and what it took.
#[cfg(target_os = "linux")]
struct Analysed {
    plan: AnalysisPlan,
    measured: usize,
    /// The plan, had it been known how often each feature fires.
    informed: usize,
}

#[cfg(target_os = "linux")]
fn analysed(dir: &Path, captured: &[String], analyzer: &Value) -> Analysed {
    let job = analysis(dir, captured, analyzer);
    let plan = runners::plan_analysis(&from_tree(&job).unwrap(), &registry()).unwrap();
    assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
    println!("{:?}", plan.active);
    show(&plan.memory);
    let measured = measured(&job, dir);
    // Samples and contexts as they are with the features that did fire.
    let settings: AnalyzeSettings = from_tree(&job).unwrap();
    let store = store::open(&settings.store_address()).unwrap();
    let key = DictionaryKey::new("d", "s");
    let mut fired = 0;
    let features: Vec<(f64, f64)> = (0..plan.d_sae as u32)
        .map(|i| store.feature(&key, "default", i).unwrap().unwrap().analysis)
        .map(|f| (f.act_times, f.n_contexts))
        .inspect(|f| fired += f.0)
        .map(|(times, contexts)| (times as f64 / contexts.max(1) as f64, contexts as f64))
        .collect();
    let l0 = fired as f64 / plan.tokens as f64;
    let silent = features.iter().filter(|f| f.1 == 0.0).count();
    let rules = Rules::new(&settings.analyzer);
    let n = features.len() as f64;
    let mean = [features.iter().map(|f| f.0 * f.1).sum::<f64>(), features.iter().map(|f| f.1).sum()];
    let mean = (mean[0] / mean[1], mean[1] / n);
    let kept = rules.bytes_of(features.into_iter(), l0, 24, plan.tokens);
    let mut informed = plan.total_bytes() - planned(&plan, "statistics and samples").unwrap() + kept;
    let active = plan.active.per_token();
    if !matches!(plan.active, Activity::Selected(_)) {
        // Pairs of the rows that are on the host together, by row and by feature.
        let rows = rows_at_once(4 * plan.d_sae, 24).min(plan.batch_rows);
        informed = (informed as f64 + 16.0 * rows as f64 * (l0 - active)) as usize;
    }
    if planned(&plan, "writing").is_some() {
        let expected = Rules::occurrences(plan.d_sae, active, 24, plan.tokens);
        let written = |fired, l0| rules.writing_bytes(256, fired, plan.d_sae, l0, plan.tokens);
        informed = informed + written(mean, l0) - written(expected, active);
    }
    println!(
        "L0 {l0:.1}, {silent} of {} never fire, planned {}, informed {informed}, measured {measured}",
        plan.d_sae,
        plan.total_bytes()
    );
    Analysed { plan, measured, informed }
}

#[cfg(target_os = "linux")]
impl Analysed {
    /// The plan bounds what was taken, and is what was taken but for features that fire more and less often than others.
    fn assert_planned(&self, name: &str) {
        let of = |bytes: usize| bytes as f64 / self.measured as f64;
        let (planned, informed) = (of(self.plan.total_bytes()), of(self.informed));
        println!(
            "{name}: the plan is {planned:.3} of what was taken, {informed:.3} with the features that fired"
        );
        assert!((0.97..1.3).contains(&planned), "{name}: the plan is {planned:.3} of what was taken");
        assert!((informed - 1.0).abs() < 0.08, "{name}: {informed:.3} of what was taken");
    }
}

#[cfg(target_os = "linux")]
fn random_sae(act_fn: &str, expansion_factor: usize) -> Value {
    json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": tiny::D_MODEL,
           "expansion_factor": expansion_factor, "act_fn": act_fn, "top_k": 32})
}

/// Of a dictionary with hundreds of active features, whose partners would take most of the time to count.
#[cfg(target_os = "linux")]
fn dense() -> Value {
    json!({"total_analyzing_tokens": 4800, "n_coactivations": 0})
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_of_a_wide_dictionary_is_what_it_takes() {
    // The decoders' comparison, and a state for every feature.
    let dir = tempfile::tempdir().unwrap();
    full_contexts(dir.path(), 200);
    let captured = tiny::dictionary(dir.path(), &random_sae("topk", 512));
    let wide = analysed(dir.path(), &captured, &json!({"total_analyzing_tokens": 4800}));
    assert_eq!(wide.plan.active, Activity::Selected(32.0));
    wide.assert_planned("wide");
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_of_many_samples_is_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    full_contexts(dir.path(), 4000);
    let captured = tiny::dictionary(dir.path(), &random_sae("topk", 16));
    let many = json!({"total_analyzing_tokens": 96_000, "quantile_bins": 10, "quantile_samples": 60, "snapshot_seconds": 1,
                      "subsamples": {"top_activations": {"proportion": 1.0, "n_samples": 300}}});
    analysed(dir.path(), &captured, &many).assert_planned("samples");
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_follows_the_l0_that_training_measured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    full_contexts(dir, 200);
    let more = [
        "initializer.grid_search_init_norm=false",
        "sae.act_fn=jumprelu",
        "sae.expansion_factor=96",
        "initializer.init_log_jumprelu_threshold_value=-3.0",
        "trainer.total_training_tokens=1280",
        "trainer.lr_warm_up_steps=2",
    ];
    let job = tiny::job(dir, "dictionary", &more);
    runners::train(&from_tree(&job).unwrap(), &registry(), &mut Silent, Start::Fresh).unwrap();
    let trained = analysed(dir, &[HOOK.into()], &dense());
    let Activity::Stated(l0) = trained.plan.active else { panic!("{:?}", trained.plan.active) };
    assert!(l0 > 64.0, "hundreds are active after such a short training: {l0}");
    trained.assert_planned("jumprelu");
    // Without the evaluation's figure the last one of the training record serves.
    let config = dir.join("dictionary/config.json");
    let stated = fs::read_to_string(&config).unwrap();
    fs::write(&config, stated.replace("\"stated\"", "\"otherwise\"")).unwrap();
    let settings = from_tree(&analysis(dir, &[HOOK.into()], &json!({"total_analyzing_tokens": 96}))).unwrap();
    let plan = runners::plan_analysis(&settings, &registry()).unwrap();
    let Activity::Stated(recorded) = plan.active else { panic!("{:?}", plan.active) };
    assert!((recorded / l0 - 1.0).abs() < 0.5 && recorded != l0, "{recorded} {l0}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_of_unknown_l0_bounds_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    full_contexts(dir.path(), 200);
    let captured = tiny::dictionary(dir.path(), &random_sae("relu", 64));
    let found = analysed(dir.path(), &captured, &dense());
    assert_eq!(found.plan.active, Activity::Unknown(found.plan.d_sae as f64));
    // Half of the features are active on a token: more than any trained dictionary has.
    found.assert_planned("relu");
}

#[test]
fn one_more_hook_point_costs_a_captured_pass_and_its_share_of_batches() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 5);
    let plan = |more: &[&str]| {
        let s = from_tree(&tiny::job(dir.path(), "out", more)).unwrap();
        runners::plan(&s, &registry()).unwrap()
    };
    let of = |more: &[&str]| {
        let plan = plan(more);
        plan.memory.iter().find(|m| m.what == "batches and model activations").unwrap().bytes
    };
    let two = format!("activation_factory.hook_points=[\"{HOOK}\", \"blocks.1.hook_resid_post\"]");
    // One more hook point of 48: a captured pass of 96 tokens, and nine batches of 64 rows with a copy.
    let more = of(&[&two]) - of(&[]);
    assert_eq!(more, 4 * 48 * (96 + 10 * 64));
}
