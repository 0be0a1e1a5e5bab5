//! Resampling of dead features (Bricken et al. 2023, Anthropic): each starts again from an input of the batch, drawn with
//! probability in proportion to its squared loss, so that it takes up what the dictionary explains worst.

use super::optimizer::Optimizer;
use crate::{
    Error, Result,
    data::random::{Use, unit},
    dictionary::{DeadFeatures, Dictionary, Share, StepInput},
    parallel::Axis,
    settings::TrainerSettings,
};
use lm_saes_runtime::{DType, MapKind, Queue, ReduceKind, View};
use std::ops::Range;

/// Features whose new starts are held at once.
const AT_ONCE: usize = 256;

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
    let (norms, share) = (dictionary.encoder_norms(q)?, dictionary.share().clone());
    let (living, total_dead) = survey(q, &share, &norms, &flags)?;
    if total_dead == 0 {
        return Ok(0);
    }
    let ([x], [y]) = (&input.inputs[..], &input.labels[..]) else {
        let what = "needs one hook point in and one out; set it to 0";
        return Err(Error::setting("trainer.resample_frequency", what));
    };
    let norm = settings.resample_encoder_scale as f32 * living;
    let data = dictionary.base().mesh.data.clone();
    let own = squared_losses(q, &*dictionary, *y, weight)?;
    let squares = data.gather_bytes(q, &bytes_of(&own))?;
    let (chances, own) = cumulative(&squares, data.rank());
    let total = chances.last().copied().unwrap_or(0.0);
    if !(total > 0.0 && total.is_finite()) {
        return Ok(0);
    }
    let mut since: Vec<u32> = q.download(&dead.since)?;
    let drawn: Vec<(usize, usize)> = (0..flags.len())
        .filter(|&i| flags[i] != 0)
        .map(|i| {
            let draw =
                unit(settings.resample_seed, Use::Resample, step << 32 | share.global(i) as u64) * total;
            (i, chances.partition_point(|&c| c <= draw).min(chances.len() - 1))
        })
        .collect();
    for some in drawn.chunks(AT_ONCE) {
        let rows = fetch(q, &data, &own, some, (*x, *y))?;
        for (&(i, _), row) in some.iter().zip(rows.chunks_exact(x.cols() + y.cols())) {
            let set = dictionary.resample(q, i, row.split_at(x.cols()), norm)?;
            optimizer.forget(q, &set, i)?;
            since[i] = 0;
        }
    }
    q.upload(&since, &mut dead.since)?;
    Ok(total_dead)
}

/// Inputs and labels, one after the other, of the rows drawn; each comes from the rank that holds it, whose rows are `own`.
fn fetch(
    q: &mut Queue,
    data: &Axis,
    own: &Range<usize>,
    drawn: &[(usize, usize)],
    (x, y): (View<'_>, View<'_>),
) -> Result<Vec<f32>> {
    let mut mine = Vec::new();
    for (place, &(_, row)) in (0u32..).zip(drawn).filter(|(_, (_, row))| own.contains(row)) {
        mine.extend(place.to_le_bytes());
        for v in [x, y] {
            let r = row - own.start;
            let values: Vec<f32> = q.download(v.slice_rows(r..r + 1))?;
            mine.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
    }
    let width = x.cols() + y.cols();
    let mut all = vec![0.0; drawn.len() * width];
    for words in data.gather_bytes(q, &mine)?.iter().flat_map(|b| b.chunks_exact(4 * (1 + width))) {
        let mut words = words.as_chunks::<4>().0.iter();
        let place = words.next().map_or(0, |w| u32::from_le_bytes(*w)) as usize;
        let to = all[place * width..(place + 1) * width].iter_mut();
        to.zip(words).for_each(|(to, w)| *to = f32::from_le_bytes(*w));
    }
    Ok(all)
}

fn bytes_of(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Mean encoder norm of living features, or of all when none lives, and how many are dead, over all parts of the dictionary.
fn survey(q: &mut Queue, share: &Share, norms: &[f32], dead: &[u8]) -> Result<(f32, u64)> {
    // Sums and counts of the living and of all.
    let mut sums = [0.0; 4];
    for (norm, dead) in norms.iter().map(|n| f64::from(*n)).zip(dead) {
        let living = f64::from(u8::from(*dead == 0));
        sums.iter_mut().zip([norm * living, living, norm, 1.0]).for_each(|(sum, v)| *sum += v);
    }
    share.sum(q, &mut sums)?;
    let [living, n_living, all, n] = sums;
    let mean = if n_living > 0.0 { living / n_living } else { all / n.max(1.0) };
    Ok((mean as f32, (n - n_living) as u64))
}

/// Running sums over the rows of all ranks, and which of those are this rank's.
fn cumulative(parts: &[Vec<u8>], rank: usize) -> (Vec<f64>, Range<usize>) {
    let rows = |parts: &[Vec<u8>]| parts.iter().map(|p| p.len() / 8).sum::<usize>();
    let mut sum = 0.0;
    let values = parts.iter().flat_map(|p| p.as_chunks::<8>().0);
    let sums = values.map(|v| {
        sum += f64::from_le_bytes(*v);
        sum
    });
    (sums.collect(), rows(&parts[..rank])..rows(&parts[..rank + 1]))
}

/// ‖ŷ − y‖⁴, the square of the loss, of each row that counts, and 0 of the others.
fn squared_losses(
    q: &mut Queue,
    dictionary: &dyn Dictionary,
    y: View<'_>,
    weight: &[f32],
) -> Result<Vec<f64>> {
    let mut squares = q.empty(y.rows(), 1, DType::F32)?;
    let mut error = q.empty(y.rows(), y.cols(), DType::F32)?;
    for y_hat in dictionary.reconstruction() {
        q.zip(MapKind::Add, y_hat, y, 1.0, -1.0, &mut error)?;
    }
    q.reduce_cols(ReduceKind::SumSq, &error, &mut squares, 0.0)?;
    let losses: Vec<f32> = q.download(&squares)?;
    let square = |(loss, w): (&f32, &f32)| if *w > 0.0 { f64::from(*loss).powi(2) } else { 0.0 };
    Ok(losses.iter().zip(weight).map(square).collect())
}
