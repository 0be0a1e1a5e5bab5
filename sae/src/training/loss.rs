//! Which loss terms a run has; the coefficients of a step come from the schedules.

/// Sparsity penalty (VARIANTS §5.2).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum SparsityLoss {
    /// p-norm of each row.
    #[serde(rename = "power")]
    Power,
    /// Σ tanh per row.
    #[serde(rename = "tanh")]
    Tanh,
    /// Σ q(1 + q/scale) of the batch mean q of tanh.
    #[serde(rename = "tanh-quad")]
    TanhQuad,
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
    /// Exponent of the power form.
    pub p: f32,
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
