//! The analysis job: a saved dictionary over text, one pass, into a store. It can be killed at any instant: snapshots hold
//! the analyzer and the position in the text together, and readers of the store see the earlier analysis until the end.

use super::{
    train::Start,
    workbench::{Workbench, load_pretrained},
};
use crate::{
    Error, Result,
    activations::Batch,
    analysis::{Analyzer, Decoders, Encoder, Rules, Seen, output_tokens},
    data::TokenBatch,
    dictionary::Dictionary,
    lm::Tokenizer,
    settings::{AnalyzeSettings, AnalyzerSettings, required_model},
    store::{
        self, AnalysisRecord, Context, DictionaryKey, DictionaryRecord, FeatureAnalysis, Logits, Related,
        Sample, Store,
    },
    training::{Advance, BatchSource, LiveSource, Observer, snapshot},
};
use lm_saes_runtime::{Queue, Registry};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const STATE: &str = "analysis.bin";
const STREAM: &str = "stream.safetensors";
const IDENTITY: &str = "identity.json";
/// Features and contexts written at a time.
const WRITTEN: usize = 1024;
/// Tokens before and after the peak in a feature's preview.
const AROUND: u32 = 10;
/// Most texts of peak tokens kept.
const PEAK_TOKENS: usize = 20;

/// What to do with a dictionary that is open.
pub struct AnalysisJob<'a> {
    /// How it is registered.
    pub dictionary: DictionaryRecord,
    /// Name of the analysis.
    pub name: &'a str,
    /// What is looked at.
    pub settings: &'a AnalyzerSettings,
    /// Where snapshots are kept; gone in the end.
    pub work_dir: &'a Path,
    /// Everything else the record should say of how it was made.
    pub about: Value,
}

/// What an analysis gave.
#[derive(Clone, Debug)]
pub struct AnalyzeReport {
    /// How it is registered.
    pub key: DictionaryKey,
    /// Whether it came to its end; otherwise a snapshot was written.
    pub complete: bool,
    /// Tokens that counted.
    pub n_analyzed_tokens: u64,
    /// Contexts.
    pub n_contexts: u64,
    /// Features that fired, of all.
    pub alive: usize,
    /// Features.
    pub d_sae: usize,
    /// Tokens this process continued from.
    pub resumed_from: Option<u64>,
    /// Tokens of this process and the time they took, model included.
    pub rate: (u64, Duration),
}

/// Analyses as the settings say, everything opened and closed here.
///
/// # Errors
/// Whatever the settings, checkpoint, data, device or store refuse.
pub fn analyze(
    settings: &AnalyzeSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<AnalyzeReport> {
    settings.check()?;
    let model = required_model(&settings.model, &settings.model_name)?;
    let mut factory = settings.activation_factory.clone();
    if let Some(ignored) = &settings.analyzer.ignore_token_ids {
        factory.ignore_token_ids.get_or_insert_default().extend(ignored);
    }
    let store = store::open(&settings.store_address())?;
    let mut bench =
        Workbench::open(registry, &settings.device_type, model, &factory, &settings.datasets, observer)?;
    // Not folded: activations are normalised as the dictionary says, which needs its norms as they are.
    let mut dictionary = load_pretrained(&mut bench.q, &settings.sae, false)?.dictionary;
    let path = &settings.sae.pretrained_name_or_path;
    let name = settings.model_name.clone().unwrap_or_else(|| model.model_name.clone());
    let key = DictionaryKey::new(&settings.sae_name, &settings.sae_series);
    let work_dir = settings.work_dir();
    let job = AnalysisJob {
        dictionary: AnalysisJob::record(key, path, &*dictionary, Some(name))?,
        name: &settings.feature_analysis_name,
        settings: &settings.analyzer,
        work_dir: &work_dir,
        about: json!({ "model": model }),
    };
    analyze_on(&mut bench, &mut *dictionary, &job, &*store, observer, start)
}

impl AnalysisJob<'_> {
    /// How a dictionary at `path` is registered.
    pub fn record(
        key: DictionaryKey,
        path: &Path,
        dictionary: &dyn Dictionary,
        model_name: Option<String>,
    ) -> Result<DictionaryRecord> {
        let cfg =
            serde_json::to_value(dictionary.settings()).map_err(|e| Error::format(path, e.to_string()))?;
        let path = path.canonicalize().unwrap_or_else(|_| path.into()).display().to_string();
        Ok(DictionaryRecord { key, path, cfg, d_sae: dictionary.d_sae() as u32, model_name })
    }

    /// What has to agree for a snapshot to be continued.
    fn identity(&self, bench: &Workbench) -> Value {
        let mut settings = json!(self.settings);
        if let Some(map) = settings.as_object_mut() {
            // These do not change what is kept.
            for key in
                ["snapshot_seconds", "total_analyzing_tokens", "n_neighbours", "n_logits", "n_coactivations"]
            {
                map.remove(key);
            }
        }
        let mut factory = json!(bench.factory);
        if let Some(map) = factory.as_object_mut() {
            map.remove("model_batch_size");
        }
        let d = &self.dictionary;
        let identity =
            json!([d.path, d.cfg, settings, factory, bench.datasets, bench.policy, bench.lm.name()]);
        // As it will look when read back.
        serde_json::from_str(&identity.to_string()).unwrap_or(Value::Null)
    }
}

