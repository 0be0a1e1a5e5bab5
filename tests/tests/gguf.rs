//! GGUF files: what is in them is read exactly, what is wrong with them is named, and a model stored in one has the same
//! weights, configuration and tokens as the Hugging Face directory it came from.

use half::f16;
use lm_saes::lm::{Gguf, GgufWeights, SpecialIds, Tokenizer, gguf::Value, weights::WeightSource};
use lm_saes_tests::gguf::{GgufFile, text};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// A file that lives as long as the folder beside it.
fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn open(bytes: &[u8]) -> Gguf {
    Gguf::open(written(bytes).1).unwrap_or_else(|e| panic!("{e}"))
}

fn error(bytes: &[u8]) -> String {
    let (_dir, path) = written(bytes);
    let message = Gguf::open(&path).err().expect("the file must be refused").to_string();
    assert!(message.contains("small.gguf"), "the file is not named: {message}");
    message
}

/// Numbers that differ from each other.
fn values(n: usize, from: f32) -> Vec<f32> {
    (0..n).map(|i| from + i as f32 / 8.0).collect()
}

#[test]
fn metadata_of_every_type_and_both_versions_is_read() {
    for version in [2, 3] {
        let file = GgufFile::new("llama")
            .version(version)
            .entry("u8", 0, &[200])
            .entry("i8", 1, &[0xFF])
            .entry("u16", 2, &[0x01, 0x02])
            .entry("i16", 3, &(-5i16).to_le_bytes())
            .count("u32", 70_000)
            .entry("i32", 5, &(-70_000i32).to_le_bytes())
            .number("f32", 0.5)
            .flag("bool", true)
            .entry("u64", 10, &u64::MAX.to_le_bytes())
            .entry("i64", 11, &i64::MIN.to_le_bytes())
            .entry("f64", 12, &0.1f64.to_le_bytes())
            .texts("texts", &["a", "é", ""])
            .array("ints", 3, &[(-1i16).to_le_bytes().to_vec(), 2i16.to_le_bytes().to_vec()])
            .array("floats", 6, &[0.25f32.to_le_bytes().to_vec()])
            .array("lists", 9, &[[&0u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[9]].concat()]);
        let g = open(&file.bytes());
        let expected = [
            ("u8", Value::Int(200)),
            ("i8", Value::Int(-1)),
            ("u16", Value::Int(0x201)),
            ("i16", Value::Int(-5)),
            ("u32", Value::Int(70_000)),
            ("i32", Value::Int(-70_000)),
            ("f32", Value::Float(0.5)),
            ("bool", Value::Bool(true)),
            ("u64", Value::Int(u64::MAX.into())),
            ("i64", Value::Int(i64::MIN.into())),
            ("f64", Value::Float(0.1)),
            ("texts", Value::Texts(vec!["a".into(), "é".into(), String::new()])),
            ("ints", Value::Ints(vec![-1, 2])),
            ("floats", Value::Floats(vec![0.25])),
            ("lists", Value::Lists(vec![Value::Ints(vec![9])])),
        ];
        for (key, value) in expected {
            assert_eq!(g.get(key), Some(&value), "{key}, version {version}");
        }
    }
}

