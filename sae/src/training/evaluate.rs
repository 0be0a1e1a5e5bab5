//! Evaluation (TRAINING §9): reconstruction metrics on batches, and what replacing an activation by its reconstruction does to
//! the language model's loss.

use super::{
    BatchSource,
    metrics::MetricWindow,
    source::{InputBuffers, needed},
};
use crate::{
    Error, Result,
    data::{TokenBatch, TokenStream},
    dictionary::{
        Dictionary,
        normalise::{Scaling, Scratch},
    },
    lm::{Edit, Lm, Tokens},
    parallel::Axis,
};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, Tensor};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, ops::Range};

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
/// large as the batches, and takes no part in what other data ranks do.
///
/// Each of `ranks` measures some of the batches, of which all see all; what they found is put together in the order of the batches,
/// so that all get the same figures, bit for bit those of one rank.
///
/// # Errors
/// No data at all, or metrics that are not finite.
pub fn quality(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    source: &mut dyn BatchSource,
    (rows, tokens): (usize, u64),
    ranks: &Axis,
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
    let (mut seen, mut batches, mut own) = (0, 0, Vec::new());
    while seen < tokens {
        let Some(mut batch) = source.next(q)? else { break };
        if batch.n_valid == 0 {
            continue;
        }
        seen += batch.n_valid as u64;
        batches += 1;
        if (batches - 1) % ranks.size() != ranks.rank() {
            continue;
        }
        let weight = buffers.load(q, dictionary, &hooks, &mut batch)?;
        let input = buffers.input(dictionary, &hooks, &batch)?;
        let k = dictionary.settings().top_k();
        dictionary.forward(q, &input.inputs, input.context, k)?;
        let loss = window.observe(q, dictionary, &input, &weight)? * batch.n_valid as f64;
        own.push((window.take(), loss.to_bits()));
    }
    if seen == 0 {
        return Err(Error::Data { what: "there is no text to evaluate on".into() });
    }
    let mut loss = 0.0;
    for (part, of_batch) in in_order(q, ranks, batches, &own)? {
        window.add(&part);
        loss += f64::from_bits(of_batch);
    }
    window.add_fired(q, ranks)?;
    let mut values = window.quality(q)?;
    values.push(("losses/mse_loss".into(), loss / seen as f64));
    if !loss.is_finite() {
        let what = "the reconstruction loss".into();
        return Err(Error::NonFinite { step: 0, what, hint: "; check weights and activations".into() });
    }
    Ok(Quality { tokens: seen, values, dead_share: window.silent_share(q)? })
}

/// What ranks found in `batches` batches that they took in turns, in the order of the batches.
fn in_order<T: Serialize + DeserializeOwned>(
    q: &mut Queue,
    ranks: &Axis,
    batches: usize,
    own: &[T],
) -> Result<Vec<T>> {
    let bad = |e: serde_json::Error| Error::Data { what: format!("what a rank measured: {e}") };
    let all = ranks.gather_bytes(q, &serde_json::to_vec(own).map_err(bad)?)?;
    let read = |bytes: &Vec<u8>| Ok(serde_json::from_slice::<Vec<T>>(bytes).map_err(bad)?.into_iter());
    let mut all = all.iter().map(read).collect::<Result<Vec<_>>>()?;
    let next = |i: usize| {
        let rank = i % ranks.size();
        let missing = || Error::Data { what: format!("rank {rank} measured fewer batches than it was to") };
        all[rank].next().ok_or_else(missing)
    };
    (0..batches).map(next).collect()
}

