//! From a batch of raw activations to feature activations on the host: normalised as the dictionary says, encoded, and made one
//! code a token where a variant has several.

use super::{
    HostCodes,
    codes::{row_bytes, rows_at_once, rows_of},
};
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{
        Dictionary,
        normalise::{Scaling, Scratch},
    },
};
use lm_saes_runtime::{Arena, DType, Queue, Tensor, View};
use std::ops::Range;

/// Bytes of patterns of attention on the device at a time.
const PATTERNS_BLOCK: usize = 64 << 20;

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

    /// Gives its memory back, the dictionary's step memory too: whoever runs the dictionary next plans it anew.
    pub fn release(self, dictionary: &mut dyn Dictionary) -> Result<()> {
        let k = dictionary.settings().top_k();
        dictionary.plan(&mut Arena::planning("nothing"), self.rows, k, None)
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
        let rows = batch.acts.first().map_or(0, Tensor::rows);
        self.codes_at(q, dictionary, self.layer, 0..rows)
    }

    /// Rows of whole contexts of `len` whose codes may be on the host together, see [`super::CODES_BLOCK`].
    pub fn rows_at_once(&self, dictionary: &dyn Dictionary, len: usize) -> usize {
        let codes = dictionary.codes();
        let each = codes.iter().map(row_bytes);
        // Heads are put together, layers are looked at one by one.
        let row = if dictionary.averaged_heads() > 1 { each.sum() } else { each.max().unwrap_or(0) };
        rows_at_once(row, len)
    }

    /// Encodes a batch, whose activations are normalised in place; [`Encoder::codes_at`] then brings the codes to the host.
    ///
    /// # Errors
    /// As [`Encoder::codes`].
    pub fn forward(
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

    /// Where the activations of some features come from in a batch of one context: see [`Dictionary::z_patterns`]. `visit` is
    /// given the patterns in the order of `features`, a few of which are in memory at a time.
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
        mut visit: impl FnMut(&mut Queue, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let order = self.normalise(q, dictionary, hook_points, batch)?;
        let x = order.first().map(|&at| batch.acts[at].view());
        let x = x.ok_or_else(|| Error::Data { what: "a dictionary that reads nothing".into() })?;
        let together = (PATTERNS_BLOCK / (4 * x.rows() * x.rows()).max(1)).max(1);
        for some in features.chunks(together) {
            for z in dictionary.z_patterns(q, x, some)? {
                visit(q, &z)?;
            }
        }
        Ok(())
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

    /// The codes of some rows of the last forward, in one of the layers of features where there are several (see [`layers_of`]).
    ///
    /// # Errors
    /// The layer to look at is not named.
    pub fn codes_at(
        &self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        layer: Option<usize>,
        rows: Range<usize>,
    ) -> Result<HostCodes> {
        let codes = dictionary.codes();
        if dictionary.averaged_heads() > 1 {
            let mut all = Vec::with_capacity(codes.len());
            for c in codes {
                all.push(HostCodes::download(q, rows_of(c, rows.clone()))?);
            }
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
        HostCodes::download(q, rows_of(codes[which], rows))
    }
}
