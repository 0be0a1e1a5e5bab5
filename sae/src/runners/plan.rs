//! What a training job will do and need, worked out from its settings alone: steps, schedules, memory by arena, largest
//! tensors. Nothing is downloaded, and neither the device nor the data has to be there.

use super::workbench::{batch_rows, model_path};
use crate::{
    Result,
    activations::ActivationStream,
    data::{Overflow, TokenPolicy},
    dictionary::{Dictionary, build, checkpoint},
    lm::{Architecture, Lm},
    settings::{DictionaryChoice, DictionarySettings, LanguageModelSettings, TrainSettings},
    training::{Trainer, schedules::Schedules, source::needed},
};
use lm_saes_runtime::{Arena, Queue, Registry};
use std::path::{Path, PathBuf};

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
    /// Memory by purpose.
    pub memory: Vec<Memory>,
    /// The largest tensors, largest first.
    pub largest: Vec<LargeTensor>,
    /// Where the language model is, if it is on disk.
    pub model_path: Option<PathBuf>,
    /// Everything that stands in the way of running this here: device, model, data.
    pub obstacles: Vec<String>,
}

/// One share of device memory.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let factory = &settings.activation_factory;
    let batch_rows = batch_rows(factory, factory.context_size)?;
    let mut obstacles = Vec::new();
    let opened = registry.open(&settings.device_type).or_else(|e| {
        obstacles.push(format!("{e}; choose another with --device"));
        registry.open("auto")
    })?;
    let mut q = Queue::new(&opened)?;
    let dictionary_settings = dictionary_settings(settings)?;
    let mut dictionary = build(&mut q, &dictionary_settings)?;
    let top_k = dictionary_settings.act_fn().has_k().then(|| dictionary_settings.top_k());
    let schedules = Schedules::resolve(&settings.trainer, batch_rows as u64, top_k)?;
    let arenas = Trainer::plan(&mut *dictionary, &settings.trainer, &schedules, batch_rows)?;
    let (model_path, model_bytes) = model(settings.model.as_ref(), &mut obstacles);
    data(settings, &mut obstacles);
    let parameters = dictionary.params().iter().map(|p| p.value.bytes()).sum();
    let mut memory = vec![
        Memory { what: "dictionary parameters", bytes: parameters, exact: true },
        Memory { what: "optimizer moments", bytes: arenas[1].used(), exact: true },
        Memory { what: "gradients and step", bytes: arenas[0].used(), exact: true },
        Memory { what: "shuffle buffer", bytes: buffer(settings, &*dictionary)?, exact: false },
    ];
    if let Some(bytes) = model_bytes {
        memory.push(Memory { what: "language model weights", bytes, exact: false });
    }
    Ok(Plan {
        device: settings.device_type.clone(),
        batch_rows,
        schedules,
        d_sae: dictionary.d_sae(),
        memory,
        largest: largest(&*dictionary, &arenas),
        model_path,
        obstacles,
    })
}

fn dictionary_settings(settings: &TrainSettings) -> Result<DictionarySettings> {
    match &settings.sae {
        DictionaryChoice::Pretrained(p) => checkpoint::load_settings(&p.pretrained_name_or_path),
        DictionaryChoice::Settings(s) => match s.pretrained() {
            Some(name) => checkpoint::load_settings(Path::new(name)),
            None => Ok(s.clone()),
        },
    }
}

fn model(
    settings: Option<&LanguageModelSettings>,
    obstacles: &mut Vec<String>,
) -> (Option<PathBuf>, Option<usize>) {
    let Some(settings) = settings else {
        obstacles.push("no language model: add a table [model]".into());
        return (None, None);
    };
    let found = model_path(settings).and_then(|path| Ok((Lm::read_architecture(&path)?, path)));
    match found {
        Ok((architecture, path)) => {
            (Some(path), Some(matrix_elements(&architecture) * settings.dtype.dtype().bytes()))
        }
        Err(e) => {
            obstacles.push(e.to_string());
            (None, None)
        }
    }
}

/// Elements of all weight matrices; vectors are left out.
fn matrix_elements(a: &Architecture) -> usize {
    let attention = 2 * a.d_model * a.d_head * (a.n_heads + a.n_kv_heads);
    let mlp = if a.gated { 3 } else { 2 } * a.d_model * a.d_mlp;
    let embeddings = if a.tied { 1 } else { 2 } * a.d_vocab * a.d_model;
    a.n_layers * (attention + mlp) + embeddings
}

fn data(settings: &TrainSettings, obstacles: &mut Vec<String>) {
    for (name, dataset) in &settings.datasets {
        let path = &dataset.dataset_name_or_path;
        if !Path::new(path).exists() {
            obstacles.push(format!("data set {name:?}: {path:?} is no file or folder here"));
        }
    }
}

fn buffer(settings: &TrainSettings, dictionary: &dyn Dictionary) -> Result<usize> {
    let factory = &settings.activation_factory;
    let model = settings.model.clone().unwrap_or_default();
    // Only its lengths matter here; ids are not known without the tokenizer.
    let policy = TokenPolicy {
        context_size: factory.context_size,
        max_length: model.max_length,
        prepend_bos: false,
        bos: None,
        eos: None,
        pad: 0,
        overflow: Overflow::default(),
        ignore_token_ids: Vec::new(),
        mask_first_position: false,
    };
    let widths =
        vec![dictionary.settings().d_model(); factory.hook_points.len().max(needed(dictionary).len())];
    ActivationStream::buffer_bytes(&factory.stream(), &policy, factory.model_batch_size, &widths)
}

fn largest(dictionary: &dyn Dictionary, arenas: &[Arena]) -> Vec<LargeTensor> {
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
