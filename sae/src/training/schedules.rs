//! Learning rate, k, sparsity coefficient and snapshot steps as functions of the step (TRAINING §3, §5.4).

use crate::{
    Error, Result,
    settings::{CheckpointMode, KSchedule, LrSchedule, TrainerSettings},
};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Schedules of one run with all durations in steps. Saved in snapshots, so that a resumed run continues the same curves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedules {
    /// Steps of the run (T).
    pub total_steps: u64,
    /// Learning-rate curve.
    pub lr: LrCurve,
    /// k curve; `None` keeps k at `top_k`.
    pub k: Option<KCurve>,
    /// Sparsity coefficient and its warm-up.
    pub l1: WarmUp,
    /// Exponent of the power-sum penalty; `None` keeps it.
    #[serde(default)]
    pub p: Option<PCurve>,
    /// Steps after which dead features are resampled.
    #[serde(default)]
    pub resample_until: u64,
    /// Completed steps after which weights are saved, ascending.
    pub checkpoints: Vec<u64>,
}

impl Schedules {
    /// Resolves the settings for batches of `batch_tokens` tokens; `top_k` is the dictionary's k where it has one.
    ///
    /// # Errors
    /// [`Error::Setting`] when there is less than one batch of tokens, or the k schedule lacks a usable `initial_k`.
    pub fn resolve(s: &TrainerSettings, batch_tokens: u64, top_k: Option<usize>) -> Result<Self> {
        let total = s.total_training_tokens.checked_div(batch_tokens).unwrap_or(0);
        if total == 0 {
            let what = format!("{} is less than one batch of {batch_tokens} tokens", s.total_training_tokens);
            return Err(Error::setting("trainer.total_training_tokens", what));
        }
        let k = match (top_k, s.k_warmup_steps.resolve(total)) {
            (Some(top_k), warm_up) if warm_up > 0 => Some(KCurve::new(s, total, warm_up, top_k)?),
            _ => None,
        };
        Ok(Self {
            total_steps: total,
            lr: LrCurve {
                shape: s.lr_scheduler_name,
                warm_up: s.lr_warm_up_steps.resolve(total),
                cool_down: s.lr_cool_down_steps.resolve(total),
                end_ratio: s.lr_end_ratio,
                total,
            },
            k,
            l1: match s.l1_coefficient {
                Some(value) => WarmUp { value, steps: s.l1_coefficient_warmup_steps.resolve(total) },
                None => WarmUp { value: 1.0, steps: 0 },
            },
            p: s.p_end.map(|to| PCurve {
                from: s.p,
                to,
                start: s.anneal_start.resolve(total),
                end: s.anneal_end.resolve(total),
                updates: s.n_sparsity_updates,
            }),
            resample_until: s.resample_until.resolve(total),
            checkpoints: checkpoint_steps(s.check_point_save_mode, s.n_checkpoints, total),
        })
    }
}

/// Factor on the learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LrCurve {
    /// Which formula.
    pub shape: LrSchedule,
    /// Warm-up steps w.
    pub warm_up: u64,
    /// Cool-down steps c.
    pub cool_down: u64,
    /// Ratio r at the end of the cool-down.
    pub end_ratio: f64,
    /// Steps T.
    pub total: u64,
}

impl LrCurve {
    /// The factor in step `s`, counted from 0. A phase of no steps does not exist (the reference system divides by zero there).
    pub fn factor(&self, s: u64) -> f64 {
        let (step, total, w) = (s as f64, self.total as f64, self.warm_up as f64);
        let rising = s < self.warm_up;
        // Never zero: schedules that reach T in the warm-up have nothing left to decay over.
        let decay_steps = (total - w).max(1.0);
        match self.shape {
            LrSchedule::Constant => 1.0,
            LrSchedule::ConstantWithWarmup => {
                let up = if rising { (step + 1.0) / w } else { 1.0 };
                let down = if self.cool_down == 0 {
                    1.0
                } else {
                    self.end_ratio + (1.0 - self.end_ratio) / self.cool_down as f64 * (total - step).max(1.0)
                };
                up.min(down).min(1.0)
            }
            LrSchedule::CosineAnnealing => 0.5 * (1.0 + (PI * step / total).cos()),
            _ if rising => (step + 1.0) / w,
            LrSchedule::LinearWarmupDecay => (total - step) / decay_steps,
            LrSchedule::CosineAnnealingWarmup => 0.5 * (1.0 + (PI * (step - w) / decay_steps).cos()),
            LrSchedule::ExponentialWarmup => (1.0f64 / 32.0).powf((step - w) / decay_steps),
        }
    }
}

/// How many features may be active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KCurve {
    /// Which formula.
    pub shape: KSchedule,
    /// k at the start.
    pub from: f64,
    /// k at the end.
    pub to: usize,
    /// Steps before it moves.
    pub cold: u64,
    /// Steps it moves.
    pub warm_up: u64,
    /// Curvature of the exponential form.
    pub alpha: f64,
}

impl KCurve {
    fn new(s: &TrainerSettings, total: u64, warm_up: u64, top_k: usize) -> Result<Self> {
        let from = s.initial_k.ok_or_else(|| {
            let what = "is needed while k_warmup_steps is above 0; set it (at least top_k) or set k_warmup_steps to 0";
            Error::setting("trainer.initial_k", what)
        })?;
        if !from.is_finite() || from < top_k as f64 {
            let what = format!("{from} is below top_k ({top_k}); k can only fall towards top_k");
            return Err(Error::setting("trainer.initial_k", what));
        }
        Ok(Self {
            shape: s.k_schedule_type,
            from,
            to: top_k,
            cold: s.k_cold_booting_steps.resolve(total),
            warm_up,
            alpha: s.k_exponential_factor,
        })
    }

