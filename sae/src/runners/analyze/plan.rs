//! What an analysis will need, worked out from its settings: nothing is read but configurations, and neither data nor device
//! has to be there.

use super::write::WRITTEN;
use crate::{
    Error, Result,
    analysis::{DIRECTIONS_BLOCK, Decoders, Rules, layers_of},
    dictionary::{Dictionary, build},
    lm::Architecture,
    runners::{
        memory::{Flow, PROGRAM, TOKENIZER_ENTRY},
        plan::{LargeTensor, Memory, data, largest, model, queue, weights},
        workbench::{batch_rows, pretrained_settings},
    },
    settings::{AnalyzeSettings, AnalyzerSettings},
};
use lm_saes_runtime::{Arena, Registry};
use std::path::PathBuf;

/// Features taken to be active on a token where the activation function has no budget.
const USUAL_L0: usize = 64;

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
    let about = pretrained_settings(&settings.sae)?;
    let mut dictionary = build(&mut q, &about)?;
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
    let l0 = if about.act_fn().has_k() { about.top_k() } else { USUAL_L0.min(d_sae) };
    let rules = Rules::new(&settings.analyzer);
    let tokens = settings.analyzer.total_analyzing_tokens;
    let statistics = layers * rules.bytes(d_sae, l0 as f64, len, tokens);
    memory.push(about_so("statistics and samples", statistics));
    // The dictionary keeps the memory of its forward.
    memory.push(exact("encoding", step.used()));
    // Contexts wait until there is a batch of them.
    let waiting = (factory.batch_size - 1 + factory.model_batch_size) * len * widths * size_of::<f32>();
    let pass = [
        about_so("batches and model activations", flow.blocks(architecture.as_ref(), None).bytes()),
        about_so("contexts waiting", waiting),
        about_so("codes on the host", codes(rows, d_sae, l0, layers, about.act_fn().has_k())),
    ];
    let after = After::of(&settings.analyzer, &*dictionary, &layers_of, architecture.as_ref(), len);
    let comparison =
        [about_so("found of decoders", after.found), about_so("comparison of decoders", after.working)];
    let writing = [about_so("found of decoders", after.found), about_so("writing", after.writing)];
    // One after the other; each gives back what it had.
    let sum = |all: &[Memory]| all.iter().map(|m| m.bytes).sum::<usize>();
    let most = [&pass[..], &comparison, &writing].into_iter().max_by_key(|all| sum(all));
    memory.extend_from_slice(most.unwrap_or_default());
    let tensors = largest(&*dictionary, std::slice::from_ref(&step));
    Ok(AnalysisPlan {
        device: settings.device_type.clone(),
        tokens,
        batch_rows: rows,
        d_sae,
        layers,
        memory,
        largest: tensors,
        model_path,
        obstacles,
    })
}

/// Downloaded values and columns, pairs by row, pairs by feature with where each feature's begin.
fn codes(rows: usize, d_sae: usize, l0: usize, layers: usize, sparse: bool) -> usize {
    let entries = rows * l0;
    let downloaded = if sparse { entries * 8 } else { rows * d_sae * 4 };
    // Lists that grow have up to twice what they hold.
    layers * entries * 12 + downloaded + entries * 8 + d_sae * 8
}

/// Host and device memory of what follows the pass, layer by layer.
struct After {
    /// What is said of every feature, until it is written.
    found: usize,
    /// Blocks of products or of logits, on the device and once more on the host.
    working: usize,
    /// Contexts or features on their way to the store.
    writing: usize,
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
        let found = d_sae * (neighbours + logits + 24 + 16 + 4 * parts * parts);
        let samples: usize =
            s.subsamples.values().map(|s| s.n_samples).sum::<usize>() + s.quantile_bins * s.quantile_samples;
        let context = 96 + len * (4 + 24 + 32);
        let feature = 4096 + samples * 128 + logits;
        Self { found, working: compared.max(read), writing: WRITTEN * context.max(feature) }
    }
}
