//! Starting values of a new dictionary (TRAINING §1): random parameters, average norms, and the search for the decoder norm.
//! The reference system throws away the batches it looks at; here they are handed back, and training sees them first.

use super::{
    Observer,
    source::{InputBuffers, needed},
};
use crate::{
    Error, Result,
    activations::Batch,
    dictionary::{Dictionary, ModelAttention, ModelParts, RandomInit, StepInput},
    settings::{ActFn, BiasInit, DictionarySettings, InitializerSettings, NormActivation},
    training::BatchSource,
};
use lm_saes_runtime::{Arena, MapKind, Queue, ReduceKind, View};
use std::collections::BTreeMap;

/// Batches whose norms are averaged.
const NORM_BATCHES: usize = 8;
/// Rows the search compares norms on. The same rows for every norm, so that a thousand decide as well as a batch.
const SEARCH_ROWS: usize = 1024;

/// Batches that choosing starting values takes from the source, and whether it copies one more to look at.
pub(crate) fn batches_taken(
    dictionary: &DictionarySettings,
    settings: &InitializerSettings,
) -> (usize, bool) {
    let norms = match dictionary.norm_activation() {
        NormActivation::DatasetWise => NORM_BATCHES,
        _ => 0,
    };
    let looks = looks_at_data(settings);
    (norms + usize::from(looks), looks)
}

/// What the initialiser found.
#[derive(Default)]
pub struct Initialised {
    /// Every batch it took from the source, raw, in order.
    pub batches: Vec<Batch>,
    /// The decoder norm with the smallest loss, and that loss.
    pub best_norm: Option<(f32, f64)>,
}

/// Gives `dictionary`, planned for at least a batch, its starting values; `model` lends parts where settings ask for them.
///
/// # Errors
/// An initialisation the dictionary does not have, no data at all, activations or losses that are not finite.
pub fn initialise(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    settings: &InitializerSettings,
    source: &mut dyn BatchSource,
    model: Option<&dyn ModelParts>,
    observer: &mut dyn Observer,
) -> Result<Initialised> {
    check(dictionary, settings)?;
    let hooks = source.hook_points().to_vec();
    let mut done = Initialised::default();
    let random = RandomInit {
        encoder_bound: settings.encoder_uniform_bound as f32,
        decoder_bound: settings.decoder_uniform_bound as f32,
        log_jumprelu_threshold: settings.init_log_jumprelu_threshold_value.map(|v| v as f32),
        seed: settings.seed,
    };
    dictionary.init_random(q, &random)?;
    transpose(q, dictionary, settings)?;
    let dataset_wise = dictionary.settings().norm_activation() == NormActivation::DatasetWise;
    if dataset_wise {
        observer.phase("measuring activation norms");
        let norms = measure_norms(q, dictionary, source, &hooks, &mut done.batches)?;
        dictionary.set_norms(norms);
        dictionary.gather_norms(q)?;
    }
    let with_heads = settings.initialize_W_D_with_active_subspace && dictionary.has_heads();
    let from_attention = settings.initialize_lorsa_with_mhsa == Some(true);
    let attention = match from_attention || with_heads {
        true => Some(attention(q, settings, model)?),
        false => None,
    };
    if let Some(attention) = attention.as_ref().filter(|_| from_attention) {
        dictionary.queries_and_keys_from_model(q, attention)?;
    }
    if !looks_at_data(settings) {
        return Ok(done);
    }
    observer.phase("choosing starting values on one batch");
    let mut batch = match source.next(q)? {
        Some(batch) => {
            let look = copy_of(q, &batch)?;
            done.batches.push(batch);
            look
        }
        // The norms took all there is; a batch of those will do.
        None => match done.batches.last() {
            Some(last) => copy_of(q, last)?,
            None => return Err(no_data()),
        },
    };
    let mut arena = Arena::planning("initializer");
    InputBuffers::plan(&mut arena, batch.rows())?;
    let mut arena = Arena::build(&arena, q.device())?;
    let mut buffers = InputBuffers::plan(&mut arena, batch.rows())?;
    let weight = buffers.load(q, dictionary, &hooks, &mut batch)?;
    let input = buffers.input(dictionary, &hooks, &batch)?;
    if settings.bias_init_method == BiasInit::GeometricMedian {
        dictionary.decoder_bias_from_mean(q, &input.labels)?;
    }
    if settings.initialize_tc_with_mlp == Some(true) {
        from_mlp(q, dictionary, settings, model, &input)?;
    }
    if let Some(attention) = attention.filter(|_| with_heads) {
        dictionary.subspace_from_model(q, &input.inputs, &attention)?;
    } else if settings.initialize_W_D_with_active_subspace {
        let what = "is needed with initialize_W_D_with_active_subspace";
        let d = settings
            .d_active_subspace
            .ok_or_else(|| Error::setting("initializer.d_active_subspace", what))?;
        dictionary.decoder_from_active_subspace(q, &input.labels, d)?;
        transpose(q, dictionary, settings)?;
    }
    if settings.grid_search_init_norm {
        done.best_norm = Some(search(q, dictionary, settings, &input, &weight)?);
    }
    encoder_bias(q, dictionary, settings, &input.inputs, input.context)?;
    q.sync()?;
    Ok(done)
}

