//! Gradients of a dictionary, a piece at a time: taken from it or made where they are used, added up over the ranks that divide a batch
//! while others are computed, and the parameters' way out of the dictionary and back.

use super::super::pieces::{Piece, Run, by_rows, pieces};
use crate::{Error, Result, dictionary::Dictionary, parallel::Exchanges};
use lm_saes_runtime::{Arena, DType, Exchange, Queue, Tensor, Ticket, View};
use std::{collections::VecDeque, mem};

/// Gradients as they come, a piece at a time.
pub struct Gradients {
    pub pieces: Vec<Piece>,
    pub rank: usize,
    pub size: usize,
    pub exchanges: Exchanges,
    /// Where gradients that are not kept are made: one while another is on its way.
    buffers: Vec<Tensor>,
    /// Gradients of the last step that are on their way.
    begun: VecDeque<(usize, Coming)>,
}

/// A tensor, or what brings it.
pub enum Coming {
    Here(Tensor),
    Sent(Ticket),
}

/// What is done with a piece's gradient when it is there: the number of the piece, the piece, and what of it this rank updates.
pub type Visit<'a> = dyn FnMut(&mut Queue, usize, &Piece, &[Run], View<'_>) -> Result<()> + 'a;

impl Gradients {
    pub fn plan(arena: &mut Arena, dictionary: &dyn Dictionary) -> Result<Self> {
        let mesh = &dictionary.base().mesh;
        let (rank, size) = (mesh.data.rank(), mesh.data.size());
        let pieces = pieces(dictionary, size);
        let made = || pieces.iter().filter(|p| p.made);
        let rows = made().map(|p| p.rows.len()).max().unwrap_or(0);
        let cols = made().map(|p| p.cols).max().unwrap_or(0);
        // Where ranks exchange, the next is made while one is on its way.
        let n = if rows == 0 { 0 } else { size.min(2) };
        let buffers = (0..n).map(|_| Ok(arena.tensor("gradient in the making", rows, cols, DType::F32)?));
        let (buffers, exchanges) = (buffers.collect::<Result<_>>()?, mesh.exchanges.clone());
        Ok(Self { pieces, rank, size, exchanges, buffers, begun: VecDeque::new() })
    }

    /// Rows of a parameter that this rank updates.
    pub fn rows_here(&self, param: usize) -> usize {
        let own = self.pieces.iter().filter(|p| p.param == param);
        own.flat_map(|p| p.runs(self.rank, self.size)).map(|r| r.rows.len()).sum()
    }

