//! Scaling of activations before and after a dictionary (VARIANTS §4). Every mode is one factor per row, layer-norm a summand
//! too; trainer, evaluator and analysis use the same two calls: scale inputs and labels, restore reconstructions.

use super::{Dictionary, TINY};
use crate::{Error, Result, settings::NormActivation};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, ReduceKind, Tensor, View, ViewMut};

/// How one hook point's activations are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    mode: NormActivation,
    /// √d of the dictionary's settings; a hook point may be narrower.
    root: f32,
    /// Data-set average of the norm, for dataset-wise.
    norm: f32,
}

impl Scaling {
    /// As this dictionary scales this hook point.
    ///
    /// # Errors
    /// Dataset-wise without a usable average norm of the hook point.
    pub fn of(dictionary: &dyn Dictionary, hook_point: &str) -> Result<Self> {
        let settings = dictionary.settings();
        let mode = settings.norm_activation();
        let norm = dictionary.norms().get(hook_point).copied();
        let usable = norm.filter(|n| n.is_finite() && *n > 0.0);
        if mode == NormActivation::DatasetWise && usable.is_none() {
            let found = norm.map_or("is not known".into(), |n| format!("is {n}"));
            let what = format!(
                "norm_activation is dataset-wise but the average norm of {hook_point} {found}; measure it or load a folded dictionary"
            );
            return Err(Error::Data { what });
        }
        Ok(Self { mode, root: (settings.d_model() as f32).sqrt(), norm: usable.unwrap_or(1.0) })
    }

    /// The factor, where it is the same for all rows.
    pub fn constant(&self) -> Option<f32> {
        match self.mode {
            NormActivation::DatasetWise => Some(self.root / self.norm),
            NormActivation::Inference => Some(1.0),
            NormActivation::TokenWise | NormActivation::BatchWise | NormActivation::LayerNorm => None,
        }
    }

    /// `y = scaled x`, `[B, d]`; the factors stay in `factors [B, 1]`. Rows of a batch of contexts come in runs of `context` rows,
    /// each its own group for batch-wise; without contexts the batch is one group.
    pub fn scale(
        &self,
        q: &mut Queue,
        x: View<'_>,
        context: Option<usize>,
        scratch: &mut Scratch,
        mut factors: ViewMut<'_>,
        mut y: ViewMut<'_>,
    ) -> Result<()> {
        if self.mode == NormActivation::LayerNorm {
            q.copy(x, y.reborrow())?;
            return self.scale_in_place(q, context, scratch, factors, y);
        }
        self.factors(q, x, context, scratch, factors.reborrow())?;
        Ok(q.zip(MapKind::Mul, x, factors.as_view(), 1.0, 0.0, y)?)
    }

    /// [`Scaling::scale`] of `x` into itself.
    pub fn scale_in_place(
        &self,
        q: &mut Queue,
        context: Option<usize>,
        scratch: &mut Scratch,
        mut factors: ViewMut<'_>,
        mut x: ViewMut<'_>,
    ) -> Result<()> {
        if self.mode == NormActivation::LayerNorm {
            centre(q, scratch, factors.reborrow(), x.reborrow())?;
        } else {
            self.factors(q, x.as_view(), context, scratch, factors.reborrow())?;
        }
        Ok(q.zip_in_place(MapKind::Mul, factors.as_view(), 1.0, 0.0, x)?)
    }

    /// `y` = what `yhat [B, d]`, a reconstruction of scaled `raw`, is in the scale of `raw [B, d]`.
    pub fn restore(
        &self,
        q: &mut Queue,
        (raw, yhat): (View<'_>, View<'_>),
        context: Option<usize>,
        scratch: &mut Scratch,
        mut factors: ViewMut<'_>,
        mut y: ViewMut<'_>,
    ) -> Result<()> {
        if self.mode != NormActivation::LayerNorm {
            self.factors(q, raw, context, scratch, factors.reborrow())?;
            return Ok(q.zip(MapKind::Div, yhat, factors.as_view(), 1.0, 0.0, y)?);
        }
        q.copy(raw, y.reborrow())?;
        centre(q, scratch, factors.reborrow(), y.reborrow())?;
        // On the way out the deviation is without the small summand of the way in.
        let rows = 0..raw.rows();
        q.zip(MapKind::Mul, yhat, scratch.norms.rows_view(rows.clone()), 1.0, 0.0, y.reborrow())?;
        Ok(q.zip_in_place(MapKind::Add, scratch.sums.rows_view(rows), 1.0, 1.0, y)?)
    }

