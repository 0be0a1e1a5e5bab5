//! What a reader makes of another tool's files: settings of ours and, for each of our parameters, where its values come from.
//! [`Reading::install`] turns that into a dictionary, one tensor in host memory at a time.

use super::tensors::Tensors;
use crate::{
    Error, Result,
    dictionary::{Dictionary, ParamGroup, build, checkpoint::Loaded},
    settings::{DTypeName, DictionarySettings},
};
use lm_saes_runtime::Queue;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path, rc::Rc};

/// A dictionary as it was read.
pub struct Reading {
    /// Settings in our form.
    pub settings: Value,
    /// Values of every parameter.
    pub parts: Vec<Part>,
    /// Decoder rows are to be made unit vectors, because activations are meant times their norm.
    pub unit_norm: bool,
    /// What a selection over the batch let through in training, in the units it compares.
    pub running: Option<f32>,
    /// What else the files say.
    pub about: About,
}

/// What is known of a dictionary beside its function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The format read.
    pub format: &'static str,
    /// The language model.
    pub model_name: Option<String>,
    /// Precision of the stored weights.
    pub dtype: DTypeName,
    /// L0 stated by whoever trained it.
    pub l0: Option<f64>,
    /// Explained variance stated likewise.
    pub explained_variance: Option<f64>,
    /// The tool's own record, kept as it is.
    pub metadata: Map<String, Value>,
}

/// Values of one parameter, or of some of its rows.
pub struct Part {
    /// Our names of what is filled, and the first row of each (as held) to fill; equal shares of the values in turn.
    into: Vec<(String, usize)>,
    order: Order,
    load: Box<dyn FnOnce() -> Result<Vec<f32>>>,
    /// Where they come from, for errors.
    from: String,
}

/// Order of a part's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That of our files: `W_E [d, S]`.
    Stored,
    /// That of the device: `W_E [S, d]`, as in the linear layers of PyTorch.
    Held,
}

impl Part {
    /// A whole parameter, from values that are computed when they are needed.
    pub fn new(
        ours: impl Into<String>,
        order: Order,
        from: impl Into<String>,
        load: impl FnOnce() -> Result<Vec<f32>> + 'static,
    ) -> Self {
        Self { into: vec![(ours.into(), 0)], order, load: Box::new(load), from: from.into() }
    }

    /// Rows, as held, of several parameters.
    pub fn rows(
        into: Vec<(String, usize)>,
        from: impl Into<String>,
        load: impl FnOnce() -> Result<Vec<f32>> + 'static,
    ) -> Self {
        Self { into, order: Order::Held, load: Box::new(load), from: from.into() }
    }

    /// The tensor as it is, of this shape.
    pub fn plain(file: &Rc<Tensors>, theirs: &str, ours: &str, shape: &[usize]) -> Self {
        Self::mapped(file, theirs, ours, Order::Stored, shape, |v| v)
    }

    /// The tensor times a number.
    pub fn scaled(file: &Rc<Tensors>, theirs: &str, ours: &str, shape: &[usize], factor: f32) -> Self {
        Self::mapped(file, theirs, ours, Order::Stored, shape, move |v| times(v, factor))
    }

    /// A tensor of this shape, its values mapped.
    pub fn mapped(
        file: &Rc<Tensors>,
        theirs: &str,
        ours: &str,
        order: Order,
        shape: &[usize],
        map: impl FnOnce(Vec<f32>) -> Vec<f32> + 'static,
    ) -> Self {
        let (file, name, shape) = (file.clone(), theirs.to_string(), shape.to_vec());
        let from = format!("{}: tensor {name}", file.path().display());
        Self::new(ours, order, from, move || Ok(map(shaped(&file, &name, &shape)?)))
    }

    /// A matrix whose transpose is meant: theirs has this shape `[rows, cols]`, ours `[cols, rows]` in our files.
    pub fn turned(
        file: &Rc<Tensors>,
        theirs: &str,
        ours: &str,
        [rows, cols]: [usize; 2],
        factor: f32,
    ) -> Self {
        let map = move |v: Vec<f32>| times(transpose(&v, rows, cols), factor);
        Self::mapped(file, theirs, ours, Order::Stored, &[rows, cols], map)
    }
}

/// Values of a tensor that must have this shape.
pub fn shaped(file: &Tensors, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let (found, values) = file.f32(name)?;
    if found != shape {
        return Err(file.error(name, format!("has shape {found:?}, expected {shape:?}")));
    }
    Ok(values)
}

/// Each value times a factor.
pub fn times(mut v: Vec<f32>, factor: f32) -> Vec<f32> {
    if factor != 1.0 {
        v.iter_mut().for_each(|x| *x *= factor);
    }
    v
}

/// `[rows, cols]` to `[cols, rows]`.
pub fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    const TILE: usize = 32;
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..cols).step_by(TILE) {
            for c in c0..(c0 + TILE).min(cols) {
                for r in r0..(r0 + TILE).min(rows) {
                    y[c * rows + r] = x[r * cols + c];
                }
            }
        }
    }
    y
}

