//! Memory of a step: codes of every layer, one block of pre-activations, errors and gradients. Whatever belongs to one source
//! layer only (values per entry, entries by column) exists once, for the layer at hand.

use crate::{
    Result,
    dictionary::slots::Slots,
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, SparseView, Tensor, View, ViewMut};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;
/// Most bytes of one block of pre-activations where a block need not hold the whole batch.
const MOST_BYTES: usize = 128 << 20;

/// Buffers of forward and, with `train`, of loss and gradients. L layers of S features.
pub(super) struct Work {
    /// Most rows of a step.
    pub rows: usize,
    /// Largest k of a step.
    pub max_k: usize,
    /// Rows encoded at a time.
    pub block: usize,
    /// Rows of the last forward.
    pub done: usize,
    /// Decoder norms `[1, L·S]`.
    pub norms: Tensor,
    /// `exp(log θ)` `[L, S]`.
    pub theta: Option<Tensor>,
    /// Pre-activations: `[block, S]` of one layer; where layers compete `[block, L·S]`; batchtopk needs all rows of a layer,
    /// batchlayertopk all rows of all layers.
    pub h: Tensor,
    pub codes: Store,
    /// Reconstructions `[rows, d]`, one for each layer.
    pub y_hat: Vec<Tensor>,
    pub train: Option<Train>,
}

/// Where feature activations are kept.
pub(super) enum Store {
    /// `[rows, S]` for each layer.
    Dense(Vec<Tensor>),
    Sparse(Box<LayerCodes>),
}

/// Sparse codes of every layer over its own S columns.
pub(in crate::dictionary) struct LayerCodes {
    /// Values and columns of each layer, `[1, rows·k]`.
    layers: Vec<(Tensor, Tensor)>,
    /// Row offsets `[1, rows + 1]`: of each layer (batchtopk), or one for all (batchlayertopk); none when every row has k slots.
    ptr: Vec<Tensor>,
    /// Where layers compete: the selection over `L·S` columns that the layers' codes are parts of, its values and columns.
    joint: Option<(Tensor, Tensor)>,
    /// Selection thresholds of the batch forms, `[1, 2]` for each row offsets.
    thr: Option<Tensor>,
    /// `[S, 1]` and `[rows, 1]`, where layers compete: what marks the filled slots of a layer.
    ones: Option<(Tensor, Tensor)>,
    s: usize,
    rows: usize,
    k: usize,
    /// Slots of each selection.
    budget: usize,
}

/// Buffers of loss and gradients.
pub(super) struct Train {
    /// Gradient of the loss with respect to each layer's reconstruction, `[rows, d]`.
    pub dy: Vec<Tensor>,
    /// Squared error of each row, all layers together, `[rows, 1]`.
    pub row_rec: Tensor,
    /// Sparsity penalty of each row and layer, `[rows, L]`.
    pub row_penalty: Tensor,
    /// Row weights times 2/L, and times the sparsity coefficient over L; `[rows, 1]`.
    pub error_weight: Tensor,
    pub penalty_weight: Tensor,
    pub ones: Tensor,
    /// Gradient of the thresholds, `[L, S]`.
    pub dtheta: Option<Tensor>,
    /// Mean of tanh(c·u) over batch and layers, and the gain of each column that follows (tanh-quad); `[1, S]`.
    pub quad: Tensor,
    pub quad_gain: Tensor,
    /// Sums that leave the device, at the positions below.
    pub scalars: Tensor,
    pub path: Path,
    /// Gradient of one decoder, `[S, d]`: those of all would take as much memory as the decoders.
    pub dw: Tensor,
    /// Whether `row_penalty` holds the last step's penalty.
    pub has_row_penalty: bool,
}

/// Positions in [`Train::scalars`]: squared error, mean tanh and its square, then the penalty of each layer.
pub(super) const REC: usize = 0;
pub(super) const QUAD: usize = 1;
pub(super) const SQUARES: usize = 2;
pub(super) const LAYERS: usize = 3;

/// Gradients of one layer's activations.
pub(super) enum Path {
    /// `df, spare [block, S]`.
    Dense {
        df: Tensor,
        spare: Tensor,
    },
    Sparse(Slots),
}

/// Whether layers compete for places.
pub(super) fn joint(act_fn: ActFn) -> bool {
    matches!(act_fn, ActFn::LayerTopK | ActFn::BatchLayerTopK)
}

fn spans_batch(act_fn: ActFn) -> bool {
    matches!(act_fn, ActFn::BatchTopK | ActFn::BatchLayerTopK)
}

/// The buffers do not belong to this path: cannot happen, settings never change the activation of a planned dictionary.
pub(super) fn mixed_up() -> crate::Error {
    crate::Error::Data { what: "the dictionary was planned for another activation function".into() }
}