#[test]
fn tensors_have_their_shape_and_values_in_every_size() {
    // Larger than one conversion task (2^18 values), in a block format; 0.5 is the scale.
    let blocks = (3 << 18) / 2 / 32;
    let q8: Vec<u8> = (0..blocks)
        .flat_map(|b| {
            let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
            block.extend((0..32).map(|i| (b * 7 + i) as u8));
            block
        })
        .collect();
    let file = GgufFile::new("llama")
        .f32("a", &[2, 3], &values(6, -1.0))
        .tensor(
            "half",
            &[2],
            1,
            [1.5f32, -2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        )
        .tensor("q8", &[blocks / 4, 128], 8, q8);
    let (_dir, path) = written(&file.bytes());
    let g = Gguf::open(path).unwrap();
    assert_eq!(g.f32("a").unwrap(), (vec![2, 3], values(6, -1.0)));
    assert_eq!(g.f32("half").unwrap(), (vec![2], vec![1.5, -2.0]));
    let (shape, q8) = g.f32("q8").unwrap();
    assert_eq!(shape, [blocks / 4, 128]);
    for (n, &x) in q8.iter().enumerate() {
        assert_eq!(x, 0.5 * f32::from((n / 32 * 7 + n % 32) as u8 as i8), "value {n}");
    }
    assert!(g.f32("b").unwrap_err().to_string().contains("tensor b: missing"));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file =
        GgufFile::new("llama").texts("list", &["a", "bc"]).count("n", 3).f32("w", &[2, 4], &values(8, 0.0));
    let bytes = file.bytes();
    open(&bytes);
    for length in 0..bytes.len() {
        error(&bytes[..length]);
    }
}

#[test]
fn hostile_headers_are_refused_by_name() {
    let plain =
        || GgufFile::new("llama").f32("first", &[8], &values(8, 0.0)).f32("second", &[8], &values(8, 1.0));
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = plain().bytes();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let huge = (u64::MAX / 2).to_le_bytes();
    let deep = (0..9).fold(vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], |inner, _| {
        [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &inner].concat()
    });
    let one = |shape: &[usize], kind| GgufFile::new("llama").tensor("odd", shape, kind, vec![0; 256]).bytes();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGUF".to_vec(), "not a GGUF file"),
        (vec![b'x'; 64], "not a GGUF file"),
        (patched(4, &1u32.to_le_bytes()), "version 1 is not supported"),
        (patched(4, &3u32.to_be_bytes()), "big-endian"),
        (patched(8, &huge), "tensors announced"),
        (patched(16, &huge), "metadata entries announced"),
        (patched(24, &huge), "bytes of text announced"),
        (GgufFile::new("x").entry("k", 9, &[&4u32.to_le_bytes()[..], &huge].concat()).bytes(), "key k"),
        (GgufFile::new("x").entry("k", 9, &deep).bytes(), "nested deeper"),
        (GgufFile::new("x").entry("k", 13, &[0; 64]).bytes(), "key k: unknown value type 13"),
        (GgufFile::new("x").count("k", 1).count("k", 2).bytes(), "key k occurs twice"),
        (GgufFile::new("x").count("general.alignment", 3).bytes(), "power of two"),
        (one(&[1 << 40, 1 << 40], 0), "tensor odd: shape"),
        (one(&[0], 0), "tensor odd: shape"),
        (one(&[33], 8), "tensor odd: shape"),
        (one(&[2, 2, 2, 2, 2], 0), "tensor odd: has 5 dimensions"),
        (one(&[32], 20), "tensor odd: is stored in ggml type 20"),
        (one(&[1000], 0), "tensor odd: its 4000 bytes"),
        (plain().f32("first", &[1], &[0.0]).bytes(), "tensor first: occurs twice"),
        (plain().bytes_with(|_, _| 0), "overlaps the tensor before it"),
        (plain().bytes_with(|i, at| at + i as u64), "tensor second: offset 33 is not a multiple"),
        (plain().bytes_with(|i, at| at + i as u64 * 4096), "tensor second: its 32 bytes at offset 4128"),
        (plain().bytes_with(|_, _| u64::MAX - 31), "ends after"),
    ];
    for (n, (bytes, expected)) in cases.iter().enumerate() {
        let message = error(bytes).replace("end after the file", "ends after the file");
        assert!(message.contains(expected), "case {n}: {message:?} does not say {expected:?}");
    }
}

