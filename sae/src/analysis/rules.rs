//! Which samples of a feature are kept, and how that follows from settings (ANALYSIS §2.1).
//!
//! Differences from the reference system, whose rule is "the highest peaks not above `proportion` × the maximum so far":
//! * the maximum is the final one, so nothing depends on the order of the stream. Below it, samples are drawn from the strongest
//!   bands of peaks under the limit (a band is a quarter octave) instead of being its extreme;
//! * contexts in which the feature is silent are never samples, except under `non_activating`, where only such contexts are.

use super::{
    analyzer::POOL,
    feature::{FeatureState, Held},
    partners::Partners,
};
use crate::{
    settings::AnalyzerSettings,
    store::{FeatureAnalysis, Sample, Sampling},
};
use serde_json::{Value, json};

/// How the contexts of one sampling are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// The highest peaks.
    Top,
    /// Peaks of at most this share of the maximum, the strongest bands first.
    Below(f32),
    /// Contexts in which the feature is not active, at random.
    Silent,
}

/// Bands of peaks in use, about.
const BANDS: f64 = 6.0;
/// Activations of a feature cluster: in a context in which it fires it does so this many times as often as on average.
const CLUSTER: f64 = 4.0;
/// Histogram, preview and tokens at the peaks of a feature on its way to the store.
const TEXTS: usize = 3072;

/// What an allocation of so many bytes takes.
fn allocated(bytes: f64) -> f64 {
    ((bytes + 8.0) / 16.0).ceil().max(2.0) * 16.0
}

/// What an [`super::Analyzer`] keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Name, rule and number of contexts.
    pub samplings: Vec<(String, Sampler, usize)>,
    /// Groups of equally many contexts by peak, drawn from all contexts in which the feature is active.
    pub quantile_bins: usize,
    /// Contexts of each.
    pub quantile_samples: usize,
    /// Most frequent partners reported.
    pub coactivations: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// Name of the sampling of contexts without activation.
pub const NON_ACTIVATING: &str = "non_activating";

impl Rules {
    /// As the settings say.
    pub fn new(settings: &AnalyzerSettings) -> Self {
        let mut samplings: Vec<(String, Sampler, usize)> = settings
            .subsamples
            .iter()
            .map(|(name, s)| {
                let sampler = match s.proportion {
                    _ if name == NON_ACTIVATING => Sampler::Silent,
                    1.0.. => Sampler::Top,
                    p => Sampler::Below(p as f32),
                };
                (name.clone(), sampler, s.n_samples)
            })
            .collect();
        // Strongest first whatever the order in the file: readers take the first sampling for the top activations.
        samplings.sort_by(|a, b| order(a.1).total_cmp(&order(b.1)).then_with(|| a.0.cmp(&b.0)));
        Self {
            samplings,
            quantile_bins: settings.quantile_bins,
            quantile_samples: settings.quantile_samples,
            coactivations: settings.n_coactivations,
            seed: settings.seed,
        }
    }

    /// Contexts kept with the highest peaks.
    pub(super) fn top(&self) -> usize {
        self.most(|s| s == Sampler::Top)
    }

    /// Contexts kept of each band of peaks.
    pub(super) fn per_band(&self) -> usize {
        self.most(|s| matches!(s, Sampler::Below(_)))
    }

    /// Contexts drawn from all.
    pub(super) fn drawn(&self) -> usize {
        self.quantile_bins * self.quantile_samples
    }

    fn most(&self, which: impl Fn(Sampler) -> bool) -> usize {
        self.samplings.iter().filter(|s| which(s.1)).map(|s| s.2).max().unwrap_or(0)
    }

    /// Host bytes of an analyzer after `tokens` tokens in contexts of `len`, with `l0` of `d_sae` features active on a token, if all
    /// features fire equally often. They never do; where some fire more often than others, less is kept, since samples of a feature
    /// are bounded.
    pub fn bytes(&self, d_sae: usize, l0: f64, len: usize, tokens: u64) -> usize {
        let (together, fires) = Self::occurrences(d_sae, l0, len, tokens);
        self.bytes_of(std::iter::repeat_n((together, fires), d_sae), l0, len, tokens)
    }

