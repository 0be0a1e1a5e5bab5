//! What a store holds, as plain values: dictionaries, analyses, one result per feature, the contexts they point to, and what
//! people add (explanations, bookmarks, lists). Names follow the reference system's documents (ANALYSIS §2.4, §6).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What identifies a dictionary everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DictionaryKey {
    /// Name.
    pub name: String,
    /// Series.
    pub series: String,
}

impl DictionaryKey {
    /// A key.
    pub fn new(name: impl Into<String>, series: impl Into<String>) -> Self {
        Self { name: name.into(), series: series.into() }
    }
}

impl std::fmt::Display for DictionaryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.series)
    }
}

/// A registered dictionary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DictionaryRecord {
    /// Name and series.
    pub key: DictionaryKey,
    /// Folder of its weights.
    pub path: String,
    /// Its settings, as in `config.json`.
    pub cfg: Value,
    /// Features.
    pub d_sae: u32,
    /// The language model it belongs to: a name, or a path.
    pub model_name: Option<String>,
}

/// What an analysis was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnalysisRecord {
    /// Name, `default` if none is given.
    pub name: String,
    /// Features.
    pub d_sae: u32,
    /// Tokens that counted; densities are shares of these.
    pub n_analyzed_tokens: u64,
    /// Tokens the analysis settings were given, padding included.
    pub n_tokens: u64,
    /// Contexts seen.
    pub n_contexts: u64,
    /// Seconds since 1970 when it was finished.
    pub created_at: u64,
    /// The analysis settings in force.
    pub settings: Value,
}

/// Occurrences by activation: bin `i` counts `|f|` in `[i·width, (i+1)·width)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Width of a bin, a power of two.
    pub width: f32,
    /// Occurrences.
    pub counts: Vec<u32>,
}

/// A context in which a feature was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the context, see [`Context::id`].
    pub context: u32,
    /// Position and activation wherever the feature is active, by position.
    pub acts: Vec<(u32, f32)>,
    /// Query position, key position and contribution, for attention dictionaries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub z_pattern: Vec<(u32, u32, f32)>,
}

impl Sample {
    /// The strongest activation and where it is: the first of the largest `|f|`.
    pub fn peak(&self) -> Option<(u32, f32)> {
        self.acts.iter().copied().reduce(|a, b| if b.1.abs() > a.1.abs() { b } else { a })
    }
}

/// Contexts chosen by one rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Name of the rule, such as `top_activations`.
    pub name: String,
    /// The contexts in order.
    pub samples: Vec<Sample>,
}

/// Another feature and how it relates to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Related {
    /// Feature index.
    pub feature: u32,
    /// Cosine of decoder vectors, or share of this feature's occurrences on which the other was active too.
    pub value: f32,
}

/// Output tokens a feature promotes and suppresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logits {
    /// Largest first.
    pub top_positive: Vec<TokenLogit>,
    /// Most negative first.
    pub top_negative: Vec<TokenLogit>,
}

/// One output token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogit {
    /// Its text.
    pub token: String,
    /// Its logit.
    pub logit: f32,
}

/// Everything an analysis found about one feature.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureAnalysis {
    /// Feature index.
    pub index: u32,
    /// Tokens on which it was active.
    pub act_times: u64,
    /// Largest `|f|`.
    pub max_act: f32,
    /// Mean of `|f|` where it was active.
    pub mean_act: f32,
    /// Contexts in which it was active.
    pub n_contexts: u64,
    /// Occurrences by activation.
    pub histogram: Histogram,
    /// Contexts by rule.
    pub samplings: Vec<Sampling>,
    /// Features most often active on the same tokens.
    pub coactivations: Vec<Related>,
    /// Features with the most similar decoder.
    pub neighbours: Vec<Related>,
    /// Decoder norm of each head or layer.
    pub decoder_norms: Vec<f32>,
    /// Cosines between the heads' decoders, row by row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoder_similarities: Vec<f32>,
    /// Inner products of the heads' decoders, row by row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoder_inner_products: Vec<f32>,
    /// Output tokens, where a language model was there to say.
    pub logits: Option<Logits>,
    /// Texts of the tokens it peaks on in the contexts of its first sampling, each once, strongest first.
    pub peak_tokens: Vec<String>,
    /// The tokens around the strongest activation with the activation on each: a line for lists.
    pub preview: Vec<(String, f32)>,
}

impl FeatureAnalysis {
    /// Share of the analysed tokens on which the feature was active.
    pub fn density(&self, analysis: &AnalysisRecord) -> f64 {
        self.act_times as f64 / analysis.n_analyzed_tokens.max(1) as f64
    }

    /// What token search finds this feature by: the tokens it peaks on and those it promotes.
    pub fn search_text(&self) -> String {
        let promoted = self.logits.iter().flat_map(|l| l.top_positive.iter().map(|t| t.token.as_str()));
        let words: Vec<&str> = self.peak_tokens.iter().map(String::as_str).chain(promoted).collect();
        words.join(" ")
    }
}

