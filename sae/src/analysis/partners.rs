//! Which features are most often active together with one: a count in bounded memory (Space-Saving: Metwally, Agrawal and
//! El Abbadi 2005). Exact while there are no more partners than counters; beyond, the reported count is a lower bound that
//! falls short by at most the least counter.

use crate::store::codec::{Damaged, In, Out, Read};

/// Counters of a feature.
const COUNTERS: usize = 32;

#[derive(Clone)]
pub(super) struct Partners {
    /// Feature + 1; 0 is a free counter.
    ids: [u32; COUNTERS],
    counts: [u32; COUNTERS],
    /// How much of each count may belong to others.
    errors: [u32; COUNTERS],
    /// No count is below this.
    least: u32,
    /// Where the search for a least count goes on: counters near it take turns, so the next one is rarely far.
    next: u32,
}

impl Partners {
    pub fn new() -> Self {
        Self { ids: [0; COUNTERS], counts: [0; COUNTERS], errors: [0; COUNTERS], least: 0, next: 0 }
    }

    /// Counts one token on which `feature` was active too.
    pub fn add(&mut self, feature: u32) {
        let id = feature + 1;
        // Without an early end, so that it is a few vector instructions.
        let mut found = 0u32;
        for (i, &held) in self.ids.iter().enumerate() {
            found |= u32::from(held == id) << i;
        }
        if found != 0 {
            let at = found.trailing_zeros() as usize;
            self.counts[at] = self.counts[at].saturating_add(1);
            return;
        }
        let at = self.least_counter();
        (self.ids[at], self.errors[at], self.counts[at]) = (id, self.least, self.least.saturating_add(1));
        self.next = (at as u32 + 1) % COUNTERS as u32;
    }

    /// A counter with the least count.
    fn least_counter(&mut self) -> usize {
        let turn = |from: u32, least: u32| {
            (0..COUNTERS).map(|i| (from as usize + i) % COUNTERS).find(|&at| self.counts[at] == least)
        };
        if let Some(at) = turn(self.next, self.least) {
            return at;
        }
        let least = self.counts.iter().copied().fold(u32::MAX, u32::min);
        let at = turn(self.next, least).unwrap_or(0);
        self.least = least;
        at
    }

    /// The `n` largest certain counts, largest first, by feature among equals.
    pub fn top(&self, n: usize) -> Vec<(u32, u32)> {
        let certain = |i: usize| self.counts[i] - self.errors[i];
        let mut all: Vec<(u32, u32)> = (0..COUNTERS)
            .filter(|&i| self.ids[i] != 0 && certain(i) > 0)
            .map(|i| (self.ids[i] - 1, certain(i)))
            .collect();
        all.sort_by_key(|&(feature, count)| (std::cmp::Reverse(count), feature));
        all.truncate(n);
        all
    }

    pub fn write(&self, out: &mut Out) {
        for part in [&self.ids, &self.counts, &self.errors] {
            out.list(part, |o, n| o.int((*n).into()));
        }
        out.int(self.least.into());
        out.int(self.next.into());
    }

    pub fn read(i: &mut In<'_>) -> Read<Self> {
        let mut part = || i.list(In::small)?.try_into().map_err(|_| Damaged);
        let (ids, counts, errors) = (part()?, part()?, part()?);
        Ok(Self { ids, counts, errors, least: i.small()?, next: i.small()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_partners_are_counted_exactly() {
        let mut p = Partners::new();
        for i in 0..1000u32 {
            p.add(i % 31 % 7);
        }
        let exact = |f: u32| (0..1000u32).filter(|i| i % 31 % 7 == f).count() as u32;
        let top = p.top(3);
        assert_eq!(top.len(), 3);
        for (f, n) in top {
            assert_eq!(n, exact(f), "{f}");
        }
    }

    #[test]
    fn a_frequent_partner_survives_a_crowd_of_rare_ones_and_counts_never_exceed_the_truth() {
        let mut p = Partners::new();
        for i in 0..20_000u32 {
            p.add(if i % 5 == 0 { 7 } else { 100 + i % 3000 });
        }
        let top = p.top(10);
        assert_eq!(top[0].0, 7);
        assert!((3300..=4000).contains(&top[0].1), "{top:?}");
        assert!(top[1..].iter().all(|&(_, n)| n <= 7), "{top:?}");
    }
}