    /// k in step `s`.
    pub fn k(&self, s: u64) -> usize {
        if s < self.cold {
            return self.from as usize;
        }
        let p = ((s - self.cold) as f64 / self.warm_up as f64).min(1.0);
        let (from, to) = (self.from, self.to as f64);
        let k = match self.shape {
            KSchedule::Exponential if self.alpha != 0.0 => {
                from - (from - to) * (1.0 - (-self.alpha * p).exp()) / (1.0 - (-self.alpha).exp())
            }
            _ => from + (to - from) * p,
        };
        (k.ceil() as usize).max(self.to)
    }
}

/// An exponent that falls in steps of equal size (p-annealing, Karvonen et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PCurve {
    /// Exponent at the start.
    pub from: f64,
    /// Exponent at the end.
    pub to: f64,
    /// Training step before which it stays.
    pub start: u64,
    /// Training step by which it has arrived.
    pub end: u64,
    /// How often it changes on the way.
    pub updates: u64,
}

impl PCurve {
    /// Exponent in step `s`.
    pub fn at(&self, s: u64) -> f64 {
        let way = self.end.saturating_sub(self.start);
        let done = match s.saturating_sub(self.start) {
            gone if gone >= way => self.updates,
            gone => gone * self.updates / way,
        };
        self.from + (self.to - self.from) * done as f64 / self.updates as f64
    }
}

/// A coefficient that rises from 0 in a straight line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Value after the warm-up.
    pub value: f64,
    /// Steps; 0 is no warm-up.
    pub steps: u64,
}

impl WarmUp {
    /// Value in step `s`.
    pub fn at(&self, s: u64) -> f64 {
        if s >= self.steps { self.value } else { s as f64 / self.steps as f64 * self.value }
    }
}

/// Steps after which weights are saved: `n − 1` of them inside the run, even on a linear or logarithmic axis. In steps
/// throughout; the reference system multiplies the logarithmic ones by the batch size and so never reaches them.
fn checkpoint_steps(mode: CheckpointMode, n: u64, total: u64) -> Vec<u64> {
    let mut steps: Vec<u64> = match mode {
        CheckpointMode::Linear if total >= n => (1..n).map(|i| i * (total / n)).collect(),
        CheckpointMode::Linear => (1..total).collect(),
        CheckpointMode::Log => {
            (1..n).map(|i| ((total as f64).log2() * i as f64 / n as f64).exp2().ceil() as u64).collect()
        }
    };
    steps.retain(|&s| s > 0 && s < total);
    steps.dedup();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Steps;

    fn settings(change: impl FnOnce(&mut TrainerSettings)) -> TrainerSettings {
        let mut s = TrainerSettings { total_training_tokens: 600, ..Default::default() };
        s.k_warmup_steps = Steps::Count(0);
        change(&mut s);
        s
    }

    #[test]
    fn the_default_curve_warms_up_stays_and_cools_down() {
        let curve = LrCurve {
            shape: LrSchedule::ConstantWithWarmup,
            warm_up: 3,
            cool_down: 4,
            end_ratio: 0.25,
            total: 10,
        };
        let got: Vec<f64> = (0..10).map(|s| curve.factor(s)).collect();
        let want = [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8125, 0.625, 0.4375];
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-12, "{got:?}");
        }
    }

    #[test]
    fn phases_without_steps_leave_every_curve_finite() {
        for shape in [
            LrSchedule::Constant,
            LrSchedule::ConstantWithWarmup,
            LrSchedule::LinearWarmupDecay,
            LrSchedule::CosineAnnealing,
            LrSchedule::CosineAnnealingWarmup,
            LrSchedule::ExponentialWarmup,
        ] {
            for warm_up in [0, 5] {
                let curve = LrCurve { shape, warm_up, cool_down: 0, end_ratio: 0.1, total: 5 };
                assert!((0..5).all(|s| (0.0..=1.0).contains(&curve.factor(s))), "{shape:?} {warm_up}");
            }
        }
        assert_eq!(WarmUp { value: 0.3, steps: 0 }.at(0), 0.3);
    }

    #[test]
    fn the_exponent_falls_in_equal_steps_and_arrives() {
        let curve = PCurve { from: 1.0, to: 0.2, start: 2, end: 10, updates: 4 };
        let got: Vec<f64> = [0, 2, 3, 4, 6, 8, 9, 10, 99].map(|s| curve.at(s)).to_vec();
        let want = [1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.4, 0.2, 0.2];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}");
    }

    #[test]
    fn snapshots_fall_inside_the_run_in_both_modes() {
        assert_eq!(checkpoint_steps(CheckpointMode::Linear, 4, 60), [15, 30, 45]);
        assert_eq!(checkpoint_steps(CheckpointMode::Log, 4, 60), [3, 8, 22]);
        assert!(checkpoint_steps(CheckpointMode::Linear, 0, 60).is_empty());
        assert_eq!(checkpoint_steps(CheckpointMode::Linear, 10, 3), [1, 2]);
    }

    #[test]
    fn too_few_tokens_and_a_k_schedule_without_its_start_are_refused() {
        let e = Schedules::resolve(&settings(|_| ()), 601, None).unwrap_err().to_string();
        assert!(e.contains("trainer.total_training_tokens"), "{e}");
        let e =
            Schedules::resolve(&settings(|s| s.k_warmup_steps = Steps::Count(4)), 10, Some(8)).unwrap_err();
        assert!(e.to_string().contains("trainer.initial_k"), "{e}");
        let low = settings(|s| (s.k_warmup_steps, s.initial_k) = (Steps::Count(4), Some(7.0)));
        assert!(Schedules::resolve(&low, 10, Some(8)).is_err());
        assert!(Schedules::resolve(&low, 10, None).unwrap().k.is_none());
    }
}
