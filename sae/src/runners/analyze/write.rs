//! What the decoder says beside what the pass found, put together with the texts, into the store.

use super::{
    AnalysisJob,
    pass::{Patterns, advance},
};
use crate::{
    Result,
    analysis::{Analyzer, Decoders, HeadRelations, Transforms, output_tokens, writes_to_residual},
    dictionary::Dictionary,
    lm::Tokenizer,
    runners::workbench::Workbench,
    settings::AnalyzerSettings,
    store::{AnalysisRecord, Context, DictionaryRecord, FeatureAnalysis, Logits, Related, Store},
    training::Observer,
};
use serde_json::json;
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Features and contexts written at a time: with hundreds of long samples a feature is a megabyte before it is written.
pub(super) const WRITTEN: usize = 256;
/// Tokens before and after the peak in a feature's preview.
const AROUND: u32 = 10;
/// Most texts of peak tokens kept.
const PEAK_TOKENS: usize = 20;

/// What the decoder alone says of every feature.
#[derive(Default)]
pub(super) struct Directions {
    inner: Vec<Vec<f32>>,
    heads: bool,
    neighbours: Vec<Vec<Related>>,
    logits: Vec<Logits>,
}

impl Directions {
    /// Those of `layer`, where a dictionary has several.
    pub fn of(
        bench: &mut Workbench,
        dictionary: &mut dyn Dictionary,
        layer: Option<usize>,
        settings: &AnalyzerSettings,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let norms = dictionary.decoder_norms(&mut bench.q)?;
        let began = Instant::now();
        let total = dictionary.d_sae() as u64;
        let mut tell = |what: &'static str, done: usize| {
            // Short enough to be finished once begun.
            let _ = observer.advanced(&advance(what, done as u64, 0, total, began.elapsed()));
        };
        let Some(decoders) = Decoders::of(dictionary, layer) else {
            let neighbours = match Transforms::of(dictionary) {
                Some(all) if settings.n_neighbours > 0 => {
                    all.neighbours(&mut bench.q, settings.n_neighbours, |done| {
                        tell("transforms compared", done)
                    })?
                }
                _ => Vec::new(),
            };
            return Ok(Self {
                inner: norms.iter().map(|n| vec![n * n]).collect(),
                neighbours,
                ..Self::default()
            });
        };
        let q = &mut bench.q;
        let inner = decoders.inner_products(q)?;
        let neighbours = match settings.n_neighbours {
            0 => Vec::new(),
            n => decoders.neighbours(q, n, |done| tell("features compared", done))?,
        };
        q.trim()?;
        let logits = match settings.n_logits {
            0 => Vec::new(),
            _ if !writes_to_residual(&bench.lm, dictionary) => Vec::new(),
            n => output_tokens(q, &bench.lm, &bench.tokenizer, &decoders, n, |done| {
                tell("features read out", done);
            })?,
        };
        q.trim()?;
        Ok(Self { inner, heads: decoders.has_heads(), neighbours, logits })
    }

    fn add_to(&mut self, f: &mut FeatureAnalysis) {
        let i = f.index as usize;
        f.neighbours = self.neighbours.get_mut(i).map(std::mem::take).unwrap_or_default();
        f.logits = self.logits.get_mut(i).map(std::mem::take);
        let Some(inner) = self.inner.get_mut(i).map(std::mem::take) else { return };
        let heads = HeadRelations::of(&inner);
        f.decoder_norms = heads.norms();
        if self.heads {
            f.decoder_similarities = heads.cosines();
            f.decoder_inner_products = inner;
        }
    }
}

/// Everything that was found, to be written.
pub(super) struct Found {
    pub analyzer: Analyzer,
    pub directions: Directions,
    pub patterns: Patterns,
    /// Of the dictionary, where it has several.
    pub layer: Option<usize>,
}

impl Found {
    /// Writes everything and puts it in the place of the earlier analysis.
    pub fn write(
        mut self,
        bench: &Workbench,
        job: &AnalysisJob<'_>,
        store: &dyn Store,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let analyzer = &self.analyzer;
        let dictionary = DictionaryRecord { key: job.key_of(self.layer), ..job.dictionary.clone() };
        observer.phase(&format!("writing {}", dictionary.key));
        store.put_dictionary(&dictionary)?;
        let mut writer = store.begin_analysis(&dictionary.key, job.name)?;
        let d_sae = job.dictionary.d_sae;
        let mut used = BTreeSet::new();
        for f in 0..d_sae {
            let samplings = analyzer.samplings(f);
            used.extend(samplings.iter().flat_map(|s| s.samples.iter().map(|s| s.context)));
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
            let analyzer = AnalyzerSettings { clt_layer: self.layer, ..job.settings.clone() };
            // Found again from any folder, as the dictionary is.
            let model = map.get_mut("model").and_then(|m| m.get_mut("model_from_pretrained_path"));
            if let Some(path) = model {
                let whole = path.as_str().and_then(|p| Path::new(p).canonicalize().ok());
                if let Some(whole) = whole {
                    *path = json!(whole.display().to_string());
                }
            }
            map.insert("analyzer".into(), json!(analyzer));
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