/// Analyses an open dictionary on an open workbench, whose factory gives whole contexts.
pub fn analyze_on(
    bench: &mut Workbench,
    dictionary: &mut dyn Dictionary,
    job: &AnalysisJob<'_>,
    store: &dyn Store,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<AnalyzeReport> {
    job.settings.check()?;
    for hook in dictionary.hook_points_in() {
        bench.lm.hook_width(&hook)?;
    }
    let rows = bench.batch_rows()?;
    let identity = job.identity(bench);
    let mut pass = Pass {
        analyzer: Analyzer::new(dictionary.d_sae(), Rules::new(job.settings)),
        source: LiveSource { stream: bench.stream()?, model: &*bench.lm },
        encoder: Encoder::new(&mut bench.q, dictionary, rows, job.settings.clt_layer)?,
        pad: bench.policy.pad,
        job,
        identity,
    };
    let q = &mut bench.q;
    let resumed_from = pass.start(q, start, observer)?;
    let (complete, rate) = pass.run(q, dictionary, observer)?;
    let patterns = if complete { pass.patterns(q, dictionary, observer)? } else { Patterns::new() };
    let Pass { analyzer, encoder, .. } = pass;
    drop(encoder);
    let report = AnalyzeReport {
        key: job.dictionary.key.clone(),
        complete,
        n_analyzed_tokens: analyzer.n_analyzed_tokens(),
        n_contexts: analyzer.n_contexts().into(),
        alive: analyzer.alive(),
        d_sae: dictionary.d_sae(),
        resumed_from,
        rate,
    };
    if complete {
        let directions = Directions::of(bench, dictionary, job.settings, observer)?;
        let found = Found { analyzer, directions, patterns };
        found.write(bench, job, store, observer)?;
        snapshot::clear(job.work_dir)?;
        // Empty unless someone put something there.
        let _ = std::fs::remove_dir(snapshot::folder(job.work_dir));
        let _ = std::fs::remove_dir(job.work_dir);
    }
    Ok(report)
}

/// The pass over the text.
struct Pass<'a> {
    analyzer: Analyzer,
    source: LiveSource<'a>,
    encoder: Encoder,
    pad: u32,
    job: &'a AnalysisJob<'a>,
    identity: Value,
}

