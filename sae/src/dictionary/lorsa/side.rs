//! Queries or keys of all QK heads: `x·W + b`, per head an optional RMS norm with gain, optional repetition of every
//! coordinate, and rotary positions; forward, and beneath it the way back from the gradient of the result.

use super::Geometry;
use crate::{
    Result,
    dictionary::{Param, grad},
};
use lm_saes_runtime::{Arena, DType, GemmOpts, MapKind, NormArgs, Queue, ReduceKind, Tensor, View, ViewMut};

const F32: DType = DType::F32;

/// Parameters of queries or of keys.
pub(super) struct Side {
    /// `[n_qk·d_qk, d]`.
    pub w: Param,
    /// `[n_qk, d_qk]`.
    pub b: Param,
    /// Gain of the norm, `[n_qk, d_qk]`.
    pub gain: Option<Param>,
}

/// Memory of one side for a chunk of rows; widths are `n_qk·d_qk`, or `repeat` times that in `wide` and `d_wide`.
pub(super) struct SideWork {
    /// The linear map, then gained and turned; in the backward its gradient where coordinates are repeated.
    lin: Tensor,
    norm: Option<NormWork>,
    wide: Option<Tensor>,
    /// Gradient of what attention read; present for training.
    d_wide: Option<Tensor>,
}

struct NormWork {
    /// Normalised, without gain.
    unit: Tensor,
    /// Divisors `[rows·n_qk, 1]`.
    scale: Tensor,
    /// Present for training: products, and one number for each row and head.
    spare: Option<(Tensor, Tensor)>,
}

/// Rotary positions of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    /// `[1, rows]`.
    pub pos: View<'a>,
    /// Cosines and sines `[n_ctx, rotary_dim/2]`.
    pub tables: (View<'a>, View<'a>),
}

impl SideWork {
    pub fn plan(arena: &mut Arena, label: &str, g: &Geometry, rows: usize, training: bool) -> Result<Self> {
        let width = g.n_qk * g.d_qk;
        let mut tensor = |what: &str, rows, cols| arena.tensor(&format!("{label}, {what}"), rows, cols, F32);
        Ok(Self {
            lin: tensor("linear", rows, width)?,
            norm: match g.qk_norm {
                None => None,
                Some(_) => Some(NormWork {
                    unit: tensor("normalised", rows, width)?,
                    scale: tensor("divisors", rows * g.n_qk, 1)?,
                    spare: match training {
                        true => Some((tensor("products", rows, width)?, tensor("means", rows * g.n_qk, 1)?)),
                        false => None,
                    },
                }),
            },
            wide: if g.repeat > 1 { Some(tensor("repeated", rows, width * g.repeat)?) } else { None },
            d_wide: if training { Some(tensor("gradient", rows, width * g.repeat)?) } else { None },
        })
    }

    /// What attention reads, `[rows, n_qk·d_qk·repeat]`.
    pub fn ready(&self, rows: usize) -> View<'_> {
        self.wide.as_ref().unwrap_or(&self.lin).rows_view(0..rows)
    }

    /// What attention reads, and where its gradient belongs.
    pub fn ready_and_grad(&mut self, rows: usize) -> Option<(View<'_>, ViewMut<'_>)> {
        let ready = self.wide.as_ref().unwrap_or(&self.lin).rows_view(0..rows);
        Some((ready, self.d_wide.as_mut()?.rows_mut(0..rows)))
    }
}

impl Side {
    /// Fills `work` from `x [rows, d]`.
    pub fn forward(
        &self,
        q: &mut Queue,
        g: &Geometry,
        x: View<'_>,
        turn: Option<Turn<'_>>,
        work: &mut SideWork,
    ) -> Result<()> {
        let (n, heads) = (x.rows(), x.rows() * g.n_qk);
        let opts = GemmOpts { tb: true, bias: Some(as_row(&self.b.value)), ..Default::default() };
        q.gemm(x, &self.w.value, work.lin.rows_mut(0..n), opts)?;
        if let (Some(NormWork { unit, scale, .. }), Some(gain), Some(eps)) =
            (&mut work.norm, &self.gain, g.qk_norm)
        {
            let args = NormArgs { rms: true, eps, gain: None, gain_offset: 0.0, bias: None };
            let by_head = unit.rows_mut(0..n).reshaped(heads, g.d_qk);
            let lin = work.lin.rows_view(0..n).reshaped(heads, g.d_qk);
            q.norm(lin, args, by_head, Some(scale.rows_mut(0..heads)))?;
            q.zip(
                MapKind::Mul,
                unit.rows_view(0..n),
                as_row(&gain.value),
                1.0,
                0.0,
                work.lin.rows_mut(0..n),
            )?;
        }
        let last = match &mut work.wide {
            None => &mut work.lin,
            Some(wide) => {
                let all = n * g.n_qk * g.d_qk;
                let from = work.lin.rows_view(0..n).reshaped(all, 1);
                for i in 0..g.repeat {
                    let to = wide.rows_mut(0..n).reshaped(all, g.repeat).slice_cols(i..i + 1);
                    q.copy(from, to)?;
                }
                wide
            }
        };
        if let Some(turn) = turn {
            q.rope(last.rows_mut(0..n), turn.pos, turn.tables, g.d_qk * g.repeat, g.adjacent)?;
        }
        Ok(())
    }

