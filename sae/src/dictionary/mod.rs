//! Dictionaries: the trait every variant implements, and what trainer, checkpoints, metrics and runners know of one.
//! A variant is one file (or folder) with forward and backward side by side; nothing outside it names the variant.

mod base;
pub mod checkpoint;
mod clt;
mod coder;
mod crosscoder;
mod foreign;
mod gated;
mod heads;
mod initialise;
mod jumprelu;
mod lorsa;
mod matryoshka;
mod molt;
pub mod normalise;
mod param;
mod ranked;
mod sae;
pub mod settings;
pub(crate) mod shards;
mod share;
mod slots;
mod subspace;
mod threshold;
pub mod variants;

pub use base::Base;
pub use clt::CltSettings;
pub use crosscoder::CrossCoderSettings;
pub use foreign::{MatchingPursuitSettings, TemporalSettings};
pub use gated::GatedSettings;
pub use initialise::{Initialise, Mlp, ModelAttention, ModelParts, RandomInit};
pub use jumprelu::Calibration;
pub use lorsa::{LorsaSettings, NormalizationType, PositionalEmbedding};
pub use matryoshka::MatryoshkaSettings;
pub use molt::{MoltSettings, Rank};
pub use param::{Param, ParamGroup};
pub use sae::SaeSettings;
pub use share::{Place, Share};
pub use threshold::RunningThresholds;