impl Pass<'_> {
    /// Continues, refuses or throws away an unfinished run; returns the tokens it had seen.
    fn start(&mut self, q: &mut Queue, start: Start, observer: &mut dyn Observer) -> Result<Option<u64>> {
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
                self.analyzer.load(&dir.join(STATE))?;
                self.source.load_state(q, &dir.join(STREAM))?;
                Ok(Some(self.analyzer.n_tokens()))
            }
            _ => {
                snapshot::clear(root)?;
                Ok(None)
            }
        }
    }

    fn save(&self, q: &mut Queue) -> Result<PathBuf> {
        snapshot::write(self.job.work_dir, self.analyzer.n_tokens(), 1, |dir| {
            self.analyzer.save(&dir.join(STATE))?;
            self.source.save_state(q, &dir.join(STREAM))?;
            snapshot::write_json(&dir.join(IDENTITY), &self.identity)
        })
    }

    fn run(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        observer: &mut dyn Observer,
    ) -> Result<(bool, (u64, Duration))> {
        observer.phase("analysing");
        let total = self.job.settings.total_analyzing_tokens;
        let every = Duration::from_secs(self.job.settings.snapshot_seconds);
        let (began, from) = (Instant::now(), self.analyzer.n_tokens());
        let mut saved = Instant::now();
        let mut saving = Duration::ZERO;
        while self.analyzer.n_tokens() < total {
            let Some(mut batch) = self.source.next(q)? else { break };
            let Some((_, len)) = batch.contexts else {
                return Err(Error::setting("activation_factory.target", "must be activations-2d"));
            };
            let hooks = self.source.hook_points();
            let codes = self.encoder.codes(q, dictionary, hooks, &mut batch)?;
            let seen = Seen { codes: &codes, tokens: &batch.tokens, mask: &batch.mask, len, pad: self.pad };
            self.analyzer.add(&seen)?;
            let done = self.analyzer.n_tokens();
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
                return Ok((false, (self.analyzer.n_tokens() - from, began.elapsed())));
            }
        }
        if self.analyzer.n_analyzed_tokens() == 0 {
            let what = "no token of the text counted, so there is nothing to analyse; see ignore_token_ids and datasets";
            return Err(Error::Data { what: what.into() });
        }
        let rate = (self.analyzer.n_tokens() - from, began.elapsed());
        // What follows is killed without loss too.
        self.save(q)?;
        Ok((true, rate))
    }
}

/// Contributions to the activations of a feature in a context: query, key, value.
type Patterns = HashMap<(u32, u32), Vec<(u32, u32, f32)>>;

impl Pass<'_> {
    /// For a dictionary with attention, where the activations of the first sampling of every feature come from: its contexts
    /// run once more, one by one. Contributions below a hundredth of the activation are left out (ANALYSIS §3).
    fn patterns(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        observer: &mut dyn Observer,
    ) -> Result<Patterns> {
        let mut all = Patterns::new();
        let mut wanted: BTreeMap<u32, Vec<(u32, Sample)>> = BTreeMap::new();
        for f in 0..dictionary.d_sae() as u32 {
            for sample in self.analyzer.feature(f).samplings.into_iter().take(1).flat_map(|s| s.samples) {
                wanted.entry(sample.context).or_default().push((f, sample));
            }
        }
        let (total, began) = (wanted.len() as u64, Instant::now());
        for (n, (context, samples)) in (1..).zip(wanted) {
            let ids = self.analyzer.context(context).unwrap_or_default().to_vec();
            let len = ids.len();
            let tokens =
                TokenBatch { mask: vec![1; len], lengths: vec![len], batch: 1, len, ids: ids.clone() };
            let hooks = self.source.hook_points().to_vec();
            let acts = self.source.model.activations(q, &hooks, &tokens)?;
            let mut batch =
                Batch { acts, tokens: ids, mask: tokens.mask, contexts: Some((1, len)), n_valid: len };
            let features: Vec<usize> = samples.iter().map(|(f, _)| *f as usize).collect();
            let z = match self.encoder.z_patterns(q, dictionary, &hooks, &mut batch, &features) {
                Err(Error::Unsupported { .. }) => return Ok(Patterns::new()),
                z => z?,
            };
            for ((feature, sample), z) in samples.iter().zip(z) {
                let mut found = Vec::new();
                for &(at, act) in &sample.acts {
                    let row: Vec<f32> = q.download(z.rows_view(at as usize..at as usize + 1))?;
                    let kept = (0u32..).zip(row).filter(|(_, v)| v.abs() >= 0.01 * act.abs() && *v != 0.0);
                    found.extend(kept.map(|(key, v)| (at, key, v)));
                }
                all.insert((*feature, context), found);
            }
            let _ = observer.advanced(&advance("contexts looked at again", n, 0, total, began.elapsed()));
        }
        Ok(all)
    }
}

