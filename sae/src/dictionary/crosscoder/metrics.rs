//! Metrics of each hook point, and how strong decoders are where their head is active and where only another is (VARIANTS §7).
//! Rows that a mask leaves out do not count.

use super::CrossCoder;
use crate::{Error, Result, dictionary::StepInput, parallel::Axis};
use lm_saes_runtime::{DType, MapKind, Queue, ReduceKind, Reduction, View};
use serde_json::json;

impl CrossCoder {
    pub(super) fn metrics(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        weight: &[f32],
    ) -> Result<Vec<(String, f64)>> {
        let s = self.base.features();
        let (each, any) = self.heads.activity(q, input.mask)?;
        let norms = crate::dictionary::norms_of(q, &self.w_d.value)?;
        let mut all = Vec::new();
        // Norms and numbers of pairs whose head is active, and of those where only another is.
        let mut pairs = [0.0; 4];
        for (head, hook_point) in self.hook_points().iter().enumerate() {
            let own = &each[head * s..(head + 1) * s];
            for i in 0..s {
                let (active, silent) = (f64::from(own[i]), f64::from(any[i]) - f64::from(own[i]));
                let norm = f64::from(norms[head * s + i]);
                let more = [active * norm, active, silent * norm, silent];
                pairs.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            let mut count = [own.iter().map(|&n| f64::from(n)).sum::<f64>()];
            self.base.mesh.model.sum_f64(q, &mut count)?;
            let l0 = count[0] / input.n_tokens.max(1) as f64;
            let y_hat = self.y_hat[head].rows_view(0..self.heads.rows());
            let (y, data) = (input.labels[head], &self.base.mesh.data);
            let (error, spread) = errors(q, data, y, y_hat, input.weight, weight)?;
            let mut put =
                |name: &str, v: f64| all.push((format!("crosscoder_metrics/{hook_point}/{name}"), v));
            put("explained_variance", 1.0 - error / spread);
            put("l0", l0);
            put("l_rec", error);
        }
        all = self.of_all_heads(q, all)?;
        self.base.share.sum(q, &mut pairs)?;
        let mean = |sum: f64, n: f64| if n > 0.0 { sum / n } else { 0.0 };
        let [on, active, off, silent] = pairs;
        for (name, v) in
            [("non_activated_in_activated", mean(off, silent)), ("activated_in_activated", mean(on, active))]
        {
            all.push((format!("crosscoder_metrics/mean_decoder_norm_{name}"), v));
        }
        Ok(all)
    }

    /// The same with what other ranks have of their hook points.
    fn of_all_heads(&self, q: &mut Queue, own: Vec<(String, f64)>) -> Result<Vec<(String, f64)>> {
        let heads = &self.base.mesh.head;
        if heads.is_solo() {
            return Ok(own);
        }
        let bits: Vec<(String, u64)> = own.into_iter().map(|(name, v)| (name, v.to_bits())).collect();
        let all = heads.gather_bytes(q, json!(bits).to_string().as_bytes())?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Vec<(String, u64)>>(bytes);
        let all = all.iter().map(read).collect::<serde_json::Result<Vec<_>>>();
        let all = all.map_err(|e| Error::Data { what: format!("metrics of another rank: {e}") })?;
        Ok(all.into_iter().flatten().map(|(name, v)| (name, f64::from_bits(v))).collect())
    }
}

/// Weighted means of `‖ŷ−y‖²` and `‖y−ȳ‖²`; a label narrower than ŷ counts as padded with zeros.
fn errors(
    q: &mut Queue,
    data: &Axis,
    y: View<'_>,
    y_hat: View<'_>,
    row_weight: View<'_>,
    weight: &[f32],
) -> Result<(f64, f64)> {
    let (rows, narrow) = (y.rows(), y.cols());
    let mut difference = q.empty(rows, y_hat.cols(), DType::F32)?;
    let mut squares = q.empty(rows, 1, DType::F32)?;
    let weighted = |squares: Vec<f32>| -> f64 {
        squares.iter().zip(weight).map(|(&v, &w)| f64::from(v) * f64::from(w)).sum()
    };
    q.copy(y_hat, &mut difference)?;
    q.zip_in_place(MapKind::Add, y, 1.0, -1.0, difference.view_mut().slice_cols(0..narrow))?;
    q.reduce_cols(ReduceKind::SumSq, &difference, &mut squares, 0.0)?;
    let mut sums = [weighted(q.download(&squares)?), 0.0];
    let mut mean = q.empty(1, narrow, DType::F32)?;
    q.reduce_rows(ReduceKind::Sum, y, Some(row_weight), &mut mean, 0.0)?;
    data.all_reduce(q, &mut mean, Reduction::Sum)?;
    let mut part = difference.view_mut().slice_cols(0..narrow);
    q.zip(MapKind::Add, y, &mean, 1.0, -1.0, part.reborrow())?;
    q.reduce_cols(ReduceKind::SumSq, part.as_view(), &mut squares, 0.0)?;
    sums[1] = weighted(q.download(&squares)?);
    data.sum_f64(q, &mut sums)?;
    Ok((sums[0], sums[1]))
}
