//! What an analysis will need, worked out from its settings: nothing is read but configurations, and neither data nor device
//! has to be there.

use super::write::WRITTEN;
use crate::{
    Error, Result,
    analysis::{DIRECTIONS_BLOCK, Decoders, Rules, layers_of, rows_at_once},
    dictionary::{Dictionary, build},
    lm::Architecture,
    runners::{
        evaluate::Stated,
        memory::{Flow, TOKENIZER_ENTRY},
        plan::{LargeTensor, Memory, data, largest, model, queue, weights},
        workbench::{batch_rows, pretrained_record},
    },
    settings::{ActFn, AnalyzeSettings, AnalyzerSettings},
};
use lm_saes_runtime::{Arena, Registry};
use serde_json::Value;
use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Read of the end of a training record, which has a line of some kilobytes for each of its last steps.
const RECORD_END: u64 = 256 << 10;

/// What the store keeps of its own while it is written to: a cache, and the words of a search.
const STORE: usize = 3 << 20;
/// Program, kernels' working memory and what the allocator keeps, measured on small analyses.
const PROGRAM: usize = 20 << 20;

/// How many features are active on a token of one layer, as far as is known without running anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activity {
    /// What the activation function selects.
    Selected(f64),
    /// The mean that was measured when the dictionary was trained, or that its publisher states.
    Stated(f64),
    /// Nothing is known. Memory is planned for every feature active on every token, which is the most it can be.
    Unknown(f64),
}

impl Activity {
    /// Features taken to be active on a token.
    pub fn per_token(self) -> f64 {
        match self {
            Self::Selected(n) | Self::Stated(n) | Self::Unknown(n) => n,
        }
    }

    fn of(dictionary: &dyn Dictionary, stated: Option<f64>) -> Self {
        let (about, d_sae) = (dictionary.settings(), dictionary.d_sae() as f64);
        // L0 of layers is added up, that of heads averaged; heads may have different features active.
        let layers = dictionary.layer_metrics().map_or(1, |_| dictionary.hook_points_in().len());
        let heads = dictionary.averaged_heads() as f64;
        let of_all = matches!(about.act_fn(), ActFn::LayerTopK | ActFn::BatchLayerTopK);
        let within = |n: f64| (heads * n).clamp(0.0, d_sae);
        if about.act_fn().has_k() {
            return Self::Selected(within(about.top_k() as f64 / if of_all { layers as f64 } else { 1.0 }));
        }
        match stated.filter(|n| n.is_finite() && *n >= 0.0) {
            Some(n) => Self::Stated(within(n / layers as f64)),
            None => Self::Unknown(d_sae),
        }
    }
}

/// The last L0 in the record of the training that wrote to this folder.
fn trained_l0(path: &Path) -> Option<f64> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    let mut file = std::fs::File::open(folder.join("metrics.jsonl")).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(RECORD_END))).ok()?;
    let mut bytes = Vec::new();
    file.take(RECORD_END).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok()?["metrics/l0"].as_f64())
}

/// The plan of an analysis.
#[derive(Clone, Debug)]
pub struct AnalysisPlan {
    /// Device asked for.
    pub device: String,
    /// Tokens that will be run at most.
    pub tokens: u64,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Features of a layer.
    pub d_sae: usize,
    /// Layers analysed.
    pub layers: usize,
    /// How many features are active on a token, on which memory depends.
    pub active: Activity,
    /// Memory at its peak by purpose: of the pass over the text, of the comparison of decoders that follows it, or of the writing in
    /// the end, whichever takes most.
    pub memory: Vec<Memory>,
    /// The largest tensors, largest first.
    pub largest: Vec<LargeTensor>,
    /// Where the language model is, if it is on disk.
    pub model_path: Option<PathBuf>,
    /// Everything that stands in the way of running this here: device, model, data.
    pub obstacles: Vec<String>,
}

impl AnalysisPlan {
    /// Memory at the peak.
    pub fn total_bytes(&self) -> usize {
        self.memory.iter().map(|m| m.bytes).sum()
    }
}