    /// The same where it is known of each feature how many activations a context has, in those in which it is active, and how many
    /// such contexts there are.
    pub fn bytes_of(
        &self,
        features: impl ExactSizeIterator<Item = (f64, f64)>,
        l0: f64,
        len: usize,
        tokens: u64,
    ) -> usize {
        let contexts = (tokens as f64 / len.max(1) as f64).max(1.0);
        let d_sae = features.len();
        let (mut samples, mut bytes) = (0.0, 0.0);
        for (together, fires) in features {
            let (n, b) = self.kept(together, fires);
            samples += n;
            bytes += b;
        }
        // Contexts nothing points to any more wait until there are as many as of the others.
        let used = contexts * (1.0 - (-samples / contexts).exp());
        let texts = contexts.min((2.0 * used).max(4096.0)) * (allocated(4.0 * len as f64) + 40.0);
        let pool = POOL * (d_sae / 8 + 64);
        (bytes + texts + Partners::bytes(l0, tokens).0) as usize + pool
    }

    /// Samples and bytes kept of a feature that is active in `fires` contexts, `together` times in each: its state exactly, bands of
    /// peaks estimated.
    fn kept(&self, together: f64, fires: f64) -> (f64, f64) {
        let draws = [
            (1.0, self.top() as f64, fires),
            (1.0, self.drawn() as f64, fires),
            (BANDS, self.per_band() as f64, fires / BANDS),
        ];
        let one = allocated(8.0 * together);
        let (mut samples, mut bytes) = (0.0, size_of::<FeatureState>() as f64);
        if fires <= 0.0 {
            return (samples, bytes);
        }
        for (times, most, there) in draws.into_iter().filter(|d| d.1 > 0.0) {
            let kept = most.min(there.max(1.0));
            samples += times * kept;
            // Lists double when they are full, and hold one more for a moment.
            let places = (kept + 1.0).log2().ceil().exp2().max(4.0);
            bytes += times * (allocated(places * size_of::<Held>() as f64) + kept * one);
        }
        if self.per_band() > 0 {
            bytes += BANDS.log2().ceil().exp2() * size_of::<(i32, Vec<Held>)>() as f64;
        }
        (samples, bytes)
    }

    /// Host bytes of `n` of `d_sae` features on their way to the store, which have samples of their own, and of what their partners
    /// are counted from, where features fire as [`Rules::occurrences`] has it.
    pub fn writing_bytes(
        &self,
        n: usize,
        (together, fires): (f64, f64),
        d_sae: usize,
        l0: f64,
        tokens: u64,
    ) -> usize {
        let each = |most: usize, silent: bool| {
            let kept = if silent { most as f64 } else { (most as f64).min(fires) };
            let acts = if silent { 0.0 } else { allocated(8.0 * together) };
            allocated(kept * size_of::<Sample>() as f64) + kept * acts
        };
        let named = self.samplings.iter().map(|s| each(s.2, s.1 == Sampler::Silent)).sum::<f64>();
        let quantiles = self.quantile_bins as f64 * each(self.quantile_samples, false);
        let lists = (self.samplings.len() + self.quantile_bins) * (size_of::<Sampling>() + 32);
        let feature = size_of::<FeatureAnalysis>() + lists + TEXTS + 8 * self.coactivations;
        let (_, counting) = Partners::bytes(l0, tokens);
        (n as f64 * (named + quantiles + feature as f64) + counting) as usize + 12 * d_sae
    }

    /// Host bytes of where the activations in the samples of the first sampling come from: for each at most the positions before it.
    pub fn pattern_bytes(&self, d_sae: usize, l0: f64, len: usize, tokens: u64) -> usize {
        let (together, fires) = Self::occurrences(d_sae, l0, len, tokens);
        let samples = self.samplings.first().map_or(0.0, |s| (s.2 as f64).min(fires));
        let one = allocated(together * len as f64 / 2.0 * size_of::<(u32, u32, f32)>() as f64);
        // And its place in a table that doubles.
        (d_sae as f64 * samples * (one + 64.0)) as usize
    }

    /// Activations in a context in which a feature is active, and the number of such contexts, if all features fire equally often.
    pub fn occurrences(d_sae: usize, l0: f64, len: usize, tokens: u64) -> (f64, f64) {
        let contexts = (tokens as f64 / len.max(1) as f64).max(1.0);
        let together = (CLUSTER * l0 * len as f64 / d_sae.max(1) as f64).clamp(1.0, len.max(1) as f64);
        (together, (tokens as f64 * l0 / d_sae.max(1) as f64 / together).min(contexts))
    }

    /// What has to agree for a saved state to be continued.
    pub(super) fn identity(&self) -> Value {
        let samplings: Vec<Value> =
            self.samplings.iter().map(|(name, s, n)| json!([name, format!("{s:?}"), n])).collect();
        json!([samplings, self.quantile_bins, self.quantile_samples, self.seed])
    }
}

fn order(s: Sampler) -> f32 {
    match s {
        Sampler::Top => -1.0,
        Sampler::Below(p) => 1.0 - p,
        Sampler::Silent => 2.0,
    }
}
