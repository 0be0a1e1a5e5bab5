//! What can be said of features from their decoder alone: norms, neighbours, and the output tokens they promote. Everything goes
//! block by block; no matrix of all features by all features or by the vocabulary exists.

use crate::{
    Error, Result,
    dictionary::Dictionary,
    lm::{Lm, Tokenizer},
    store::{Logits, Related, TokenLogit},
};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, ReduceKind, Tensor, View};
use rayon::prelude::*;
use std::{cmp::Ordering, collections::BinaryHeap};

/// Bytes of a block of products.
pub const DIRECTIONS_BLOCK: usize = 64 << 20;

/// Decoder vectors of every feature: one matrix `[S, d]` for each head or target layer.
pub struct Decoders<'a> {
    parts: Vec<View<'a>>,
    /// Heads of one feature, which can be compared, rather than layers that add up.
    heads: bool,
}

impl<'a> Decoders<'a> {
    /// Those of a dictionary, by the names of checkpoints; `layer` is the source layer of a cross-layer transcoder. `None` for a
    /// variant without decoder vectors.
    pub fn of(dictionary: &'a dyn Dictionary, layer: Option<usize>) -> Option<Self> {
        let s = dictionary.d_sae();
        let params = dictionary.params();
        let named =
            |name: &str| params.iter().find(|p| p.name == name && !p.transposed && p.value.rows() >= s);
        let whole = |w: &'a Tensor| (0..w.rows() / s).map(|h| w.rows_view(h * s..(h + 1) * s)).collect();
        if let Some(w) = named("W_D").or_else(|| named("W_O")) {
            return Some(Self { parts: whole(&w.value), heads: w.value.rows() > s });
        }
        // W_D.t holds the decoders of source layers 0..=t into layer t.
        let layer = layer?;
        let targets = (layer..).map_while(|t| named(&format!("W_D.{t}")));
        let parts: Vec<View<'a>> = targets
            .filter(|w| w.value.rows() >= (layer + 1) * s)
            .map(|w| w.value.rows_view(layer * s..(layer + 1) * s))
            .collect();
        if parts.is_empty() { None } else { Some(Self { parts, heads: false }) }
    }

    /// Matrices `[S, d]`, one is enough for most dictionaries.
    pub fn from_parts(parts: Vec<View<'a>>, heads: bool) -> Self {
        Self { parts, heads }
    }

    /// Heads or target layers.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Width of a vector.
    pub fn width(&self) -> usize {
        self.parts.first().map_or(0, View::cols)
    }

    /// Features.
    pub fn len(&self) -> usize {
        self.parts.first().map_or(0, View::rows)
    }

    /// Whether there are no features.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inner products of the heads' vectors `[S, H·H]`, and of each with itself only where there are no heads to compare.
    pub fn inner_products(&self, q: &mut Queue) -> Result<Vec<Vec<f32>>> {
        let (s, n) = (self.len(), self.parts.len());
        let mut all = vec![vec![0.0; n * n]; s];
        for (i, a) in self.parts.iter().enumerate() {
            for (j, b) in self.parts.iter().enumerate().skip(i) {
                if i != j && !self.heads {
                    continue;
                }
                let mut product = q.empty(s, a.cols(), DType::F32)?;
                q.zip(MapKind::Mul, *a, *b, 1.0, 0.0, &mut product)?;
                let mut sums = q.empty(s, 1, DType::F32)?;
                q.reduce_cols(ReduceKind::Sum, &product, &mut sums, 0.0)?;
                for (row, v) in all.iter_mut().zip(q.download::<f32>(&sums)?) {
                    (row[i * n + j], row[j * n + i]) = (v, v);
                }
            }
        }
        Ok(all)
    }

    /// Whether the parts are heads that can be compared.
    pub fn has_heads(&self) -> bool {
        self.heads
    }

