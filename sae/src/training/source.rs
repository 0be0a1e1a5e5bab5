//! What the trainer needs of a stream of activations, and how one of its batches becomes the input of a step: rows
//! normalised in place, mask and weights beside them.

use crate::{
    Error, Result,
    activations::{ActivationStream, Batch, Producer},
    dictionary::{
        Dictionary, StepInput,
        normalise::{self, Scaling},
    },
};
use lm_saes_runtime::{Arena, DType, Queue, Tensor, View};
use std::path::Path;

/// Batches of activations whose position can be saved and taken up again exactly.
pub trait BatchSource {
    /// Hook points, in the order of [`Batch::acts`].
    fn hook_points(&self) -> &[String];
    /// The next batch, or none when the data has ended.
    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>>;
    /// Writes position and waiting rows to `path`.
    fn save_state(&self, q: &mut Queue, path: &Path) -> Result<()>;
    /// Continues where [`BatchSource::save_state`] was called.
    fn load_state(&mut self, q: &mut Queue, path: &Path) -> Result<()>;
}

/// A stream together with the model that feeds it.
pub struct LiveSource<'a> {
    /// The stream.
    pub stream: ActivationStream,
    /// What gives activations for its tokens.
    pub model: &'a dyn Producer,
}

impl BatchSource for LiveSource<'_> {
    fn hook_points(&self) -> &[String] {
        self.stream.hook_points()
    }
    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        self.stream.next_batch(q, self.model)
    }
    fn save_state(&self, q: &mut Queue, path: &Path) -> Result<()> {
        self.stream.save_state(q, path)
    }
    fn load_state(&mut self, q: &mut Queue, path: &Path) -> Result<()> {
        self.stream.load_state(q, path)
    }
}

/// Memory to scale the rows of one hook point at a time.
pub struct Scaler {
    /// `[R, 1]`.
    factors: Tensor,
    scratch: normalise::Scratch,
}

impl Scaler {
    /// For up to `rows` rows.
    pub fn plan(arena: &mut Arena, rows: usize) -> Result<Self> {
        Ok(Self {
            factors: arena.tensor("normalisation factors", rows, 1, DType::F32)?,
            scratch: normalise::Scratch::plan(arena, rows)?,
        })
    }

    /// Scales `acts` in place, in runs of `context` rows where the batch has contexts.
    pub fn in_place(
        &mut self,
        q: &mut Queue,
        scaling: &Scaling,
        context: Option<usize>,
        acts: &mut Tensor,
    ) -> Result<()> {
        let rows = 0..acts.rows();
        scaling.scale_in_place(q, context, &mut self.scratch, self.factors.rows_mut(rows), acts.view_mut())
    }

    /// Scales `acts` into the first rows of `out`; they stay raw.
    pub fn copy(
        &mut self,
        q: &mut Queue,
        scaling: &Scaling,
        context: Option<usize>,
        acts: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = 0..acts.rows();
        let factors = self.factors.rows_mut(rows.clone());
        scaling.scale(q, acts.view(), context, &mut self.scratch, factors, out.rows_mut(rows))
    }
}

/// Memory of one batch's input beside its activations.
pub struct InputBuffers {
    /// `[1, R]` u8.
    mask: Tensor,
    /// `[R, 1]`.
    weight: Tensor,
    scaler: Scaler,
    rows: usize,
    /// Rows that count in the batch loaded last, other ranks' included.
    counted: usize,
}

impl InputBuffers {
    /// For batches of up to `rows` rows.
    pub fn plan(arena: &mut Arena, rows: usize) -> Result<Self> {
        Ok(Self {
            mask: arena.tensor("mask", 1, rows, DType::U8)?,
            weight: arena.tensor("row weights", rows, 1, DType::F32)?,
            scaler: Scaler::plan(arena, rows)?,
            rows,
            counted: 0,
        })
    }

    /// Normalises the batch in place and uploads mask and weights; returns the weights `m_t / Σ m`. `hook_points` says what
    /// `batch.acts` are.
    ///
    /// # Errors
    /// A batch larger than planned, without a row that counts, or without a hook point the dictionary needs.
    pub fn load(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
    ) -> Result<Vec<f32>> {
        let counted = batch.n_valid;
        self.load_share(q, dictionary, hook_points, batch, counted)
    }

