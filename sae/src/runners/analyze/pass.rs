//! The pass over the text: activations in, statistics out, a snapshot now and then.

use super::AnalysisJob;
use crate::{
    Error, Result,
    activations::Batch,
    analysis::{Analyzer, Encoder, HostCodes, Seen},
    data::TokenBatch,
    dictionary::Dictionary,
    parallel::{Axis, on_primary},
    runners::train::Start,
    store::Sample,
    training::{Advance, BatchSource, LiveSource, Observer, snapshot},
};
use lm_saes_runtime::Queue;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const STREAM: &str = "stream.safetensors";
const IDENTITY: &str = "identity.json";

/// The pass over the text.
pub(super) struct Pass<'a> {
    /// One for each of `layers`, on the first rank.
    pub analyzers: Vec<Analyzer>,
    /// Layers of features, for a dictionary that has several.
    pub layers: &'a [Option<usize>],
    pub source: LiveSource<'a>,
    pub encoder: Encoder,
    pub pad: u32,
    pub job: &'a AnalysisJob<'a>,
    pub identity: Value,
    /// Those that take batches in turns.
    pub ranks: Axis,
    /// Tokens of all batches so far, the same on every rank.
    pub seen: u64,
}

/// The state of analyzer `i` in a snapshot.
fn state(dir: &Path, i: usize) -> PathBuf {
    dir.join(if i == 0 { "analysis.bin".into() } else { format!("analysis_{i}.bin") })
}

