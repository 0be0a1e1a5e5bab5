//! Direct logit attribution as a job of its own: which output tokens the features of an analysed dictionary promote and suppress,
//! put to an analysis that is in a store. No text is run; what `analyze` finds on the way, this finds for an analysis made
//! without it, or with another number of tokens (ANALYSIS §4).

use super::{
    analyze::advance,
    stored,
    workbench::{load_pretrained, model_path, open_queue},
};
use crate::{
    Error, Result,
    analysis::{Decoders, output_tokens, writes_to_residual},
    lm::{Lm, SpecialIds, Tokenizer},
    settings::{LogitSettings, PretrainedSettings},
    store::{DictionaryKey, Store},
    training::Observer,
};
use lm_saes_runtime::Registry;
use serde_json::json;
use std::time::{Duration, Instant};

/// What an attribution gave.
#[derive(Clone, Debug)]
pub struct LogitReport {
    /// The dictionary.
    pub key: DictionaryKey,
    /// The analysis it was put to.
    pub analysis: String,
    /// Features read out.
    pub features: usize,
    /// Their layer, where the dictionary has several.
    pub layer: Option<usize>,
    /// Output tokens promoted kept of each, and as many suppressed.
    pub top_k: usize,
    /// Time taken, loading included.
    pub took: Duration,
}

/// Reads the decoder vectors of a dictionary out of its language model, into `store`.
///
/// # Errors
/// A dictionary or analysis that is not in the store, weights or a model that are not where the store says, a dictionary without
/// one direction a feature, or one that does not write to the residual stream.
pub fn attribute_logits(
    settings: &LogitSettings,
    store: &dyn Store,
    registry: &Registry,
    observer: &mut dyn Observer,
) -> Result<LogitReport> {
    settings.check()?;
    let began = Instant::now();
    let key = DictionaryKey::new(&settings.sae_name, &settings.sae_series);
    let (record, analysis) = stored::analysed(store, &key, &settings.analysis_name)?;
    let model = match &settings.model {
        Some(model) => model.clone(),
        None => stored::language_model(&analysis, settings.model_path.as_deref())?,
    };
    let sae: PretrainedSettings = match &settings.sae {
        Some(sae) => sae.clone(),
        None => stored::part("sae", &json!({ "pretrained_name_or_path": record.path }))?,
    };
    let mut q = open_queue(registry, &settings.device_type)?;
    let dictionary = load_pretrained(&mut q, &sae, false)?.dictionary;
    let layer = settings.layer_idx.or_else(|| stored::layer(&analysis));
    let from = sae.pretrained_name_or_path.display();
    let layers = dictionary.layer_metrics().map(|_| dictionary.hook_points_in().len());
    if let Some(n) = layers.filter(|n| layer.is_none_or(|l| l >= *n)) {
        let what = format!("has to name one of the layers 0 to {} of {from}", n.saturating_sub(1));
        return Err(Error::setting("layer_idx", what));
    }
    let layer = layer.filter(|_| layers.is_some());
    let Some(decoders) = Decoders::of(&*dictionary, layer) else {
        let what = format!(
            "{from} has no one direction for each feature, so no output tokens can be read out; a mixture of linear transforms is such a dictionary"
        );
        return Err(Error::Data { what });
    };
    if decoders.len() != analysis.d_sae as usize {
        let what = format!(
            "{from} has {} features, but analysis {:?} of {key} has {}; name the dictionary that was analysed",
            decoders.len(),
            analysis.name,
            analysis.d_sae
        );
        return Err(Error::Data { what });
    }
    let path = model_path(&model)?;
    observer.phase(&format!("loading {}", path.display()));
    let given = SpecialIds { bos: model.bos_token_id, eos: model.eos_token_id, pad: model.pad_token_id };
    let tokenizer = Tokenizer::load(&path, given)?;
    let lm = Lm::load(&mut q, &path, &model)?;
    if !writes_to_residual(&lm, &*dictionary) {
        let what = format!(
            "{from} writes to {}, which is not the residual stream of {}; its vectors cannot be read out as tokens",
            dictionary.hook_points_out().join(", "),
            lm.name()
        );
        return Err(Error::Data { what });
    }
    let (top_k, total, reading) =
        (settings.direct_logit_attributor.top_k, decoders.len() as u64, Instant::now());
    let logits = output_tokens(&mut q, &lm, &tokenizer, &decoders, top_k, |done| {
        // Short enough to be finished once begun.
        let now = advance("features read out", done as u64, 0, total, reading.elapsed());
        let _ = observer.advanced(&now);
    })?;
    observer.phase(&format!("writing {key}"));
    let features = logits.len();
    let all: Vec<_> = (0u32..).zip(logits).collect();
    store.set_logits(&key, &analysis.name, &all)?;
    Ok(LogitReport { key, analysis: analysis.name, features, layer, top_k, took: began.elapsed() })
}
