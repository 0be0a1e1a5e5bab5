//! Settings of the initialiser (TRAINING §1.1), with the reference system's names and defaults, and our seed.

use serde::{Deserialize, Serialize};

/// Start value of the decoder bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasInit {
    /// Zero.
    #[default]
    AllZero,
    /// The mean of one batch of normalised labels (the name is the reference system's; it takes the mean too).
    GeometricMedian,
}

/// Settings of the initialiser.
#[allow(non_snake_case)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitializerSettings {
    /// Start value of the decoder bias.
    pub bias_init_method: BiasInit,
    /// `W_D` starts uniform in ± this.
    pub decoder_uniform_bound: f64,
    /// `W_E` starts uniform in ± this.
    pub encoder_uniform_bound: f64,
    /// Start the encoder as the decoder's transpose.
    pub init_encoder_with_decoder_transpose: bool,
    /// Multiplies that transpose.
    pub init_encoder_with_decoder_transpose_factor: f64,
    /// Logarithm of the first JumpReLU threshold; needed for jumprelu.
    pub init_log_jumprelu_threshold_value: Option<f64>,
    /// Search the decoder norm with the smallest reconstruction loss on one batch.
    pub grid_search_init_norm: bool,
    /// Project the decoder onto the span of the leading directions of one batch.
    pub initialize_W_D_with_active_subspace: bool,
    /// Dimension of that span.
    pub d_active_subspace: Option<usize>,
    /// Start the queries and keys of a Lorsa dictionary from the model's attention.
    pub initialize_lorsa_with_mhsa: Option<bool>,
    /// Start a transcoder from the language model's own MLP: decoder rows along its answers to the encoder's directions, which
    /// `init_encoder_with_decoder_transpose` then leaves alone.
    pub initialize_tc_with_mlp: Option<bool>,
    /// Layer for the two settings above.
    pub model_layer: Option<usize>,
    /// Subtract the mean pre-activation of one batch from the encoder bias.
    pub init_encoder_bias_with_mean_hidden_pre: bool,
    /// Ours: seed of the random parameters.
    pub seed: u64,
}

impl Default for InitializerSettings {
    fn default() -> Self {
        Self {
            bias_init_method: BiasInit::AllZero,
            decoder_uniform_bound: 1.0,
            encoder_uniform_bound: 1.0,
            init_encoder_with_decoder_transpose: true,
            init_encoder_with_decoder_transpose_factor: 1.0,
            init_log_jumprelu_threshold_value: None,
            grid_search_init_norm: false,
            initialize_W_D_with_active_subspace: false,
            d_active_subspace: None,
            initialize_lorsa_with_mhsa: None,
            initialize_tc_with_mlp: None,
            model_layer: None,
            init_encoder_bias_with_mean_hidden_pre: false,
            seed: 42,
        }
    }
}
