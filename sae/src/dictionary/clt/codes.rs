//! Sparse codes of several layers, or heads, each over its own S columns: what was selected for each, or divided among them
//! after they competed.

use super::{
    merge::Merge,
    turned::{Turned, front, front_mut},
    work::mixed_up,
};
use crate::Result;
use lm_saes_runtime::{Arena, DType, Queue, SparseView, Tensor, View, ViewMut};
use std::ops::Range;

const F32: DType = DType::F32;
const U32: DType = DType::U32;

/// Who competes for how many places, and what the selection ranks at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dictionary) enum Selection {
    /// The features of a layer, for each row: k slots a row.
    Rows,
    /// The features of a layer, over the batch.
    Batch,
    /// All features of all layers, for each row, side by side.
    JointRows,
    /// All features of all layers over the batch, side by side.
    JointBatch,
    /// The same, one layer after the other.
    Merged,
}

/// Sparse codes of every layer over its own S columns.
pub(in crate::dictionary) struct LayerCodes {
    /// Values and columns of each layer, `[1, rows·k]`.
    pub(super) layers: Vec<(Tensor, Tensor)>,
    /// Row offsets of each layer, `[1, rows + 1]`; none when every row has k slots.
    pub(super) ptr: Vec<Tensor>,
    joint: Option<Joint>,
    pub(super) merge: Option<Merge>,
    /// Selection thresholds over the batch, `[1, 2]` for each pool.
    pub(super) thr: Option<Tensor>,
    turned: Option<Turned>,
    pub(super) s: usize,
    pub(super) rows: usize,
    pub(super) k: usize,
    /// Slots of each selection.
    budget: usize,
}

/// A selection over `L·S` columns that the layers' codes are parts of.
struct Joint {
    vals: Tensor,
    idx: Tensor,
    /// Row offsets, over the batch.
    ptr: Option<Tensor>,
    /// Where each entry of a layer is among the entries grouped by column, `[1, rows·k]`.
    place: Tensor,
}

impl LayerCodes {
    /// For up to `rows` rows; every selection has up to `k` slots a row. `turned` says that [`LayerCodes::turn`] will be called.
    pub fn plan(
        arena: &mut Arena,
        selection: Selection,
        layers: usize,
        s: usize,
        rows: usize,
        k: usize,
        turned: bool,
    ) -> Result<Self> {
        let cap = rows * k;
        let mut pair = |label: String| -> Result<(Tensor, Tensor)> {
            let vals = arena.tensor(&label, 1, cap, F32)?;
            Ok((vals, arena.tensor(&format!("{label}, columns"), 1, cap, U32)?))
        };
        let codes = (0..layers).map(|l| pair(format!("feature activations of layer {l}")));
        let codes = codes.collect::<Result<_>>()?;
        let side_by_side = matches!(selection, Selection::JointRows | Selection::JointBatch);
        let joint = if side_by_side { Some(pair("selection over all layers".into())?) } else { None };
        let offsets = if selection == Selection::Rows { 0 } else { layers };
        let ptr = (0..offsets).map(|l| Ok(arena.tensor(&format!("row offsets {l}"), 1, rows + 1, U32)?));
        let ptr = ptr.collect::<Result<_>>()?;
        let joint = match joint {
            None => None,
            Some((vals, idx)) => Some(Joint {
                vals,
                idx,
                ptr: match selection {
                    Selection::JointBatch => {
                        Some(arena.tensor("row offsets of all layers", 1, rows + 1, U32)?)
                    }
                    _ => None,
                },
                place: arena.tensor("places by column", 1, cap, U32)?,
            }),
        };
        let pools = match selection {
            Selection::Batch => layers,
            Selection::JointBatch | Selection::Merged => 1,
            Selection::Rows | Selection::JointRows => 0,
        };
        let columns = if side_by_side { layers * s } else { s };
        Ok(Self {
            layers: codes,
            ptr,
            joint,
            merge: match selection {
                Selection::Merged => Some(Merge::plan(arena, layers, rows, k)?),
                _ => None,
            },
            thr: match pools {
                0 => None,
                n => Some(arena.tensor("selection thresholds", n, 2, U32)?),
            },
            turned: match turned || side_by_side {
                true => Some(Turned::plan(arena, columns, rows, cap)?),
                false => None,
            },
            s,
            rows: 0,
            k: 0,
            budget: 0,
        })
    }

    /// Sets the shape of the next selection; it was checked against the plan.
    pub fn set(&mut self, rows: usize, k: usize) {
        (self.rows, self.k, self.budget) = (rows, k, rows * k);
    }

    /// Sets the budget of selections over a batch of which other ranks hold rows too, `total` in all.
    pub fn set_total(&mut self, total: usize) {
        self.budget = total * self.k;
    }

    /// Whether selections are over the whole batch.
    pub fn spans_batch(&self) -> bool {
        self.thr.is_some()
    }

    /// Slots of each selection.
    pub fn len(&self) -> usize {
        self.budget
    }

    fn shape(&self) -> (usize, usize) {
        if self.ptr.is_empty() { (self.rows, self.k) } else { (1, self.len()) }
    }

