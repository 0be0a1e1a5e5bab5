//! The part of a dictionary that a rank holds: some of its features (the mesh's `model` axis) and of its heads (`head`), which
//! axes of its tensors that cuts, and what the ranks that hold the other parts must add up. DISTRIBUTED §3, §4.

use super::settings::DictionarySettings;
use crate::{
    Error, Result,
    parallel::placement::{Cut, even},
};
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
#[derive(Debug)]
pub struct Share {
    model: Place,
    head: Place,
    features: Vec<Range<usize>>,
}

impl Share {
    /// Everything.
    pub fn solo(d_sae: usize) -> Self {
        Self { model: Place::WHOLE, head: Place::WHOLE, features: std::iter::once(0..d_sae).collect() }
    }

    /// What the rank at these places holds of a dictionary.
    ///
    /// # Errors
    /// Numbers of ranks that do not divide what they would share.
    pub fn of(settings: &DictionarySettings, model: Place, head: Place) -> Result<Self> {
        if model.size() == 1 && head.size() == 1 {
            return Ok(Self::solo(settings.d_sae()));
        }
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
        let features = facts.features(&settings.common, model.size(), model.rank());
        Ok(Self { model, head, features })
    }

    /// Number of features held, of each layer.
    pub fn len(&self) -> usize {
        self.features.iter().map(Range::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Features held, ascending, by their numbers in the whole dictionary.
    pub fn features(&self) -> &[Range<usize>] {
        &self.features
    }

    /// Number in the whole dictionary of feature `i` of those held.
    pub fn global(&self, mut i: usize) -> usize {
        for r in &self.features {
            if i < r.len() {
                return r.start + i;
            }
            i -= r.len();
        }
        i
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

    /// An axis of features.
    pub(super) fn of_features(&self, axis: usize) -> Vec<Cut> {
        match self.model.size() {
            1 => Vec::new(),
            _ => vec![Cut { axis, ranges: self.features.clone() }],
        }
    }

    /// An axis of `n` entries that is divided as features are.
    pub(super) fn along(&self, axis: usize, n: usize) -> Vec<Cut> {
        cut(self.model, axis, n)
    }

    /// An axis of `n` heads.
    pub(super) fn of_heads(&self, axis: usize, n: usize) -> Vec<Cut> {
        cut(self.head, axis, n)
    }
}

fn cut(place: Place, axis: usize, n: usize) -> Vec<Cut> {
    match place.size() {
        1 => Vec::new(),
        parts => vec![Cut { axis, ranges: vec![even(n, parts, place.rank())] }],
    }
}
