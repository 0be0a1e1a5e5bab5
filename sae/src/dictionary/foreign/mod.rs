//! Dictionaries that other tools train and this one only applies: [`ReadOnly`] is what they share around their forward.
//! README.

mod matching_pursuit;
mod temporal;

pub use matching_pursuit::MatchingPursuitSettings;
pub use temporal::TemporalSettings;

use super::{
    Base, Codes, Coefficients, DeadFeatures, Dictionary, Initialise, LossTerms, Param, RandomInit, Share,
    StepInput, norms_of, settings::DictionarySettings,
};
use crate::{Error, Result, training::LossSettings};
use lm_saes_runtime::{Arena, DType, Queue, Tensor, View};

/// The forward of such a dictionary, and its parameters.
pub(super) trait Applied: Send {
    /// In checkpoint order.
    fn params(&self) -> Vec<&Param>;
    /// In checkpoint order, to change.
    fn params_mut(&mut self) -> Vec<&mut Param>;
    /// Takes what forwards of up to `rows` rows need beside codes and reconstruction.
    fn plan(&mut self, arena: &mut Arena, rows: usize) -> Result<()>;
    /// From `x [B, d]`, in contexts of `context` rows, to codes `[B, S]` and reconstruction `[B, d]` (both `=`).
    fn forward(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        context: Option<usize>,
        out: (&mut Tensor, &mut Tensor),
    ) -> Result<()>;
    /// `[S, d]`.
    fn decoder(&self) -> &Param;
    /// `[S, d]`.
    fn encoder(&self) -> &Param;
}

/// Such a dictionary is applied as a whole.
pub(super) fn refuse_parts(settings: &DictionarySettings, share: &Share) -> Result<()> {
    if share.is_whole() {
        return Ok(());
    }
    let what =
        format!("a dictionary of type {} is not divided among ranks; set it to 1", settings.sae_type());
    Err(Error::setting("model_parallel_size", what))
}

/// A dictionary around an [`Applied`].
pub(super) struct ReadOnly<A> {
    base: Base,
    applied: A,
    /// `[rows, S]` and `[rows, d]`, once planned.
    out: Option<(Tensor, Tensor)>,
    rows: usize,
    done: usize,
}

impl<A: Applied> ReadOnly<A> {
    pub fn new(settings: &DictionarySettings, share: Share, applied: A) -> Self {
        Self { base: Base::new(settings, 1, share), applied, out: None, rows: 0, done: 0 }
    }

    fn untrained(&self) -> Error {
        Error::Unsupported {
            what: format!("training a dictionary of type {}", self.base.settings.sae_type()),
            why: "it is read from another tool's files and applied; evaluate or analyse it".into(),
        }
    }
}

impl<A: Applied> Initialise for ReadOnly<A> {
    fn variant(&self) -> &'static str {
        self.base.settings.sae_type()
    }
    fn init_random(&mut self, _q: &mut Queue, _init: &RandomInit) -> Result<()> {
        Err(self.untrained())
    }
}

impl<A: Applied> Dictionary for ReadOnly<A> {
    fn base(&self) -> &Base {
        &self.base
    }
    fn base_mut(&mut self) -> &mut Base {
        &mut self.base
    }
    fn params(&self) -> Vec<&Param> {
        self.applied.params()
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        self.applied.params_mut()
    }

    fn plan(
        &mut self,
        arena: &mut Arena,
        rows: usize,
        _max_k: usize,
        loss: Option<&LossSettings>,
    ) -> Result<()> {
        if loss.is_some() {
            return Err(self.untrained());
        }
        let (s, d) = (self.d_sae(), self.base.settings.d_model());
        let codes = arena.tensor("feature activations", rows, s, DType::F32)?;
        self.out = Some((codes, arena.tensor("reconstruction", rows, d, DType::F32)?));
        (self.rows, self.done) = (rows, 0);
        self.applied.plan(arena, rows)
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        inputs: &[View<'_>],
        context: Option<usize>,
        _k: usize,
    ) -> Result<()> {
        let d = self.base.settings.d_model();
        let (x, Some((codes, y))) = (inputs, &mut self.out) else {
            return Err(Error::Data { what: "the dictionary was not planned".into() });
        };
        match x {
            [x] if x.cols() == d && (1..=self.rows).contains(&x.rows()) => {
                self.done = x.rows();
                self.applied.forward(q, *x, context, (codes, y))
            }
            _ => Err(Error::Data {
                what: format!("expected one input of width {d} and up to {} rows, got {x:?}", self.rows),
            }),
        }
    }

    fn train_step(
        &mut self,
        _q: &mut Queue,
        _input: &StepInput<'_>,
        _loss: &LossSettings,
        _coefficients: Coefficients,
        _dead: Option<&mut DeadFeatures>,
    ) -> Result<LossTerms> {
        Err(self.untrained())
    }

    fn codes(&self) -> Vec<Codes<'_>> {
        self.out.iter().map(|(codes, _)| Codes::Dense(codes.rows_view(0..self.done))).collect()
    }

    fn reconstruction(&self) -> Vec<View<'_>> {
        self.out.iter().map(|(_, y)| y.rows_view(0..self.done)).collect()
    }

    fn decoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.applied.decoder().value)
    }

    fn encoder_norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.applied.encoder().value)
    }

    fn fold(&mut self, _q: &mut Queue) -> Result<()> {
        Err(Error::setting("fold_activation_scale", "this dictionary has no norms of a data set to fold"))
    }
}
