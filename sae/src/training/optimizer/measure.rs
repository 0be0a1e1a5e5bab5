//! Squares and non-zero entries of gradients where they are known before the update: clipping and sparse Adam need them first.

use super::super::pieces::{Run, by_rows};
use super::gradients::Gradients;
use crate::Result;
use lm_saes_runtime::{Arena, DType, Exchange, Queue, ReduceKind, Tensor, View};
use std::mem;

/// Squares and non-zero entries of every row of the gradients, where they are needed before the update. They are added up on the host
/// in the order of the rows, so that the sums do not depend on who has which.
pub struct Measure {
    /// Of the rows that belong to ranks alone: each rank's squares, then its counts; `[size·2·own, 1]`.
    ranks: Tensor,
    /// Of the rows that belong to all, `[2·left, 1]`.
    left: Tensor,
    /// Where the rows of a piece begin in both.
    places: Vec<(usize, usize)>,
    own: usize,
}

impl Measure {
    pub fn plan(arena: &mut Arena, gradients: &Gradients) -> Result<Self> {
        let (mut own, mut left, mut places) = (0, 0, Vec::new());
        for p in &gradients.pieces {
            places.push((own, left));
            let (each, rest) = p.divided(gradients.size);
            (own, left) = (own + each, left + rest);
        }
        let mut column = |label, rows| arena.tensor(label, rows, 1, DType::F32);
        Ok(Self {
            ranks: column("squares of gradient rows", gradients.size * 2 * own)?,
            left: column("squares of shared gradient rows", 2 * left)?,
            places,
            own,
        })
    }

    /// Takes the figures of what this rank updates of piece `i`.
    pub fn take(&mut self, q: &mut Queue, i: usize, runs: &[Run], grad: View<'_>) -> Result<()> {
        let ((own, left), n_left) = (self.places[i], self.left.rows() / 2);
        for run in runs {
            let grad = grad.slice_rows(run.rows.clone());
            let n = run.rows.len();
            for (j, kind) in [ReduceKind::SumSq, ReduceKind::NonZero].into_iter().enumerate() {
                let to = match run.rank {
                    Some(rank) => {
                        let at = (2 * rank + j) * self.own + own;
                        self.ranks.rows_mut(at..at + n)
                    }
                    None => self.left.rows_mut(j * n_left + left..j * n_left + left + n),
                };
                q.reduce_cols(kind, grad, to, 0.0)?;
            }
        }
        Ok(())
    }

    /// (Σg², non-zero entries) of each of `n` parameters, over the ranks that divide the batch.
    pub fn sums(&mut self, q: &mut Queue, gradients: &Gradients, n: usize) -> Result<Vec<(f64, f64)>> {
        let Gradients { pieces, size, exchanges, .. } = gradients;
        if !exchanges.is_solo() {
            let ranks = mem::take(&mut self.ranks);
            let rows = ranks.rows();
            let sent = exchanges.start(q, Exchange::Gather, ranks, rows)?;
            self.ranks = exchanges.finish(sent)?;
        }
        let (ranks, rest): (Vec<f32>, Vec<f32>) = (q.download(&self.ranks)?, q.download(&self.left)?);
        let n_left = rest.len() / 2;
        let mut sums = vec![(0.0, 0.0); n];
        for (param, sum) in sums.iter_mut().enumerate() {
            let mut add = |squares: &[f32], counts: &[f32]| {
                squares.iter().for_each(|&v| sum.0 += f64::from(v));
                counts.iter().for_each(|&v| sum.1 += f64::from(v));
            };
            for i in by_rows(pieces, param) {
                let ((own, left), (each, rest_rows)) = (self.places[i], pieces[i].divided(*size));
                for rank in 0..*size {
                    let at = 2 * rank * self.own + own;
                    add(&ranks[at..at + each], &ranks[at + self.own..at + self.own + each]);
                }
                add(&rest[left..left + rest_rows], &rest[n_left + left..n_left + left + rest_rows]);
            }
        }
        Ok(sums)
    }
}
