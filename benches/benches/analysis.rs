//! Feature analysis beside the encoder that feeds it: 16 384 features of width 768, top 50, contexts of 128 activations stored on
//! disk as `lm-saes generate` stores them. The rate of the whole pass over the encoder's own is what the goal of 0.8 is about.
//! First a table in which all parts take turns, so that the ratio holds on a busy machine, with the memory the state takes and
//! what `analyze --plan` says of it; then criterion's rows. `LM_SAES_BENCH_TOKENS` sets the tokens of the table (204 800; the
//! goal names 3 000 000); criterion's rows are left out with more than a million.

use criterion::{Criterion, Throughput};
use lm_saes::{
    activations::Target,
    analysis::{Analyzer, HostCodes, Rules, Seen},
    data::{Chunk, ChunkReader, ChunkWriter, Overflow, Place, Storage, TokenBatch, TokenPolicy},
    dictionary::{Dictionary, RandomInit, build},
    settings::{AnalyzerSettings, DictionarySettings, from_tree},
};
use lm_saes_benches::{median, timed};
use lm_saes_runtime::{Arena, Queue, Tensor};
use serde_json::json;
use std::{fs, hint::black_box, path::PathBuf, time::Duration};

const D_SAE: usize = 16_384;
const D_MODEL: usize = 768;
const K: usize = 50;
const LEN: usize = 128;
const CONTEXTS: usize = 16;
const ROWS: usize = CONTEXTS * LEN;
/// Batches on disk, which are read again and again. They differ, so that samples are replaced as in a real stream.
const BATCHES: u64 = 16;
const HOOK: &str = "a";

struct Bench {
    q: Queue,
    dictionary: Box<dyn Dictionary>,
    folder: PathBuf,
    stored: ChunkReader,
    batch: Option<(TokenBatch, Tensor)>,
    analyzer: Analyzer,
    _arena: Arena,
}

