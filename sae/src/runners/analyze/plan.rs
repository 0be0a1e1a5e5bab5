//! What an analysis will need, worked out from its settings: nothing is read but configurations, and neither data nor device
//! has to be there.

use crate::{
    Error, Result,
    analysis::{DIRECTIONS_BLOCK, Rules, layers_of},
    dictionary::{build, checkpoint},
    lm::Architecture,
    runners::{
        memory::{Flow, PROGRAM, TOKENIZER_ENTRY},
        plan::{LargeTensor, Memory, data, largest, model, queue, weights},
        workbench::batch_rows,
    },
    settings::AnalyzeSettings,
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
    /// Memory at its peak by purpose: of the pass over the text, or of the comparison of decoders that follows it, whichever takes
    /// more.
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
    let about = checkpoint::load_settings(&settings.sae.pretrained_name_or_path)?;
    let mut dictionary = build(&mut q, &about)?;
    let factory = &settings.activation_factory;
    let rows = batch_rows(factory, factory.context_size)?;
    let len = factory.context_size.ok_or_else(|| {
        Error::setting("activation_factory.context_size", "is needed: samples are contexts of one length")
    })?;
    let layers = layers_of(&*dictionary, settings.analyzer.clt_layer)?.len();
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
    let statistics = layers * rules.bytes(d_sae, l0 as f64, len);
    memory.push(about_so("statistics and samples", statistics));
    let moving = flow.blocks(architecture.as_ref(), None).bytes();
    memory.push(about_so("batches and model activations", moving));
    // Contexts wait until there is a batch of them.
    let waiting = (factory.batch_size - 1 + factory.model_batch_size) * len * widths * size_of::<f32>();
    memory.push(about_so("contexts waiting", waiting));
    let pass = [
        exact("encoding", step.used()),
        about_so("codes on the host", codes(rows, d_sae, l0, layers, about.act_fn().has_k())),
    ];
    let after = [about_so("comparison of decoders", directions(settings, d_sae, architecture.as_ref()))];
    let sum = |all: &[Memory]| all.iter().map(|m| m.bytes).sum::<usize>();
    memory.extend_from_slice(if sum(&pass) > sum(&after) { &pass } else { &after });
    let tensors = largest(&*dictionary, std::slice::from_ref(&step));
    Ok(AnalysisPlan {
        device: settings.device_type.clone(),
        tokens: settings.analyzer.total_analyzing_tokens,
        batch_rows: rows,
        d_sae,
        layers,
        memory,
        largest: tensors,
        model_path,
        obstacles,
    })
}

/// Downloaded values and columns, pairs by row, pairs by feature.
fn codes(rows: usize, d_sae: usize, l0: usize, layers: usize, sparse: bool) -> usize {
    let entries = rows * l0;
    let downloaded = if sparse { entries * 8 } else { rows * d_sae * 4 };
    layers * entries * 8 + downloaded + entries * 8
}

/// Blocks of products and of logits on the device, which keeps the first for later, one of them on the host, and what is found.
fn directions(settings: &AnalyzeSettings, d_sae: usize, lm: Option<&Architecture>) -> usize {
    let block = |columns: usize| (d_sae * columns * 4).min(DIRECTIONS_BLOCK.max(columns * 4));
    let s = &settings.analyzer;
    let neighbours = if s.n_neighbours > 0 { block(d_sae) } else { 0 };
    let logits = lm.filter(|_| s.n_logits > 0).map_or(0, |a| block(a.d_vocab));
    // Texts of tokens are strings of their own.
    neighbours + logits + neighbours.max(logits) + d_sae * (s.n_neighbours * 8 + 2 * s.n_logits * 48)
}
