//! The auto-interpretation job: explains and scores the features of an analysis that is in a store, several at a time. Every
//! explanation is stored as soon as it is there and every score as soon as all of a feature are, so that a run killed at any
//! instant goes on with what is missing when the same command is given again.

use crate::{
    Error, Result,
    autointerp::{Chat, Examples, Explanation, Fault, Patience, Patient, Question, Test, Usage},
    settings::{AutoInterpSettings, ExplainerSettings, ExplainerType, ScorerType},
    store::{AnalysisRecord, DictionaryKey, FeatureRef, Interpretation, Store},
    training::{Advance, Observer},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Features whose questions are written out to estimate the cost of all.
const SAMPLED: usize = 64;
/// Characters of a token: what English gives with today's vocabularies, for estimates.
const CHARS_PER_TOKEN: f64 = 4.0;
/// Features that fail one after the other, none succeeding, before the run is ended.
const FAILURES_IN_A_ROW: usize = 20;
/// Between two notices of attempts that failed.
const NOTICE: Duration = Duration::from_secs(5);

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
        let record = analysis(store, &key, &settings.analysis_name)?;
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

    fn plan(&self) -> Result<AutoInterpPlan> {
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

    /// Texts of a feature and the question for an explanation.
    fn texts(&self, feature: u32) -> Result<Option<Texts>> {
        let found = self.store.feature(&self.key, &self.settings.analysis_name, feature)?;
        Ok(found.map(|f| {
            let examples = Examples::of(&f, self.how);
            Texts { question: Explanation::question(&f, &examples, self.how), examples }
        }))
    }

    fn run(&self, chat: &dyn Chat, observer: &mut dyn Observer) -> Result<AutoInterpReport> {
        let began = Instant::now();
        let stop = AtomicBool::new(false);
        let (send, receive) = mpsc::channel();
        let patience = Patience {
            retries: self.how.max_retries,
            pause: Duration::try_from_secs_f64(self.how.retry_seconds).unwrap_or_default(),
        };
        let notices = send.clone();
        let patient = Patient::new(chat, patience, &stop, move |what| {
            let _ = notices.send(Event::Again(what));
        });
        let next = AtomicUsize::new(0);
        let mut progress = Tally::new(self, began);
        let result = thread::scope(|scope| {
            for _ in 0..self.settings.max_workers.min(self.tasks.len()) {
                let (send, patient, next, stop) = (send.clone(), &patient, &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && let Some(task) = self.tasks.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let event = self.explain(task, patient, &send);
                        if matches!(event, Event::Hopeless(_)) {
                            stop.store(true, Ordering::Relaxed);
                        }
                        // What a stop cut off has not failed.
                        if !(matches!(event, Event::Failed { .. }) && stop.load(Ordering::Relaxed)) {
                            let _ = send.send(event);
                        }
                    }
                    let _ = send.send(Event::Left);
                });
            }
            let mut working = self.settings.max_workers.min(self.tasks.len());
            let mut result = Ok(());
            while working > 0 {
                // The sender here outlives the loop.
                let Ok(event) = receive.recv() else { break };
                if matches!(event, Event::Left) {
                    working -= 1;
                    continue;
                }
                match progress.take(event, observer) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => stop.store(true, Ordering::Relaxed),
                    Err(e) => {
                        stop.store(true, Ordering::Relaxed);
                        result = result.and(Err(e));
                    }
                }
            }
            result
        });
        result?;
        let usage = patient.usage();
        Ok(progress.report(usage))
    }

    /// Everything for one feature. An explanation goes to the store before it is scored.
    fn explain(&self, task: &Task, patient: &Patient<'_>, send: &mpsc::Sender<Event>) -> Event {
        let feature = task.feature;
        let failed = |what: String| Event::Failed { feature, what };
        let texts = match self.texts(feature) {
            Ok(Some(texts)) => texts,
            Ok(None) => return failed("is no longer in the analysis".into()),
            Err(e) => return Event::Broken(e),
        };
        let mut found = match (&task.found, texts.question) {
            (Some(found), _) => found.clone(),
            (None, None) => return failed("the analysis kept no text on which it fires".into()),
            (None, Some(question)) => {
                let style = self.how.explainer_type;
                match patient.ask(&question, |text| Explanation::read(text, style)) {
                    Ok(explanation) => self.interpretation(explanation),
                    Err(fault) => return Event::of(feature, fault),
                }
            }
        };
        if task.found.is_none() && !task.scorers.is_empty() {
            let _ = send.send(Event::Explained { feature, found: found.clone() });
        }
        for &kind in &task.scorers {
            let name = kind.to_string();
            let detail = match Test::new(kind, &texts.examples, self.how, feature) {
                None => Value::Null,
                Some(test) => match patient.ask(&test.question(&found.text), |text| test.read(text)) {
                    Ok(answers) => {
                        let (score, detail) = test.score(&answers);
                        found.scores.insert(name.clone(), score);
                        detail
                    }
                    Err(fault) => return Event::of(feature, fault),
                },
            };
            if let Some(scores) = found.detail["scores"].as_object_mut() {
                scores.insert(name, detail);
            }
        }
        Event::Done { feature, found, new: task.found.is_none() }
    }

    fn interpretation(&self, e: Explanation) -> Interpretation {
        Interpretation {
            text: e.text,
            explainer: self.how.openai_model.clone(),
            scores: BTreeMap::new(),
            detail: json!({
                "activation_consistency": e.activation_consistency,
                "complexity": e.complexity,
                "steps": e.steps,
                "scores": Map::new(),
                "made_by": self.made_by,
            }),
        }
    }
}

