//! From a selection by rank to fixed thresholds (VARIANTS §12, for every variant): with n of N tokens' values kept by the ranks
//! of a pool of competing features, the pool's threshold is the n-th largest of all values it had, so that as many exceed it.
//! All values pass through the ReLU form of the dictionary once, and are counted in narrow bins; no batch decides alone.

use super::{
    Codes, Dictionary, build,
    settings::{ActFn, DictionarySettings},
};
use crate::{Error, Result};
use lm_saes_runtime::{Queue, View};

/// Bits of an f32 that tell bins apart: sign, exponent and 11 of the mantissa, a width of 0.05 %.
const KEPT_BITS: u32 = 20;
const DROPPED_BITS: u32 = 32 - KEPT_BITS;
/// Bins of positive values.
const BINS: usize = 1 << (KEPT_BITS - 1);
/// Stands in for a threshold of 0, whose logarithm no checkpoint can hold, and for a decoder norm of 0.
const TINY: f32 = 1e-30;

/// Thresholds of a dictionary in the making.
pub struct Calibration {
    act_fn: ActFn,
    top_k: usize,
    /// The dictionary with a ReLU, whose codes are all values that can be ranked.
    form: Box<dyn Dictionary>,
    /// Compared values over codes, of every feature of every code.
    norms: Vec<f32>,
    pools: Vec<Pool>,
    /// Codes that share a pool.
    sharing: usize,
    tokens: u64,
}

/// Positive values of competing features.
#[derive(Clone)]
struct Pool {
    bins: Vec<u64>,
    seen: u64,
    kept: u64,
}

impl Calibration {
    /// Of a dictionary that selects by rank; it is copied.
    ///
    /// # Errors
    /// A dictionary without ranks, or with ranks that thresholds cannot stand in for.
    pub fn new(q: &mut Queue, dictionary: &dyn Dictionary) -> Result<Self> {
        let settings = dictionary.settings();
        let act_fn = settings.act_fn();
        Self::check(settings)?;
        let mut form = reform(q, dictionary, &settings.without_ranks(ActFn::Relu, &[]))?;
        let norms = compared_over_codes(q, &mut *form)?;
        let codes = norms.len() / form.d_sae();
        let pools = match act_fn {
            ActFn::TopK => codes,
            ActFn::BatchTopK => dictionary.running_thresholds().pools(),
            _ => 1,
        };
        let pools = vec![Pool { bins: vec![0; BINS], seen: 0, kept: 0 }; pools];
        let sharing = codes / pools.len();
        Ok(Self { act_fn, top_k: settings.top_k(), form, norms, pools, sharing, tokens: 0 })
    }

    /// Refuses a dictionary that has no ranks, or ranks that no threshold stands in for.
    pub fn check(settings: &DictionarySettings) -> Result<()> {
        let why = match settings.act_fn() {
            ActFn::TopK | ActFn::BatchTopK | ActFn::LayerTopK | ActFn::BatchLayerTopK => return Ok(()),
            ActFn::JumpRelu => "it has thresholds already",
            ActFn::Relu => "its features do not compete: there is no budget to keep",
            ActFn::AbsTopK => {
                "it ranks activations of either sign, a JumpReLU lets only positive ones through"
            }
            ActFn::GroupMax => {
                "it takes the best of each group, which no threshold of single features can tell"
            }
        };
        Err(Error::Unsupported {
            what: format!("thresholds for a dictionary of type {} with this act_fn", settings.sae_type()),
            why: why.into(),
        })
    }

    /// Memory of the counts.
    pub fn bytes(&self) -> usize {
        self.pools.iter().map(|p| size_of_val(&*p.bins)).sum()
    }

    /// The dictionary values are counted with; it has to be planned for inference.
    pub fn form(&mut self) -> &mut dyn Dictionary {
        &mut *self.form
    }

    /// Tokens counted so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Counts the values of a batch, normalised; rows with mask 0 are left out.
    pub fn observe(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        context: Option<usize>,
        mask: &[u8],
    ) -> Result<()> {
        self.form.forward(q, inputs, context, self.top_k)?;
        let s = self.form.d_sae();
        // Values above 0 of each row in each pool.
        let mut positive = vec![0_u64; self.pools.len() * mask.len()];
        for (code, codes) in self.form.codes().into_iter().enumerate() {
            let Codes::Dense(f) = codes else {
                return Err(Error::Data { what: "a relu without dense codes".into() });
            };
            let values: Vec<f32> = q.download(f)?;
            let at = if self.pools.len() == 1 { 0 } else { code };
            let norms = &self.norms[code * s..(code + 1) * s];
            let positive = &mut positive[at * mask.len()..(at + 1) * mask.len()];
            for ((row, count), _) in values.chunks_exact(s).zip(positive).zip(mask).filter(|(_, m)| **m != 0)
            {
                *count += self.pools[at].count(row, norms);
            }
        }
        let rows = mask.iter().filter(|&&m| m != 0).count() as u64;
        self.tokens += rows;
        let k = self.top_k as u64;
        for (pool, positive) in self.pools.iter_mut().zip(positive.chunks_exact(mask.len().max(1))) {
            let (by_row, all) =
                (positive.iter().map(|n| k.min(*n)).sum::<u64>(), positive.iter().sum::<u64>());
            pool.kept += match self.act_fn {
                ActFn::TopK | ActFn::LayerTopK => by_row,
                // Heads share the batch's budget, which grows with them; layers share one that does not.
                ActFn::BatchTopK => all.min(k * rows * self.sharing as u64),
                _ => all.min(k * rows),
            };
        }
        Ok(())
    }

