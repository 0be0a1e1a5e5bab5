//! From settings to a running stream.

use super::ActivationStream;
use crate::{
    Error, Result,
    data::{ChunkReader, ContextReader, Order, TokenPolicy, TokenStream, Tokenize, WeightedSource},
    settings::{ActivationFactorySettings, ActivationSource, CachePath, DatasetSettings},
};
use std::{collections::BTreeMap, sync::Arc};

/// Opens every source and starts a stream over it.
///
/// # Errors
/// Names the source that is missing under `datasets` or cannot be opened.
pub fn open_stream(
    settings: &ActivationFactorySettings,
    datasets: &BTreeMap<String, DatasetSettings>,
    tokenizer: &Arc<dyn Tokenize>,
    policy: &TokenPolicy,
) -> Result<ActivationStream> {
    ActivationStream::new(settings.stream(), open_tokens(settings, datasets, tokenizer, policy)?)
}

/// Opens every source as token batches alone, for work that needs whole contexts and the model itself.
pub fn open_tokens(
    settings: &ActivationFactorySettings,
    datasets: &BTreeMap<String, DatasetSettings>,
    tokenizer: &Arc<dyn Tokenize>,
    policy: &TokenPolicy,
) -> Result<TokenStream> {
    let open = |source: &ActivationSource| match source {
        ActivationSource::Dataset(s) => {
            let known = || datasets.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let data = datasets.get(&s.name).ok_or_else(|| {
                let there = if datasets.is_empty() { "none".into() } else { known() };
                let what = format!(
                    "no data set {0:?} under datasets (there: {there}); add a table [datasets.{0}]",
                    s.name
                );
                Error::setting("activation_factory.sources", what)
            })?;
            let text = Arc::new(data.open(&s.name)?);
            let order = Order { repeat: s.repeat, shuffle_seed: s.shuffle_records.then(|| settings.seed()) };
            let reader = ContextReader::new(text, tokenizer.clone(), policy.clone(), order)?;
            Ok(WeightedSource { name: s.name.clone(), weight: s.sample_weights, reader: reader.into() })
        }
        ActivationSource::Activations(s) => {
            let folder = |hook: &String| match &s.path {
                CachePath::Root(root) => Ok((hook.clone(), root.join(hook))),
                CachePath::PerHook(folders) => {
                    let folder = folders.get(hook).ok_or_else(|| {
                        let what = format!("source {:?} has no path for {hook}", s.name);
                        Error::setting("activation_factory.sources", what)
                    })?;
                    Ok((hook.clone(), folder.clone()))
                }
            };
            let folders: Vec<_> = settings.hook_points.iter().map(folder).collect::<Result<_>>()?;
            let root = match &s.path {
                CachePath::Root(root) => root.clone(),
                CachePath::PerHook(_) => folders.first().map(|f| f.1.clone()).unwrap_or_default(),
            };
            let reader = ChunkReader::open(&root, &folders, policy.clone())?.into();
            Ok(WeightedSource { name: s.name.clone(), weight: s.sample_weights, reader })
        }
    };
    let sources = settings.sources.iter().map(open).collect::<Result<_>>()?;
    TokenStream::new(sources, settings.seed(), settings.model_batch_size)
}