    /// The codes of layer `l`.
    pub fn view(&self, l: usize) -> SparseView<'_> {
        let (vals, idx) = &self.layers[l];
        let ptr = self.ptr.get(l).map(|p| p.view().slice_cols(0..self.rows + 1));
        SparseView { vals: self.like(vals), idx: self.like(idx), ptr, n: self.s }
    }

    /// A buffer with one value for each slot, shaped like the values.
    pub fn like<'a>(&self, t: &'a Tensor) -> View<'a> {
        let (rows, cols) = self.shape();
        t.view().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// [`LayerCodes::like`], to write.
    pub fn like_mut<'a>(&self, t: &'a mut Tensor) -> ViewMut<'a> {
        let (rows, cols) = self.shape();
        t.view_mut().slice_cols(0..self.len()).reshaped(rows, cols)
    }

    /// Values and columns of rows `r`, with k slots a row: of layer `l`, or of the joint selection.
    pub fn rows_mut(&mut self, l: Option<usize>, r: Range<usize>) -> Result<(ViewMut<'_>, ViewMut<'_>)> {
        let (rows, k, len) = (self.rows, self.k, self.len());
        let (vals, idx) = match l {
            Some(l) => self.layers.get_mut(l).map(|(vals, idx)| (vals, idx)),
            None => self.joint.as_mut().map(|j| (&mut j.vals, &mut j.idx)),
        }
        .ok_or_else(mixed_up)?;
        Ok((
            vals.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r.clone()),
            idx.view_mut().slice_cols(0..len).reshaped(rows, k).slice_rows(r),
        ))
    }

    /// Values, columns, row offsets and threshold of a batch form: of layer `l`, or of the joint selection.
    pub fn ragged_mut(
        &mut self,
        l: Option<usize>,
    ) -> Result<(ViewMut<'_>, ViewMut<'_>, ViewMut<'_>, ViewMut<'_>)> {
        let (rows, len) = (self.rows, self.len());
        let (vals, idx, ptr) = match (l, &mut self.joint) {
            (Some(l), _) => {
                let (vals, idx) = self.layers.get_mut(l).ok_or_else(mixed_up)?;
                (vals, idx, self.ptr.get_mut(l).ok_or_else(mixed_up)?)
            }
            (None, Some(Joint { vals, idx, ptr: Some(ptr), .. })) => (vals, idx, ptr),
            _ => return Err(mixed_up()),
        };
        let at = l.unwrap_or(0);
        Ok((
            front_mut(vals, len),
            front_mut(idx, len),
            ptr.view_mut().slice_cols(0..rows + 1),
            self.thr.as_mut().ok_or_else(mixed_up)?.rows_mut(at..at + 1),
        ))
    }

    /// The limits of the last selections over the batch.
    pub fn limits(&self) -> Option<&Tensor> {
        self.thr.as_ref()
    }

    /// Divides the joint selection among the layers: grouped by column its entries lie layer by layer, and each layer's are put
    /// back into rows.
    pub fn divide(&mut self, q: &mut Queue) -> Result<()> {
        let (rows, len, s) = (self.rows, self.len(), self.s);
        let Self { layers, joint: Some(joint), ptr, turned: Some(turned), .. } = self else {
            return Err(mixed_up());
        };
        let (r, c) = if joint.ptr.is_some() { (1, len) } else { (rows, self.k) };
        let all = SparseView {
            vals: joint.vals.view().slice_cols(0..len).reshaped(r, c),
            idx: joint.idx.view().slice_cols(0..len).reshaped(r, c),
            ptr: joint.ptr.as_ref().map(|p| p.view().slice_cols(0..rows + 1)),
            n: layers.len() * s,
        };
        turned.turn(q, all)?;
        for (l, ((vals, idx), ptr)) in layers.iter_mut().zip(ptr).enumerate() {
            let by_column = turned.part(l * s..(l + 1) * s);
            let mut ptr = ptr.view_mut().slice_cols(0..rows + 1);
            let place = &mut joint.place;
            q.sort_by_column(by_column, ptr.reborrow(), &mut *idx, &mut *place)?;
            // Entries of the layer that this picks: those at its places.
            let picked =
                SparseView { vals: by_column.vals, idx: front(place, len), ptr: Some(ptr.as_view()), n: len };
            let from = by_column.vals.reshaped(len, 1);
            q.sparse_dot(picked, from, turned.ones(rows), front_mut(vals, len))?;
        }
        Ok(())
    }

    /// Groups the codes of layer `l` by column, for [`LayerCodes::turned`].
    pub fn turn(&mut self, q: &mut Queue, l: usize) -> Result<()> {
        let (rows, cols) = self.shape();
        let (vals, idx) = self.layers.get(l).ok_or_else(mixed_up)?;
        let s = SparseView {
            vals: vals.view().slice_cols(0..self.len()).reshaped(rows, cols),
            idx: idx.view().slice_cols(0..self.len()).reshaped(rows, cols),
            ptr: self.ptr.get(l).map(|p| p.view().slice_cols(0..self.rows + 1)),
            n: self.s,
        };
        self.turned.as_mut().ok_or_else(mixed_up)?.turn(q, s)
    }

    /// The codes that were turned last.
    pub fn turned(&self) -> Result<&Turned> {
        self.turned.as_ref().ok_or_else(mixed_up)
    }
}
