//! A first look at a dictionary: the strongest contexts of a few features, with the activations around each peak.

use crate::{
    Error, Result,
    analysis::{FeatureSummary, HostCodes, TopContexts},
    data::{TokenBatch, TokenStream},
    dictionary::{
        Dictionary,
        normalise::{self, Scaling, Scratch},
    },
    lm::{Lm, Run, Tokenizer, Tokens},
};
use lm_saes_runtime::{Arena, DType, Queue};

/// How much to look at.
#[derive(Clone, Copy, Debug)]
pub struct LookArgs {
    /// Tokens to run.
    pub tokens: u64,
    /// Features to return.
    pub features: usize,
    /// Contexts of each.
    pub contexts: usize,
    /// Tokens shown before and after a peak.
    pub around: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Look {
    /// Tokens that counted.
    pub tokens: u64,
    /// Share of features that never fired on them.
    pub silent_share: f64,
    /// The features chosen.
    pub features: Vec<FeatureLook>,
}

/// One feature.
#[derive(Clone, Debug)]
pub struct FeatureLook {
    /// Index.
    pub feature: usize,
    /// Share of tokens on which it fired.
    pub density: f64,
    /// Strongest first.
    pub contexts: Vec<ContextLook>,
}

/// One stretch of text around a peak.
#[derive(Clone, Debug)]
pub struct ContextLook {
    /// Token texts with the feature's activation on each.
    pub pieces: Vec<(String, f32)>,
    /// Which piece is the peak.
    pub peak: usize,
}

/// Runs `tokens` through model and dictionary and keeps the strongest contexts; then runs the chosen ones again for the
/// activations around their peaks.
///
/// # Errors
/// A dictionary that reads several hook points, or normalises by batch, has no single activation to show here.
pub fn strongest_contexts(
    q: &mut Queue,
    lm: &Lm,
    tokenizer: &Tokenizer,
    dictionary: &mut dyn Dictionary,
    stream: &mut TokenStream,
    args: LookArgs,
) -> Result<Look> {
    let mut top = TopContexts::new(dictionary.d_sae(), args.contexts);
    let mut contexts: Vec<Vec<u32>> = Vec::new();
    let mut encoder: Option<Encoder> = None;
    let mut seen = 0;
    while seen < args.tokens {
        let Some(batch) = stream.next_batch()? else { break };
        let rows = batch.batch * batch.len;
        if encoder.as_ref().is_none_or(|e| e.rows < rows) {
            encoder = Some(Encoder::new(q, dictionary, rows)?);
        }
        let Some(encoder) = encoder.as_mut() else { break };
        let codes = encoder.codes(q, lm, dictionary, &batch)?;
        let first = contexts.len();
        top.add(&codes, |r| (batch.mask[r] == 1).then_some((first + r / batch.len, r % batch.len)));
        contexts.extend(batch.ids.chunks_exact(batch.len).map(<[u32]>::to_vec));
        seen += batch.n_valid() as u64;
    }
    let mut features = Vec::new();
    if let Some(encoder) = encoder.as_mut() {
        for chosen in top.choose(args.features) {
            features.push(encoder.look(q, lm, tokenizer, dictionary, &contexts, &chosen, args.around)?);
        }
    }
    Ok(Look { tokens: seen, silent_share: top.silent_share(), features })
}

/// Model and dictionary as one function from tokens to codes.
struct Encoder {
    rows: usize,
    hook_point: String,
    scratch: Scratch,
    /// Keeps the dictionary's step memory alive.
    _arena: Arena,
}

impl Encoder {
    fn new(q: &mut Queue, dictionary: &mut dyn Dictionary, rows: usize) -> Result<Self> {
        let [hook_point] =
            dictionary.hook_points_in().try_into().map_err(|all: Vec<String>| Error::Unsupported {
                what: format!("a first look at a dictionary that reads {} hook points", all.len()),
                why: "it shows one activation a token".into(),
            })?;
        let k = dictionary.settings().top_k();
        let mut plan = Arena::planning("look");
        dictionary.plan(&mut plan, rows, k, None)?;
        let mut arena = Arena::build(&plan, q.device())?;
        dictionary.plan(&mut arena, rows, k, None)?;
        Ok(Self { rows, hook_point, scratch: Scratch::new(q, rows)?, _arena: arena })
    }

    fn codes(
        &mut self,
        q: &mut Queue,
        lm: &Lm,
        dictionary: &mut dyn Dictionary,
        batch: &TokenBatch,
    ) -> Result<HostCodes> {
        let tokens = Tokens { ids: &batch.ids, batch: batch.batch, len: batch.len, mask: None };
        let hook = self.hook_point.as_str();
        let mut out = lm.run(q, &tokens, Run { capture: &[hook], ..Run::default() })?;
        let mut x = out
            .captured
            .remove(hook)
            .ok_or_else(|| Error::Data { what: format!("no activation at {hook}") })?;
        let scaling = Scaling::of(dictionary, hook)?;
        let mut factors = q.empty(x.rows(), 1, DType::F32)?;
        scaling.factors(q, x.view(), Some(batch.len), &mut self.scratch, factors.view_mut())?;
        normalise::normalise_in_place(q, factors.view(), x.view_mut())?;
        let k = dictionary.settings().top_k();
        dictionary.forward(q, &[x.view()], Some(batch.len), k)?;
        match dictionary.codes()[..] {
            [codes] => HostCodes::download(q, codes),
            _ => Err(Error::Unsupported {
                what: "a first look at a dictionary with several codes a token".into(),
                why: "it shows one activation a token".into(),
            }),
        }
    }

    fn look(
        &mut self,
        q: &mut Queue,
        lm: &Lm,
        tokenizer: &Tokenizer,
        dictionary: &mut dyn Dictionary,
        contexts: &[Vec<u32>],
        chosen: &FeatureSummary,
        around: usize,
    ) -> Result<FeatureLook> {
        let mut shown = Vec::new();
        for hit in &chosen.hits {
            let ids = &contexts[hit.context];
            let batch = TokenBatch {
                ids: ids.clone(),
                mask: vec![1; ids.len()],
                lengths: vec![ids.len()],
                batch: 1,
                len: ids.len(),
            };
            let codes = self.codes(q, lm, dictionary, &batch)?;
            let activation = |r: usize| {
                codes.row(r).iter().find(|(c, _)| *c as usize == chosen.feature).map_or(0.0, |&(_, v)| v)
            };
            let from = hit.position.saturating_sub(around);
            let to = (hit.position + around + 1).min(ids.len());
            let pieces = (from..to).map(|r| (tokenizer.token_text(ids[r]), activation(r))).collect();
            shown.push(ContextLook { pieces, peak: hit.position - from });
        }
        Ok(FeatureLook { feature: chosen.feature, density: chosen.density, contexts: shown })
    }
}
