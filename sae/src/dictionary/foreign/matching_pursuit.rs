//! Matching pursuit (SAELens): the encoder is the decoder. Again and again the row of W_D that fits the residual r best is taken,
//!   i = argmax r·W_D[i]     f_i += relu(r·W_D[i])     r −= relu(r·W_D[i])·W_D[i]
//! until the selection no longer grows, r is short, or often enough. Products and updates run on the device; which rows are
//! done is decided on the host, from one index and value a row.

use super::{Applied, ReadOnly, refuse_parts};
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Param, Share,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::{Arena, DType, GemmOpts, MapKind, Queue, ReduceKind, Select, SparseView, Tensor, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most bytes of one block of products with all rows of W_D.
const MOST_BYTES: usize = 64 << 20;

/// What matching pursuit has beside the common settings. `use_decoder_bias` says whether `b_D` is taken off and put back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchingPursuitSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// The same.
    pub hook_point_out: String,
    /// Length of the residual below which a row is done; 0: never.
    pub residual_threshold: f32,
    /// Most rounds.
    pub max_iterations: usize,
    /// A row is done once a round selects nothing new.
    pub stop_on_duplicate_support: bool,
}

impl VariantSettings for MatchingPursuitSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu], "matching_pursuit")?;
        if self.hook_point_in != self.hook_point_out {
            return Err(Error::setting(
                "hook_point_out",
                "has to be hook_point_in: the encoder is the decoder",
            ));
        }
        if self.max_iterations == 0 {
            return Err(Error::setting("max_iterations", "must be at least 1"));
        }
        Ok(())
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        refuse_parts(settings, &share)?;
        let (s, d) = (settings.d_sae(), settings.d_model());
        let b_d = match settings.common.use_decoder_bias {
            true => Some(Param::zeros(q, "b_D", &[d], Vec::new())?),
            false => None,
        };
        let w_d = Param::zeros(q, "W_D", &[s, d], Vec::new())?;
        let applied = MatchingPursuit { rules: self.clone(), w_d, b_d, work: None };
        Ok(Box::new(ReadOnly::new(settings, share, applied)))
    }
}

struct MatchingPursuit {
    rules: MatchingPursuitSettings,
    w_d: Param,
    b_d: Option<Param>,
    work: Option<Work>,
}

/// Of a block of rows.
struct Work {
    block: usize,
    /// `[block, d]`.
    residual: Tensor,
    /// `r·W_D`, `[block, S]`.
    fit: Tensor,
    /// The best of each row, `[block, 1]`: value, what goes off the residual, index.
    value: Tensor,
    minus: Tensor,
    index: Tensor,
    /// Squared length of the residual, `[block, 1]`.
    length: Tensor,
}

impl Applied for MatchingPursuit {
    fn params(&self) -> Vec<&Param> {
        std::iter::once(&self.w_d).chain(&self.b_d).collect()
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        std::iter::once(&mut self.w_d).chain(&mut self.b_d).collect()
    }

    fn plan(&mut self, arena: &mut Arena, rows: usize) -> Result<()> {
        let (s, d) = (self.w_d.value.rows(), self.w_d.value.cols());
        let block = (MOST_BYTES / 4 / s).clamp(16, 4096).min(rows);
        let mut part = |label, cols, dtype| arena.tensor(label, block, cols, dtype);
        self.work = Some(Work {
            block,
            residual: part("residual", d, DType::F32)?,
            fit: part("fit", s, DType::F32)?,
            value: part("best value", 1, DType::F32)?,
            minus: part("best value, negated", 1, DType::F32)?,
            index: part("best index", 1, DType::U32)?,
            length: part("residual length", 1, DType::F32)?,
        });
        Ok(())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        _context: Option<usize>,
        (codes, y): (&mut Tensor, &mut Tensor),
    ) -> Result<()> {
        let block = self.work.as_ref().map_or(1, |w| w.block).max(1);
        for first in (0..x.rows()).step_by(block) {
            let rows = first..(first + block).min(x.rows());
            self.pursue(q, x.slice_rows(rows.clone()), codes, rows.start)?;
        }
        let rows = 0..x.rows();
        let opts = GemmOpts { bias: self.b_d.as_ref().map(|b| b.value.view()), ..Default::default() };
        Ok(q.gemm(codes.rows_view(rows.clone()), &self.w_d.value, y.rows_mut(rows), opts)?)
    }

    fn decoder(&self) -> &Param {
        &self.w_d
    }
    fn encoder(&self) -> &Param {
        &self.w_d
    }
}

impl MatchingPursuit {
    /// Codes of a block that begins at row `first`.
    fn pursue(&mut self, q: &mut Queue, x: View<'_>, codes: &mut Tensor, first: usize) -> Result<()> {
        let Some(w) = &mut self.work else {
            return Err(Error::Data { what: "the dictionary was not planned".into() });
        };
        let n = x.rows();
        let (s, rules, w_d) = (self.w_d.value.rows(), &self.rules, &self.w_d.value);
        match &self.b_d {
            Some(b) => q.zip(MapKind::Add, x, &b.value, 1.0, -1.0, w.residual.rows_mut(0..n))?,
            None => q.copy(x, w.residual.rows_mut(0..n))?,
        }
        q.fill(codes.rows_mut(first..first + n), 0.0)?;
        let mut done = vec![false; n];
        let mut support: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); n];
        for _ in 0..rules.max_iterations {
            let fit = GemmOpts { tb: true, ..Default::default() };
            q.gemm(w.residual.rows_view(0..n), w_d, w.fit.rows_mut(0..n), fit)?;
            let (value, index) = (w.value.rows_mut(0..n), w.index.rows_mut(0..n));
            q.topk(w.fit.rows_view(0..n), Select::default(), value, index)?;
            let mut values: Vec<f32> = q.download(w.value.rows_view(0..n))?;
            let mut indices: Vec<u32> = q.download(w.index.rows_view(0..n))?;
            for row in 0..n {
                if done[row] {
                    (values[row], indices[row]) = (0.0, u32::MAX);
                } else if rules.stop_on_duplicate_support {
                    done[row] = indices[row] == u32::MAX || !support[row].insert(indices[row]);
                }
            }
            q.upload(&values, w.value.rows_mut(0..n))?;
            q.upload(&indices, w.index.rows_mut(0..n))?;
            q.map(MapKind::Affine, w.value.rows_view(0..n), -1.0, 0.0, w.minus.rows_mut(0..n))?;
            let best = |vals| SparseView { vals, idx: w.index.rows_view(0..n), ptr: None, n: s };
            q.scatter(best(w.value.rows_view(0..n)), codes.rows_mut(first..first + n), 1.0)?;
            q.sparse_mul(best(w.minus.rows_view(0..n)), w_d, None, w.residual.rows_mut(0..n), 1.0)?;
            if rules.residual_threshold > 0.0 {
                q.reduce_cols(ReduceKind::SumSq, w.residual.rows_view(0..n), w.length.rows_mut(0..n), 0.0)?;
                let squares: Vec<f32> = q.download(w.length.rows_view(0..n))?;
                for (done, square) in done.iter_mut().zip(squares) {
                    *done |= square.sqrt() < rules.residual_threshold;
                }
            }
            if done.iter().all(|d| *d) {
                break;
            }
        }
        Ok(())
    }
}
