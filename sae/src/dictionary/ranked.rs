//! Selections row by row from features that several ranks hold: every rank finds its own best candidates, all see what each
//! other's compare, and each keeps those a single rank would have chosen, ties included. What passes between ranks is one value for
//! each candidate, and its column where a rank's features are several runs of the whole's.

use super::Base;
use crate::{Result, parallel::Axis};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, Rank, Select, SparseView, Tensor, View, ViewMut};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Memory of the contest for the places of a row.
pub(super) struct Ranked {
    model: Axis,
    /// Runs of columns here; in the order of the whole, the runs of other ranks lie between them.
    runs: Vec<Range<usize>>,
    columns: usize,
    /// Values compared, of the candidates here and of everybody's, rank after rank.
    g: Tensor,
    all: Tensor,
    /// Columns of everybody's candidates, where there are several runs.
    all_idx: Option<Tensor>,
    /// Everybody's candidates of a row in the order of the whole, and the best of them.
    contest: Tensor,
    best: Tensor,
    best_idx: Tensor,
    /// Some of these, counted from the first; and 1 where a candidate here is among the best.
    local: Tensor,
    kept: Tensor,
    ones: Tensor,
    /// The candidates kept, dense.
    dense: Tensor,
}

/// Slots a row of features here needs for a budget of `k` features of the whole dictionary.
pub(super) fn slots(k: usize, columns: usize) -> usize {
    k.min(columns)
}

impl Ranked {
    /// For blocks of up to `block` rows of `layers` times the features here and budgets of up to `k`; `None` where one rank has
    /// them all.
    pub fn plan(
        arena: &mut Arena,
        base: &Base,
        layers: usize,
        block: usize,
        k: usize,
    ) -> Result<Option<Self>> {
        let ranks = base.share.model().0;
        if ranks == 1 {
            return Ok(None);
        }
        let s = base.share.len();
        let of_layer = |l: usize| base.share.runs().into_iter().map(move |r| l * s + r.start..l * s + r.end);
        let runs: Vec<Range<usize>> = (0..layers).flat_map(of_layer).collect();
        let (columns, n) = (layers * s, slots(k, layers * s));
        let most = runs.iter().map(Range::len).max().unwrap_or(0).max(block);
        let several = runs.len() > 1;
        let mut tensor = |label: &str, n: usize, dtype| arena.tensor(label, 1, n, dtype);
        Ok(Some(Self {
            model: base.mesh.model.clone(),
            columns,
            g: tensor("candidates", block * n, F32)?,
            all: tensor("candidates of all ranks", ranks * block * n, F32)?,
            all_idx: match several {
                true => Some(tensor("columns of all candidates", ranks * block * n, U32)?),
                false => None,
            },
            contest: tensor("contest of all candidates", runs.len() * ranks * block * n, F32)?,
            best: tensor("best candidates", block * k, F32)?,
            best_idx: tensor("places of the best candidates", block * k, U32)?,
            local: tensor("places of some candidates", block * k.max(n), U32)?,
            kept: tensor("candidates kept", block * n, F32)?,
            ones: tensor("ones", (block * k).max(most), F32)?,
            dense: tensor("dense candidates", block * columns, F32)?,
            runs,
        }))
    }

