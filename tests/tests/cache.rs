//! Activations on disk: what is written, that reading gives the batches the model would have given, and what is refused.

use lm_saes::{
    activations::Batch,
    data::{ChunkReader, Overflow, TokenPolicy},
    runners::{self, GenerateReport, Start, Workbench},
    settings::{ActivationFactorySettings, GenerateSettings, TrainSettings, from_tree},
    tensorfile::TensorFile,
    training::{Advance, Observer, Progress, Silent, snapshot},
};
use lm_saes_backends::registry;
use lm_saes_tests::{
    queue,
    tiny::{D_MODEL, HOOK, job, settings, world},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

const OTHER: &str = "blocks.0.hook_mlp_out";

fn generating(dir: &Path, set: Value) -> GenerateSettings {
    let train = job(dir, "out", &[]);
    let mut tree = json!({
        "model": train["model"], "model_name": "tiny", "dataset_name": "text",
        "dataset": train["datasets"].as_object().unwrap().values().next().unwrap(),
        "hook_points": [HOOK, OTHER], "output_dir": dir.join("cache"), "device_type": "cpu",
        "batch_size": 4, "model_batch_size": 4, "context_size": 24, "total_tokens": 1200,
    });
    tree.as_object_mut().unwrap().extend(set.as_object().unwrap().clone());
    from_tree(&tree).unwrap()
}

fn generate(s: &GenerateSettings, start: Start) -> lm_saes::Result<GenerateReport> {
    runners::generate(s, &registry(), &mut Silent, start)
}

/// All batches of a factory on the tiny model, as they are on the host.
fn batches(dir: &Path, factory: Value) -> lm_saes::Result<Vec<(Vec<Vec<f32>>, Batch)>> {
    let train: TrainSettings = settings(dir, "out", &[]);
    let factory: ActivationFactorySettings = from_tree(&factory)?;
    let model = train.model.as_ref().unwrap();
    let mut bench = Workbench::open(&registry(), "cpu", model, &factory, &train.datasets, &mut Silent)?;
    let (mut stream, mut all) = (bench.stream()?, Vec::new());
    while let Some(batch) = stream.next_batch(&mut bench.q, &*bench.lm)? {
        let acts = batch.acts.iter().map(|a| bench.q.download(a).unwrap()).collect();
        all.push((acts, batch));
        if all.len() == 200 {
            break;
        }
    }
    Ok(all)
}

fn factory(dir: &Path, cached: bool, set: Value) -> Value {
    let name = job(dir, "out", &[])["activation_factory"]["sources"][0]["name"].clone();
    let source = match cached {
        true => json!({ "type": "activations", "name": "cache", "path": dir.join("cache") }),
        false => json!({ "type": "dataset", "name": name }),
    };
    let mut tree = json!({
        "sources": [source], "target": "activations-2d", "hook_points": [HOOK, OTHER],
        "batch_size": 4, "model_batch_size": 4, "context_size": 24,
    });
    tree.as_object_mut().unwrap().extend(set.as_object().unwrap().clone());
    tree
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            p if p.is_dir() => all.extend(files(&p)),
            p => drop(all.insert(p.clone(), fs::read(&p).unwrap())),
        }
    }
    all
}

#[test]
fn chunks_have_the_reference_systems_names_tensors_and_records() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let s = generating(dir.path(), json!({}));
    let plan = runners::plan_generate(&s).unwrap();
    let report = generate(&s, Start::Fresh).unwrap();
    assert!(report.complete && report.losses.is_empty());
    // 1200 tokens are 12.5 batches of 4 contexts of 24.
    assert_eq!((plan.chunks, report.chunks, report.tokens), (Some(13), 13, 1248));
    for hook in [HOOK, OTHER] {
        let folder = dir.path().join("cache").join(hook);
        let file = TensorFile::open(folder.join("chunk-00000012.safetensors")).unwrap();
        let names: Vec<String> = file.list().into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["activation", "attention_mask", "mask", "tokens"]);
        assert_eq!(file.info("activation").unwrap().shape, [4, 24, D_MODEL]);
        let (mask, real) = (file.i64("mask").unwrap().1, file.i64("attention_mask").unwrap().1);
        // BOS is text but does not count.
        assert!(real[0] == 1 && mask[0] == 0 && mask[1] == 1, "{mask:?}");
        let meta = fs::read_to_string(folder.join("chunk-00000012.meta.json")).unwrap();
        let meta: Value = serde_json::from_str(&meta).unwrap();
        let want = json!({"context_idx": 49, "dataset_name": "text", "model_name": "tiny", "shard_idx": 0, "n_shards": 1});
        assert_eq!((meta.as_array().unwrap().len(), &meta[1]), (4, &want));
    }
    let on_disk: usize = files(&dir.path().join("cache")).values().map(Vec::len).sum();
    let planned = plan.bytes.unwrap() as f64;
    assert!((on_disk as f64 / planned - 1.0).abs() < 0.1, "{on_disk} and {planned}");
    assert!(!dir.path().join("cache/checkpoints").exists());
}

