//! What `lm-saes train --plan` and `lm-saes analyze --plan` say a run will take, against the most a process of its own has taken.

use lm_saes::{
    lm::Lm,
    runners::{self, Activity, AnalysisPlan, Memory, Start},
    settings::{LanguageModelSettings, from_tree},
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

/// Its plan, and what it takes.
#[cfg(target_os = "linux")]
fn analysed(dir: &Path, captured: &[String], analyzer: &Value) -> (AnalysisPlan, usize) {
    let job = analysis(dir, captured, analyzer);
    let plan = runners::plan_analysis(&from_tree(&job).unwrap(), &registry()).unwrap();
    assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
    println!("{:?}", plan.active);
    show(&plan.memory);
    let measured = measured(&job, dir);
    println!("planned {}, measured {measured}", plan.total_bytes());
    (plan, measured)
}

#[cfg(target_os = "linux")]
fn assert_analysis_planned(name: &str, (plan, measured): &(AnalysisPlan, usize)) {
    let ratio = plan.total_bytes() as f64 / *measured as f64;
    println!("{name}: ratio {ratio:.3}");
    assert!((ratio - 1.0).abs() < 0.08, "{name}: the plan is {ratio:.3} of what was taken");
}

#[cfg(target_os = "linux")]
fn random_sae(act_fn: &str, expansion_factor: usize) -> Value {
    json!({"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": tiny::D_MODEL,
           "expansion_factor": expansion_factor, "act_fn": act_fn, "top_k": 32})
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_with_a_budget_is_what_it_takes() {
    // Wide: the decoders' comparison and a state for every feature.
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 400);
    let captured = tiny::dictionary(dir.path(), &random_sae("topk", 768));
    let wide = analysed(dir.path(), &captured, &json!({"total_analyzing_tokens": 9600}));
    assert_eq!(wide.0.active, Activity::Selected(32.0));
    assert_analysis_planned("wide", &wide);
    // Narrow and full of samples.
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 4000);
    let captured = tiny::dictionary(dir.path(), &random_sae("topk", 16));
    let many = json!({"total_analyzing_tokens": 96_000, "quantile_bins": 10, "quantile_samples": 60, "snapshot_seconds": 1,
                      "subsamples": {"top_activations": {"proportion": 1.0, "n_samples": 300}}});
    assert_analysis_planned("samples", &analysed(dir.path(), &captured, &many));
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_of_an_analysis_follows_the_l0_that_training_measured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    tiny::world(dir, 400);
    let more = [
        "initializer.grid_search_init_norm=false",
        "sae.act_fn=jumprelu",
        "sae.expansion_factor=192",
        "initializer.init_log_jumprelu_threshold_value=-3.0",
    ];
    let job = tiny::job(dir, "dictionary", &more);
    runners::train(&from_tree(&job).unwrap(), &registry(), &mut Silent, Start::Fresh).unwrap();
    let trained = analysed(dir, &[HOOK.into()], &json!({"total_analyzing_tokens": 9600}));
    let Activity::Stated(l0) = trained.0.active else { panic!("{:?}", trained.0.active) };
    assert!(l0 > 64.0, "hundreds are active after such a short training: {l0}");
    assert_analysis_planned("jumprelu", &trained);
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
    tiny::world(dir.path(), 400);
    let captured = tiny::dictionary(dir.path(), &random_sae("relu", 96));
    let (plan, measured) = analysed(dir.path(), &captured, &json!({"total_analyzing_tokens": 9600}));
    assert_eq!(plan.active, Activity::Unknown(plan.d_sae as f64));
    // Half of the features are active on a token: more than any trained dictionary has.
    let ratio = plan.total_bytes() as f64 / measured as f64;
    assert!((0.95..2.5).contains(&ratio), "the bound is {ratio:.3} of what was taken");
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
