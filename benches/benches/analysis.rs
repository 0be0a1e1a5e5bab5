//! Feature analysis beside the encoder that feeds it: 16 384 features of width 768, top 50, contexts of 128 stored activations.
//! The rate of the whole pass over the encoder's own is what the goal of 0.8 is about.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lm_saes::{
    analysis::{Analyzer, HostCodes, Rules, Seen},
    dictionary::{RandomInit, build},
    settings::{AnalyzerSettings, DictionarySettings, from_tree},
};
use lm_saes_runtime::{Arena, Queue};
use serde_json::json;
use std::{hint::black_box, time::Duration};

const D_SAE: usize = 16_384;
const D_MODEL: usize = 768;
const K: usize = 50;
const LEN: usize = 128;
const CONTEXTS: usize = 16;

fn analysis(c: &mut Criterion) {
    let device = lm_saes_backends::registry().open("auto").expect("the cpu is always there");
    let mut q = Queue::new(&device).expect("a queue");
    let settings: DictionarySettings = from_tree(&json!({
        "sae_type": "sae", "d_model": D_MODEL, "expansion_factor": D_SAE as f64 / D_MODEL as f64,
        "hook_point_in": "a", "hook_point_out": "a", "act_fn": "topk", "top_k": K, "norm_activation": "inference",
    }))
    .expect("settings");
    let mut dictionary = build(&mut q, &settings).expect("a dictionary");
    let init = RandomInit { seed: 1, encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None };
    dictionary.init_random(&mut q, &init).expect("random weights");
    let rows = CONTEXTS * LEN;
    let mut plan = Arena::planning("bench");
    dictionary.plan(&mut plan, rows, K, None).expect("a plan");
    let mut arena = Arena::build(&plan, q.device()).expect("memory");
    dictionary.plan(&mut arena, rows, K, None).expect("a plan");
    // Batches that differ, so that samples are replaced as in a real stream.
    let batches: Vec<_> = (0..4u64)
        .map(|i| {
            let values: Vec<f32> = (0..rows * D_MODEL).map(|j| noise(i << 40 | j as u64)).collect();
            q.tensor(rows, D_MODEL, &values).expect("a batch")
        })
        .collect();
    let tokens: Vec<u32> = (0..rows as u32).collect();
    let mask = vec![1u8; rows];

    let mut group = c.benchmark_group("analysis 16384x768 k=50, 2048 tokens");
    group.throughput(Throughput::Elements(rows as u64));
    let mut next = 0;
    group.bench_function("encoder alone", |b| {
        b.iter(|| {
            next += 1;
            dictionary.forward(&mut q, &[batches[next % 4].view()], Some(LEN), K).expect("a forward");
            q.sync().expect("no failure");
        });
    });
    let mut analyzer = Analyzer::new(D_SAE, Rules::new(&AnalyzerSettings::of_tokens(1)));
    let mut whole = |analyzer: &mut Analyzer, q: &mut Queue, i: usize| {
        dictionary.forward(q, &[batches[i % 4].view()], Some(LEN), K).expect("a forward");
        let codes = HostCodes::download(q, dictionary.codes()[0]).expect("codes");
        analyzer
            .add(&Seen { codes: &codes, tokens: &tokens, mask: &mask, len: LEN, pad: 0 })
            .expect("finite codes");
        codes
    };
    // Past the beginning, where every context is kept.
    let codes: Vec<HostCodes> = (0..100).map(|i| whole(&mut analyzer, &mut q, i)).rev().take(4).collect();
    group.bench_function("encoder and analysis", |b| {
        b.iter(|| {
            next += 1;
            black_box(whole(&mut analyzer, &mut q, next));
        });
    });
    group.bench_function("analysis alone", |b| {
        b.iter(|| {
            next += 1;
            let codes = &codes[next % 4];
            analyzer
                .add(&Seen { codes, tokens: &tokens, mask: &mask, len: LEN, pad: 0 })
                .expect("finite codes");
        });
    });
    group.finish();
}

/// About normal, from a counter.
fn noise(n: u64) -> f32 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (0..4).map(|i| f32::from((z >> (16 * i)) as u16) / 65_536.0 - 0.5).sum()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_secs(2)).measurement_time(Duration::from_secs(12));
    targets = analysis
}
criterion_main!(benches);