#[test]
fn reading_gives_the_batches_the_model_gives() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    generate(&generating(dir.path(), json!({"total_tokens": null})), Start::Fresh).unwrap();
    let shuffled = json!({"target": "activations-1d", "batch_size": 32, "buffer_size": 256,
                          "buffer_shuffle": {"perm_seed": 7}});
    for set in [json!({}), json!({"batch_size": 7}), shuffled, json!({"hook_points": [OTHER]})] {
        let live = batches(dir.path(), factory(dir.path(), false, set.clone())).unwrap();
        let cached = batches(dir.path(), factory(dir.path(), true, set.clone())).unwrap();
        assert!(live.len() == cached.len() && live.len() > 5, "{set}: {} {}", live.len(), cached.len());
        for ((a, x), (b, y)) in live.iter().zip(&cached) {
            assert!(a == b && x.tokens == y.tokens && x.mask == y.mask && x.contexts == y.contexts, "{set}");
        }
    }
}

#[test]
fn single_tokens_and_several_batches_a_chunk_are_read_back_in_order() {
    for set in [
        json!({"target": "activations-1d", "batch_size": 50}),
        json!({"target": "activations-1d", "batch_size": 50, "n_samples_per_chunk": 3}),
        json!({"n_samples_per_chunk": 3}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        world(dir.path(), 60);
        let mut all = set.clone();
        all["total_tokens"] = Value::Null;
        generate(&generating(dir.path(), all), Start::Fresh).unwrap();
        let flat = json!({"target": "activations-1d", "batch_size": 64});
        let live = batches(dir.path(), factory(dir.path(), false, flat.clone())).unwrap();
        let cached = batches(dir.path(), factory(dir.path(), true, flat)).unwrap();
        assert_eq!(live.len(), cached.len(), "{set}");
        assert!(live.iter().zip(&cached).all(|(a, b)| a.0 == b.0 && a.1.tokens == b.1.tokens), "{set}");
    }
}

#[test]
fn training_from_the_cache_ends_with_the_weights_of_training_from_text() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let plain = ["eval=false", "activation_factory.model_batch_size=4", "trainer.total_training_tokens=2000"];
    let text =
        settings(dir.path(), "text", &[&plain[..], &["activation_factory.sources.0.repeat=false"]].concat());
    let len = text.activation_factory.context_size.unwrap();
    let hooks = json!({"hook_points": text.activation_factory.hook_points, "context_size": len, "total_tokens": null});
    generate(&generating(dir.path(), hooks), Start::Fresh).unwrap();
    let source = json!([{"type": "activations", "name": "c", "path": dir.path().join("cache")}]);
    let source = format!("activation_factory.sources={source}");
    let cache = settings(dir.path(), "cached", &[&plain[..], &[source.as_str()]].concat());
    let [a, b] = [&text, &cache].map(|s| {
        let report = runners::train(s, &registry(), &mut Silent, Start::Fresh).unwrap();
        assert!(report.steps > 5);
        fs::read(report.path.join("sae_weights.safetensors")).unwrap()
    });
    assert!(a == b);

    // Broken off in the middle of the cache, with rows in the buffer, and resumed.
    let s = settings(dir.path(), "parts", &[&plain[..], &[source.as_str()]].concat());
    let first = runners::train(&s, &registry(), &mut Steps(7), Start::Fresh).unwrap();
    assert_eq!(first.steps, 7);
    let second = runners::train(&s, &registry(), &mut Silent, Start::Resume).unwrap();
    assert_eq!(second.resumed_from, Some(7));
    assert!(fs::read(second.path.join("sae_weights.safetensors")).unwrap() == a);
}

