//! A run: workers ask, one thread writes and counts.

use super::{Job, Task, tally::Tally};
use crate::{
    Error, Result,
    autointerp::{Chat, Explanation, Fault, Patience, Patient, Test},
    runners::AutoInterpReport,
    store::Interpretation,
    training::Observer,
};
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

/// What a worker tells.
pub(super) enum Event {
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

impl Job<'_> {
    pub(super) fn run(&self, chat: &dyn Chat, observer: &mut dyn Observer) -> Result<AutoInterpReport> {
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
