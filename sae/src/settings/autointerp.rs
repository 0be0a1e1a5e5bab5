//! Settings of auto-interpretation (ANALYSIS §5, TRAINING §10), with the reference system's names and defaults, and a few of
//! our own.

use super::{LanguageModelSettings, MongoSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Settings of an auto-interpretation (upstream's `AutoInterpSettings`).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoInterpSettings {
    /// The dictionary.
    pub sae_name: String,
    /// Its series.
    #[serde(default = "default_name")]
    pub sae_series: String,
    /// Accepted for compatibility and not needed: the store holds the texts of its contexts.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Accepted for compatibility.
    #[serde(default)]
    pub model_name: Option<String>,
    /// How explanations are made and scored.
    #[serde(default)]
    pub auto_interp: ExplainerSettings,
    /// Database with the analysis, instead of `store`.
    #[serde(default)]
    pub mongo: Option<MongoSettings>,
    /// Features to explain; absent, all that fired.
    #[serde(default)]
    pub features: Option<Vec<u32>>,
    /// Name of the analysis.
    #[serde(default = "default_name")]
    pub analysis_name: String,
    /// Questions under way at once.
    #[serde(default = "default_workers")]
    pub max_workers: usize,
    /// Ours: the store with the analysis, a file or `mongodb://…`.
    #[serde(default)]
    pub store: Option<String>,
}

/// How an explanation is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExplainerType {
    /// A sentence, from texts with the words that fire marked.
    #[default]
    Openai,
    /// A few words, from lists of tokens.
    Neuronpedia,
}

/// How an explanation is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorerType {
    /// Which of these texts does it fit?
    Detection,
    /// Are the right words marked in these texts?
    Fuzzing,
    /// Ours: which of these texts does not belong? Asked without the explanation: it measures the feature.
    Intruder,
    /// A name of the reference system without an implementation there or here.
    Generation,
    /// Likewise.
    Simulation,
}

impl fmt::Display for ScorerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detection => "detection",
            Self::Fuzzing => "fuzzing",
            Self::Intruder => "intruder",
            Self::Generation => "generation",
            Self::Simulation => "simulation",
        })
    }
}

/// How explanations are made and scored (upstream's `AutoInterpConfig`).
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExplainerSettings {
    /// Style of the question.
    pub explainer_type: ExplainerType,
    /// Key of the endpoint; absent, that of the variable `OPENAI_API_KEY`. Never written anywhere.
    pub openai_api_key: Option<String>,
    /// Model to ask.
    pub openai_model: String,
    /// Address of the endpoint up to `/v1`; absent, that of the variable `OPENAI_BASE_URL`, or OpenAI's.
    pub openai_base_url: Option<String>,
    /// Proxy; absent, what the environment names.
    pub openai_proxy: Option<String>,
    /// Texts shown to the explainer.
    pub n_activating_examples: usize,
    /// Texts without activation that scorers may draw from.
    pub n_non_activating_examples: usize,
    /// Tokens above this share of the maximum are marked.
    pub activation_threshold: f64,
    /// Tokens of each text.
    pub max_length: usize,
    /// Scorers, in order.
    pub scorer_type: Vec<ScorerType>,
    /// Texts of each kind in a detection test.
    pub detection_n_examples: usize,
    /// Fewest texts for a fuzzing test.
    pub fuzzing_n_examples: usize,
    /// Texts with the right words marked.
    pub fuzzing_decile_correct: usize,
    /// Texts with wrong words marked.
    pub fuzzing_decile_incorrect: usize,
    /// Ask for steps of reasoning.
    pub include_cot: bool,
    /// Replace explanations that are there; those made with these settings from this analysis stay.
    pub overwrite_existing: bool,
    /// Ours: texts that belong together in each set of an intruder test.
    pub intruder_n_examples: usize,
    /// Ours: sets of an intruder test.
    pub intruder_n_sets: usize,
    /// Ours: seed of every choice.
    pub seed: u64,
    /// Ours: temperature; absent, the endpoint's.
    pub temperature: Option<f64>,
    /// Ours: seconds after which a request is given up.
    pub timeout_seconds: f64,
    /// Ours: attempts after the first.
    pub max_retries: u32,
    /// Ours: seconds before the second attempt; doubles with each.
    pub retry_seconds: f64,
    /// Ours: price of a million tokens sent.
    pub prompt_price: Option<f64>,
    /// Ours: price of a million tokens received.
    pub completion_price: Option<f64>,
}

impl Default for ExplainerSettings {
    fn default() -> Self {
        Self {
            explainer_type: ExplainerType::Openai,
            openai_api_key: None,
            openai_model: "gpt-3.5-turbo".into(),
            openai_base_url: None,
            openai_proxy: None,
            n_activating_examples: 7,
            n_non_activating_examples: 20,
            activation_threshold: 0.7,
            max_length: 50,
            scorer_type: vec![ScorerType::Detection, ScorerType::Fuzzing],
            detection_n_examples: 5,
            fuzzing_n_examples: 5,
            fuzzing_decile_correct: 5,
            fuzzing_decile_incorrect: 2,
            include_cot: true,
            overwrite_existing: false,
            intruder_n_examples: 4,
            intruder_n_sets: 5,
            seed: 42,
            temperature: None,
            timeout_seconds: 120.0,
            max_retries: 6,
            retry_seconds: 1.0,
            prompt_price: None,
            completion_price: None,
        }
    }
}

/// The key is not shown.
impl fmt::Debug for ExplainerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExplainerSettings")
            .field("explainer_type", &self.explainer_type)
            .field("openai_model", &self.openai_model)
            .field("openai_base_url", &self.openai_base_url)
            .field("scorer_type", &self.scorer_type)
            .finish_non_exhaustive()
    }
}

