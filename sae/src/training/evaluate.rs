//! Evaluation (TRAINING §9): reconstruction metrics on batches, and what replacing an activation by its reconstruction does to
//! the language model's loss.

use super::{BatchSource, metrics::MetricWindow, source::InputBuffers};
use crate::{
    Error, Result,
    data::{TokenBatch, TokenStream},
    dictionary::{
        Dictionary,
        normalise::{self, Scaling, Scratch},
    },
    lm::{Edit, Lm, Tokens},
};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, Tensor};
use std::ops::Range;

/// Reconstruction metrics over some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// Tokens that counted.
    pub tokens: u64,
    /// By the reference system's keys.
    pub values: Vec<(String, f64)>,
    /// Share of features that were active on none of them.
    pub dead_share: f64,
}

impl Quality {
    /// A value by key.
    pub fn get(&self, key: &str) -> Option<f64> {
        self.values.iter().find(|(k, _)| k == key).map(|(_, v)| *v)
    }
}

/// Mean next-token losses of the language model, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Downstream {
    /// Predictions scored.
    pub predictions: u64,
    /// As it is.
    pub original: f64,
    /// With the activation replaced by its reconstruction where tokens count.
    pub reconstructed: f64,
    /// With zeros there.
    pub ablated: f64,
}

impl Downstream {
    /// Share of the loss that zeroing costs and the reconstruction gives back; 1 is perfect.
    pub fn recovered(&self) -> f64 {
        (self.ablated - self.reconstructed) / (self.ablated - self.original)
    }

    /// By the reference system's keys (its ratio is the inverse of [`Downstream::recovered`]), and `recovered`.
    pub fn values(&self) -> Vec<(String, f64)> {
        [
            ("original", self.original),
            ("reconstructed", self.reconstructed),
            ("ablated", self.ablated),
            ("ratio", 1.0 / self.recovered()),
            ("recovered", self.recovered()),
        ]
        .map(|(name, v)| (format!("metrics/downstream_loss_{name}"), v))
        .to_vec()
    }
}

/// Plans `dictionary` for inference on up to `rows` rows. The arena must live as long as the dictionary is used.
pub fn plan_inference(q: &mut Queue, dictionary: &mut dyn Dictionary, rows: usize) -> Result<Arena> {
    let k = dictionary.settings().top_k();
    let mut plan = Arena::planning("inference");
    dictionary.plan(&mut plan, rows, k, None)?;
    let mut arena = Arena::build(&plan, q.device())?;
    dictionary.plan(&mut arena, rows, k, None)?;
    Ok(arena)
}

/// Reconstruction metrics over at least `tokens` tokens that count, or all there are. `dictionary` is planned for `rows` rows, as
/// large as the batches.
///
/// # Errors
/// No data at all, or metrics that are not finite.
pub fn quality(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    source: &mut dyn BatchSource,
    rows: usize,
    tokens: u64,
) -> Result<Quality> {
    let hooks = source.hook_points().to_vec();
    let take = |arena: &mut Arena, d: &dyn Dictionary| -> Result<_> {
        Ok((MetricWindow::plan(arena, d, rows)?, InputBuffers::plan(arena, rows)?))
    };
    let mut plan = Arena::planning("evaluation");
    take(&mut plan, dictionary)?;
    let mut arena = Arena::build(&plan, q.device())?;
    let (mut window, mut buffers) = take(&mut arena, dictionary)?;
    window.reset(q)?;
    let (mut seen, mut loss) = (0, 0.0);
    while seen < tokens {
        let Some(mut batch) = source.next(q)? else { break };
        if batch.n_valid == 0 {
            continue;
        }
        let weight = buffers.load(q, dictionary, &hooks, &mut batch)?;
        let input = buffers.input(dictionary, &hooks, &batch)?;
        let k = dictionary.settings().top_k();
        dictionary.forward(q, &input.inputs, input.context, k)?;
        loss += window.observe(q, dictionary, &input, &weight)? * batch.n_valid as f64;
        seen += batch.n_valid as u64;
    }
    if seen == 0 {
        return Err(Error::Data { what: "there is no text to evaluate on".into() });
    }
    let mut values = window.quality(q)?;
    values.push(("losses/mse_loss".into(), loss / seen as f64));
    if !loss.is_finite() {
        let what = "the reconstruction loss".into();
        return Err(Error::NonFinite { step: 0, what, hint: "; check weights and activations".into() });
    }
    Ok(Quality { tokens: seen, values, dead_share: window.silent_share(q)? })
}

/// The language model's loss three times over on about `tokens` tokens. `dictionary` is planned for `rows` rows.
///
/// # Errors
/// A dictionary with several inputs or outputs, or an input that comes after the output.
pub fn downstream(
    q: &mut Queue,
    lm: &Lm,
    dictionary: &mut dyn Dictionary,
    stream: &mut TokenStream,
    rows: usize,
    tokens: u64,
) -> Result<Downstream> {
    let (hook_in, hook_out) = single_hooks(dictionary)?;
    let mut splice = Splice::new(q, dictionary, hook_in, hook_out, rows)?;
    let (mut sums, mut predictions, mut seen) = ([0.0; 3], 0, 0);
    while seen < tokens {
        let Some(batch) = stream.next_batch()? else { break };
        let real = batch.real();
        let t = Tokens { ids: &batch.ids, batch: batch.batch, len: batch.len, mask: Some(&real) };
        sums[0] += total(&lm.losses(q, &t, None)?);
        sums[1] += total(&splice.losses(q, lm, &t, &batch, false)?);
        sums[2] += total(&splice.losses(q, lm, &t, &batch, true)?);
        predictions += t.predictions() as u64;
        seen += batch.lengths.iter().sum::<usize>() as u64;
    }
    if predictions == 0 {
        return Err(Error::Data { what: "there is no text to measure the model's loss on".into() });
    }
    let [original, reconstructed, ablated] = sums.map(|s| s / predictions as f64);
    Ok(Downstream { predictions, original, reconstructed, ablated })
}