/// Hugging Face tensors and what llama.cpp's converter makes of them.
struct Model {
    file: GgufFile,
    expected: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Model {
    /// Adds a tensor under both names; `stored(row, column)` says where in the Hugging Face tensor the stored value is.
    fn add(
        &mut self,
        gguf: &str,
        hf: &str,
        shape: &[usize],
        stored: impl Fn(usize, usize) -> (usize, usize),
        turned: bool,
    ) {
        let (rows, cols) = (shape[0], shape[1..].iter().product::<usize>());
        let x = values(rows * cols, self.expected.len() as f32 * 1000.0);
        let mut kept = shape.to_vec();
        if turned {
            kept.reverse();
        }
        let y: Vec<f32> = (0..rows * cols)
            .map(|n| {
                let at = if turned { (n / rows, n % rows) } else { (n / cols, n % cols) };
                let (r, c) = stored(at.0, at.1);
                x[r * cols + c]
            })
            .collect();
        let file = std::mem::take(&mut self.file);
        self.file = file.f32(gguf, &kept, &y);
        self.expected.insert(hf.into(), (shape.to_vec(), x));
    }
    fn same(&mut self, gguf: &str, hf: &str, shape: &[usize]) {
        self.add(gguf, hf, shape, |r, c| (r, c), false);
    }

    fn check(&self, config: &serde_json::Value) {
        let (_dir, path) = written(&self.file.bytes());
        let w = GgufWeights::open(path).unwrap();
        assert_eq!(w.names(), self.expected.keys().cloned().collect::<Vec<_>>());
        for (name, expected) in &self.expected {
            assert_eq!(&w.f32(name).unwrap(), expected, "{name}");
        }
        let found = w.config().unwrap();
        for (key, value) in config.as_object().unwrap() {
            assert_eq!(&found[key], value, "{key}");
        }
    }
}

/// Metadata common to the three architectures: width 8, two heads, one block, vocabulary 5.
fn sizes(arch: &str) -> GgufFile {
    let key = |k: &str| format!("{arch}.{k}");
    GgufFile::new(arch)
        .count(&key("embedding_length"), 8)
        .count(&key("attention.head_count"), 2)
        .count(&key("block_count"), 1)
        .count(&key("context_length"), 64)
        .count(&key("feed_forward_length"), 16)
}

fn llama_file() -> GgufFile {
    sizes("llama")
        .count("llama.attention.head_count_kv", 1)
        .number("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .number("llama.rope.freq_base", 500_000.0)
}

/// Where llama.cpp takes row `r` from: within each head of 4, position (pair, half) comes from (half, pair).
fn rotary(r: usize, c: usize) -> (usize, usize) {
    (r / 4 * 4 + [0, 2, 1, 3][r % 4], c)
}

#[test]
fn a_llama_file_has_hugging_face_weights_and_configuration() {
    let mut m = Model { file: llama_file(), expected: BTreeMap::new() };
    let block = |part: &str| format!("model.layers.0.{part}.weight");
    m.same("token_embd.weight", "model.embed_tokens.weight", &[5, 8]);
    m.same("output_norm.weight", "model.norm.weight", &[8]);
    m.same("blk.0.attn_norm.weight", &block("input_layernorm"), &[8]);
    m.add("blk.0.attn_q.weight", &block("self_attn.q_proj"), &[8, 8], rotary, false);
    m.add("blk.0.attn_k.weight", &block("self_attn.k_proj"), &[4, 8], rotary, false);
    m.same("blk.0.attn_v.weight", &block("self_attn.v_proj"), &[4, 8]);
    m.same("blk.0.attn_output.weight", &block("self_attn.o_proj"), &[8, 8]);
    m.same("blk.0.ffn_norm.weight", &block("post_attention_layernorm"), &[8]);
    m.same("blk.0.ffn_gate.weight", &block("mlp.gate_proj"), &[16, 8]);
    m.same("blk.0.ffn_up.weight", &block("mlp.up_proj"), &[16, 8]);
    m.same("blk.0.ffn_down.weight", &block("mlp.down_proj"), &[8, 16]);
    m.check(&json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 5,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "rope_scaling": null, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "hidden_act": "silu",
    }));
    m.same("output.weight", "lm_head.weight", &[5, 8]);
    m.check(&json!({"tie_word_embeddings": false}));
}

#[test]
fn a_gpt2_file_has_hugging_face_weights_and_configuration() {
    let file = sizes("gpt2").number("gpt2.attention.layer_norm_epsilon", 1e-5);
    let mut m = Model { file, expected: BTreeMap::new() };
    m.same("token_embd.weight", "transformer.wte.weight", &[5, 8]);
    m.same("position_embd.weight", "transformer.wpe.weight", &[64, 8]);
    m.same("output_norm.bias", "transformer.ln_f.bias", &[8]);
    let turn = |r, c| (c, r);
    for (gguf, hf, inner, outer) in [
        ("attn_qkv", "attn.c_attn", 8, 24),
        ("attn_output", "attn.c_proj", 8, 8),
        ("ffn_up", "mlp.c_fc", 8, 16),
        ("ffn_down", "mlp.c_proj", 16, 8),
    ] {
        let names = |end: &str| (format!("blk.0.{gguf}.{end}"), format!("transformer.h.0.{hf}.{end}"));
        // Stored [out, in]: entry (o, i) is (i, o) of the Conv1D weight [in, out].
        m.add(&names("weight").0, &names("weight").1, &[inner, outer], turn, true);
        m.same(&names("bias").0, &names("bias").1, &[outer]);
    }
    m.check(&json!({
        "model_type": "gpt2", "n_embd": 8, "n_inner": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 5,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "tie_word_embeddings": true,
    }));
}

