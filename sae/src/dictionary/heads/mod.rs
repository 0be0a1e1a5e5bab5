//! Codes of dictionaries whose heads share one pre-activation, or that have one head and a decoder of their own: selection,
//! penalties and the way back to the pre-activation. VARIANTS §3, §5. With heads j of norms n_j
//!   f_j = h where selected by h·n_j (or h), else 0
//! and every loss a mean over heads. How h, the norms and the reconstructions come about is the variant's. What the top-k family
//! selects is kept as sparse rows, and goes forward and back by its entries; relu and jumprelu are dense.

mod back;
mod loss;

pub(super) use back::Way;
pub(super) use loss::check_loss;

use super::{
    Base, Codes, Param, RunningThresholds, Share,
    clt::{LayerCodes, Selection},
    coder::blocks,
    ranked::{self, Ranked, slots},
    slots::{Slots, like},
    unplanned,
};
use crate::{
    Error, Result,
    parallel::{Mesh, Selected},
    settings::{ActFn, DictionarySettings},
    training::LossSettings,
};
use lm_saes_runtime::{
    Arena, CompactArgs, DType, GemmOpts, MapKind, Queue, Rank, Reduction, Select, SparseView, Tensor, View,
    ViewMut,
};
use loss::Train;
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;
/// Most bytes of one block of pre-activations where a block need not hold the whole batch.
const MOST_BYTES: usize = 128 << 20;
/// How much faster a multiplication is in a dense product than in one over the entries of sparse rows; estimated from timings of a
/// crosscoder's encoder gradients on a loaded machine (AVX-512), where 128 entries a row of 3072 took twice as long as the product.
const DENSE_GAIN: usize = 24;
/// Rows looked at together where a dense matrix is needed only to count.
const COUNTED_ROWS: usize = 512;

/// Buffers and rules of the codes.
pub(super) struct Heads {
    heads: usize,
    /// Heads of the whole dictionary, over which losses are means.
    all_heads: usize,
    /// Features here, and of the whole dictionary.
    s: usize,
    d_sae: usize,
    act: ActFn,
    gated: bool,
    window: f32,
    most_rows: usize,
    max_k: usize,
    /// Rows of the last forward.
    rows: usize,
    /// Rows encoded at a time.
    block: usize,
    /// Pre-activations: `[rows, S]`; of the top-k family `[block, S]`.
    h: Tensor,
    /// Those that batchtopk ranks, of all rows and for each head, `[rows, H·S]`.
    batch: Option<Tensor>,
    /// Norms of the gate `[1, H·S]`.
    pub norms: Tensor,
    /// `exp(log θ)`, `[1, S]`.
    theta: Option<Tensor>,
    codes: Store,
    train: Option<Train>,
    /// The contest with other ranks for the places of a row.
    ranked: Option<Ranked>,
    /// Who has the other rows, heads and features, once planned.
    mesh: Mesh,
    share: Option<Share>,
}

/// Where activations are kept.
enum Store {
    /// `[rows, S]` of one head after the other.
    Dense(Tensor),
    Sparse(Box<LayerCodes>),
}

impl Heads {
    /// For no rows: every pass is refused until there is a plan.
    pub fn nothing(settings: &DictionarySettings, shape: (usize, usize)) -> Result<Self> {
        Self::plan(&mut Arena::planning("nothing"), (settings, None), shape, 0, 1, None)
    }