impl Bench {
    fn new() -> Self {
        let device = lm_saes_backends::registry().open("auto").expect("the cpu is always there");
        let mut q = Queue::new(&device).expect("a queue");
        let settings: DictionarySettings = from_tree(&json!({
            "sae_type": "sae", "d_model": D_MODEL, "expansion_factor": D_SAE as f64 / D_MODEL as f64,
            "hook_point_in": HOOK, "hook_point_out": HOOK, "act_fn": "topk", "top_k": K, "norm_activation": "inference",
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
        let (folder, stored) = store();
        let analyzer = Analyzer::new(D_SAE, rules());
        Self { q, dictionary, folder, stored, batch: None, analyzer, _arena: arena }
    }

    fn read(&mut self) {
        if self.stored.at_end() {
            self.stored.seek(Place::default());
        }
        let tokens = self.stored.next_batch().expect("a chunk").expect("not the end");
        let acts = self.stored.activations(&mut self.q, &[HOOK.into()], ROWS).expect("its activations");
        self.batch = acts.into_iter().next().map(|x| (tokens, x));
    }

    fn encode(&mut self) {
        let (_, x) = self.batch.as_ref().expect("a batch was read");
        self.dictionary.forward(&mut self.q, &[x.view()], Some(LEN), K).expect("a forward");
        self.q.sync().expect("no failure");
    }

    fn codes(&mut self) -> HostCodes {
        HostCodes::download(&mut self.q, self.dictionary.codes()[0]).expect("codes")
    }

    fn add(&mut self, codes: &HostCodes) {
        let (tokens, _) = self.batch.as_ref().expect("a batch was read");
        let seen = Seen { codes, tokens: &tokens.ids, mask: &tokens.mask, len: LEN, pad: 0 };
        self.analyzer.add(&seen).expect("finite codes");
    }

    fn whole(&mut self) {
        self.read();
        self.encode();
        let codes = self.codes();
        self.add(&codes);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn rules() -> Rules {
    Rules::new(&AnalyzerSettings::of_tokens(1))
}

/// Batches of contexts on disk.
fn store() -> (PathBuf, ChunkReader) {
    let folder = std::env::temp_dir().join(format!("lm-saes-bench-{}", std::process::id()));
    let mut writer = ChunkWriter::new(&folder, &[HOOK.into()], Storage::F32, Target::Activations2d);
    for i in 0..BATCHES {
        let values: Vec<f32> = (0..ROWS * D_MODEL).map(|j| noise(i << 40 | j as u64)).collect();
        let tokens: Vec<u32> = (0..ROWS as u32).map(|t| 1 + t + i as u32 * ROWS as u32).collect();
        let ones = vec![1; ROWS];
        let chunk = Chunk {
            lead: &[CONTEXTS, LEN],
            tokens: &tokens,
            mask: &ones,
            real: &ones,
            acts: &[values],
            meta: None,
        };
        writer.write(&chunk).expect("room on the disk");
    }
    let policy = TokenPolicy {
        context_size: Some(LEN),
        max_length: LEN,
        prepend_bos: false,
        bos: None,
        eos: None,
        pad: 0,
        overflow: Overflow::default(),
        ignore_token_ids: Vec::new(),
        mask_first_position: false,
    };
    let reader =
        ChunkReader::open(&folder, &[(HOOK.into(), folder.join(HOOK))], policy).expect("just written");
    (folder, reader)
}

/// A line of this process's status in MiB.
fn resident(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line =
        status.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    line.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Reading, encoding and what comes on top, taking turns over a stream of `tokens`.
fn table(b: &mut Bench, tokens: usize) {
    let mut times = [const { Vec::new() }; 4];
    let before = resident("VmRSS:");
    for i in 0..tokens.div_ceil(ROWS) {
        times[0].push(timed(|| b.read()));
        times[1].push(timed(|| b.encode()));
        let mut codes = None;
        times[2].push(timed(|| codes = Some(b.codes())));
        let codes = codes.expect("just made");
        times[3].push(timed(|| b.add(&codes)));
        // The first batches keep every context.
        if i == 20 {
            times.iter_mut().for_each(Vec::clear);
        }
        if i % 256 == 255 {
            println!("  after {:8} tokens: {:.0} MiB resident", b.analyzer.n_tokens(), resident("VmRSS:"));
        }
    }
    let sum = |own: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
    let threads = rayon::current_num_threads() as f64;
    for (name, own) in ["reading", "encoder", "download of codes", "statistics"].iter().zip(&times) {
        let wall = median(own.iter().map(|t| 1e3 * t.0).collect());
        let cpu = median(own.iter().map(|t| 1e3 * t.1 / threads).collect());
        println!("{name:18} {wall:8.2} ms wall, {cpu:8.2} ms of every core a batch of {ROWS} (medians)");
    }
    let ratio = |first: usize, of: fn(&(f64, f64)) -> f64| {
        let all: Vec<f64> = times.iter().map(|own| sum(own, of)).collect();
        all[1] / all[first..].iter().sum::<f64>()
    };
    println!(
        "{} tokens: rate of the pass ÷ rate of the encoder {:.3} by wall, {:.3} by processor time; reading included {:.3}, {:.3}",
        b.analyzer.n_tokens(),
        ratio(1, |t| t.0),
        ratio(1, |t| t.1),
        ratio(0, |t| t.0),
        ratio(0, |t| t.1)
    );
    let planned = rules().bytes(D_SAE, K as f64, LEN, tokens as u64) as f64 / 1_048_576.0;
    println!(
        "memory: {before:.0} MiB resident before, {:.0} after, {:.0} at most; planned for statistics and samples {planned:.0}",
        resident("VmRSS:"),
        resident("VmHWM:")
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
    let tokens = std::env::var("LM_SAES_BENCH_TOKENS").ok().and_then(|v| v.parse().ok()).unwrap_or(204_800);
    let mut b = Bench::new();
    table(&mut b, tokens);
    if tokens > 1_000_000 {
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(2))
        .measurement_time(Duration::from_secs(12))
        .configure_from_args();
    let mut group = criterion.benchmark_group("analysis 16384x768 k=50, 2048 tokens");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encoder alone", |bench| bench.iter(|| b.encode()));
    group.bench_function("reading, encoder and analysis", |bench| bench.iter(|| black_box(&mut b).whole()));
    group.finish();
    criterion.final_summary();
}
