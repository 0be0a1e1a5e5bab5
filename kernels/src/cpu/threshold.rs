//! The k-th largest positive entry of a whole matrix, by a histogram of the upper and then the lower half of the bits of its
//! entries: positive floats order as their bits do, and counts do not depend on the order of counting.

use super::{
    Isa, Rows,
    simd::{Simd, per_isa},
    topk::gated,
};
use rayon::prelude::*;

/// The k-th largest `g = x·scale` among those with `g > 0` and a non-zero mask byte, and how many entries equal to it belong to
/// the k largest. (0, 0) when fewer than k are positive, (inf, 0) when k is 0.
///
/// # Safety
/// `x` is live and nobody writes it; the machine has `isa`.
pub unsafe fn threshold(
    isa: Isa,
    x: Rows<f32>,
    scale: Option<&[f32]>,
    mask: Option<&[u8]>,
    k: u64,
) -> (f32, u32) {
    assert!(scale.is_none_or(|s| s.len() == x.cols) && mask.is_none_or(|m| m.len() == x.cols));
    if k == 0 {
        return (f32::INFINITY, 0);
    }
    // SAFETY: the caller's contract.
    let upper = |floor| unsafe { kth(&histogram(isa, x, scale, mask, Bins::Upper(floor)), k) };
    // SAFETY: as above.
    let floor = unsafe { floor(isa, x, scale, mask, k) };
    // A floor that turns out too high leaves fewer than k entries above it.
    let found = upper(floor).or_else(|| if floor > 0.0 { upper(0.0) } else { None });
    let Some((high, rest)) = found else { return (0.0, 0) };
    // SAFETY: as above.
    let lower = unsafe { histogram(isa, x, scale, mask, Bins::Lower(high as u32)) };
    match kth(&lower, rest) {
        Some((low, ties)) => (f32::from_bits((high as u32) << 16 | low as u32), ties as u32),
        None => (0.0, 0),
    }
}

/// One row in this many is looked at to guess where the k-th largest entry is.
const SAMPLE: usize = 32;

/// A value that is likely below the k-th largest entry, and not by far: counting what lies under it would be most of the
/// work. It decides only what is counted, never the result.
///
/// # Safety
/// As [`threshold`].
unsafe fn floor(isa: Isa, x: Rows<f32>, scale: Option<&[f32]>, mask: Option<&[u8]>, k: u64) -> f32 {
    let rows = x.rows / SAMPLE;
    if rows < 4 {
        return 0.0;
    }
    // SAFETY: every SAMPLE-th row of x.
    let upper = unsafe {
        let sample = Rows::new(x.ptr(), rows, x.cols, x.ld * SAMPLE);
        histogram(isa, sample, scale, mask, Bins::Upper(0.0))
    };
    // A quarter more than its share, and room for chance where the share is small.
    let share = k / SAMPLE as u64;
    kth(&upper, share + share / 4 + 64).map_or(0.0, |(bin, _)| below(bin as u32))
}

/// The float just below a bin of upper halves: what exceeds it is in the bin or above.
fn below(bin: u32) -> f32 {
    if bin == 0 { 0.0 } else { f32::from_bits((bin << 16) - 1) }
}

/// What a histogram counts.
#[derive(Clone, Copy)]
enum Bins {
    /// Entries above the floor, by the upper half of their bits.
    Upper(f32),
    /// Those whose upper half is this, by the lower half.
    Lower(u32),
}

/// The bin of the k-th largest entry, and how many of the k lie in it.
fn kth(bins: &[u64], k: u64) -> Option<(usize, u64)> {
    let mut rest = k;
    for (bin, &count) in bins.iter().enumerate().rev() {
        if count >= rest {
            return Some((bin, rest));
        }
        rest -= count;
    }
    None
}

/// Counts of positive entries.
///
/// # Safety
/// As [`threshold`].
unsafe fn histogram(
    isa: Isa,
    x: Rows<f32>,
    scale: Option<&[f32]>,
    mask: Option<&[u8]>,
    which: Bins,
) -> Vec<u64> {
    let step = x.rows.div_ceil(rayon::current_num_threads()).max(1);
    let partial: Vec<Vec<u32>> = (0..x.rows.div_ceil(step))
        .into_par_iter()
        .map(|task| {
            let mut bins = vec![0u32; 1 << 16];
            for r in task * step..((task + 1) * step).min(x.rows) {
                // SAFETY: the row exists, and the caller vouches for the rest.
                unsafe { count_row(isa, x.row(r), scale, mask, which, &mut bins) }
            }
            bins
        })
        .collect();
    let mut total = vec![0u64; 1 << 16];
    for bins in partial {
        total.iter_mut().zip(bins).for_each(|(t, n)| *t += u64::from(n));
    }
    total
}

