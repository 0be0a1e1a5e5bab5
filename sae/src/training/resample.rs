//! Resampling of dead features (Bricken et al. 2023, Anthropic): each starts again from an input of the batch, drawn with
//! probability in proportion to its squared loss, so that it takes up what the dictionary explains worst.

use super::optimizer::Optimizer;
use crate::{
    Error, Result,
    data::random::{Use, unit},
    dictionary::{DeadFeatures, Dictionary, StepInput},
    settings::TrainerSettings,
};
use lm_saes_runtime::{DType, MapKind, Queue, ReduceKind, View};

/// Gives every dead feature a new start from the last step's batch and forgets its optimiser state; returns how many there were.
/// The draw depends on seed, step and feature alone. `weight` is `input.weight` on the host.
///
/// # Errors
/// A variant that has no such start, or several inputs or outputs.
pub(super) fn resample(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    optimizer: &mut Optimizer,
    dead: &mut DeadFeatures,
    (input, weight): (&StepInput<'_>, &[f32]),
    settings: &TrainerSettings,
    step: u64,
) -> Result<u64> {
    let flags: Vec<u8> = q.download(&dead.dead)?;
    if flags.iter().all(|&d| d == 0) {
        return Ok(0);
    }
    let ([x], [y]) = (&input.inputs[..], &input.labels[..]) else {
        let what = "needs one hook point in and one out; set it to 0";
        return Err(Error::setting("trainer.resample_frequency", what));
    };
    let norm = settings.resample_encoder_scale as f32 * mean_of_living(&dictionary.encoder_norms(q)?, &flags);
    let chances = cumulative(q, &*dictionary, *y, weight)?;
    let total = chances.last().copied().unwrap_or(0.0);
    if !(total > 0.0 && total.is_finite()) {
        return Ok(0);
    }
    let mut since: Vec<u32> = q.download(&dead.since)?;
    let mut count = 0;
    for i in (0..flags.len()).filter(|&i| flags[i] != 0) {
        let draw = unit(settings.resample_seed, Use::Resample, step << 32 | i as u64) * total;
        let row = chances.partition_point(|&c| c <= draw).min(chances.len() - 1);
        let at = |v: &View<'_>, q: &mut Queue| q.download::<f32>(v.slice_rows(row..row + 1));
        let (x, y) = (at(x, q)?, at(y, q)?);
        let set = dictionary.resample(q, i, (&x, &y), norm)?;
        optimizer.forget(q, &set, i)?;
        since[i] = 0;
        count += 1;
    }
    q.upload(&since, &mut dead.since)?;
    Ok(count)
}

/// Mean encoder norm of living features, or of all when none lives.
fn mean_of_living(norms: &[f32], dead: &[u8]) -> f32 {
    let living: Vec<f32> = norms.iter().zip(dead).filter(|(_, d)| **d == 0).map(|(n, _)| *n).collect();
    let counted = if living.is_empty() { norms } else { &living };
    counted.iter().sum::<f32>() / counted.len().max(1) as f32
}

/// Running sums over rows that count of ‖ŷ − y‖⁴, the square of the loss.
fn cumulative(q: &mut Queue, dictionary: &dyn Dictionary, y: View<'_>, weight: &[f32]) -> Result<Vec<f64>> {
    let mut squares = q.empty(y.rows(), 1, DType::F32)?;
    let mut error = q.empty(y.rows(), y.cols(), DType::F32)?;
    for y_hat in dictionary.reconstruction() {
        q.zip(MapKind::Add, y_hat, y, 1.0, -1.0, &mut error)?;
    }
    q.reduce_cols(ReduceKind::SumSq, &error, &mut squares, 0.0)?;
    let losses: Vec<f32> = q.download(&squares)?;
    let mut sum = 0.0;
    let mut add = |(loss, w): (&f32, &f32)| {
        sum += if *w > 0.0 { f64::from(*loss).powi(2) } else { 0.0 };
        sum
    };
    Ok(losses.iter().zip(weight).map(&mut add).collect())
}