fn check(dictionary: &dyn Dictionary, s: &InitializerSettings) -> Result<()> {
    let unsupported = |what: &str, why: &str| {
        Err(Error::Unsupported { what: format!("initializer.{what}"), why: why.into() })
    };
    let hooks = [dictionary.hook_points_in(), dictionary.hook_points_out()];
    if s.initialize_tc_with_mlp == Some(true) && hooks[0] == hooks[1] {
        return unsupported("initialize_tc_with_mlp", "it is for transcoders, with another hook_point_out");
    }
    if s.initialize_lorsa_with_mhsa == Some(true) && !dictionary.has_heads() {
        return unsupported("initialize_lorsa_with_mhsa", "it is for Lorsa dictionaries only");
    }
    if dictionary.settings().act_fn() == ActFn::JumpRelu && s.init_log_jumprelu_threshold_value.is_none() {
        let what = "is needed with act_fn = jumprelu: the log of the first threshold, e.g. -2.3";
        return Err(Error::setting("initializer.init_log_jumprelu_threshold_value", what));
    }
    Ok(())
}

/// A transcoder's encoder directions and what the layer's MLP answers to them.
fn from_mlp(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    s: &InitializerSettings,
    model: Option<&dyn ModelParts>,
    input: &StepInput<'_>,
) -> Result<()> {
    let layer = s.model_layer.ok_or_else(|| {
        let what = "is needed to start from the model's MLP: the layer the dictionary replaces";
        Error::setting("initializer.model_layer", what)
    })?;
    let model = model.ok_or_else(|| Error::Unsupported {
        what: "starting values from the model's MLP".into(),
        why: "this run has no language model".into(),
    })?;
    let hook_point = dictionary.hook_points_in().concat();
    let mut mlp = |q: &mut Queue, x: View<'_>| model.mlp(q, layer, &hook_point, x);
    dictionary.transcoder_from_mlp(q, &input.inputs, input.weight, &mut mlp)
}

/// The attention the settings name.
fn attention(
    q: &mut Queue,
    s: &InitializerSettings,
    model: Option<&dyn ModelParts>,
) -> Result<ModelAttention> {
    let layer = s.model_layer.ok_or_else(|| {
        let what = "is needed to start from the model's attention: the layer the dictionary replaces";
        Error::setting("initializer.model_layer", what)
    })?;
    let model = model.ok_or_else(|| Error::Unsupported {
        what: "starting values from the model's attention".into(),
        why: "this run has no language model".into(),
    })?;
    model.attention(q, layer)
}

fn looks_at_data(s: &InitializerSettings) -> bool {
    s.bias_init_method != BiasInit::AllZero
        || s.initialize_W_D_with_active_subspace
        || s.grid_search_init_norm
        || s.init_encoder_bias_with_mean_hidden_pre
        || s.initialize_tc_with_mlp == Some(true)
}

fn no_data() -> Error {
    Error::Data {
        what: "the data ended before the first batch was full; give more text or a smaller batch_size".into(),
    }
}

fn transpose(q: &mut Queue, dictionary: &mut dyn Dictionary, s: &InitializerSettings) -> Result<()> {
    // The encoder that belongs to the MLP's answers stays.
    if s.init_encoder_with_decoder_transpose && s.initialize_tc_with_mlp != Some(true) {
        let factor = s.init_encoder_with_decoder_transpose_factor as f32;
        dictionary.encoder_from_decoder_transpose(q, factor)?;
    }
    Ok(())
}

