//! A language model that several ranks run together: each takes some contexts of a model batch, and everybody gets all activations.
//! Feature order and batches therefore never depend on how many ranks there are.

use super::{Axis, balanced};
use crate::{Result, activations::Producer, data::TokenBatch};
use lm_saes_runtime::{DType, Queue, Tensor};

/// Divides the contexts of every model batch among the ranks of an axis.
pub struct Together<'a> {
    /// What every rank has its own copy of.
    pub model: &'a dyn Producer,
    /// Who takes part.
    pub ranks: Axis,
}

impl Producer for Together<'_> {
    fn activations(&self, q: &mut Queue, hook_points: &[String], tokens: &TokenBatch) -> Result<Vec<Tensor>> {
        // The others have nothing to do for one context, and waiting costs as much as doing it.
        if self.ranks.is_solo() || tokens.batch < 2 {
            return self.model.activations(q, hook_points, tokens);
        }
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        // Ranks without a context of their own run the first, so that they know shapes and types.
        let own = balanced(tokens.batch, rank, size);
        let run = if own.is_empty() { 0..1 } else { own };
        let made = self.model.activations(q, hook_points, &contexts(tokens, run))?;
        // All pieces are as long as the longest; what is missing of one is never read.
        let longest = tokens.batch.div_ceil(size) * tokens.len;
        let mut all = Vec::with_capacity(made.len());
        for part in made {
            let (rows, d) = (part.rows(), part.cols());
            let mut padded = q.zeros(longest, d, DType::F32)?;
            q.copy(part.view(), padded.rows_mut(0..rows.min(longest)))?;
            let mut gathered = q.empty(size * longest, d, DType::F32)?;
            self.ranks.all_gather(q, &padded, &mut gathered)?;
            let mut whole = q.empty(tokens.batch * tokens.len, d, DType::F32)?;
            for r in 0..size {
                let contexts = balanced(tokens.batch, r, size);
                if contexts.is_empty() {
                    continue;
                }
                let to = contexts.start * tokens.len..contexts.end * tokens.len;
                let from = r * longest..r * longest + to.len();
                q.copy(gathered.rows_view(from), whole.rows_mut(to))?;
            }
            all.push(whole);
        }
        Ok(all)
    }
}

/// Contexts `r` of a batch of tokens.
fn contexts(t: &TokenBatch, r: std::ops::Range<usize>) -> TokenBatch {
    let tokens = r.start * t.len..r.end * t.len;
    TokenBatch {
        ids: t.ids[tokens.clone()].to_vec(),
        mask: t.mask[tokens].to_vec(),
        lengths: t.lengths[r.clone()].to_vec(),
        batch: r.len(),
        len: t.len,
    }
}