    /// The `k` best of a row over all ranks: candidates in `vals, idx [B, slots]` become those of them that belong to it,
    /// best first.
    fn settle(
        &mut self,
        q: &mut Queue,
        (rank, select): (Rank, Select<'_>),
        k: usize,
        (mut vals, mut idx): (ViewMut<'_>, ViewMut<'_>),
    ) -> Result<()> {
        let (b, n, columns, ranks) = (vals.rows(), vals.cols(), self.columns, self.model.size());
        q.fill(&mut self.ones, 1.0)?;
        let mut g = at_mut(&mut self.g, b, n);
        match select.scale {
            Some(scale) => {
                let s = SparseView { vals: vals.as_view(), idx: idx.as_view(), ptr: None, n: columns };
                q.sparse_dot(s, scale.reshaped(columns, 1), at(&self.ones, b, 1), g.reborrow())?;
                q.zip_in_place(MapKind::Mul, vals.as_view(), 1.0, 0.0, g.reborrow())?;
            }
            None => q.copy(vals.as_view(), g.reborrow())?,
        }
        self.model.all_gather(q, g.as_view(), at_mut(&mut self.all, ranks * b, n))?;
        if let Some(all) = &mut self.all_idx {
            self.model.all_gather(q, idx.as_view(), at_mut(all, ranks * b, n))?;
        }
        self.line_up(q, b, n)?;
        let width = self.runs.len() * ranks * n;
        let contest = at(&self.contest, b, width);
        let (best, best_idx) = (at_mut(&mut self.best, b, k), at_mut(&mut self.best_idx, b, k));
        q.topk_by(rank, contest, Select::default(), best, best_idx)?;
        for run in 0..self.runs.len() {
            let first = (run * ranks + self.model.rank()) * n;
            let chosen =
                SparseView { vals: at(&self.best, b, k), idx: at(&self.best_idx, b, k), ptr: None, n: width };
            q.confine(chosen, first..first + n, at_mut(&mut self.local, b, k))?;
            let here = SparseView { vals: at(&self.ones, b, k), idx: at(&self.local, b, k), ptr: None, n };
            q.scatter(here, at_mut(&mut self.kept, b, n), if run == 0 { 0.0 } else { 1.0 })?;
        }
        q.zip_in_place(MapKind::Mul, at(&self.kept, b, n), 1.0, 0.0, vals.reborrow())?;
        // What was not kept is 0 now; choosing once more leaves its slots empty.
        let s = SparseView { vals: vals.as_view(), idx: idx.as_view(), ptr: None, n: columns };
        q.scatter(s, at_mut(&mut self.dense, b, columns), 0.0)?;
        Ok(q.topk_by(rank, at(&self.dense, b, columns), select, vals.reborrow(), idx.reborrow())?)
    }

    /// Everybody's candidates of `b` rows in the order of the whole dictionary: run after run, and in a run rank after rank.
    fn line_up(&mut self, q: &mut Queue, b: usize, n: usize) -> Result<()> {
        let ranks = self.model.size();
        let width = self.runs.len() * ranks * n;
        for rank in 0..ranks {
            let from = rank * b..(rank + 1) * b;
            let g = at(&self.all, ranks * b, n).slice_rows(from.clone());
            let Some(all_idx) = &self.all_idx else {
                let to = at_mut(&mut self.contest, b, width).slice_cols(rank * n..(rank + 1) * n);
                q.copy(g, to)?;
                continue;
            };
            let idx = at(all_idx, ranks * b, n).slice_rows(from);
            for (run, columns) in self.runs.iter().enumerate() {
                let s = SparseView { vals: g, idx, ptr: None, n: self.columns };
                q.confine(s, columns.clone(), at_mut(&mut self.local, b, n))?;
                // 1 for candidates of this run and 0 for the others.
                let len = columns.len();
                let of_run = SparseView { vals: g, idx: at(&self.local, b, n), ptr: None, n: len };
                let (w, x) = (at(&self.ones, len, 1), at(&self.ones, b, 1));
                q.sparse_dot(of_run, w, x, at_mut(&mut self.kept, b, n))?;
                let first = (run * ranks + rank) * n;
                let to = at_mut(&mut self.contest, b, width).slice_cols(first..first + n);
                q.zip(MapKind::Mul, at(&self.kept, b, n), g, 1.0, 0.0, to)?;
            }
        }
        Ok(())
    }
}

/// [`Queue::topk_by`] over the features of all ranks: into `vals, idx [B, slots]` the entries here among the `k` best of each row
/// of `h [B, F]`.
pub(super) fn topk(
    ranked: &mut Option<Ranked>,
    q: &mut Queue,
    (rank, h, select): (Rank, View<'_>, Select<'_>),
    k: usize,
    (mut vals, mut idx): (ViewMut<'_>, ViewMut<'_>),
) -> Result<()> {
    q.topk_by(rank, h, select, vals.reborrow(), idx.reborrow())?;
    match ranked {
        Some(ranked) => ranked.settle(q, (rank, select), k, (vals, idx)),
        None => Ok(()),
    }
}

/// The first `rows · cols` values of a buffer.
fn at(t: &Tensor, rows: usize, cols: usize) -> View<'_> {
    t.view().slice_cols(0..rows * cols).reshaped(rows, cols)
}

/// [`at`], to write.
fn at_mut(t: &mut Tensor, rows: usize, cols: usize) -> ViewMut<'_> {
    t.view_mut().slice_cols(0..rows * cols).reshaped(rows, cols)
}
