//! What a training job will do and need, worked out from its settings alone: steps, schedules, memory by arena, largest
//! tensors. Nothing is downloaded, and neither the device nor the data has to be there.

use super::{
    memory::{Flow, PROGRAM, TOKENIZER_ENTRY},
    workbench::{batch_rows, find_model, pretrained_settings},
};
use crate::{
    Error, Result,
    activations::{ActivationStream, Target},
    data::{Overflow, TokenPolicy},
    dictionary::{Dictionary, build_on, checkpoint},
    lm::{Architecture, Lm},
    parallel::{Mesh, MeshSize, rows::most_rows},
    settings::{
        DatasetSettings, DictionaryChoice, DictionarySettings, LanguageModelSettings, NormActivation,
        SweepSettings, TrainSettings,
    },
    training::{Trainer, batches_taken, optimizer::measures, pieces, schedules::Schedules, source::needed},
};
use lm_saes_runtime::{Arena, DType, Queue, Registry, Traffic};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const MOMENTS: &str = "optimizer moments";
/// Planned tensors listed.
const LARGEST: usize = 8;

/// The plan of a training job.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Device asked for.
    pub device: String,
    /// Rows of a full batch.
    pub batch_rows: usize,
    /// Steps and curves.
    pub schedules: Schedules,
    /// Features.
    pub d_sae: usize,
    /// The ranks that work together.
    pub ranks: MeshSize,
    /// What each rank sends in a step on average, by purpose; nothing on one rank.
    pub communication: Vec<Memory>,
    /// Memory of each rank by purpose.
    pub memory: Vec<Memory>,
    /// The largest tensors, largest first.
    pub largest: Vec<LargeTensor>,
    /// Where the language model is, if it is on disk.
    pub model_path: Option<PathBuf>,
    /// Everything that stands in the way of running this here: device, model, data.
    pub obstacles: Vec<String>,
}

/// One share of device memory, or of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What it is for.
    pub what: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Whether it is exact, as arenas are, or an estimate.
    pub exact: bool,
}

/// One planned tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeTensor {
    /// What it is for.
    pub label: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: usize,
}

impl Plan {
    /// Device memory of the whole run.
    pub fn total_bytes(&self) -> usize {
        self.memory.iter().map(|m| m.bytes).sum()
    }

    /// Tokens of all steps, padding included.
    pub fn tokens(&self) -> u64 {
        self.schedules.total_steps * self.batch_rows as u64
    }
}

/// Plans a training job.
///
/// # Errors
/// Settings that could not run anywhere.
pub fn plan(settings: &TrainSettings, registry: &Registry) -> Result<Plan> {
    settings.check()?;
    let mut obstacles = Vec::new();
    let mut q = queue(&settings.device_type, registry, &mut obstacles)?;
    let own = Own::of(&mut q, settings)?;
    let captured = &settings.activation_factory.hook_points;
    let needs = if captured.len() < own.hook_points.len() { &own.hook_points } else { captured };
    let widths: Vec<_> = needs.iter().map(|h| (h.clone(), own.d_model)).collect();
    let evaluation = settings.eval.then(|| {
        // After training the moments are gone.
        let during = settings.trainer.eval_frequency <= own.schedules.total_steps;
        let moments = own.memory.iter().find(|m| m.what == MOMENTS).map_or(0, |m| m.bytes);
        Evaluation { outputs: own.outputs, freed: if during { 0 } else { moments } }
    });
    let activations = activations_sent(settings.mesh_size(), own.batch_rows, &widths);
    let shared = Shared::of(settings, widths, own.taken, evaluation, &mut obstacles)?;
    Ok(Plan {
        device: settings.device_type.clone(),
        ranks: settings.mesh_size(),
        communication: own.communication.into_iter().chain(activations).collect(),
        batch_rows: own.batch_rows,
        schedules: own.schedules,
        d_sae: own.d_sae,
        memory: own.memory.into_iter().chain(shared.memory).collect(),
        largest: own.largest,
        model_path: shared.model_path,
        obstacles,
    })
}

/// The plan of a sweep.
#[derive(Clone, Debug)]
pub struct SweepPlan {
    /// Device asked for.
    pub device: String,
    /// Rows of a full batch.
    pub batch_rows: usize,
    /// Each member by name, with what it alone takes.
    pub members: Vec<(String, MemberPlan)>,
    /// Memory of all members and of what they share, by purpose.
    pub memory: Vec<Memory>,
    /// Hook points captured.
    pub hook_points: Vec<String>,
    /// Where the language model is, if it is on disk.
    pub model_path: Option<PathBuf>,
    /// Everything that stands in the way of running this here: device, model, data.
    pub obstacles: Vec<String>,
}