impl Pass<'_> {
    /// Continues, refuses or throws away an unfinished run; returns the tokens it had seen.
    pub fn start(&mut self, q: &mut Queue, start: Start, observer: &mut dyn Observer) -> Result<Option<u64>> {
        let ranks = self.ranks.clone();
        let Some(dir) = on_primary(q, &ranks, |_| self.find(start))? else { return Ok(None) };
        observer.phase(&format!("resuming from {}", dir.display()));
        for (i, analyzer) in self.analyzers.iter_mut().enumerate() {
            analyzer.load(&state(&dir, i))?;
        }
        self.source.load_state(q, &dir.join(STREAM))?;
        // The first rank has the analyzers.
        let mut seen = [self.n_tokens() as f64];
        ranks.sum_f64(q, &mut seen)?;
        self.seen = seen[0] as u64;
        Ok(Some(self.seen))
    }

    /// The snapshot to continue from; without one, makes room.
    fn find(&self, start: Start) -> Result<Option<PathBuf>> {
        let root = self.job.work_dir;
        let found = snapshot::latest(root)?;
        match (start, found) {
            (Start::Fresh, Some(dir)) => {
                let what = format!(
                    "{} is an unfinished analysis; continue it with --resume or throw it away with --overwrite",
                    dir.display()
                );
                Err(Error::Data { what })
            }
            (Start::Resume, Some(dir)) => {
                let saved: Value = snapshot::read_json(&dir.join(IDENTITY))?;
                if saved != self.identity {
                    let what = "was made with another dictionary, text, model or other settings; set them back, or start again with --overwrite";
                    return Err(Error::format(dir, what));
                }
                Ok(Some(dir))
            }
            _ => {
                snapshot::clear(root)?;
                Ok(None)
            }
        }
    }

    /// Tokens seen, the same in every layer.
    fn n_tokens(&self) -> u64 {
        self.analyzers.first().map_or(0, Analyzer::n_tokens)
    }

    fn save(&self, q: &mut Queue) -> Result<PathBuf> {
        snapshot::write(self.job.work_dir, self.n_tokens(), 1, |dir| {
            for (i, analyzer) in self.analyzers.iter().enumerate() {
                analyzer.save(&state(dir, i))?;
            }
            self.source.save_state(q, &dir.join(STREAM))?;
            snapshot::write_json(&dir.join(IDENTITY), &self.identity)
        })
    }

    pub fn run(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        observer: &mut dyn Observer,
    ) -> Result<(bool, (u64, Duration))> {
        observer.phase("analysing");
        let total = self.job.settings.total_analyzing_tokens;
        let every = Duration::from_secs(self.job.settings.snapshot_seconds);
        let (began, from) = (Instant::now(), self.seen);
        let mut saved = Instant::now();
        let mut saving = Duration::ZERO;
        while self.seen < total {
            let mut round = self.round(q, total)?;
            if round.is_empty() {
                break;
            }
            self.analyse(q, dictionary, &mut round)?;
            let done = self.seen;
            let share = self.source.stream.progress().share.filter(|&s| s > 0.0);
            let expected = share.map_or(total, |s| ((done as f64 / s) as u64).clamp(done, total.max(done)));
            let advance = advance("tokens", done, from, expected, began.elapsed());
            // One rank's wish to stop is everybody's.
            let stop = self.ranks.total(q, usize::from(observer.advanced(&advance).is_break()))? > 0;
            // Never more than a twentieth of the time.
            let due = saved.elapsed() >= every.max(if every.is_zero() { every } else { 20 * saving });
            if self.is_primary() && (stop || due) {
                let began = Instant::now();
                observer.snapshot(&self.save(q)?);
                (saved, saving) = (Instant::now(), began.elapsed());
            }
            if stop {
                return Ok((false, (self.seen - from, began.elapsed())));
            }
        }
        let rate = (self.seen - from, began.elapsed());
        if self.is_primary() {
            if self.analyzers.iter().all(|a| a.n_analyzed_tokens() == 0) {
                let what = "no token of the text counted, so there is nothing to analyse; see ignore_token_ids and datasets";
                return Err(Error::Data { what: what.into() });
            }
            // What follows is killed without loss too.
            self.save(q)?;
        }
        Ok((true, rate))
    }

    /// Whether this rank has the analyzers.
    fn is_primary(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// A batch for each rank, or as many as there are; all ranks see all, and keep the activations of their own.
    fn round(&mut self, q: &mut Queue, total: u64) -> Result<Vec<Batch>> {
        let mut round = Vec::new();
        while round.len() < self.ranks.size() && self.seen < total {
            let Some(mut batch) = self.source.next(q)? else { break };
            if batch.contexts.is_none() {
                return Err(Error::setting("activation_factory.target", "must be activations-2d"));
            }
            self.seen += batch.rows() as u64;
            if round.len() != self.ranks.rank() {
                batch.acts.clear();
            }
            round.push(batch);
        }
        Ok(round)
    }

    /// Encodes this rank's batch of a round while the others encode theirs. Then the first rank sees the codes of all, batch by batch,
    /// in pieces that fit into memory.
    fn analyse(&mut self, q: &mut Queue, dictionary: &mut dyn Dictionary, round: &mut [Batch]) -> Result<()> {
        let rank = self.ranks.rank();
        if let Some(own) = round.get_mut(rank) {
            self.encoder.forward(q, dictionary, self.source.hook_points(), own)?;
        }
        for (owner, batch) in round.iter().enumerate() {
            // What the first rank encoded is no other rank's business.
            if owner == 0 && rank > 0 {
                continue;
            }
            let (rows, len) = (batch.rows(), batch.contexts.map_or(1, |(_, len)| len));
            let mut at = 0..0;
            while at.end < rows {
                // How large a piece is only its owner knows; the others see it.
                at = at.end..match owner == rank {
                    true => (at.end + self.encoder.rows_at_once(dictionary, len)).min(rows),
                    false => rows,
                };
                for (i, &layer) in self.layers.iter().enumerate() {
                    let own = match owner == rank {
                        true => Some(self.encoder.codes_at(q, dictionary, layer, at.clone())?),
                        false => None,
                    };
                    let codes = self.told(q, owner, own)?;
                    at.end = at.start + codes.rows();
                    if at.end > rows {
                        let what =
                            format!("rank {owner} gave codes of {} rows for a batch of {rows}", at.end);
                        return Err(Error::Data { what });
                    }
                    if let Some(analyzer) = self.analyzers.get_mut(i) {
                        let (tokens, mask) = (&batch.tokens[at.clone()], &batch.mask[at.clone()]);
                        analyzer.add(&Seen { codes: &codes, tokens, mask, len, pad: self.pad })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The codes that rank `owner` has; those of the first rank stay there.
    fn told(&self, q: &mut Queue, owner: usize, own: Option<HostCodes>) -> Result<HostCodes> {
        match own {
            Some(codes) if owner == 0 => Ok(codes),
            own => {
                let bytes = own.map_or_else(Vec::new, |codes| codes.to_bytes());
                HostCodes::from_bytes(&self.ranks.gather_bytes(q, &bytes)?[owner])
            }
        }
    }
}

/// Contributions to the activations of a feature in a context: query, key, value.
pub(super) type Patterns = HashMap<(u32, u32), Vec<(u32, u32, f32)>>;

impl Pass<'_> {
    /// For a dictionary with attention, where the activations of the first sampling of every feature come from: its contexts
    /// run once more, one by one. Contributions below a hundredth of the activation are left out (ANALYSIS §3).
    pub fn patterns(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        observer: &mut dyn Observer,
    ) -> Result<Patterns> {
        let mut all = Patterns::new();
        let [analyzer] = &self.analyzers[..] else { return Ok(all) };
        // Samples are many: no list of them is made for a dictionary without attention.
        if dictionary.settings().variant.facts().longest_context().is_none() {
            return Ok(all);
        }
        let mut wanted: BTreeMap<u32, Vec<(u32, Sample)>> = BTreeMap::new();
        for f in 0..dictionary.d_sae() as u32 {
            for sample in analyzer.samplings(f).into_iter().take(1).flat_map(|s| s.samples) {
                wanted.entry(sample.context).or_default().push((f, sample));
            }
        }
        let (total, began) = (wanted.len() as u64, Instant::now());
        for (n, (context, samples)) in (1..).zip(wanted) {
            let ids = analyzer.context(context).unwrap_or_default().to_vec();
            let len = ids.len();
            let tokens =
                TokenBatch { mask: vec![1; len], lengths: vec![len], batch: 1, len, ids: ids.clone() };
            let hooks = self.source.hook_points().to_vec();
            let acts = self.source.model.activations(q, &hooks, &tokens)?;
            let mut batch =
                Batch { acts, tokens: ids, mask: tokens.mask, contexts: Some((1, len)), n_valid: len };
            let features: Vec<usize> = samples.iter().map(|(f, _)| *f as usize).collect();
            let mut of = samples.iter();
            let done = self.encoder.z_patterns(q, dictionary, &hooks, &mut batch, &features, |q, z| {
                let Some((feature, sample)) = of.next() else { return Ok(()) };
                let mut found = Vec::new();
                for &(at, act) in &sample.acts {
                    let row: Vec<f32> = q.download(z.rows_view(at as usize..at as usize + 1))?;
                    let kept = (0u32..).zip(row).filter(|(_, v)| v.abs() >= 0.01 * act.abs() && *v != 0.0);
                    found.extend(kept.map(|(key, v)| (at, key, v)));
                }
                found.shrink_to_fit();
                all.insert((*feature, context), found);
                Ok(())
            });
            match done {
                Err(Error::Unsupported { .. }) => return Ok(Patterns::new()),
                done => done?,
            }
            let _ = observer.advanced(&advance("contexts looked at again", n, 0, total, began.elapsed()));
        }
        Ok(all)
    }
}

pub(in crate::runners) fn advance(
    what: &'static str,
    done: u64,
    from: u64,
    total: u64,
    elapsed: Duration,
) -> Advance {
    let per_second = (done - from) as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = total.saturating_sub(done) as f64 / per_second.max(1e-9);
    let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
    Advance { what, done, total, per_second, remaining }
}