    /// Factors of raw `x [B, d]` into `factors [B, 1]`.
    fn factors(
        &self,
        q: &mut Queue,
        x: View<'_>,
        context: Option<usize>,
        scratch: &mut Scratch,
        mut factors: ViewMut<'_>,
    ) -> Result<()> {
        let rows = x.rows();
        if let Some(c) = self.constant() {
            return Ok(q.fill(factors, c)?);
        }
        let group = match (self.mode, context) {
            (NormActivation::TokenWise | NormActivation::LayerNorm, _) => 1,
            (_, Some(len)) => len,
            (_, None) => rows,
        };
        if group == 0 || !rows.is_multiple_of(group) || rows > scratch.norms.rows() {
            let what = format!(
                "{rows} rows in contexts of {group}, memory was planned for {} rows",
                scratch.norms.rows()
            );
            return Err(Error::Data { what });
        }
        let mut norms = scratch.norms.rows_mut(0..rows);
        q.reduce_cols(ReduceKind::SumSq, x, norms.reborrow(), 0.0)?;
        q.map_in_place(MapKind::Sqrt, 0.0, 0.0, norms.reborrow())?;
        let norms = norms.as_view().reshaped(rows / group, group);
        let mut sums = scratch.sums.rows_mut(0..rows / group);
        q.reduce_cols(ReduceKind::Sum, norms, sums.reborrow(), 0.0)?;
        // √d / (Σ/group); a sum of 0 gives a large finite number, so rows of zeros stay zeros. Powers of two are exact.
        q.map_in_place(MapKind::Shrink, self.root * group as f32 / TINY, TINY, sums.reborrow())?;
        q.fill(factors.reborrow(), 1.0)?;
        let factors = factors.reshaped(rows / group, group);
        Ok(q.zip_in_place(MapKind::Mul, sums.as_view(), 1.0, 0.0, factors)?)
    }
}

/// Memory for the norms of up to `rows` rows.
pub struct Scratch {
    norms: Tensor,
    sums: Tensor,
    divisors: Tensor,
}

impl Scratch {
    /// Planned with the rest of a step.
    pub fn plan(arena: &mut Arena, rows: usize) -> Result<Self> {
        Ok(Self {
            norms: arena.tensor("row norms", rows, 1, DType::F32)?,
            sums: arena.tensor("group norms", rows, 1, DType::F32)?,
            divisors: arena.tensor("row divisors", rows, 1, DType::F32)?,
        })
    }
    /// Temporary.
    pub fn new(q: &mut Queue, rows: usize) -> Result<Self> {
        let mut column = || q.empty(rows, 1, DType::F32);
        Ok(Self { norms: column()?, sums: column()?, divisors: column()? })
    }
}

/// SAELens' layer norm: `x −= mean`; the standard deviation of each row (over d − 1) stays in `scratch.norms`, the mean in
/// `scratch.sums`, and `factors` are 1/(deviation + 1e-5).
fn centre(q: &mut Queue, scratch: &mut Scratch, mut factors: ViewMut<'_>, mut x: ViewMut<'_>) -> Result<()> {
    let (rows, d) = (x.rows(), x.cols());
    if rows > scratch.norms.rows() || d < 2 {
        let what = format!(
            "{rows} rows of width {d}, memory was planned for {} rows of at least 2",
            scratch.norms.rows()
        );
        return Err(Error::Data { what });
    }
    let mut means = scratch.sums.rows_mut(0..rows);
    q.reduce_cols(ReduceKind::Sum, x.as_view(), means.reborrow(), 0.0)?;
    q.map_in_place(MapKind::Affine, 1.0 / d as f32, 0.0, means.reborrow())?;
    q.zip_in_place(MapKind::Add, means.as_view(), 1.0, -1.0, x.reborrow())?;
    let mut deviations = scratch.norms.rows_mut(0..rows);
    q.reduce_cols(ReduceKind::SumSq, x.as_view(), deviations.reborrow(), 0.0)?;
    q.map_in_place(MapKind::Affine, 1.0 / (d - 1) as f32, 0.0, deviations.reborrow())?;
    q.map_in_place(MapKind::Sqrt, 0.0, 0.0, deviations.reborrow())?;
    q.fill(factors.reborrow(), 1.0)?;
    let mut divisor = scratch.divisors.rows_mut(0..rows);
    q.map(MapKind::Affine, deviations.as_view(), 1.0, 1e-5, divisor.reborrow())?;
    Ok(q.zip_in_place(MapKind::Div, divisor.as_view(), 1.0, 0.0, factors)?)
}
