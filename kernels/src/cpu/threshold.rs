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
    let upper = unsafe { histogram(isa, x, scale, mask, None) };
    let Some((high, rest)) = kth(&upper, k) else { return (0.0, 0) };
    // SAFETY: as above.
    let lower = unsafe { histogram(isa, x, scale, mask, Some(high as u32)) };
    match kth(&lower, rest) {
        Some((low, ties)) => (f32::from_bits((high as u32) << 16 | low as u32), ties as u32),
        None => (0.0, 0),
    }
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

/// Positive entries by the upper half of their bits, or by the lower half of those whose upper half is `high`.
unsafe fn histogram(
    isa: Isa,
    x: Rows<f32>,
    scale: Option<&[f32]>,
    mask: Option<&[u8]>,
    high: Option<u32>,
) -> Vec<u64> {
    let step = x.rows.div_ceil(rayon::current_num_threads()).max(1);
    let partial: Vec<Vec<u32>> = (0..x.rows.div_ceil(step))
        .into_par_iter()
        .map(|task| {
            let mut bins = vec![0u32; 1 << 16];
            for r in task * step..((task + 1) * step).min(x.rows) {
                // SAFETY: the row exists, and the caller vouches for the rest.
                unsafe { count_row(isa, x.row(r), scale, mask, high, &mut bins) }
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
        high: Option<u32>,
        bins: &mut [u32],
    ) {
        // SAFETY: the caller checked the lengths.
        unsafe {
            match (scale, mask) {
                (None, None) => count::<S, false, false>(x, x, &[], high, bins),
                (Some(s), None) => count::<S, true, false>(x, s, &[], high, bins),
                (None, Some(m)) => count::<S, false, true>(x, x, m, high, bins),
                (Some(s), Some(m)) => count::<S, true, true>(x, s, m, high, bins),
            }
        }
    }
}

#[inline(always)]
unsafe fn count<S: Simd, const SCALE: bool, const MASK: bool>(
    x: &[f32],
    scale: &[f32],
    mask: &[u8],
    high: Option<u32>,
    bins: &mut [u32],
) {
    // The float just below the bucket: what exceeds it is in the bucket or above.
    let low = high.filter(|&h| h > 0).map_or(0.0, |h| f32::from_bits((h << 16) - 1));
    let mut tally = |g: f32| {
        let bits = g.to_bits();
        match high {
            None => bins[(bits >> 16) as usize] += 1,
            Some(h) if bits >> 16 == h => bins[(bits & 0xffff) as usize] += 1,
            Some(_) => {}
        }
    };
    let whole = x.len() / S::N * S::N;
    let (mut found, mut lanes) = ([0u32; 16], [0.0f32; 16]);
    for i in (0..whole).step_by(S::N) {
        // SAFETY: vectors stay inside the row.
        unsafe {
            let g = gated::<S, SCALE, MASK>(x, scale, mask, i);
            let n = S::positions(S::gt(g, S::splat(low)), 0, found.as_mut_ptr());
            if n > 0 {
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
