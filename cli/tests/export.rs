//! Every kind of dictionary trained for a few steps, analysed and shown; and everything an export writes, read back by other
//! means than those that wrote it.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const D: u64 = 128;

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

fn failure(dir: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_lm-saes")).current_dir(dir).args(args).output().unwrap();
    assert!(!out.status.success(), "{args:?} should fail");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn as_json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&run(dir, args)).unwrap()
}

/// The quickstart's model and text in a fresh folder.
fn project() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/quickstart");
    fs::create_dir_all(dir.path().join("model")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(assets.join(file), dir.path().join("model").join(file)).unwrap();
    }
    let text = fs::read_to_string(assets.join("text.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().take(40).collect();
    fs::write(dir.path().join("text.jsonl"), lines.join("\n")).unwrap();
    dir
}

/// A training job of a few steps with this dictionary, in `dir/NAME.json`.
fn job(dir: &Path, name: &str, sae: &Value, more: &Value) -> PathBuf {
    let mut hooks = BTreeSet::new();
    for key in ["hook_point_in", "hook_point_out"] {
        hooks.extend(sae[key].as_str().map(str::to_owned));
    }
    for key in ["hook_points_in", "hook_points_out", "hook_points"] {
        let list = sae[key].as_array().into_iter().flatten();
        hooks.extend(list.filter_map(|h| h.as_str().map(str::to_owned)));
    }
    let mut tree = json!({
        "sae_name": name, "sae_series": "all", "model_name": "EleutherAI/tiny-neox", "device_type": "cpu", "sae": sae,
        "initializer": {"init_encoder_with_decoder_transpose": false, "grid_search_init_norm": false},
        "trainer": {"lr": 1e-3, "total_training_tokens": 2048, "exp_result_path": name, "lr_warm_up_steps": 1},
        "model": {"model_name": "tiny-neox", "model_from_pretrained_path": "model"},
        "datasets": {"text": {"dataset_name_or_path": "text.jsonl"}},
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text", "repeat": true}], "target": "activations-2d",
            "hook_points": hooks, "batch_size": 4, "context_size": 64, "model_batch_size": 4,
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        tree["trainer"][key] = value.clone();
    }
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, tree.to_string()).unwrap();
    path
}

fn sae(change: Value) -> Value {
    let mut all = json!({"d_model": D, "expansion_factor": 1, "act_fn": "topk", "top_k": 8});
    for (key, value) in change.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

/// One of each kind: name, dictionary, what its trainer needs beside.
fn kinds() -> Vec<(&'static str, Value, Value)> {
    let resid = "blocks.1.hook_resid_post";
    let mlp =
        |layers: &[usize], of: &str| layers.iter().map(|l| format!("blocks.{l}.{of}")).collect::<Vec<_>>();
    let none = json!({});
    let k = json!({"initial_k": 8});
    vec![
        (
            "plain",
            sae(json!({"sae_type": "sae", "hook_point_in": resid, "hook_point_out": resid})),
            k.clone(),
        ),
        (
            "transcoder",
            sae(json!({"sae_type": "sae", "act_fn": "relu", "hook_point_in": "blocks.1.ln2.hook_normalized",
                       "hook_point_out": "blocks.1.hook_mlp_out"})),
            json!({"sparsity_loss_type": "tanh", "l1_coefficient": 0.1}),
        ),
        (
            "gated",
            sae(
                json!({"sae_type": "gated", "act_fn": "relu", "hook_point_in": resid, "hook_point_out": resid}),
            ),
            json!({"sparsity_loss_type": "power", "l1_coefficient": 0.1}),
        ),
        (
            "matryoshka",
            sae(
                json!({"sae_type": "matryoshka", "widths": [16, 128], "hook_point_in": resid, "hook_point_out": resid}),
            ),
            k.clone(),
        ),
        (
            "lorsa",
            sae(json!({"sae_type": "lorsa", "hook_point_in": "blocks.1.ln1.hook_normalized",
                       "hook_point_out": "blocks.1.hook_attn_out", "n_qk_heads": 8, "d_qk_head": 32, "rotary_dim": 8,
                       "rotary_adjacent_pairs": false, "n_ctx": 64})),
            k.clone(),
        ),
        (
            "clt",
            sae(json!({"sae_type": "clt", "hook_points_in": mlp(&[0, 1, 2], "ln2.hook_normalized"),
                       "hook_points_out": mlp(&[0, 1, 2], "hook_mlp_out")})),
            k.clone(),
        ),
        ("cross", sae(json!({"sae_type": "crosscoder", "hook_points": mlp(&[0, 2], "hook_resid_post")})), k),
        (
            "molt",
            sae(json!({"sae_type": "molt", "act_fn": "relu", "rank_counts": {"1": 64, "2": 48, "4": 16},
                       "hook_point_in": "blocks.1.ln2.hook_normalized", "hook_point_out": "blocks.1.hook_mlp_out"})),
            none,
        ),
    ]
}

#[test]
fn every_kind_is_trained_analysed_shown_and_exported() {
    let dir = project();
    let dir = dir.path();
    for (name, settings, more) in kinds() {
        job(dir, name, &settings, &more);
        let file = format!("{name}.json");
        run(dir, &["train", &file]);
        let args = ["analyze", &file, "--tokens", "4096", "--store", "plan.db", "--plan", "--json"];
        let plan = as_json(dir, &args);
        assert_eq!(
            (&plan["obstacles"], &plan["d_sae"], &plan["tokens"]),
            (&json!([]), &json!(D), &json!(4096))
        );
        assert_eq!(plan["layers"], if name == "clt" { 3 } else { 1 }, "{name}");
        let parts = plan["memory"].as_array().unwrap();
        let sum: u64 = parts.iter().map(|m| m["bytes"].as_u64().unwrap()).sum();
        assert_eq!(plan["total_bytes"].as_u64(), Some(sum), "{name}");
        assert!(!dir.join("plan.db").exists(), "a plan writes nothing");
        let args = ["analyze", &file, "--tokens", "4096", "--store", "all.db", "--json"];
        let done = as_json(dir, &args);
        assert_eq!(done["complete"], true, "{name}");
        assert!(done["alive"].as_u64().unwrap() > 0, "{name}: {done}");
        let names: Vec<String> = serde_json::from_value(done["sae_names"].clone()).unwrap();
        let want: Vec<String> = match name {
            "clt" => (0..3).map(|l| format!("clt-L{l}")).collect(),
            _ => vec![name.into()],
        };
        assert_eq!(names, want);
        for (at, shown) in names.iter().enumerate() {
            let args = ["show", "feature", shown, "random", "--store", "all.db", "--json"];
            let a = &as_json(dir, &args)["analysis"];
            assert!(a["act_times"].as_u64().unwrap() > 0, "{shown}");
            let heads = match name {
                "clt" => 3 - at,
                "cross" => 2,
                _ => 1,
            };
            assert_eq!(a["decoder_norms"].as_array().unwrap().len(), heads, "{shown}");
            assert_eq!(a["neighbours"].as_array().unwrap().len(), 10, "{shown}");
            assert_eq!(a["logits"].is_null(), name == "molt", "{shown}");
            let folder = format!("np/{shown}");
            let args = ["export", "neuronpedia", shown, "--store", "all.db", "--alive", "--out", &folder];
            run(dir, &args);
        }
    }
    let listed = as_json(dir, &["list", "--store", "all.db", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 10);
    exports_are_right(dir);
}

fn exports_are_right(dir: &Path) {
    let feature = |name: &str, i: u64| {
        as_json(dir, &["show", "feature", name, &i.to_string(), "--store", "all.db", "--json"])
    };
    lines(dir, feature);
    tensors(dir, feature);
    neuronpedia(dir, feature);
    pages(dir, feature);
    let e =
        failure(dir, &["export", "json", "plain", "--store", "all.db", "--features", "9-3", "--out", "x"]);
    assert!(e.contains("9-3") && e.contains("0-99,512"), "{e}");
    let e =
        failure(dir, &["export", "json", "plain", "--store", "all.db", "--features", "4000", "--out", "x"]);
    assert!(e.contains("none of the chosen features"), "{e}");
    let e = failure(dir, &["export", "json", "plain", "--store", "all.db", "-a", "other", "--out", "x"]);
    assert!(e.contains("it has: default"), "{e}");
    assert!(!dir.join("x").exists());
}

fn lines(dir: &Path, feature: impl Fn(&str, u64) -> Value) {
    run(
        dir,
        &["export", "json", "plain", "--store", "all.db", "--features", "3,7-9", "--out", "plain.jsonl"],
    );
    let text = fs::read_to_string(dir.join("plain.jsonl")).unwrap();
    let all: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(all[0]["dictionary"]["key"]["name"], "plain");
    assert_eq!(all[0]["analysis"]["name"], "default");
    for (line, i) in all[1..].iter().zip([3, 7, 8, 9]) {
        assert_eq!(*line, feature("plain", i), "feature {i}");
    }
    assert_eq!(all.len(), 5);
}

fn tensors(dir: &Path, feature: impl Fn(&str, u64) -> Value) {
    for name in ["plain", "cross", "molt"] {
        let file = format!("{name}.safetensors");
        run(dir, &["export", "safetensors", name, "--store", "all.db", "--features", "5-", "--out", &file]);
        let file = lm_saes::tensorfile::TensorFile::open(dir.join(file)).unwrap();
        let n = D as usize - 5;
        let (shape, index) = file.i64("index").unwrap();
        assert_eq!((shape, index[0], index[n - 1]), (vec![n], 5, D as i64 - 1));
        let a = &feature(name, 9)["analysis"];
        assert_eq!(file.i64("act_times").unwrap().1[4] as u64, a["act_times"].as_u64().unwrap());
        assert_eq!(file.f32("max_act").unwrap().1[4], a["max_act"].as_f64().unwrap() as f32);
        let (shape, near) = file.i64("neighbours").unwrap();
        assert_eq!(shape, [n, 10]);
        for (got, want) in near[40..50].iter().zip(a["neighbours"].as_array().unwrap()) {
            assert_eq!(*got as u64, want["feature"].as_u64().unwrap());
        }
        let weights =
            lm_saes::tensorfile::TensorFile::open(dir.join(name).join("sae_weights.safetensors")).unwrap();
        if name == "molt" {
            assert!(!file.contains("W_D"));
            continue;
        }
        let (shape, got) = file.f32("W_D").unwrap();
        let (whole, all) = weights.f32("W_D").unwrap();
        let heads = if name == "cross" { 2 } else { 1 };
        assert_eq!((shape.iter().product::<usize>(), whole.len()), (heads * n * D as usize, shape.len()));
        for h in 0..heads {
            let (got, want) = (&got[h * n * D as usize..], &all[(h * D as usize + 5) * D as usize..]);
            assert_eq!(got[..n * D as usize], want[..n * D as usize], "head {h}");
        }
    }
}

fn rows(path: &Path) -> Vec<Value> {
    let mut text = String::new();
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What Neuronpedia's own exports have in their rows, for its tables Neuron, Activation, Source, SourceSet.
const NEURON: &str = "modelId layer index maxActApprox creatorId frac_nonzero freq_hist_data_bar_heights \
    freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values neuron_alignment_indices \
    neuron_alignment_l1 neuron_alignment_values correlated_neurons_indices correlated_neurons_l1 \
    correlated_neurons_pearson decoder_weights_dist neg_str neg_values pos_str pos_values sourceSetName \
    topkCosSimIndices topkCosSimValues vector vectorLabel hookName vectorDefaultSteerStrength hasVector";
const ACTIVATION: &str = "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource \
    dataIndex dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains \
    qualifyingTokenIndex";

fn neuronpedia(dir: &Path, feature: impl Fn(&str, u64) -> Value) {
    let folder = dir.join("np/lorsa/tiny-neox/1-lorsa");
    let features = rows(&folder.join("features/batch-0.jsonl.gz"));
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for row in &features {
        assert_eq!(keys(row), keys(&features[0]), "the importer takes the columns from the first line");
    }
    for key in NEURON.split_whitespace() {
        assert!(features[0].get(key).is_some(), "features have no {key}");
    }
    let acts = rows(&folder.join("activations/batch-0.jsonl.gz"));
    for key in ACTIVATION.split_whitespace() {
        assert!(acts[0].get(key).is_some(), "activations have no {key}");
    }
    assert_eq!(acts.iter().map(|a| a["id"].as_str().unwrap()).collect::<BTreeSet<_>>().len(), acts.len());
    for row in &acts {
        assert_eq!(keys(row), keys(&acts[0]));
        let values: Vec<f64> = serde_json::from_value(row["values"].clone()).unwrap();
        assert_eq!(values.len(), row["tokens"].as_array().unwrap().len());
        let most = values.iter().copied().fold(f64::MIN, f64::max);
        assert_eq!(row["maxValue"].as_f64().unwrap(), most);
        assert_eq!(values[row["maxValueTokenIndex"].as_u64().unwrap() as usize], most);
        let z = row["zIndices"].as_array().unwrap();
        assert_eq!(z[0].as_array().unwrap().len(), row["zValues"].as_array().unwrap().len());
        assert!(
            z[0].as_array()
                .unwrap()
                .iter()
                .zip(z[1].as_array().unwrap())
                .all(|(k, q)| k.as_u64() <= q.as_u64())
        );
    }
    let index = features[0]["index"].as_str().unwrap();
    let a = &feature("lorsa", index.parse().unwrap())["analysis"];
    // Rows have the digits of f64, as Python writes them; the store's numbers are f32.
    let number = |v: &Value| v.as_f64().unwrap() as f32;
    assert_eq!(number(&features[0]["maxActApprox"]), number(&a["max_act"]));
    let own: Vec<&Value> = acts.iter().filter(|r| r["index"] == index && r["binMin"].is_null()).collect();
    let top = a["samplings"][0]["samples"].as_array().unwrap();
    assert_eq!(own.len(), top.len());
    for (row, sample) in own.iter().zip(top) {
        for entry in sample["acts"].as_array().unwrap() {
            assert_eq!(number(&row["values"][entry[0].as_u64().unwrap() as usize]), number(&entry[1]));
        }
    }
    for name in ["release", "model", "sourceset", "source"] {
        let text = fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
        assert_eq!(text.lines().count(), 1);
        let _: Value = serde_json::from_str(&text).unwrap();
    }
    let args = ["export", "neuronpedia", "plain", "--store", "all.db", "--set", "../x", "--out", "np/bad"];
    assert!(failure(dir, &args).contains("source set id"));
    assert!(!dir.join("np/bad").exists());
}

fn pages(dir: &Path, feature: impl Fn(&str, u64) -> Value) {
    run(dir, &["export", "html", "plain", "--store", "all.db", "--out", "pages"]);
    let count = || fs::read_dir(dir.join("pages/features")).unwrap().count() as u64;
    assert_eq!(count(), D);
    let page = fs::read_to_string(dir.join("pages/features/9.html")).unwrap();
    let a = &feature("plain", 9)["analysis"];
    assert!(page.contains("href=\"8.html\"") && page.contains("href=\"10.html\""));
    let marks = page.matches("<mark").count();
    let acts: usize = (a["samplings"].as_array().unwrap().iter())
        .flat_map(|s| s["samples"].as_array().unwrap())
        .map(|s| s["acts"].as_array().unwrap().len())
        .sum();
    assert!(marks >= acts && acts > 0, "{marks} marks for {acts} activations");
    for near in a["neighbours"].as_array().unwrap() {
        assert!(page.contains(&format!("<a href=\"{0}.html\">{0}</a>", near["feature"])));
    }
    for name in ["index.html", "script.js", "style.css", "features.js", "features/9.html"] {
        let text = fs::read_to_string(dir.join("pages").join(name)).unwrap();
        assert!(!text.contains("http:") && !text.contains("https:"), "{name} asks somebody else");
    }
    // A smaller export leaves no pages of the larger one.
    run(dir, &["export", "html", "plain", "--store", "all.db", "--features", "0-3", "--out", "pages"]);
    assert_eq!(count(), 4);
    let e = failure(dir, &["export", "html", "plain", "--store", "all.db", "--out", "plain"]);
    assert!(e.contains("holds something else"), "{e}");
}