fn encoder_bias(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    s: &InitializerSettings,
    inputs: &[View<'_>],
    context: Option<usize>,
) -> Result<()> {
    if s.init_encoder_bias_with_mean_hidden_pre {
        dictionary.encoder_bias_from_mean_hidden_pre(q, inputs, context)?;
    }
    Ok(())
}

/// Mean norm of the tokens that count, by hook point, over the first batches. (The reference system counts masked ones too,
/// whose norms can be a hundred times the others'.)
fn measure_norms(
    q: &mut Queue,
    dictionary: &dyn Dictionary,
    source: &mut dyn BatchSource,
    hooks: &[String],
    taken: &mut Vec<Batch>,
) -> Result<BTreeMap<String, f32>> {
    let wanted = needed(dictionary);
    let mut sums: BTreeMap<String, f64> = wanted.iter().map(|h| (h.clone(), 0.0)).collect();
    let mut tokens = 0;
    for _ in 0..NORM_BATCHES {
        let Some(batch) = source.next(q)? else { break };
        for (hook, acts) in hooks.iter().zip(&batch.acts) {
            if let Some(sum) = sums.get_mut(hook) {
                let squares = row_squares(q, acts.view())?;
                let counted = squares.iter().zip(&batch.mask).filter(|(_, m)| **m != 0);
                *sum += counted.map(|(v, _)| f64::from(*v).sqrt()).sum::<f64>();
            }
        }
        tokens += batch.n_valid;
        taken.push(batch);
    }
    if tokens == 0 {
        return Err(no_data());
    }
    let mut norms = BTreeMap::new();
    for (hook, sum) in sums {
        let norm = (sum / tokens as f64) as f32;
        if !(norm.is_finite() && norm > 0.0) {
            let what = format!("the average activation norm of {hook} ({norm})");
            return Err(Error::NonFinite {
                step: 0,
                what,
                hint: "; check the model's weights and dtype".into(),
            });
        }
        norms.insert(hook, norm);
    }
    Ok(norms)
}

/// The decoder norm with the smallest reconstruction loss: fifty coarse values, then twenty around the best. Losses that are
/// not finite never win.
fn search(
    q: &mut Queue,
    dictionary: &mut dyn Dictionary,
    s: &InitializerSettings,
    input: &StepInput<'_>,
    weight: &[f32],
) -> Result<(f32, f64)> {
    let context = input.context;
    let rows = match context {
        Some(len) => (SEARCH_ROWS / len).max(1) * len,
        None => SEARCH_ROWS,
    };
    let rows = rows.min(weight.len());
    let (inputs, labels) = (first_rows(&input.inputs, rows), first_rows(&input.labels, rows));
    let set = |q: &mut Queue, norm: f32, dictionary: &mut dyn Dictionary| -> Result<()> {
        dictionary.set_decoder_norm(q, norm, true)?;
        transpose(q, dictionary, s)?;
        encoder_bias(q, dictionary, s, &inputs, context)
    };
    let mut best: Option<(f32, f64)> = None;
    for pass in 0..2 {
        let around = best.map_or(0.0, |(norm, _)| norm);
        let norms: Vec<f32> = match pass {
            0 => (1..=50).map(|i| i as f32 * 0.1).collect(),
            _ => (-9..=10).map(|i| around + i as f32 * 0.01).filter(|n| *n > 0.0).collect(),
        };
        for norm in norms {
            set(q, norm, dictionary)?;
            let k = dictionary.settings().top_k();
            dictionary.forward(q, &inputs, context, k)?;
            let loss = reconstruction_loss(q, dictionary, &labels, &weight[..rows])?;
            if loss.is_finite() && best.is_none_or(|(_, least)| loss < least) {
                best = Some((norm, loss));
            }
        }
    }
    let (norm, loss) = best.ok_or_else(|| Error::NonFinite {
        step: 0,
        what: "the reconstruction loss of every decoder norm tried".into(),
        hint: "; check the activations, or set initializer.grid_search_init_norm = false".into(),
    })?;
    set(q, norm, dictionary)?;
    Ok((norm, loss))
}

fn first_rows<'a>(views: &[View<'a>], rows: usize) -> Vec<View<'a>> {
    views.iter().map(|v| v.slice_rows(0..rows)).collect()
}

/// Weighted mean of ‖ŷ−y‖² over rows, summed over outputs; `weight` may cover a part of a batch.
fn reconstruction_loss(
    q: &mut Queue,
    dictionary: &dyn Dictionary,
    labels: &[View<'_>],
    weight: &[f32],
) -> Result<f64> {
    let total: f64 = weight.iter().map(|&w| f64::from(w)).sum();
    let mut loss = 0.0;
    for (y, yhat) in labels.iter().zip(dictionary.reconstruction()) {
        // A label narrower than its reconstruction counts as padded with zeros.
        let mut error = q.empty(y.rows(), yhat.cols(), y.dtype())?;
        q.copy(yhat, &mut error)?;
        q.zip_in_place(MapKind::Add, *y, 1.0, -1.0, error.view_mut().slice_cols(0..y.cols()))?;
        let squares = row_squares(q, error.view())?;
        loss += squares.iter().zip(weight).map(|(&e, &w)| f64::from(e) * f64::from(w)).sum::<f64>();
    }
    let mut loss = [loss];
    dictionary.base().mesh.head.sum_f64(q, &mut loss)?;
    Ok(loss[0] / total)
}

/// Σ x² of every row.
fn row_squares(q: &mut Queue, x: View<'_>) -> Result<Vec<f32>> {
    let mut squares = q.empty(x.rows(), 1, x.dtype())?;
    q.reduce_cols(ReduceKind::SumSq, x, &mut squares, 0.0)?;
    Ok(q.download(&squares)?)
}

fn copy_of(q: &mut Queue, batch: &Batch) -> Result<Batch> {
    let mut acts = Vec::with_capacity(batch.acts.len());
    for from in &batch.acts {
        let mut to = q.empty(from.rows(), from.cols(), from.dtype())?;
        q.copy(from, &mut to)?;
        acts.push(to);
    }
    let Batch { tokens, mask, contexts, n_valid, .. } = batch;
    Ok(Batch { acts, tokens: tokens.clone(), mask: mask.clone(), contexts: *contexts, n_valid: *n_valid })
}
