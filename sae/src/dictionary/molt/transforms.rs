//! The transforms of one rank, `f_i·U_i·V_i·x` summed over i: two products with all U and all V of the rank, the scale of each
//! transform in between. Norms go through matrices of r × r: `‖U·V‖² = Σ (UᵀU) ∘ (V·Vᵀ)`.

use crate::{
    Result,
    dictionary::{Param, grad},
    parallel::placement::Cut,
};
use lm_saes_runtime::{
    Arena, DType, GemmOpts, MapKind, Queue, ReduceKind, SparseView, Tensor, View, ViewMut,
};
use std::ops::Range;

const F32: DType = DType::F32;

/// Transforms of one rank from which on it pays to compute only the active ones: every direction of the rank then costs a pass
/// over all rows, as much as about 28 transforms cost in dense products.
const MANY: usize = 64;

/// Transforms of one rank.
pub(super) struct Transforms {
    pub rank: usize,
    /// Features they are, among those here.
    pub features: Range<usize>,
    /// `(n, d, r)` in files, each as `[r, d]` here.
    pub u: Param,
    /// `(n, r, d)`.
    pub v: Param,
    /// Whether only active transforms are computed.
    pub by_entries: bool,
    work: Option<Work>,
}

/// Activations of a block of rows.
#[derive(Clone, Copy)]
pub(super) enum Scales<'a> {
    /// Of all features, `[B, S]`.
    Features(View<'a>),
    /// Of the transforms of one rank alone; where their gradient goes is shaped like the values.
    Entries(SparseView<'a>),
}

impl Scales<'_> {
    fn fill(&self, q: &mut Queue, features: Range<usize>, to: ViewMut<'_>) -> Result<()> {
        match self {
            Self::Features(f) => Ok(q.copy(f.slice_cols(features), to)?),
            Self::Entries(s) => Ok(q.scatter(*s, to, 0.0)?),
        }
    }
}

/// Buffers for blocks of rows: `[block, n·r]` each, and `[block, n]`.
struct Work {
    p: Tensor,
    z: Tensor,
    dz: Tensor,
    scale: Tensor,
    /// Of the features of these transforms, `[n, n]` and some, where activations are sparse.
    identity: Option<Tensor>,
    /// `[r, r]` each.
    uu: Tensor,
    vv: Tensor,
}

impl Transforms {
    /// Zeros: these features of a part of a dictionary, `cuts` of its n transforms of this rank.
    pub fn zeros(
        q: &mut Queue,
        (n, d, rank): (usize, usize, usize),
        features: Range<usize>,
        cuts: Vec<Cut>,
    ) -> Result<Self> {
        let u = Param::transposed(q, &format!("U_matrices.{rank}"), &[n, d, rank], cuts.clone())?;
        let v = Param::zeros(q, &format!("V_matrices.{rank}"), &[n, rank, d], cuts)?;
        Ok(Self { rank, features, u, v, by_entries: false, work: None })
    }

    /// For blocks of up to `block` rows; `sparse` where activations are, `few` where few of them are active.
    pub fn plan(
        &mut self,
        arena: &mut Arena,
        block: usize,
        (sparse, few): (bool, bool),
        training: bool,
    ) -> Result<()> {
        self.by_entries = few && self.features.len() >= MANY;
        let block = if self.by_entries { 0 } else { block };
        let (n, wide) = (self.features.len(), self.features.len() * self.rank);
        let back = if training { block } else { 0 };
        self.work = Some(Work {
            p: arena.tensor("inputs of transforms", block, wide, F32)?,
            z: arena.tensor("scaled inputs of transforms", block, wide, F32)?,
            dz: arena.tensor("gradient of scaled inputs", back, wide, F32)?,
            scale: arena.tensor("scales of transforms", block, n, F32)?,
            identity: match sparse && back > 0 {
                true => Some(arena.tensor("identity", 1, n * (n + 1), F32)?),
                false => None,
            },
            uu: arena.tensor("products of U", self.rank, self.rank, F32)?,
            vv: arena.tensor("products of V", self.rank, self.rank, F32)?,
        });
        Ok(())
    }

    fn work(&mut self) -> Result<(&Param, &Param, &mut Work)> {
        let work = self
            .work
            .as_mut()
            .ok_or_else(|| crate::Error::Data { what: "transforms were not planned".into() })?;
        Ok((&self.u, &self.v, work))
    }

    /// `y += Σ f_i·U_i·V_i·x` for a block.
    pub fn apply(&mut self, q: &mut Queue, x: View<'_>, f: Scales<'_>, y: ViewMut<'_>) -> Result<()> {
        let (features, rank, b) = (self.features.clone(), self.rank, x.rows());
        let n = features.len();
        let (u, v, w) = self.work()?;
        q.gemm(x, &v.value, w.p.rows_mut(0..b), GemmOpts { tb: true, ..Default::default() })?;
        f.fill(q, features, w.scale.rows_mut(0..b))?;
        let each = w.scale.rows_view(0..b).reshaped(b * n, 1);
        let p = w.p.rows_view(0..b).reshaped(b * n, rank);
        q.zip(MapKind::Mul, p, each, 1.0, 0.0, w.z.rows_mut(0..b).reshaped(b * n, rank))?;
        Ok(q.gemm(w.z.rows_view(0..b), &u.value, y, GemmOpts { beta: 1.0, ..Default::default() })?)
    }

