//! How text becomes contexts: length, BOS, padding, long documents, and which tokens count. One object, saved with
//! checkpoints, so that a dictionary is evaluated and analysed on contexts made as those it was trained on.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What happens to a record longer than a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// One context a record: what does not fit is dropped (upstream's way).
    #[default]
    Truncate,
    /// Consecutive contexts from one record; the last one is padded.
    Split,
    /// Records joined end to end (EOS between them) and cut into full contexts: nothing is dropped or padded.
    Pack,
}

/// How text becomes contexts (TRAINING §7.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenPolicy {
    /// Tokens of every context, BOS and padding included. Without it contexts are as long as the longest of their batch.
    pub context_size: Option<usize>,
    /// Most tokens of one context before padding, BOS included.
    pub max_length: usize,
    /// Whether every context starts with BOS. When not, a BOS at the start of a text is taken away.
    pub prepend_bos: bool,
    /// Beginning-of-text id.
    pub bos: Option<u32>,
    /// End-of-text id.
    pub eos: Option<u32>,
    /// Padding id, put on the right.
    pub pad: u32,
    /// See [`Overflow`].
    #[serde(default)]
    pub overflow: Overflow,
    /// Ids that do not count, besides padding and BOS.
    #[serde(default)]
    pub ignore_token_ids: Vec<u32>,
    /// Whether the first position of a context does not count, whatever its token. Many models park attention there, with
    /// norms a hundred times the usual, which drowns everything else in the variance.
    #[serde(default)]
    pub mask_first_position: bool,
}

impl TokenPolicy {
    /// Refuses what cannot give contexts.
    pub fn check(&self) -> Result<()> {
        let key = if self.context_size.is_some_and(|c| c < self.max_length) {
            "activation_factory.context_size"
        } else {
            "model.max_length"
        };
        if self.prepend_bos && self.bos.is_none() {
            let what = "the tokenizer has no BOS token; set bos_token_id, or prepend_bos to false";
            return Err(Error::setting("model.prepend_bos", what));
        }
        if self.room() == 0 {
            return Err(Error::setting(key, "leaves no room for a token beside BOS; make it larger"));
        }
        if self.mask_first_position && !self.prepend_bos && self.room() == 1 {
            return Err(Error::setting(
                key,
                "leaves only the first position, which is masked; make it larger",
            ));
        }
        Ok(())
    }

    /// Text tokens that fit into one context.
    pub fn room(&self) -> usize {
        let longest = self.context_size.map_or(self.max_length, |c| c.min(self.max_length));
        longest.saturating_sub(self.prepend_bos.into())
    }

    /// A context from at most [`TokenPolicy::room`] text tokens.
    pub(super) fn context(&self, text: &[u32]) -> Vec<u32> {
        self.bos.filter(|_| self.prepend_bos).into_iter().chain(text.iter().copied()).collect()
    }

    /// Contexts of one batch, padded to equal length, with their mask.
    pub fn batch(&self, contexts: &[Vec<u32>]) -> TokenBatch {
        let longest = contexts.iter().map(Vec::len).max().unwrap_or(0);
        let len = self.context_size.unwrap_or(longest);
        let (mut ids, mut mask) = (Vec::with_capacity(contexts.len() * len), Vec::new());
        let lengths = contexts.iter().map(Vec::len).collect();
        for context in contexts {
            for t in 0..len {
                let id = context.get(t).copied();
                ids.push(id.unwrap_or(self.pad));
                mask.push(id.is_some_and(|id| self.counts(id, t)).into());
            }
        }
        TokenBatch { ids, mask, lengths, batch: contexts.len(), len }
    }

    /// Whether a token at this position of a context counts. Padding and BOS are told by id, so where a tokenizer uses one
    /// id for EOS and padding, EOS does not count either (as upstream).
    fn counts(&self, id: u32, position: usize) -> bool {
        id != self.pad
            && Some(id) != self.bos
            && !self.ignore_token_ids.contains(&id)
            && !(self.mask_first_position && position == 0)
    }
}