use crate::{Error, Result, parallel::Mesh, training::SparsityLoss};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, ReduceKind, SparseView, Tensor, View, ViewMut};
use param::grad;
use serde_json::json;
use settings::DictionarySettings;
use std::{collections::BTreeMap, ops::Range};

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
    /// Rows of one context, for batches of whole contexts; `None` for single tokens.
    pub context: Option<usize>,
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
    /// Settings and average norms.
    fn base(&self) -> &Base;
    /// Settings and average norms, to change.
    fn base_mut(&mut self) -> &mut Base;
    /// Settings as they will be saved.
    fn settings(&self) -> &DictionarySettings {
        &self.base().settings
    }
    /// Number of features of the whole dictionary.
    fn d_sae(&self) -> usize {
        self.settings().d_sae()
    }
    /// What of the whole dictionary is here: its parameters, codes and norms are those of this part.
    fn share(&self) -> &Share {
        &self.base().share
    }
    /// Hook points read.
    fn hook_points_in(&self) -> Vec<String> {
        self.settings().hook_points_in()
    }
    /// Hook points reconstructed.
    fn hook_points_out(&self) -> Vec<String> {
        self.settings().hook_points_out()
    }
    /// Average activation norm by hook point, for dataset-wise normalisation.
    fn norms(&self) -> &BTreeMap<String, f32> {
        &self.base().norms
    }
    /// Sets the average norms.
    fn set_norms(&mut self, norms: BTreeMap<String, f32>) {
        self.base_mut().norms = norms;
    }
    /// Takes the average norms that ranks with other hook points have measured.
    fn gather_norms(&mut self, q: &mut Queue) -> Result<()> {
        let heads = self.base().mesh.head.clone();
        if heads.is_solo() {
            return Ok(());
        }
        let own: Vec<(&String, u32)> =
            self.norms().iter().map(|(hook, norm)| (hook, norm.to_bits())).collect();
        let all = heads.gather_bytes(q, json!(own).to_string().as_bytes())?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Vec<(String, u32)>>(bytes);
        let all = all.iter().map(read).collect::<serde_json::Result<Vec<_>>>();
        let all = all.map_err(|e| Error::Data { what: format!("norms of another rank: {e}") })?;
        self.set_norms(all.into_iter().flatten().map(|(hook, norm)| (hook, f32::from_bits(norm))).collect());
        Ok(())
    }
    /// What selections over the batch let through in training; with it [`Dictionary::forward`] on a plan without a loss does not
    /// depend on the batch.
    fn running_thresholds(&self) -> &RunningThresholds {
        &self.base().running
    }
    /// The same, to set.
    fn running_thresholds_mut(&mut self) -> &mut RunningThresholds {
        &mut self.base_mut().running
    }
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
    /// Encodes and decodes; then [`Dictionary::codes`] and [`Dictionary::reconstruction`] hold the result. `context` as in
    /// [`StepInput`].
    fn forward(&mut self, q: &mut Queue, inputs: &[View<'_>], context: Option<usize>, k: usize)
    -> Result<()>;
    /// Codes of layer `l` of a dictionary of layers from its input `x [B, d]` alone: what [`Dictionary::forward`] gives it.
    ///
    /// # Errors
    /// A dictionary without layers, or one in which they compete for places.
    fn encode_one(&mut self, _q: &mut Queue, _l: usize, _x: View<'_>, _k: usize) -> Result<Codes<'_>> {
        Err(Error::Unsupported {
            what: "encoding one layer".into(),
            why: format!("a dictionary of type {} has no layers", self.settings().sae_type()),
        })
    }
    /// Forward, loss and gradients: those of this rank's rows in [`Param::grad`], or made when asked for.
    fn train_step(
        &mut self,
        q: &mut Queue,
        input: &StepInput<'_>,
        loss: &crate::training::LossSettings,
        coefficients: Coefficients,
        dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms>;
    /// Parameters, counted as in [`Dictionary::params`], and rows of them whose gradient is not kept because that would take much
    /// memory: [`Dictionary::make_gradient`] makes it, best in this order.
    fn made_gradients(&self) -> Vec<(usize, Range<usize>)> {
        Vec::new()
    }
    /// Makes the gradient of one of [`Dictionary::made_gradients`] of the last step in `out`, the same bits each time until the next
    /// step. It depends on the value of no parameter, and these parameters may have none for a while.
    fn make_gradient(
        &mut self,
        _q: &mut Queue,
        param: usize,
        _rows: Range<usize>,
        _out: ViewMut<'_>,
    ) -> Result<()> {
        Err(Error::Data { what: format!("the gradient of parameter {param} is kept, not made") })
    }
    /// Refuses losses this variant does not have.
    fn check_loss(&self, loss: &crate::training::LossSettings) -> Result<()> {
        match loss.sparsity {
            Some(kind @ (SparsityLoss::PowerSum | SparsityLoss::TargetL0)) => {
                let what = format!("{kind:?} does not exist for sae_type {}", self.settings().sae_type());
                Err(Error::setting("trainer.sparsity_loss_type", what))
            }
            _ => Ok(()),
        }
    }
    /// Feature activations of the last forward or step, one for each head or layer that has its own.
    fn codes(&self) -> Vec<Codes<'_>>;
    /// Over how many heads figures such as L0 are averaged; those of layers are added up (TRAINING §6).
    fn averaged_heads(&self) -> usize {
        1
    }
    /// Most features a selection with budget k can leave active: the largest k that means anything.
    fn most_active(&self) -> usize {
        self.d_sae()
    }
    /// For a dictionary of layers: where records have explained variance and L0 of each; its sparsity counters are by layer too.
    fn layer_metrics(&self) -> Option<&'static str> {
        None
    }
    /// Metrics only this variant has, of the last step on `input`; recorded as means over steps. `weight` is `input.weight` on
    /// the host.
    fn own_metrics(
        &mut self,
        _q: &mut Queue,
        _input: &StepInput<'_>,
        _weight: &[f32],
    ) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }
    /// Reconstructions of the last forward or step, `[B, d]`, one per output hook point.
    fn reconstruction(&self) -> Vec<View<'_>>;
    /// The sparsity penalty of each row of the last step, `[B, 1]`, already times its coefficient; `None` without one or
    /// when the penalty is one number per batch (tanh-quad).
    fn row_penalty(&self) -> Option<View<'_>> {
        None
    }
    /// Constant tensors of the checkpoint beside the trainable ones.
    fn buffers(&self) -> Vec<checkpoint::Buffer> {
        Vec::new()
    }
    /// For a dictionary with attention: how much each position of one context `x [T, d]`, normalised as for a forward,
    /// contributes to some features: for feature i a matrix `[T, T]` of `A[t, s]·v[s]`, 0 for s > t, whose row t sums to the
    /// pre-activation at t.
    ///
    /// # Errors
    /// A dictionary without attention, a feature that does not exist, a context that is too long.
    fn z_patterns(&self, _q: &mut Queue, _x: View<'_>, _features: &[usize]) -> Result<Vec<Tensor>> {
        Err(no_attention())
    }
    /// Activations the sparsity penalty looks at, of the last rows of the step: all rows, unless that would keep what nobody
    /// else needs.
    fn penalised(&self) -> Vec<Codes<'_>> {
        self.codes()
    }
    /// Gives feature i a new start at a normalised input and label: an encoder of this norm in the direction of the input, without
    /// bias, and a decoder of norm 1 in that of the label. Returns the parameters whose row i, or entry i of a vector, was set.
    fn resample(
        &mut self,
        _q: &mut Queue,
        _i: usize,
        (_input, _label): (&[f32], &[f32]),
        _norm: f32,
    ) -> Result<Vec<String>> {
        let what = format!(
            "sae_type {} cannot give dead features a new start; set it to 0",
            self.settings().sae_type()
        );
        Err(Error::setting("trainer.resample_frequency", what))
    }
    /// Decoder norms `[1, S]`.
    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>>;
    /// Encoder norms `[1, S]`.
    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>>;
    /// Rewrites the weights so that every decoder row has norm 1 and the dictionary computes what it did.
    ///
    /// # Errors
    /// A dictionary for which that cannot be.
    fn to_unit_decoder_norm(&mut self, _q: &mut Queue) -> Result<()> {
        Err(Error::Unsupported {
            what: "decoder rows of norm 1".into(),
            why: format!("a dictionary of type {} has no such form", self.settings().sae_type()),
        })
    }
    /// Rewrites the weights so that raw activations map to raw activations, exactly, and sets the mode to `inference`.
    fn fold(&mut self, q: &mut Queue) -> Result<()>;
}

