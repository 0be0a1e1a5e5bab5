//! Neighbours among features that are linear maps instead of vectors: a mixture of linear transforms. The cosine of two maps is
//! that of their matrices, `⟨U·V, U'·V'⟩ = Σ (UᵀU') ∘ (V·V'ᵀ)`, so that no matrix of d × d is formed.

use super::directions::{largest, related};
use crate::{Result, dictionary::Dictionary, store::Related};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, ReduceKind, View};
use rayon::prelude::*;

/// The transforms of a dictionary.
pub struct Transforms<'a> {
    /// By rank, in the order of features.
    groups: Vec<Group<'a>>,
}

/// Those of one rank r, n of them: `Uᵀ` and V, `[n·r, d]` each.
struct Group<'a> {
    rank: usize,
    u: View<'a>,
    v: View<'a>,
}

impl Group<'_> {
    fn len(&self) -> usize {
        self.u.rows() / self.rank
    }
}

impl<'a> Transforms<'a> {
    /// Those of a dictionary, by the names of checkpoints; `None` for a variant without.
    pub fn of(dictionary: &'a dyn Dictionary) -> Option<Self> {
        let params = dictionary.params();
        let groups: Vec<Group<'a>> = params
            .iter()
            .filter_map(|u| {
                let rank = u.name.strip_prefix("U_matrices.")?;
                let name = format!("V_matrices.{rank}");
                let v = params.iter().find(|p| p.name == name)?;
                let rank = rank.parse().ok().filter(|&r: &usize| r > 0)?;
                Some(Group { rank, u: u.value.view(), v: v.value.view() })
            })
            .collect();
        if groups.is_empty() { None } else { Some(Self { groups }) }
    }

    /// Transforms.
    pub fn len(&self) -> usize {
        self.groups.iter().map(Group::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n` transforms with the largest cosine to each; none for one of zeros.
    pub fn neighbours(
        &self,
        q: &mut Queue,
        n: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Vec<Related>>> {
        let mut products: Vec<Vec<f32>> = Vec::with_capacity(self.len());
        for group in &self.groups {
            for i in 0..group.len() {
                let own = i * group.rank..(i + 1) * group.rank;
                products.push(self.products(q, group.u.slice_rows(own.clone()), group.v.slice_rows(own))?);
                progress(products.len());
            }
        }
        let norms: Vec<f32> = products.iter().enumerate().map(|(i, row)| row[i].max(0.0).sqrt()).collect();
        let of = |(me, row): (usize, &Vec<f32>)| {
            let cosine = |f: usize| row[f] / (norms[me] * norms[f]);
            let others = (0..row.len()).filter(|&f| f != me && norms[f] > 0.0 && norms[me] > 0.0);
            related(largest(others.map(|f| (cosine(f), f as u32)), n))
        };
        Ok(products.par_iter().enumerate().map(of).collect())
    }

    /// Inner products of the transform `uᵀ`, `v [r, d]` with all.
    fn products(&self, q: &mut Queue, u: View<'_>, v: View<'_>) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.len());
        let opts = GemmOpts { tb: true, ..GemmOpts::default() };
        for group in &self.groups {
            let wide = group.u.rows();
            let mut uu = q.empty(u.rows(), wide, DType::F32)?;
            let mut vv = q.empty(u.rows(), wide, DType::F32)?;
            q.gemm(u, group.u, &mut uu, opts)?;
            q.gemm(v, group.v, &mut vv, opts)?;
            q.zip_in_place(MapKind::Mul, &vv, 1.0, 0.0, &mut uu)?;
            let mut rows = q.empty(1, wide, DType::F32)?;
            q.reduce_rows(ReduceKind::Sum, &uu, None, &mut rows, 0.0)?;
            let mut sums = q.empty(group.len(), 1, DType::F32)?;
            q.reduce_cols(ReduceKind::Sum, rows.view().reshaped(group.len(), group.rank), &mut sums, 0.0)?;
            all.extend(q.download::<f32>(&sums)?);
        }
        Ok(all)
    }
}