    /// For passes over up to `rows` rows, of this many heads and features. Settings are those planned for; the dictionary is `base`.
    pub fn plan(
        arena: &mut Arena,
        (settings, base): (&DictionarySettings, Option<&Base>),
        (heads, s): (usize, usize),
        rows: usize,
        max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<Self> {
        let (d, act, d_sae) = (settings.d_model(), settings.act_fn(), settings.d_sae());
        let all_heads = settings.variant.facts().heads();
        let (max_k, ranks) = (max_k.min(d_sae), base.map_or(1, |b| b.mesh.data.size()));
        let divided = base.is_some_and(|b| b.share.head().0 > 1);
        let block = if act.has_k() { (MOST_BYTES / 4 / s).clamp(64, 4096).min(rows) } else { rows };
        // One rank may hold all that a selection over the batch lets through.
        let most = if act == ActFn::BatchTopK { max_k * all_heads * ranks } else { slots(max_k, s) };
        let codes = match act {
            ActFn::Relu | ActFn::JumpRelu => {
                Store::Dense(arena.tensor("feature activations", heads * rows, s, F32)?)
            }
            _ => {
                let selection = match act {
                    ActFn::BatchTopK if heads > 1 => Selection::JointBatch,
                    ActFn::BatchTopK => Selection::Batch,
                    _ => Selection::Rows,
                };
                LayerCodes::plan(arena, selection, heads, s, rows, most, false)?.into()
            }
        };
        // Entries of one rank's heads do not tell another how its encoder moves: then the gradient goes on dense.
        let expected = if divided { s } else { slots(max_k, s) * heads };
        let sparse = act.has_k().then_some((expected, most));
        Ok(Self {
            heads,
            all_heads,
            s,
            d_sae,
            act,
            gated: settings.gated(),
            window: settings.common.jumprelu_threshold_window,
            most_rows: rows,
            max_k,
            rows: 0,
            block,
            h: arena.tensor("pre-activations", block, s, F32)?,
            batch: match act {
                ActFn::BatchTopK => Some(arena.tensor("pre-activations by head", rows, heads * s, F32)?),
                _ => None,
            },
            norms: arena.tensor("decoder norms", 1, heads * s, F32)?,
            theta: match act {
                ActFn::JumpRelu => Some(arena.tensor("thresholds", 1, s, F32)?),
                _ => None,
            },
            codes,
            train: loss.map(|l| Train::plan(arena, (heads, rows, s, d), sparse, l)).transpose()?,
            ranked: match base.filter(|_| act == ActFn::TopK) {
                Some(base) => Ranked::plan(arena, base, 1, block, max_k)?,
                None => None,
            },
            mesh: base.map(|b| b.mesh.clone()).unwrap_or_default(),
            share: base.map(|b| b.share.clone()),
        })
    }

    /// Checks a pass against the plan and prepares the thresholds.
    pub fn begin(
        &mut self,
        q: &mut Queue,
        rows: usize,
        k: usize,
        training: bool,
        threshold: Option<&Param>,
    ) -> Result<()> {
        let enough =
            (1..=self.most_rows).contains(&rows) && (!self.act.has_k() || k.min(self.d_sae) <= self.max_k);
        if !enough || (training && self.train.is_none()) {
            let what = format!(
                "a step of {rows} rows with k {k} on a dictionary planned for {} rows with k up to {}{}",
                self.most_rows,
                self.max_k,
                if self.train.is_some() { "" } else { ", without training" }
            );
            return Err(Error::Data { what });
        }
        self.rows = rows;
        if let (Some(log), Some(theta)) = (threshold, &mut self.theta) {
            q.map(MapKind::Exp, &log.value, 0.0, 0.0, theta)?;
        }
        Ok(())
    }

    /// The gate's threshold of this pass, where it is the running threshold of a selection over the batch.
    pub fn set_threshold(&mut self, q: &mut Queue, running: &RunningThresholds) -> Result<()> {
        if let (Some(limit), Some(theta)) = (running.in_force(0), &mut self.theta) {
            q.fill(theta, limit)?;
        }
        Ok(())
    }

    /// The limit of the last selection over the batch, `[1, 2]`.
    pub fn limit(&self) -> Option<&Tensor> {
        match &self.codes {
            Store::Sparse(codes) => codes.limits(),
            Store::Dense(_) => None,
        }
    }

    /// Rows of the last pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Features.
    pub fn s(&self) -> usize {
        self.s
    }

    fn columns(&self, head: usize) -> Range<usize> {
        head * self.s..(head + 1) * self.s
    }

    /// Activations of one head, `[B, S]`.
    pub fn codes(&self, head: usize) -> Codes<'_> {
        match &self.codes {
            Store::Dense(f) => Codes::Dense(f.rows_view(rows_of(head, self.most_rows, self.rows))),
            Store::Sparse(codes) => Codes::Sparse(codes.view(head)),
        }
    }