    /// [`InputBuffers::load`] of this rank's share of a batch of which `counted` rows count in all.
    ///
    /// # Errors
    /// As there.
    pub fn load_share(
        &mut self,
        q: &mut Queue,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        batch: &mut Batch,
        counted: usize,
    ) -> Result<Vec<f32>> {
        self.check(batch, counted)?;
        let needed = needed(dictionary);
        for (hook_point, acts) in hook_points.iter().zip(&mut batch.acts) {
            if !needed.contains(hook_point) {
                continue;
            }
            let scaling = Scaling::of(dictionary, hook_point)?;
            if scaling.constant() != Some(1.0) {
                self.scaler.in_place(q, &scaling, batch.contexts.map(|(_, len)| len), acts)?;
            }
        }
        self.load_rows(q, batch, counted)
    }

    fn check(&self, batch: &Batch, counted: usize) -> Result<()> {
        let rows = batch.rows();
        if rows > self.rows || counted == 0 {
            let what =
                format!("a batch of {rows} rows, {counted} of which count; planned for 1 to {}", self.rows);
            return Err(Error::Data { what });
        }
        Ok(())
    }

    /// Mask and weights alone, for activations that were normalised elsewhere; `counted` rows of the whole batch count.
    pub fn load_rows(&mut self, q: &mut Queue, batch: &Batch, counted: usize) -> Result<Vec<f32>> {
        self.check(batch, counted)?;
        self.counted = counted;
        let rows = batch.rows();
        let share = 1.0 / counted as f32;
        let weight: Vec<f32> = batch.mask.iter().map(|&m| if m != 0 { share } else { 0.0 }).collect();
        q.upload(&weight, self.weight.rows_mut(0..rows))?;
        q.upload(&batch.mask, self.mask.view_mut().slice_cols(0..rows))?;
        Ok(weight)
    }

    /// The input of a step on a batch that was loaded.
    pub fn input<'a>(
        &'a self,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        batch: &'a Batch,
    ) -> Result<StepInput<'a>> {
        self.input_of(dictionary, hook_points, &views(batch), batch)
    }

    /// The same from normalised activations `acts` in the order of `hook_points`; `batch` says what its rows are.
    pub fn input_of<'a>(
        &'a self,
        dictionary: &dyn Dictionary,
        hook_points: &[String],
        acts: &[View<'a>],
        batch: &Batch,
    ) -> Result<StepInput<'a>> {
        let rows = batch.rows();
        Ok(StepInput {
            inputs: select(&dictionary.hook_points_in(), hook_points, acts)?,
            labels: select(&dictionary.hook_points_out(), hook_points, acts)?,
            context: batch.contexts.map(|(_, len)| len),
            mask: batch.has_masked().then(|| self.mask.view().slice_cols(0..rows)),
            weight: self.weight.rows_view(0..rows),
            n_tokens: self.counted,
        })
    }
}

/// The activations of a batch.
pub fn views(batch: &Batch) -> Vec<View<'_>> {
    batch.acts.iter().map(Tensor::view).collect()
}

/// Every hook point a dictionary reads or reconstructs, once.
pub fn needed(dictionary: &dyn Dictionary) -> Vec<String> {
    let mut all = dictionary.hook_points_in();
    for h in dictionary.hook_points_out() {
        if !all.contains(&h) {
            all.push(h);
        }
    }
    all
}

fn select<'a>(wanted: &[String], hook_points: &[String], acts: &[View<'a>]) -> Result<Vec<View<'a>>> {
    let find = |h: &String| {
        let at = hook_points.iter().position(|p| p == h);
        at.and_then(|i| acts.get(i)).copied().ok_or_else(|| {
            let what =
                format!("must contain {h:?}, which the dictionary needs; it has {}", hook_points.join(", "));
            Error::setting("activation_factory.hook_points", what)
        })
    };
    wanted.iter().map(find).collect()
}
