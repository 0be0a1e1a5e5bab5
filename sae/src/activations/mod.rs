//! Activations as training sees them: token batches through a language model, what counts kept, rows shuffled, equal
//! batches out.
//!
//! ```text
//! text files -> records -> contexts (TokenPolicy) -> model batches (TokenStream)
//!            -> Producer (the model, captured at the hook points)
//!            -> rows that count -> buffer (shuffled) -> Batch
//! ```
//!
//! * [`open_stream`] makes an [`ActivationStream`] from settings; [`ActivationStream::next_batch`] pulls it.
//! * Rows of all hook points, their tokens and mask move together. Activations stay on the device: a row is copied into the
//!   buffer, out into its batch, and once between when the buffer makes room.
//! * The same settings, data and seed give the same batches. Random choices are counter-based, so
//!   [`ActivationStream::cursor`] is a few integers; with the rows in the buffer, which took model runs to make, it is
//!   written by [`ActivationStream::save_state`] and goes on bit for bit after [`ActivationStream::load_state`].

mod ahead;
mod buffer;
mod model;
mod open;
mod state;
mod stream;

pub use ahead::Part;
pub use open::{open_stream, open_tokens};
pub use stream::{ActivationStream, Progress, StreamCursor, StreamSettings};

use crate::{Result, data::TokenBatch};
use lm_saes_runtime::{Queue, Tensor};
use serde::{Deserialize, Serialize};

/// What gives activations for tokens: a language model, or something synthetic in tests.
pub trait Producer {
    /// Activations `[batch·len, d]` at each hook point, in the order given; any float type.
    fn activations(&self, q: &mut Queue, hook_points: &[String], tokens: &TokenBatch) -> Result<Vec<Tensor>>;

    /// Model batches it is best asked for at once.
    fn at_once(&self) -> usize {
        1
    }

    /// What [`Producer::activations`] gives for each of several model batches, bit for bit.
    fn several(&self, q: &mut Queue, hook_points: &[String], batches: &[TokenBatch]) -> Result<Vec<Part>> {
        batches.iter().map(|tokens| Ok(Part::whole(self.activations(q, hook_points, tokens)?))).collect()
    }
}

/// What one row of a batch is; upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Whole contexts of token ids; no activations.
    #[serde(rename = "tokens")]
    Tokens,
    /// Whole contexts with a mask.
    #[serde(rename = "activations-2d")]
    Activations2d,
    /// Single tokens, only those that count.
    #[serde(rename = "activations-1d")]
    Activations1d,
}

/// One batch of the stream.
#[derive(Debug)]
pub struct Batch {
    /// `[rows, d]` f32 for each hook point, in the stream's order. Rows are tokens; in 2-D, context by context.
    pub acts: Vec<Tensor>,
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// 1 for each row that counts. In 1-D all do.
    pub mask: Vec<u8>,
    /// Contexts and tokens of each, when rows are whole contexts.
    pub contexts: Option<(usize, usize)>,
    /// Rows that count.
    pub n_valid: usize,
}

impl Batch {
    /// Rows, those that do not count included.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Whether some row does not count.
    pub fn has_masked(&self) -> bool {
        self.n_valid < self.rows()
    }
}

#[cfg(test)]
mod tests;
