//! Memory of a step: codes of every layer, one block of pre-activations, errors and gradients. Whatever belongs to one source
//! layer only (values per entry, entries by column) exists once, for the layer at hand.

use super::codes::{LayerCodes, Selection};
use crate::{
    Result,
    dictionary::ranked::{Ranked, slots},
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, Tensor};

const F32: DType = DType::F32;
/// Most bytes of one block of pre-activations where a block need not hold the whole batch.
const MOST_BYTES: usize = 128 << 20;
/// Bytes of a decoder's gradient that is made and used at a time, so that it need not leave the caches in between.
const PART_BYTES: usize = 4 << 20;

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
    /// Pre-activations: `[block, S]` of one layer, all rows where the batch competes; layertopk has those of all layers side by
    /// side, `[block, L·S]`.
    pub h: Tensor,
    pub codes: Store,
    /// Reconstructions `[rows, d]`, one for each layer.
    pub y_hat: Vec<Tensor>,
    pub train: Option<Train>,
    /// The contest with other ranks for the places of a row.
    pub ranked: Option<Ranked>,
}

/// Where feature activations are kept.
pub(super) enum Store {
    /// `[rows, S]` for each layer.
    Dense(Vec<Tensor>),
    Sparse(Box<LayerCodes>),
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
    /// Whose codes were turned last, for gradients of decoders.
    pub made: Option<usize>,
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
    Sparse(Entries),
}

/// One value for each entry of the codes of one layer, `[1, rows·k]`.
pub(super) struct Entries {
    /// Gradient of the values, by column.
    pub dcodes: Tensor,
    /// By column.
    pub spare: Tensor,
    /// Of the penalty, by row.
    pub penalty: Tensor,
}

impl Entries {
    fn plan(arena: &mut Arena, cap: usize, penalised: bool) -> Result<Self> {
        Ok(Self {
            dcodes: arena.tensor("gradient of the codes", 1, cap, F32)?,
            spare: arena.tensor("per-entry values", 1, cap, F32)?,
            penalty: arena.tensor("penalty gradient", 1, if penalised { cap } else { 0 }, F32)?,
        })
    }
}

/// Features of a layer whose decoder's gradient is made at a time.
pub(super) fn part_rows(s: usize, d: usize) -> usize {
    (PART_BYTES / 4 / d).clamp(1, s.max(1)).min(s)
}

/// Whether layers compete for places.
pub(super) fn joint(act_fn: ActFn) -> bool {
    matches!(act_fn, ActFn::LayerTopK | ActFn::BatchLayerTopK)
}

/// How the top-k family selects.
fn selection(act_fn: ActFn) -> Option<Selection> {
    match act_fn {
        ActFn::LayerTopK => Some(Selection::JointRows),
        ActFn::BatchTopK => Some(Selection::Batch),
        ActFn::BatchLayerTopK => Some(Selection::Merged),
        _ if act_fn.has_k() => Some(Selection::Rows),
        _ => None,
    }
}

/// The buffers do not belong to this path: cannot happen, settings never change the activation of a planned dictionary.
pub(super) fn mixed_up() -> crate::Error {
    crate::Error::Data { what: "the dictionary was planned for another activation function".into() }
}

impl Work {
    pub fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        (layers, s): (usize, usize),
        rows: usize,
        (max_k, ranks): (usize, usize),
        loss: Option<&LossSettings>,
    ) -> Result<Self> {
        let (d, act_fn) = (cfg.d_model(), cfg.act_fn());
        let selection = selection(act_fn);
        let wide = if act_fn == ActFn::LayerTopK { layers * s } else { s };
        let block = match selection {
            Some(Selection::Batch | Selection::Merged) => rows,
            _ => (MOST_BYTES / 4 / wide).clamp(64, 4096).min(rows),
        };
        let max_k = max_k.min(if joint(act_fn) { layers } else { 1 } * cfg.d_sae());
        // One rank may hold all that a selection over the batch lets through.
        let most = match selection {
            Some(Selection::Batch | Selection::Merged) => max_k * ranks,
            _ => slots(max_k, wide),
        };
        let mut each = |label: &str, r, c| -> Result<Vec<Tensor>> {
            (0..layers).map(|l| Ok(arena.tensor(&format!("{label} {l}"), r, c, F32)?)).collect()
        };
        let y_hat = each("reconstruction of layer", rows, d)?;
        let codes = match selection {
            None => Store::Dense(each("feature activations of layer", rows, s)?),
            Some(of) => {
                let codes = LayerCodes::plan(arena, of, layers, s, rows, most, loss.is_some())?;
                Store::Sparse(Box::new(codes))
            }
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
            train: loss.map(|l| Train::plan(arena, cfg, (layers, s), rows, block, most, l)).transpose()?,
            ranked: None,
        })
    }
}

impl Train {
    fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        (layers, s): (usize, usize),
        rows: usize,
        block: usize,
        max_k: usize,
        loss: &LossSettings,
    ) -> Result<Self> {
        let d = cfg.d_model();
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
                true => Path::Sparse(Entries::plan(arena, rows * max_k, loss.sparsity.is_some())?),
                false => Path::Dense {
                    df: arena.tensor("gradient of the activations", block, s, F32)?,
                    spare: arena.tensor("penalty gradient", block, s, F32)?,
                },
            },
            made: None,
            has_row_penalty: false,
        })
    }
}
