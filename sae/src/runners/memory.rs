//! Memory of a run beside its arenas, worked out from settings and the model's shape: what waits in the buffer, what a pass of
//! the model and an evaluation hold, what starting values hold back. Blocks given back are kept for the next of their size, so
//! of each size as many exist as any moment needs.

use crate::lm::Architecture;
use std::collections::BTreeMap;

/// Program, kernels' working memory and what the allocator keeps, measured on small runs.
pub(super) const PROGRAM: usize = 24 << 20;
/// Host memory of a tokenizer for each entry of its vocabulary, measured on byte-level BPE.
pub(super) const TOKENIZER_ENTRY: usize = 500;
/// Rows of the MLP done at once where no hook looks at all of them.
const MLP_ROWS: usize = 2048;
/// Logits that exist at a time while losses are computed.
const LOGITS: usize = 64 << 20;

/// Blocks by size: how many of each exist.
#[derive(Default)]
pub(super) struct Blocks(BTreeMap<usize, usize>);

impl Blocks {
    /// A moment at which blocks of these `(bytes, number)` are in use together.
    pub fn moment(&mut self, blocks: impl IntoIterator<Item = (usize, usize)>) {
        let mut now = BTreeMap::new();
        for (bytes, n) in blocks {
            *now.entry(bytes).or_insert(0) += n;
        }
        for (bytes, n) in now {
            let most = self.0.entry(bytes).or_insert(0);
            *most = n.max(*most);
        }
    }

    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(bytes, n)| bytes * n).sum()
    }
}

/// What moves through a run: batches of `batch` rows, passes of the model on `pass` rows.
pub(super) struct Flow<'a> {
    pub batch: usize,
    pub pass: usize,
    /// Captured hook points with the widths of their activations.
    pub captured: &'a [(String, usize)],
    /// Batches held back for starting values, and whether one more is copied to look at.
    pub held: usize,
    pub looked_at: bool,
}

impl Flow<'_> {
    /// Blocks of batches, of passes of the model if it is known, and of evaluations with `outputs` replaced.
    pub fn blocks(&self, model: Option<&Architecture>, outputs: Option<usize>) -> Blocks {
        let mut all = Blocks::default();
        let rows = |n: usize, copies: usize| self.captured.iter().map(move |(_, w)| (4 * n * w, copies));
        all.moment(rows(self.batch, self.held + usize::from(self.looked_at)));
        all.moment(rows(self.batch, self.held.max(1)));
        let Some(a) = model else { return all };
        let pass = self.temporaries(a);
        let held = rows(self.batch, self.held.saturating_sub(1));
        all.moment(held.chain(rows(self.pass, 1)).chain(pass.iter().copied()));
        if let Some(outputs) = outputs {
            let logits = LOGITS.min(4 * self.pass * a.d_vocab);
            all.moment(rows(self.pass, 1).chain(pass.iter().copied()).chain([(logits, 1)]));
            let widest = self.captured.iter().map(|c| c.1).max().unwrap_or(0);
            let made = [(4 * self.pass * widest, outputs), (4 * self.pass.min(self.batch) * widest, outputs)];
            all.moment(rows(self.pass, 1).chain(made));
        }
        all
    }

    /// What a block of the model holds while its attention runs, and its MLP.
    fn temporaries(&self, a: &Architecture) -> Vec<(usize, usize)> {
        let n = 4 * self.pass;
        let (wide, narrow) = (a.n_heads * a.d_head, a.n_kv_heads * a.d_head);
        let watched = |(hook, _): &(String, usize)| hook.contains(".mlp.") || hook.ends_with("hook_mlp_out");
        let mlp = if self.captured.iter().any(watched) { n } else { n.min(4 * MLP_ROWS) };
        let hidden = if a.gated { 2 } else { 1 };
        vec![(n * a.d_model, 2), (n * wide, 2), (n * narrow, 2), (mlp * a.d_mlp, hidden)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_size_are_shared_between_moments() {
        let mut blocks = Blocks::default();
        blocks.moment([(100, 3), (50, 1), (100, 1)]);
        blocks.moment([(100, 2), (20, 5)]);
        assert_eq!(blocks.bytes(), 100 * 4 + 50 + 20 * 5);
    }

    #[test]
    fn batches_held_back_for_starting_values_are_counted_once() {
        let captured = [("a".to_string(), 8), ("b".to_string(), 8)];
        let flow = |held, looked_at| Flow { batch: 10, pass: 30, captured: &captured, held, looked_at };
        let of = |held, looked_at| flow(held, looked_at).blocks(None, None).bytes();
        assert_eq!(of(0, false), 2 * 4 * 10 * 8);
        assert_eq!(of(9, true), 10 * of(0, false));
    }
}
