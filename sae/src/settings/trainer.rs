//! Settings of the trainer (TRAINING §2), with the reference system's names and defaults, and a few of our own at the end.

use super::{DTypeName, Steps};
use crate::{
    Error, Result,
    training::{LossSettings, SparsityLoss},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How k goes from `initial_k` to `top_k`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KSchedule {
    /// Straight line.
    #[default]
    Linear,
    /// Fast first, slow later.
    Exponential,
}

/// Which optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam.
    #[default]
    Adam,
    /// Adam that moves only entries whose gradient is not zero (TRAINING §4).
    SparseAdam,
}

/// Shape of the learning-rate curve (TRAINING §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedule {
    /// No change.
    Constant,
    /// Linear warm-up, constant, linear cool-down.
    #[default]
    ConstantWithWarmup,
    /// Linear warm-up, linear decay to zero.
    LinearWarmupDecay,
    /// Half a cosine from 1 to 0, no warm-up.
    CosineAnnealing,
    /// Linear warm-up, then half a cosine to 0.
    CosineAnnealingWarmup,
    /// Linear warm-up, then exponential decay to 1/32.
    ExponentialWarmup,
}

/// How the steps of weight snapshots are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointMode {
    /// Evenly on a logarithmic axis.
    #[default]
    Log,
    /// Evenly.
    Linear,
}

/// Settings of the trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerSettings {
    /// Coefficient of the sparsity penalty; `None` is 1 without warm-up. Only used with a `sparsity_loss_type`.
    pub l1_coefficient: Option<f64>,
    /// Warm-up of `l1_coefficient`.
    pub l1_coefficient_warmup_steps: Steps,
    /// Coefficient of the JumpReLU threshold penalty; `None` is off.
    pub lp_coefficient: Option<f64>,
    /// Coefficient of the auxiliary loss on dead features; `None` is off.
    pub auxk_coefficient: Option<f64>,
    /// Type of mixed precision. Accepted for compatibility and without effect: training computes in f32.
    pub amp_dtype: DTypeName,
    /// Sparsity penalty; `None` is no penalty.
    pub sparsity_loss_type: Option<SparsityLoss>,
    /// Stretch of the tanh penalties.
    pub tanh_stretch_coefficient: f64,
    /// Scale of the quadratic part of `tanh-quad`.
    pub frequency_scale: f64,
    /// Exponent of the `power` and `power-sum` penalties.
    pub p: f64,
    /// Ours: active features per token that `target-l0` aims at; needed with it.
    pub target_l0: Option<f64>,
    /// k at the start of the k schedule; needed when there is one.
    pub initial_k: Option<f64>,
    /// Length of the k schedule; 0 keeps k at `top_k` throughout.
    pub k_warmup_steps: Steps,
    /// Steps at `initial_k` before the k schedule starts.
    pub k_cold_booting_steps: Steps,
    /// Shape of the k schedule.
    pub k_schedule_type: KSchedule,
    /// Curvature of the exponential k schedule.
    pub k_exponential_factor: f64,
    /// Features the auxiliary loss may use in one row.
    pub k_aux: usize,
    /// Tokens without activation after which a feature is dead.
    pub dead_threshold: f64,
    /// Leave out all metrics.
    pub skip_metrics_calculation: bool,
    /// Must be 1: every batch is one optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the moments.
    pub betas: (f64, f64),
    /// Optimiser.
    pub optimizer_class: OptimizerKind,
    /// Accepted for compatibility and without effect: the update is one fused operation.
    pub optimizer_foreach: bool,
    /// Shape of the learning-rate curve.
    pub lr_scheduler_name: LrSchedule,
    /// Ratio the learning rate cools down to.
    pub lr_end_ratio: f64,
    /// Length of the warm-up.
    pub lr_warm_up_steps: Steps,
    /// Length of the cool-down.
    pub lr_cool_down_steps: Steps,
    /// Multiplies the learning rate of the JumpReLU thresholds.
    pub jumprelu_lr_factor: f64,
    /// Largest gradient norm (root mean square over non-zero entries); 0 is no clipping.
    pub clip_grad_norm: f64,
    /// Accepted for compatibility and without effect, as in the reference system.
    pub feature_sampling_window: usize,
    /// Tokens to train on; steps are these divided by the tokens of a full batch.
    pub total_training_tokens: u64,
    /// Steps between metric records.
    pub log_frequency: u64,
    /// Steps between evaluations on the language model; only with `eval = true`.
    pub eval_frequency: u64,
    /// Weight snapshots during training plus one; 0 is none.
    pub n_checkpoints: u64,
    /// Spacing of the weight snapshots.
    pub check_point_save_mode: CheckpointMode,
    /// Snapshot directory (`…/checkpoints/step_N`) to continue from.
    pub from_pretrained_path: Option<PathBuf>,
    /// Where everything is written.
    pub exp_result_path: PathBuf,
    /// Ours: steps between full snapshots, from which training resumes bit-exactly; 0 is none.
    pub snapshot_frequency: u64,
    /// Ours: full snapshots kept, newest first.
    pub snapshots_kept: usize,
    /// Ours: whether the auxiliary loss treats the reconstruction error as a constant; `false` is the reference system's form.
    pub auxk_detached: bool,
    /// Ours: whether the threshold penalty compares thresholds with gated pre-activations; `false` is the reference system's form.
    pub lp_gated: bool,
    /// Ours: exponent the `power-sum` penalty falls to from `p` (p-annealing); `None` keeps `p`.
    pub p_end: Option<f64>,
    /// Where the exponent begins to fall.
    pub anneal_start: Steps,
    /// Where it has arrived.
    pub anneal_end: Steps,
    /// In how many steps of equal size.
    pub n_sparsity_updates: u64,
    /// Ours: steps after which dead features get a new start from badly reconstructed inputs; 0 is never.
    pub resample_frequency: u64,
    /// Where that ends.
    pub resample_until: Steps,
    /// Norm of a new encoder, in mean norms of the living ones.
    pub resample_encoder_scale: f64,
    /// Seed of the choice of inputs.
    pub resample_seed: u64,
}