    /// The `n` features with the largest cosine to each, over all parts together; none for a vector of zeros.
    pub fn neighbours(
        &self,
        q: &mut Queue,
        n: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Vec<Related>>> {
        let s = self.len();
        let own = self.inner_products(q)?;
        let parts = self.parts.len();
        let norms: Vec<f32> =
            own.iter().map(|row| (0..parts).map(|i| row[i * parts + i]).sum::<f32>().sqrt()).collect();
        let block = (DIRECTIONS_BLOCK / 4 / s.max(1)).clamp(1, s.max(1));
        let mut products = q.empty(block, s, DType::F32)?;
        let mut all = Vec::with_capacity(s);
        for start in (0..s).step_by(block) {
            let rows = start..(start + block).min(s);
            for (i, w) in self.parts.iter().enumerate() {
                let opts = GemmOpts { tb: true, beta: if i == 0 { 0.0 } else { 1.0 }, ..GemmOpts::default() };
                q.gemm(w.slice_rows(rows.clone()), *w, products.rows_mut(0..rows.len()), opts)?;
            }
            let values: Vec<f32> = q.download(products.rows_view(0..rows.len()))?;
            let found: Vec<Vec<Related>> = values
                .par_chunks_exact(s)
                .enumerate()
                .map(|(i, row)| {
                    let me = start + i;
                    let cosine = |f: usize| row[f] / (norms[me] * norms[f]);
                    let others = (0..s).filter(|&f| f != me && norms[f] > 0.0 && norms[me] > 0.0);
                    related(largest(others.map(|f| (cosine(f), f as u32)), n))
                })
                .collect();
            all.extend(found);
            progress(rows.end);
        }
        Ok(all)
    }

    /// The parts whose output is read as tokens: the last head, or all target layers added up.
    fn read_out(&self) -> &[View<'a>] {
        if self.heads { &self.parts[self.parts.len() - 1..] } else { &self.parts }
    }
}

/// What the heads' decoder vectors of one feature have in common (VARIANTS §7), from their inner products `[H·H]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadRelations<'a> {
    inner: &'a [f32],
    heads: usize,
}

impl<'a> HeadRelations<'a> {
    /// From a row of [`Decoders::inner_products`].
    pub fn of(inner: &'a [f32]) -> Self {
        Self { inner, heads: inner.len().isqrt() }
    }

    /// Norm of each head's vector, `[H]`.
    pub fn norms(&self) -> Vec<f32> {
        (0..self.heads).map(|h| self.inner[h * self.heads + h].sqrt()).collect()
    }

    /// The share of each head in the norms of all, `[H]`: 1/H everywhere for a feature that lives in all heads alike, 1 for the
    /// only head it lives in. All 0 for a feature without decoder.
    pub fn relative_norms(&self) -> Vec<f32> {
        let norms = self.norms();
        let sum: f32 = norms.iter().sum();
        norms.iter().map(|n| if sum > 0.0 { n / sum } else { 0.0 }).collect()
    }

    /// Cosines between the heads' vectors, `[H·H]` row by row; 0 where a vector is 0.
    pub fn cosines(&self) -> Vec<f32> {
        let norms = self.norms();
        let cosine = |at: usize| {
            let size = norms[at / self.heads] * norms[at % self.heads];
            if size > 0.0 { self.inner[at] / size } else { 0.0 }
        };
        (0..self.inner.len()).map(cosine).collect()
    }
}

/// Whether what a dictionary writes goes to the residual stream of `lm`, so that its vectors can be read out as tokens.
pub fn writes_to_residual(lm: &Lm, dictionary: &dyn Dictionary) -> bool {
    let d_model = lm.architecture().d_model;
    dictionary.hook_points_out().iter().all(|h| lm.hook_width(h).is_ok_and(|w| w == d_model))
}