    /// Parameter gradients (`= beta·old + …`) from the gradient of [`SideWork::ready`], which is overwritten.
    pub fn backward(
        &mut self,
        q: &mut Queue,
        g: &Geometry,
        x: View<'_>,
        turn: Option<Turn<'_>>,
        work: &mut SideWork,
        beta: f32,
    ) -> Result<()> {
        let (n, heads, all) = (x.rows(), x.rows() * g.n_qk, x.rows() * g.n_qk * g.d_qk);
        let SideWork { lin, norm, d_wide: Some(d_wide), .. } = work else {
            return Err(super::not_planned());
        };
        if let Some(turn) = turn {
            q.rope_back(d_wide.rows_mut(0..n), turn.pos, turn.tables, g.d_qk * g.repeat, g.adjacent)?;
        }
        let dy = if g.repeat > 1 {
            let wide = d_wide.rows_view(0..n).reshaped(all, g.repeat);
            q.reduce_cols(ReduceKind::Sum, wide, lin.rows_mut(0..n).reshaped(all, 1), 0.0)?;
            lin
        } else {
            d_wide
        };
        if let (Some(NormWork { unit, scale, spare: Some((products, means)) }), Some(gain)) =
            (norm, &mut self.gain)
        {
            // y = u·gain, u = x/s with s = √(mean x² + eps):
            // dgain = Σ dy·u;  du = dy·gain;  dx = (du − u·mean(du·u))/s
            let unit = unit.rows_view(0..n);
            let mut products = products.rows_mut(0..n);
            q.zip(MapKind::Mul, dy.rows_view(0..n), unit, 1.0, 0.0, products.reborrow())?;
            q.reduce_rows(ReduceKind::Sum, products.as_view(), None, as_row_mut(grad(gain)?), beta)?;
            q.zip_in_place(MapKind::Mul, as_row(&gain.value), 1.0, 0.0, products.reborrow())?;
            q.zip_in_place(MapKind::Mul, as_row(&gain.value), 1.0, 0.0, dy.rows_mut(0..n))?;
            let mut means = means.rows_mut(0..heads);
            let by_head = products.as_view().reshaped(heads, g.d_qk);
            q.reduce_cols(ReduceKind::Sum, by_head, means.reborrow(), 0.0)?;
            let share = 1.0 / g.d_qk as f32;
            let mut by_head = products.reshaped(heads, g.d_qk);
            let unit = unit.reshaped(heads, g.d_qk);
            q.zip(MapKind::Mul, unit, means.as_view(), share, 0.0, by_head.reborrow())?;
            let mut dx = dy.rows_mut(0..n).reshaped(heads, g.d_qk);
            q.zip_in_place(MapKind::Add, by_head.as_view(), 1.0, -1.0, dx.reborrow())?;
            q.zip_in_place(MapKind::Div, scale.rows_view(0..heads), 1.0, 0.0, dx)?;
        }
        let dy = dy.rows_view(0..n);
        q.gemm(dy, x, grad(&mut self.w)?, GemmOpts { ta: true, beta, ..Default::default() })?;
        Ok(q.reduce_rows(ReduceKind::Sum, dy, None, as_row_mut(grad(&mut self.b)?), beta)?)
    }
}

/// One number for each column of all heads, `[1, n_qk·d_qk]`.
fn as_row(t: &Tensor) -> View<'_> {
    t.view().reshaped(1, t.len())
}

/// [`as_row`], to write.
fn as_row_mut(t: &mut Tensor) -> ViewMut<'_> {
    let n = t.len();
    t.view_mut().reshaped(1, n)
}