/// What one member of a sweep is and takes.
#[derive(Clone, Debug)]
pub struct MemberPlan {
    /// Steps and curves.
    pub schedules: Schedules,
    /// Features.
    pub d_sae: usize,
    /// Memory that is its own, by purpose.
    pub memory: Vec<Memory>,
    /// Where it will be written.
    pub path: PathBuf,
}

impl SweepPlan {
    /// Device memory of the whole sweep.
    pub fn total_bytes(&self) -> usize {
        self.memory.iter().map(|m| m.bytes).sum()
    }
}

/// Plans a sweep.
///
/// # Errors
/// Settings that could not run anywhere.
pub fn plan_sweep(settings: &SweepSettings, registry: &Registry) -> Result<SweepPlan> {
    let first = settings.members.first().map(|m| &m.settings);
    let first = first.ok_or_else(|| Error::setting("sweep", "has no members"))?;
    let mut obstacles = Vec::new();
    let mut q = queue(&first.device_type, registry, &mut obstacles)?;
    let (mut members, mut memory, mut widths) = (Vec::new(), Vec::<Memory>::new(), BTreeMap::new());
    let (mut taken, mut outputs) = ((0, false), None);
    let mut scalings: BTreeMap<String, Vec<NormActivation>> = BTreeMap::new();
    for m in &settings.members {
        let own = Own::of(&mut q, &m.settings)?;
        for (i, part) in own.memory.iter().enumerate() {
            match memory.get_mut(i) {
                Some(sum) => sum.bytes += part.bytes,
                None => memory.push(*part),
            }
        }
        taken = (own.taken.0.max(taken.0), own.taken.1 || taken.1);
        outputs = outputs.max(m.settings.eval.then_some(own.outputs));
        for hook in &own.hook_points {
            widths.insert(hook.clone(), own.d_model);
            let kinds = scalings.entry(hook.clone()).or_default();
            if !kinds.contains(&own.norm_activation) {
                kinds.push(own.norm_activation);
            }
        }
        let path = m.settings.result_path().clone();
        let plan = MemberPlan { schedules: own.schedules, d_sae: own.d_sae, memory: own.memory, path };
        members.push((m.name.clone(), plan));
    }
    let batch_rows = batch_rows(&first.activation_factory, first.activation_factory.context_size)?;
    let of_rows = |width: &usize| batch_rows * width * size_of::<f32>();
    let copies: usize = scalings.iter().map(|(h, kinds)| (kinds.len() - 1) * of_rows(&widths[h])).sum();
    if copies > 0 {
        memory.push(Memory { what: "rows scaled otherwise", bytes: copies, exact: false });
    }
    let hook_points = widths.keys().cloned().collect();
    let evaluation = outputs.map(|outputs| Evaluation { outputs, freed: 0 });
    let shared = Shared::of(first, widths.into_iter().collect(), taken, evaluation, &mut obstacles)?;
    memory.extend(shared.memory);
    let (device, model_path) = (first.device_type.clone(), shared.model_path);
    Ok(SweepPlan { device, batch_rows, members, memory, hook_points, model_path, obstacles })
}

/// A queue to plan on: of the device asked for, or of any.
pub(super) fn queue(device: &str, registry: &Registry, obstacles: &mut Vec<String>) -> Result<Queue> {
    let opened = registry.open(device).or_else(|e| {
        obstacles.push(format!("{e}; choose another with --device"));
        registry.open("auto")
    })?;
    Ok(Queue::new(&opened)?)
}

/// What one dictionary takes for itself.
struct Own {
    batch_rows: usize,
    schedules: Schedules,
    d_sae: usize,
    d_model: usize,
    norm_activation: NormActivation,
    hook_points: Vec<String>,
    /// Batches that choosing starting values takes, and whether it copies one.
    taken: (usize, bool),
    /// Hook points reconstructed.
    outputs: usize,
    communication: Vec<Memory>,
    memory: Vec<Memory>,
    largest: Vec<LargeTensor>,
}

/// What each rank sends of gradients, and of parameters it has updated, in a step.
fn updates_sent(dictionary: &dyn Dictionary, settings: &TrainSettings) -> Vec<Memory> {
    let ranks = dictionary.base().mesh.data.size();
    let sent = pieces::sent(&pieces::pieces(dictionary, ranks), ranks, measures(&settings.trainer));
    let of = |(what, bytes)| Memory { what, bytes: bytes as usize, exact: true };
    let all = ["gradients", "parameters", "norms of gradient rows"].into_iter().zip(sent);
    all.map(of).filter(|m| ranks > 1 && m.bytes > 0).collect()
}

