//! Which samples of a feature are kept, and how that follows from settings (ANALYSIS §2.1).
//!
//! Differences from the reference system, whose rule is "the highest peaks not above `proportion` × the maximum so far":
//! * the maximum is the final one, so nothing depends on the order of the stream. Below it, samples are drawn from the strongest
//!   bands of peaks under the limit (a band is a quarter octave) instead of being its extreme;
//! * contexts in which the feature is silent are never samples, except under `non_activating`, where only such contexts are.

use crate::settings::AnalyzerSettings;
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

    /// Host bytes for `d_sae` features that are active on `l0` of them a token, in contexts of `len` tokens: an estimate, from
    /// the samples kept and the activations in them.
    pub fn bytes(&self, d_sae: usize, l0: f64, len: usize) -> usize {
        // About six bands are in use; activations cluster, so a kept context has about four times the average.
        let samples = self.top() + self.drawn() + 6 * self.per_band();
        let fixed = 1024 + samples * 40;
        d_sae * fixed + (4.0 * l0 * len as f64 * samples as f64) as usize * 8
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
