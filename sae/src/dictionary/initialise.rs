//! What the initialiser may ask of a dictionary (TRAINING §1, VARIANTS §6, §11). A variant implements what it can; the rest
//! answers with an error that names variant and setting.

use crate::{Error, Result};
use lm_saes_runtime::{Queue, Tensor, View};

/// Random starting values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomInit {
    /// Half-range of the encoder's uniform distribution.
    pub encoder_bound: f32,
    /// Half-range of the decoder's uniform distribution.
    pub decoder_bound: f32,
    /// Starting value of the log-thresholds; needed by JumpReLU.
    pub log_jumprelu_threshold: Option<f32>,
    /// Stream of random numbers.
    pub seed: u64,
}

impl RandomInit {
    /// The starting value of log-thresholds.
    ///
    /// # Errors
    /// None was given.
    pub fn log_threshold(&self) -> Result<f32> {
        self.log_jumprelu_threshold.ok_or_else(|| {
            let what = "is needed with act_fn = jumprelu: the log of the first threshold, e.g. -2.3";
            Error::setting("initializer.init_log_jumprelu_threshold_value", what)
        })
    }
}

/// The attention of one layer of a language model, as maps of what its `ln1.hook_normalized` gives; f32. Heads that share keys
/// and values have copies of their own.
pub struct ModelAttention {
    /// Heads.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// `[n_heads·d_head, d]`.
    pub w_q: Tensor,
    /// `[1, n_heads·d_head]`.
    pub b_q: Option<Tensor>,
    /// Gain of the norm of queries, `[1, d_head]`.
    pub q_gain: Option<Tensor>,
    /// Shaped like `w_q`.
    pub w_k: Tensor,
    /// Shaped like `b_q`.
    pub b_k: Option<Tensor>,
    /// Shaped like `q_gain`.
    pub k_gain: Option<Tensor>,
    /// Shaped like `w_q`.
    pub w_v: Tensor,
    /// Each head's output map, `[n_heads·d_head, d]`.
    pub w_o: Tensor,
}

/// What a language model lends to starting values.
pub trait ModelParts {
    /// The attention of a layer.
    ///
    /// # Errors
    /// No such layer, or an attention a dictionary cannot start from.
    fn attention(&self, q: &mut Queue, layer: usize) -> Result<ModelAttention>;
    /// What the MLP of a layer answers to `x [n, d]`, raw vectors of a hook point that it reads: `[n, d]`.
    ///
    /// # Errors
    /// No such layer, or a hook point its MLP does not read.
    fn mlp(&self, q: &mut Queue, layer: usize, hook_point: &str, x: View<'_>) -> Result<Tensor>;
}

/// Answers of a model's MLP to raw inputs `[n, d]`.
pub type Mlp<'a> = dyn FnMut(&mut Queue, View<'_>) -> Result<Tensor> + 'a;

/// Starting values, and the pieces the initialiser's search is made of. Batches are normalised.
pub trait Initialise {
    /// Name of the variant, for errors.
    fn variant(&self) -> &'static str;
    /// Random weights, zero biases, constant thresholds.
    fn init_random(&mut self, q: &mut Queue, init: &RandomInit) -> Result<()>;
    /// `W_E = factor · W_Dᵀ`.
    fn encoder_from_decoder_transpose(&mut self, _q: &mut Queue, _factor: f32) -> Result<()> {
        Err(unsupported(self.variant(), "init_encoder_with_decoder_transpose", "set it to false"))
    }
    /// Scales decoder rows to this norm; unless `exact`, only rows above it.
    fn set_decoder_norm(&mut self, _q: &mut Queue, _norm: f32, _exact: bool) -> Result<()> {
        Err(unsupported(self.variant(), "grid_search_init_norm", "set it to false"))
    }
    /// Scales encoder columns to this norm.
    fn set_encoder_norm(&mut self, _q: &mut Queue, _norm: f32) -> Result<()> {
        Err(unsupported(self.variant(), "an encoder of fixed norm", "leave the encoder as drawn"))
    }
    /// Decoder biases = mean of the labels, `labels [B, d]` one per output hook point. This is what the reference system's
    /// `geometric_median` computes; the name is kept for its settings files.
    fn decoder_bias_from_mean(&mut self, _q: &mut Queue, _labels: &[View<'_>]) -> Result<()> {
        Err(unsupported(self.variant(), "bias_init_method = geometric_median", "use all_zero"))
    }
    /// Encoder biases = minus the mean pre-activation without bias, so that repeating it changes nothing.
    fn encoder_bias_from_mean_hidden_pre(
        &mut self,
        _q: &mut Queue,
        _inputs: &[View<'_>],
        _context: Option<usize>,
    ) -> Result<()> {
        Err(unsupported(self.variant(), "init_encoder_bias_with_mean_hidden_pre", "set it to false"))
    }
    /// Confines decoder rows to the span of the labels' first `d_active` principal directions.
    fn decoder_from_active_subspace(
        &mut self,
        _q: &mut Queue,
        _labels: &[View<'_>],
        _d_active: usize,
    ) -> Result<()> {
        Err(unsupported(self.variant(), "initialize_W_D_with_active_subspace", "set it to false"))
    }
    /// Unit encoder directions, and decoder rows of norm 1 along what the model's MLP answers to each direction: probes lie around
    /// the mean of `inputs`, as far from it as inputs do on average (VARIANTS §6). `weight [B, 1]` adds up to 1.
    fn transcoder_from_mlp(
        &mut self,
        _q: &mut Queue,
        _inputs: &[View<'_>],
        _weight: View<'_>,
        _mlp: &mut Mlp<'_>,
    ) -> Result<()> {
        Err(unsupported(self.variant(), "initialize_tc_with_mlp", "leave it out"))
    }
    /// Whether [`Initialise::subspace_from_model`] takes the place of [`Initialise::decoder_from_active_subspace`].
    fn has_heads(&self) -> bool {
        false
    }
    /// Queries and keys of a layer's attention, so that the patterns on normalised inputs are the model's.
    fn queries_and_keys_from_model(&mut self, _q: &mut Queue, _attention: &ModelAttention) -> Result<()> {
        Err(unsupported(self.variant(), "initialize_lorsa_with_mhsa", "leave it out"))
    }
    /// Confines values and outputs, head by head, to the directions in which the model's values of `inputs` vary most.
    fn subspace_from_model(
        &mut self,
        _q: &mut Queue,
        _inputs: &[View<'_>],
        _attention: &ModelAttention,
    ) -> Result<()> {
        Err(unsupported(self.variant(), "initialize_W_D_with_active_subspace", "set it to false"))
    }
}

fn unsupported(variant: &str, what: &str, instead: &str) -> Error {
    Error::Unsupported {
        what: what.into(),
        why: format!("a dictionary of type {variant} has no such initialisation; {instead}"),
    }
}