    /// Takes the gradients that are kept away from the dictionary, in pieces.
    fn take(&self, dictionary: &mut dyn Dictionary) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for (param, p) in dictionary.params_mut().into_iter().enumerate() {
            let own = self.pieces.iter().filter(|piece| piece.param == param && !piece.made);
            let rows: Vec<usize> = own.map(|piece| piece.rows.len()).collect();
            if rows.is_empty() {
                continue;
            }
            let what = || format!("{} has no gradient; no step was made, or it was used already", p.name);
            let grad = p.grad.take().ok_or_else(|| Error::Data { what: what() })?;
            all.extend(grad.split(&rows)?);
        }
        Ok(all)
    }

    /// Gives the gradients that are kept back to the dictionary.
    pub fn keep(&self, dictionary: &mut dyn Dictionary, kept: Vec<Tensor>) -> Result<()> {
        let mut params = dictionary.params_mut();
        let mut parts: Vec<Vec<Tensor>> = params.iter().map(|_| Vec::new()).collect();
        self.pieces.iter().zip(kept).for_each(|(piece, grad)| parts[piece.param].push(grad));
        for (p, parts) in params.iter_mut().zip(parts).filter(|(_, parts)| !parts.is_empty()) {
            p.grad = Some(Tensor::joined(parts)?);
        }
        Ok(())
    }

    pub fn begin(&mut self, q: &mut Queue, dictionary: &mut dyn Dictionary) -> Result<()> {
        if !self.begun.is_empty() {
            return Err(Error::Data { what: "the gradients of the step before were never used".into() });
        }
        for (i, grad) in self.take(dictionary)?.into_iter().enumerate() {
            let rows = grad.rows();
            let sent = self.exchanges.start(q, Exchange::Sum, grad, rows)?;
            self.begun.push_back((i, Coming::Sent(sent)));
        }
        Ok(())
    }

    /// The gradients that are kept, added up over the ranks, as they come.
    pub fn kept(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
    ) -> Result<VecDeque<(usize, Coming)>> {
        if self.exchanges.is_solo() {
            return Ok(self.take(dictionary)?.into_iter().map(Coming::Here).enumerate().collect());
        }
        if self.begun.is_empty() {
            self.begin(q, dictionary)?;
        }
        Ok(mem::take(&mut self.begun))
    }

    /// Hands every gradient to `visit`: those that are `coming`, and those that are made here, the next one while others are on their
    /// way. Returns those that are kept.
    pub fn each(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        mut coming: VecDeque<(usize, Coming)>,
        visit: &mut Visit<'_>,
    ) -> Result<Vec<Tensor>> {
        let Self { pieces, rank, size, exchanges, buffers, .. } = self;
        let mut kept = Vec::new();
        let mut first = |q: &mut Queue, coming: &mut VecDeque<(usize, Coming)>, free: &mut Vec<Tensor>| {
            let (i, next) = coming.pop_front().ok_or_else(lost)?;
            let grad = match next {
                Coming::Here(grad) => grad,
                Coming::Sent(ticket) => exchanges.finish(ticket)?,
            };
            let piece = &pieces[i];
            let runs: Vec<Run> = piece.runs(*rank, *size).collect();
            visit(q, i, piece, &runs, grad.rows_view(0..piece.rows.len()))?;
            if piece.made {
                free.push(grad)
            } else {
                kept.push(grad)
            }
            Ok::<(), Error>(())
        };
        for (i, piece) in pieces.iter().enumerate().filter(|(_, p)| p.made) {
            let mut place = loop {
                match buffers.pop() {
                    Some(place) => break place,
                    None => first(q, &mut coming, buffers)?,
                }
            };
            let rows = piece.rows.len();
            dictionary.make_gradient(q, piece.param, piece.rows.clone(), place.rows_mut(0..rows))?;
            let next = match exchanges.is_solo() {
                true => Coming::Here(place),
                false => Coming::Sent(exchanges.start(q, Exchange::Sum, place, rows)?),
            };
            coming.push_back((i, next));
        }
        while !coming.is_empty() {
            first(q, &mut coming, buffers)?;
        }
        Ok(kept)
    }

    /// Takes the parameters away from the dictionary, in pieces.
    pub fn values(&self, dictionary: &mut dyn Dictionary) -> Result<Vec<Option<Coming>>> {
        let mut values: Vec<Option<Coming>> = self.pieces.iter().map(|_| None).collect();
        for (param, p) in dictionary.params_mut().into_iter().enumerate() {
            let own = by_rows(&self.pieces, param);
            let rows: Vec<usize> = own.iter().map(|&i| self.pieces[i].rows.len()).collect();
            for (i, value) in own.into_iter().zip(mem::take(&mut p.value).split(&rows)?) {
                values[i] = Some(Coming::Here(value));
            }
        }
        Ok(values)
    }

    /// Gives the parameters back, as far as they come.
    pub fn return_values(
        &self,
        dictionary: &mut dyn Dictionary,
        mut values: Vec<Option<Coming>>,
    ) -> Result<()> {
        let mut parts = Vec::with_capacity(values.len());
        for value in &mut values {
            parts.push(Some(match value.take() {
                Some(Coming::Here(value)) => value,
                Some(Coming::Sent(ticket)) => self.exchanges.finish(ticket)?,
                None => return Err(lost()),
            }));
        }
        for (param, p) in dictionary.params_mut().into_iter().enumerate() {
            let own = by_rows(&self.pieces, param);
            p.value = Tensor::joined(own.into_iter().filter_map(|i| parts[i].take()).collect())?;
        }
        Ok(())
    }
}

/// A piece that is neither here nor on its way: cannot happen, every piece is put back where it was taken.
pub fn lost() -> Error {
    Error::Data { what: "a part of a parameter is missing after an earlier failure".into() }
}
