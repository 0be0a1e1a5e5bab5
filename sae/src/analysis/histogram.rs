//! Occurrences by activation without knowing the largest one: 64 equal bins that double in width when a value does not fit.
//! Bins start at 0 and widths are powers of two, so the result is the same in any order.

use crate::store::{
    self,
    codec::{In, Out, Read},
};

const BINS: usize = 64;
/// Smaller magnitudes than 2⁻¹⁰⁰ are counted in the first bin.
const SMALLEST_EXPONENT: i32 = -100;

#[derive(Clone)]
pub(super) struct Histogram {
    /// 1 / width; 0 while empty.
    scale: f32,
    counts: [u32; BINS],
}

impl Histogram {
    pub fn new() -> Self {
        Self { scale: 0.0, counts: [0; BINS] }
    }

    /// Counts a finite magnitude above 0.
    pub fn add(&mut self, magnitude: f32) {
        if self.scale == 0.0 {
            // The widest value of the first bin layout is just below 2^(e + 1).
            let e = (((magnitude.to_bits() >> 23) & 0xff) as i32 - 127).max(SMALLEST_EXPONENT);
            self.scale = (BINS as f32 / 2.0) * 2f32.powi(-e);
        }
        while magnitude * self.scale >= BINS as f32 {
            self.scale *= 0.5;
            for i in 0..BINS / 2 {
                self.counts[i] = self.counts[2 * i].saturating_add(self.counts[2 * i + 1]);
            }
            self.counts[BINS / 2..].fill(0);
        }
        let bin = &mut self.counts[(magnitude * self.scale) as usize];
        *bin = bin.saturating_add(1);
    }

    /// As it is stored: without the empty bins at the end.
    pub fn result(&self) -> store::Histogram {
        if self.scale == 0.0 {
            return store::Histogram::default();
        }
        let used = self.counts.iter().rposition(|&n| n > 0).map_or(0, |i| i + 1);
        store::Histogram { width: 1.0 / self.scale, counts: self.counts[..used].to_vec() }
    }

    pub fn write(&self, out: &mut Out) {
        out.float(self.scale);
        out.list(&self.counts, |o, n| o.int((*n).into()));
    }

    pub fn read(i: &mut In<'_>) -> Read<Self> {
        let scale = i.float()?;
        let counts = i.list(In::small)?.try_into().map_err(|_| store::codec::Damaged)?;
        Ok(Self { scale, counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_widen_until_the_largest_value_fits_and_any_order_gives_the_same() {
        let values = [0.3f32, 0.001, 5.0, 63.9, 0.3, 1e-30, 40.0];
        let mut forward = Histogram::new();
        let mut backward = Histogram::new();
        values.iter().for_each(|&v| forward.add(v));
        values.iter().rev().for_each(|&v| backward.add(v));
        let (a, b) = (forward.result(), backward.result());
        assert_eq!(a, b);
        assert_eq!((a.width, a.counts.len()), (1.0, 64));
        assert_eq!((a.counts[0], a.counts[5], a.counts[40], a.counts[63]), (4, 1, 1, 1));
        assert_eq!(a.counts.iter().sum::<u32>(), 7);
    }

    #[test]
    fn extreme_magnitudes_are_counted() {
        let mut h = Histogram::new();
        for v in [f32::MIN_POSITIVE / 4.0, f32::MAX, 1.0] {
            h.add(v);
        }
        assert_eq!(h.result().counts.iter().sum::<u32>(), 3);
    }
}
