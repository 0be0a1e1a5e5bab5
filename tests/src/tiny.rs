//! A language model small enough for whole jobs in tests, with a tokenizer of numbered words and text made of them.

use lm_saes::{
    dictionary::{build, checkpoint},
    settings::{DTypeName, DictionarySettings, TrainSettings, apply_override, from_tree},
};
use lm_saes_runtime::RandomKind;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Width of the model.
pub const D_MODEL: usize = 48;
/// A hook point of its first layer.
pub const HOOK: &str = "blocks.0.hook_resid_post";

/// The committed Llama in `dir/model`, with a tokenizer of the words `w2` … `w191`, whose ids are their numbers, BOS 0 and
/// EOS 1.
pub fn model(dir: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/llama_gqa/model");
    let model = dir.join("model");
    fs::create_dir_all(&model).expect("a folder for the model");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), model.join(file)).expect("the committed model");
    }
    let mut vocab = serde_json::Map::new();
    vocab.insert("<s>".into(), 0.into());
    vocab.insert("</s>".into(), 1.into());
    vocab.extend((2..192).map(|i| (format!("w{i}"), i.into())));
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "</s>"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    let special = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    fs::write(model.join("tokenizer_config.json"), special).expect("the tokenizer's settings");
    model
}

/// The model, and `lines` lines of text in `dir/text.txt`.
pub fn world(dir: &Path, lines: usize) {
    model(dir);
    let mut text = String::new();
    for line in 0..lines {
        let words: Vec<String> = (0..8 + line * 5 % 23)
            .map(|i| format!("w{}", 2 + (line * 31 + i * 17 + i * line % 13) % 190))
            .collect();
        writeln!(text, "{}", words.join(" ")).expect("a string grows");
    }
    fs::write(dir.join("text.txt"), text).expect("a text");
}

/// A dictionary with random weights in `dir/dictionary`; returns the hook points it needs.
pub fn dictionary(dir: &Path, settings: &Value) -> Vec<String> {
    let q = &mut crate::queue();
    let settings: DictionarySettings = from_tree(settings).expect("settings that parse");
    let mut d = build(q, &settings).expect("a dictionary");
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 0.5), 11 + i as u64, 0, &mut p.value).expect("random weights");
    }
    let hooks = [d.hook_points_in(), d.hook_points_out()].concat();
    let norms: BTreeMap<String, f32> =
        hooks.into_iter().enumerate().map(|(i, hook)| (hook, 2.5 + i as f32)).collect();
    let captured = norms.keys().cloned().collect();
    d.set_norms(norms);
    checkpoint::save(q, &*d, &dir.join("dictionary"), DTypeName::F32, &Map::new()).expect("a checkpoint");
    captured
}

/// Settings of a training job of a hundred steps in `dir` that writes to `dir/<result>`; `more` overrides by dotted key.
pub fn job(dir: &Path, result: &str, more: &[&str]) -> Value {
    let mut tree = json!({
        "sae_name": "tiny", "sae_series": "test", "model_name": "tiny-llama", "device_type": "cpu", "eval": true,
        "sae": {"sae_type": "sae", "hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D_MODEL,
                "expansion_factor": 4, "act_fn": "topk", "top_k": 8},
        "initializer": {"grid_search_init_norm": true},
        "trainer": {"lr": 2e-3, "initial_k": 8, "lr_warm_up_steps": 10, "total_training_tokens": 6400,
                    "log_frequency": 20, "eval_frequency": 50, "n_checkpoints": 3, "check_point_save_mode": "linear",
                    "snapshot_frequency": 10, "exp_result_path": dir.join(result)},
        "model": {"model_name": "tiny-llama", "model_from_pretrained_path": dir.join("model")},
        "datasets": {"text": {"dataset_name_or_path": dir.join("text.txt"), "sample_by": "line"}},
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text", "repeat": true}], "target": "activations-1d",
            "hook_points": [HOOK], "batch_size": 64, "buffer_size": 256, "context_size": 24,
            "model_batch_size": 4, "buffer_shuffle": {"perm_seed": 3},
        },
    });
    more.iter().for_each(|o| apply_override(&mut tree, o).expect("an override"));
    tree
}

/// [`job`] read.
pub fn settings(dir: &Path, result: &str, more: &[&str]) -> TrainSettings {
    from_tree(&job(dir, result, more)).expect("settings that parse")
}
