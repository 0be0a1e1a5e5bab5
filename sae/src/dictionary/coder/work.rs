//! Memory of a step, all of it planned in the trainer's arena: code buffers, blocks of pre-activations, gradients.

use super::{Encoder, Extras, codes::SparseCodes, levels::Levels};
use crate::{
    Result,
    dictionary::{Share, ranked::Ranked, slots::Slots},
    settings::{ActFn, DictionarySettings},
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, DType, Tensor, ViewMut};
use std::ops::Range;

/// Most rows encoded at a time. A product packs all of W_E before it multiplies, which costs 10 % of its time at 512 rows, 5 % at
/// 1024, 3 % of the whole step at 2048 against 4096 (d 768, S 6144, AVX-512; `benches/train_step`).
const MOST_ROWS: usize = 4096;
/// Most bytes of one block of pre-activations, for wide dictionaries.
const MOST_BYTES: usize = 256 << 20;
/// Rows of `[S, d]` held at once while the gradient of the norms is added.
const PART: usize = 512;

/// Rows encoded at a time: the batch in equal parts within both limits, and at least `joined`. Where gradients are dense there
/// are several such blocks, so they are smaller.
fn block_rows(cfg: &DictionarySettings, s: usize, rows: usize, joined: Option<usize>) -> usize {
    let share = if cfg.act_fn().has_k() && joined.is_none() { 1 } else { 4 };
    let limit = (MOST_BYTES / share / 4 / s).clamp(64, MOST_ROWS);
    rows.div_ceil(rows.div_ceil(limit).max(1)).next_multiple_of(16).max(joined.unwrap_or(1)).min(rows)
}

const F32: DType = DType::F32;

/// What encoder and extras ask for.
pub(super) struct Needs {
    /// Most rows encoded together, by an encoder that joins rows.
    joined: Option<usize>,
    side: bool,
    centred: bool,
    /// Prefixes of the features here, where they reconstruct.
    widths: Vec<usize>,
    /// Ranks among which the rows of a batch are divided.
    ranks: usize,
}

impl Needs {
    pub fn new(encoder: &dyn Encoder, extras: &Extras, ranks: usize, share: &Share) -> Self {
        let first = share.global(0);
        let here = |w: &usize| w.saturating_sub(first).min(share.len());
        Self {
            joined: encoder.most_joined(),
            side: encoder.has_side(),
            centred: extras.centred,
            widths: extras.widths.iter().map(here).collect(),
            ranks,
        }
    }
}

/// Buffers of forward and, with `train`, of loss and gradients.
pub(super) struct Work {
    /// Most rows of a step.
    pub rows: usize,
    /// Largest k of a step; S where the activation has none.
    pub max_k: usize,
    /// Most rows encoded at a time.
    pub most_block: usize,
    /// Rows encoded at a time in this pass.
    pub block: usize,
    /// Rows of the last forward.
    pub done: usize,
    /// Decoder norms `[1, S]`.
    pub norms: Tensor,
    /// `exp(log θ)` `[1, S]`.
    pub theta: Option<Tensor>,
    /// Pre-activations: `[block, S]`, or `[rows, S]` for batchtopk, whose selection needs all of them at once.
    pub h: Tensor,
    /// Feature activations.
    pub codes: Store,
    /// Reconstructions `[rows, d]`.
    pub y_hat: Tensor,
    /// `x − b_D [rows, d]`, where the encoder sees that.
    pub centred: Option<Tensor>,
    pub train: Option<Train>,
    /// The contest with other ranks for the places of a row.
    pub ranked: Option<Ranked>,
}

/// Where feature activations are kept.
pub(super) enum Store {
    /// `[rows, S]`.
    Dense(Tensor),
    Sparse(SparseCodes),
}

