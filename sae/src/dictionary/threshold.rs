//! Running thresholds of selections over a batch (batchtopk, batchlayertopk). What such a selection keeps of a row depends on
//! the other rows; so training remembers, for each pool of competing features, where the batches' limits lay,
//!   τ ← τ + RATE·(t − τ)      t: the smallest value a batch's selection kept; 0 where it kept all that is positive
//! the first t taken whole, and inference lets through what exceeds τ. Such a dictionary is then a JumpReLU with one threshold
//! a pool, and that is how it is planned. Values are compared values: `h·n` with gating by decoder norms, else h.

use super::settings::DictionarySettings;
use crate::{Result, settings::ActFn};
use lm_saes_runtime::{Queue, Tensor};

/// Share of a new batch: about twenty batches are remembered. A batch of thousands of rows says where its limit lies to a few per
/// cent, and weights move on: after a short run a longer memory would still be full of its beginning.
const RATE: f32 = 0.05;

/// The thresholds of one dictionary.
#[derive(Clone, Debug)]
pub struct RunningThresholds {
    pools: usize,
    /// One for each pool, or none before the first batch.
    known: Vec<f32>,
    by_batch: bool,
    /// Those the present plan uses.
    in_force: Vec<f32>,
}

impl RunningThresholds {
    /// Of a new dictionary. `layers` is the number of layers that select on their own; those of batchlayertopk share a pool.
    pub fn of(settings: &DictionarySettings, layers: usize) -> Self {
        let pools = match settings.act_fn() {
            ActFn::BatchTopK => layers,
            ActFn::BatchLayerTopK => 1,
            _ => 0,
        };
        let by_batch = settings.common.batch_selection_at_inference;
        Self { pools, known: Vec::new(), by_batch, in_force: Vec::new() }
    }

    /// The thresholds, one for each pool; `None` where the selection has none or training has not seen a batch.
    pub fn values(&self) -> Option<&[f32]> {
        (!self.known.is_empty()).then_some(&*self.known)
    }

    /// Pools of competing features the selection has.
    pub(crate) fn pools(&self) -> usize {
        self.pools
    }

    /// Takes thresholds from elsewhere, or forgets them. Returns whether they fit: one for each pool, none negative.
    pub fn set(&mut self, values: Option<Vec<f32>>) -> bool {
        let fits = |v: &Vec<f32>| v.len() == self.pools && v.iter().all(|t| t.is_finite() && *t >= 0.0);
        let fit = values.as_ref().is_none_or(fits);
        self.known = values.filter(|_| fit).unwrap_or_default();
        fit
    }

    /// Whether plans made from now on select by the batch although thresholds are known.
    pub fn select_by_batch(&mut self, by_batch: bool) {
        self.by_batch = by_batch;
    }

    /// What a plan is made for: at inference with known thresholds a JumpReLU, otherwise what the settings say.
    pub(super) fn plan(&mut self, settings: &DictionarySettings, training: bool) -> DictionarySettings {
        self.in_force = if training || self.by_batch { Vec::new() } else { self.known.clone() };
        let mut planned = settings.clone();
        planned.common.act_fn = self.act_fn(settings);
        planned
    }

    /// The activation function of the present plan.
    pub(super) fn act_fn(&self, settings: &DictionarySettings) -> ActFn {
        if self.in_force.is_empty() { settings.act_fn() } else { ActFn::JumpRelu }
    }

    /// The threshold of a pool, where the present plan uses it; one pool may serve all layers.
    pub(super) fn in_force(&self, pool: usize) -> Option<f32> {
        self.in_force.get(pool).or(self.in_force.last()).copied()
    }

    /// Takes in the limits of a batch, `[pools, 2]` as [`Queue::threshold`] leaves them.
    pub(super) fn observe(&mut self, q: &mut Queue, limits: &Tensor) -> Result<()> {
        let limits: Vec<u32> = q.download(limits)?;
        let limits = limits.chunks_exact(2).map(|limit| f32::from_bits(limit[0]));
        if self.known.is_empty() {
            self.known = limits.collect();
            return Ok(());
        }
        self.known.iter_mut().zip(limits).for_each(|(known, limit)| *known += RATE * (limit - *known));
        Ok(())
    }

    /// Follows compared values that became `factors[pool]` times what they were; one factor does for all pools.
    pub(super) fn scale(&mut self, factors: &[f32]) {
        let last = factors.last().copied().unwrap_or(1.0);
        let each = factors.iter().copied().chain(std::iter::repeat(last));
        for values in [&mut self.known, &mut self.in_force] {
            values.iter_mut().zip(each.clone()).for_each(|(value, factor)| *value *= factor);
        }
    }
}