/// Plans an analysis.
///
/// # Errors
/// Settings that could not run anywhere, a dictionary that is not there.
pub fn plan_analysis(settings: &AnalyzeSettings, registry: &Registry) -> Result<AnalysisPlan> {
    settings.check()?;
    let mut obstacles = Vec::new();
    let mut q = queue(&settings.device_type, registry, &mut obstacles)?;
    let (about, recorded) = pretrained_record(&settings.sae)?;
    let mut dictionary = build(&mut q, &about)?;
    let by_batch =
        settings.sae.batch_selection_at_inference.unwrap_or(about.common.batch_selection_at_inference);
    // Weights are not read, but those of such a selection come with thresholds, and then codes are dense.
    let running = dictionary.running_thresholds_mut();
    let pools = running.pools();
    let thresholds = pools > 0 && !by_batch && running.set(Some(vec![1.0; pools]));
    running.select_by_batch(by_batch);
    let factory = &settings.activation_factory;
    let rows = batch_rows(factory, factory.context_size)?;
    let len = factory.context_size.ok_or_else(|| {
        Error::setting("activation_factory.context_size", "is needed: samples are contexts of one length")
    })?;
    let layers_of = layers_of(&*dictionary, settings.analyzer.clt_layer)?;
    let layers = layers_of.len();
    let mut step = Arena::planning("analysis");
    dictionary.plan(&mut step, rows, about.top_k(), None)?;
    let (model_path, architecture) = model(settings.model.as_ref(), &mut obstacles).unzip();
    data(&settings.datasets, &mut obstacles);
    let width =
        |hook: &String| architecture.as_ref().and_then(|a| a.hook_width(hook)).unwrap_or(about.d_model());
    let captured: Vec<(String, usize)> = factory.hook_points.iter().map(|h| (h.clone(), width(h))).collect();
    let widths: usize = captured.iter().map(|c| c.1).sum();
    let pass = factory.model_batch_size * len;
    let flow = Flow { batch: rows, pass, captured: &captured, held: 0, looked_at: false };
    let d_sae = dictionary.d_sae();
    let parameters = dictionary.params().iter().map(|p| p.value.bytes()).sum();

    let exact = |what, bytes| Memory { what, bytes, exact: true };
    let about_so = |what, bytes| Memory { what, bytes, exact: false };
    let mut memory = vec![exact("dictionary parameters", parameters)];
    if let (Some(a), Some(model)) = (&architecture, &settings.model) {
        memory.push(weights(a, model));
        memory.push(about_so("tokenizer", a.d_vocab * TOKENIZER_ENTRY));
    }
    memory.push(about_so("program", PROGRAM));
    let path = &settings.sae.pretrained_name_or_path;
    let active = Activity::of(&*dictionary, Stated::of(&recorded).l0.or_else(|| trained_l0(path)));
    let rules = Rules::new(&settings.analyzer);
    let tokens = settings.analyzer.total_analyzing_tokens;
    // Batches are whole.
    let seen = tokens.next_multiple_of(rows as u64);
    let statistics = layers * rules.bytes(d_sae, active.per_token(), len, seen);
    memory.push(about_so("statistics and samples", statistics));
    if about.variant.facts().longest_context().is_some() {
        let patterns = rules.pattern_bytes(d_sae, active.per_token(), len, seen);
        memory.push(about_so("origins of activations", patterns));
    }
    let device_row = if about.act_fn().has_k() && !thresholds { 8 * about.top_k() } else { 4 * d_sae };
    let on_host = codes(rows, len, device_row, dictionary.averaged_heads(), d_sae, active.per_token());
    // What is allocated after them lies above them, so that the allocator keeps them when they are given back.
    memory.push(about_so("codes on the host", on_host));
    // Contexts wait until there is a batch of them.
    let waiting = (factory.batch_size - 1 + factory.model_batch_size) * len * widths * size_of::<f32>();
    let pass = [
        exact("encoding", step.used()),
        about_so("batches and model activations", flow.blocks(architecture.as_ref(), None).bytes()),
        about_so("contexts waiting", waiting),
    ];
    let after = After::of(&settings.analyzer, &*dictionary, &layers_of, architecture.as_ref(), len);
    let comparison =
        [about_so("neighbours", after.neighbours), about_so("comparison of decoders", after.compared)];
    let found = after.neighbours + after.logits;
    let reading = [about_so("neighbours and logits", found), about_so("decoders read as tokens", after.read)];
    let fired = Rules::occurrences(d_sae, active.per_token(), len, seen);
    let written = rules.writing_bytes(WRITTEN.min(d_sae), fired, d_sae, active.per_token(), seen);
    let writing =
        [about_so("neighbours and logits", found), about_so("writing", after.contexts.max(written) + STORE)];
    // One after the other; each gives back what it had.
    let sum = |all: &[Memory]| all.iter().map(|m| m.bytes).sum::<usize>();
    let most = [&pass[..], &comparison, &reading, &writing].into_iter().max_by_key(|all| sum(all));
    memory.extend_from_slice(most.unwrap_or_default());
    let tensors = largest(&*dictionary, std::slice::from_ref(&step));
    Ok(AnalysisPlan {
        device: settings.device_type.clone(),
        tokens,
        batch_rows: rows,
        d_sae,
        layers,
        active,
        memory,
        largest: tensors,
        model_path,
        obstacles,
    })
}

