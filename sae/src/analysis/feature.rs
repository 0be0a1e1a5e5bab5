//! What is kept of one feature while tokens pass, and what it becomes in the end.

use super::{
    bands::{Bands, draw},
    histogram::Histogram,
    rules::{Rules, Sampler},
};
use crate::store::{
    FeatureAnalysis, Sample, Sampling,
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

/// In the order of use: an occurrence that is no sample touches the first lines only, and what an analysis waits for is memory.
#[derive(Clone)]
#[repr(C)]
pub(super) struct FeatureState {
    pub act_times: u64,
    sum: f64,
    n_contexts: u64,
    max: f32,
    /// A peak has to be above this to be among the highest.
    top_floor: f32,
    /// Rank and context have to be below these to be drawn.
    draw_limit: (u32, u32),
    histogram: Histogram,
    /// Highest peaks first; the earlier context among equals.
    top: Vec<Held>,
    bands: Bands,
    /// Lowest ranks of all contexts in which it was active.
    drawn: Vec<Held>,
}

impl FeatureState {
    pub fn new(rules: &Rules) -> Self {
        let mut it = Self {
            act_times: 0,
            sum: 0.0,
            n_contexts: 0,
            max: 0.0,
            top_floor: f32::NEG_INFINITY,
            draw_limit: (u32::MAX, u32::MAX),
            histogram: Histogram::new(),
            top: Vec::new(),
            bands: Bands::default(),
            drawn: Vec::new(),
        };
        it.set_limits(rules);
        it
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
        if peak > self.top_floor {
            let n = rules.top();
            let place = self.top.partition_point(|h| h.peak >= peak);
            self.top.insert(place, make());
            self.top.truncate(n);
            self.set_limits(rules);
        }
        let key = (at.rank, at.context);
        if rules.per_band() > 0 {
            self.bands.add(rules.per_band(), peak, key, make);
        }
        if key < self.draw_limit {
            draw(&mut self.drawn, rules.drawn(), key, make);
            self.set_limits(rules);
        }
    }

    /// Follows from what is kept.
    pub fn set_limits(&mut self, rules: &Rules) {
        self.top_floor = match self.top.last() {
            Some(last) if self.top.len() >= rules.top() => last.peak,
            _ if rules.top() == 0 => f32::INFINITY,
            _ => f32::NEG_INFINITY,
        };
        self.draw_limit = match self.drawn.last() {
            Some(last) if self.drawn.len() >= rules.drawn() => (last.rank, last.context),
            _ if rules.drawn() == 0 => (0, 0),
            _ => (u32::MAX, u32::MAX),
        };
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
        FeatureAnalysis {
            index,
            act_times: self.act_times,
            max_act: self.max,
            mean_act: (self.sum / self.act_times.max(1) as f64) as f32,
            n_contexts: self.n_contexts,
            histogram: self.histogram.result(),
            samplings,
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
    }

    pub fn read(i: &mut In<'_>, rules: &Rules) -> Read<Self> {
        let mut it = Self::new(rules);
        it.act_times = i.int()?;
        it.sum = f64::from_bits(i.int()?);
        it.max = i.float()?;
        it.n_contexts = i.int()?;
        it.histogram = Histogram::read(i)?;
        it.top = i.list(Held::read)?;
        it.bands = Bands::read(i)?;
        it.drawn = i.list(Held::read)?;
        it.set_limits(rules);
        Ok(it)
    }
}