impl Default for TrainerSettings {
    fn default() -> Self {
        Self {
            l1_coefficient: Some(8e-5),
            l1_coefficient_warmup_steps: Steps::Fraction(0.1),
            lp_coefficient: None,
            auxk_coefficient: None,
            amp_dtype: DTypeName::Bf16,
            sparsity_loss_type: None,
            tanh_stretch_coefficient: 4.0,
            frequency_scale: 0.01,
            p: 1.0,
            target_l0: None,
            initial_k: None,
            k_warmup_steps: Steps::Fraction(0.1),
            k_cold_booting_steps: Steps::Count(0),
            k_schedule_type: KSchedule::Linear,
            k_exponential_factor: 3.0,
            k_aux: 512,
            dead_threshold: 10_000_000.0,
            skip_metrics_calculation: false,
            gradient_accumulation_steps: 1,
            lr: 4e-4,
            betas: (0.9, 0.999),
            optimizer_class: OptimizerKind::Adam,
            optimizer_foreach: true,
            lr_scheduler_name: LrSchedule::ConstantWithWarmup,
            lr_end_ratio: 1.0 / 32.0,
            lr_warm_up_steps: Steps::Count(5000),
            lr_cool_down_steps: Steps::Fraction(0.2),
            jumprelu_lr_factor: 1.0,
            clip_grad_norm: 0.0,
            feature_sampling_window: 1000,
            total_training_tokens: 300_000_000,
            log_frequency: 1000,
            eval_frequency: 1000,
            n_checkpoints: 10,
            check_point_save_mode: CheckpointMode::Log,
            from_pretrained_path: None,
            exp_result_path: "results".into(),
            snapshot_frequency: 1000,
            snapshots_kept: 2,
            auxk_detached: true,
            lp_gated: true,
            p_end: None,
            anneal_start: Steps::Count(0),
            anneal_end: Steps::Fraction(1.0),
            n_sparsity_updates: 10,
            resample_frequency: 0,
            resample_until: Steps::Fraction(0.5),
            resample_encoder_scale: 0.2,
            resample_seed: 42,
        }
    }
}