/// A stretch of text as the model saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Its number in the analysis.
    pub id: u32,
    /// Where it came from, if known: data set, number of the context in it.
    pub origin: String,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token texts, one for each id.
    pub texts: Vec<String>,
}

/// What a feature was found to mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interpretation {
    /// The explanation.
    pub text: String,
    /// Who or what wrote it: a model's name, or `manual`.
    #[serde(default)]
    pub explainer: String,
    /// Scores by method, such as `detection`.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
    /// Anything else the explainer said.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// A marked feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// Labels.
    pub tags: Vec<String>,
    /// Notes.
    pub notes: Option<String>,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// A feature of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FeatureRef {
    /// Dictionary.
    pub dictionary: DictionaryKey,
    /// Feature index.
    pub feature: u32,
}

/// A named list of features.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureList {
    /// Name.
    pub name: String,
    /// What it is about.
    pub notes: String,
    /// Members in order.
    pub features: Vec<FeatureRef>,
}

/// A feature's page: analysis, the text of its contexts, and what people added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// What the analysis found.
    pub analysis: FeatureAnalysis,
    /// The contexts its samples point to, by number.
    pub contexts: Vec<Context>,
    /// Its explanation.
    pub interpretation: Option<Interpretation>,
    /// Numbers by name.
    pub metrics: BTreeMap<String, f64>,
    /// Its bookmark.
    pub bookmark: Option<Bookmark>,
}

impl Feature {
    /// The context with this number.
    pub fn context(&self, id: u32) -> Option<&Context> {
        self.contexts.binary_search_by_key(&id, |c| c.id).ok().map(|i| &self.contexts[i])
    }
}

/// A feature in a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeatureSummary {
    /// Feature index.
    pub index: u32,
    /// Tokens on which it was active.
    pub act_times: u64,
    /// Largest `|f|`.
    pub max_act: f32,
    /// Its explanation.
    pub explanation: Option<String>,
    /// Whether it is bookmarked.
    pub bookmarked: bool,
    /// See [`FeatureAnalysis::preview`].
    pub preview: Vec<(String, f32)>,
}

/// Two numbers for every feature, by index: what a scatter plot needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Tokens on which each was active.
    pub act_times: Vec<u32>,
    /// Largest `|f|` of each.
    pub max_acts: Vec<f32>,
}

impl Overview {
    /// Features that fired.
    pub fn alive(&self) -> usize {
        self.act_times.iter().filter(|&&n| n > 0).count()
    }

    /// Features that fired by log10 of their density, `bins` equal bins over `[-7, 0]`; rarer ones are in the first.
    pub fn log_density_histogram(&self, n_analyzed_tokens: u64, bins: usize) -> Vec<u32> {
        let mut counts = vec![0; bins];
        for &n in self.act_times.iter().filter(|&&n| n > 0) {
            let density = f64::from(n) / n_analyzed_tokens.max(1) as f64;
            let at = (density.log10() + 7.0) / 7.0 * bins as f64;
            if let Some(last) = bins.checked_sub(1) {
                counts[(at.max(0.0) as usize).min(last)] += 1;
            }
        }
        counts
    }
}

/// By what a list of features is sorted. Equal ones by index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortBy {
    /// Feature index.
    #[default]
    Index,
    /// Tokens on which it was active.
    ActTimes,
    /// Largest `|f|`.
    MaxAct,
}

/// Which features a list shows. Absent bounds do not bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureFilter {
    /// Only those that fired.
    pub alive: bool,
    /// Fewest tokens on which it was active.
    pub min_act_times: Option<u64>,
    /// Most tokens on which it was active.
    pub max_act_times: Option<u64>,
    /// Smallest maximum.
    pub min_max_act: Option<f32>,
    /// Largest maximum.
    pub max_max_act: Option<f32>,
    /// Only those with, or without, an explanation.
    pub explained: Option<bool>,
    /// Only those that are, or are not, bookmarked.
    pub bookmarked: Option<bool>,
}

/// A page of a list of features.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureQuery {
    /// Which.
    pub filter: FeatureFilter,
    /// In which order.
    pub sort: SortBy,
    /// Largest first.
    pub descending: bool,
    /// How many to leave out.
    pub offset: u64,
    /// How many to return.
    pub limit: u64,
}

/// What a [`FeatureQuery`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FeaturePage {
    /// The page.
    pub features: Vec<FeatureSummary>,
    /// Features that pass the filter.
    pub total: u64,
}

/// A feature found by text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchHit {
    /// Which feature.
    pub feature: FeatureRef,
    /// Its explanation, where that was found.
    pub explanation: Option<String>,
    /// The tokens it peaks on or promotes, where those were found.
    pub tokens: Option<String>,
}