    /// Thresholds of the pools, in compared values.
    ///
    /// # Errors
    /// Nothing was counted.
    pub fn thresholds(&self) -> Result<Vec<f32>> {
        if self.tokens == 0 {
            return Err(Error::Data { what: "there is no text to choose thresholds on".into() });
        }
        Ok(self.pools.iter().map(Pool::threshold).collect())
    }

    /// The dictionary with these thresholds, unplanned.
    pub fn finish(self, q: &mut Queue, thresholds: &[f32]) -> Result<Box<dyn Dictionary>> {
        let settings = self.form.settings().clone();
        let thresholds: Vec<f32> = thresholds.iter().map(|t| t.max(TINY)).collect();
        let (s, codes) = (self.form.d_sae(), self.norms.len() / self.form.d_sae());
        // Codes that share the parameter of thresholds are told apart by what scales their compared values.
        let shared = codes > 1 && self.form.averaged_heads() > 1;
        let log_mean = thresholds.iter().map(|t| t.ln()).sum::<f32>() / thresholds.len() as f32;
        let apart: Vec<f32> = match shared && thresholds.len() > 1 {
            true => thresholds.iter().map(|t| log_mean.exp() / t).collect(),
            false => Vec::new(),
        };
        let settings = settings.without_ranks(ActFn::JumpRelu, &apart).ungated_if_allowed();
        let gated = settings.gated();
        let logs: Vec<f32> = (0..if shared { 1 } else { codes })
            .flat_map(|code| {
                let log = match apart.is_empty() {
                    true => thresholds.get(code).or(thresholds.last()).map_or(log_mean, |t| t.ln()),
                    false => log_mean,
                };
                // Ungated, h itself is compared: h > θ/n.
                let norms = &self.norms[code * s..(code + 1) * s];
                let over = |n: f32| if gated { 0.0 } else { n.max(TINY).ln() };
                norms.iter().map(move |n| log - over(*n)).collect::<Vec<_>>()
            })
            .collect();
        let mut made = reform(q, &*self.form, &settings)?;
        for p in made.params_mut().into_iter().filter(|p| p.is_log_threshold()) {
            q.upload(&logs, &mut p.value)?;
        }
        Ok(made)
    }
}

impl Pool {
    /// Counts the positive values of a row; returns how many there were.
    fn count(&mut self, row: &[f32], norms: &[f32]) -> u64 {
        let before = self.seen;
        for (f, n) in row.iter().zip(norms) {
            let compared = f * n;
            if compared > 0.0 {
                self.bins[(compared.to_bits() >> DROPPED_BITS) as usize] += 1;
                self.seen += 1;
            }
        }
        self.seen - before
    }

    /// What as many values exceed as were kept, as if they lay evenly within a bin; 0 where all were.
    fn threshold(&self) -> f32 {
        let mut above = 0;
        for (bin, &n) in self.bins.iter().enumerate().rev() {
            if self.kept < self.seen && above + n >= self.kept {
                let edge = |bin: usize| f64::from(f32::from_bits((bin as u32) << DROPPED_BITS));
                let share = (self.kept - above) as f64 / (n as f64).max(1.0);
                return (edge(bin + 1) - share * (edge(bin + 1) - edge(bin))) as f32;
            }
            above += n;
        }
        0.0
    }
}

/// The same weights under other settings, without what those do not have and with zeros where they have more.
fn reform(
    q: &mut Queue,
    from: &dyn Dictionary,
    settings: &DictionarySettings,
) -> Result<Box<dyn Dictionary>> {
    let mut made = build(q, settings)?;
    for to in made.params_mut() {
        if let Some(p) = from.params().into_iter().find(|p| p.name == to.name) {
            q.copy(&p.value, &mut to.value)?;
        }
    }
    made.set_norms(from.norms().clone());
    Ok(made)
}

/// What turns codes into compared values, for every feature of every code.
fn compared_over_codes(q: &mut Queue, dictionary: &mut dyn Dictionary) -> Result<Vec<f32>> {
    let mut norms = dictionary.decoder_norms(q)?;
    let (s, settings) = (dictionary.d_sae(), dictionary.settings());
    if !settings.gated() {
        norms.fill(1.0);
    }
    for (norms, scale) in norms.chunks_exact_mut(s).zip(settings.variant.facts().gate_scales()) {
        norms.iter_mut().for_each(|n| *n *= scale);
    }
    Ok(norms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_values_exceed_a_pools_threshold_as_were_kept() {
        let values: Vec<f32> = (1..=1000).map(|i| (i as f32).sqrt() * 0.3).collect();
        let mut pool = Pool { bins: vec![0; BINS], seen: 0, kept: 0 };
        assert_eq!(pool.count(&values, &[1.0; 1000]), 1000);
        for kept in [1, 7, 250, 999] {
            pool.kept = kept;
            let exceeding = values.iter().filter(|v| **v > pool.threshold()).count() as u64;
            assert!(exceeding.abs_diff(kept) <= 1, "{kept}: {exceeding}");
        }
        pool.kept = 1000;
        assert_eq!(pool.threshold(), 0.0);
    }
}
