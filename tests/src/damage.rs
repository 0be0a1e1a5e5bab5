//! Damages valid files at random, the same way in every run: for tests that reading them never panics.

/// A small generator with a fixed seed (xorshift).
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// One damaged version of `bytes`, which is not empty: a few bytes changed, cut short, a piece removed or repeated.
pub fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (from, length) = (random.below(out.len()), 1 + random.below(16));
    let to = (from + length).min(out.len());
    match random.below(8) {
        0 => out.truncate(from),
        1 => drop(out.drain(from..to)),
        2 => {
            let piece = out[from..to].to_vec();
            out.splice(from..from, piece);
        }
        3 => out[from..to].fill(0xFF),
        4 => out[from..to].fill(0),
        // In text a changed digit or letter reaches further into a parser than a random byte.
        5 => out[from] = b"0123456789-\"{}[]:,.etfn"[random.below(23)],
        _ => {
            for _ in 0..1 + random.below(3) {
                let at = random.below(out.len());
                out[at] ^= 1 << random.below(8);
            }
        }
    }
    out
}