/// Contexts of equal length, and which of their tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[batch, len]`, row-major.
    pub ids: Vec<u32>,
    /// `[batch, len]`: 1 where the token counts.
    pub mask: Vec<u8>,
    /// Tokens of each context before padding.
    pub lengths: Vec<usize>,
    /// Contexts.
    pub batch: usize,
    /// Tokens of each.
    pub len: usize,
}

impl TokenBatch {
    /// `[batch, len]`: 1 where a token is text or BOS, 0 where it is padding. What next-token losses are scored on, while
    /// [`TokenBatch::mask`] says what a dictionary sees.
    pub fn real(&self) -> Vec<u8> {
        self.lengths.iter().flat_map(|&n| (0..self.len).map(move |t| u8::from(t < n))).collect()
    }

    /// Number of tokens that count.
    pub fn n_valid(&self) -> usize {
        self.mask.iter().filter(|&&m| m != 0).count()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Pads with 0, BOS 1, EOS 2.
    pub(crate) fn policy(context_size: usize, overflow: Overflow) -> TokenPolicy {
        TokenPolicy {
            context_size: Some(context_size),
            max_length: 2048,
            prepend_bos: true,
            bos: Some(1),
            eos: Some(2),
            pad: 0,
            overflow,
            ignore_token_ids: Vec::new(),
            mask_first_position: false,
        }
    }

    #[test]
    fn short_contexts_are_padded_on_the_right_and_padding_and_bos_do_not_count() {
        let p = policy(4, Overflow::Truncate);
        let batch = p.batch(&[p.context(&[5, 2]), p.context(&[6, 7, 8])]);
        assert_eq!(batch.ids, [1, 5, 2, 0, 1, 6, 7, 8]);
        assert_eq!(batch.mask, [0, 1, 1, 0, 0, 1, 1, 1]);
        assert_eq!(batch.real(), [1, 1, 1, 0, 1, 1, 1, 1]);
        assert_eq!((batch.batch, batch.len, batch.n_valid()), (2, 4, 5));
    }

    #[test]
    fn without_a_context_size_contexts_are_as_long_as_the_longest() {
        let p = TokenPolicy { context_size: None, prepend_bos: false, ..policy(4, Overflow::Truncate) };
        let batch = p.batch(&[p.context(&[5]), p.context(&[6, 7, 8])]);
        assert_eq!((batch.ids, batch.len), (vec![5, 0, 0, 6, 7, 8], 3));
    }

    #[test]
    fn ignored_ids_and_the_first_position_can_be_masked() {
        let p = TokenPolicy {
            prepend_bos: false,
            ignore_token_ids: vec![7],
            mask_first_position: true,
            ..policy(4, Overflow::Truncate)
        };
        assert_eq!(p.batch(&[vec![5, 6, 7, 8]]).mask, [0, 1, 0, 1]);
    }

    #[test]
    fn where_eos_is_also_padding_it_does_not_count() {
        let p = TokenPolicy { pad: 2, ..policy(4, Overflow::Truncate) };
        assert_eq!(p.batch(&[vec![1, 5, 2]]).mask, [0, 1, 0, 0]);
    }

    #[test]
    fn impossible_policies_are_refused() {
        let message = |p: TokenPolicy| p.check().unwrap_err().to_string();
        assert!(message(policy(1, Overflow::Truncate)).contains("context_size"));
        let p = TokenPolicy { max_length: 1, ..policy(8, Overflow::Truncate) };
        assert!(message(p).contains("max_length"));
        let p = TokenPolicy { bos: None, ..policy(8, Overflow::Truncate) };
        assert!(message(p).contains("prepend_bos"));
        assert!(policy(2, Overflow::Truncate).check().is_ok());
    }

    #[test]
    fn a_saved_policy_is_read_back_as_it_was() {
        let p = policy(128, Overflow::Pack);
        let json = serde_json::to_string(&p).unwrap();
        assert!(json.contains("\"overflow\":\"pack\""));
        assert_eq!(serde_json::from_str::<TokenPolicy>(&json).unwrap(), p);
    }
}