/// The language model's loss three times over on about `tokens` tokens. `dictionary` is planned for `rows` rows.
///
/// With several hook points all outputs are replaced in one run. Everything the dictionary sees, inputs and what scales outputs,
/// is of the original run: later layers are not encoded from what earlier replacements made of the residual stream. With one hook
/// point in and one out this is the usual figure.
///
/// Each of `ranks` measures some of the batches of text, with a dictionary that takes no part in theirs; all get the same figures,
/// bit for bit those of one rank.
pub fn downstream(
    q: &mut Queue,
    lm: &Lm,
    dictionary: &mut dyn Dictionary,
    stream: &mut TokenStream,
    (rows, tokens): (usize, u64),
    ranks: &Axis,
) -> Result<Downstream> {
    let mut splice = Splice::new(q, dictionary, rows)?;
    let (mut own, mut batches, mut predictions, mut seen) = (Vec::new(), 0, 0, 0);
    while seen < tokens {
        let Some(batch) = stream.next_batch()? else { break };
        let real = batch.real();
        let t = Tokens { ids: &batch.ids, batch: batch.batch, len: batch.len, mask: Some(&real) };
        predictions += t.predictions() as u64;
        seen += batch.lengths.iter().sum::<usize>() as u64;
        batches += 1;
        if (batches - 1) % ranks.size() != ranks.rank() {
            continue;
        }
        let (losses, replacements) = splice.original(q, lm, &t)?;
        let all = [
            total(&losses),
            total(&splice.replaced(q, lm, &t, &batch, Some(&replacements))?),
            total(&splice.replaced(q, lm, &t, &batch, None)?),
        ];
        own.push(all.map(f64::to_bits));
    }
    let mut sums = [0.0; 3];
    for of_batch in in_order(q, ranks, batches, &own)? {
        sums.iter_mut().zip(of_batch).for_each(|(sum, bits)| *sum += f64::from_bits(bits));
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

/// Puts reconstructions in the place of activations, at rows that count.
struct Splice<'a> {
    dictionary: &'a mut dyn Dictionary,
    rows: usize,
    scratch: Scratch,
    /// `[rows, 1]`.
    factors: Tensor,
}

impl<'a> Splice<'a> {
    fn new(q: &mut Queue, dictionary: &'a mut dyn Dictionary, rows: usize) -> Result<Self> {
        let (scratch, factors) = (Scratch::new(q, rows)?, q.empty(rows, 1, DType::F32)?);
        Ok(Self { dictionary, rows, scratch, factors })
    }

    /// Losses of the model as it is, and what the dictionary makes of its activations: a replacement `[N, d]` for each output.
    fn original(&mut self, q: &mut Queue, lm: &Lm, tokens: &Tokens<'_>) -> Result<(Vec<f32>, Vec<Tensor>)> {
        let names = needed(self.dictionary);
        let hooks: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut seen: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut apply = |q: &mut Queue, name: &str, t: &mut Tensor| -> Result<()> {
            let mut x = q.empty(t.rows(), t.cols(), DType::F32)?;
            q.copy(&*t, &mut x)?;
            seen.insert(name.into(), x);
            Ok(())
        };
        let losses = lm.losses(q, tokens, Some(Edit { hooks: &hooks, apply: &mut apply }))?;
        let take = |hooks: Vec<String>| -> Result<Vec<(Scaling, &Tensor)>> {
            let one = |h: &String| {
                let missing = || Error::Data { what: format!("the model's forward does not pass {h}") };
                Ok((Scaling::of(self.dictionary, h)?, seen.get(h).ok_or_else(missing)?))
            };
            hooks.iter().map(one).collect()
        };
        let inputs = take(self.dictionary.hook_points_in())?;
        let outputs = take(self.dictionary.hook_points_out())?;
        let replacements = self.reconstruct(q, tokens.len, &inputs, &outputs)?;
        Ok((losses, replacements))
    }

    /// Reconstructions in raw scale, in blocks of as many whole contexts as the dictionary is planned for.
    fn reconstruct(
        &mut self,
        q: &mut Queue,
        context: usize,
        inputs: &[(Scaling, &Tensor)],
        outputs: &[(Scaling, &Tensor)],
    ) -> Result<Vec<Tensor>> {
        let k = self.dictionary.settings().top_k();
        let n = inputs.first().map_or(0, |(_, x)| x.rows());
        // A dictionary that looks at whole contexts is planned for at least one.
        let (block, context) = match self.rows / context {
            0 => (self.rows, None),
            whole => (whole * context, Some(context)),
        };
        let mut made = Vec::with_capacity(outputs.len());
        for (_, y) in outputs {
            made.push(q.empty(n, y.cols(), DType::F32)?);
        }
        for first in (0..n).step_by(block) {
            let r: Range<usize> = first..n.min(first + block);
            let len = r.len();
            let mut normalised = Vec::with_capacity(inputs.len());
            for (scaling, x) in inputs {
                let x = x.rows_view(r.clone());
                let mut to = q.empty(len, x.cols(), DType::F32)?;
                let factors = self.factors.rows_mut(0..len);
                scaling.scale(q, x, None, &mut self.scratch, factors, to.view_mut())?;
                normalised.push(to);
            }
            let views: Vec<_> = normalised.iter().map(Tensor::view).collect();
            self.dictionary.forward(q, &views, context, k)?;
            for (((scaling, y), yhat), made) in
                outputs.iter().zip(self.dictionary.reconstruction()).zip(&mut made)
            {
                let y = y.rows_view(r.clone());
                let (factors, made) = (self.factors.rows_mut(0..len), made.rows_mut(r.clone()));
                scaling.restore(q, (y, yhat), None, &mut self.scratch, factors, made)?;
            }
        }
        Ok(made)
    }

    /// Losses with every output replaced, or zero, at rows that count.
    fn replaced(
        &mut self,
        q: &mut Queue,
        lm: &Lm,
        tokens: &Tokens<'_>,
        batch: &TokenBatch,
        replacements: Option<&[Tensor]>,
    ) -> Result<Vec<f32>> {
        // 1 where the activation stays.
        let kept: Vec<f32> = batch.mask.iter().map(|&m| 1.0 - f32::from(m)).collect();
        let n = kept.len();
        let kept = q.tensor(n, 1, &kept)?;
        let mut replaced = q.empty(n, 1, DType::F32)?;
        q.map(MapKind::Affine, &kept, -1.0, 1.0, &mut replaced)?;
        let names = self.dictionary.hook_points_out();
        let hooks: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut apply = |q: &mut Queue, name: &str, t: &mut Tensor| -> Result<()> {
            let at = names.iter().position(|h| h == name);
            let new = at.zip(replacements).and_then(|(i, all)| all.get(i));
            let Some(new) = new else { return Ok(q.zip_in_place(MapKind::Mul, &kept, 1.0, 0.0, t)?) };
            // t += replaced ⊙ (new − t): rows that stay keep their bits.
            let mut change = q.empty(t.rows(), t.cols(), DType::F32)?;
            q.zip(MapKind::Add, new, &*t, 1.0, -1.0, &mut change)?;
            q.zip_in_place(MapKind::Mul, &replaced, 1.0, 0.0, &mut change)?;
            Ok(q.zip_in_place(MapKind::Add, &change, 1.0, 1.0, t)?)
        };
        lm.losses(q, tokens, Some(Edit { hooks: &hooks, apply: &mut apply }))
    }
}
