//! p-annealing (Karvonen et al. 2024): when the exponent of the power-sum penalty falls, its coefficient is rescaled so that the
//! penalty of the batch at hand keeps its size.

use crate::{
    Result,
    dictionary::{Codes, Dictionary},
};
use lm_saes_runtime::{DType, PenaltyArgs, PenaltyKind, Queue};

/// Σ_t w_t Σ_i u^p of the last step for two exponents, the first divided by the second; 1 when nothing was active.
pub(super) fn ratio(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    weight: &[f32],
    exponents: [f64; 2],
) -> Result<f64> {
    let norms = dictionary.decoder_norms(q)?;
    let scale = q.tensor(1, norms.len(), &norms)?;
    let mut sums = [0.0; 2];
    for codes in dictionary.penalised() {
        for (sum, p) in sums.iter_mut().zip(exponents) {
            let args = PenaltyArgs {
                kind: PenaltyKind::PowerSum,
                scale: Some(scale.view()),
                weight: None,
                colgain: None,
                p: p as f32,
                c: 0.0,
            };
            let (rows, shape) = match codes {
                Codes::Dense(f) => (f.rows(), (f.rows(), f.cols())),
                Codes::Sparse(s) => (s.rows(), (s.vals.rows(), s.vals.cols())),
            };
            let (mut out, mut du) = (q.empty(rows, 1, DType::F32)?, q.empty(shape.0, shape.1, DType::F32)?);
            match codes {
                Codes::Dense(f) => q.penalty_dense(f, args, Some(out.view_mut()), &mut du)?,
                Codes::Sparse(s) => q.penalty_sparse(s, args, Some(out.view_mut()), &mut du)?,
            }
            let weight = &weight[weight.len() - rows..];
            let each: Vec<f32> = q.download(&out)?;
            *sum += each.iter().zip(weight).map(|(v, w)| f64::from(*v) * f64::from(*w)).sum::<f64>();
        }
    }
    let data = dictionary.base().mesh.data.clone();
    data.sum_f64(q, &mut sums)?;
    dictionary.share().sum(q, &mut sums)?;
    let ratio = sums[0] / sums[1];
    Ok(if ratio.is_finite() && ratio > 0.0 { ratio } else { 1.0 })
}