struct Texts {
    examples: Examples,
    question: Option<Question>,
}

/// What a worker tells.
enum Event {
    /// An attempt failed and will be repeated.
    Again(String),
    /// An explanation is there; scores follow.
    Explained { feature: u32, found: Interpretation },
    /// A feature is finished.
    Done { feature: u32, found: Interpretation, new: bool },
    /// A feature failed.
    Failed { feature: u32, what: String },
    /// Nothing will succeed.
    Hopeless(String),
    /// The store failed.
    Broken(Error),
    /// A worker ended.
    Left,
}

impl Event {
    fn of(feature: u32, fault: Fault) -> Self {
        match fault {
            Fault::Stop(what) => Self::Hopeless(what),
            Fault::Refused(what) | Fault::Again { what, .. } => Self::Failed { feature, what },
        }
    }
}

/// Writes to the store, counts and tells: the one thread that does.
struct Tally<'a> {
    job: &'a Job<'a>,
    began: Instant,
    explained: u64,
    scored: u64,
    failed: Vec<(u32, String)>,
    in_a_row: usize,
    sums: BTreeMap<String, (f64, u64)>,
    noticed: Option<Instant>,
}

impl<'a> Tally<'a> {
    fn new(job: &'a Job<'a>, began: Instant) -> Self {
        Self {
            job,
            began,
            explained: 0,
            scored: 0,
            failed: Vec::new(),
            in_a_row: 0,
            sums: BTreeMap::new(),
            noticed: None,
        }
    }

    fn take(&mut self, event: Event, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        match event {
            Event::Again(what) => {
                if self.noticed.is_none_or(|t| t.elapsed() >= NOTICE) {
                    observer.phase(&format!("asking again: {what}"));
                    self.noticed = Some(Instant::now());
                }
                return Ok(ControlFlow::Continue(()));
            }
            Event::Explained { feature, found } => {
                self.write(feature, &found)?;
                return Ok(ControlFlow::Continue(()));
            }
            Event::Done { feature, found, new } => {
                self.write(feature, &found)?;
                self.in_a_row = 0;
                *(if new { &mut self.explained } else { &mut self.scored }) += 1;
                for (name, score) in &found.scores {
                    let sum = self.sums.entry(name.clone()).or_default();
                    *sum = (sum.0 + score, sum.1 + 1);
                }
            }
            Event::Failed { feature, what } => {
                self.in_a_row += 1;
                if self.in_a_row >= FAILURES_IN_A_ROW {
                    return Err(self.hopeless(&format!("{} features failed in a row; {what}", self.in_a_row)));
                }
                observer.phase(&format!("feature {feature}: {what}"));
                self.failed.push((feature, what));
            }
            Event::Hopeless(what) => return Err(self.hopeless(&what)),
            Event::Broken(e) => return Err(e),
            Event::Left => return Ok(ControlFlow::Continue(())),
        }
        let done = self.explained + self.scored + self.failed.len() as u64;
        let total = self.job.tasks.len() as u64;
        let per_second = done as f64 / self.began.elapsed().as_secs_f64().max(1e-9);
        let left = (total - done) as f64 / per_second;
        let remaining = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
        Ok(observer.advanced(&Advance { what: "features explained", done, total, per_second, remaining }))
    }

    fn write(&self, feature: u32, found: &Interpretation) -> Result<()> {
        let at = FeatureRef { dictionary: self.job.key.clone(), feature };
        self.job.store.set_interpretation(&at, Some(found))
    }

    fn hopeless(&self, what: &str) -> Error {
        let done = self.explained + self.scored;
        Error::Data {
            what: format!(
                "{what}; {done} features are explained and stored, the same command goes on from there"
            ),
        }
    }

    fn report(self, usage: Usage) -> AutoInterpReport {
        let job = self.job;
        let done = self.explained + self.scored + self.failed.len() as u64;
        AutoInterpReport {
            key: job.key.clone(),
            complete: done == job.tasks.len() as u64,
            explained: self.explained,
            scored: self.scored,
            skipped: job.features - job.tasks.len() as u64,
            failed: self.failed,
            scores: self.sums.into_iter().map(|(name, (sum, n))| (name, sum / n as f64)).collect(),
            usage,
            cost: usage.cost(job.how.prices()),
            took: self.began.elapsed(),
        }
    }
}

fn analysis(store: &dyn Store, key: &DictionaryKey, name: &str) -> Result<AnalysisRecord> {
    if store.dictionary(key)?.is_none() {
        let known: Vec<String> = store.dictionaries(None)?.iter().map(|d| d.key.to_string()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(Error::Data { what: format!("no dictionary {key} in this store; it has {known}") });
    }
    let all = store.analyses(key)?;
    let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
    let what = match names.is_empty() {
        true => format!("{key} has no analysis yet; make one with `lm-saes analyze`"),
        false => format!("{key} has no analysis {name:?}; it has {}", names.join(", ")),
    };
    all.iter().find(|a| a.name == name).cloned().ok_or(Error::Data { what })
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
