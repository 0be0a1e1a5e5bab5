//! Live inference: text typed by someone through a dictionary of a store. The language model and the dictionaries asked for are
//! loaded when they are first needed and stay open.

use super::{
    stored,
    workbench::{Workbench, load_pretrained},
};
use crate::{
    Error, Result,
    activations::{Batch, Producer, Target},
    analysis::Encoder,
    data::TokenPolicy,
    dictionary::Dictionary,
    settings::{ActivationFactorySettings, LanguageModelSettings, PretrainedSettings},
    store::{AnalysisRecord, DictionaryKey, DictionaryRecord},
    training::Silent,
};
use lm_saes_runtime::Registry;
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Dictionaries kept open.
const OPEN: usize = 4;
/// Most tokens of a text; attention needs room for their square.
const MAX_TOKENS: usize = 512;

/// One token of a text and the features active on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveToken {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Whether the analysis would have counted it; where not, `features` is empty.
    pub counts: bool,
    /// Feature and activation, strongest first.
    pub features: Vec<(u32, f32)>,
}

/// What live inference keeps open.
pub struct LiveBench<'a> {
    registry: &'a Registry,
    device: &'a str,
    model: Option<&'a Path>,
    bench: Option<(LanguageModelSettings, Workbench)>,
    /// Most recently used last.
    open: Vec<Open>,
}

struct Open {
    key: DictionaryKey,
    path: PathBuf,
    dictionary: Box<dyn Dictionary>,
    encoder: Encoder,
    layer: Option<usize>,
    rows: usize,
}

impl<'a> LiveBench<'a> {
    /// Nothing loaded yet. `model` is used instead of the one each analysis was made with.
    pub fn new(registry: &'a Registry, device: &'a str, model: Option<&'a Path>) -> Self {
        Self { registry, device, model, bench: None, open: Vec::new() }
    }

    /// The tokens of `text`, as the analysis would have made them, with what is active on each.
    ///
    /// # Errors
    /// A store that does not say how the analysis was made, a model or dictionary that is not where it was, a text that is empty
    /// or too long.
    pub fn run(
        &mut self,
        dictionary: &DictionaryRecord,
        analysis: &AnalysisRecord,
        text: &str,
    ) -> Result<Vec<LiveToken>> {
        let model = stored::language_model(analysis, self.model)?;
        let factory = factory(analysis)?;
        if self.bench.as_ref().is_none_or(|(open, _)| *open != model) {
            self.open.clear();
            self.bench = None;
            let none = BTreeMap::new();
            let bench = Workbench::open(self.registry, self.device, &model, &factory, &none, &mut Silent)?;
            self.bench = Some((model, bench));
        }
        let layer = stored::layer(analysis);
        let Some((model, bench)) = &mut self.bench else {
            return Err(Error::Data { what: "the language model is not loaded".into() });
        };
        let policy = policy(bench, model, &factory)?;
        let ids = context(bench, &policy, text)?;
        let len = ids.len();
        let at = self.open.iter().position(|o| {
            o.key == dictionary.key
                && o.path.as_os_str() == dictionary.path.as_str()
                && o.layer == layer
                && o.rows >= len
        });
        let mut open = match at {
            Some(at) => self.open.remove(at),
            None => Open::load(bench, dictionary, layer, MAX_TOKENS.min(policy.max_length).max(len))?,
        };
        if let Some(most) =
            open.dictionary.settings().variant.facts().longest_context().filter(|most| len > *most)
        {
            let what = format!(
                "the text has {len} tokens with what begins it; this dictionary looks at at most {most} at once"
            );
            self.open.push(open);
            return Err(Error::Data { what });
        }
        let found = open.run(bench, &policy, ids);
        if self.open.len() >= OPEN {
            self.open.remove(0);
        }
        self.open.push(open);
        found
    }
}

impl Open {
    fn load(
        bench: &mut Workbench,
        record: &DictionaryRecord,
        layer: Option<usize>,
        rows: usize,
    ) -> Result<Self> {
        let settings: PretrainedSettings =
            stored::part("sae", &json!({ "pretrained_name_or_path": record.path }))?;
        let loaded = load_pretrained(&mut bench.q, &settings, false)?;
        bench.check_model(&loaded.extras, &settings)?;
        let mut dictionary = loaded.dictionary;
        for hook in dictionary.hook_points_in() {
            bench.lm.hook_width(&hook)?;
        }
        let encoder = Encoder::new(&mut bench.q, &mut *dictionary, rows, layer)?;
        Ok(Self {
            key: record.key.clone(),
            path: record.path.clone().into(),
            dictionary,
            encoder,
            layer,
            rows,
        })
    }

    fn run(&mut self, bench: &mut Workbench, policy: &TokenPolicy, ids: Vec<u32>) -> Result<Vec<LiveToken>> {
        let len = ids.len();
        let tokens = policy.batch(std::slice::from_ref(&ids));
        let mut hooks = self.dictionary.hook_points_in();
        hooks.sort();
        hooks.dedup();
        let acts = bench.lm.activations(&mut bench.q, &hooks, &tokens)?;
        let n_valid = tokens.n_valid();
        let mask = tokens.mask.clone();
        let mut batch =
            Batch { acts, tokens: tokens.ids, mask: tokens.mask, contexts: Some((1, len)), n_valid };
        let codes = self.encoder.codes(&mut bench.q, &mut *self.dictionary, &hooks, &mut batch)?;
        let token = |(row, &id): (usize, &u32)| {
            let counts = mask[row] != 0;
            let mut features = if counts { codes.row(row).to_vec() } else { Vec::new() };
            features.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
            LiveToken { id, text: bench.tokenizer.token_text(id), counts, features }
        };
        Ok(ids.iter().enumerate().map(token).collect())
    }
}

/// How the analysis made contexts, or whole texts.
fn factory(analysis: &AnalysisRecord) -> Result<ActivationFactorySettings> {
    let usual = json!({ "target": "activations-2d", "hook_points": [], "sources": [], "batch_size": 1 });
    let recorded = &analysis.settings["activation_factory"];
    let recorded = if recorded.is_null() { &usual } else { recorded };
    let mut factory: ActivationFactorySettings = stored::part("activation_factory", recorded)?;
    factory.target = Target::Activations2d;
    // What each dictionary needs is checked when it is opened.
    factory.hook_points.clear();
    Ok(factory)
}

/// The policy of the analysis, for single texts: as long as the model allows, without padding.
fn policy(
    bench: &Workbench,
    model: &LanguageModelSettings,
    factory: &ActivationFactorySettings,
) -> Result<TokenPolicy> {
    let max_length = model.max_length.min(bench.lm.architecture().n_ctx).min(MAX_TOKENS);
    let model = LanguageModelSettings { max_length, ..model.clone() };
    let policy = factory.token_policy(&model, bench.tokenizer.special())?;
    Ok(TokenPolicy { context_size: None, max_length, ..policy })
}

/// The token ids of a text, BOS included where the policy has it.
fn context(bench: &Workbench, policy: &TokenPolicy, text: &str) -> Result<Vec<u32>> {
    let ids = bench.tokenizer.encode(text)?;
    if ids.is_empty() {
        return Err(Error::Data { what: "there is no text to look at; type some".into() });
    }
    if ids.len() > policy.room() {
        let what =
            format!("the text has {} tokens; at most {} can be looked at at once", ids.len(), policy.room());
        return Err(Error::Data { what });
    }
    Ok(policy.bos.filter(|_| policy.prepend_bos).into_iter().chain(ids).collect())
}
