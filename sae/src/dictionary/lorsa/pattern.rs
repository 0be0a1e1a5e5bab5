//! Where a feature's pre-activation comes from: attention patterns of single QK heads in the open, for analysis. These
//! allocate as they go and are no part of a step.

use super::attend::{Chunk, Heads};
use crate::{Error, Result};
use lm_saes_runtime::{Arena, DType, HeadsArgs, MapKind, Queue, Tensor, View};
use std::collections::{BTreeMap, btree_map::Entry};

const F32: DType = DType::F32;

impl Heads {
    /// The z patterns of some features in one context `x [T, d]`, normalised as for a forward: for each feature i a matrix
    /// `[T, T]` with `Z[t, s] = A[Q(i)][t, s]·v[s, i]`, 0 for s > t. Row t sums to the pre-activation `z[t, i]`.
    ///
    /// # Errors
    /// A feature that does not exist, a context longer than `n_ctx`.
    pub fn z_patterns(&self, q: &mut Queue, x: View<'_>, features: &[usize]) -> Result<Vec<Tensor>> {
        let (len, group) = (x.rows(), self.geometry.group);
        let chunk = self.project_alone(q, x)?;
        let mut patterns = BTreeMap::new();
        let mut all = Vec::with_capacity(features.len());
        for &i in features {
            let pattern = match patterns.entry(i / group) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.pattern(q, &chunk, len, i / group)?),
            };
            let mut column = q.empty(len, 1, F32)?;
            let [_, _, values] = chunk.projected(len);
            q.copy(values.slice_cols(i..i + 1), &mut column)?;
            let mut z = q.empty(len, len, F32)?;
            q.zip(MapKind::Mul, &*pattern, column.view().reshaped(1, len), 1.0, 0.0, &mut z)?;
            all.push(z);
        }
        Ok(all)
    }

    /// Queries, keys and values of one context, in memory of their own.
    fn project_alone(&self, q: &mut Queue, x: View<'_>) -> Result<Chunk> {
        self.geometry.check_context(x.rows())?;
        let mut plan = Arena::planning("one context");
        Chunk::plan(&mut plan, &self.geometry, x.rows(), false)?;
        let mut arena = Arena::build(&plan, q.device())?;
        let mut chunk = Chunk::plan(&mut arena, &self.geometry, x.rows(), false)?;
        self.project(q, x, x.rows(), &mut chunk)?;
        Ok(chunk)
    }

    fn pattern(&self, q: &mut Queue, chunk: &Chunk, len: usize, head: usize) -> Result<Tensor> {
        let g = &self.geometry;
        if head >= g.n_qk {
            let what = format!("QK head {head} of a dictionary with {} of {} features each", g.n_qk, g.group);
            return Err(Error::Data { what });
        }
        let one = HeadsArgs { heads: 1, ..g.heads(1, len) };
        let [query, key, values] = chunk.projected(len);
        let mut z = q.empty(len, g.group, F32)?;
        let mut pattern = q.empty(len, len, F32)?;
        let (wide, own) = (head * one.d_head..(head + 1) * one.d_head, head * g.group..(head + 1) * g.group);
        let (query, key) = (query.slice_cols(wide.clone()), key.slice_cols(wide));
        let out = Some(pattern.view_mut());
        q.attention(query, key, values.slice_cols(own), &mut z, out, one.into())?;
        Ok(pattern)
    }
}