fn total(losses: &[f32]) -> f64 {
    losses.iter().map(|&l| f64::from(l)).sum()
}

fn single_hooks(dictionary: &dyn Dictionary) -> Result<(String, String)> {
    match (&dictionary.hook_points_in()[..], &dictionary.hook_points_out()[..]) {
        ([a], [b]) => Ok((a.clone(), b.clone())),
        (a, b) => Err(Error::Unsupported {
            what: format!("the model's loss with {} inputs and {} outputs replaced", a.len(), b.len()),
            why: "it is defined for one hook point in and one out".into(),
        }),
    }
}

/// Puts reconstructions in the place of activations, at rows that count.
struct Splice<'a> {
    dictionary: &'a mut dyn Dictionary,
    hook_in: String,
    hook_out: String,
    rows: usize,
    scratch: Scratch,
    /// `[rows, 1]`.
    factors: Tensor,
}

impl<'a> Splice<'a> {
    fn new(
        q: &mut Queue,
        dictionary: &'a mut dyn Dictionary,
        hook_in: String,
        hook_out: String,
        rows: usize,
    ) -> Result<Self> {
        let (scratch, factors) = (Scratch::new(q, rows)?, q.empty(rows, 1, DType::F32)?);
        Ok(Self { dictionary, hook_in, hook_out, rows, scratch, factors })
    }

    fn losses(
        &mut self,
        q: &mut Queue,
        lm: &Lm,
        tokens: &Tokens<'_>,
        batch: &TokenBatch,
        zero: bool,
    ) -> Result<Vec<f32>> {
        let n = batch.mask.len();
        // 1 where the activation is replaced.
        let replaced: Vec<f32> = batch.mask.iter().map(|&m| f32::from(m)).collect();
        let replaced = q.tensor(n, 1, &replaced)?;
        let (hook_in, hook_out) = (self.hook_in.clone(), self.hook_out.clone());
        let mut input: Option<Tensor> = None;
        let mut apply = |q: &mut Queue, name: &str, t: &mut Tensor| -> Result<()> {
            if zero {
                let mut kept = q.empty(n, 1, DType::F32)?;
                q.map(MapKind::Affine, &replaced, -1.0, 1.0, &mut kept)?;
                return Ok(q.zip_in_place(MapKind::Mul, &kept, 1.0, 0.0, t)?);
            }
            if name == self.hook_in {
                let mut x = q.empty(t.rows(), t.cols(), DType::F32)?;
                q.copy(&*t, &mut x)?;
                input = Some(x);
            }
            if name == self.hook_out {
                let x = input.take().ok_or_else(|| Error::Unsupported {
                    what: format!("replacing {} from {}", self.hook_out, self.hook_in),
                    why: "the input comes after the output in the forward".into(),
                })?;
                self.replace(q, x, batch.len, &replaced, t)?;
            }
            Ok(())
        };
        let both = [hook_out.as_str(), hook_in.as_str()];
        let hooks = if zero || hook_in == hook_out { &both[..1] } else { &both[..] };
        lm.losses(q, tokens, Some(Edit { hooks, apply: &mut apply }))
    }

    /// `t += replaced ⊙ (reconstruction of x − t)`, in blocks of as many whole contexts as the dictionary is planned for.
    fn replace(
        &mut self,
        q: &mut Queue,
        mut x: Tensor,
        context: usize,
        replaced: &Tensor,
        t: &mut Tensor,
    ) -> Result<()> {
        let k = self.dictionary.settings().top_k();
        let (from, to) =
            (Scaling::of(self.dictionary, &self.hook_in)?, Scaling::of(self.dictionary, &self.hook_out)?);
        let n = x.rows();
        // A dictionary that looks at whole contexts is planned for at least one.
        let (block, context) = match self.rows / context {
            0 => (self.rows, None),
            whole => (whole * context, Some(context)),
        };
        for first in (0..n).step_by(block) {
            let r: Range<usize> = first..n.min(first + block);
            let len = r.len();
            from.factors(q, x.rows_view(r.clone()), None, &mut self.scratch, self.factors.rows_mut(0..len))?;
            normalise::normalise_in_place(q, self.factors.rows_view(0..len), x.rows_mut(r.clone()))?;
            self.dictionary.forward(q, &[x.rows_view(r.clone())], context, k)?;
            to.factors(q, t.rows_view(r.clone()), None, &mut self.scratch, self.factors.rows_mut(0..len))?;
            let d = t.cols();
            let mut change = q.empty(len, d, DType::F32)?;
            for yhat in self.dictionary.reconstruction() {
                normalise::denormalise(q, yhat, self.factors.rows_view(0..len), change.view_mut())?;
            }
            q.zip_in_place(MapKind::Add, t.rows_view(r.clone()), 1.0, -1.0, &mut change)?;
            q.zip_in_place(MapKind::Mul, replaced.rows_view(r.clone()), 1.0, 0.0, &mut change)?;
            q.zip_in_place(MapKind::Add, &change, 1.0, 1.0, t.rows_mut(r))?;
        }
        Ok(())
    }
}
