//! Live inference: one thread owns the device, the language model and the dictionaries, loads them when the first text is typed
//! and answers one question after the other.

use super::failure::Failure;
use axum::http::StatusCode;
use lm_saes::{
    runners::{LiveBench, LiveToken},
    store::{AnalysisRecord, DictionaryRecord},
};
use lm_saes_runtime::Registry;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};
use tokio::sync::{mpsc, oneshot};

/// Texts that may wait.
const WAITING: usize = 4;

/// A text and what to run it through.
pub struct Question {
    dictionary: DictionaryRecord,
    analysis: AnalysisRecord,
    text: String,
    reply: oneshot::Sender<Result<Vec<LiveToken>, Failure>>,
}

/// Where to ask.
pub struct Line(mpsc::Sender<Question>);

/// Both ends of a line.
pub fn channel() -> (Line, mpsc::Receiver<Question>) {
    let (ask, questions) = mpsc::channel(WAITING);
    (Line(ask), questions)
}

impl Line {
    /// The tokens of `text` with the features active on each.
    pub async fn ask(
        &self,
        dictionary: DictionaryRecord,
        analysis: AnalysisRecord,
        text: String,
    ) -> Result<Vec<LiveToken>, Failure> {
        let (reply, answer) = oneshot::channel();
        let busy = || {
            let message = "the language model is busy with other texts; try again in a moment";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
        };
        self.0.try_send(Question { dictionary, analysis, text, reply }).map_err(|_| busy())?;
        answer.await.unwrap_or_else(|_| Err(busy()))
    }
}

/// Answers until nobody can ask any more.
pub fn answer(
    registry: &Registry,
    device: &str,
    model: Option<&Path>,
    mut questions: mpsc::Receiver<Question>,
) {
    let mut bench = LiveBench::new(registry, device, model);
    while let Some(q) = questions.blocking_recv() {
        if q.reply.is_closed() {
            continue;
        }
        let run = AssertUnwindSafe(|| bench.run(&q.dictionary, &q.analysis, &q.text));
        let found = match catch_unwind(run) {
            Ok(found) => found
                .map_err(|e| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, crate::print::chain(&e.into()))),
            Err(_) => {
                // Whatever was half done is gone with it.
                bench = LiveBench::new(registry, device, model);
                let message = "inference broke off; the server's terminal says where";
                Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
        };
        // Who asked may have left.
        let _ = q.reply.send(found);
    }
}