#[test]
fn a_gpt_neox_file_has_hugging_face_weights_and_configuration() {
    let file = sizes("gptneox")
        .number("gptneox.attention.layer_norm_epsilon", 1e-5)
        .count("gptneox.rope.dimension_count", 2)
        .flag("gptneox.use_parallel_residual", false);
    let mut m = Model { file, expected: BTreeMap::new() };
    m.same("token_embd.weight", "gpt_neox.embed_in.weight", &[5, 8]);
    m.same("output.weight", "embed_out.weight", &[5, 8]);
    // Stored row (part, head, d) is row (head, part, d); two heads of four.
    let grouped = |r: usize, c| (r % 8 / 4 * 12 + r / 8 * 4 + r % 4, c);
    let qkv = |end: &str| {
        (format!("blk.0.attn_qkv.{end}"), format!("gpt_neox.layers.0.attention.query_key_value.{end}"))
    };
    m.add(&qkv("weight").0, &qkv("weight").1, &[24, 8], grouped, false);
    m.add(&qkv("bias").0, &qkv("bias").1, &[24], grouped, false);
    m.same("blk.0.ffn_up.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight", &[16, 8]);
    m.check(&json!({
        "model_type": "gpt_neox", "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "rotary_pct": 0.5,
        "rotary_emb_base": 10_000.0, "use_parallel_residual": false, "tie_word_embeddings": false,
        "layer_norm_eps": 1e-5, "attention_bias": true,
    }));
}