fn default_name() -> String {
    "default".into()
}

fn default_workers() -> usize {
    10
}

impl ExplainerSettings {
    /// Prices of a million tokens sent and received, where given.
    pub fn prices(&self) -> Option<(f64, f64)> {
        match (self.prompt_price, self.completion_price) {
            (None, None) => None,
            (sent, received) => Some((sent.unwrap_or(0.0), received.unwrap_or(0.0))),
        }
    }

    fn check(&self) -> Result<()> {
        let bad =
            |key: &str, what: &str| -> Result<()> { Err(Error::setting(format!("auto_interp.{key}"), what)) };
        let counts = [
            ("n_activating_examples", self.n_activating_examples),
            ("max_length", self.max_length),
            ("detection_n_examples", self.detection_n_examples),
            ("fuzzing_n_examples", self.fuzzing_n_examples),
            ("fuzzing_decile_correct", self.fuzzing_decile_correct),
            ("fuzzing_decile_incorrect", self.fuzzing_decile_incorrect),
            ("intruder_n_examples", self.intruder_n_examples),
            ("intruder_n_sets", self.intruder_n_sets),
        ];
        for (key, n) in counts {
            if !(1..=1000).contains(&n) {
                return bad(key, "must be from 1 to 1000");
            }
        }
        if !(0.0..1.0).contains(&self.activation_threshold) {
            return bad("activation_threshold", "must be from 0 to below 1");
        }
        if !(self.timeout_seconds > 0.0 && self.timeout_seconds <= 86_400.0) {
            return bad("timeout_seconds", "must be above 0 and at most 86400");
        }
        if !(0.0..=3600.0).contains(&self.retry_seconds) {
            return bad("retry_seconds", "must be from 0 to 3600");
        }
        for (key, price) in [("prompt_price", self.prompt_price), ("completion_price", self.completion_price)]
        {
            if price.is_some_and(|p| !(p.is_finite() && p >= 0.0)) {
                return bad(key, "must be a price that is not negative, for a million tokens");
            }
        }
        for (i, scorer) in self.scorer_type.iter().enumerate() {
            if matches!(scorer, ScorerType::Generation | ScorerType::Simulation) {
                return bad(
                    "scorer_type",
                    &format!("{scorer} does not exist; use detection, fuzzing, intruder"),
                );
            }
            if self.scorer_type[..i].contains(scorer) {
                return bad("scorer_type", &format!("names {scorer} twice"));
            }
        }
        Ok(())
    }
}

impl AutoInterpSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        if !(1..=512).contains(&self.max_workers) {
            return Err(Error::setting("max_workers", "must be from 1 to 512"));
        }
        self.auto_interp.check()
    }

    /// The address of the store.
    pub fn store_address(&self) -> String {
        let named = self.store.clone().or_else(|| self.mongo.as_ref().map(MongoSettings::address));
        named.unwrap_or_else(|| "lm-saes.db".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::from_tree;
    use serde_json::{Value, json};

    fn settings(auto_interp: Value) -> Result<AutoInterpSettings> {
        let s: AutoInterpSettings = from_tree(&json!({ "sae_name": "n", "auto_interp": auto_interp }))?;
        s.check()?;
        Ok(s)
    }

    #[test]
    fn the_reference_systems_settings_parse_unchanged() {
        let s: AutoInterpSettings = from_tree(&json!({
            "sae_name": "pythia-160m-sae",
            "sae_series": "pythia",
            "model": { "model_name": "EleutherAI/pythia-160m", "dtype": "torch.float16" },
            "model_name": "pythia-160m",
            "auto_interp": {
                "explainer_type": "neuronpedia",
                "openai_api_key": "sk-secret",
                "openai_model": "gpt-4o",
                "openai_base_url": "https://example.org/v1",
                "openai_proxy": null,
                "n_activating_examples": 7,
                "n_non_activating_examples": 20,
                "activation_threshold": 0.7,
                "max_length": 50,
                "scorer_type": ["detection", "fuzzing"],
                "detection_n_examples": 5,
                "fuzzing_n_examples": 5,
                "fuzzing_decile_correct": 5,
                "fuzzing_decile_incorrect": 2,
                "include_cot": true,
                "overwrite_existing": false,
            },
            "mongo": { "mongo_uri": "mongodb://localhost:27017", "mongo_db": "mechinterp" },
            "features": [1, 2],
            "analysis_name": "default",
            "max_workers": 10,
        }))
        .unwrap();
        s.check().unwrap();
        assert_eq!(s.store_address(), "mongodb://localhost:27017/mechinterp");
        let ours = ExplainerSettings {
            explainer_type: ExplainerType::Neuronpedia,
            openai_api_key: Some("sk-secret".into()),
            openai_model: "gpt-4o".into(),
            openai_base_url: Some("https://example.org/v1".into()),
            ..ExplainerSettings::default()
        };
        assert_eq!(s.auto_interp, ours);
        assert!(!format!("{s:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_key() {
        let refused = |auto_interp: Value| settings(auto_interp).unwrap_err().to_string();
        let e = refused(json!({"scorer_type": ["simulation"]}));
        assert!(e.starts_with("setting auto_interp.scorer_type: simulation does not exist"), "{e}");
        assert!(refused(json!({"scorer_type": ["fuzzing", "fuzzing"]})).contains("twice"));
        assert!(refused(json!({"max_length": 0})).starts_with("setting auto_interp.max_length: "));
        assert!(refused(json!({"activation_threshold": 1.0})).contains("activation_threshold"));
        assert!(refused(json!({"prompt_price": -1.0})).contains("prompt_price"));
        let e = refused(json!({"openai_modle": "x"}));
        assert!(e.contains("did you mean \"openai_model\"?"), "{e}");
    }
}