/// The `k` output tokens with the largest and the smallest logit of each feature: `unembed(ln_final(vector))`, added up over the
/// target layers of a cross-layer transcoder (ANALYSIS §4).
///
/// # Errors
/// Decoder vectors of another width than the model's residual stream.
pub fn output_tokens(
    q: &mut Queue,
    lm: &Lm,
    tokenizer: &Tokenizer,
    decoders: &Decoders<'_>,
    k: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Logits>> {
    let (s, d_vocab) = (decoders.len(), lm.architecture().d_vocab);
    let block = (DIRECTIONS_BLOCK / 4 / d_vocab).clamp(1, s.max(1));
    let mut all = Vec::with_capacity(s);
    for start in (0..s).step_by(block) {
        let rows = start..(start + block).min(s);
        let mut sum: Option<Tensor> = None;
        for w in decoders.read_out() {
            let logits = lm.read_out(q, w.slice_rows(rows.clone()))?;
            match &mut sum {
                Some(sum) => q.zip_in_place(MapKind::Add, &logits, 1.0, 1.0, sum)?,
                None => sum = Some(logits),
            }
        }
        let Some(sum) = sum else { break };
        let values: Vec<f32> = q.download(&sum)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::Data { what: "the logits of a decoder vector are not finite".into() });
        }
        let found: Vec<Logits> = values
            .par_chunks_exact(d_vocab)
            .map(|row| {
                let side = |sign: f32| {
                    let best = largest(row.iter().enumerate().map(|(id, &v)| (sign * v, id as u32)), k);
                    let named = |(v, id)| TokenLogit { token: tokenizer.token_text(id), logit: sign * v };
                    best.into_iter().map(named).collect()
                };
                Logits { top_positive: side(1.0), top_negative: side(-1.0) }
            })
            .collect();
        all.extend(found);
        progress(rows.end);
    }
    Ok(all)
}

/// Ordered so that the heap's greatest is what leaves first: the smallest value, the highest index among equals.
#[derive(PartialEq)]
struct Worst(f32, u32);

impl Eq for Worst {}
impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0).then(self.1.cmp(&other.1))
    }
}

/// Values with the features they belong to.
pub(super) fn related(values: Vec<(f32, u32)>) -> Vec<Related> {
    values.into_iter().map(|(value, feature)| Related { feature, value }).collect()
}

/// The `n` largest, largest first, the lower index first among equals.
pub(super) fn largest(values: impl Iterator<Item = (f32, u32)>, n: usize) -> Vec<(f32, u32)> {
    let mut heap: BinaryHeap<Worst> = BinaryHeap::with_capacity(n + 1);
    for (value, index) in values {
        if heap.len() < n {
            heap.push(Worst(value, index));
        } else if heap.peek().is_some_and(|worst| value > worst.0) {
            heap.pop();
            heap.push(Worst(value, index));
        }
    }
    heap.into_sorted_vec().into_iter().map(|w| (w.0, w.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::{HeadRelations, largest};

    #[test]
    fn heads_of_a_feature_are_compared_by_norm_share_and_cosine() {
        // (3, 4), (0, 5) and nothing.
        let inner = [25.0, 20.0, 0.0, 20.0, 25.0, 0.0, 0.0, 0.0, 0.0];
        let heads = HeadRelations::of(&inner);
        assert_eq!(heads.norms(), [5.0, 5.0, 0.0]);
        assert_eq!(heads.relative_norms(), [0.5, 0.5, 0.0]);
        assert_eq!(heads.cosines(), [1.0, 0.8, 0.0, 0.8, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(HeadRelations::of(&[0.0; 4]).relative_norms(), [0.0, 0.0]);
    }

    #[test]
    fn the_largest_come_in_order_and_ties_go_to_the_lower_index() {
        let values = [3.0, 1.0, 5.0, 5.0, -2.0, 3.0];
        let all = |n| largest(values.iter().zip(0u32..).map(|(&v, i)| (v, i)), n);
        assert_eq!(all(3), [(5.0, 2), (5.0, 3), (3.0, 0)]);
        assert_eq!(all(0), []);
        assert_eq!(all(9).len(), 6);
    }
}