impl TrainerSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key under `trainer`.
    pub fn check(&self) -> Result<()> {
        let bad = |key: &str, what: &str| Err(Error::setting(format!("trainer.{key}"), what));
        let unit = 0.0..1.0;
        if self.gradient_accumulation_steps != 1 {
            return bad(
                "gradient_accumulation_steps",
                "must be 1: one batch is one step. A batch_size so many times larger gives the same updates, and memory \
                 grows little with it, since a step goes through its batch in blocks",
            );
        }
        if !unit.contains(&self.betas.0) || !unit.contains(&self.betas.1) {
            return bad("betas", "both must be at least 0 and below 1");
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return bad("lr", "must be a positive number");
        }
        if !(0.0..=1.0).contains(&self.lr_end_ratio) {
            return bad("lr_end_ratio", "must lie between 0 and 1");
        }
        let sum = self.sparsity_loss_type == Some(SparsityLoss::PowerSum);
        if !(self.p.is_finite() && self.p > 0.0 && (sum || self.p >= 1.0)) {
            return bad("p", "must be at least 1; with sparsity_loss_type = power-sum, above 0");
        }
        let target = self.target_l0.is_some_and(|t| t.is_finite() && t > 0.0);
        if self.sparsity_loss_type == Some(SparsityLoss::TargetL0) && !target {
            let what =
                "is needed with sparsity_loss_type = target-l0: the active features per token to aim at";
            return bad("target_l0", what);
        }
        if let Some(p_end) = self.p_end {
            if self.sparsity_loss_type != Some(SparsityLoss::PowerSum) {
                return bad("p_end", "needs sparsity_loss_type = power-sum");
            }
            if !(p_end > 0.0 && p_end <= self.p) || self.n_sparsity_updates == 0 {
                return bad(
                    "p_end",
                    "must lie above 0 and not above p, and n_sparsity_updates be at least 1",
                );
            }
        }
        if !(self.resample_encoder_scale.is_finite() && self.resample_encoder_scale >= 0.0) {
            return bad("resample_encoder_scale", "must be a number that is not negative");
        }
        if self.log_frequency == 0 || self.eval_frequency == 0 {
            return bad("log_frequency", "must be at least 1, and so must eval_frequency");
        }
        if self.total_training_tokens == 0 {
            return bad("total_training_tokens", "must be at least one batch");
        }
        if self.snapshots_kept == 0 {
            return bad(
                "snapshots_kept",
                "must be at least 1; to write no snapshots set snapshot_frequency to 0",
            );
        }
        if !(1.0..=f64::from(u32::MAX)).contains(&self.dead_threshold) {
            return bad("dead_threshold", "must lie between 1 and 4294967295 tokens");
        }
        for (key, value) in [
            ("l1_coefficient", self.l1_coefficient),
            ("lp_coefficient", self.lp_coefficient),
            ("auxk_coefficient", self.auxk_coefficient),
            ("clip_grad_norm", Some(self.clip_grad_norm)),
            ("jumprelu_lr_factor", Some(self.jumprelu_lr_factor)),
        ] {
            if value.is_some_and(|v| !v.is_finite() || v < 0.0) {
                return bad(key, "must be a number that is not negative");
            }
        }
        Ok(())
    }

    /// What the loss consists of.
    pub fn loss(&self) -> LossSettings {
        let on = |c: Option<f64>| c.is_some_and(|c| c > 0.0);
        LossSettings {
            sparsity: self.sparsity_loss_type,
            tanh_stretch: self.tanh_stretch_coefficient as f32,
            frequency_scale: self.frequency_scale as f32,
            p: self.p as f32,
            target_l0: self.target_l0.unwrap_or(50.0) as f32,
            lp: on(self.lp_coefficient),
            auxk: on(self.auxk_coefficient),
            k_aux: self.k_aux,
            lp_gated: self.lp_gated,
            auxk_detached: self.auxk_detached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_a_round_trip_through_text() {
        let text = toml::to_string(&TrainerSettings::default()).unwrap();
        assert_eq!(toml::from_str::<TrainerSettings>(&text).unwrap(), TrainerSettings::default());
    }

    #[test]
    fn gradient_accumulation_is_refused_by_name() {
        let s = TrainerSettings { gradient_accumulation_steps: 4, ..Default::default() };
        assert!(s.check().unwrap_err().to_string().contains("trainer.gradient_accumulation_steps"));
        TrainerSettings::default().check().unwrap();
    }
}