/// What each rank that holds a part of the dictionary sends of the rows it shares with those that hold the rest: what parts of the
/// features add to reconstructions, their candidates where rows select among all features, and what hook points add to
/// pre-activations, forth and back. Numbers a feature or a step are left out.
fn parts_sent(dictionary: &dyn Dictionary, size: MeshSize, rows: usize) -> Vec<Memory> {
    let about = dictionary.settings();
    let outputs = dictionary.hook_points_out().len().div_ceil(size.head);
    let sent =
        |kind, elements: usize, ranks| Traffic::of(kind, elements as u64, DType::F32, ranks).sent as usize;
    let features = dictionary.share().len();
    let candidates = if about.act_fn().has_k() { about.top_k().min(features) * size.model } else { 0 };
    let all = [
        ("reconstructions", sent("all_reduce", outputs * rows * about.d_out(), size.model)),
        ("candidates of selections", sent("all_gather", rows * candidates, size.model)),
        ("pre-activations", 2 * sent("all_reduce", rows * features, size.head)),
    ];
    let of = |(what, bytes)| Memory { what, bytes, exact: false };
    all.map(of).into_iter().filter(|m| m.bytes > 0).collect()
}

/// What each rank sends of the language model's activations in a step.
fn activations_sent(size: MeshSize, rows: usize, captured: &[(String, usize)]) -> Option<Memory> {
    let elements: usize = captured.iter().map(|(_, width)| rows * width).sum();
    let sent = Traffic::of("all_gather", elements as u64, DType::F32, size.ranks()).sent;
    let what = "model activations";
    (size.ranks() > 1).then_some(Memory { what, bytes: sent as usize, exact: false })
}

impl Own {
    fn of(q: &mut Queue, settings: &TrainSettings) -> Result<Self> {
        let factory = &settings.activation_factory;
        let batch_rows = batch_rows(factory, factory.context_size)?;
        let about = dictionary_settings(settings)?;
        let new = matches!(&settings.sae, DictionaryChoice::Settings(s) if s.pretrained().is_none());
        let size = settings.mesh_size();
        let mut dictionary = build_on(q, &about, &Mesh::planned(size))?;
        let whole = factory.target == Target::Activations2d;
        let context = factory.context_size.filter(|_| whole);
        let rows = most_rows(batch_rows, context, settings.data_parallel_size);
        let top_k = about.act_fn().has_k().then(|| about.top_k());
        let schedules = Schedules::resolve(&settings.trainer, batch_rows as u64, top_k)?;
        let arenas = Trainer::plan(&mut *dictionary, &settings.trainer, &schedules, rows)?;
        let parameters = dictionary.params().iter().map(|p| p.value.bytes()).sum();
        let memory = vec![
            Memory { what: "dictionary parameters", bytes: parameters, exact: true },
            Memory { what: MOMENTS, bytes: arenas[1].used(), exact: true },
            Memory { what: "gradients and step", bytes: arenas[0].used(), exact: true },
        ];
        Ok(Self {
            batch_rows,
            schedules,
            d_sae: dictionary.d_sae(),
            d_model: about.d_model(),
            norm_activation: about.norm_activation(),
            hook_points: needed(&*dictionary),
            taken: if new { batches_taken(&about, &settings.initializer) } else { (0, false) },
            outputs: dictionary.hook_points_out().len(),
            communication: [updates_sent(&*dictionary, settings), parts_sent(&*dictionary, size, rows)]
                .concat(),
            memory,
            largest: largest(&*dictionary, &arenas),
        })
    }
}

/// An evaluation on the language model.
struct Evaluation {
    /// Hook points replaced.
    outputs: usize,
    /// Memory of the training that is given back before.
    freed: usize,
}

/// What all dictionaries of a job have in common: the stream, the language model, the program.
struct Shared {
    memory: Vec<Memory>,
    model_path: Option<PathBuf>,
}