/// Buffers of loss and gradients. Per-row tensors are `[rows, 1]`, per-column ones `[1, S]`.
pub(super) struct Train {
    /// First ŷ − y, then the gradient of the loss with respect to ŷ; `[rows, d]`.
    pub dy: Tensor,
    /// Gradient of the pre-activations, dense, of an encoder that joins rows while codes are sparse; `[block, S]`.
    pub dh: Option<Tensor>,
    /// Squared error of each row.
    pub row_rec: Tensor,
    /// Sparsity penalty of each row.
    pub row_penalty: Tensor,
    /// Threshold penalty of each row.
    pub row_lp: Tensor,
    /// Squared error of each row after the auxiliary reconstruction.
    pub row_aux: Tensor,
    /// Row weights times the sparsity coefficient.
    pub penalty_weight: Tensor,
    /// Row weights times the threshold coefficient.
    pub lp_weight: Tensor,
    pub ones: Tensor,
    /// Gradient of the decoder norms.
    pub dn: Tensor,
    pub inv_n: Tensor,
    pub dtheta: Tensor,
    /// Batch mean of tanh(c·u), and the resulting gain of each column (tanh-quad).
    pub quad: Tensor,
    pub quad_gain: Tensor,
    /// Part of `[S, d]` while the gradient of the norms is added to that of the decoder.
    pub dw: Tensor,
    /// Sums that leave the device, `[1, SCALARS]`.
    pub scalars: Tensor,
    pub path: Path,
    pub aux: Option<Aux>,
    /// Error of the side path, then the gradient of its reconstruction; `[block, d]`.
    pub side: Option<Tensor>,
    /// Sums of the target-l0 loss.
    pub l0: Option<L0>,
    /// Prefixes that reconstruct.
    pub levels: Option<Levels>,
    /// Whether [`Train::row_penalty`] holds the last step's penalty.
    pub has_row_penalty: bool,
}

/// Sums of the target-l0 loss.
pub(super) struct L0 {
    /// Upper and lower ends of the windows, `[2, S]`.
    pub ends: Tensor,
    /// ∂L0/∂θ `[1, S]`.
    pub dtheta: Tensor,
    /// Weight of the rows in which each feature is active, `[1, S]`.
    pub active: Tensor,
    /// Row weights over −window and over window, `[rows, 2]`.
    pub weight: Tensor,
}

/// Positions in [`Train::scalars`].
pub(super) const REC: usize = 0;
pub(super) const PENALTY: usize = 1;
pub(super) const LP: usize = 2;
pub(super) const AUX: usize = 3;
pub(super) const QUAD_SQUARES: usize = 4;
pub(super) const SCALARS: usize = 8;

/// Gradients of the activations.
pub(super) enum Path {
    /// `df, dh, spare [block, S]`.
    Dense {
        df: Tensor,
        dh: Tensor,
        spare: Tensor,
    },
    Sparse(Slots),
}

/// Buffers of the auxiliary loss.
pub(super) struct Aux {
    /// Activations of dead features: `[block, S]`, or sparse.
    pub codes: Store,
    /// ê, then the gradient with respect to it; `[rows, d]`.
    pub e_hat: Tensor,
    /// What selects dead features in a dense gate, `[1, S]`: 0 for living ones.
    pub scale: Option<Tensor>,
    /// Budget of each row.
    pub k_aux: usize,
}

impl Work {
    /// For `s` features.
    pub fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        s: usize,
        needs: &Needs,
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<Self> {
        let d = cfg.d_out();
        let max_k = if cfg.act_fn().has_k() { max_k.min(cfg.d_sae()) } else { s };
        let block = block_rows(cfg, s, rows, needs.joined);
        let whole = cfg.act_fn() == ActFn::BatchTopK;
        // One rank may hold all that a selection over the batch lets through.
        let most = if whole { max_k * needs.ranks } else { max_k.min(s) };
        Ok(Self {
            rows,
            max_k,
            most_block: block,
            block,
            done: 0,
            norms: arena.tensor("decoder norms", 1, s, F32)?,
            theta: match cfg.act_fn() {
                ActFn::JumpRelu => Some(arena.tensor("thresholds", 1, s, F32)?),
                _ => None,
            },
            h: arena.tensor("pre-activations", if whole { rows } else { block }, s, F32)?,
            codes: Store::plan(arena, "feature activations", cfg, s, rows, most, rows)?,
            y_hat: arena.tensor("reconstruction", rows, d, F32)?,
            centred: match needs.centred {
                true => Some(arena.tensor("centred input", rows, cfg.d_model(), F32)?),
                false => None,
            },
            train: loss
                .map(|loss| Train::plan(arena, cfg, s, needs, (rows, block), most, loss))
                .transpose()?,
            ranked: None,
        })
    }
}

/// Row ranges of at most `block` rows.
pub(crate) fn blocks(rows: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    let block = block.max(1);
    (0..rows).step_by(block).map(move |start| start..(start + block).min(rows))
}

/// The buffers do not belong to this path: cannot happen through [`super::Coder`], whose settings never change the activation.
pub(super) fn mixed_up() -> crate::Error {
    crate::Error::Data { what: "the dictionary was planned for another activation function".into() }
}

