//! Dictionaries exchanged with other programs by the command: converted, looked up by name, prepared for the hub. Nothing is asked
//! of any network.

use lm_saes::tensorfile::TensorFile;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Runs the command without a token and with a hub that nobody answers for.
fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lm-saes"));
    for variable in
        ["HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]
    {
        command.env_remove(variable);
    }
    command
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .env("HF_HOME", dir.join("hub"))
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("LM_SAES_REGISTRY", dir.join("table.tsv.gz"))
        .output()
        .expect("the binary starts")
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let out = run(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn failure(dir: &Path, args: &[&str]) -> String {
    let out = run(dir, args);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !message.contains("panicked"), "{args:?}: {message}");
    message
}

/// A dictionary that SAELens wrote.
fn foreign() -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/saelens/abstopk");
    path.to_str().expect("a path in UTF-8").into()
}

#[test]
fn a_dictionary_goes_to_another_form_and_back_and_what_a_form_lacks_is_refused_with_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let made = json(dir, &["convert", &foreign(), "ours", "--json"]);
    assert_eq!((&made["d_sae"], &made["sae_type"]), (&48.into(), &"sae".into()), "{made}");
    assert_eq!(made["hook_points_in"][0], "blocks.1.hook_resid_post");
    json(dir, &["convert", "ours", "theirs", "--to-format", "saelens", "--json"]);
    let cfg =
        |path: &Path| -> Value { serde_json::from_slice(&fs::read(path.join("cfg.json")).unwrap()).unwrap() };
    let (first, again) = (cfg(Path::new(&foreign())), cfg(&dir.join("theirs")));
    for key in ["architecture", "k", "d_in", "d_sae", "dtype", "rescale_acts_by_decoder_norm"] {
        assert_eq!(again[key], first[key], "{key} in {again}");
    }
    for key in ["model_name", "hook_name"] {
        assert_eq!(again["metadata"][key], first["metadata"][key], "{key} in {again}");
    }
    json(dir, &["convert", "theirs", "again", "--json"]);
    let weights = |name: &str| fs::read(dir.join(name).join("sae_weights.safetensors")).unwrap();
    let tensors = |name: &str| {
        let file = TensorFile::open(dir.join(name).join("sae_weights.safetensors")).unwrap();
        file.list().into_iter().map(|t| (file.f32(&t.name).unwrap(), t.name)).collect::<Vec<_>>()
    };
    assert_eq!(tensors("again").len(), 4);
    assert!(tensors("again") == tensors("ours"), "there and back is the same dictionary, bit by bit");

    let e = failure(dir, &["convert", "ours", "other", "--to-format", "sparsify"]);
    assert!(e.contains("sparsify") && e.contains("act_fn"), "{e}");
    assert!(!dir.join("other").exists(), "what is refused leaves nothing behind");
    let before = weights("theirs");
    let e = failure(dir, &["convert", "ours", "theirs"]);
    assert!(e.contains("theirs") && weights("theirs") == before, "{e}");
    let e = failure(dir, &["convert", "ours", "other", "--to-format", "saelense"]);
    assert!(e.contains("saelense") && e.contains("dictionary-learning"), "{e}");
    let e = failure(dir, &["convert", "nowhere/at/all", "other"]);
    assert!(e.contains("nowhere/at/all"), "{e}");
}

#[test]
fn published_names_are_known_offline_and_a_newer_list_takes_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let name = "gemma-scope-2-1b-pt-res-all:layer_12_width_16k_l0_small";
    let found = json(dir, &["registry", name, "--json"]);
    for (key, value) in [
        ("repo", "google/gemma-scope-2-1b-pt"),
        ("path", "resid_post_all/layer_12_width_16k_l0_small"),
        ("loader", "gemma_3"),
        ("hook_point_in", "blocks.12.hook_resid_post"),
    ] {
        assert_eq!(found[key], value, "{found}");
    }
    let e = failure(dir, &["registry", "gemma-scope-2-1b-pt-rse-all"]);
    assert!(e.contains("gemma-scope-2-1b-pt-res-all"), "{e}");

    let yaml = "new-release:\n  repo_id: org/new\n  model: org/model\n  conversion_func: gemma_3\n  saes:\n  - {id: layer_2_a, path: \
                resid_post/layer_2_a, l0: 7.5}\n";
    fs::write(dir.join("pretrained_saes.yaml"), yaml).unwrap();
    assert!(run(dir, &["registry", "--refresh", "pretrained_saes.yaml"]).status.success());
    assert_eq!(json(dir, &["registry", "new-release:layer_2_a", "--json"])["l0"], 7.5);
    let e = failure(dir, &["registry", name]);
    assert!(e.contains("new-release"), "the refreshed list is the one that is asked: {e}");
    let kept = fs::read(dir.join("table.tsv.gz")).unwrap();
    fs::write(dir.join("broken.yaml"), "- neither\n- releases").unwrap();
    let e = failure(dir, &["registry", "--refresh", "broken.yaml"]);
    assert!(e.contains("broken.yaml") && fs::read(dir.join("table.tsv.gz")).unwrap() == kept, "{e}");
}

#[test]
fn an_upload_can_be_seen_before_it_is_made_and_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let upload = ["upload", &foreign(), "me/saes:layer1", "--to-format", "saelens", "--license", "mit"];
    let shown = json(dir, &[&upload[..], &["--dry-run", "--json"]].concat());
    let names: Vec<&str> =
        shown["files"].as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    for name in ["layer1/cfg.json", "layer1/sae_weights.safetensors"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let card = shown["card"].as_str().unwrap();
    for part in ["license: mit", "gpt2", "blocks.1.hook_resid_post", "me/saes"] {
        assert!(card.contains(part), "{part:?} is missing from:\n{card}");
    }
    assert!(failure(dir, &upload).contains("HF_TOKEN"));
    let e = failure(dir, &["upload", &foreign(), "saes", "--dry-run"]);
    assert!(e.contains("\"saes\"") && e.contains("owner/repository"), "{e}");
}
