//! Language models beyond the golden values: replacement at every hook, early stops, weight files in pieces, and errors that name what
//! is wrong.

use lm_saes::{
    lm::{Edit, Lm, Run, Tokens},
    settings::{DTypeName, LanguageModelSettings},
    tensorfile::{OutTensor, Precision, TensorFile, write},
};
use lm_saes_runtime::{MapKind, Queue, Tensor};
use lm_saes_tests::{golden, queue};
use serde_json::{Value, json};
use std::{fs, path::Path};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lm");

const PROMPT: Tokens<'_> = Tokens { ids: &[5, 9, 33, 120, 7, 7, 64, 2], batch: 2, len: 4, mask: None };
const OTHER: Tokens<'_> = Tokens { ids: &[8, 1, 90, 14, 77, 3, 16, 55], batch: 2, len: 4, mask: None };

fn load(q: &mut Queue, path: &Path) -> lm_saes::Result<Lm> {
    Lm::load(q, path, &LanguageModelSettings::default())
}

fn logits(q: &mut Queue, lm: &Lm, tokens: &Tokens<'_>, edit: Option<Edit<'_>>) -> Vec<f32> {
    let out = lm.run(q, tokens, Run { capture: &[], edit, logits: true }).unwrap();
    q.download(&out.logits.unwrap()).unwrap()
}

