//! Which features are active together: the features of a random sample of tokens, from which shares are counted when all
//! tokens have passed. The sample is uniform and a function of the seed alone, so shares are unbiased, and they are exact while
//! all tokens fit. (Counting every pair takes d_sae² counters; bounded counters per feature, such as Space-Saving's, lose
//! everything where a feature has many partners of like frequency, as with tens of active features a token it always has.)

use super::analyzer::rank;
use crate::store::codec::{Damaged, In, Out, Read};
use std::{io, sync::OnceLock};

/// Entries kept: 84 thousand tokens with 50 active features each.
const ENTRIES: usize = 1 << 22;

/// A token of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Token {
    /// Random; kept are the lowest.
    rank: u32,
    /// Which token of the stream.
    number: u64,
    /// Where its features begin, and how many there are.
    start: u32,
    len: u32,
}

/// The sample.
pub(super) struct Partners {
    seed: u64,
    most: usize,
    tokens: Vec<Token>,
    /// Features of the tokens, each token's in one piece.
    features: Vec<u32>,
    /// Tokens from this rank and number on are not kept.
    limit: (u32, u64),
    by_feature: OnceLock<ByFeature>,
}

/// Tokens of the sample by feature.
struct ByFeature {
    ptr: Vec<u32>,
    tokens: Vec<u32>,
}

impl Partners {
    pub fn new(seed: u64) -> Self {
        Self::holding(seed, ENTRIES)
    }

    /// A sample of up to `most` entries.
    fn holding(seed: u64, most: usize) -> Self {
        let limit = (u32::MAX, u64::MAX);
        let (tokens, features) = (Vec::new(), Vec::new());
        // Another draw than those of contexts.
        Self { seed: seed ^ 0x7061_6972, most, tokens, features, limit, by_feature: OnceLock::new() }
    }

    /// Host bytes with `l0` features active on each of `tokens` tokens; and what more is needed while partners are counted.
    pub fn bytes(l0: f64, tokens: u64) -> (f64, f64) {
        let entries = (tokens as f64 * l0).min(2.0 * ENTRIES as f64);
        (entries * 4.0 + entries / l0.max(1.0) * size_of::<Token>() as f64, entries * 4.0)
    }

    /// Sees token `number` of the stream with these features.
    pub fn add(&mut self, number: u64, features: impl Iterator<Item = u32>) {
        let key = (rank(self.seed ^ (number >> 32), number as u32), number);
        if key >= self.limit {
            return;
        }
        self.by_feature = OnceLock::new();
        if self.features.capacity() == 0 {
            // All there will be, which takes no memory until it is used: growing would move it, and leave holes behind.
            self.features.reserve_exact(2 * self.most);
        }
        let start = self.features.len();
        self.features.extend(features);
        let len = (self.features.len() - start) as u32;
        // It says nothing of any feature.
        if len == 0 {
            return;
        }
        self.tokens.push(Token { rank: key.0, number, start: start as u32, len });
        if self.features.len() >= 2 * self.most {
            self.prune();
        }
    }

    /// Keeps the longest run of lowest ranks that fits. What is dropped would not fit after more tokens either, so the sample
    /// does not depend on when this happens.
    fn prune(&mut self) {
        self.tokens.sort_unstable();
        let mut entries = 0;
        let fit = self.tokens.iter().position(|t| {
            entries += t.len as usize;
            entries > self.most
        });
        if let Some(fit) = fit {
            self.limit = (self.tokens[fit].rank, self.tokens[fit].number);
            self.tokens.truncate(fit);
        }
        // In the order of the stream again, in which features can move down where they are.
        self.tokens.sort_unstable_by_key(|t| t.start);
        let mut end = 0;
        for t in &mut self.tokens {
            let start = t.start as usize;
            self.features.copy_within(start..start + t.len as usize, end);
            t.start = end as u32;
            end += t.len as usize;
        }
        self.features.truncate(end);
    }

    /// The `n` features most often active with `feature`, of `d_sae`, most frequent first, by feature among equals: each with the share
    /// of its tokens.
    pub fn of(&self, feature: u32, d_sae: usize, n: usize) -> Vec<(u32, f32)> {
        if n == 0 {
            return Vec::new();
        }
        let index = self.by_feature.get_or_init(|| ByFeature::new(&self.tokens, &self.features, d_sae));
        let tokens = index.of(feature);
        let mut times = vec![0u32; d_sae];
        for t in tokens.iter().map(|&t| self.tokens[t as usize]) {
            for &other in &self.features[t.start as usize..][..t.len as usize] {
                times[other as usize] += 1;
            }
        }
        let partners = (0u32..).zip(times).filter(|&(other, n)| n > 0 && other != feature);
        let mut counts: Vec<(u32, u32)> = partners.collect();
        counts.sort_by_key(|&(other, n)| (std::cmp::Reverse(n), other));
        counts.truncate(n);
        counts.into_iter().map(|(other, n)| (other, n as f32 / tokens.len() as f32)).collect()
    }