struct Steps(u64);
impl Observer for Steps {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        if p.step >= self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_dictionary_is_evaluated_on_cached_contexts_and_not_on_cached_single_tokens() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let plain = [
        "activation_factory.model_batch_size=4",
        "trainer.total_training_tokens=640",
        "activation_factory.buffer_size=null",
    ];
    let hooks = json!({"hook_points": [HOOK], "total_tokens": null});
    generate(&generating(dir.path(), hooks), Start::Fresh).unwrap();
    let text =
        settings(dir.path(), "text", &[&plain[..], &["activation_factory.sources.0.repeat=false"]].concat());
    let source = json!([{"type": "activations", "name": "c", "path": dir.path().join("cache")}]);
    let source = format!("activation_factory.sources={source}");
    let cache = settings(dir.path(), "cached", &[&plain[..], &[source.as_str()]].concat());
    let [a, b] = [&text, &cache]
        .map(|s| runners::train(s, &registry(), &mut Silent, Start::Fresh).unwrap().evaluation.unwrap());
    assert_eq!(a.0.get("metrics/explained_variance"), b.0.get("metrics/explained_variance"));
    assert_eq!((a.1.original, a.1.reconstructed), (b.1.original, b.1.reconstructed));

    let singles = json!({"hook_points": [HOOK], "target": "activations-1d", "total_tokens": null});
    generate(&generating(dir.path(), singles), Start::Overwrite).unwrap();
    let e = runners::train(&cache, &registry(), &mut Silent, Start::Overwrite).err().unwrap().to_string();
    assert!(e.contains("holds single tokens") && e.contains("activations-2d"), "{e}");
}

struct Until(u64);
impl Observer for Until {
    fn advanced(&mut self, a: &Advance) -> ControlFlow<()> {
        if a.done >= self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn a_stopped_run_resumes_to_the_same_files_and_nothing_is_lost_by_accident() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // Shuffled, so that rows wait in the buffer when it is stopped.
    let set = json!({"target": "activations-1d", "batch_size": 40, "buffer_size": 160, "total_tokens": 600});
    let [whole, parts] = [0, 1].map(|i| {
        world(dirs[i].path(), 60);
        generating(dirs[i].path(), set.clone())
    });
    generate(&whole, Start::Fresh).unwrap();
    let first = runners::generate(&parts, &registry(), &mut Until(200), Start::Fresh).unwrap();
    assert!(!first.complete && first.tokens == 200);
    // A chunk after the snapshot, half written by a run that was killed.
    let late = dirs[1].path().join("cache").join(HOOK).join("chunk-00000005.safetensors");
    fs::write(&late, b"half").unwrap();
    let e = generate(&parts, Start::Fresh).unwrap_err().to_string();
    assert!(e.contains("--resume") && e.contains("--overwrite"), "{e}");
    let mut other = parts.clone();
    other.int8 = true;
    assert!(
        generate(&other, Start::Resume).unwrap_err().to_string().contains("other text, model or settings")
    );
    let second = generate(&parts, Start::Resume).unwrap();
    assert_eq!((second.resumed_from, second.tokens, second.complete), (Some(5), 600, true));
    assert!(snapshot::latest(&parts.output_dir).unwrap().is_none());
    let relative = |i: usize| -> Vec<(PathBuf, Vec<u8>)> {
        let root = dirs[i].path().join("cache");
        files(&root).into_iter().map(|(p, b)| (p.strip_prefix(&root).unwrap().into(), b)).collect()
    };
    assert!(relative(0) == relative(1));
    assert!(generate(&whole, Start::Fresh).is_err());
    assert_eq!(generate(&whole, Start::Overwrite).unwrap().tokens, 600);
}

#[test]
fn smaller_numbers_cost_what_the_report_says() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    let live = batches(dir.path(), factory(dir.path(), false, json!({}))).unwrap();
    let mut sizes = Vec::new();
    for (set, most) in [
        (json!({"override_dtype": "torch.float16"}), 1e-6),
        (json!({"override_dtype": "torch.bfloat16"}), 1e-4),
        (json!({"int8": true}), 2e-3),
    ] {
        let report =
            generate(&generating(dir.path(), with(&set, "total_tokens", Value::Null)), Start::Overwrite)
                .unwrap();
        let cached = batches(dir.path(), factory(dir.path(), true, json!({}))).unwrap();
        for (i, (hook, loss)) in report.losses.iter().enumerate() {
            assert_eq!(hook, [HOOK, OTHER][i]);
            // The same share from what is read back, the long way.
            let of = |all: &[(Vec<Vec<f32>>, Batch)]| -> Vec<f64> {
                all.iter().flat_map(|b| b.0[i].iter().map(|&v| f64::from(v))).collect()
            };
            let (x, y) = (of(&live), of(&cached));
            let rows = x.len() / D_MODEL;
            let mean: Vec<f64> = (0..D_MODEL)
                .map(|c| (0..rows).map(|r| x[r * D_MODEL + c]).sum::<f64>() / rows as f64)
                .collect();
            let variance: f64 = x.iter().enumerate().map(|(j, v)| (v - mean[j % D_MODEL]).powi(2)).sum();
            let error: f64 = x.iter().zip(&y).map(|(a, b)| (a - b).powi(2)).sum();
            let want = error / variance;
            assert!(want > 0.0 && want < most, "{set} {want}");
            assert!((loss / want - 1.0).abs() < 1e-6, "{set}: {loss} and {want}");
        }
        sizes.push(files(&dir.path().join("cache").join(HOOK)).values().map(Vec::len).sum::<usize>());
    }
    assert!(sizes[0] == sizes[1] && sizes[2] < sizes[1] * 7 / 10, "{sizes:?}");
}

