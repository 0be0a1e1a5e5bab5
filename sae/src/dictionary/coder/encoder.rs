//! What tells one coder from another: how pre-activations come from inputs, and the gradients of that.

use super::codes::SparseCodes;
use crate::{
    Error, Result,
    dictionary::{ModelAttention, Param, RandomInit, checkpoint::Buffer, no_attention, slots::Slots},
};
use lm_saes_runtime::{Arena, Queue, RandomKind, Tensor, View, ViewMut};

/// The encoder of a [`super::Coder`].
pub(crate) trait Encoder: Send {
    /// Trainable tensors in checkpoint order, matrices as `[S, d]`.
    fn params(&self) -> Vec<&Param>;
    /// Trainable tensors in checkpoint order, to change.
    fn params_mut(&mut self) -> Vec<&mut Param>;
    /// Constant tensors of the checkpoint.
    fn buffers(&self) -> Vec<Buffer> {
        Vec::new()
    }
    /// For an encoder that joins rows, such as attention: most rows that may have to be encoded together, the longest context.
    /// Its gradients are asked for dense, block by block.
    fn most_joined(&self) -> Option<usize> {
        None
    }
    /// Called before a pass over `rows` rows in contexts of `context` rows (`None`: single tokens). Returns how many rows are
    /// encoded together: every block given to the other methods is a multiple of it.
    fn begin(&mut self, _rows: usize, _context: Option<usize>) -> Result<usize> {
        Ok(1)
    }
    /// Takes what blocks of up to `block` rows need; the gradients of the parameters are planned already.
    fn plan(&mut self, arena: &mut Arena, block: usize, training: bool) -> Result<()>;
    /// Pre-activations of a block, `x [B, d]`, `h [B, S]` (`=`).
    fn hidden(&mut self, q: &mut Queue, x: View<'_>, h: ViewMut<'_>) -> Result<()>;
    /// Brings back what gradients need of a block whose pre-activations are known; only asked of an encoder that joins rows.
    fn recall(&mut self, _q: &mut Queue, _x: View<'_>) -> Result<()> {
        Ok(())
    }
    /// Gradients from `dh [B, S]` of the block last given to [`Encoder::hidden`] or [`Encoder::recall`]: `= beta·old + …`. `spare [B, S]` is overwritten.
    fn dense_grads(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        dh: View<'_>,
        spare: ViewMut<'_>,
        beta: f32,
    ) -> Result<()>;
    /// Gradients from `slots.dcodes`, one value for each entry of `codes` of the whole pass, grouped by column:
    /// `= beta·old + …`. `ones [B, 1]`; the rest of `slots` may be overwritten. Not asked of an encoder that joins rows.
    fn sparse_grads(
        &mut self,
        _q: &mut Queue,
        _x: View<'_>,
        _codes: &SparseCodes,
        _slots: &mut Slots,
        _ones: View<'_>,
        _beta: f32,
    ) -> Result<()> {
        Err(Error::Data { what: "sparse gradients of an encoder that takes them dense".into() })
    }
    /// Whether the encoder has activations of its own beside the pre-activations; see [`Side`].
    fn has_side(&self) -> bool {
        false
    }
    /// Those of the block of `rows` rows last given to [`Encoder::hidden`].
    fn side(&mut self, _rows: usize) -> Option<Side<'_>> {
        None
    }
    /// Those [`Encoder::side`] gives, to look at.
    fn side_acts(&self, _rows: usize) -> Option<View<'_>> {
        None
    }
    /// `db_D −= Σ dx` over the rows of the pass, for an encoder that sees `x − b_D`; its own gradients are complete.
    fn centre_grad(&mut self, _q: &mut Queue, _db_d: &mut Tensor) -> Result<()> {
        Err(Error::setting(
            "apply_b_dec_to_input",
            "this variant's encoder sees the input itself; set it to false",
        ))
    }
    /// Gives feature i this encoder `[d]` and no bias; returns the names of the parameters set.
    fn set_feature(&mut self, _q: &mut Queue, _i: usize, _w: &[f32]) -> Result<Vec<String>> {
        let what = "this variant cannot give a dead feature a new start; set it to 0";
        Err(Error::setting("trainer.resample_frequency", what))
    }
    /// Whether a constant added to [`Encoder::bias_mut`] is added to every pre-activation.
    fn bias_is_added(&self) -> bool {
        true
    }
    /// Norm of each feature's encoder `[S]`.
    fn norms(&mut self, q: &mut Queue) -> Result<Vec<f32>>;
    /// Rewrites the weights so that every pre-activation i becomes `factors[i]·h_i`, `factors [S, 1]`.
    fn scale_features(&mut self, _q: &mut Queue, _factors: View<'_>) -> Result<()> {
        Err(Error::Unsupported {
            what: "decoder rows of norm 1".into(),
            why: "this variant's encoder cannot make up for them".into(),
        })
    }
    /// Rewrites the weights so that raw inputs take the place of `a·x`; returns r where the new pre-activations are r·h.
    fn fold(&mut self, q: &mut Queue, a: f32) -> Result<f32>;
    /// Random weights, zero biases; `part` counts the stretches of the random stream that are taken already.
    fn init_random(&mut self, q: &mut Queue, init: &RandomInit, part: &mut Parts) -> Result<()>;
    /// Random decoder `w_d [S, d]` from the random stream at `part`.
    fn init_decoder(&self, q: &mut Queue, init: &RandomInit, part: u64, w_d: &mut Param) -> Result<()> {
        let range = (-init.decoder_bound, init.decoder_bound);
        w_d.random(q, RandomKind::Uniform, range, init.seed, part)
    }
    /// Whether setting a decoder norm scales all rows by one factor, so that their mean gets it, rather than each row.
    fn decoder_norms_move_together(&self) -> bool {
        false
    }
    /// Whether the encoder can start from the heads of a model's attention.
    fn has_heads(&self) -> bool {
        false
    }
    /// Queries and keys of the model for inputs that are multiplied by `a`.
    fn take_queries_and_keys(&mut self, _q: &mut Queue, _from: &ModelAttention, _a: f32) -> Result<()> {
        Err(no_attention())
    }
    /// Values, and the decoder `w_d [S, d]`, in the directions in which the model's values of `x [B, d]` vary most.
    fn take_value_subspace(
        &mut self,
        _q: &mut Queue,
        _x: View<'_>,
        _from: &ModelAttention,
        _w_d: &mut Tensor,
    ) -> Result<()> {
        Err(no_attention())
    }
    /// See [`crate::dictionary::Dictionary::z_patterns`].
    fn z_patterns(&self, _q: &mut Queue, _x: View<'_>, _features: &[usize]) -> Result<Vec<Tensor>> {
        Err(no_attention())
    }
    /// Directions in which inputs are read, `[S, d]`, where each feature has one.
    fn directions(&self) -> Option<View<'_>> {
        None
    }
    /// `W_E = factor · W_Dᵀ`, from `w_d [S, d]`.
    fn set_from_decoder(&mut self, _q: &mut Queue, _w_d: View<'_>, _factor: f32) -> Result<()> {
        Err(Error::setting(
            "initializer.init_encoder_with_decoder_transpose",
            "this variant's encoder is no transpose of its decoder; set it to false",
        ))
    }
    /// Scales every feature's encoder to this norm.
    fn set_norm(&mut self, _q: &mut Queue, _norm: f32) -> Result<()> {
        Err(Error::Unsupported {
            what: "an encoder of fixed norm".into(),
            why: "this variant has none; leave the encoder as drawn".into(),
        })
    }
    /// The bias of the pre-activations, `[1, S]`.
    fn bias_mut(&mut self) -> &mut Param;
}

/// Activations the sparsity penalty looks at in place of the codes, and which reconstruct once more through a decoder that does
/// not move (the gate's in a gated SAE).
pub(crate) struct Side<'a> {
    /// `[B, S]`.
    pub acts: View<'a>,
    /// Where their gradient goes (`=`).
    pub grad: ViewMut<'a>,
}

/// Hands out disjoint stretches of one random stream, each as long as the largest tensor.
pub(crate) struct Parts {
    size: u64,
    next: u64,
}

impl Parts {
    /// Stretches of `size` numbers.
    pub fn new(size: usize) -> Self {
        Self { size: size as u64, next: 0 }
    }

    /// Where the next stretch begins.
    pub fn take(&mut self) -> u64 {
        self.next += 1;
        (self.next - 1) * self.size
    }
}
