//! Settings of an evaluation from whatever describes a dictionary and its text.

use super::{EvalSettings, EvaluateSettings, analyze::of_dictionary, apply_override, from_tree, read_tree};
use crate::{Result, dictionary::checkpoint};
use serde_json::{Value, json};
use std::path::Path;

/// Tokens evaluated where nothing says how many.
const DEFAULT_TOKENS: u64 = 65_536;

/// Settings of an evaluation from a path: evaluation settings; training settings, whose result is then meant, on the text it was
/// trained on; or the folder of a dictionary, which knows its model and how its text was cut, with `text` to look at.
///
/// # Errors
/// Whatever is missing, by key.
pub fn load_evaluation(path: &Path, text: Option<&Path>, overrides: &[String]) -> Result<EvaluateSettings> {
    let mut tree = match path.is_dir() {
        true => of_folder(path)?,
        false => read_tree(path)?,
    };
    if tree.get("trainer").is_some() {
        tree = of_training(&tree);
    }
    if let Some(text) = text {
        tree["datasets"] = json!({ "text": { "dataset_name_or_path": text } });
        tree["activation_factory"]["sources"] = json!([{ "type": "dataset", "name": "text" }]);
    }
    for o in overrides {
        apply_override(&mut tree, o)?;
    }
    from_tree(&tree)
}

fn few() -> Value {
    json!(EvalSettings { total_eval_tokens: DEFAULT_TOKENS, downstream_tokens: DEFAULT_TOKENS })
}

fn of_folder(path: &Path) -> Result<Value> {
    let mut tree = of_dictionary(path)?;
    let settings = checkpoint::load_settings(path)?;
    let mut hooks = settings.hook_points_in();
    hooks.extend(settings.hook_points_out());
    let mut seen = std::collections::BTreeSet::new();
    hooks.retain(|h| seen.insert(h.clone()));
    tree["activation_factory"]["hook_points"] = json!(hooks);
    if let Some(map) = tree.as_object_mut() {
        map.shift_remove("analyzer");
        map.insert("eval".into(), few());
    }
    Ok(tree)
}

fn of_training(training: &Value) -> Value {
    let result = training["trainer"].get("exp_result_path").cloned().unwrap_or_else(|| json!("results"));
    let mut tree = json!({ "sae": { "pretrained_name_or_path": result }, "eval": few() });
    let kept = [
        "sae_name",
        "sae_series",
        "model",
        "model_name",
        "datasets",
        "device_type",
        "activation_factory",
        "activation_factories",
    ];
    for key in kept {
        if let Some(value) = training.get(key) {
            tree[key] = value.clone();
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_settings_become_those_of_an_evaluation_of_the_result() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.toml");
        std::fs::write(&path, include_str!("fixtures/pythia_topk.toml")).unwrap();
        let set = ["eval.total_eval_tokens=77".to_string()];
        let s = load_evaluation(&path, Some(Path::new("other.jsonl")), &set).unwrap();
        s.check().unwrap();
        assert_eq!((s.sae_name.as_str(), s.eval.total_eval_tokens), ("pythia-160m-sae", 77));
        assert_eq!(s.datasets["text"].dataset_name_or_path, "other.jsonl");
    }
}