fn advance(what: &'static str, done: u64, from: u64, total: u64, elapsed: Duration) -> Advance {
    let per_second = (done - from) as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = total.saturating_sub(done) as f64 / per_second.max(1e-9);
    let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
    Advance { what, done, total, per_second, remaining }
}

/// What the decoder alone says of every feature.
#[derive(Default)]
struct Directions {
    inner: Vec<Vec<f32>>,
    heads: bool,
    neighbours: Vec<Vec<Related>>,
    logits: Vec<Logits>,
}

impl Directions {
    fn of(
        bench: &mut Workbench,
        dictionary: &dyn Dictionary,
        settings: &AnalyzerSettings,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let Some(decoders) = Decoders::of(dictionary, settings.clt_layer) else { return Ok(Self::default()) };
        let total = decoders.len() as u64;
        let began = Instant::now();
        let mut tell = |what: &'static str, done: usize| {
            // Short enough to be finished once begun.
            let _ = observer.advanced(&advance(what, done as u64, 0, total, began.elapsed()));
        };
        let q = &mut bench.q;
        let inner = decoders.inner_products(q)?;
        let neighbours = match settings.n_neighbours {
            0 => Vec::new(),
            n => decoders.neighbours(q, n, |done| tell("features compared", done))?,
        };
        let to_residual = dictionary
            .hook_points_out()
            .iter()
            .all(|h| bench.lm.hook_width(h).is_ok_and(|w| w == bench.lm.architecture().d_model));
        let logits = match settings.n_logits {
            0 => Vec::new(),
            _ if !to_residual => Vec::new(),
            n => output_tokens(q, &bench.lm, &bench.tokenizer, &decoders, n, |done| {
                tell("features read out", done)
            })?,
        };
        Ok(Self { inner, heads: decoders.has_heads(), neighbours, logits })
    }

    fn add_to(&mut self, f: &mut FeatureAnalysis) {
        let i = f.index as usize;
        f.neighbours = self.neighbours.get_mut(i).map(std::mem::take).unwrap_or_default();
        f.logits = self.logits.get_mut(i).map(std::mem::take);
        let Some(inner) = self.inner.get_mut(i).map(std::mem::take) else { return };
        let n = inner.len().isqrt();
        f.decoder_norms = (0..n).map(|h| inner[h * n + h].sqrt()).collect();
        if self.heads {
            let norms = &f.decoder_norms;
            let cosine = |at: usize| {
                let size = norms[at / n] * norms[at % n];
                if size > 0.0 { inner[at] / size } else { 0.0 }
            };
            f.decoder_similarities = (0..n * n).map(cosine).collect();
            f.decoder_inner_products = inner;
        }
    }
}

/// Everything that was found, to be written.
struct Found {
    analyzer: Analyzer,
    directions: Directions,
    patterns: Patterns,
}