impl Work {
    pub fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        layers: usize,
        rows: usize,
        (max_k, ranks): (usize, usize),
        loss: Option<&LossSettings>,
    ) -> Result<Self> {
        let (s, d, act_fn) = (cfg.d_sae(), cfg.d_model(), cfg.act_fn());
        let wide = if joint(act_fn) { layers * s } else { s };
        let block = match spans_batch(act_fn) {
            true => rows,
            false => (MOST_BYTES / 4 / wide).clamp(64, 4096).min(rows),
        };
        let max_k = max_k.min(wide);
        // One rank may hold all that a selection over the batch lets through.
        let most = if spans_batch(act_fn) { max_k * ranks } else { max_k };
        let mut each = |label: &str, r, c| -> Result<Vec<Tensor>> {
            (0..layers).map(|l| Ok(arena.tensor(&format!("{label} {l}"), r, c, F32)?)).collect()
        };
        let y_hat = each("reconstruction of layer", rows, d)?;
        let codes = match act_fn.has_k() {
            false => Store::Dense(each("feature activations of layer", rows, s)?),
            true => Store::Sparse(Box::new(LayerCodes::plan(arena, act_fn, layers, s, rows, most)?)),
        };
        Ok(Self {
            rows,
            max_k,
            block,
            done: 0,
            norms: arena.tensor("decoder norms", 1, layers * s, F32)?,
            theta: match act_fn {
                ActFn::JumpRelu => Some(arena.tensor("thresholds", layers, s, F32)?),
                _ => None,
            },
            h: arena.tensor("pre-activations", block, wide, F32)?,
            codes,
            y_hat,
            train: loss.map(|l| Train::plan(arena, cfg, layers, rows, block, most, l)).transpose()?,
        })
    }
}

impl LayerCodes {
    /// For up to `rows` rows; every selection has up to `k` slots a row.
    pub fn plan(
        arena: &mut Arena,
        act_fn: ActFn,
        layers: usize,
        s: usize,
        rows: usize,
        k: usize,
    ) -> Result<Self> {
        let cap = rows * k;
        let mut pair = |label: String| -> Result<(Tensor, Tensor)> {
            let vals = arena.tensor(&label, 1, cap, F32)?;
            Ok((vals, arena.tensor(&format!("{label}, columns"), 1, cap, U32)?))
        };
        let codes = (0..layers).map(|l| pair(format!("feature activations of layer {l}")));
        let codes = codes.collect::<Result<_>>()?;
        let of_all = match joint(act_fn) {
            true => Some(pair("selection over all layers".into())?),
            false => None,
        };
        let offsets = match act_fn {
            ActFn::BatchTopK => layers,
            ActFn::BatchLayerTopK => 1,
            _ => 0,
        };
        let ptr = (0..offsets).map(|l| Ok(arena.tensor(&format!("row offsets {l}"), 1, rows + 1, U32)?));
        let ptr = ptr.collect::<Result<_>>()?;
        Ok(Self {
            layers: codes,
            ptr,
            joint: of_all,
            thr: match spans_batch(act_fn) {
                true => Some(arena.tensor("selection thresholds", offsets, 2, U32)?),
                false => None,
            },
            ones: match joint(act_fn) {
                true => Some((arena.tensor("ones", s, 1, F32)?, arena.tensor("ones", rows, 1, F32)?)),
                false => None,
            },
            s,
            rows: 0,
            k: 0,
            budget: 0,
        })
    }

    /// Sets the shape of the next selection; it was checked against the plan.
    pub fn set(&mut self, rows: usize, k: usize) {
        (self.rows, self.k, self.budget) = (rows, k, rows * k);
    }

    /// Sets the budget of selections over a batch of which other ranks hold rows too, `total` in all.
    pub fn set_total(&mut self, total: usize) {
        self.budget = total * self.k;
    }

    /// Whether selections are over the whole batch.
    pub fn spans_batch(&self) -> bool {
        self.thr.is_some()
    }

    /// Slots of each selection.
    pub fn len(&self) -> usize {
        self.budget
    }

    fn shape(&self) -> (usize, usize) {
        if self.ptr.is_empty() { (self.rows, self.k) } else { (1, self.len()) }
    }