per_isa! {
    unsafe fn count_row<S>(
        x: &[f32],
        scale: Option<&[f32]>,
        mask: Option<&[u8]>,
        which: Bins,
        bins: &mut [u32],
    ) {
        // SAFETY: the caller checked the lengths.
        unsafe {
            match (scale, mask) {
                (None, None) => count::<S, false, false>(x, x, &[], which, bins),
                (Some(s), None) => count::<S, true, false>(x, s, &[], which, bins),
                (None, Some(m)) => count::<S, false, true>(x, x, m, which, bins),
                (Some(s), Some(m)) => count::<S, true, true>(x, s, m, which, bins),
            }
        }
    }
}

#[inline(always)]
unsafe fn count<S: Simd, const SCALE: bool, const MASK: bool>(
    x: &[f32],
    scale: &[f32],
    mask: &[u8],
    which: Bins,
    bins: &mut [u32],
) {
    let low = match which {
        Bins::Upper(floor) => floor,
        Bins::Lower(high) => below(high),
    };
    let mut tally = |g: f32| {
        let bits = g.to_bits();
        match which {
            Bins::Upper(_) => bins[(bits >> 16) as usize] += 1,
            Bins::Lower(high) if bits >> 16 == high => bins[(bits & 0xffff) as usize] += 1,
            Bins::Lower(_) => {}
        }
    };
    let whole = x.len() / S::N * S::N;
    let (mut found, mut lanes) = ([0u32; 16], [0.0f32; 16]);
    for i in (0..whole).step_by(S::N) {
        // SAFETY: vectors stay inside the row.
        unsafe {
            let g = gated::<S, SCALE, MASK>(x, scale, mask, i);
            let above = S::gt(g, S::splat(low));
            if above != 0 {
                let n = S::positions(above, 0, found.as_mut_ptr());
                S::store(lanes.as_mut_ptr(), g);
                found[..n].iter().for_each(|&l| tally(lanes[l as usize & 15]));
            }
        }
    }
    for i in whole..x.len() {
        let g = if SCALE { x[i] * scale[i] } else { x[i] };
        if g > low && (!MASK || mask[i] != 0) {
            tally(g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cpu::testing::rows_of, philox};

    /// The k-th largest of all entries, and how many of its equals are among the k.
    fn sorted(x: &[f32], k: usize) -> (f32, u32) {
        let mut all: Vec<f32> = x.iter().copied().filter(|&v| v > 0.0).collect();
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        let tau = all[k - 1];
        (tau, all[..k].iter().filter(|&&v| v == tau).count() as u32)
    }

    #[test]
    fn rows_that_mislead_the_guess_do_not_change_the_result() {
        let (rows, n) = (10 * SAMPLE + 3, 40);
        let row_scale: [fn(usize) -> f32; 4] = [
            |_| 1.0,
            |r| if r.is_multiple_of(SAMPLE) { 1000.0 } else { 1.0 },
            |r| if r.is_multiple_of(SAMPLE) { 0.001 } else { 1.0 },
            |r| if r.is_multiple_of(SAMPLE) { -1.0 } else { 1.0 },
        ];
        for scale in row_scale {
            let x: Vec<f32> = (0..rows * n)
                .map(|i| {
                    // Quarters, so that there are ties.
                    let v = (philox::normal(1, i as u64, 0.0, 4.0) * 4.0).round() / 4.0;
                    if scale(i / n) < 0.0 { -v.abs() } else { v * scale(i / n) }
                })
                .collect();
            for (k, isa) in [1, 30, 400, 2000, 5000]
                .into_iter()
                .flat_map(|k| Isa::available().into_iter().map(move |i| (k, i)))
            {
                // SAFETY: a live matrix and an available instruction set.
                let got = unsafe { threshold(isa, rows_of(&x, rows, n), None, None, k) };
                assert_eq!(got, sorted(&x, k as usize), "k {k}, {isa:?}");
            }
        }
    }
}