impl Shared {
    /// `captured` are the hook points with the width each has if the model is not there to say.
    fn of(
        settings: &TrainSettings,
        mut captured: Vec<(String, usize)>,
        taken: (usize, bool),
        evaluation: Option<Evaluation>,
        obstacles: &mut Vec<String>,
    ) -> Result<Self> {
        let (model_path, architecture) = model(settings.model.as_ref(), obstacles).unzip();
        data(&settings.datasets, obstacles);
        for (hook, width) in &mut captured {
            *width = architecture.as_ref().and_then(|a| a.hook_width(hook)).unwrap_or(*width);
        }
        let policy = token_policy(settings, architecture.as_ref());
        let factory = &settings.activation_factory;
        let len = policy.context_size.unwrap_or(policy.max_length);
        let flow = Flow {
            batch: batch_rows(factory, factory.context_size)?,
            pass: factory.model_batch_size * len,
            captured: &captured,
            held: taken.0,
            looked_at: taken.1,
        };
        let widths: Vec<usize> = captured.iter().map(|c| c.1).collect();
        let buffer =
            ActivationStream::buffer_bytes(&factory.stream(), &policy, factory.model_batch_size, &widths)?;
        let mut moving = flow.blocks(architecture.as_ref(), None).bytes();
        if let Some(Evaluation { outputs, freed }) = evaluation {
            let more = flow.blocks(architecture.as_ref(), Some(outputs)).bytes() - moving;
            moving += more.saturating_sub(freed);
        }
        let estimate = |what, bytes| Memory { what, bytes, exact: false };
        let mut memory =
            vec![estimate("shuffle buffer", buffer), estimate("batches and model activations", moving)];
        let ranks = settings.mesh_size().ranks();
        if ranks > 1 {
            let all = ranks * flow.pass * widths.iter().sum::<usize>() * size_of::<f32>();
            memory.push(estimate("model batches of all ranks", all));
        }
        if let (Some(a), Some(model)) = (&architecture, &settings.model) {
            memory.push(weights(a, model));
            memory.push(estimate("tokenizer", a.d_vocab * TOKENIZER_ENTRY));
        }
        memory.push(estimate("program", PROGRAM));
        Ok(Self { memory, model_path })
    }
}

pub(super) fn dictionary_settings(settings: &TrainSettings) -> Result<DictionarySettings> {
    match &settings.sae {
        DictionaryChoice::Pretrained(p) => pretrained_settings(p),
        DictionaryChoice::Settings(s) => match s.pretrained() {
            Some(name) => checkpoint::load_settings(Path::new(name)),
            None => Ok(s.clone()),
        },
    }
}

/// Where the model is and what it is like.
pub(super) fn model(
    settings: Option<&LanguageModelSettings>,
    obstacles: &mut Vec<String>,
) -> Option<(PathBuf, Architecture)> {
    let Some(settings) = settings else {
        obstacles.push("no language model: add a table [model]".into());
        return None;
    };
    let found = find_model(settings, false).and_then(|path| Ok((Lm::read_architecture(&path)?, path)));
    found.map(|(architecture, path)| (path, architecture)).map_err(|e| obstacles.push(e.to_string())).ok()
}

/// What the model's weights take.
pub(super) fn weights(a: &Architecture, settings: &LanguageModelSettings) -> Memory {
    let bytes = a.matrix_elements() as usize * settings.dtype.dtype().bytes();
    Memory { what: "language model weights", bytes, exact: false }
}

pub(super) fn data(datasets: &BTreeMap<String, DatasetSettings>, obstacles: &mut Vec<String>) {
    for (name, dataset) in datasets {
        let path = &dataset.dataset_name_or_path;
        if !Path::new(path).exists() && !dataset.may_be_on_hub() {
            obstacles.push(format!("data set {name:?}: {path:?} is no file or folder here"));
        }
    }
}

/// Only its lengths matter here; ids are not known without the tokenizer.
fn token_policy(settings: &TrainSettings, model: Option<&Architecture>) -> TokenPolicy {
    let longest = settings.model.clone().unwrap_or_default().max_length;
    TokenPolicy {
        context_size: settings.activation_factory.context_size,
        max_length: model.map_or(longest, |a| longest.min(a.n_ctx)),
        prepend_bos: false,
        bos: None,
        eos: None,
        pad: 0,
        overflow: Overflow::default(),
        ignore_token_ids: Vec::new(),
        mask_first_position: false,
    }
}

pub(super) fn largest(dictionary: &dyn Dictionary, arenas: &[Arena]) -> Vec<LargeTensor> {
    let params = dictionary.params().into_iter().map(|p| LargeTensor {
        label: p.name.clone(),
        shape: p.shape.clone(),
        bytes: p.value.bytes(),
    });
    let planned = arenas.iter().flat_map(Arena::planned).map(|p| LargeTensor {
        label: p.label.clone(),
        shape: vec![p.rows, p.cols],
        bytes: p.bytes,
    });
    let mut all: Vec<LargeTensor> = params.chain(planned).collect();
    all.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    all.truncate(LARGEST);
    all
}