#[test]
fn rotary_scaling_is_recognised_from_keys_and_from_divisors() {
    let scaling = |file: GgufFile| {
        let (_dir, path) = written(&file.f32("token_embd.weight", &[5, 8], &values(40, 0.0)).bytes());
        GgufWeights::open(path).unwrap().config().unwrap()["rope_scaling"].clone()
    };
    let keys = |kind: &str| {
        llama_file().text("llama.rope.scaling.type", kind).number("llama.rope.scaling.factor", 4.0)
    };
    assert_eq!(scaling(keys("none")), json!(null));
    assert_eq!(scaling(keys("linear")), json!({"rope_type": "linear", "factor": 4.0}));
    // Llama 3.1's rule for base 500000, head width 4: wavelengths 2π and 4443, so the second is on the slope
    // (8192 / 4443 = 1.844): 1 / ((1 - 0.2812) / 8 + 0.2812).
    let wavelength = std::f64::consts::TAU * 500_000f64.sqrt();
    let smooth = (8192.0 / wavelength - 1.0) / 3.0;
    let second = (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32;
    let long = llama_file().count("llama.attention.key_length", 8);
    // Width 8: wavelengths 2π, 167, 4443 and 118142.
    let found = scaling(long.f32("rope_freqs.weight", &[4], &[1.0, 1.0, second, 8.0]));
    assert_eq!((&found["rope_type"], &found["factor"]), (&json!("llama3"), &json!(8.0)));
    let odd = scaling(llama_file().f32("rope_freqs.weight", &[2], &[1.0, 2.5]));
    assert_eq!((&odd["rope_type"], &odd["short_factor"]), (&json!("longrope"), &json!([1.0, 2.5])));
    assert_eq!(scaling(llama_file().f32("rope_freqs.weight", &[2], &[1.0, 1.0])), json!(null));
}

#[test]
fn models_that_cannot_be_read_say_what_can() {
    let refused = |file: GgufFile| {
        let (_dir, path) = written(&file.bytes());
        GgufWeights::open(path).err().unwrap().to_string()
    };
    let embedded = |file: GgufFile| file.f32("token_embd.weight", &[5, 8], &values(40, 0.0));
    let message = refused(GgufFile::new("mamba"));
    assert!(message.contains("\"mamba\"") && message.contains("llama, gpt2, gptneox"), "{message}");
    assert!(refused(GgufFile::new("llama")).contains("llama.embedding_length is missing"));
    assert!(refused(llama_file()).contains("tensor token_embd.weight: missing"));
    assert!(
        refused(embedded(llama_file()).f32("blk.0.what.weight", &[1], &[0.0])).contains("blk.0.what.weight")
    );
    assert!(refused(embedded(llama_file().count("llama.expert_count", 8))).contains("mixture of experts"));
}

/// Letters a–c, digits, the space and a newline as byte-level tokens, with merges `ab` and ` ab`.
fn byte_level(pre: &str) -> GgufFile {
    let tokens = ["<|end|>", "a", "b", "c", "1", "2", "Ġ", "Ċ", "ab", "Ġab", "12", "<tool>"];
    let types: Vec<Vec<u8>> = (0..tokens.len())
        .map(|i| [3i32, 1, 4][(i > 0) as usize + (i == 11) as usize].to_le_bytes().into())
        .collect();
    GgufFile::new("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.token_type", 5, &types)
        .texts("tokenizer.ggml.merges", &["a b", "Ġ ab", "1 2"])
        .count("tokenizer.ggml.eos_token_id", 0)
}

fn tokenizer(file: &GgufFile) -> Tokenizer {
    let (_dir, path) = written(&file.bytes());
    Tokenizer::load(&path, SpecialIds::default()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_byte_level_tokenizer_follows_its_pre_tokenizer() {
    let digits = tokenizer(&byte_level("smollm"));
    assert_eq!(digits.encode("ab ab12\n").unwrap(), [8, 9, 4, 5, 7]);
    assert!(!digits.adds_bos());
    for pre in ["gpt-2", "default", "llama-bpe"] {
        let joined = tokenizer(&byte_level(pre));
        assert_eq!(joined.encode("ab ab12\n").unwrap(), [8, 9, 10, 7], "{pre}");
        assert_eq!(joined.decode(&[8, 9, 10, 7]).unwrap(), "ab ab12\n");
    }
    assert_eq!(digits.encode("a<tool>b<|end|>").unwrap(), [1, 11, 2, 0]);
    assert_eq!(digits.special(), SpecialIds { bos: Some(0), eos: Some(0), pad: Some(0) });
    let marked = byte_level("gpt-2")
        .count("tokenizer.ggml.bos_token_id", 3)
        .flag("tokenizer.ggml.add_bos_token", true);
    let marked = tokenizer(&marked);
    assert!(marked.adds_bos());
    assert_eq!((marked.encode("b").unwrap(), marked.encode_marked("b").unwrap()), (vec![2], vec![3, 2]));
}

#[test]
fn a_sentence_piece_tokenizer_merges_by_score_and_falls_back_to_bytes() {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "ab", "bc", "▁a", "▁abc"];
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -10.0, -11.0, -12.0, -3.0, -2.0, -1.0, -20.0f32];
    let types = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1i32];
    let file = GgufFile::new("llama")
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.scores", 6, &scores.map(|s| s.to_le_bytes().to_vec()))
        .array("tokenizer.ggml.token_type", 5, &types.map(|t| t.to_le_bytes().to_vec()))
        .count("tokenizer.ggml.bos_token_id", 1)
        .count("tokenizer.ggml.eos_token_id", 2);
    let t = tokenizer(&file);
    // `▁a` (-1) is made first, then `bc` (-2), and the two make `▁abc`; in the middle of a word `bc` beats `ab`.
    assert_eq!(t.encode("abc").unwrap(), [12]);
    assert_eq!(t.encode("cabc").unwrap(), [5, 8, 6, 10]);
    assert_eq!(t.encode("é").unwrap(), [5, 3, 4]);
    assert_eq!(t.encode("</s>").unwrap(), [2]);
    assert_eq!(t.encode_marked("a").unwrap(), [1, 11]);
    assert!(t.adds_bos());
    assert_eq!(t.decode(&[12, 5, 3, 4]).unwrap(), "abc é");
    let bare = tokenizer(&file.flag("tokenizer.ggml.add_space_prefix", false));
    assert_eq!(bare.encode("a").unwrap(), [6]);
}

#[test]
fn tokenizers_that_cannot_be_rebuilt_say_why() {
    let refused = |file: GgufFile| {
        let (_dir, path) = written(&file.bytes());
        Tokenizer::load(&path, SpecialIds::default()).err().unwrap().to_string()
    };
    assert!(refused(GgufFile::new("llama")).contains("tokenizer.ggml.model is missing"));
    assert!(
        refused(GgufFile::new("llama").text("tokenizer.ggml.model", "bert"))
            .contains("known are gpt2 and llama")
    );
    assert!(refused(byte_level("tekken")).contains("tokenizer.ggml.pre \"tekken\""));
    assert!(refused(byte_level("gpt-2").count("tokenizer.ggml.bos_token_id", 99)).contains("an id below 12"));
    let odd = GgufFile::new("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .texts("tokenizer.ggml.tokens", &["a"])
        .entry("tokenizer.ggml.merges", 8, &text("a b"));
    assert!(refused(odd).contains("tokenizer.ggml.merges: expected an array of strings"));
}
