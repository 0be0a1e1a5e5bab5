//! What is kept of one feature while tokens pass, and what it becomes in the end.

use super::{
    bands::{Bands, draw},
    histogram::Histogram,
    partners::Partners,
    rules::{Rules, Sampler},
};
use crate::store::{
    FeatureAnalysis, Related, Sample, Sampling,
    codec::{In, Out, Read},
};

/// A context kept as a sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    pub context: u32,
    /// Largest magnitude in it.
    pub peak: f32,
    /// Random; what is drawn are the lowest.
    pub rank: u32,
    /// Position and activation.
    pub acts: Box<[(u32, f32)]>,
}

impl Held {
    fn sample(&self) -> Sample {
        Sample { context: self.context, acts: self.acts.to_vec(), z_pattern: Vec::new() }
    }

    pub fn write(&self, out: &mut Out) {
        out.int(self.context.into());
        out.float(self.peak);
        out.int(self.rank.into());
        out.list(&self.acts, |o, &(at, v)| {
            o.int(at.into());
            o.float(v);
        });
    }

    pub fn read(i: &mut In<'_>) -> Read<Self> {
        let (context, peak, rank) = (i.small()?, i.float()?, i.small()?);
        let acts = i.list(|i| Ok((i.small()?, i.float()?)))?.into();
        Ok(Self { context, peak, rank, acts })
    }
}

/// A context of the batch being added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub context: u32,
    pub rank: u32,
    pub first_row: u32,
}

#[derive(Clone)]
pub(super) struct FeatureState {
    pub act_times: u64,
    sum: f64,
    max: f32,
    n_contexts: u64,
    histogram: Histogram,
    /// Highest peaks first; the earlier context among equals.
    top: Vec<Held>,
    bands: Bands,
    /// Lowest ranks of all contexts in which it was active.
    drawn: Vec<Held>,
    pub partners: Partners,
    /// Occurrences on tokens where partners were counted.
    pub paired: u64,
}

impl FeatureState {
    pub fn new() -> Self {
        Self {
            act_times: 0,
            sum: 0.0,
            max: 0.0,
            n_contexts: 0,
            histogram: Histogram::new(),
            top: Vec::new(),
            bands: Bands::default(),
            drawn: Vec::new(),
            partners: Partners::new(),
            paired: 0,
        }
    }

    /// Adds the occurrences in one context: row and activation, by row.
    pub fn add(&mut self, rules: &Rules, at: Place, entries: &[(u32, f32)]) {
        let mut peak = 0f32;
        for &(_, v) in entries {
            let v = v.abs();
            self.sum += f64::from(v);
            self.histogram.add(v);
            peak = peak.max(v);
        }
        self.act_times += entries.len() as u64;
        self.n_contexts += 1;
        self.max = self.max.max(peak);
        let make = || Held {
            context: at.context,
            peak,
            rank: at.rank,
            acts: entries.iter().map(|&(row, v)| (row - at.first_row, v)).collect(),
        };
        let n = rules.top();
        if self.top.len() < n || self.top.last().is_some_and(|last| peak > last.peak) {
            let place = self.top.partition_point(|h| h.peak >= peak);
            self.top.insert(place, make());
            self.top.truncate(n);
        }
        let key = (at.rank, at.context);
        if rules.per_band() > 0 {
            self.bands.add(rules.per_band(), peak, key, make);
        }
        draw(&mut self.drawn, rules.drawn(), key, make);
    }

    /// Contexts of all samples.
    pub fn contexts(&self) -> impl Iterator<Item = u32> {
        self.top.iter().chain(self.bands.all()).chain(&self.drawn).map(|h| h.context)
    }

    /// What the pass found of this feature. `silent` gives contexts in which it was not active.
    pub fn result(&self, rules: &Rules, index: u32, silent: impl Fn(usize) -> Vec<u32>) -> FeatureAnalysis {
        let mut samplings = Vec::new();
        for (name, sampler, n) in &rules.samplings {
            let samples = match sampler {
                Sampler::Top => self.top.iter().take(*n).map(Held::sample).collect(),
                Sampler::Below(p) => {
                    self.bands.below(*n, p * self.max).into_iter().map(Held::sample).collect()
                }
                Sampler::Silent => {
                    silent(*n).into_iter().map(|context| Sample { context, ..Sample::default() }).collect()
                }
            };
            samplings.push(Sampling { name: name.clone(), samples });
        }
        samplings.extend(self.quantiles(rules));
        let shares = self.partners.top(rules.coactivations).into_iter().map(|(feature, n)| Related {
            feature,
            value: (f64::from(n) / self.paired.max(1) as f64) as f32,
        });
        FeatureAnalysis {
            index,
            act_times: self.act_times,
            max_act: self.max,
            mean_act: (self.sum / self.act_times.max(1) as f64) as f32,
            n_contexts: self.n_contexts,
            histogram: self.histogram.result(),
            samplings,
            coactivations: shares.collect(),
            ..FeatureAnalysis::default()
        }
    }

    /// The drawn contexts by peak, in groups of equally many, strongest first.
    fn quantiles(&self, rules: &Rules) -> Vec<Sampling> {
        let bins = rules.quantile_bins;
        let mut by_peak: Vec<&Held> = self.drawn.iter().collect();
        by_peak.sort_by(|a, b| b.peak.total_cmp(&a.peak).then(a.context.cmp(&b.context)));
        let edge = |i: usize| i * by_peak.len() / bins;
        (0..bins)
            .map(|i| Sampling {
                name: format!("quantile_{}_{}", 100 * (bins - i - 1) / bins, 100 * (bins - i) / bins),
                samples: by_peak[edge(i)..edge(i + 1)].iter().map(|h| h.sample()).collect(),
            })
            .collect()
    }

    pub fn write(&self, out: &mut Out) {
        out.int(self.act_times);
        out.int(self.sum.to_bits());
        out.float(self.max);
        out.int(self.n_contexts);
        self.histogram.write(out);
        out.list(&self.top, |o, h| h.write(o));
        self.bands.write(out);
        out.list(&self.drawn, |o, h| h.write(o));
        self.partners.write(out);
        out.int(self.paired);
    }

    pub fn read(i: &mut In<'_>) -> Read<Self> {
        Ok(Self {
            act_times: i.int()?,
            sum: f64::from_bits(i.int()?),
            max: i.float()?,
            n_contexts: i.int()?,
            histogram: Histogram::read(i)?,
            top: i.list(Held::read)?,
            bands: Bands::read(i)?,
            drawn: i.list(Held::read)?,
            partners: Partners::read(i)?,
            paired: i.int()?,
        })
    }
}
