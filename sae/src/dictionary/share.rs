//! The part of a dictionary that a rank holds: some of its features (the mesh's `model` axis) and of its heads (`head`), which
//! axes of its tensors that cuts, and what the ranks that hold the other parts must add up. DISTRIBUTED §3, §4.

use super::{Param, settings::DictionarySettings};
use crate::{
    Error, Result,
    parallel::{
        Axis, Mesh, Pool, Selected,
        placement::{Cut, Over, even},
        select_over_batch,
    },
    training::{LossSettings, SparsityLoss},
};
use bytemuck::Pod;
use lm_saes_runtime::{Queue, Select, View};
use std::ops::Range;

/// A place among ranks that divide something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    size: usize,
    rank: usize,
}

impl Place {
    /// All of it.
    pub const WHOLE: Self = Self { size: 1, rank: 0 };
    /// Part `rank` of `size`.
    pub const fn new(size: usize, rank: usize) -> Self {
        Self { size, rank }
    }
    /// Among how many.
    pub const fn size(&self) -> usize {
        self.size
    }
    /// Which.
    pub const fn rank(&self) -> usize {
        self.rank
    }
}

/// What a rank holds.
#[derive(Clone)]
pub struct Share {
    model: Place,
    head: Place,
    /// The ranks that together hold the dictionary; nobody else where parts are only built, loaded and saved.
    shards: Axis,
    /// Features of every rank that divides them.
    features: Vec<Vec<Range<usize>>>,
    d_sae: usize,
}

impl Share {
    /// What the rank at these places holds of a dictionary.
    ///
    /// # Errors
    /// Numbers of ranks that do not divide what they would share.
    pub fn of(settings: &DictionarySettings, model: Place, head: Place) -> Result<Self> {
        let facts = settings.variant.facts();
        let heads = facts.heads();
        if !heads.is_multiple_of(head.size()) {
            let what = format!("{} groups of heads do not divide {heads} hook points", head.size());
            return Err(Error::setting("head_parallel_size", what));
        }
        for (n, what) in facts.divided(&settings.common) {
            if !n.is_multiple_of(model.size()) {
                let what = format!("{} does not divide {what}, {n}", model.size());
                return Err(Error::setting("model_parallel_size", what));
            }
        }
        let of_rank = |rank| match model.size() {
            1 => std::iter::once(0..settings.d_sae()).collect(),
            parts => facts.features(&settings.common, parts, rank),
        };
        let features = (0..model.size()).map(of_rank).collect();
        Ok(Self { model, head, shards: Axis::default(), features, d_sae: settings.d_sae() })
    }

    /// What this rank of a mesh holds.
    ///
    /// # Errors
    /// As [`Share::of`].
    pub fn on(settings: &DictionarySettings, mesh: &Mesh) -> Result<Self> {
        let place = |axis: &Axis| Place::new(axis.size(), axis.rank());
        let share = Self::of(settings, place(&mesh.model), place(&mesh.head))?;
        Ok(Self { shards: mesh.shards.clone(), ..share })
    }

    /// Number of features held, of each layer.
    pub fn len(&self) -> usize {
        self.features().iter().map(Range::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Features held, ascending, by their numbers in the whole dictionary.
    pub fn features(&self) -> &[Range<usize>] {
        &self.features[self.model.rank()]
    }

    /// The runs of features held that lie together in the whole dictionary, by their numbers among those held.
    pub(super) fn runs(&self) -> Vec<Range<usize>> {
        let mut first = 0;
        let run = |r: &Range<usize>| {
            first += r.len();
            first - r.len()..first
        };
        self.features().iter().map(run).collect()
    }

    /// Number in the whole dictionary of feature `i` of those held.
    pub fn global(&self, mut i: usize) -> usize {
        for r in self.features() {
            if i < r.len() {
                return r.start + i;
            }
            i -= r.len();
        }
        i
    }

    /// Column among `[heads or layers, S]` of the whole dictionary of column `c` of those held.
    pub(super) fn global_column(&self, c: usize, heads: usize) -> usize {
        let (s, here) = (self.len(), heads / self.head.size());
        (self.head.rank() * here + c / s) * self.d_sae + self.global(c % s)
    }

    /// Among how many ranks features are divided, and which of them this is.
    pub fn model(&self) -> (usize, usize) {
        (self.model.size(), self.model.rank())
    }

    /// The same of heads.
    pub fn head(&self) -> (usize, usize) {
        (self.head.size(), self.head.rank())
    }

    /// Number of this part of the dictionary, and how many there are.
    pub fn part(&self) -> (usize, usize) {
        let ((parts, part), (heads, head)) = (self.model(), self.head());
        (head * parts + part, heads * parts)
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.model.size() == 1 && self.head.size() == 1
    }

    /// Whether this rank adds what is added once, such as a bias, to what ranks add up over features.
    pub fn leads(&self) -> bool {
        self.model.rank() == 0
    }

    /// Whether this is the first of the ranks that hold the same part of a parameter.
    pub fn counts(&self, p: &Param) -> bool {
        let divided = |over| p.cuts.iter().any(|c| c.over == over);
        (divided(Over::Model) || self.model.rank() == 0) && (divided(Over::Head) || self.head.rank() == 0)
    }

    /// The ranks of a selection over a batch.
    pub(super) fn pool<'a>(
        &self,
        mesh: &'a Mesh,
        place: &'a dyn Fn(usize, usize) -> (usize, usize),
    ) -> Pool<'a> {
        // Without others that divide the rows, all of them may have the same.
        let ranks = if mesh.data.is_solo() { &mesh.shards } else { &mesh.world };
        Pool { ranks, rows: mesh.data.rank(), place }
    }