fn with(tree: &Value, key: &str, value: Value) -> Value {
    let mut tree = tree.clone();
    tree[key] = value;
    tree
}

#[test]
fn a_cache_that_does_not_fit_is_refused_with_the_file_named() {
    let dir = tempfile::tempdir().unwrap();
    world(dir.path(), 60);
    generate(&generating(dir.path(), json!({})), Start::Fresh).unwrap();
    let refused = |set: Value| batches(dir.path(), factory(dir.path(), true, set)).unwrap_err().to_string();
    let e = refused(json!({"context_size": 16}));
    assert!(e.contains("contexts of 24 tokens") && e.contains("context_size is 16"), "{e}");
    let e = refused(json!({"hook_points": ["blocks.0.hook_resid_pre"]}));
    assert!(e.contains("blocks.0.hook_resid_pre"), "{e}");

    let folder = dir.path().join("cache").join(OTHER);
    let (first, last) =
        (folder.join("chunk-00000000.safetensors"), folder.join("chunk-00000012.safetensors"));
    let kept = fs::read(&last).unwrap();
    fs::copy(&first, &last).unwrap();
    let e = refused(json!({}));
    assert!(e.contains("chunk-00000012.safetensors: was made from other tokens"), "{e}");
    fs::remove_file(&last).unwrap();
    assert!(refused(json!({})).contains("has 12 chunks"));
    fs::write(&last, &kept[..kept.len() - 5]).unwrap();
    let e = refused(json!({}));
    assert!(e.contains("chunk-00000012.safetensors: not a complete safetensors file"), "{e}");
    fs::write(&last, &kept).unwrap();
    fs::write(folder.join("chunk-00000012.pt"), b"pickle").unwrap();
    assert!(refused(json!({})).contains("the same chunk"));
}

#[test]
fn chunks_that_python_pickled_are_read_without_running_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/cache");
    let folders = [(OTHER.to_string(), root.join("blocks.0.hook_resid_post"))];
    let policy = TokenPolicy {
        context_size: Some(4),
        max_length: 4,
        prepend_bos: true,
        bos: Some(0),
        eos: None,
        pad: 0,
        overflow: Overflow::Truncate,
        ignore_token_ids: vec![2],
        mask_first_position: false,
    };
    let mut reader = ChunkReader::open(&root, &folders, policy).unwrap();
    assert!(!reader.singles());
    let batch = reader.next_batch().unwrap().unwrap();
    assert_eq!((batch.batch, batch.len, batch.ids), (2, 4, (0..8).collect()));
    assert_eq!((batch.mask, batch.lengths), (vec![0, 1, 0, 1, 0, 1, 1, 0], vec![4, 3]));
    let q = &mut queue();
    let acts = reader.activations(q, &[OTHER.to_string()], 8).unwrap();
    let values = q.download::<f32>(&acts[0]).unwrap();
    assert!(
        values.len() == 48 && values.iter().all(|v| *v != 0.0 && *v == half::bf16::from_f32(*v).to_f32())
    );
    assert!(reader.next_batch().unwrap().is_none());
}
