//! Damaged files never panic, hang or exhaust memory: they are read, or refused with an error naming the file. Bounded and
//! the same in every run; `LM_SAES_FUZZ_SECONDS=300` goes on with other damage for as long, in each test. A file that does harm is
//! named with the seed that makes it.

use lm_saes::{
    hub::tensors::Tensors,
    lm::{ChatTemplate, Gguf, GgufWeights, SpecialIds, Tokenizer, weights::WeightSource},
    settings::{AnalyzeSettings, EvaluateSettings, GenerateSettings, SweepSettings, TrainSettings, load},
    tensorfile::{self, OutTensor, Precision, TensorFile},
};
use lm_saes_tests::{
    damage::{Random, damage},
    gguf::GgufFile,
};
use serde_json::json;
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// Damaged versions of each file.
const ROUNDS: u64 = 600;

/// Seeds of one test: the first ones always, then others until the time is over. Every file of a test gets its share.
fn seeds(share: u32) -> impl Iterator<Item = u64> {
    let seconds = std::env::var("LM_SAES_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0.0);
    let (began, time) = (Instant::now(), Duration::from_secs_f64(seconds) / share);
    (0..).take_while(move |seed| *seed < ROUNDS || began.elapsed() < time)
}

/// Runs `read` on damage made by `seed`; a panic is reported with it.
fn guarded<T>(name: &str, seed: u64, read: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(read));
    // Generous: a busy machine that prints where a caught panic came from takes half a minute.
    assert!(began.elapsed() < Duration::from_secs(200), "{name}: damage of seed {seed} takes forever");
    done.unwrap_or_else(|_| panic!("{name}: damage of seed {seed} made its reader panic"))
}

/// Damages `bytes`, writes them to `name` and reads them with `read`, which says whether the file was taken.
fn survive(name: &str, bytes: &[u8], read: impl Fn(&Path) -> lm_saes::Result<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path).unwrap_or_else(|e| panic!("undamaged: {e}"));
    let (mut refused, mut rounds) = (0, 0);
    for seed in seeds(1) {
        let random = &mut Random::new(seed);
        let mut bad = damage(bytes, random);
        // Beyond the first rounds damage piles up.
        for _ in 0..seed / ROUNDS % 4 {
            bad = if bad.is_empty() { bad } else { damage(&bad, random) };
        }
        fs::write(&path, &bad).unwrap();
        rounds += 1;
        if let Err(e) = guarded(name, seed, || read(&path)) {
            assert!(e.to_string().contains(name), "round {seed}: the error does not name the file: {e}");
            refused += 1;
        }
    }
    assert!(refused > rounds / 10, "only {refused} of {rounds} damaged files were refused");
}

#[test]
fn damaged_safetensors_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good.safetensors");
    let tensor = |name: &str, shape: &[usize]| OutTensor {
        name: name.into(),
        shape: shape.into(),
        values: vec![0.5; shape.iter().product()],
    };
    let tensors = [tensor("W_E", &[3, 4]), tensor("b_E", &[4]), tensor("empty", &[0])];
    tensorfile::write(&path, &tensors, Precision::Bf16, &[("format", "pt".into())]).unwrap();
    survive("small.safetensors", &fs::read(&path).unwrap(), |path| {
        let file = TensorFile::open(path)?;
        for t in file.list() {
            file.f32(&t.name)?;
            file.f32_shaped(&t.name, &[3, 4]).ok();
            file.i64(&t.name).ok();
        }
        Ok(())
    });
}

/// A GGUF file with a model and a tokenizer.
fn gguf() -> Vec<u8> {
    let tokens = ["<|end|>", "a", "b", "Ġ", "ab", "<0x41>"];
    let types: Vec<Vec<u8>> = [3i32, 1, 1, 1, 1, 6].map(|t| t.to_le_bytes().to_vec()).into();
    let scores: Vec<Vec<u8>> = (0..6).map(|i| (-i as f32).to_le_bytes().to_vec()).collect();
    GgufFile::new("llama")
        .count("llama.embedding_length", 4)
        .count("llama.attention.head_count", 1)
        .count("llama.block_count", 1)
        .count("llama.context_length", 16)
        .count("llama.feed_forward_length", 8)
        .number("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.scores", 6, &scores)
        .array("tokenizer.ggml.token_type", 5, &types)
        .texts("tokenizer.ggml.merges", &["a b"])
        .count("tokenizer.ggml.eos_token_id", 0)
        .f32("token_embd.weight", &[6, 4], &[0.5; 24])
        .f32("blk.0.attn_q.weight", &[4, 4], &[0.5; 16])
        .f32("rope_freqs.weight", &[2], &[1.0, 8.0])
        .bytes()
}