/// Of the rows that are on the host at a time: what is downloaded of a head, then pairs by row of every head and of all, and pairs by
/// feature with where each feature's begin.
fn codes(rows: usize, len: usize, device_row: usize, heads: usize, d_sae: usize, l0: f64) -> usize {
    let rows = rows.min(rows_at_once(device_row * heads, len));
    let pairs = (rows as f64 * l0 * 8.0) as usize;
    let lists = if heads > 1 { 3 } else { 2 };
    rows * device_row + lists * pairs + 12 * d_sae
}

/// Host and device memory of what follows the pass, layer by layer.
struct After {
    /// What is said of every feature, until it is written: by comparison, and by what it promotes.
    neighbours: usize,
    logits: usize,
    /// Blocks of products or of logits, on the device and once more on the host.
    compared: usize,
    read: usize,
    /// Contexts on their way to the store.
    contexts: usize,
}

impl After {
    fn of(
        s: &AnalyzerSettings,
        dictionary: &dyn Dictionary,
        layers: &[Option<usize>],
        lm: Option<&Architecture>,
        len: usize,
    ) -> Self {
        let d_sae = dictionary.d_sae();
        let block =
            |columns: usize| (DIRECTIONS_BLOCK / 4 / columns.max(1)).clamp(1, d_sae.max(1)) * columns * 4;
        let decoders = Decoders::of(dictionary, layers.first().copied().flatten());
        let (parts, width) = decoders.as_ref().map_or((1, 0), |d| (d.parts(), d.width()));
        let compared = match &decoders {
            _ if s.n_neighbours == 0 => 0,
            // Products of all with all, row by row, wait on the host.
            None => d_sae * d_sae * 4,
            Some(_) => 2 * block(d_sae) + d_sae * width * 4,
        };
        let lm = lm.filter(|_| s.n_logits > 0 && decoders.is_some());
        let read = lm.map_or(0, |a| {
            let rows = block(a.d_vocab) / 4 / a.d_vocab.max(1);
            block(a.d_vocab) * if parts > 1 { 3 } else { 2 } + 3 * rows * a.d_model * 4
        });
        // A list, and for tokens a text each, are allocations of their own.
        let neighbours = if s.n_neighbours > 0 { 24 + 16 + 8 * s.n_neighbours } else { 0 };
        let logits = if lm.is_some() { 48 + 2 * (16 + s.n_logits * (32 + 32)) } else { 0 };
        let neighbours = d_sae * (neighbours + 24 + 16 + 4 * parts * parts);
        let contexts = WRITTEN * (96 + len * (4 + 24 + 32));
        Self { neighbours, logits: d_sae * logits, compared, read, contexts }
    }
}
