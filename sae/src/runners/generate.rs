//! The job that writes a language model's activations to disk, for training, evaluating and analysing without running the model
//! again. It can be killed at any instant: snapshots hold the position in the text and the rows that wait in the buffer, and a
//! resumed run writes the chunks after its snapshot again, the same bytes.

use super::{
    train::Start,
    workbench::{Workbench, batch_rows, model_path},
};
use crate::{
    Error, Result,
    activations::Batch,
    data::{Chunk, ChunkWriter, Loss, Storage, check_empty},
    lm::Lm,
    parallel::{Axis, Mesh, MeshSize, Together, agree, on_primary},
    settings::{GenerateSettings, required_model},
    training::{Advance, BatchSource, LiveSource, Observer, snapshot},
};
use lm_saes_runtime::{Group, Queue, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

const STATE: &str = "generate.json";
const STREAM: &str = "stream.safetensors";

/// What a cache will take.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratePlan {
    /// Width of each hook point.
    pub widths: Vec<(String, usize)>,
    /// Tokens of a chunk.
    pub tokens_per_chunk: u64,
    /// Bytes of a token at all hook points, with its id and masks.
    pub bytes_per_token: u64,
    /// Chunks of each hook point, where the number of tokens is given.
    pub chunks: Option<u64>,
    /// Bytes on disk, likewise; less if the text ends before.
    pub bytes: Option<u64>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct GenerateReport {
    /// Whether it came to its end.
    pub complete: bool,
    /// Tokens, padding included, earlier processes' too.
    pub tokens: u64,
    /// Chunks of each hook point.
    pub chunks: u64,
    /// Chunks this process continued from.
    pub resumed_from: Option<u64>,
    /// Squared rounding errors as a share of the variance, by hook point; of what this process wrote, where storing rounds.
    pub losses: Vec<(String, f64)>,
    /// Tokens of this process, and its time.
    pub rate: (u64, Duration),
}

/// Position of a run, in its snapshot.
#[derive(Serialize, Deserialize)]
struct Saved {
    identity: Value,
    chunks: u64,
    tokens: u64,
    contexts: u64,
}

/// What a run would write; reads the model's configuration only.
///
/// # Errors
/// Whatever the settings or the model refuse.
pub fn plan_generate(s: &GenerateSettings) -> Result<GeneratePlan> {
    s.check()?;
    let (factory, _) = s.stream()?;
    let architecture = Lm::read_architecture(&model_path(required_model(&s.model, &s.model_name)?)?)?;
    let width = |h: &String| {
        let found = architecture.hook_width(h).ok_or_else(|| Error::Hook {
            name: h.clone(),
            model: s.model_name.clone().unwrap_or_else(|| "the model".into()),
            available: architecture.describe_hooks(),
        });
        Ok((h.clone(), found?))
    };
    let widths: Vec<(String, usize)> = s.hook_points.iter().map(width).collect::<Result<_>>()?;
    let per_chunk = batch_rows(&factory, factory.context_size)? * s.batches_per_chunk();
    // Token ids of eight bytes and two masks beside the activations.
    let bytes_per_token: usize = widths.iter().map(|w| s.storage().row_bytes(w.1) + 10).sum();
    let chunks = s.total_tokens.map(|t| t.div_ceil(per_chunk as u64));
    Ok(GeneratePlan {
        widths,
        tokens_per_chunk: per_chunk as u64,
        bytes_per_token: bytes_per_token as u64,
        chunks,
        bytes: chunks.map(|n| n * (per_chunk * bytes_per_token) as u64),
    })
}

/// Writes activations as the settings say.
///
/// # Errors
/// Whatever the settings, model, text, device or disk refuse; chunks that are there already and are not to be replaced.
pub fn generate(
    s: &GenerateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<GenerateReport> {
    generate_with(s, registry, observer, start, Group::solo())
}

/// [`generate`] as one of the ranks of `world`, which take model batches in turns, and in turns write chunks; the files are those
/// of one rank, bit for bit.
///
/// # Errors
/// As [`generate`]; settings that differ between ranks, or a rank that is missing.
pub fn generate_with(
    s: &GenerateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
    world: Group,
) -> Result<GenerateReport> {
    s.check()?;
    let (factory, datasets) = s.stream()?;
    let model = required_model(&s.model, &s.model_name)?;
    let size = MeshSize { data: world.size(), ..MeshSize::SOLO };
    let ranks = Mesh::new(world, size)?.world;
    let mut bench = Workbench::open(registry, &s.device_type, model, &factory, &datasets, observer)?;
    let q = &mut bench.q;
    if !ranks.is_solo() {
        observer.phase(&format!("{} ranks", ranks.size()));
        let chunks = [s.batches_per_chunk() as u64, s.total_tokens.unwrap_or(0), s.snapshot_seconds];
        let storage = format!("{:?}", s.storage());
        let all = json!({ "activation_factory": factory, "datasets": datasets, "model": model, "storage": storage,
                          "chunks": chunks, "output_dir": s.output_dir, "start": format!("{start:?}") });
        agree(q, &ranks, &all)?;
    }
    let resume = on_primary(q, &ranks, |_| prepare(s, start))?;
    let weights = bench.lm.weights_hash();
    let identity =
        json!([factory, datasets, model, s.storage(), s.batches_per_chunk(), bench.policy, weights]);
    // As it will look when read back.
    let identity: Value = serde_json::from_str(&identity.to_string()).unwrap_or(Value::Null);
    let producer = Together { model: &*bench.lm, ranks: ranks.clone() };
    let mut source = LiveSource { stream: bench.stream()?, model: &producer };
    let mut writer = ChunkWriter::new(&s.output_dir, &s.hook_points, s.storage(), s.target);
    let mut at = Saved { identity, chunks: 0, tokens: 0, contexts: 0 };
    if let Some(dir) = &resume {
        observer.phase(&format!("resuming from {}", dir.display()));
        let saved: Saved = snapshot::read_json(&dir.join(STATE))?;
        if saved.identity != at.identity {
            let what =
                "was made with other text, model or settings; set them back, or start again with --overwrite";
            return Err(Error::format(dir, what));
        }
        source.load_state(&mut bench.q, &dir.join(STREAM))?;
        (writer.next, at) = (saved.chunks, saved);
    }
    let resumed_from = resume.as_ref().map(|_| at.chunks);
    let pad = bench.policy.pad;
    let mut pass = Pass { s, source, writer, at, pad, ranks };
    let (complete, rate) = pass.run(&mut bench.q, observer)?;
    let Pass { ranks, writer, at, .. } = &mut pass;
    if complete {
        // The last chunks may still be written.
        ranks.barrier(&mut bench.q)?;
        on_primary(&mut bench.q, ranks, |_| {
            snapshot::clear(&s.output_dir)?;
            // Empty unless someone put something there.
            let _ = std::fs::remove_dir(snapshot::folder(&s.output_dir));
            Ok(())
        })?;
    }
    for loss in &mut writer.losses {
        let all = ranks.gather_bytes(&mut bench.q, bytemuck::cast_slice(&loss.numbers()))?;
        *loss = Loss::default();
        for bytes in all {
            loss.add(&bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect::<Vec<f64>>());
        }
    }
    let losses = s.hook_points.iter().cloned().zip(writer.losses.iter().map(|l| l.unexplained()));
    Ok(GenerateReport {
        complete,
        tokens: at.tokens,
        chunks: at.chunks,
        resumed_from,
        losses: if s.storage() == Storage::F32 { Vec::new() } else { losses.collect() },
        rate,
    })
}

/// The snapshot to continue from, if that was asked for; otherwise makes room for new chunks.
fn prepare(s: &GenerateSettings, start: Start) -> Result<Option<PathBuf>> {
    let found = snapshot::latest(&s.output_dir)?.filter(|_| start == Start::Resume);
    if found.is_none() {
        check_empty(&s.output_dir, &s.hook_points, start == Start::Overwrite)?;
        snapshot::clear(&s.output_dir)?;
    }
    Ok(found)
}

struct Pass<'a> {
    s: &'a GenerateSettings,
    source: LiveSource<'a>,
    writer: ChunkWriter,
    at: Saved,
    pad: u32,
    /// Those that write, in turns, a chunk each.
    ranks: Axis,
}

impl Pass<'_> {
    fn run(&mut self, q: &mut Queue, observer: &mut dyn Observer) -> Result<(bool, (u64, Duration))> {
        observer.phase("writing activations");
        let total = self.s.total_tokens.unwrap_or(u64::MAX);
        let every = Duration::from_secs(self.s.snapshot_seconds);
        let (began, from) = (Instant::now(), self.at.tokens);
        let (mut saved, mut saving) = (Instant::now(), Duration::ZERO);
        while self.at.tokens < total {
            let mut batches = Vec::new();
            while batches.len() < self.s.batches_per_chunk() {
                let Some(batch) = self.source.next(q)? else { break };
                batches.push(batch);
            }
            if batches.is_empty() {
                break;
            }
            // Batches of one chunk have one shape; the last of the text may be shorter and gets a chunk of its own.
            while let Some(first) = batches.first() {
                let rows = first.rows();
                let same = batches.iter().take_while(|b| b.rows() == rows).count();
                let chunk: Vec<Batch> = batches.drain(..same).collect();
                self.write(q, &chunk)?;
            }
            let done = self.at.tokens;
            let share = self.source.stream.progress().share.filter(|&s| s > 0.0);
            let expected = share.map_or(total, |s| ((done as f64 / s) as u64).clamp(done, total.max(done)));
            let per_second = (done - from) as f64 / began.elapsed().as_secs_f64().max(1e-9);
            let left = expected.saturating_sub(done) as f64 / per_second.max(1e-9);
            let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            let advance = Advance { what: "tokens", done, total: expected, per_second, remaining };
            let stop = observer.advanced(&advance).is_break();
            // Never more than a twentieth of the time.
            let due = saved.elapsed() >= every.max(if every.is_zero() { every } else { 20 * saving });
            // The first rank has the clock; and nothing is behind a snapshot that is not on disk.
            let mut told = [f64::from(u8::from(stop)), f64::from(u8::from(due && self.ranks.rank() == 0))];
            self.ranks.sum_f64(q, &mut told)?;
            let stop = told[0] > 0.0;
            if stop || told[1] > 0.0 {
                let began = Instant::now();
                let ranks = self.ranks.clone();
                observer.snapshot(&on_primary(q, &ranks, |q| self.save(q))?);
                (saved, saving) = (Instant::now(), began.elapsed());
            }
            if stop {
                return Ok((false, (self.at.tokens - from, began.elapsed())));
            }
        }
        Ok((true, (self.at.tokens - from, began.elapsed())))
    }

    fn save(&self, q: &mut Queue) -> Result<PathBuf> {
        snapshot::write(&self.s.output_dir, self.at.chunks, 1, |dir| {
            self.source.save_state(q, &dir.join(STREAM))?;
            snapshot::write_json(&dir.join(STATE), &self.at)
        })
    }

    /// Batches of one shape as one chunk, written by the rank whose turn it is.
    fn write(&mut self, q: &mut Queue, batches: &[Batch]) -> Result<()> {
        match self.at.chunks as usize % self.ranks.size() == self.ranks.rank() {
            true => self.write_chunk(q, batches)?,
            false => self.writer.next += 1,
        }
        self.at.chunks += 1;
        self.at.tokens += batches.iter().map(|b| b.rows() as u64).sum::<u64>();
        self.at.contexts += batches.iter().map(|b| b.contexts.map_or(0, |c| c.0 as u64)).sum::<u64>();
        Ok(())
    }

    fn write_chunk(&mut self, q: &mut Queue, batches: &[Batch]) -> Result<()> {
        let Some(first) = batches.first() else { return Ok(()) };
        let mut lead = match first.contexts {
            Some((n, len)) => vec![n, len],
            None => vec![first.rows()],
        };
        if self.s.n_samples_per_chunk.is_some() {
            lead.insert(0, batches.len());
        }
        let (mut tokens, mut mask, mut real) = (Vec::new(), Vec::new(), Vec::new());
        let mut acts: Vec<Vec<f32>> = vec![Vec::new(); self.s.hook_points.len()];
        for b in batches {
            tokens.extend(&b.tokens);
            mask.extend(&b.mask);
            real.extend(self.real(b));
            for (all, t) in acts.iter_mut().zip(&b.acts) {
                all.extend(q.download::<f32>(t)?);
            }
        }
        let meta = self.meta(batches);
        let chunk = Chunk {
            lead: &lead,
            tokens: &tokens,
            mask: &mask,
            real: &real,
            acts: &acts,
            meta: meta.as_ref(),
        };
        self.writer.write(&chunk)
    }

    /// 0 on the padding at the end of contexts.
    fn real(&self, b: &Batch) -> Vec<u8> {
        let Some((_, len)) = b.contexts else { return vec![1; b.rows()] };
        let of = |context: &[u32]| {
            let text = context.iter().rposition(|&t| t != self.pad).map_or(0, |last| last + 1);
            (0..len).map(move |t| u8::from(t < text)).collect::<Vec<u8>>()
        };
        b.tokens.chunks(len).flat_map(of).collect()
    }

    /// Where each context came from; unknown once they were shuffled.
    fn meta(&self, batches: &[Batch]) -> Option<Value> {
        if self.s.buffer_size.is_some() {
            return None;
        }
        let mut next = self.at.contexts;
        let mut lists = Vec::new();
        for b in batches {
            let (n, _) = b.contexts?;
            let model = self.s.model.as_ref().map(|m| m.model_name.as_str());
            let one = |i: u64| {
                json!({
                    "context_idx": i,
                    "dataset_name": self.s.dataset_name,
                    "model_name": self.s.model_name.as_deref().or(model),
                    "shard_idx": 0,
                    "n_shards": 1,
                })
            };
            lists.push((next..next + n as u64).map(one).collect::<Vec<Value>>());
            next += n as u64;
        }
        match self.s.n_samples_per_chunk {
            Some(_) => Some(json!(lists)),
            None => lists.pop().map(|l| json!(l)),
        }
    }
}
