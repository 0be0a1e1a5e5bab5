//! From a batch of raw activations to feature activations on the host: normalised as the dictionary says, encoded, and made one
//! code a token where a variant has several.

use super::HostCodes;
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{
        Dictionary,
        normalise::{Scaling, Scratch},
    },
};
use lm_saes_runtime::{Arena, DType, Queue, Tensor, View};

/// The layers of features to look at: the one `given` or all, where the dictionary has several; otherwise one without a number.
///
/// # Errors
/// A layer it does not have.
pub fn layers_of(dictionary: &dyn Dictionary, given: Option<usize>) -> Result<Vec<Option<usize>>> {
    let n = dictionary.hook_points_in().len();
    match given {
        _ if dictionary.layer_metrics().is_none() => Ok(vec![None]),
        None => Ok((0..n).map(Some).collect()),
        Some(layer) if layer < n => Ok(vec![given]),
        Some(layer) => {
            let what =
                format!("is {layer}, but the layers of this dictionary are 0 to {}", n.saturating_sub(1));
            Err(Error::setting("analyzer.clt_layer", what))
        }
    }
}

/// Room to encode batches of up to so many rows.
pub struct Encoder {
    rows: usize,
    layer: Option<usize>,
    scratch: Scratch,
    factors: Tensor,
    /// Keeps the dictionary's step memory alive.
    _arena: Arena,
}

impl Encoder {
    /// Plans `dictionary` for inference on `rows` rows. `layer` chooses among the layers of a cross-layer transcoder.
    pub fn new(
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        rows: usize,
        layer: Option<usize>,
    ) -> Result<Self> {
        let k = dictionary.settings().top_k();
        let mut plan = Arena::planning("analysis");
        dictionary.plan(&mut plan, rows, k, None)?;
        let mut arena = Arena::build(&plan, q.device())?;
        dictionary.plan(&mut arena, rows, k, None)?;
        let scratch = Scratch::new(q, rows)?;
        let factors = q.empty(rows, 1, DType::F32)?;
        Ok(Self { rows, layer, scratch, factors, _arena: arena })
    }

    /// Rows it has room for.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The codes of a batch, whose activations are normalised in place. `hook_points` says what `batch.acts` are.
    ///
    /// # Errors
    /// A hook point the dictionary reads is not among them, or the layer to look at is not named.
    pub fn codes(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
    ) -> Result<HostCodes> {
        self.forward(q, dictionary, hook_points, batch)?;
        self.combine(q, dictionary, self.layer)
    }

    /// The same of several layers, see [`layers_of`].
    pub fn codes_of(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
        layers: &[Option<usize>],
    ) -> Result<Vec<HostCodes>> {
        self.forward(q, dictionary, hook_points, batch)?;
        layers.iter().map(|&layer| self.combine(q, dictionary, layer)).collect()
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
    ) -> Result<()> {
        let order = self.normalise(q, dictionary, hook_points, batch)?;
        let context = batch.contexts.map(|(_, len)| len);
        let inputs: Vec<View<'_>> = order.iter().map(|&at| batch.acts[at].view()).collect();
        let k = dictionary.settings().top_k();
        dictionary.forward(q, &inputs, context, k)
    }

    /// Where the activations of some features come from in a batch of one context: see [`Dictionary::z_patterns`].
    ///
    /// # Errors
    /// A dictionary without attention.
    pub fn z_patterns(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
        features: &[usize],
    ) -> Result<Vec<Tensor>> {
        let order = self.normalise(q, dictionary, hook_points, batch)?;
        let x = order.first().map(|&at| batch.acts[at].view());
        let x = x.ok_or_else(|| Error::Data { what: "a dictionary that reads nothing".into() })?;
        dictionary.z_patterns(q, x, features)
    }

    /// Normalises what the dictionary reads; returns where in `batch.acts` its inputs are.
    fn normalise(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
    ) -> Result<Vec<usize>> {
        let wanted = dictionary.hook_points_in();
        let context = batch.contexts.map(|(_, len)| len);
        let mut order = Vec::new();
        for hook in &wanted {
            let at = hook_points.iter().position(|h| h == hook).ok_or_else(|| {
                let what = format!(
                    "must contain {hook:?}, which the dictionary reads; it has {}",
                    hook_points.join(", ")
                );
                Error::setting("activation_factory.hook_points", what)
            })?;
            order.push(at);
        }
        let mut done = Vec::new();
        for (hook, &at) in wanted.iter().zip(&order) {
            let scaling = Scaling::of(dictionary, hook)?;
            if done.contains(&at) || scaling.constant() == Some(1.0) {
                continue;
            }
            done.push(at);
            let x = &mut batch.acts[at];
            let rows = x.rows();
            let factors = self.factors.rows_mut(0..rows);
            scaling.scale_in_place(q, context, &mut self.scratch, factors, x.view_mut())?;
        }
        Ok(order)
    }

    fn combine(&self, q: &mut Queue, dictionary: &dyn Dictionary, layer: Option<usize>) -> Result<HostCodes> {
        let codes = dictionary.codes();
        if dictionary.averaged_heads() > 1 {
            let all: Vec<HostCodes> =
                codes.into_iter().map(|c| HostCodes::download(q, c)).collect::<Result<_>>()?;
            return Ok(HostCodes::strongest(&all));
        }
        let n = codes.len();
        let which = match (n, layer) {
            (1, _) => 0,
            (_, Some(layer)) if layer < n => layer,
            (_, given) => {
                let given = given.map_or("it is not set".into(), |l| format!("{l} is not one of them"));
                let what =
                    format!("this dictionary has {n} layers of features; name the one to analyse ({given})");
                return Err(Error::setting("analyzer.clt_layer", what));
            }
        };
        HostCodes::download(q, codes[which])
    }
}