fn no_attention() -> Error {
    Error::Unsupported {
        what: "patterns of attention".into(),
        why: "only a Lorsa dictionary has them".into(),
    }
}

/// A dictionary of zeros with these settings.
pub fn build(q: &mut Queue, settings: &DictionarySettings) -> Result<Box<dyn Dictionary>> {
    build_part(q, settings, Place::WHOLE, Place::WHOLE)
}

/// What of a dictionary of zeros this rank of a mesh holds, which works with the other ranks from then on.
///
/// # Errors
/// Numbers of ranks that do not divide what they would share.
pub fn build_on(q: &mut Queue, settings: &DictionarySettings, mesh: &Mesh) -> Result<Box<dyn Dictionary>> {
    settings.validate()?;
    let mut part = settings.variant.facts().build(q, settings, Share::on(settings, mesh)?)?;
    part.base_mut().mesh = mesh.clone();
    Ok(part)
}

/// The part of a dictionary of zeros that belongs to the rank at these places: among those that divide its features, and among
/// those that divide its heads. For a part that is not built, loaded or saved but used, see [`build_on`].
///
/// # Errors
/// Numbers of ranks that do not divide what they would share.
pub fn build_part(
    q: &mut Queue,
    settings: &DictionarySettings,
    model: Place,
    head: Place,
) -> Result<Box<dyn Dictionary>> {
    settings.validate()?;
    let share = Share::of(settings, model, head)?;
    settings.variant.facts().build(q, settings, share)
}

/// A power of two, for dividing by numbers that may be 0: `x ↦ min(1, TINY/x)/TINY` is 1/x, and finite at 0.
const TINY: f32 = 1.0 / (1u64 << 60) as f32;

/// `out = 1/x` of numbers that are not negative; finite at 0.
fn reciprocals(q: &mut Queue, x: &Tensor, out: &mut Tensor) -> Result<()> {
    Ok(q.map(MapKind::Shrink, x, 1.0 / TINY, TINY, out)?)
}

/// A pass was asked of a dictionary before it got its memory.
fn unplanned() -> Error {
    Error::Data { what: "the dictionary was not planned".into() }
}

/// `‖row‖` of `w [S, d]` into `out [S, 1]`.
fn row_norms(q: &mut Queue, w: &Tensor, mut out: ViewMut<'_>) -> Result<()> {
    q.reduce_cols(ReduceKind::SumSq, w, out.reborrow(), 0.0)?;
    Ok(q.map_in_place(MapKind::Sqrt, 0.0, 0.0, out)?)
}

/// `‖row‖` of `w [S, d]` on the host.
fn norms_of(q: &mut Queue, w: &Tensor) -> Result<Vec<f32>> {
    let mut out = q.empty(w.rows(), 1, DType::F32)?;
    row_norms(q, w, out.view_mut())?;
    Ok(q.download(&out)?)
}
