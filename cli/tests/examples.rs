//! Every file in `cli/examples` is planned as it stands, and run for a few steps on the built-in model: layers, widths and
//! heads are mapped to that model, everything else is what the file says.

use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const LAYERS: usize = 4;
const HEADS: u64 = 4;
const D_HEAD: u64 = 32;
const D_MODEL: u64 = 128;
const D_ROTARY: u64 = 8;
const CONTEXT: u64 = 32;
/// Tokens of a batch.
const ROWS: u64 = 256;
const STEPS: u64 = 4;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The examples; those that measure come after those that train.
fn examples() -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap();
            let tree = lm_saes::settings::read_tree(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(text.starts_with('#'), "{name} does not say what it is for");
            (name, tree)
        })
        .collect();
    all.sort_by_key(|(name, tree)| (command(tree) == "evaluate", name.clone()));
    all
}

fn command(tree: &Value) -> &'static str {
    if ["grid", "sweep", "items"].iter().any(|key| tree.get(key).is_some()) {
        return "sweep";
    }
    if tree.get("trainer").is_some() { "train" } else { "evaluate" }
}

fn run(dir: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_lm-saes"))
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "lm-saes {}\n{stdout}{stderr}", args.join(" "));
    stdout.into_owned()
}

/// The number of a hook point's layer, with what is around it.
fn layer_of(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.strip_prefix("blocks.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn layers_in(tree: &Value, found: &mut BTreeSet<usize>) {
    match tree {
        Value::String(s) => found.extend(layer_of(s).map(|(layer, _)| layer)),
        Value::Array(list) => list.iter().for_each(|v| layers_in(v, found)),
        Value::Object(table) => table.values().for_each(|v| layers_in(v, found)),
        _ => {}
    }
}

/// Puts the layers of a file onto those of the small model in their order. Where there are more than it has, the later ones are
/// left out of lists.
fn map_layers(tree: &mut Value, layers: &[usize]) {
    let place = |layer: usize| layers.iter().position(|l| *l == layer).filter(|i| *i < LAYERS);
    match tree {
        Value::String(s) => {
            if let Some((layer, rest)) = layer_of(s) {
                *s = format!("blocks.{}.{rest}", place(layer).unwrap_or(LAYERS - 1));
            }
        }
        Value::Array(list) => {
            list.retain(|v| v.as_str().and_then(layer_of).is_none_or(|(layer, _)| place(layer).is_some()));
            list.iter_mut().for_each(|v| map_layers(v, layers));
        }
        Value::Object(table) => table.values_mut().for_each(|v| map_layers(v, layers)),
        _ => {}
    }
}

/// Replaces a number that is there.
fn put(table: &mut Value, key: &str, value: u64) {
    if let Some(old) = table.get_mut(key) {
        *old = value.into();
    }
}

/// The file for the small model in `assets`, with its text.
fn shrink(mut tree: Value, assets: &Path) -> Value {
    let mut layers = BTreeSet::new();
    layers_in(&tree, &mut layers);
    let layers: Vec<usize> = layers.into_iter().collect();
    map_layers(&mut tree, &layers);
    let sae = &mut tree["sae"];
    put(sae, "d_model", D_MODEL);
    put(sae, "n_qk_heads", 2 * HEADS);
    put(sae, "d_qk_head", D_HEAD);
    put(sae, "rotary_dim", D_ROTARY);
    put(sae, "n_ctx", CONTEXT);
    if let Some(ranks) = sae.get("rank_counts").and_then(Value::as_object) {
        // A quarter of the transforms; their number decides the width.
        let ranks: Map<String, Value> =
            ranks.iter().map(|(r, n)| (r.clone(), json!(n.as_u64().unwrap().div_ceil(4)))).collect();
        let total: u64 = ranks.values().filter_map(Value::as_u64).sum();
        sae["expansion_factor"] = json!(total as f64 / D_MODEL as f64);
        sae["rank_counts"] = ranks.into();
    }
    if let Some(layer) = tree.pointer_mut("/initializer/model_layer").filter(|v| !v.is_null()) {
        let of = layers.iter().position(|l| Some(*l as u64) == layer.as_u64());
        *layer = of.unwrap_or(0).into();
    }
    let factory = if tree.get("activation_factories").is_some() {
        "activation_factories"
    } else {
        "activation_factory"
    };
    let factories = match &mut tree[factory] {
        Value::Array(list) => list.iter_mut().collect(),
        one => vec![one],
    };
    for factory in factories {
        let whole = factory["target"] == "activations-2d";
        factory["batch_size"] = (if whole { ROWS / CONTEXT } else { ROWS }).into();
        factory["context_size"] = CONTEXT.into();
        factory["model_batch_size"] = 8.into();
        put(factory, "buffer_size", 4 * ROWS);
    }
    if tree.get("trainer").is_some() {
        let trainer = &mut tree["trainer"];
        trainer["total_training_tokens"] = (STEPS * ROWS).into();
        trainer["lr_warm_up_steps"] = 1.into();
        trainer["log_frequency"] = 2.into();
        trainer["snapshot_frequency"] = 3.into();
    }
    if tree.get("eval").is_some_and(Value::is_object) {
        tree["eval"] = json!({"total_eval_tokens": 2 * ROWS, "downstream_tokens": 2 * ROWS});
    }
    tree["model"] =
        json!({"model_from_pretrained_path": assets, "prepend_bos": tree["model"]["prepend_bos"] != false});
    for (_, data) in tree["datasets"].as_object_mut().expect("a table of data sets") {
        *data = json!({"dataset_name_or_path": assets.join("text.jsonl")});
    }
    tree
}

#[test]
fn every_example_is_planned_as_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    for (name, tree) in examples() {
        let command = command(&tree);
        if command != "evaluate" {
            let path = root().join("examples").join(&name);
            let shown = run(dir.path(), &[command, &path.display().to_string(), "--plan"]);
            assert!(shown.contains("memory "), "{name}: {shown}");
        }
    }
}

#[test]
fn every_example_runs_on_the_built_in_model() {
    let dir = tempfile::tempdir().unwrap();
    let assets = root().join("assets/quickstart");
    let mut trained = 0;
    for (name, tree) in examples() {
        let (command, settings) = (command(&tree), shrink(tree, &assets));
        let file = format!("{name}.json");
        fs::write(dir.path().join(&file), settings.to_string()).unwrap();
        let shown = run(dir.path(), &[command, &file]);
        println!("{command} {name}: {}", shown.lines().next().unwrap_or_default());
        match command {
            "evaluate" => assert!(shown.contains("explained variance"), "{name}: {shown}"),
            "sweep" => assert!(!shown.contains("failed"), "{name}: {shown}"),
            _ => {
                let out = dir.path().join(settings["trainer"]["exp_result_path"].as_str().unwrap());
                assert!(out.join("sae_weights.safetensors").is_file(), "{name} left no dictionary: {shown}");
                let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
                assert_eq!(log.lines().count() as u64, STEPS / 2, "{name}: {log}");
                trained += 1;
            }
        }
    }
    assert!(trained >= 2, "only {trained} examples train");
}
