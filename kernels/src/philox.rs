//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): counter-based, so element i of a
//! stream is the same number on every device, in any order, without state.

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Block `counter` of stream `seed`: four independent 32-bit words.
pub fn block(seed: u64, counter: u64) -> [u32; 4] {
    let mut c = [counter as u32, (counter >> 32) as u32, 0, 0];
    let mut k = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let p0 = M0 * u64::from(c[0]);
        let p1 = M1 * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

/// Draw `index` of stream `seed`, one 32-bit word: word `index % 4` of block `index / 4`.
pub fn word(seed: u64, index: u64) -> u32 {
    block(seed, index / 4)[(index % 4) as usize]
}

/// A word as a uniform number in [0, 1): its upper 24 bits.
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Draw `index` of a uniform stream on [a, b).
pub fn uniform(seed: u64, index: u64, a: f32, b: f32) -> f32 {
    a + (b - a) * unit(word(seed, index))
}

/// Draw `index` of a normal stream (Box–Muller in f64): draws 2i and 2i+1 share the words (0, 1) or (2, 3) of their block.
pub fn normal(seed: u64, index: u64, mean: f32, std: f32) -> f32 {
    let words = block(seed, index / 4);
    let pair = (index % 4 / 2 * 2) as usize;
    // (w + 0.5) / 2^32 is never 0, so the logarithm is finite.
    let u = (f64::from(words[pair]) + 0.5) / 4_294_967_296.0;
    let angle = std::f64::consts::TAU * f64::from(words[pair + 1]) / 4_294_967_296.0;
    let radius = (-2.0 * u.ln()).sqrt();
    let z = if index.is_multiple_of(2) { radius * angle.cos() } else { radius * angle.sin() };
    mean + std * z as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_test_vectors() {
        // Random123's known-answer vectors for philox4x32-10 with counter and key all zero.
        assert_eq!(block(0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn uniform_stays_in_range() {
        assert!((0..10_000).map(|i| uniform(7, i, -1.0, 1.0)).all(|v| (-1.0..1.0).contains(&v)));
    }
}