    /// [`select_over_batch`] over the rows, heads and features of all ranks of a mesh; `heads` is how many heads or layers lie side by
    /// side in all parts of `h` together.
    pub(super) fn select_over_batch(
        &self,
        q: &mut Queue,
        mesh: &Mesh,
        heads: usize,
        (h, select): (View<'_>, Select<'_>),
        budget: usize,
        out: Selected<'_>,
    ) -> Result<()> {
        let place = |row: usize, c: usize| (row, self.global_column(c, heads));
        let pool = self.pool(mesh, &place);
        select_over_batch(q, pool, h, select, budget, out)
    }

    /// Adds up numbers over all parts of the dictionary.
    pub fn sum(&self, q: &mut Queue, values: &mut [f64]) -> Result<()> {
        self.shards.sum_f64(q, values)
    }

    /// `[rows, S]` of the whole dictionary from this part's: rows are codes, of heads or of layers, or one.
    pub fn whole<T: Pod>(&self, q: &mut Queue, own: &[T]) -> Result<Vec<T>> {
        if self.is_whole() {
            return Ok(own.to_vec());
        }
        let parts = self.shards.gather_bytes(q, bytemuck::cast_slice(own))?;
        let (s, rows) = (self.len().max(1), own.len() / self.len().max(1));
        let mut all = vec![T::zeroed(); self.head.size() * rows * self.d_sae];
        for (part, bytes) in parts.iter().enumerate() {
            let (head, model) = (part / self.model.size(), part % self.model.size());
            let size = size_of::<T>();
            let values: Vec<T> = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect();
            for (row, values) in values.chunks_exact(s).enumerate() {
                let start = (head * rows + row) * self.d_sae;
                let to = self.features[model].iter().cloned().flatten();
                to.zip(values).for_each(|(i, v)| all[start + i] = *v);
            }
        }
        Ok(all)
    }

    /// Refuses a loss that ranks with some of the features cannot add up.
    pub fn check_loss(&self, loss: &LossSettings) -> Result<()> {
        if self.model.size() == 1 || loss.sparsity != Some(SparsityLoss::Power) || loss.p == 1.0 {
            return Ok(());
        }
        let what = "is a norm over all features of a row, which ranks that divide them do not add up; with \
                    model_parallel_size above 1 set p to 1, or use power-sum";
        Err(Error::setting("trainer.p", what))
    }

    /// This part of `[rows, S]` of the whole dictionary; one row is that of all heads.
    pub fn own<T: Copy>(&self, whole: &[T]) -> Vec<T> {
        let rows = whole.len() / self.d_sae.max(1);
        let held = if rows == 1 { 0..1 } else { even(rows, self.head.size(), self.head.rank()) };
        let row =
            |r: usize| self.features().iter().cloned().flatten().map(move |i| whole[r * self.d_sae + i]);
        held.flat_map(row).collect()
    }

    /// An axis of features.
    pub(super) fn of_features(&self, axis: usize) -> Vec<Cut> {
        match self.model.size() {
            1 => Vec::new(),
            _ => vec![Cut { axis, ranges: self.features().to_vec(), over: Over::Model }],
        }
    }

    /// An axis of `n` entries that is divided as features are.
    pub(super) fn along(&self, axis: usize, n: usize) -> Vec<Cut> {
        cut(self.model, Over::Model, axis, n)
    }

    /// An axis of `n` heads.
    pub(super) fn of_heads(&self, axis: usize, n: usize) -> Vec<Cut> {
        cut(self.head, Over::Head, axis, n)
    }
}

fn cut(place: Place, over: Over, axis: usize, n: usize) -> Vec<Cut> {
    match place.size() {
        1 => Vec::new(),
        parts => vec![Cut { axis, ranges: vec![even(n, parts, place.rank())], over }],
    }
}
