//! The auto-interpretation job: explains and scores the features of an analysis that is in a store, several at a time. Every
//! explanation is stored as soon as it is there and every score as soon as all of a feature are, so that a run killed at any
//! instant goes on with what is missing when the same command is given again.

mod plan;
mod run;
mod tally;

pub use plan::AutoInterpPlan;

use super::stored;
use crate::{
    Error, Result,
    autointerp::{Chat, Examples, Explanation, Question, Usage},
    settings::{AutoInterpSettings, ExplainerSettings, ScorerType},
    store::{AnalysisRecord, DictionaryKey, Interpretation, Store},
    training::Observer,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// What a run did.
#[derive(Clone, Debug)]
pub struct AutoInterpReport {
    /// The dictionary.
    pub key: DictionaryKey,
    /// Whether everything was tried; otherwise the run was stopped.
    pub complete: bool,
    /// Features explained.
    pub explained: u64,
    /// Features scored that had been explained before.
    pub scored: u64,
    /// Features with nothing left to do.
    pub skipped: u64,
    /// Features for which something failed, and what.
    pub failed: Vec<(u32, String)>,
    /// Mean of each score over the features of this run that have it.
    pub scores: BTreeMap<String, f64>,
    /// What the endpoint counted.
    pub usage: Usage,
    /// Its price, where prices are given.
    pub cost: Option<f64>,
    /// Time taken.
    pub took: Duration,
}

/// What is left to do for one feature.
#[derive(Clone, Debug)]
struct Task {
    feature: u32,
    /// What is there, if it stays.
    found: Option<Interpretation>,
    scorers: Vec<ScorerType>,
}

/// A job on an open store, and what there is to do.
struct Job<'a> {
    settings: &'a AutoInterpSettings,
    how: &'a ExplainerSettings,
    store: &'a dyn Store,
    key: DictionaryKey,
    made_by: Value,
    tasks: Vec<Task>,
    features: u64,
    silent: u64,
}

/// What a run would do and cost.
///
/// # Errors
/// A dictionary or analysis that is not in the store, a feature it does not have, or whatever the store refuses.
pub fn plan_auto_interp(settings: &AutoInterpSettings, store: &dyn Store) -> Result<AutoInterpPlan> {
    Job::new(settings, store)?.plan()
}

/// Explains and scores as the settings say, asking `chat`.
///
/// # Errors
/// As [`plan_auto_interp`]; an endpoint that refuses everything or fails many times in a row. What was explained stays.
pub fn auto_interp(
    settings: &AutoInterpSettings,
    store: &dyn Store,
    chat: &dyn Chat,
    observer: &mut dyn Observer,
) -> Result<AutoInterpReport> {
    Job::new(settings, store)?.run(chat, observer)
}

impl<'a> Job<'a> {
    fn new(settings: &'a AutoInterpSettings, store: &'a dyn Store) -> Result<Self> {
        settings.check()?;
        let key = DictionaryKey::new(&settings.sae_name, &settings.sae_series);
        let (_, record) = stored::analysed(store, &key, &settings.analysis_name)?;
        let overview = store.overview(&key, &record.name)?.unwrap_or_default();
        let mut features = settings.features.clone().unwrap_or_else(|| (0..record.d_sae).collect());
        features.sort_unstable();
        features.dedup();
        if let Some(bad) = features.iter().find(|f| **f >= record.d_sae) {
            let what = format!("names {bad}; {key} has features 0 to {}", record.d_sae.saturating_sub(1));
            return Err(Error::setting("features", what));
        }
        let how = &settings.auto_interp;
        let mut job = Self {
            settings,
            how,
            store,
            made_by: made_by(how, &record),
            tasks: Vec::new(),
            features: features.len() as u64,
            silent: 0,
            key,
        };
        let mut known = store.interpretations(&job.key)?;
        for feature in features {
            if overview.act_times.get(feature as usize).is_none_or(|&n| n == 0) {
                job.silent += 1;
            } else if let Some(task) = job.task(feature, known.remove(&feature)) {
                job.tasks.push(task);
            }
        }
        Ok(job)
    }

    /// What is to be done for a feature with this explanation.
    fn task(&self, feature: u32, found: Option<Interpretation>) -> Option<Task> {
        let found = found.filter(|i| !i.text.trim().is_empty());
        let ours = found.as_ref().is_some_and(|i| i.detail["made_by"] == self.made_by);
        let scorers = match &found {
            // Someone else's, or made otherwise: it stays as it is.
            Some(_) if !ours && !self.how.overwrite_existing => return None,
            // A test that could not be made has a null there.
            Some(i) if ours => {
                let lacks = |s: &&ScorerType| i.detail["scores"].get(s.to_string()).is_none();
                self.how.scorer_type.iter().filter(lacks).copied().collect()
            }
            _ => self.how.scorer_type.clone(),
        };
        if ours && scorers.is_empty() {
            return None;
        }
        Some(Task { feature, found: found.filter(|_| ours), scorers })
    }

    /// Texts of a feature and the question for an explanation.
    fn texts(&self, feature: u32) -> Result<Option<Texts>> {
        let found = self.store.feature(&self.key, &self.settings.analysis_name, feature)?;
        Ok(found.map(|f| {
            let examples = Examples::of(&f, self.how);
            Texts { question: Explanation::question(&f, &examples, self.how), examples }
        }))
    }
}

struct Texts {
    examples: Examples,
    question: Option<Question>,
}

/// What an explanation depends on: the same again is not asked for again.
fn made_by(how: &ExplainerSettings, record: &AnalysisRecord) -> Value {
    json!({
        "explainer_type": how.explainer_type,
        "model": how.openai_model,
        "analysis": record.name,
        "analysed_at": record.created_at,
        "n_activating_examples": how.n_activating_examples,
        "activation_threshold": how.activation_threshold,
        "max_length": how.max_length,
        "include_cot": how.include_cot,
        "temperature": how.temperature,
        "seed": how.seed,
    })
}