#[test]
fn damaged_gguf_files_never_panic() {
    survive("small.gguf", &gguf(), |path| {
        let file = Gguf::open(path)?;
        let tokens = Tokenizer::from_gguf(&file, SpecialIds::default());
        let weights = GgufWeights::new(file)?;
        for name in weights.names() {
            weights.f32(&name)?;
        }
        tokens.and_then(|t| speak(&t))
    });
}

/// Uses every method on a tokenizer.
fn speak(t: &Tokenizer) -> lm_saes::Result<()> {
    let ids = t.encode("ab a<|end|>é 12\n")?;
    t.encode_marked("ab")?;
    t.encode_pieces("ab é")?;
    t.decode(&ids)?;
    ids.iter().chain(&[0, 7, u32::MAX]).for_each(|&id| drop(t.token_text(id)));
    Ok(())
}

#[test]
fn damaged_tokenizers_never_panic() {
    let byte_level = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "NFC"},
        "added_tokens": [{"id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": "a", "vocab": {"<|end|>": 0, "a": 1, "b": 2, "Ġ": 3, "Ã": 4, "©": 5, "ab": 6},
            "merges": [["a", "b"]]}
    });
    let sentence_piece = json!({
        "version": "1.0", "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["b", -3.5], ["▁ab", -4.0], ["<0x0A>", -5.0]]}
    });
    for json in [byte_level, sentence_piece] {
        survive("tokenizer.json", json.to_string().as_bytes(), |path| {
            let dir = path.parent().expect("a file in a folder");
            Tokenizer::from_dir(dir, SpecialIds::default()).and_then(|t| speak(&t))
        });
    }
}

/// Reads everything in a file of tensors, whoever wrote it.
fn read_all(path: &Path) -> lm_saes::Result<()> {
    let file = Tensors::open(path)?;
    for name in file.names() {
        let (shape, kind) = file.info(&name)?;
        let (again, values) = file.f32(&name)?;
        assert!(again == shape && values.len() == shape.iter().product::<usize>(), "{name} {kind:?}");
    }
    Ok(())
}

fn foreign(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign").join(path)).unwrap()
}

#[test]
fn damaged_npz_files_never_panic() {
    survive(
        "stored.npz",
        &foreign("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_5/params.npz"),
        read_all,
    );
    survive(
        "packed.npz",
        &foreign("google/gemma-scope-9b-pt-res/embedding/width_4k/average_l0_6/params.npz"),
        read_all,
    );
}

#[test]
fn damaged_files_of_pytorch_never_panic_and_never_run_anything() {
    survive("plain.pt", &foreign("gpt2/resid_post_mlp_v5_32k/autoencoders/7.pt"), read_all);
    survive("parameters.pt", &foreign("ckkissane/attn-saes-gpt2-small-all-layers/gpt2_L0_z.pt"), read_all);
    // A zip archive has a checksum on every member, so what is in the pickle hardly ever reaches its reader: here it does.
    let parts = zip_members(&foreign("gpt2/resid_post_mlp_v5_32k/autoencoders/7.pt"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inside.pt");
    let (mut refused, mut rounds) = (0, 0);
    for seed in seeds(1) {
        rounds += 1;
        let random = &mut Random::new(seed);
        let members: Vec<(String, Vec<u8>)> = parts
            .iter()
            .map(|(name, bytes)| {
                let bad = name.ends_with("data.pkl");
                (name.clone(), if bad { damage(bytes, random) } else { bytes.clone() })
            })
            .collect();
        fs::write(&path, zip_of(&members)).unwrap();
        if let Err(e) = guarded("inside.pt", seed, || read_all(&path)) {
            assert!(e.to_string().contains("inside.pt"), "round {seed}: {e}");
            refused += 1;
        }
    }
    assert!(refused > rounds / 10, "only {refused} of {rounds} damaged pickles were refused");
}

fn zip_members(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    (0..zip.len())
        .map(|i| {
            let mut member = zip.by_index(i).unwrap();
            let mut content = Vec::new();
            std::io::copy(&mut member, &mut content).unwrap();
            (member.name().unwrap().into_owned(), content)
        })
        .collect()
}

fn zip_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut bytes);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in members {
        zip.start_file(name.as_str(), stored).unwrap();
        std::io::Write::write_all(&mut zip, content).unwrap();
    }
    zip.finish().unwrap();
    bytes.into_inner()
}

