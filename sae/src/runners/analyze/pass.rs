//! The pass over the text: activations in, statistics out, a snapshot now and then.

use super::AnalysisJob;
use crate::{
    Error, Result,
    activations::Batch,
    analysis::{Analyzer, Encoder, Seen},
    data::TokenBatch,
    dictionary::Dictionary,
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
    /// One for each of `layers`.
    pub analyzers: Vec<Analyzer>,
    /// Layers of features, for a dictionary that has several.
    pub layers: &'a [Option<usize>],
    pub source: LiveSource<'a>,
    pub encoder: Encoder,
    pub pad: u32,
    pub job: &'a AnalysisJob<'a>,
    pub identity: Value,
}

/// The state of analyzer `i` in a snapshot.
fn state(dir: &Path, i: usize) -> PathBuf {
    dir.join(if i == 0 { "analysis.bin".into() } else { format!("analysis_{i}.bin") })
}

impl Pass<'_> {
    /// Continues, refuses or throws away an unfinished run; returns the tokens it had seen.
    pub fn start(&mut self, q: &mut Queue, start: Start, observer: &mut dyn Observer) -> Result<Option<u64>> {
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
                observer.phase(&format!("resuming from {}", dir.display()));
                let saved: Value = snapshot::read_json(&dir.join(IDENTITY))?;
                if saved != self.identity {
                    let what = "was made with another dictionary, text, model or other settings; set them back, or start again with --overwrite";
                    return Err(Error::format(dir, what));
                }
                for (i, analyzer) in self.analyzers.iter_mut().enumerate() {
                    analyzer.load(&state(&dir, i))?;
                }
                self.source.load_state(q, &dir.join(STREAM))?;
                Ok(Some(self.n_tokens()))
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
        let (began, from) = (Instant::now(), self.n_tokens());
        let mut saved = Instant::now();
        let mut saving = Duration::ZERO;
        while self.n_tokens() < total {
            let Some(mut batch) = self.source.next(q)? else { break };
            let Some((_, len)) = batch.contexts else {
                return Err(Error::setting("activation_factory.target", "must be activations-2d"));
            };
            let hooks = self.source.hook_points();
            self.encoder.forward(q, dictionary, hooks, &mut batch)?;
            let rows = batch.tokens.len();
            let together = self.encoder.rows_at_once(dictionary, len);
            for at in (0..rows).step_by(together).map(|start| start..(start + together).min(rows)) {
                let (tokens, mask) = (&batch.tokens[at.clone()], &batch.mask[at.clone()]);
                for (&layer, analyzer) in self.layers.iter().zip(&mut self.analyzers) {
                    let codes = &self.encoder.codes_at(q, dictionary, layer, at.clone())?;
                    analyzer.add(&Seen { codes, tokens, mask, len, pad: self.pad })?;
                }
            }
            let done = self.n_tokens();
            let share = self.source.stream.progress().share.filter(|&s| s > 0.0);
            let expected = share.map_or(total, |s| ((done as f64 / s) as u64).clamp(done, total.max(done)));
            let advance = advance("tokens", done, from, expected, began.elapsed());
            let stop = observer.advanced(&advance).is_break();
            // Never more than a twentieth of the time.
            if stop || saved.elapsed() >= every.max(if every.is_zero() { every } else { 20 * saving }) {
                let began = Instant::now();
                observer.snapshot(&self.save(q)?);
                (saved, saving) = (Instant::now(), began.elapsed());
            }
            if stop {
                return Ok((false, (self.n_tokens() - from, began.elapsed())));
            }
        }
        if self.analyzers.iter().all(|a| a.n_analyzed_tokens() == 0) {
            let what = "no token of the text counted, so there is nothing to analyse; see ignore_token_ids and datasets";
            return Err(Error::Data { what: what.into() });
        }
        let rate = (self.n_tokens() - from, began.elapsed());
        // What follows is killed without loss too.
        self.save(q)?;
        Ok((true, rate))
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
