//! The strongest contexts of every feature, collected in one pass over sparse codes.

use super::HostCodes;

/// Where a feature fired.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Activation.
    pub value: f32,
    /// Which context, as counted by the caller.
    pub context: usize,
    /// Token position in the context.
    pub position: usize,
}

/// Keeps, for every feature, how often it fired and its strongest hits, at most one a context.
#[derive(Debug)]
pub struct TopContexts {
    keep: usize,
    rows: u64,
    fired: Vec<u64>,
    /// Per feature, strongest first.
    hits: Vec<Vec<Hit>>,
}

/// What was seen of one feature.
#[derive(Clone, Debug)]
pub struct FeatureSummary {
    /// Feature index.
    pub feature: usize,
    /// Share of tokens on which it fired.
    pub density: f64,
    /// Strongest hits in different contexts, strongest first.
    pub hits: Vec<Hit>,
}

impl TopContexts {
    /// An empty collection over `d_sae` features that keeps `keep` contexts each.
    pub fn new(d_sae: usize, keep: usize) -> Self {
        Self { keep, rows: 0, fired: vec![0; d_sae], hits: vec![Vec::new(); d_sae] }
    }

    /// Adds a batch; `place` names context and position of a row, or `None` for a row that does not count.
    pub fn add(&mut self, codes: &HostCodes, place: impl Fn(usize) -> Option<(usize, usize)>) {
        for r in 0..codes.rows() {
            let Some((context, position)) = place(r) else { continue };
            self.rows += 1;
            for &(feature, value) in codes.row(r) {
                if value > 0.0 {
                    self.fired[feature as usize] += 1;
                    self.keep_hit(feature as usize, Hit { value, context, position });
                }
            }
        }
    }

    fn keep_hit(&mut self, feature: usize, hit: Hit) {
        let hits = &mut self.hits[feature];
        if hits.len() == self.keep && hits.last().is_some_and(|weakest| weakest.value >= hit.value) {
            return;
        }
        match hits.iter().position(|h| h.context == hit.context) {
            Some(same) if hits[same].value >= hit.value => return,
            Some(same) => drop(hits.remove(same)),
            None => {}
        }
        let at = hits.partition_point(|h| h.value >= hit.value);
        hits.insert(at, hit);
        hits.truncate(self.keep);
    }

    /// Share of features that never fired.
    pub fn silent_share(&self) -> f64 {
        let silent = self.fired.iter().filter(|&&n| n == 0).count();
        silent as f64 / self.fired.len().max(1) as f64
    }

    /// Features worth a first look: firing on between 0.02 % and 2 % of tokens (rarer ones are noise in a small sample,
    /// denser ones hard to read), strongest first, at most `n`.
    pub fn choose(&self, n: usize) -> Vec<FeatureSummary> {
        let density = |f: usize| self.fired[f] as f64 / self.rows.max(1) as f64;
        let mut candidates: Vec<usize> = (0..self.fired.len())
            .filter(|&f| (2e-4..=2e-2).contains(&density(f)) && self.hits[f].len() == self.keep)
            .collect();
        let weakest = |f: usize| self.hits[f].last().map_or(0.0, |h| h.value);
        candidates.sort_by(|&a, &b| weakest(b).total_cmp(&weakest(a)).then(a.cmp(&b)));
        candidates
            .into_iter()
            .take(n)
            .map(|feature| FeatureSummary {
                feature,
                density: density(feature),
                hits: self.hits[feature].clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(rows: &[&[(u32, f32)]]) -> HostCodes {
        HostCodes::collect(rows.iter().map(|r| r.iter().copied()))
    }

    #[test]
    fn keeps_the_strongest_hit_of_each_context() {
        let mut top = TopContexts::new(2, 2);
        let batch = codes(&[&[(0, 1.0)], &[(0, 3.0)], &[(0, 2.0), (1, 5.0)], &[(0, 0.5)]]);
        top.add(&batch, |r| Some((r / 2, r % 2)));
        assert_eq!(
            top.hits[0],
            vec![Hit { value: 3.0, context: 0, position: 1 }, Hit { value: 2.0, context: 1, position: 0 }]
        );
        assert_eq!(top.fired, vec![4, 1]);
    }

    #[test]
    fn rows_without_a_place_do_not_count() {
        let mut top = TopContexts::new(1, 1);
        top.add(&codes(&[&[(0, 9.0)], &[(0, 1.0)]]), |r| (r == 1).then_some((0, r)));
        assert_eq!(top.rows, 1);
        assert_eq!(top.hits[0][0].value, 1.0);
        assert_eq!(top.silent_share(), 0.0);
    }
}
