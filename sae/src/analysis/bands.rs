//! A draw from every band of peaks, for samples below a limit that is known only at the end. A band is a quarter octave of the
//! peak's magnitude; each keeps the `n` contexts of lowest rank. Drawing by rank makes the union of two draws a draw from
//! the union, so bands far below the maximum can be joined without trace, and the order of the stream does not matter.

use super::feature::Held;
use crate::store::codec::{In, Out, Read};

/// Bands kept apart below that of the maximum: four octaves. The rest is one band.
const APART: i32 = 16;
/// The band of everything lower.
const REST: i32 = 0;

/// Quarter octave of a magnitude: exponent and two bits of the mantissa; above [`REST`] for positive numbers.
fn band_of(peak: f32) -> i32 {
    (peak.to_bits() >> 21) as i32 + 1
}

#[derive(Clone, Default)]
pub(super) struct Bands {
    /// Highest first.
    bands: Vec<(i32, Vec<Held>)>,
}

/// Adds to a draw of `n` by rank, lowest first, building the sample only if it is kept.
pub(super) fn draw(held: &mut Vec<Held>, n: usize, key: (u32, u32), make: impl FnOnce() -> Held) {
    if held.len() >= n && held.last().is_none_or(|last| (last.rank, last.context) <= key) {
        return;
    }
    let at = held.partition_point(|h| (h.rank, h.context) < key);
    held.insert(at, make());
    held.truncate(n);
}

impl Bands {
    pub fn add(&mut self, n: usize, peak: f32, key: (u32, u32), make: impl FnOnce() -> Held) {
        let top = self.bands.first().map_or(REST, |b| b.0);
        let mut band = band_of(peak);
        if band > top {
            self.join_below(n, band - APART);
        } else if band < top - APART {
            band = REST;
        }
        let at = self.bands.partition_point(|b| b.0 > band);
        if self.bands.get(at).is_none_or(|b| b.0 != band) {
            self.bands.insert(at, (band, Vec::new()));
        }
        draw(&mut self.bands[at].1, n, key, make);
    }

    fn join_below(&mut self, n: usize, floor: i32) {
        let kept = self.bands.partition_point(|b| b.0 >= floor);
        let low = self.bands.split_off(kept);
        if low.is_empty() {
            return;
        }
        let mut rest: Vec<Held> = low.into_iter().flat_map(|b| b.1).collect();
        rest.sort_by_key(|h| (h.rank, h.context));
        rest.truncate(n);
        self.bands.push((REST, rest));
    }

    /// Up to `n` samples with peaks of at most `limit`, strongest first.
    pub fn below(&self, n: usize, limit: f32) -> Vec<&Held> {
        let mut all: Vec<&Held> = self.all().filter(|h| h.peak <= limit).collect();
        all.sort_by(|a, b| b.peak.total_cmp(&a.peak).then(a.context.cmp(&b.context)));
        all.truncate(n);
        all
    }

    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.bands.iter().flat_map(|b| &b.1)
    }

    pub fn write(&self, out: &mut Out) {
        out.list(&self.bands, |o, (band, held)| {
            o.int(*band as u64);
            o.list(held, |o, h| h.write(o));
        });
    }

    pub fn read(i: &mut In<'_>) -> Read<Self> {
        let bands = i.list(|i| Ok((i.small()? as i32, i.list(Held::read)?)))?;
        Ok(Self { bands })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(context: u32, peak: f32, rank: u32) -> Held {
        Held { context, peak, rank, acts: Box::new([(0, peak)]) }
    }

    #[test]
    fn any_order_keeps_the_same_contexts() {
        let all: Vec<Held> = (0..500u32)
            .map(|c| held(c, 2f32.powf((c * 37 % 101) as f32 / 10.0 - 4.0), c.wrapping_mul(2_654_435_761)))
            .collect();
        let run = |order: &mut dyn Iterator<Item = &Held>| {
            let mut bands = Bands::default();
            for h in order {
                bands.add(3, h.peak, (h.rank, h.context), || h.clone());
            }
            bands.below(40, 30.0).iter().map(|h| h.context).collect::<Vec<_>>()
        };
        let forward = run(&mut all.iter());
        assert_eq!(forward, run(&mut all.iter().rev()));
        // Three from each quarter octave between 4 and 32, and from the rest; the maximum is 64.
        assert_eq!(forward.len(), 13 * 3);
    }

    #[test]
    fn nothing_above_the_limit_is_returned_and_whole_bands_below_it_are() {
        let mut bands = Bands::default();
        for (c, peak) in [(0, 8.0), (1, 4.0), (2, 4.1), (3, 0.001)] {
            bands.add(2, peak, (c, c), || held(c, peak, c));
        }
        let of = |limit: f32| bands.below(10, limit).iter().map(|h| h.context).collect::<Vec<_>>();
        assert_eq!(of(0.6 * 8.0), [2, 1, 3]);
        assert_eq!(of(4.0), [1, 3]);
        assert_eq!(of(0.0005), [0u32; 0]);
    }
}
