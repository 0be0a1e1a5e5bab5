//! Counter-based random numbers for the order of data: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", 2011). A draw depends only on seed and counters, so a position in the data needs no generator state.

const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// What a number decides; different uses of one seed never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Which source the next model batch comes from.
    Source = 1,
    /// The order of the rows in a shuffle buffer.
    Shuffle = 2,
    /// The order of the records of a source.
    Records = 3,
    /// The input a dead feature starts from again.
    Resample = 4,
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = MULTIPLIERS[0] * u64::from(counter[0]);
        let b = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// Two independent 64-bit numbers: draw `index` of stream `stream`.
fn pair(seed: u64, of: Use, stream: u64, index: u32) -> [u64; 2] {
    let counter = [index, stream as u32, (stream >> 32) as u32, of as u32];
    let w = philox(counter, [seed as u32, (seed >> 32) as u32]).map(u64::from);
    [w[0] | w[1] << 32, w[2] | w[3] << 32]
}

/// A number in [0, 1) with 53 random bits.
pub fn unit(seed: u64, of: Use, stream: u64) -> f64 {
    (pair(seed, of, stream, 0)[0] >> 11) as f64 / (1u64 << 53) as f64
}

/// A uniformly drawn permutation of `0..n` (Fisher–Yates).
pub fn permutation(seed: u64, stream: u64, n: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        let word = pair(seed, Use::Shuffle, stream, (i / 2) as u32)[i % 2];
        // The high half of word·(i+1) is uniform on 0..=i up to 2⁻⁶⁴·n.
        let j = ((u128::from(word) * (i as u128 + 1)) >> 64) as usize;
        all.swap(i, j);
    }
    all
}

/// Place `index` of a random order of `0..n`, without building the order: a Feistel network over the smallest even number of
/// bits that holds `n`, walked until it lands below `n`.
pub fn shuffled_index(seed: u64, stream: u64, n: u64, index: u64) -> u64 {
    let half = (u64::BITS - n.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let low = (1u64 << half) - 1;
    let mut at = index;
    loop {
        let (mut left, mut right) = (at >> half, at & low);
        for round in 0..6u64 {
            // Half of at most 64 bits, so a round's input fits the draw's 32-bit index.
            let word = pair(seed, Use::Records, stream << 3 | round, right as u32)[0];
            (left, right) = (right, left ^ (word & low));
        }
        at = left << half | right;
        if at < n {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let published = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), published);
    }

    #[test]
    fn every_permutation_of_four_is_about_equally_frequent() {
        let mut counts = std::collections::HashMap::new();
        for stream in 0..24_000 {
            *counts.entry(permutation(7, stream, 4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        // Binomial with mean 1000 and standard deviation 31.
        assert!(counts.values().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    #[test]
    fn a_permutation_depends_on_seed_and_stream_only() {
        assert_eq!(permutation(1, 2, 50), permutation(1, 2, 50));
        assert_ne!(permutation(1, 2, 50), permutation(1, 3, 50));
        assert_ne!(permutation(1, 2, 50), permutation(2, 2, 50));
        assert!(permutation(1, 2, 0).is_empty());
    }

    #[test]
    fn every_place_of_a_random_order_is_taken_once() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000, 4096] {
            let mut all: Vec<u64> = (0..n).map(|i| shuffled_index(7, 3, n, i)).collect();
            assert!(n < 10 || all.iter().enumerate().filter(|&(i, &at)| i as u64 == at).count() < 8);
            all.sort_unstable();
            assert!(all == (0..n).collect::<Vec<_>>(), "{n}");
        }
        let big = 3_000_000_000_000;
        assert!((0..100).all(|i| shuffled_index(1, 0, big, i) < big));
    }

    #[test]
    fn random_orders_are_about_equally_frequent() {
        let mut counts = std::collections::HashMap::new();
        for stream in 0..24_000 {
            let order: Vec<u64> = (0..4).map(|i| shuffled_index(9, stream, 4, i)).collect();
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|c| (800..1200).contains(c)), "{counts:?}");
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mean = (0..10_000).map(|i| unit(3, Use::Source, i)).sum::<f64>() / 1e4;
        assert!((0..10_000).all(|i| (0.0..1.0).contains(&unit(3, Use::Source, i))));
        assert!((mean - 0.5).abs() < 0.015, "{mean}");
    }
}