    /// Activations of every head.
    pub fn all_codes(&self) -> Vec<Codes<'_>> {
        (0..self.heads).map(|head| self.codes(head)).collect()
    }

    /// Activations from norms and from the pre-activations that `hidden` writes for some rows, `[B, S]`.
    pub fn encode(
        &mut self,
        q: &mut Queue,
        k: usize,
        mut hidden: impl FnMut(&mut Queue, Range<usize>, ViewMut<'_>) -> Result<()>,
    ) -> Result<()> {
        let (rows, s) = (self.rows, self.s);
        let k = k.min(self.d_sae);
        let Self { heads, all_heads, gated, norms, theta, h, ranked, batch, mesh, block, .. } = self;
        let norms = |head: usize| norms.view().slice_cols(head * s..(head + 1) * s);
        let codes = match &mut self.codes {
            Store::Dense(f) => {
                hidden(q, 0..rows, h.rows_mut(0..rows))?;
                mesh.head.all_reduce(q, h.rows_mut(0..rows), Reduction::Sum)?;
                let theta = theta.as_ref().map(Tensor::view);
                for head in 0..*heads {
                    // Without a threshold the sign of h·n is that of h.
                    let scale = (theta.is_some() && *gated).then(|| norms(head));
                    let rule = CompactArgs { select: Select { scale, mask: None }, theta, thr: None };
                    q.gate(h.rows_view(0..rows), rule, f.rows_mut(rows_of(head, self.most_rows, rows)))?;
                }
                return Ok(());
            }
            Store::Sparse(codes) => codes,
        };
        match batch {
            Some(_) => {
                codes.set(rows, k * *all_heads);
                codes.set_total(mesh.data.total(q, rows)?);
            }
            None => codes.set(rows, slots(k, s)),
        }
        for r in blocks(rows, *block) {
            let mut h = h.rows_mut(0..r.len());
            hidden(q, r.clone(), h.reborrow())?;
            mesh.head.all_reduce(q, h.reborrow(), Reduction::Sum)?;
            for head in 0..*heads {
                if let Some(batch) = batch {
                    let own = batch.rows_mut(r.clone()).slice_cols(head * s..(head + 1) * s);
                    q.copy(h.as_view(), own)?;
                    continue;
                }
                let select = Select { scale: gated.then(|| norms(head)), mask: None };
                let places = codes.rows_mut(Some(head), r.clone())?;
                ranked::topk(ranked, q, (Rank::default(), h.as_view(), select), k, places)?;
            }
        }
        if batch.is_some() { self.rank_batch(q) } else { Ok(()) }
    }

    /// batchtopk: one ranking of all rows and heads, divided among the heads.
    fn rank_batch(&mut self, q: &mut Queue) -> Result<()> {
        let (Store::Sparse(codes), Some(batch)) = (&mut self.codes, &self.batch) else { return Ok(()) };
        let h = batch.rows_view(0..self.rows);
        let select = Select { scale: self.gated.then(|| self.norms.view()), mask: None };
        let budget = codes.len();
        let (vals, idx, ptr, limit) = codes.ragged_mut((self.heads == 1).then_some(0))?;
        let out = Selected { vals, idx, ptr, limit };
        let share = self.share.as_ref().ok_or_else(unplanned)?;
        share.select_over_batch(q, &self.mesh, self.all_heads, (h, select), budget, out)?;
        if self.heads > 1 { codes.divide(q) } else { Ok(()) }
    }

    /// ŷ of one head, `[B, d]`, from its decoder.
    pub fn decode(
        &self,
        q: &mut Queue,
        head: usize,
        w: View<'_>,
        bias: Option<View<'_>>,
        y: ViewMut<'_>,
    ) -> Result<()> {
        match self.codes(head) {
            Codes::Dense(f) => Ok(q.gemm(f, w, y, GemmOpts { bias, ..Default::default() })?),
            Codes::Sparse(s) => Ok(q.sparse_mul(s, w, bias, y, 0.0)?),
        }
    }

    /// Rows of the whole batch that count in which each feature here is active in each head here, and in any head: `[H·S]` and `[S]`.
    pub fn activity(&self, q: &mut Queue, mask: Option<View<'_>>) -> Result<(Vec<u32>, Vec<u32>)> {
        let mut fired = q.zeros(1, self.heads * self.s, U32)?;
        for head in 0..self.heads {
            let fired = fired.view_mut().slice_cols(self.columns(head));
            match self.codes(head) {
                Codes::Dense(f) => q.activity_dense(f, mask, fired)?,
                Codes::Sparse(s) => q.activity_sparse(s, mask, fired)?,
            }
        }
        self.mesh.data.all_reduce(q, &mut fired, Reduction::Sum)?;
        let each: Vec<u32> = q.download(&fired)?;
        if self.all_heads == 1 {
            return Ok((each.clone(), each));
        }
        let mut any = q.empty(self.rows.min(COUNTED_ROWS), self.s, F32)?;
        let mut fired = q.zeros(1, self.s, U32)?;
        for r in blocks(self.rows, COUNTED_ROWS) {
            let mut any = any.rows_mut(0..r.len());
            for head in 0..self.heads {
                let beta = if head == 0 { 0.0 } else { 1.0 };
                match self.codes(head) {
                    Codes::Dense(f) if head == 0 => q.copy(f.slice_rows(r.clone()), any.reborrow())?,
                    Codes::Dense(f) => {
                        q.zip_in_place(MapKind::Add, f.slice_rows(r.clone()), 1.0, 1.0, any.reborrow())?;
                    }
                    Codes::Sparse(s) => q.scatter(rows_of_sparse(s, r.clone()), any.reborrow(), beta)?,
                }
            }
            self.mesh.head.all_reduce(q, any.reborrow(), Reduction::Sum)?;
            let mask = mask.map(|m| m.slice_cols(r.clone()));
            q.activity_dense(any.as_view(), mask, &mut fired)?;
        }
        self.mesh.data.all_reduce(q, &mut fired, Reduction::Sum)?;
        Ok((each, q.download(&fired)?))
    }
}

/// Rows of one head among dense activations.
fn rows_of(head: usize, most_rows: usize, rows: usize) -> Range<usize> {
    head * most_rows..head * most_rows + rows
}

/// Whether `k` entries of S a row are so few that products over entries cost less than dense ones.
pub(super) fn by_entries(k: usize, s: usize) -> bool {
    DENSE_GAIN * k < s
}

/// Rows `r` of sparse codes.
pub(super) fn rows_of_sparse<'a>(s: SparseView<'a>, r: Range<usize>) -> SparseView<'a> {
    match s.ptr {
        Some(ptr) => SparseView { ptr: Some(ptr.slice_cols(r.start..r.end + 1)), ..s },
        None => SparseView { vals: s.vals.slice_rows(r.clone()), idx: s.idx.slice_rows(r), ..s },
    }
}

impl From<LayerCodes> for Store {
    fn from(codes: LayerCodes) -> Self {
        Self::Sparse(Box::new(codes))
    }
}
