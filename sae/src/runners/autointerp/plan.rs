//! What a run would ask and cost: the questions of some features written out, the rest in proportion.

use super::{Job, Task};
use crate::{
    Result,
    autointerp::{Question, Test, Usage},
    settings::ExplainerType,
};
use serde::Serialize;

/// Features whose questions are written out to estimate the cost of all.
const SAMPLED: usize = 64;
/// Characters of a token: what English gives with today's vocabularies, for estimates.
const CHARS_PER_TOKEN: f64 = 4.0;

/// What a run would do.
#[derive(Clone, Debug, Serialize)]
pub struct AutoInterpPlan {
    /// Features of the dictionary, or those named.
    pub features: u64,
    /// Of these, without activation in the analysis.
    pub silent: u64,
    /// Of the others, those with an explanation that stays, and every score asked for.
    pub done: u64,
    /// To be explained.
    pub to_explain: u64,
    /// Explained already, to be scored only.
    pub to_score: u64,
    /// Questions.
    pub requests: u64,
    /// Tokens sent: an estimate from the questions of some features, at four characters a token.
    pub prompt_tokens: u64,
    /// Tokens received: an estimate.
    pub completion_tokens: u64,
    /// Price of these, where prices are given.
    pub cost: Option<f64>,
}

impl Job<'_> {
    pub(super) fn plan(&self) -> Result<AutoInterpPlan> {
        let n = self.tasks.len();
        let chosen: Vec<&Task> = (0..n.min(SAMPLED)).map(|i| &self.tasks[i * n / n.min(SAMPLED)]).collect();
        let (mut requests, mut sent, mut received) = (0usize, 0usize, 0usize);
        let mut ask = |q: Question, answer: usize| {
            requests += 1;
            sent += q.system.len() + q.user.len();
            received += answer;
        };
        for task in &chosen {
            let Some(texts) = self.texts(task.feature)? else { continue };
            let answer = match (self.how.explainer_type, self.how.include_cot) {
                (ExplainerType::Openai, true) => 700,
                (ExplainerType::Openai, false) => 250,
                (ExplainerType::Neuronpedia, _) => 30,
            };
            if let (None, Some(q)) = (&task.found, texts.question) {
                ask(q, answer);
            }
            let stands_in =
                "This feature activates on words of one kind in texts of one kind, as far as these show.";
            for &kind in &task.scorers {
                if let Some(test) = Test::new(kind, &texts.examples, self.how, task.feature) {
                    ask(test.question(stands_in), 20 + 7 * test.n_answers());
                }
            }
        }
        let scale = if chosen.is_empty() { 0.0 } else { n as f64 / chosen.len() as f64 };
        let tokens = |chars: usize| (chars as f64 * scale / CHARS_PER_TOKEN).round() as u64;
        let (prompt_tokens, completion_tokens) = (tokens(sent), tokens(received));
        let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        let to_score = self.tasks.iter().filter(|t| t.found.is_some()).count() as u64;
        Ok(AutoInterpPlan {
            features: self.features,
            silent: self.silent,
            done: self.features - self.silent - n as u64,
            to_explain: n as u64 - to_score,
            to_score,
            requests: (requests as f64 * scale).round() as u64,
            prompt_tokens,
            completion_tokens,
            cost: usage.cost(self.how.prices()),
        })
    }
}
