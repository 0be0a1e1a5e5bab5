//! A slow count of everything, on data small enough to keep it all.

use lm_saes::{
    analysis::NON_ACTIVATING,
    store::{FeatureAnalysis, Sample, Sampling},
};
use std::collections::BTreeMap;

/// Numbers that look random and are the same everywhere.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Everything, kept: contexts of `len` tokens.
pub struct Data {
    pub d_sae: usize,
    pub len: usize,
    pub rows: Vec<Vec<(u32, f32)>>,
    pub tokens: Vec<u32>,
    pub mask: Vec<u8>,
}

impl Data {
    pub fn contexts(&self) -> u32 {
        (self.rows.len() / self.len) as u32
    }

    /// Tokens that count.
    pub fn counted(&self) -> u64 {
        self.mask.iter().filter(|&&m| m == 1).count() as u64
    }

    /// The activations of a feature by context.
    pub fn by_context(&self, feature: u32) -> BTreeMap<u32, Vec<(u32, f32)>> {
        let mut all: BTreeMap<u32, Vec<(u32, f32)>> = BTreeMap::new();
        for (r, row) in self.rows.iter().enumerate().filter(|(r, _)| self.mask[*r] != 0) {
            for &(_, v) in row.iter().filter(|e| e.0 == feature) {
                all.entry((r / self.len) as u32).or_default().push(((r % self.len) as u32, v));
            }
        }
        all
    }
}

pub fn peak(acts: &[(u32, f32)]) -> f32 {
    acts.iter().fold(0.0, |m, e| m.max(e.1.abs()))
}

pub fn sampling<'a>(f: &'a FeatureAnalysis, name: &str) -> &'a [Sample] {
    &f.samplings.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no sampling {name}")).samples
}

/// Compares everything the pass found of a feature, where there was room to keep every context, with the slow count: samplings
/// `top_activations`, `subsampling_60%` and `non_activating`, four quantiles, five partners.
pub fn compare(f: &FeatureAnalysis, d: &Data, whose: &str) {
    let feature = f.index;
    let whose = &format!("{whose}, feature {feature}");
    let truth = d.by_context(feature);
    let values: Vec<f32> = truth.values().flatten().map(|e| e.1.abs()).collect();
    let max = values.iter().copied().fold(0.0, f32::max);
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
    assert_eq!(f.act_times, values.len() as u64, "{whose}");
    assert_eq!(f.max_act, max, "{whose}");
    assert!((f64::from(f.mean_act) - mean).abs() < 1e-6 * mean.max(1.0), "{whose}");
    assert_eq!(f.n_contexts, truth.len() as u64, "{whose}");
    histogram_is_right(f, &values);
    samples_are_right(f, &truth, max, whose);
    if truth.is_empty() {
        let none = f.samplings.iter().all(|s| s.samples.is_empty());
        assert!(none, "{whose}: a feature that never fired has no samples");
    } else {
        let mut silent: Vec<u32> = sampling(f, NON_ACTIVATING).iter().map(|s| s.context).collect();
        silent.sort_unstable();
        let seen = |c: &u32| (0..d.len).any(|t| d.mask[*c as usize * d.len + t] != 0);
        let truth: Vec<u32> = (0..d.contexts()).filter(|c| !truth.contains_key(c) && seen(c)).collect();
        assert_eq!(silent, truth, "{whose}");
    }
    coactivations_are_right(f, d, values.len());
}

fn samples_are_right(f: &FeatureAnalysis, truth: &BTreeMap<u32, Vec<(u32, f32)>>, max: f32, whose: &str) {
    let mut best: Vec<(&u32, &Vec<(u32, f32)>)> = truth.iter().collect();
    best.sort_by(|x, y| peak(y.1).total_cmp(&peak(x.1)).then(x.0.cmp(y.0)));
    let as_samples = |all: &[(&u32, &Vec<(u32, f32)>)]| -> Vec<(u32, Vec<(u32, f32)>)> {
        all.iter().map(|(c, acts)| (**c, (*acts).clone())).collect()
    };
    let found = |all: &[Sample]| -> Vec<(u32, Vec<(u32, f32)>)> {
        all.iter().map(|s| (s.context, s.acts.clone())).collect()
    };
    assert_eq!(found(sampling(f, "top_activations")), as_samples(&best), "{whose}");
    let below: Vec<_> = best.iter().copied().filter(|e| peak(e.1) <= 0.6 * max).collect();
    assert_eq!(found(sampling(f, "subsampling_60%")), as_samples(&below), "{whose}");
    let groups: Vec<Sampling> =
        f.samplings.iter().filter(|s| s.name.starts_with("quantile")).cloned().collect();
    assert_eq!(
        groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(),
        ["quantile_75_100", "quantile_50_75", "quantile_25_50", "quantile_0_25"]
    );
    let drawn: Vec<Sample> = groups.iter().flat_map(|g| g.samples.clone()).collect();
    assert_eq!(found(&drawn), as_samples(&best), "{whose}: the groups in order are all contexts by peak");
    for g in &groups {
        let share = best.len() as f64 / 4.0;
        let n = g.samples.len();
        assert!((n as f64 - share).abs() < 1.0, "{whose}, {}: {n} of {}", g.name, best.len());
    }
}

fn histogram_is_right(f: &FeatureAnalysis, values: &[f32]) {
    let h = &f.histogram;
    assert_eq!(h.counts.iter().map(|&n| n as usize).sum::<usize>(), values.len(), "feature {}", f.index);
    for (i, &n) in h.counts.iter().enumerate() {
        let inside = |v: &&f32| (**v / h.width) as usize == i;
        assert_eq!(values.iter().filter(inside).count(), n as usize, "feature {} bin {i}", f.index);
    }
    if let Some(&last) = h.counts.last() {
        assert!(last > 0 && h.counts.len() > 16, "feature {}: {} bins", f.index, h.counts.len());
    }
}

fn coactivations_are_right(f: &FeatureAnalysis, d: &Data, times: usize) {
    let mut together = [0u32; 64];
    for (row, _) in d.rows.iter().zip(&d.mask).filter(|(_, m)| **m != 0) {
        if row.iter().any(|e| e.0 == f.index) {
            row.iter().filter(|e| e.0 != f.index).for_each(|e| together[e.0 as usize] += 1);
        }
    }
    let mut all: Vec<(u32, u32)> =
        (0..d.d_sae as u32).map(|g| (together[g as usize], g)).filter(|p| p.0 > 0).collect();
    all.sort_by_key(|&(n, g)| (std::cmp::Reverse(n), g));
    assert_eq!(f.coactivations.len(), all.len().min(5), "feature {}", f.index);
    for (got, (n, g)) in f.coactivations.iter().zip(all) {
        assert_eq!(got.feature, g, "feature {}", f.index);
        assert!((got.value - n as f32 / times as f32).abs() < 1e-6, "feature {} with {g}", f.index);
    }
}
