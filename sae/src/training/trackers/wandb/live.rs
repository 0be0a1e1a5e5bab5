//! Sending a run to a Weights & Biases server while it goes on: one thread that registers nothing and decides nothing, only posts
//! lines in batches and says that the run is alive. Training never waits for it; what it cannot send is still in the file.

use super::api::Api;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Lines are collected for this long, which keeps a run well below the server's limit of requests.
const BATCH: Duration = Duration::from_secs(2);
/// Without a word for some minutes a run counts as crashed.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Attempts of one post, a second, two, four … apart.
const ATTEMPTS: u32 = 6;

/// What the thread is told.
enum Say {
    /// Values of a step.
    Line(Value),
    /// The run has ended with this code.
    End(u64),
}

/// The thread and how to reach it.
pub struct Live {
    say: Sender<Say>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Live {
    /// Goes on with a run of which the server has `lines` lines.
    pub fn start(api: Api, lines: u64) -> Self {
        let (say, listen) = channel();
        let failure = Arc::new(Mutex::new(None));
        let told = failure.clone();
        let thread = thread::spawn(move || {
            if let Err(what) = post(&api, lines, &listen) {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
            }
        });
        Self { say, thread: Some(thread), failure }
    }

    /// One more line.
    pub fn line(&self, line: Value) {
        // The thread is gone only after a failure, which is told.
        let _ = self.say.send(Say::Line(line));
    }

    /// Why sending ended, once.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the run and waits until everything is sent or given up.
    pub fn end(&mut self, code: u64) {
        let _ = self.say.send(Say::End(code));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn post(api: &Api, mut lines: u64, listen: &Receiver<Say>) -> Result<(), String> {
    let (mut waiting, mut summary) = (Vec::new(), json!({}));
    let (mut collecting, mut posted) = (None::<Instant>, Instant::now());
    loop {
        let due = collecting.map_or(posted + HEARTBEAT, |since| since + BATCH);
        let ended = match listen.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Say::Line(line)) => {
                if let (Some(all), Some(new)) = (summary.as_object_mut(), line.as_object()) {
                    all.extend(new.clone());
                }
                waiting.push(Value::String(line.to_string()));
                collecting.get_or_insert_with(Instant::now);
                continue;
            }
            Ok(Say::End(code)) => Some(code),
            Err(RecvTimeoutError::Timeout) => None,
            // The writer was dropped without a word.
            Err(RecvTimeoutError::Disconnected) => Some(1),
        };
        let mut body = json!({});
        if !waiting.is_empty() {
            body["files"] = json!({
                "wandb-history.jsonl": { "offset": lines, "content": waiting },
                "wandb-summary.json": { "offset": 0, "content": [summary.to_string()] },
            });
        }
        if let Some(code) = ended {
            body["complete"] = json!(true);
            body["exitcode"] = json!(code);
        }
        patiently(api, &body)?;
        lines += waiting.len() as u64;
        waiting.clear();
        (collecting, posted) = (None, Instant::now());
        if ended.is_some() {
            return Ok(());
        }
    }
}

fn patiently(api: &Api, body: &Value) -> Result<(), String> {
    for attempt in 0.. {
        match api.stream(body) {
            Ok(()) => return Ok(()),
            Err(e) if e.again && attempt + 1 < ATTEMPTS => {
                let pause = e.after.unwrap_or(Duration::from_secs(1 << attempt));
                thread::sleep(pause.min(Duration::from_secs(60)));
            }
            Err(e) => return Err(e.what),
        }
    }
    Ok(())
}
