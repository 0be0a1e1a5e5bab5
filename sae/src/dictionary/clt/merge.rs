//! batchlayertopk without the pre-activations of all layers at once. Each layer in turn offers what its own batch would keep of
//! the whole budget; the best of these candidates are the best of all entries. Each layer then keeps its share of them.
//! Among equals at the limit those of ranks with earlier rows are kept, then those of earlier layers, rows and features.

use super::{
    codes::LayerCodes,
    turned::{front, front_mut},
    work::mixed_up,
};
use crate::{
    Result,
    dictionary::Base,
    parallel::{Selected, select_over_batch},
};
use lm_saes_runtime::{Arena, CompactArgs, DType, MapKind, Queue, Select, SparseView, Tensor, View, ViewMut};

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Buffers of the merge.
pub(super) struct Merge {
    /// Compared values of every layer's candidates, `[1, L·rows·k]`; what is not above 0 is none.
    compared: Tensor,
    /// Those that are kept, only to count them: values, places, and offsets of each layer `[1, L + 1]`.
    kept: (Tensor, Tensor),
    counts: Tensor,
    /// Limit of one layer.
    limit: Tensor,
    /// `[rows, 1]`.
    ones: Tensor,
}

impl Merge {
    pub fn plan(arena: &mut Arena, layers: usize, rows: usize, k: usize) -> Result<Self> {
        let cap = rows * k;
        Ok(Self {
            compared: arena.tensor("compared values of candidates", 1, layers * cap, F32)?,
            kept: (arena.tensor("kept candidates", 1, cap, F32)?, arena.tensor("places kept", 1, cap, U32)?),
            counts: arena.tensor("candidates kept of each layer", 1, layers + 1, U32)?,
            limit: arena.tensor("limit of a layer", 1, 2, U32)?,
            ones: arena.tensor("ones of the rows", rows, 1, F32)?,
        })
    }
}

impl LayerCodes {
    /// Candidates of layer `l` from its pre-activations `h [B, S]`, compared by `h·norms` or h.
    pub fn offer(&mut self, q: &mut Queue, l: usize, h: View<'_>, norms: Option<View<'_>>) -> Result<()> {
        let (rows, len, s) = (self.rows, self.len(), self.s);
        let Self { layers, ptr, merge: Some(m), .. } = self else { return Err(mixed_up()) };
        let ((vals, idx), ptr) = (&mut layers[l], &mut ptr[l]);
        let select = Select { scale: norms, mask: None };
        q.threshold(h, select, len, &mut m.limit)?;
        keep(q, h, select, &m.limit, (&mut *vals, &mut *idx, &mut *ptr), (rows, len))?;
        let mut compared = m.compared.view_mut().slice_cols(l * len..(l + 1) * len).reshaped(1, len);
        let vals = front(vals, len);
        match norms {
            None => q.copy(vals, compared.reborrow())?,
            Some(norms) => {
                q.fill(&mut m.ones, 1.0)?;
                let (idx, ptr) = (front(idx, len), ptr.view().slice_cols(0..rows + 1));
                let offered = SparseView { vals, idx, ptr: Some(ptr), n: s };
                let ones = m.ones.rows_view(0..rows);
                q.sparse_dot(offered, norms.reshaped(s, 1), ones, compared.reborrow())?;
                q.zip_in_place(MapKind::Mul, vals, 1.0, 0.0, compared.reborrow())?;
            }
        }
        // What lies behind the last candidate is whatever the device left there.
        let end: Vec<u32> = q.download(ptr.view().slice_cols(rows..rows + 1))?;
        let end = end.first().map_or(len, |&n| n as usize).min(len);
        if end < len { Ok(q.fill(compared.slice_cols(end..len), 0.0)?) } else { Ok(()) }
    }

    /// The limit of all candidates, and how many each layer keeps.
    pub fn settle(&mut self, q: &mut Queue, base: &Base) -> Result<Vec<usize>> {
        let (len, rows) = (self.len(), self.rows);
        // Where each candidate is in its layer, for equal ones of several ranks.
        let mut places = Vec::new();
        if !base.mesh.is_solo() {
            for ((_, idx), ptr) in self.layers.iter().zip(&self.ptr) {
                let ends: Vec<u32> = q.download(ptr.view().slice_cols(0..rows + 1))?;
                let n = ends.last().map_or(0, |&n| n as usize);
                let columns: Vec<u32> = q.download(front(idx, n))?;
                places.push((ends, columns));
            }
        }
        let place = |l: usize, c: usize| -> (usize, usize) {
            let (ends, columns): &(Vec<u32>, Vec<u32>) = &places[l];
            let row = ends.partition_point(|&end| end as usize <= c) - 1;
            (l, row * base.settings.d_sae() + base.share.global(columns[c] as usize))
        };
        let Self { layers, merge: Some(m), thr: Some(limit), .. } = self else { return Err(mixed_up()) };
        let all = m.compared.view().slice_cols(0..layers.len() * len).reshaped(layers.len(), len);
        let (vals, idx) = (m.kept.0.view_mut(), m.kept.1.view_mut());
        let out = Selected { vals, idx, ptr: m.counts.view_mut(), limit: limit.view_mut() };
        let pool = base.share.pool(&base.mesh, &place);
        select_over_batch(q, pool, all, Select::default(), len, out)?;
        let ends: Vec<u32> = q.download(&m.counts)?;
        Ok(ends.windows(2).map(|w| (w[1] - w[0]) as usize).collect())
    }

    /// Keeps the best `n` candidates of layer `l`; `h [B, S]` is overwritten, `norms` as they were offered with.
    pub fn keep(
        &mut self,
        q: &mut Queue,
        l: usize,
        n: usize,
        mut h: ViewMut<'_>,
        norms: Option<View<'_>>,
    ) -> Result<()> {
        let (rows, len, s) = (self.rows, self.len(), self.s);
        let Self { layers, ptr, merge: Some(m), .. } = self else { return Err(mixed_up()) };
        let ((vals, idx), ptr) = (&mut layers[l], &mut ptr[l]);
        let compared = m.compared.view().slice_cols(l * len..(l + 1) * len).reshaped(len / self.k, self.k);
        q.threshold(compared, Select::default(), n, &mut m.limit)?;
        let offered = SparseView {
            vals: front(vals, len),
            idx: front(idx, len),
            ptr: Some(ptr.view().slice_cols(0..rows + 1)),
            n: s,
        };
        q.scatter(offered, h.reborrow(), 0.0)?;
        let select = Select { scale: norms, mask: None };
        keep(q, h.as_view(), select, &m.limit, (vals, idx, ptr), (rows, len))
    }
}

/// The entries of `h [B, S]` that a limit lets through, as sparse rows.
fn keep(
    q: &mut Queue,
    h: View<'_>,
    select: Select<'_>,
    limit: &Tensor,
    (vals, idx, ptr): (&mut Tensor, &mut Tensor, &mut Tensor),
    (rows, len): (usize, usize),
) -> Result<()> {
    let rule = CompactArgs { select, theta: None, thr: Some(limit.view()) };
    let (vals, idx) = (front_mut(vals, len), front_mut(idx, len));
    Ok(q.compact(h, rule, vals, idx, ptr.view_mut().slice_cols(0..rows + 1))?)
}
