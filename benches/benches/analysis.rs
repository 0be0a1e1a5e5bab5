//! Feature analysis beside the encoder that feeds it: 16 384 features of width 768, top 50, contexts of 128 stored activations.
//! The rate of the whole pass over the encoder's own is what the goal of 0.8 is about. First a table in which both take
//! turns, so that the ratio holds on a busy machine, then criterion's rows. `ANALYSIS_TOKENS` sets the tokens of the table
//! (204 800; the goal names 3 000 000).

use criterion::{Criterion, Throughput};
use lm_saes::{
    analysis::{Analyzer, HostCodes, Rules, Seen},
    dictionary::{Dictionary, RandomInit, build},
    settings::{AnalyzerSettings, DictionarySettings, from_tree},
};
use lm_saes_benches::{median, timed};
use lm_saes_runtime::{Arena, Queue, Tensor};
use serde_json::json;
use std::{hint::black_box, time::Duration};

const D_SAE: usize = 16_384;
const D_MODEL: usize = 768;
const K: usize = 50;
const LEN: usize = 128;
const CONTEXTS: usize = 16;
const ROWS: usize = CONTEXTS * LEN;
/// Batches that differ, so that samples are replaced as in a real stream.
const BATCHES: usize = 4;

struct Bench {
    q: Queue,
    dictionary: Box<dyn Dictionary>,
    batches: Vec<Tensor>,
    tokens: Vec<u32>,
    mask: Vec<u8>,
    analyzer: Analyzer,
    next: usize,
    _arena: Arena,
}

impl Bench {
    fn new() -> Self {
        let device = lm_saes_backends::registry().open("auto").expect("the cpu is always there");
        let mut q = Queue::new(&device).expect("a queue");
        let settings: DictionarySettings = from_tree(&json!({
            "sae_type": "sae", "d_model": D_MODEL, "expansion_factor": D_SAE as f64 / D_MODEL as f64,
            "hook_point_in": "a", "hook_point_out": "a", "act_fn": "topk", "top_k": K, "norm_activation": "inference",
        }))
        .expect("settings");
        let mut dictionary = build(&mut q, &settings).expect("a dictionary");
        let init =
            RandomInit { seed: 1, encoder_bound: 1.0, decoder_bound: 1.0, log_jumprelu_threshold: None };
        dictionary.init_random(&mut q, &init).expect("random weights");
        let mut plan = Arena::planning("bench");
        dictionary.plan(&mut plan, ROWS, K, None).expect("a plan");
        let mut arena = Arena::build(&plan, q.device()).expect("memory");
        dictionary.plan(&mut arena, ROWS, K, None).expect("a plan");
        let batches = (0..BATCHES as u64)
            .map(|i| {
                let values: Vec<f32> = (0..ROWS * D_MODEL).map(|j| noise(i << 40 | j as u64)).collect();
                q.tensor(ROWS, D_MODEL, &values).expect("a batch")
            })
            .collect();
        let analyzer = Analyzer::new(D_SAE, Rules::new(&AnalyzerSettings::of_tokens(1)));
        let (tokens, mask) = ((0..ROWS as u32).collect(), vec![1u8; ROWS]);
        Self { q, dictionary, batches, tokens, mask, analyzer, next: 0, _arena: arena }
    }

    fn encode(&mut self) {
        self.next += 1;
        let x = self.batches[self.next % BATCHES].view();
        self.dictionary.forward(&mut self.q, &[x], Some(LEN), K).expect("a forward");
        self.q.sync().expect("no failure");
    }

    fn codes(&mut self) -> HostCodes {
        HostCodes::download(&mut self.q, self.dictionary.codes()[0]).expect("codes")
    }

    fn add(&mut self, codes: &HostCodes) {
        let seen = Seen { codes, tokens: &self.tokens, mask: &self.mask, len: LEN, pad: 0 };
        self.analyzer.add(&seen).expect("finite codes");
    }

    fn whole(&mut self) {
        self.encode();
        let codes = self.codes();
        self.add(&codes);
    }
}

/// Encoding and what comes on top, taking turns over a stream of `tokens`.
fn table(b: &mut Bench, tokens: usize) {
    let mut times = [const { Vec::new() }; 3];
    for i in 0..tokens.div_ceil(ROWS) {
        times[0].push(timed(|| b.encode()));
        let mut codes = None;
        times[1].push(timed(|| codes = Some(b.codes())));
        let codes = codes.expect("just made");
        times[2].push(timed(|| b.add(&codes)));
        // The first batches keep every context.
        if i == 20 {
            times.iter_mut().for_each(Vec::clear);
        }
    }
    let sum = |own: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
    let threads = rayon::current_num_threads() as f64;
    for (name, own) in ["encoder", "download of codes", "statistics"].iter().zip(&times) {
        let wall = median(own.iter().map(|t| 1e3 * t.0).collect());
        let cpu = median(own.iter().map(|t| 1e3 * t.1 / threads).collect());
        println!("{name:18} {wall:8.2} ms wall, {cpu:8.2} ms of every core a batch of {ROWS} (medians)");
    }
    let ratio = |of: fn(&(f64, f64)) -> f64| {
        let all: Vec<f64> = times.iter().map(|own| sum(own, of)).collect();
        all[0] / all.iter().sum::<f64>()
    };
    println!(
        "{} tokens: rate of the pass ÷ rate of the encoder {:.3} by wall, {:.3} by processor time",
        b.analyzer.n_tokens(),
        ratio(|t| t.0),
        ratio(|t| t.1)
    );
}

/// About normal, from a counter.
fn noise(n: u64) -> f32 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (0..4).map(|i| f32::from((z >> (16 * i)) as u16) / 65_536.0 - 0.5).sum()
}

fn main() {
    let tokens = std::env::var("ANALYSIS_TOKENS").ok().and_then(|v| v.parse().ok()).unwrap_or(204_800);
    let mut b = Bench::new();
    table(&mut b, tokens);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(12))
        .configure_from_args();
    let mut group = criterion.benchmark_group("analysis 16384x768 k=50, 2048 tokens");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encoder alone", |bench| bench.iter(|| b.encode()));
    group.bench_function("encoder and analysis", |bench| bench.iter(|| black_box(&mut b).whole()));
    group.finish();
    criterion.final_summary();
}