    /// Writes to `w` piece by piece: all of it at once would take more memory than the sample itself.
    pub fn write(&self, out: &mut Out, w: &mut dyn io::Write) -> io::Result<()> {
        out.int(self.limit.0.into());
        out.int(self.limit.1);
        out.int(self.tokens.len() as u64);
        for t in &self.tokens {
            out.int(t.rank.into());
            out.int(t.number);
            out.list(&self.features[t.start as usize..][..t.len as usize], |o, f| o.int((*f).into()));
            out.flush(w)?;
        }
        out.flush(w)
    }

    /// What [`Partners::write`] wrote, of a dictionary of `d_sae` features.
    pub fn read(i: &mut In<'_>, seed: u64, d_sae: usize) -> Read<Self> {
        let mut it = Self::new(seed);
        it.limit = (i.small()?, i.int()?);
        let features = &mut it.features;
        it.tokens = i.list(|i| {
            let (rank, number, own) = (i.small()?, i.int()?, i.list(In::small)?);
            let (start, len) = (features.len() as u32, own.len() as u32);
            features.extend(own);
            Ok(Token { rank, number, start, len })
        })?;
        if it.features.iter().any(|&f| f as usize >= d_sae) {
            return Err(Damaged);
        }
        Ok(it)
    }
}

impl ByFeature {
    fn new(tokens: &[Token], features: &[u32], d_sae: usize) -> Self {
        let of = |t: &Token| &features[t.start as usize..][..t.len as usize];
        let mut ptr = vec![0u32; d_sae + 1];
        tokens.iter().flat_map(of).for_each(|&f| ptr[f as usize + 1] += 1);
        for i in 0..d_sae {
            ptr[i + 1] += ptr[i];
        }
        let mut next = ptr.clone();
        let mut sorted = vec![0u32; ptr[d_sae] as usize];
        for (i, t) in tokens.iter().enumerate() {
            for &f in of(t) {
                sorted[next[f as usize] as usize] = i as u32;
                next[f as usize] += 1;
            }
        }
        Self { ptr, tokens: sorted }
    }

    fn of(&self, feature: u32) -> &[u32] {
        &self.tokens[self.ptr[feature as usize] as usize..self.ptr[feature as usize + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Features 0 and 1 always together, 2 with them on every fourth token, and a crowd of 90 of which each token has 30.
    fn token(number: u64) -> impl Iterator<Item = u32> {
        let crowd = (0..30).map(move |i| 10 + ((number * 7 + i * 3) % 90) as u32);
        [0, 1].into_iter().chain(number.is_multiple_of(4).then_some(2)).chain(crowd)
    }

    #[test]
    fn shares_are_exact_while_all_tokens_fit() {
        let mut p = Partners::new(1);
        (0..1000).for_each(|n| p.add(n, token(n)));
        assert_eq!(p.of(0, 100, 1), [(1, 1.0)]);
        assert_eq!(p.of(2, 100, 2), [(0, 1.0), (1, 1.0)]);
        assert_eq!(p.of(1, 100, 100).iter().find(|e| e.0 == 2), Some(&(2, 0.25)));
        assert_eq!(p.of(5, 100, 3), [], "a feature that never fired has no partners");
    }

    #[test]
    fn tokens_on_which_nothing_is_active_take_no_room() {
        let mut p = Partners::new(1);
        (0..1000).for_each(|n| p.add(n, [0, 1].into_iter().filter(|_| n % 100 == 0)));
        assert_eq!((p.tokens.len(), p.features.len()), (10, 20));
        assert_eq!(p.of(0, 2, 2), [(1, 1.0)]);
    }

    #[test]
    fn a_sample_keeps_the_shares_of_features_with_many_partners() {
        let mut p = Partners::holding(3, 40_000);
        (0..50_000).for_each(|n| p.add(n, token(n)));
        assert!(p.features.len() < 80_000);
        let of_1 = p.of(0, 100, 100);
        assert_eq!(of_1[0], (1, 1.0));
        // About 1200 tokens: four standard errors are 0.05 at a share of 0.25, 0.055 at 1/3.
        let share = |f| of_1.iter().find(|e| e.0 == f).expect("a partner").1;
        assert!((share(2) - 0.25).abs() < 0.05, "{}", share(2));
        for f in 10..100 {
            assert!((share(f) - 1.0 / 3.0).abs() < 0.055, "{f}: {}", share(f));
        }
    }

    #[test]
    fn the_sample_depends_on_neither_batches_nor_a_saved_state_in_between() {
        let mut whole = Partners::holding(3, 5_000);
        (0..9_000).for_each(|n| whole.add(n, token(n)));
        let mut first = Partners::holding(3, 5_000);
        (0..4_321).for_each(|n| first.add(n, token(n)));
        first.prune();
        let mut out = Out::new();
        let mut bytes = Vec::new();
        first.write(&mut out, &mut bytes).expect("memory");
        let mut second = Partners::read(&mut In::new(&bytes).unwrap(), 3, 100).unwrap();
        second.most = 5_000;
        (4_321..9_000).for_each(|n| second.add(n, token(n)));
        whole.prune();
        second.prune();
        assert_eq!(whole.tokens, second.tokens);
        assert_eq!(whole.features, second.features);
    }
}
