//! Dictionaries: the trait every variant implements, and what trainer, checkpoints, metrics and runners know of one.
//! A variant is one file (or folder) with forward and backward side by side; nothing outside it names the variant.

pub mod checkpoint;
mod initialise;
pub mod normalise;
mod sae;
mod subspace;

pub use initialise::{Initialise, RandomInit};
pub use sae::Sae;

use crate::Result;
use lm_saes_runtime::{Arena, Queue, SparseView, Tensor, View};
use std::collections::BTreeMap;

/// Which optimiser group a parameter belongs to (TRAINING §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamGroup {
    /// Everything but thresholds.
    Others,
    /// JumpReLU log-thresholds: own learning rate, not clipped.
    Thresholds,
}

/// One trainable tensor.
pub struct Param {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Whether the device holds the transpose of the checkpoint's matrix (`W_E` is `[d, S]` in files, `[S, d]` here, so that
    /// sparse gradients gather contiguous rows).
    pub transposed: bool,
    /// Optimiser group.
    pub group: ParamGroup,
    /// Value, f32.
    pub value: Tensor,
    /// Gradient of the last [`Dictionary::train_step`]; present once planned for training.
    pub grad: Option<Tensor>,
}

/// Feature activations of the last forward.
#[derive(Clone, Copy, Debug)]
pub enum Codes<'a> {
    /// `[B, S]`.
    Dense(View<'a>),
    /// Sparse rows over S columns.
    Sparse(SparseView<'a>),
}

/// One batch, already normalised.
pub struct StepInput<'a> {
    /// Inputs `[B, d]`, one per input hook point.
    pub inputs: Vec<View<'a>>,
    /// Labels `[B, d]`, one per output hook point.
    pub labels: Vec<View<'a>>,
    /// Which rows count, `[1, B]` u8; absent = all.
    pub mask: Option<View<'a>>,
    /// `m_t / Σ m`, `[B, 1]` f32.
    pub weight: View<'a>,
    /// Σ m.
    pub n_tokens: usize,
}

/// Tokens-since-last-activation bookkeeping (VARIANTS §5), kept by the trainer because it outlives a step.
pub struct DeadFeatures {
    /// `[1, S]` u32.
    pub since: Tensor,
    /// Scratch `[1, S]` u32.
    pub fired: Tensor,
    /// `[1, S]` u8, 1 = dead.
    pub dead: Tensor,
    /// Tokens without activation after which a feature is dead.
    pub threshold: u32,
}

/// Coefficients in force in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Current k of the top-k family.
    pub k: usize,
    /// Sparsity coefficient after warm-up.
    pub l1: f32,
    /// Threshold penalty.
    pub lp: f32,
    /// Auxiliary loss.
    pub auxk: f32,
}

/// The loss of one step and its parts (VARIANTS §5); absent parts are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossTerms {
    /// Sum of the parts.
    pub loss: f32,
    /// Reconstruction.
    pub l_rec: f32,
    /// Sparsity, masked mean.
    pub l_s: Option<f32>,
    /// Threshold penalty.
    pub l_p: Option<f32>,
    /// Auxiliary.
    pub l_aux: Option<f32>,
}

/// A sparse dictionary of any variant.
pub trait Dictionary: Initialise + Send {
    /// Settings as they will be saved.
    fn settings(&self) -> &crate::settings::DictionarySettings;
    /// Number of features.
    fn d_sae(&self) -> usize;
    /// Hook points read.
    fn hook_points_in(&self) -> Vec<String>;
    /// Hook points reconstructed.
    fn hook_points_out(&self) -> Vec<String>;
    /// Average activation norm by hook point, for dataset-wise normalisation.
    fn norms(&self) -> &BTreeMap<String, f32>;
    /// Sets the average norms.
    fn set_norms(&mut self, norms: BTreeMap<String, f32>);
    /// All trainable tensors in checkpoint order.
    fn params(&self) -> Vec<&Param>;
    /// All trainable tensors in checkpoint order, to change.
    fn params_mut(&mut self) -> Vec<&mut Param>;
    /// Takes from `arena` everything a step on up to `rows` rows and any k up to `max_k` needs (the k schedule starts above
    /// `top_k`; activations without a k ignore it); `loss` is `None` for inference only.
    fn plan(
        &mut self,
        arena: &mut Arena,
        rows: usize,
        max_k: usize,
        loss: Option<&crate::training::LossSettings>,
    ) -> Result<()>;
    /// Encodes and decodes; then [`Dictionary::codes`] and [`Dictionary::reconstruction`] hold the result.
    fn forward(&mut self, q: &mut Queue, inputs: &[View<'_>], k: usize) -> Result<()>;
    /// Forward, loss and gradients: `Param::grad` is overwritten.
    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        loss: &crate::training::LossSettings,
        coefficients: Coefficients,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms>;
    /// Feature activations of the last forward or step.
    fn codes(&self) -> Codes<'_>;
    /// Reconstructions of the last forward or step, `[B, d]`, one per output hook point.
    fn reconstruction(&self) -> Vec<View<'_>>;
    /// The sparsity penalty of each row of the last step, `[B, 1]`, already times its coefficient; `None` without one or
    /// when the penalty is one number per batch (tanh-quad).
    fn row_penalty(&self) -> Option<View<'_>> {
        None
    }
    /// Decoder norms `[1, S]`.
    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>>;
    /// Encoder norms `[1, S]`.
    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>>;
    /// Rewrites the weights so that raw activations map to raw activations, exactly, and sets the mode to `inference`.
    fn fold(&mut self, q: &mut Queue) -> Result<()>;
}

/// A dictionary of zeros with these settings.
pub fn build(q: &mut Queue, settings: &crate::settings::DictionarySettings) -> Result<Box<dyn Dictionary>> {
    match settings {
        crate::settings::DictionarySettings::Sae(s) => Ok(Box::new(Sae::new(q, s)?)),
    }
}
