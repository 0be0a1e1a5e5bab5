//! Which loss terms a run has; the coefficients of a step come from the schedules.

use lm_saes_runtime::PenaltyKind;

/// Sparsity penalty (VARIANTS §5.2).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum SparsityLoss {
    /// p-norm of each row.
    #[serde(rename = "power")]
    Power,
    /// Σ |u|^p of each row, for p below 1 too (Karvonen et al. 2024).
    #[serde(rename = "power-sum")]
    PowerSum,
    /// Σ tanh per row.
    #[serde(rename = "tanh")]
    Tanh,
    /// Σ q(1 + q/scale) of the batch mean q of tanh.
    #[serde(rename = "tanh-quad")]
    TanhQuad,
    /// (L0/target − 1)², whose gradient reaches JumpReLU thresholds alone (Gemma Scope 2).
    #[serde(rename = "target-l0")]
    TargetL0,
}

impl SparsityLoss {
    /// The device's form of a penalty on activations; target-l0 is none.
    pub fn kind(self) -> Option<PenaltyKind> {
        match self {
            Self::Power => Some(PenaltyKind::Power),
            Self::PowerSum => Some(PenaltyKind::PowerSum),
            Self::Tanh | Self::TanhQuad => Some(PenaltyKind::Tanh),
            Self::TargetL0 => None,
        }
    }
}

/// What the loss consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct LossSettings {
    /// Sparsity penalty, if any.
    pub sparsity: Option<SparsityLoss>,
    /// Stretch c of the tanh forms.
    pub tanh_stretch: f32,
    /// Scale of tanh-quad.
    pub frequency_scale: f32,
    /// Exponent of the power forms.
    pub p: f32,
    /// Active features per token that target-l0 aims at.
    pub target_l0: f32,
    /// Whether the JumpReLU threshold penalty is on.
    pub lp: bool,
    /// Whether the auxiliary loss is on.
    pub auxk: bool,
    /// Budget of the auxiliary loss.
    pub k_aux: usize,
    /// Compare thresholds with gated pre-activations in the penalty (default); false is the reference system's form.
    pub lp_gated: bool,
    /// Treat the reconstruction error as a constant in the auxiliary loss (default); false is the reference system's form.
    pub auxk_detached: bool,
}

impl Default for LossSettings {
    /// Reconstruction alone.
    fn default() -> Self {
        Self {
            sparsity: None,
            tanh_stretch: 4.0,
            frequency_scale: 0.01,
            p: 1.0,
            target_l0: 50.0,
            lp: false,
            auxk: false,
            k_aux: 512,
            lp_gated: true,
            auxk_detached: true,
        }
    }
}