impl Store {
    fn plan(
        arena: &mut Arena,
        label: &str,
        cfg: &DictionarySettings,
        s: usize,
        rows: usize,
        k: usize,
        dense_rows: usize,
    ) -> Result<Self> {
        Ok(match cfg.act_fn() {
            ActFn::Relu | ActFn::JumpRelu => Self::Dense(arena.tensor(label, dense_rows, s, F32)?),
            _ => Self::Sparse(SparseCodes::plan(arena, label, cfg.act_fn(), s, rows, k)?),
        })
    }
}

impl Train {
    fn plan(
        arena: &mut Arena,
        cfg: &DictionarySettings,
        s: usize,
        needs: &Needs,
        (rows, block): (usize, usize),
        max_k: usize,
        loss: &LossSettings,
    ) -> Result<Self> {
        let d = cfg.d_out();
        let sparse = cfg.act_fn().has_k();
        let k_aux = loss.k_aux.min(cfg.d_sae());
        let most_aux = if cfg.act_fn() == ActFn::BatchTopK { k_aux * needs.ranks } else { k_aux.min(s) };
        let quad = if loss.sparsity == Some(SparsityLoss::TanhQuad) { s } else { 0 };
        let norm_grad = if loss.sparsity.is_some() || loss.lp { s } else { 0 };
        Ok(Self {
            dy: arena.tensor("gradient of the reconstruction", rows, d, F32)?,
            dh: match sparse && needs.joined.is_some() {
                true => Some(arena.tensor("gradient of the pre-activations", block, s, F32)?),
                false => None,
            },
            row_rec: arena.tensor("row errors", rows, 1, F32)?,
            row_penalty: arena.tensor("row penalties", rows, 1, F32)?,
            row_lp: arena.tensor("row threshold penalties", rows, 1, F32)?,
            row_aux: arena.tensor("row auxiliary errors", rows, 1, F32)?,
            penalty_weight: arena.tensor("penalty weights", rows, 1, F32)?,
            lp_weight: arena.tensor("threshold penalty weights", rows, 1, F32)?,
            ones: arena.tensor("ones", rows, 1, F32)?,
            dn: arena.tensor("gradient of the norms", 1, norm_grad, F32)?,
            inv_n: arena.tensor("inverse norms", 1, norm_grad, F32)?,
            dtheta: arena.tensor("gradient of the thresholds", 1, s, F32)?,
            quad: arena.tensor("mean tanh", 1, quad, F32)?,
            quad_gain: arena.tensor("column gains", 1, quad, F32)?,
            dw: arena.tensor("decoder gradient, part", norm_grad.min(PART), d, F32)?,
            scalars: arena.tensor("loss terms", 1, SCALARS, F32)?,
            path: match sparse {
                false => {
                    let mut part =
                        |label: &str| arena.tensor(label, block, s, F32).map_err(crate::Error::from);
                    Path::Dense {
                        df: part("gradient of the activations")?,
                        dh: part("gradient of the pre-activations")?,
                        spare: part("penalty gradient")?,
                    }
                }
                true => {
                    let k = if loss.auxk { max_k.max(most_aux) } else { max_k };
                    Path::Sparse(Slots::plan(arena, s, rows * k)?)
                }
            },
            aux: match loss.auxk {
                false => None,
                true => Some(Aux {
                    codes: Store::plan(arena, "auxiliary activations", cfg, s, rows, most_aux, block)?,
                    e_hat: arena.tensor("auxiliary reconstruction", rows, d, F32)?,
                    scale: match sparse {
                        true => None,
                        false => Some(arena.tensor("dead features", 1, s, F32)?),
                    },
                    k_aux,
                }),
            },
            side: match needs.side {
                true => Some(arena.tensor("side reconstruction", block, d, F32)?),
                false => None,
            },
            l0: match loss.sparsity {
                Some(SparsityLoss::TargetL0) => Some(L0 {
                    ends: arena.tensor("window ends", 2, s, F32)?,
                    dtheta: arena.tensor("gradient of L0", 1, s, F32)?,
                    active: arena.tensor("active share", 1, s, F32)?,
                    weight: arena.tensor("window weights", rows, 2, F32)?,
                }),
                _ => None,
            },
            levels: match needs.widths.len() {
                0 | 1 => None,
                _ => Some(Levels::plan(arena, &needs.widths, rows, max_k, d)?),
            },
            has_row_penalty: false,
        })
    }

    /// One of the sums, `[1, 1]`.
    pub fn scalar(scalars: &mut Tensor, which: usize) -> ViewMut<'_> {
        scalars.view_mut().slice_cols(which..which + 1)
    }
}