    /// Gradients from `dy [B, d]` of a block: of these features' activations (`=`), U and V (`= beta·old + …`).
    pub fn grads(
        &mut self,
        q: &mut Queue,
        (x, f, dy): (View<'_>, Scales<'_>, View<'_>),
        df: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        let (features, rank, b) = (self.features.clone(), self.rank, x.rows());
        let n = features.len();
        let (u, v, w) = self.work()?;
        q.gemm(x, &v.value, w.p.rows_mut(0..b), GemmOpts { tb: true, ..Default::default() })?;
        q.gemm(dy, &u.value, w.dz.rows_mut(0..b), GemmOpts { tb: true, ..Default::default() })?;
        q.zip(MapKind::Mul, w.p.rows_view(0..b), w.dz.rows_view(0..b), 1.0, 0.0, w.z.rows_mut(0..b))?;
        let out = w.scale.rows_mut(0..b).reshaped(b * n, 1);
        q.reduce_cols(ReduceKind::Sum, w.z.rows_view(0..b).reshaped(b * n, rank), out, 0.0)?;
        match (f, &mut w.identity) {
            (Scales::Entries(s), Some(identity)) => {
                // ⟨row i of the identity, scales⟩ is what belongs to an entry in column i.
                q.fill(&mut *identity, 0.0)?;
                q.fill(identity.view_mut().reshaped(n, n + 1).slice_cols(0..1), 1.0)?;
                let identity = identity.view().slice_cols(0..n * n).reshaped(n, n);
                q.sparse_dot(s, identity, w.scale.rows_view(0..b), df)?;
            }
            _ => q.copy(w.scale.rows_view(0..b), df.slice_cols(features.clone()))?,
        }
        f.fill(q, features, w.scale.rows_mut(0..b))?;
        let each = w.scale.rows_view(0..b).reshaped(b * n, 1);
        let p = w.p.rows_view(0..b).reshaped(b * n, rank);
        q.zip(MapKind::Mul, p, each, 1.0, 0.0, w.z.rows_mut(0..b).reshaped(b * n, rank))?;
        q.zip_in_place(MapKind::Mul, each, 1.0, 0.0, w.dz.rows_mut(0..b).reshaped(b * n, rank))?;
        let back = GemmOpts { ta: true, beta, ..Default::default() };
        let w = self.work.as_ref();
        let Some(w) = w else { return Ok(()) };
        q.gemm(w.z.rows_view(0..b), dy, grad(&mut self.u)?, back)?;
        Ok(q.gemm(w.dz.rows_view(0..b), x, grad(&mut self.v)?, back)?)
    }

    /// `‖U_i·V_i‖` into its place among all, `out [1, S]`.
    pub fn norms(
        &self,
        q: &mut Queue,
        (uu, vv): (&mut Tensor, &mut Tensor),
        mut out: ViewMut<'_>,
    ) -> Result<()> {
        let r = self.rank;
        for (i, feature) in self.features.clone().enumerate() {
            gram(q, self.u.value.rows_view(i * r..(i + 1) * r), uu)?;
            gram(q, self.v.value.rows_view(i * r..(i + 1) * r), vv)?;
            q.zip_in_place(MapKind::Mul, &*vv, 1.0, 0.0, &mut *uu)?;
            let sum = out.reborrow().slice_cols(feature..feature + 1);
            q.reduce_cols(ReduceKind::Sum, uu.view().reshaped(1, r * r), sum, 0.0)?;
        }
        let mut own = out.slice_cols(self.features.clone());
        // Rounding may leave less than 0.
        q.map_in_place(MapKind::Relu, 0.0, 0.0, own.reborrow())?;
        Ok(q.map_in_place(MapKind::Sqrt, 0.0, 0.0, own)?)
    }

    /// [`Transforms::norms`] in planned memory.
    pub fn planned_norms(&mut self, q: &mut Queue, out: ViewMut<'_>) -> Result<()> {
        let Some(mut w) = self.work.take() else { return Ok(()) };
        let done = self.norms(q, (&mut w.uu, &mut w.vv), out);
        self.work = Some(w);
        done
    }

    /// What norms add to the gradients, from `dn/n [1, S]`: `dU += dn/n·U·(V·Vᵀ)`, `dV += dn/n·(Uᵀ·U)·V`.
    pub fn norm_grads(&mut self, q: &mut Queue, ratio: View<'_>) -> Result<()> {
        let r = self.rank;
        let Some(w) = &mut self.work else { return Ok(()) };
        for (i, feature) in self.features.clone().enumerate() {
            let rows = i * r..(i + 1) * r;
            let ratio = ratio.slice_cols(feature..feature + 1);
            add_norm_grad(q, &mut self.u, &self.v, rows.clone(), ratio, &mut w.vv)?;
            add_norm_grad(q, &mut self.v, &self.u, rows, ratio, &mut w.uu)?;
        }
        Ok(())
    }
}

/// `w·wᵀ` of `w [r, d]`.
fn gram(q: &mut Queue, w: View<'_>, out: &mut Tensor) -> Result<()> {
    Ok(q.gemm(w, w, out, GemmOpts { tb: true, ..Default::default() })?)
}

/// `d(own) += ratio·(other·otherᵀ)·own` for one transform, rows `r`.
fn add_norm_grad(
    q: &mut Queue,
    own: &mut Param,
    other: &Param,
    r: Range<usize>,
    ratio: View<'_>,
    product: &mut Tensor,
) -> Result<()> {
    gram(q, other.value.rows_view(r.clone()), product)?;
    let n = r.len();
    q.zip_in_place(MapKind::Mul, ratio, 1.0, 0.0, product.view_mut().reshaped(1, n * n))?;
    let w = own.value.rows_view(r.clone());
    let Some(to) = &mut own.grad else { return Ok(()) };
    Ok(q.gemm(&*product, w, to.rows_mut(r), GemmOpts { beta: 1.0, ..Default::default() })?)
}