    fn offsets(&self, l: usize) -> Option<View<'_>> {
        let ptr = self.ptr.get(l).or(self.ptr.first())?;
        Some(ptr.view().slice_cols(0..self.rows + 1))
    }

    /// The codes of layer `l`.
    pub fn view(&self, l: usize) -> SparseView<'_> {
        let (vals, idx) = &self.layers[l];
        SparseView { vals: self.like(vals), idx: self.like(idx), ptr: self.offsets(l), n: self.s }
    }

    /// A buffer with one value for each slot, shaped like the values.
    pub fn like<'a>(&self, t: &'a Tensor) -> View<'a> {
        let (rows, cols) = self.shape();
        t.view().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// [`LayerCodes::like`], to write.
    pub fn like_mut<'a>(&self, t: &'a mut Tensor) -> ViewMut<'a> {
        let (rows, cols) = self.shape();
        t.view_mut().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// Values and columns of rows `r`, with k slots a row: of layer `l`, or of the joint selection.
    pub fn rows_mut(&mut self, l: Option<usize>, r: Range<usize>) -> Result<(ViewMut<'_>, ViewMut<'_>)> {
        let (rows, k, len) = (self.rows, self.k, self.len());
        let (vals, idx) = match l {
            Some(l) => self.layers.get_mut(l),
            None => self.joint.as_mut(),
        }
        .ok_or_else(mixed_up)?;
        Ok((
            vals.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r.clone()),
            idx.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r),
        ))
    }

    /// Values, columns, row offsets and threshold of a batch form: of layer `l`, or of the joint selection.
    pub fn ragged_mut(
        &mut self,
        l: Option<usize>,
    ) -> Result<(ViewMut<'_>, ViewMut<'_>, ViewMut<'_>, ViewMut<'_>)> {
        let (rows, len) = (self.rows, self.len());
        let (vals, idx) = match l {
            Some(l) => self.layers.get_mut(l),
            None => self.joint.as_mut(),
        }
        .ok_or_else(mixed_up)?;
        let at = l.unwrap_or(0);
        let ptr = self.ptr.get_mut(at).ok_or_else(mixed_up)?;
        Ok((
            vals.view_mut().slice_cols(0..len),
            idx.view_mut().slice_cols(0..len),
            ptr.view_mut().slice_cols(0..rows + 1),
            self.thr.as_mut().ok_or_else(mixed_up)?.rows_mut(at..at + 1),
        ))
    }

    /// The limits of the last selections over the batch.
    pub fn limits(&self) -> Option<&Tensor> {
        self.thr.as_ref()
    }

    /// Divides the joint selection among the layers.
    pub fn divide(&mut self, q: &mut Queue) -> Result<()> {
        let (rows, len, (r, c)) = (self.rows, self.len(), self.shape());
        let Self { layers, joint: Some((all, columns)), ptr, ones: Some((column, row)), s, .. } = self else {
            return Err(mixed_up());
        };
        q.fill(&mut *column, 1.0)?;
        q.fill(&mut *row, 1.0)?;
        let vals = all.view().slice_cols(0..len).reshaped(r, c);
        let idx = columns.view().slice_cols(0..len).reshaped(r, c);
        let ptr = ptr.first().map(|p| p.view().slice_cols(0..rows + 1));
        let joint = SparseView { vals, idx, ptr, n: layers.len() * *s };
        for (l, (own, own_idx)) in layers.iter_mut().enumerate() {
            let mut local = own_idx.view_mut().slice_cols(0..len).reshaped(r, c);
            q.confine(joint, l * *s..(l + 1) * *s, local.reborrow())?;
            // 1 in the layer's slots and 0 in the others, which must not keep a value.
            let of_layer = SparseView { idx: local.as_view(), n: *s, ..joint };
            let mut own = own.view_mut().slice_cols(0..len).reshaped(r, c);
            q.sparse_dot(of_layer, &*column, row.rows_view(0..rows), own.reborrow())?;
            q.zip_in_place(MapKind::Mul, vals, 1.0, 0.0, own)?;
        }
        Ok(())
    }
}

impl Train {
    fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        layers: usize,
        rows: usize,
        block: usize,
        max_k: usize,
        loss: &LossSettings,
    ) -> Result<Self> {
        let (s, d) = (cfg.d_sae(), cfg.d_model());
        let quad = if loss.sparsity == Some(SparsityLoss::TanhQuad) { s } else { 0 };
        let penalised = if loss.sparsity.is_some() { rows } else { 0 };
        let dy = (0..layers).map(|l| Ok(arena.tensor(&format!("gradient of layer {l}"), rows, d, F32)?));
        let dy = dy.collect::<Result<_>>()?;
        Ok(Self {
            dy,
            row_rec: arena.tensor("row errors", rows, 1, F32)?,
            row_penalty: arena.tensor("row penalties", penalised, layers, F32)?,
            error_weight: arena.tensor("error weights", rows, 1, F32)?,
            penalty_weight: arena.tensor("penalty weights", rows, 1, F32)?,
            ones: arena.tensor("ones", rows, 1, F32)?,
            dtheta: match cfg.act_fn() {
                ActFn::JumpRelu => Some(arena.tensor("gradient of the thresholds", layers, s, F32)?),
                _ => None,
            },
            quad: arena.tensor("mean tanh", 1, quad, F32)?,
            quad_gain: arena.tensor("column gains", 1, quad, F32)?,
            scalars: arena.tensor("loss terms", 1, LAYERS + layers, F32)?,
            path: match cfg.act_fn().has_k() {
                true => Path::Sparse(Slots::plan(arena, s, rows * max_k)?),
                false => Path::Dense {
                    df: arena.tensor("gradient of the activations", block, s, F32)?,
                    spare: arena.tensor("penalty gradient", block, s, F32)?,
                },
            },
            dw: arena.tensor("gradient of a decoder", s, d, F32)?,
            has_row_penalty: false,
        })
    }
}