impl Found {
    /// Writes everything and puts it in the place of the earlier analysis.
    fn write(
        mut self,
        bench: &Workbench,
        job: &AnalysisJob<'_>,
        store: &dyn Store,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let analyzer = &self.analyzer;
        observer.phase("writing");
        store.put_dictionary(&job.dictionary)?;
        let mut writer = store.begin_analysis(&job.dictionary.key, job.name)?;
        let d_sae = job.dictionary.d_sae;
        let mut used = BTreeSet::new();
        for f in 0..d_sae {
            let found = analyzer.feature(f);
            used.extend(found.samplings.iter().flat_map(|s| s.samples.iter().map(|s| s.context)));
        }
        let used: Vec<u32> = used.into_iter().collect();
        let mut texts = Texts { tokenizer: &bench.tokenizer, known: HashMap::new() };
        for part in used.chunks(WRITTEN) {
            let contexts: Vec<Context> = part.iter().filter_map(|&id| texts.context(analyzer, id)).collect();
            writer.contexts(&contexts)?;
        }
        let began = Instant::now();
        let all: Vec<u32> = (0..d_sae).collect();
        for part in all.chunks(WRITTEN) {
            let features: Vec<FeatureAnalysis> = part
                .iter()
                .map(|&i| {
                    let mut f = analyzer.feature(i);
                    self.directions.add_to(&mut f);
                    for sample in f.samplings.iter_mut().take(1).flat_map(|s| &mut s.samples) {
                        sample.z_pattern = self.patterns.remove(&(i, sample.context)).unwrap_or_default();
                    }
                    texts.summarise(analyzer, &mut f);
                    f
                })
                .collect();
            writer.features(&features)?;
            let done = u64::from(part.last().map_or(0, |f| f + 1));
            let _ = observer.advanced(&advance("features written", done, 0, d_sae.into(), began.elapsed()));
        }
        let mut about = job.about.clone();
        if let Some(map) = about.as_object_mut() {
            map.insert("analyzer".into(), json!(job.settings));
            map.insert("activation_factory".into(), json!(bench.factory));
            map.insert("datasets".into(), json!(bench.datasets));
        }
        writer.commit(&AnalysisRecord {
            name: job.name.into(),
            d_sae,
            n_analyzed_tokens: analyzer.n_analyzed_tokens(),
            n_tokens: analyzer.n_tokens(),
            n_contexts: analyzer.n_contexts().into(),
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            settings: about,
        })
    }
}

/// Token texts, each looked up once.
struct Texts<'a> {
    tokenizer: &'a Tokenizer,
    known: HashMap<u32, String>,
}

impl Texts<'_> {
    fn of(&mut self, id: u32) -> &str {
        self.known.entry(id).or_insert_with(|| self.tokenizer.token_text(id))
    }

    fn context(&mut self, analyzer: &Analyzer, id: u32) -> Option<Context> {
        let ids = analyzer.context(id)?.to_vec();
        let texts = ids.iter().map(|&t| self.of(t).to_owned()).collect();
        Some(Context { id, origin: String::new(), ids, texts })
    }

    /// The feature's line in lists and the tokens it peaks on.
    fn summarise(&mut self, analyzer: &Analyzer, f: &mut FeatureAnalysis) {
        let Some(first) = f.samplings.first() else { return };
        let mut peaks: Vec<String> = Vec::new();
        for sample in &first.samples {
            if let (Some((at, _)), Some(ids)) = (sample.peak(), analyzer.context(sample.context)) {
                let text = ids.get(at as usize).map_or(String::new(), |&t| self.of(t).to_owned());
                if !text.is_empty() && peaks.len() < PEAK_TOKENS && !peaks.contains(&text) {
                    peaks.push(text);
                }
            }
        }
        let strongest =
            first.samples.first().and_then(|s| Some((s, s.peak()?, analyzer.context(s.context)?)));
        if let Some((sample, (peak, _), ids)) = strongest {
            let acts: HashMap<u32, f32> = sample.acts.iter().copied().collect();
            let shown = peak.saturating_sub(AROUND)..(peak + AROUND + 1).min(ids.len() as u32);
            f.preview = shown
                .map(|at| (self.of(ids[at as usize]).to_owned(), acts.get(&at).copied().unwrap_or(0.0)))
                .collect();
        }
        f.peak_tokens = peaks;
    }
}
