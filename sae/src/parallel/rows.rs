//! A rank's share of a batch. Every rank has seen the same batch, so that who takes what never depends on anybody's answer.

use super::{Axis, balanced};
use crate::{Result, activations::Batch};
use lm_saes_runtime::Queue;
use std::ops::Range;

/// Rows of `batch` that rank `rank` of `size` trains on: whole contexts where it has contexts.
pub fn rows(batch: &Batch, rank: usize, size: usize) -> Range<usize> {
    match batch.contexts {
        Some((n, len)) => {
            let own = balanced(n, rank, size);
            own.start * len..own.end * len
        }
        None => balanced(batch.rows(), rank, size),
    }
}

/// Most rows a rank gets of a batch of `rows` rows in contexts of `context`.
pub fn most_rows(rows: usize, context: Option<usize>, size: usize) -> usize {
    let len = context.unwrap_or(1).max(1);
    (rows / len).div_ceil(size) * len
}

/// This rank's rows of a batch. `n_valid` of the share counts its own rows.
pub fn share(q: &mut Queue, batch: &Batch, axis: &Axis) -> Result<Batch> {
    let r = rows(batch, axis.rank(), axis.size());
    let mut acts = Vec::with_capacity(batch.acts.len());
    for whole in &batch.acts {
        let mut own = q.empty(r.len(), whole.cols(), whole.dtype())?;
        if !r.is_empty() {
            q.copy(whole.rows_view(r.clone()), &mut own)?;
        }
        acts.push(own);
    }
    let mask = batch.mask[r.clone()].to_vec();
    Ok(Batch {
        acts,
        tokens: batch.tokens[r.clone()].to_vec(),
        n_valid: mask.iter().filter(|&&m| m != 0).count(),
        mask,
        contexts: batch.contexts.map(|(_, len)| (r.len() / len.max(1), len)),
    })
}

/// Whether every rank gets rows of this batch; the last batch of a text may be too small.
pub fn enough(batch: &Batch, size: usize) -> bool {
    batch.contexts.map_or(batch.rows(), |(n, _)| n) >= size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, contexts: Option<(usize, usize)>) -> Batch {
        Batch { acts: Vec::new(), tokens: vec![0; rows], mask: vec![1; rows], contexts, n_valid: rows }
    }

    #[test]
    fn rows_go_in_order_and_contexts_stay_whole() {
        let flat = batch(10, None);
        assert_eq!((0..3).map(|r| rows(&flat, r, 3)).collect::<Vec<_>>(), [0..4, 4..7, 7..10]);
        assert_eq!(most_rows(10, None, 3), 4);
        let contexts = batch(15, Some((3, 5)));
        assert_eq!((0..2).map(|r| rows(&contexts, r, 2)).collect::<Vec<_>>(), [0..10, 10..15]);
        assert_eq!(most_rows(15, Some(5), 2), 10);
        assert!(enough(&contexts, 3) && !enough(&contexts, 4));
    }
}
