//! Talking to a language model: one question and its answer as plain values, the trait a client implements, and the patience
//! that is the same for all of them: asking again, waiting as told, counting what it costs.

use serde::Serialize;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Longest pause between two attempts that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A server that asks for more is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// How often a pause looks whether the work was stopped.
const LOOK: Duration = Duration::from_millis(50);

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// What the model is to do.
    pub system: String,
    /// What it is to do it with.
    pub user: String,
    /// Whether the answer has to be a JSON object.
    pub json: bool,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The model's words.
    pub text: String,
    /// What it was charged for.
    pub usage: Usage,
}

/// What questions and answers add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Questions answered.
    pub requests: u64,
    /// Questions asked again.
    pub retries: u64,
    /// Tokens sent, as the endpoint counts them.
    pub prompt_tokens: u64,
    /// Tokens received.
    pub completion_tokens: u64,
}

impl Usage {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.retries += other.retries;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
    }

    /// The price of it, given those of a million tokens sent and received.
    pub fn cost(&self, prices: Option<(f64, f64)>) -> Option<f64> {
        prices.map(|(sent, received)| {
            (self.prompt_tokens as f64 * sent + self.completion_tokens as f64 * received) / 1e6
        })
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another attempt may succeed, after this pause if one was asked for.
    Again {
        /// What happened.
        what: String,
        /// The pause the server asks for.
        after: Option<Duration>,
    },
    /// This question will not be answered.
    Refused(String),
    /// No question will be.
    Stop(String),
}

/// A client of a language model, used from several threads at once.
pub trait Chat: Sync {
    /// Asks once. Returns in bounded time.
    ///
    /// # Errors
    /// [`Fault`].
    fn ask(&self, question: &Question) -> Result<Reply, Fault>;
}

/// How a [`Patient`] asks again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts after the first.
    pub retries: u32,
    /// Pause before the first of them; it doubles with each.
    pub pause: Duration,
}

/// Asks again where that may help. Shared by all workers: a pause one is told to make, all make.
pub struct Patient<'a> {
    chat: &'a dyn Chat,
    patience: Patience,
    stop: &'a AtomicBool,
    hold: Mutex<Option<Instant>>,
    usage: Mutex<Usage>,
    tell: Box<dyn Fn(String) + Sync + 'a>,
}

impl<'a> Patient<'a> {
    /// A patient `chat`: `stop` ends every pause, `tell` hears of every attempt that failed.
    pub fn new(
        chat: &'a dyn Chat,
        patience: Patience,
        stop: &'a AtomicBool,
        tell: impl Fn(String) + Sync + 'a,
    ) -> Self {
        Self { chat, patience, stop, hold: Mutex::new(None), usage: Mutex::default(), tell: Box::new(tell) }
    }

    /// What was used so far, failed readings included.
    pub fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until `read` understands the answer.
    ///
    /// # Errors
    /// [`Fault::Refused`] after the last attempt or when stopped, [`Fault::Stop`] where nothing will help.
    pub fn ask<T>(&self, question: &Question, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Fault> {
        let mut attempt = 0;
        loop {
            self.wait(Duration::ZERO)?;
            let (what, after) = match self.chat.ask(question) {
                Ok(reply) => {
                    self.usage.lock().unwrap_or_else(PoisonError::into_inner).add(reply.usage);
                    match read(&reply.text) {
                        Ok(value) => return Ok(value),
                        Err(what) => (what, Some(Duration::ZERO)),
                    }
                }
                Err(Fault::Again { what, after }) => (what, after),
                Err(fault) => return Err(fault),
            };
            if attempt == self.patience.retries {
                return Err(Fault::Refused(format!("{what} (asked {} times)", attempt + 1)));
            }
            match after {
                Some(after) if after > LONGEST_WAIT => {
                    let minutes = after.as_secs().div_ceil(60);
                    return Err(Fault::Stop(format!("{what}; the endpoint asks to wait {minutes} minutes")));
                }
                Some(after) if !after.is_zero() => self.hold(after),
                _ => {}
            }
            (self.tell)(what);
            self.usage.lock().unwrap_or_else(PoisonError::into_inner).retries += 1;
            self.wait(after.unwrap_or_else(|| self.pause(attempt, question)))?;
            attempt += 1;
        }
    }

    /// Everyone waits this long from now.
    fn hold(&self, after: Duration) {
        let mut hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + after;
        *hold = Some(hold.map_or(until, |h| h.max(until)));
    }

    /// Doubling, with up to half taken off so that workers that failed together do not come back together.
    fn pause(&self, attempt: u32, question: &Question) -> Duration {
        let whole = self.patience.pause.saturating_mul(1 << attempt.min(16)).min(LONGEST_PAUSE);
        let spread = question
            .user
            .bytes()
            .fold(u32::from(attempt as u8), |h, b| h.wrapping_mul(16_777_619) ^ u32::from(b));
        whole.mul_f64(0.5 + f64::from(spread % 1000) / 2000.0)
    }

    /// Waits for `pause` and for everyone's hold.
    fn wait(&self, pause: Duration) -> Result<(), Fault> {
        let until = Instant::now() + pause;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Fault::Refused("stopped".into()));
            }
            let hold = *self.hold.lock().unwrap_or_else(PoisonError::into_inner);
            let left = hold.map_or(until, |h| h.max(until)).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    struct Script(Mutex<VecDeque<Result<Reply, Fault>>>);

