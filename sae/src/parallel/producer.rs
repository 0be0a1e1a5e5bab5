//! A language model that several ranks run together: each runs whole model batches, one after the other in turn, and everybody gets
//! all activations. Every run has the shape it has on one rank, so activations, and with them batches and feature order, are the same
//! bits on any number of ranks.

use super::Axis;
use crate::{
    Error, Result,
    activations::{Part, Producer},
    data::TokenBatch,
};
use lm_saes_runtime::{DType, Queue, Tensor};
use std::sync::Arc;

/// Deals model batches to the ranks of an axis.
pub struct Together<'a> {
    /// What every rank has its own copy of.
    pub model: &'a dyn Producer,
    /// Who takes part.
    pub ranks: Axis,
}

impl Producer for Together<'_> {
    fn activations(&self, q: &mut Queue, hook_points: &[String], tokens: &TokenBatch) -> Result<Vec<Tensor>> {
        self.model.activations(q, hook_points, tokens)
    }

    fn at_once(&self) -> usize {
        self.ranks.size()
    }

    fn several(&self, q: &mut Queue, hook_points: &[String], batches: &[TokenBatch]) -> Result<Vec<Part>> {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        // For one batch waiting costs the others as much as doing it.
        if batches.len() < 2 || batches.len() > size {
            let run = |t| Ok(Part::whole(self.model.activations(q, hook_points, t)?));
            return batches.iter().map(run).collect();
        }
        // Ranks for which the text has no batch left run the first, so that they know shapes.
        let own = &batches[if rank < batches.len() { rank } else { 0 }];
        let made = self.model.activations(q, hook_points, own)?;
        // All pieces are as long as the longest; what is missing of one is never read.
        let longest = batches.iter().map(|t| t.ids.len()).max().unwrap_or(0);
        let mut all = Vec::with_capacity(made.len());
        for piece in made {
            if piece.rows() != own.ids.len() {
                let what = format!("the model gave {} rows for {} tokens", piece.rows(), own.ids.len());
                return Err(Error::Data { what });
            }
            let mut padded = q.zeros(longest, piece.cols(), DType::F32)?;
            q.copy(piece.view(), padded.rows_mut(0..piece.rows()))?;
            drop(piece);
            let mut gathered = q.empty(size * longest, padded.cols(), DType::F32)?;
            self.ranks.all_gather(q, &padded, &mut gathered)?;
            all.push(gathered);
        }
        let all = Arc::new(all);
        let part =
            |(i, t): (usize, &TokenBatch)| Part::new(all.clone(), i * longest..i * longest + t.ids.len());
        Ok(batches.iter().enumerate().map(part).collect())
    }
}
