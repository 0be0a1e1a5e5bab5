//! Model batches that were run before a stream needed them: ranks that work together take one each. A stream's position is that of
//! the first of them, so that they are run again where it is taken up.

use super::{ActivationStream, Producer, Target};
use crate::{
    Error, Result,
    data::{TokenBatch, TokenCursor},
};
use lm_saes_runtime::{Queue, Tensor, View};
use std::{ops::Range, sync::Arc};

/// Activations of one model batch: rows of tensors that those of other batches may share.
pub struct Part {
    acts: Arc<Vec<Tensor>>,
    rows: Range<usize>,
}

impl Part {
    /// All rows of activations that are no other batch's.
    pub fn whole(acts: Vec<Tensor>) -> Self {
        let rows = 0..acts.first().map_or(0, Tensor::rows);
        Self { acts: Arc::new(acts), rows }
    }

    /// Some rows of each of `acts`.
    pub fn new(acts: Arc<Vec<Tensor>>, rows: Range<usize>) -> Self {
        Self { acts, rows }
    }

    /// `[rows, d]` at each hook point.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.acts.iter().map(|a| a.rows_view(self.rows.clone()))
    }
}

/// A model batch with its activations; none where the stream has no use for them.
pub(super) struct Ahead {
    /// The position in the text before it.
    pub before: TokenCursor,
    pub tokens: TokenBatch,
    pub part: Option<Part>,
}

impl ActivationStream {
    /// The next model batch, run.
    pub(super) fn next_run(&mut self, q: &mut Queue, model: &dyn Producer) -> Result<Option<Ahead>> {
        if self.ahead.is_empty() {
            self.look_ahead(q, model)?;
        }
        Ok(self.ahead.pop_front())
    }

    fn look_ahead(&mut self, q: &mut Queue, model: &dyn Producer) -> Result<()> {
        let hooks = &self.settings.hook_points;
        let flat = self.settings.target == Target::Activations1d;
        let mut to_run = Vec::new();
        let mut places = Vec::new();
        while to_run.len() < model.at_once().max(1) && self.ahead.len() < model.at_once().max(1) {
            let before = self.tokens.cursor();
            let Some(tokens) = self.tokens.next_batch()? else { break };
            self.check_length(&tokens)?;
            let unused = hooks.is_empty() || flat && tokens.n_valid() == 0;
            let part = match self.tokens.cached() {
                _ if unused => None,
                Some(cache) => Some(Part::whole(cache.activations(q, hooks, tokens.ids.len())?)),
                None => {
                    places.push(self.ahead.len());
                    to_run.push(tokens.clone());
                    None
                }
            };
            self.ahead.push_back(Ahead { before, tokens, part });
        }
        if to_run.is_empty() {
            return Ok(());
        }
        for (at, part) in places.into_iter().zip(model.several(q, hooks, &to_run)?) {
            self.ahead[at].part = Some(part);
        }
        Ok(())
    }

    fn check_length(&self, tokens: &TokenBatch) -> Result<()> {
        let unit = self.buffer.unit;
        if unit == 1 || tokens.len == unit {
            return Ok(());
        }
        let what = format!(
            "a batch has contexts of {} tokens, but activation_factory.context_size is {unit}; set it to that",
            tokens.len
        );
        Err(Error::Data { what })
    }
}