    impl Script {
        fn of(turns: impl IntoIterator<Item = Result<&'static str, Fault>>) -> Self {
            let usage = Usage { requests: 1, retries: 0, prompt_tokens: 10, completion_tokens: 2 };
            let turn = |t: Result<&str, Fault>| t.map(|text| Reply { text: text.into(), usage });
            Self(Mutex::new(turns.into_iter().map(turn).collect()))
        }
    }

    impl Chat for Script {
        fn ask(&self, _: &Question) -> Result<Reply, Fault> {
            self.0.lock().unwrap().pop_front().expect("no more questions than the script has answers")
        }
    }

    fn again(after: Option<u64>) -> Result<&'static str, Fault> {
        Err(Fault::Again { what: "busy".into(), after: after.map(Duration::from_millis) })
    }

    const QUICK: Patience = Patience { retries: 3, pause: Duration::from_millis(1) };

    fn number(text: &str) -> Result<u32, String> {
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    #[test]
    fn a_question_is_asked_again_until_its_answer_can_be_read() {
        let script = Script::of([again(None), Ok("nonsense"), again(Some(30)), Ok("7")]);
        let (stop, told) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let began = Instant::now();
        let patient = Patient::new(&script, QUICK, &stop, |what| told.lock().unwrap().push(what));
        assert_eq!(patient.ask(&Question::default(), number), Ok(7));
        assert!(began.elapsed() >= Duration::from_millis(30));
        let usage = Usage { requests: 2, retries: 3, prompt_tokens: 20, completion_tokens: 4 };
        assert_eq!(patient.usage(), usage);
        assert_eq!(*told.lock().unwrap(), ["busy", "\"nonsense\" is no number", "busy"]);
        assert_eq!(usage.cost(Some((1e5, 1e6))), Some(2.0 + 4.0));
    }

    #[test]
    fn the_last_attempt_a_refusal_and_a_far_too_long_wait_end_it() {
        let stop = AtomicBool::new(false);
        let ask = |turns: Vec<Result<&'static str, Fault>>| {
            let script = Script::of(turns);
            Patient::new(&script, QUICK, &stop, |_| {}).ask(&Question::default(), number).unwrap_err()
        };
        let e = ask((0..4).map(|_| again(None)).collect());
        assert_eq!(e, Fault::Refused("busy (asked 4 times)".into()));
        assert_eq!(ask(vec![Err(Fault::Refused("no".into()))]), Fault::Refused("no".into()));
        let Fault::Stop(what) = ask(vec![again(Some(3_600_000))]) else { panic!("it should stop") };
        assert!(what.contains("60 minutes"), "{what}");
    }

    #[test]
    fn a_stop_ends_a_pause_at_once() {
        let script = Script::of([again(Some(60_000))]);
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let patient = Patient::new(&script, QUICK, &stop, |_| stop.store(true, Ordering::Relaxed));
        assert_eq!(patient.ask(&Question::default(), number), Err(Fault::Refused("stopped".into())));
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
