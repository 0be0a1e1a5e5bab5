//! Gradients and parameters on their way among the ranks that divide a batch, in the background of everything else. Clones are the same
//! ranks; what one starts, the same one finishes.

use crate::{Error, Result};
use lm_saes_runtime::{Background, Exchange, Group, Queue, Tensor, Ticket, Times, Traffic};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The ranks that exchange; nobody where there is one.
#[derive(Clone, Default)]
pub struct Exchanges(Option<Arc<Mutex<Background>>>);

impl Exchanges {
    /// Among the ranks of a group.
    pub fn new(group: Group) -> Self {
        Self(group.into_comm().map(|engine| Arc::new(Mutex::new(Background::new(engine)))))
    }

    fn background(&self) -> Option<MutexGuard<'_, Background>> {
        self.0.as_ref().map(|b| b.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is nobody to exchange with.
    pub const fn is_solo(&self) -> bool {
        self.0.is_none()
    }

    /// [`Background::start`] on the first `rows` rows of `x`.
    ///
    /// # Errors
    /// As there.
    pub fn start(&self, q: &mut Queue, what: Exchange, x: Tensor, rows: usize) -> Result<Ticket> {
        match self.background() {
            Some(mut b) => Ok(b.start(q, what, x, rows)?),
            None => Err(nobody()),
        }
    }

    /// [`Background::finish`].
    ///
    /// # Errors
    /// As there.
    pub fn finish(&self, ticket: Ticket) -> Result<Tensor> {
        match self.background() {
            Some(mut b) => Ok(b.finish(ticket)?),
            None => Err(nobody()),
        }
    }

    /// What was moved so far.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.background().map_or_else(BTreeMap::new, |b| b.traffic().clone())
    }

    /// How long that took.
    pub fn times(&self) -> Times {
        self.background().map_or_else(Times::default, |b| b.times())
    }
}

fn nobody() -> Error {
    Error::Data { what: "an exchange among ranks where there is one".into() }
}