fn largest_difference(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Every hook point of a model.
fn hooks(lm: &Lm) -> Vec<String> {
    let a = lm.architecture();
    let outer = a.outer_hooks().into_iter().flatten().map(|h| h.0.to_string());
    let blocks = (0..a.n_layers)
        .flat_map(|i| a.block_hooks().into_iter().map(move |(hook, _)| format!("blocks.{i}.{hook}")));
    outer.chain(blocks).collect()
}

#[test]
fn at_every_hook_of_every_family_a_replacement_changes_the_logits_and_an_idle_one_does_not() {
    let mut q = queue();
    for case in golden::discover().remove("lm").unwrap() {
        let lm = load(&mut q, &case.path("model")).unwrap();
        let plain = logits(&mut q, &lm, &PROMPT, None);
        for name in hooks(&lm) {
            let hook = [name.as_str()];
            let mut idle = |_: &mut Queue, _: &str, _: &mut Tensor| Ok(());
            let same = logits(&mut q, &lm, &PROMPT, Some(Edit { hooks: &hook, apply: &mut idle }));
            let d = largest_difference(&plain, &same);
            assert!(d < 1e-4, "{}: an idle edit at {name} moved the logits by {d}", case.name);

            let mut calls = 0;
            let mut bend = |q: &mut Queue, at: &str, t: &mut Tensor| {
                assert_eq!(at, name);
                calls += 1;
                // Not affine alone: norms undo that.
                q.map_in_place(MapKind::Affine, 0.5, 0.1, &mut *t)?;
                Ok(q.map_in_place(MapKind::Relu, 0.0, 0.0, t)?)
            };
            let bent = logits(&mut q, &lm, &PROMPT, Some(Edit { hooks: &hook, apply: &mut bend }));
            assert_eq!(calls, 1, "{}: {name}", case.name);
            let d = largest_difference(&plain, &bent);
            assert!(d > 1e-4, "{}: an edit at {name} moved the logits by {d} only", case.name);
        }
    }
}

#[test]
fn a_residual_stream_taken_from_another_prompt_gives_that_prompts_logits_and_losses() {
    let mut q = queue();
    let lm = load(&mut q, &Path::new(FIXTURE).join("gpt_neox_parallel/model")).unwrap();
    let hook = ["blocks.1.hook_resid_pre"];
    let mut taken = lm.run(&mut q, &OTHER, Run { capture: &hook, ..Run::default() }).unwrap();
    let donor = taken.captured.remove(hook[0]).unwrap();
    let mut graft = |q: &mut Queue, _: &str, t: &mut Tensor| Ok(q.copy(&donor, t)?);
    let grafted = logits(&mut q, &lm, &PROMPT, Some(Edit { hooks: &hook, apply: &mut graft }));
    let want = logits(&mut q, &lm, &OTHER, None);
    assert!(largest_difference(&grafted, &want) < 1e-5);

    // Same targets, other stream: the losses are those of the grafted logits.
    let losses = lm.losses(&mut q, &PROMPT, Some(Edit { hooks: &hook, apply: &mut graft })).unwrap();
    let d_vocab = lm.architecture().d_vocab;
    for (i, loss) in losses.iter().enumerate() {
        let row = &want[i * d_vocab..(i + 1) * d_vocab];
        let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
        let expected = if i % PROMPT.len == PROMPT.len - 1 {
            0.0
        } else {
            sum.ln() - f64::from(row[PROMPT.ids[i + 1] as usize])
        };
        assert!((f64::from(*loss) - expected).abs() < 1e-4, "position {i}: {loss} instead of {expected}");
    }
}

#[test]
fn captures_see_the_replacement_and_shape_changing_replacements_are_refused() {
    let mut q = queue();
    let lm = load(&mut q, &Path::new(FIXTURE).join("gpt2/model")).unwrap();
    let hook = ["blocks.0.hook_mlp_out"];
    let mut zero = |q: &mut Queue, _: &str, t: &mut Tensor| Ok(q.fill(t, 0.0)?);
    let after = ["blocks.0.hook_mlp_out", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"];
    let edit = Some(Edit { hooks: &hook, apply: &mut zero });
    let out = lm.run(&mut q, &PROMPT, Run { capture: &after, edit, logits: false }).unwrap();
    let values: Vec<Vec<f32>> = after.iter().map(|h| q.download(&out.captured[*h]).unwrap()).collect();
    assert!(values[0].iter().all(|&v| v == 0.0));
    assert_eq!(values[1], values[2]);

    let mut shrink = |q: &mut Queue, _: &str, t: &mut Tensor| {
        *t = q.zeros(1, 1, lm_saes_runtime::DType::F32)?;
        Ok(())
    };
    let edit = Some(Edit { hooks: &hook, apply: &mut shrink });
    let error = lm.run(&mut q, &PROMPT, Run { capture: &[], edit, logits: true }).err().unwrap().to_string();
    assert!(error.contains("blocks.0.hook_mlp_out"), "{error}");
}

#[test]
fn the_forward_stops_after_the_last_hook_wanted() {
    let mut q = queue();
    let dir = copy_of("llama_gqa");
    let whole = load(&mut q, dir.path()).unwrap();
    set_config(dir.path(), "num_hidden_layers", json!(1));
    let cut = load(&mut q, dir.path()).unwrap();
    let mut run = |lm: &Lm, capture: &[&str]| {
        let before = q.launches();
        let mut out = lm.run(&mut q, &PROMPT, Run { capture, ..Run::default() }).unwrap();
        let launched = q.launches() - before;
        let last = out.captured.remove(*capture.last().unwrap()).unwrap();
        (launched, q.download::<f32>(&last).unwrap())
    };
    // Order and repetition of the names do not matter.
    let names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post"];
    let (launches, values) = run(&whole, &names);
    assert_eq!((launches, &values), (run(&cut, &names).0, &run(&cut, &names).1));
    assert_eq!(launches, run(&whole, &[names[1], names[0], names[1]]).0);
    assert!(run(&whole, &["blocks.0.attn.hook_q"]).0 < launches);
    assert!(launches < run(&whole, &["blocks.1.hook_resid_pre", "blocks.1.attn.hook_q"]).0);
    assert_eq!(run(&whole, &["hook_embed"]).0, 1, "the embedding needs one gather");
}

#[test]
fn a_hook_that_does_not_exist_is_answered_with_those_that_do() {
    let mut q = queue();
    let lm = load(&mut q, &Path::new(FIXTURE).join("gpt_neox_parallel/model")).unwrap();
    for wrong in [
        "blocks.2.hook_resid_post",
        "blocks.0.hook_resid_mid",
        "blocks.00.hook_resid_post",
        "hook_pos_embed",
        "resid",
    ] {
        let error = lm.run(&mut q, &PROMPT, Run { capture: &[wrong], ..Run::default() }).err().unwrap();
        let text = error.to_string();
        assert!(
            text.contains(wrong) && text.contains("hook_resid_post") && text.contains("0 to 1"),
            "{text}"
        );
    }
    assert_eq!(lm.hook_width("blocks.1.mlp.hook_post").unwrap(), 128);
}

#[test]
fn tokens_without_a_place_in_the_model_are_refused_before_anything_runs() {
    let mut q = queue();
    let lm = load(&mut q, &Path::new(FIXTURE).join("gpt2/model")).unwrap();
    let long = vec![1; 33];
    for (tokens, what) in [
        (Tokens { ids: &[1, 192], batch: 1, len: 2, mask: None }, "192"),
        (Tokens { ids: &long, batch: 1, len: 33, mask: None }, "at most 32"),
        (Tokens { ids: &[1, 2, 3], batch: 2, len: 2, mask: None }, "2 sequences of 2"),
        (Tokens { ids: &[], batch: 0, len: 4, mask: None }, "0 sequences"),
        (Tokens { ids: &[1, 2], batch: 1, len: 2, mask: Some(&[1]) }, "mask"),
    ] {
        let error =
            lm.run(&mut q, &tokens, Run { logits: true, ..Run::default() }).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
    // The queue is still good.
    assert_eq!(logits(&mut q, &lm, &PROMPT, None).len(), 8 * 192);
}

#[test]
fn shards_and_files_saved_without_the_head_give_the_same_model() {
    let mut q = queue();
    let whole = load(&mut q, &Path::new(FIXTURE).join("gpt2/model")).unwrap();
    let want = logits(&mut q, &whole, &PROMPT, None);
    let dir = copy_of("gpt2");
    let all = tensors(&dir.path().join("model.safetensors"));
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let short = |t: &OutTensor| OutTensor { name: t.name.replace("transformer.", ""), ..copy_tensor(t) };
    let all: Vec<OutTensor> = all.iter().map(short).collect();
    let (first, second) = all.split_at(7);
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        write(&dir.path().join(file), part, Precision::F32, &[]).unwrap();
        map.extend(part.iter().map(|t| (t.name.clone(), json!(file))));
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let lm = load(&mut q, dir.path()).unwrap();
    assert_eq!(logits(&mut q, &lm, &PROMPT, None), want);

    fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(load(&mut q, dir.path()).err().unwrap().to_string().contains("b.safetensors"));
    map.values_mut().for_each(|v| *v = json!("../b.safetensors"));
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    assert!(load(&mut q, dir.path()).err().unwrap().to_string().contains("is not a file name"));
}

#[test]
fn low_precision_weights_give_nearly_the_same_logits() {
    let mut q = queue();
    let path = Path::new(FIXTURE).join("llama_gqa/model");
    let want = {
        let lm = load(&mut q, &path).unwrap();
        logits(&mut q, &lm, &PROMPT, None)
    };
    for (dtype, within) in [(DTypeName::Bf16, 0.1), (DTypeName::F16, 0.01)] {
        let settings = LanguageModelSettings { dtype, ..Default::default() };
        let lm = Lm::load(&mut q, &path, &settings).unwrap();
        let d = largest_difference(&logits(&mut q, &lm, &PROMPT, None), &want);
        assert!(d > 0.0 && d < within, "{dtype}: {d}");
    }
}

#[test]
fn what_is_wrong_with_a_model_is_named_by_file_and_key_or_tensor() {
    let mut q = queue();
    let mut error = |spoil: &dyn Fn(&Path)| {
        let dir = copy_of("llama_gqa");
        spoil(dir.path());
        load(&mut q, dir.path()).err().expect("the model is spoiled").to_string()
    };
    let weights = |dir: &Path, change: &dyn Fn(&mut Vec<OutTensor>)| {
        let file = dir.join("model.safetensors");
        let mut all = tensors(&file);
        change(&mut all);
        write(&file, &all, Precision::F32, &[]).unwrap();
    };
    type Spoiled<'a> = (&'a dyn Fn(&Path), &'a [&'a str]);
    let cases: [Spoiled<'_>; 9] = [
        (&|d| set_config(d, "model_type", json!("rwkv")), &["rwkv", "gpt_neox", "llama", "gpt2"]),
        (&|d| set_config(d, "hidden_size", Value::Null), &["config.json", "hidden_size", "missing"]),
        (&|d| set_config(d, "num_attention_heads", json!(-4)), &["num_attention_heads", "-4"]),
        (&|d| set_config(d, "num_key_value_heads", json!(3)), &["4 heads", "3 key-value heads"]),
        (&|d| set_config(d, "hidden_act", json!("mish")), &["hidden_act", "mish", "silu"]),
        (&|d| set_config(d, "rope_scaling", json!({"rope_type": "yarn", "factor": 2})), &["yarn", "llama3"]),
        (&|d| set_config(d, "num_hidden_layers", json!(3)), &["model.safetensors", "model.layers.2."]),
        (
            &|d| set_config(d, "intermediate_size", json!(81)),
            &["mlp.gate_proj.weight", "[80, 48]", "[81, 48]"],
        ),
        (
            &|d| weights(d, &|all| all.retain(|t| t.name != "lm_head.weight")),
            &["model.safetensors", "lm_head.weight", "missing"],
        ),
    ];
    for (spoil, parts) in cases {
        let text = error(spoil);
        assert!(parts.iter().all(|p| text.contains(p)), "{text}: should name {parts:?}");
    }
    let text = error(&|d| fs::write(d.join("config.json"), "{\"model_type\": ").unwrap());
    assert!(text.contains("config.json") && text.contains("not JSON"), "{text}");
    let text = error(&|d| fs::remove_file(d.join("model.safetensors")).unwrap());
    assert!(text.contains("model.safetensors.index.json"), "{text}");
    let text = error(&|d| {
        let bytes = fs::read(d.join("model.safetensors")).unwrap();
        fs::write(d.join("model.safetensors"), &bytes[..bytes.len() - 9]).unwrap();
    });
    assert!(text.contains("model.safetensors") && text.contains("not a complete"), "{text}");
}

/// A writable copy of a fixture's model directory.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = Path::new(FIXTURE).join(name).join("model").join(file);
        fs::write(dir.path().join(file), fs::read(from).unwrap()).unwrap();
    }
    dir
}

fn set_config(dir: &Path, key: &str, value: Value) {
    let path = dir.join("config.json");
    let mut json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
}

fn tensors(path: &Path) -> Vec<OutTensor> {
    let file = TensorFile::open(path).unwrap();
    let read = |name: String| {
        let (shape, values) = file.f32(&name).unwrap();
        OutTensor { name, shape, values }
    };
    file.list().into_iter().map(|t| read(t.name)).collect()
}

fn copy_tensor(t: &OutTensor) -> OutTensor {
    OutTensor { name: t.name.clone(), shape: t.shape.clone(), values: t.values.clone() }
}
