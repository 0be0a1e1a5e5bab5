//! Tokens per second of a language model's forward on Pythia-160M's shape with random weights, batch 16×256, f32, up to
//! `blocks.6.hook_resid_post`. `hf_forward.py` beside this folder times the same with Hugging Face transformers; run the
//! two in turns to compare.

use criterion::{Criterion, Throughput};
use lm_saes::lm::{Lm, Run, Tokens, WeightSource};
use lm_saes::settings::LanguageModelSettings;
use lm_saes_backends::registry;
use lm_saes_benches::{median, timed};
use lm_saes_runtime::Queue;
use serde_json::{Value, json};
use std::path::Path;

const VOCAB: usize = 50304;
const WIDTH: usize = 768;
const LAYERS: usize = 7;
const BATCH: usize = 16;
const LEN: usize = 256;
const HOOK: &str = "blocks.6.hook_resid_post";

/// Pythia-160M, cut after the layer of interest, with weights drawn at random.
struct Pythia;

impl Pythia {
    fn shape(name: &str) -> Vec<usize> {
        let part = name.rsplitn(3, '.').collect::<Vec<_>>();
        let (kind, module) = (part[0], part[1]);
        let (out, input) = match module {
            "embed_in" | "embed_out" => (VOCAB, WIDTH),
            "query_key_value" => (3 * WIDTH, WIDTH),
            "dense_h_to_4h" => (4 * WIDTH, WIDTH),
            "dense_4h_to_h" => (WIDTH, 4 * WIDTH),
            _ => (WIDTH, WIDTH),
        };
        if kind == "bias" || module.ends_with("norm") || module.ends_with("layernorm") {
            vec![out]
        } else {
            vec![out, input]
        }
    }
}

impl WeightSource for Pythia {
    fn path(&self) -> &Path {
        Path::new("pythia-160m of random weights")
    }

    fn config(&self) -> lm_saes::Result<Value> {
        Ok(json!({
            "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "vocab_size": VOCAB,
            "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 12,
            "intermediate_size": 4 * WIDTH, "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000,
            "max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "use_parallel_residual": true,
            "tie_word_embeddings": false
        }))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            ["gpt_neox.embed_in.weight", "embed_out.weight"].map(String::from).into();
        for kind in ["weight", "bias"] {
            names.push(format!("gpt_neox.final_layer_norm.{kind}"));
            for layer in 0..LAYERS {
                for module in [
                    "input_layernorm",
                    "post_attention_layernorm",
                    "attention.query_key_value",
                    "attention.dense",
                    "mlp.dense_h_to_4h",
                    "mlp.dense_4h_to_h",
                ] {
                    names.push(format!("gpt_neox.layers.{layer}.{module}.{kind}"));
                }
            }
        }
        names
    }

    fn f32(&self, name: &str) -> lm_saes::Result<(Vec<usize>, Vec<f32>)> {
        let shape = Self::shape(name);
        let n: usize = shape.iter().product();
        let seed = name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let spread = if shape.len() == 1 { 1.0 } else { 0.035 };
        let values =
            (0..n as u64).map(|i| lm_saes_kernels::philox::uniform(seed, i, -spread, spread)).collect();
        Ok((shape, values))
    }
}

fn main() {
    let device = registry().open("cpu").expect("the cpu device always opens");
    let mut q = Queue::new(&device).expect("a queue on the cpu");
    let lm = Lm::from_source(&mut q, &Pythia, &LanguageModelSettings::default()).expect("the shapes fit");
    let ids: Vec<u32> = (0..BATCH * LEN).map(|i| (i * 7919 % VOCAB) as u32).collect();
    let tokens = Tokens { ids: &ids, batch: BATCH, len: LEN, mask: None };

    let mut forward =
        || lm.run(&mut q, &tokens, Run { capture: &[HOOK], edit: None, logits: false }).expect("a forward");
    forward();
    let threads = rayon::current_num_threads() as f64;
    let rates: Vec<(f64, f64)> = (0..5).map(|_| timed(|| drop(forward()))).collect();
    let rate = |seconds: Vec<f64>| (BATCH * LEN) as f64 / median(seconds);
    println!(
        "median of 5: {:.0} tokens/s by wall clock, {:.0} by processor time on {threads} threads",
        rate(rates.iter().map(|r| r.0).collect()),
        rate(rates.iter().map(|r| r.1 / threads).collect()),
    );

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("pythia-160m shape");
    group.throughput(Throughput::Elements((BATCH * LEN) as u64));
    group.bench_function("forward to layer 6, 16 x 256", |b| {
        b.iter(&mut forward);
    });
    group.finish();
    criterion.final_summary();
}