/// The expansion factor from which our settings get exactly `d_sae` features.
pub fn expansion(d_model: usize, d_sae: usize) -> f64 {
    let factor = d_sae as f64 / d_model as f64;
    if (d_model as f64 * factor) as usize == d_sae { factor } else { factor.next_up() }
}

/// Settings of an SAE with raw inputs and outputs, without gate by norms: the form most tools mean.
pub fn plain_sae(d_in: usize, d_sae: usize, act_fn: &str, hook_in: &str, hook_out: &str) -> Value {
    let mut settings = json!({
        "sae_type": "sae",
        "d_model": d_in,
        "expansion_factor": expansion(d_in, d_sae),
        "act_fn": act_fn,
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": false,
        "hook_point_in": hook_in,
        "hook_point_out": hook_out,
    });
    if act_fn == "jumprelu" {
        settings["use_direct_jumprelu_threshold"] = json!(true);
    }
    settings
}

/// Name of the parameter with thresholds themselves.
pub const THRESHOLD: &str = "activation_function.jumprelu_threshold";

impl Reading {
    /// A reading with its format.
    pub fn new(format: &'static str, settings: Value, parts: Vec<Part>) -> Self {
        Self { settings, parts, unit_norm: false, running: None, about: About { format, ..About::default() } }
    }

    /// The dictionary. `source` goes into its record.
    ///
    /// # Errors
    /// Settings ours refuse, tensors that are missing, misshapen or not finite.
    pub fn install(self, q: &mut Queue, place: &Path, source: Map<String, Value>) -> Result<Loaded> {
        let refused = |e: Error| Error::format(place, format!("cannot be expressed here: {e}"));
        let settings: DictionarySettings = serde_json::from_value(self.settings)
            .map_err(|e| Error::format(place, format!("cannot be expressed here: {e}")))?;
        let mut dictionary = build(q, &settings).map_err(refused)?;
        let mut filled: BTreeMap<String, usize> = BTreeMap::new();
        for part in self.parts {
            fill(q, &mut *dictionary, part, &mut filled)?;
        }
        for p in dictionary.params() {
            if filled.get(&p.name).copied().unwrap_or(0) != p.value.len() {
                return Err(Error::format(place, format!("nothing there gives all of {}", p.name)));
            }
        }
        if self.unit_norm {
            dictionary.to_unit_decoder_norm(q)?;
        }
        if let Some(limit) = self.running.filter(|t| t.is_finite() && *t >= 0.0) {
            dictionary.running_thresholds_mut().set(Some(vec![limit]));
        }
        let extras = self.about.extras(source);
        Ok(Loaded { dictionary, extras })
    }
}

fn fill(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    part: Part,
    filled: &mut BTreeMap<String, usize>,
) -> Result<()> {
    let Part { into, order, load, from } = part;
    let values = load()?;
    let share = values.len() / into.len().max(1);
    for (i, (name, first)) in into.into_iter().enumerate() {
        let bad = |what: String| Error::Data { what: format!("{from}, our {name}: {what}") };
        let values = &values[i * share..(i + 1) * share];
        let p = dictionary.params_mut().into_iter().find(|p| p.name == name);
        let p = p.ok_or_else(|| bad("is no parameter of this dictionary".into()))?;
        // A threshold that nothing passes is legal.
        let legal = |v: &f32| p.group == ParamGroup::Thresholds && !v.is_nan();
        if let Some(at) = values.iter().position(|v| !v.is_finite() && !legal(v)) {
            return Err(bad(format!("element {at} is {}", values[at])));
        }
        *filled.entry(name.clone()).or_default() += values.len();
        let cols = p.value.cols().max(1);
        let rows = first..first + values.len() / cols;
        let whole = first == 0 && values.len() == p.value.len();
        if !(whole || (order == Order::Held && rows.end <= p.value.rows() && values.len() % cols == 0)) {
            return Err(bad(format!("{} values do not fit the shape {:?}", values.len(), p.shape)));
        }
        match order {
            Order::Stored => q.upload(&p.to_held(values.to_vec()), &mut p.value)?,
            Order::Held => q.upload(values, p.value.rows_mut(rows))?,
        }
    }
    Ok(())
}

impl About {
    /// As kept under `lm_saes` in `config.json`.
    pub fn extras(self, source: Map<String, Value>) -> Map<String, Value> {
        let mut extras = Map::new();
        if let Some(name) = self.model_name {
            extras.insert("model_name".into(), json!(name));
        }
        extras.insert("dtype".into(), json!(self.dtype.to_string()));
        let mut from = Map::from_iter([("format".to_string(), json!(self.format))]);
        from.extend(source);
        extras.insert("source".into(), Value::Object(from));
        let stated = [("l0", self.l0), ("explained_variance", self.explained_variance)];
        let stated: Map<String, Value> =
            stated.into_iter().filter_map(|(k, v)| Some((k.to_string(), json!(v?)))).collect();
        if !stated.is_empty() {
            extras.insert("stated".into(), Value::Object(stated));
        }
        if !self.metadata.is_empty() {
            extras.insert("metadata".into(), Value::Object(self.metadata));
        }
        extras
    }
}
