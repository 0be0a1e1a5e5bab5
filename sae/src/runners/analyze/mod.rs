//! The analysis job: a saved dictionary over text, one pass, into a store. It can be killed at any instant: snapshots hold
//! the analyzers and the position in the text together, and readers of the store see the earlier analysis until the end.

mod pass;
mod plan;
mod write;

pub(super) use pass::advance;
pub use plan::{Activity, AnalysisPlan, plan_analysis};

use super::{
    train::Start,
    workbench::{Workbench, load_pretrained},
};
use crate::{
    Error, Result,
    analysis::{Analyzer, Encoder, Rules, layers_of},
    dictionary::Dictionary,
    parallel::{Mesh, MeshSize, Together, agree},
    settings::{AnalyzeSettings, AnalyzerSettings, required_model},
    store::{self, DictionaryKey, DictionaryRecord, Store},
    training::{LiveSource, Observer, snapshot},
};
use lm_saes_runtime::{Group, Registry};
use pass::{Pass, Patterns};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use write::{Directions, Found};

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
    /// How it is registered: one name, or one for each layer that was looked at.
    pub keys: Vec<DictionaryKey>,
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
    analyze_with(settings, registry, observer, start, Group::solo())
}

/// [`analyze`] as one of the ranks of `world`, which take batches in turns; the first keeps the statistics and writes what one rank
/// would, bit for bit. The others return before it has.
///
/// # Errors
/// As [`analyze`]; settings that differ between ranks, or a rank that is missing.
pub fn analyze_with(
    settings: &AnalyzeSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    start: Start,
    world: Group,
) -> Result<AnalyzeReport> {
    settings.check()?;
    let size = MeshSize { data: world.size(), ..MeshSize::SOLO };
    let mesh = Mesh::new(world, size)?;
    let model = required_model(&settings.model, &settings.model_name)?;
    let mut factory = settings.activation_factory.clone();
    if let Some(ignored) = &settings.analyzer.ignore_token_ids {
        factory.ignore_token_ids.get_or_insert_default().extend(ignored);
    }
    let store = match mesh.is_primary() {
        true => Some(store::open(&settings.store_address())?),
        false => None,
    };
    let mut bench =
        Workbench::open(registry, &settings.device_type, model, &factory, &settings.datasets, observer)?;
    // Not folded: activations are normalised as the dictionary says, which needs its norms as they are.
    let loaded = load_pretrained(&mut bench.q, &settings.sae, false)?;
    bench.mesh = mesh;
    bench.check_model(&loaded.extras, &settings.sae)?;
    let mut dictionary = loaded.dictionary;
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
    analyze_among(&mut bench, &mut *dictionary, &job, store.as_deref(), observer, start)
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

    /// How the features of one layer are registered: features are told apart by their number only, so every layer is a
    /// dictionary of its own, unless the settings choose one and thereby name it.
    fn key_of(&self, layer: Option<usize>) -> DictionaryKey {
        let DictionaryKey { name, series } = &self.dictionary.key;
        match layer.filter(|_| self.settings.clt_layer.is_none()) {
            Some(layer) => DictionaryKey::new(format!("{name}-L{layer}"), series),
            None => self.dictionary.key.clone(),
        }
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
        let model = [bench.lm.name(), bench.lm.weights_hash()];
        let identity = json!([d.path, d.cfg, settings, factory, bench.datasets, bench.policy, model]);
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
    analyze_among(bench, dictionary, job, Some(store), observer, start)
}

/// [`analyze_on`] as one of the workbench's ranks; the first has a store.
fn analyze_among(
    bench: &mut Workbench,
    dictionary: &mut dyn Dictionary,
    job: &AnalysisJob<'_>,
    store: Option<&dyn Store>,
    observer: &mut dyn Observer,
    start: Start,
) -> Result<AnalyzeReport> {
    job.settings.check()?;
    for hook in dictionary.hook_points_in() {
        bench.lm.hook_width(&hook)?;
    }
    let rows = bench.batch_rows()?;
    let identity = job.identity(bench);
    let ranks = bench.mesh.world.clone();
    if !ranks.is_solo() {
        observer.phase(&format!("{} ranks", ranks.size()));
        let all = json!({ "analysis": identity, "analyzer": job.settings, "start": format!("{start:?}") });
        agree(&mut bench.q, &ranks, &all)?;
    }
    let layers = layers_of(dictionary, job.settings.clt_layer)?;
    let fresh = || Analyzer::new(dictionary.d_sae(), Rules::new(job.settings));
    let producer = Together { model: &*bench.lm, ranks: ranks.clone() };
    let mut pass = Pass {
        analyzers: layers.iter().filter(|_| store.is_some()).map(|_| fresh()).collect(),
        layers: &layers,
        source: LiveSource { stream: bench.stream()?, model: &producer },
        encoder: Encoder::new(&mut bench.q, dictionary, rows, None)?,
        pad: bench.policy.pad,
        job,
        identity,
        ranks,
        seen: 0,
    };
    let q = &mut bench.q;
    let resumed_from = pass.start(q, start, observer)?;
    let (complete, rate) = pass.run(q, dictionary, observer)?;
    // What follows is the first rank's alone.
    let store = store.filter(|_| complete);
    let mut patterns = match store {
        Some(_) => pass.patterns(q, dictionary, observer)?,
        None => Patterns::new(),
    };
    let Pass { analyzers, encoder, source, .. } = pass;
    // What follows needs other memory.
    encoder.release(dictionary)?;
    drop(source);
    q.trim()?;
    let report = AnalyzeReport {
        keys: layers.iter().map(|layer| job.key_of(*layer)).collect(),
        complete,
        n_analyzed_tokens: analyzers.first().map_or(0, Analyzer::n_analyzed_tokens),
        n_contexts: analyzers.first().map_or(0, |a| a.n_contexts().into()),
        alive: analyzers.iter().map(Analyzer::alive).sum(),
        d_sae: analyzers.len() * dictionary.d_sae(),
        resumed_from,
        rate,
    };
    if let Some(store) = store {
        for (analyzer, &layer) in analyzers.into_iter().zip(&layers) {
            let directions = Directions::of(bench, dictionary, layer, job.settings, observer)?;
            let patterns = std::mem::take(&mut patterns);
            Found { analyzer, directions, patterns, layer }.write(bench, job, store, observer)?;
        }
        snapshot::clear(job.work_dir)?;
        // Empty unless someone put something there.
        let _ = std::fs::remove_dir(snapshot::folder(job.work_dir));
        let _ = std::fs::remove_dir(job.work_dir);
    }
    Ok(report)
}