#[test]
fn damaged_settings_never_panic() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/examples");
    let dir = tempfile::tempdir().unwrap();
    let (mut refused, mut rounds) = (0, 0);
    let files: Vec<_> =
        ["pythia_crosscoder.toml", "smollm2_topk.toml", "smollm2_evaluate.toml", "smollm2_sweep.toml"]
            .map(|name| examples.join(name))
            .into();
    for file in &files {
        let tree = lm_saes::settings::read_tree(file).unwrap();
        let texts = [
            ("a.toml", fs::read_to_string(file).unwrap()),
            ("a.json", tree.to_string()),
            ("a.yaml", tree.to_string().replace(",\"", ",\n \"")),
        ];
        for (name, text) in texts {
            let path = dir.path().join(name);
            for seed in seeds(12).step_by(3) {
                let mut bad = damage(text.as_bytes(), &mut Random::new(seed));
                for more in 0..seed % 3 {
                    bad = if bad.is_empty() { bad } else { damage(&bad, &mut Random::new(seed + more + 1)) };
                }
                fs::write(&path, &bad).unwrap();
                rounds += 1;
                refused += usize::from(!guarded(name, seed, || taken(&path)));
            }
        }
    }
    assert!(refused > rounds / 2, "only {refused} of {rounds} damaged settings were refused");
}

/// Whether a file is settings of any kind that pass their checks.
fn taken(path: &Path) -> bool {
    let train = load::<TrainSettings>(path, &[]).and_then(|s| s.check());
    let evaluate = load::<EvaluateSettings>(path, &[]).and_then(|s| s.check());
    let generate = load::<GenerateSettings>(path, &[]).and_then(|s| s.check());
    let analyze = load::<AnalyzeSettings>(path, &["sae_name=x".into()]).and_then(|s| s.check());
    let sweep = SweepSettings::load(path, &[]).map(drop);
    [train, evaluate, generate, analyze, sweep].iter().any(Result::is_ok)
}

#[test]
fn damaged_descriptions_of_models_never_panic() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/llama_gqa/model");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(model.join("model.safetensors"), dir.path().join("whole.safetensors")).unwrap();
    let config = fs::read(model.join("config.json")).unwrap();
    let weights = TensorFile::open(model.join("model.safetensors")).unwrap();
    let map: serde_json::Map<_, _> =
        weights.list().into_iter().map(|t| (t.name, json!("whole.safetensors"))).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into_bytes();
    for (name, bytes) in [("config.json", &config), ("model.safetensors.index.json", &index)] {
        survive(name, bytes, |path| {
            let folder = path.parent().expect("a file in a folder");
            for (other, whole) in [("config.json", &config), ("model.safetensors.index.json", &index)] {
                if other != name {
                    fs::write(folder.join(other), whole).unwrap();
                }
            }
            let shard = folder.join("whole.safetensors");
            if !shard.exists() {
                fs::copy(dir.path().join("whole.safetensors"), shard).unwrap();
            }
            // What a wrong value makes of a model is told by its key, in the file's name or that of the weights.
            let named = |e: lm_saes::Error| match e.to_string().contains(name) {
                true => e,
                false => lm_saes::Error::format(path, e.to_string()),
            };
            let model = || lm_saes::lm::HfDirectory::open(folder).map(drop);
            model().and_then(|()| lm_saes::lm::Lm::read_architecture(folder).map(drop)).map_err(named)
        });
    }
}

#[test]
fn damaged_chat_templates_never_panic() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chat/cases.json");
    let cases: serde_json::Value = serde_json::from_slice(&fs::read(cases).unwrap()).unwrap();
    let tokens = cases["tokens"].as_object().unwrap();
    let (mut refused, mut rounds) = (0, 0);
    for (name, source) in cases["templates"].as_object().unwrap() {
        for seed in seeds(6).step_by(4) {
            let bad = damage(source.as_str().unwrap().as_bytes(), &mut Random::new(seed));
            let bad = String::from_utf8_lossy(&bad).into_owned();
            let made = guarded(name, seed, || {
                let template = ChatTemplate::new(&bad, tokens.clone())?;
                cases["chats"].as_object().unwrap().values().map(|c| template.render(c, true)).collect()
            });
            let made: Result<Vec<String>, String> = made;
            rounds += 1;
            refused += usize::from(made.is_err());
        }
    }
    assert!(refused > rounds / 10, "only {refused} of {rounds} damaged templates were refused");
}

#[cfg(feature = "parquet")]
#[test]
fn damaged_files_of_columns_never_panic() {
    use lm_saes::data::{Content, TextOptions, TextSource};
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/src/data/columns/fixtures");
    for (name, content) in [
        ("zstd.parquet", Content::Text("text".into())),
        ("large_v2.parquet", Content::Text("text".into())),
        ("chats.parquet", Content::Messages("messages".into())),
        ("stream.arrow", Content::Text("text".into())),
        ("chats.arrow", Content::Messages("messages".into())),
    ] {
        let options = TextOptions { content, ..TextOptions::default() };
        survive(name, &fs::read(fixtures.join(name)).unwrap(), |path| {
            let source = TextSource::open(path, &options)?;
            source.read(0, source.records()?.min(1 << 16) as usize).map(drop)
        });
    }
}
