//! Parameters cut into pieces of rows, as gradients are exchanged and parameters updated; and which rows of a piece a rank updates where
//! several divide a batch. What of a piece is whose follows from its shape alone, so every rank knows it of all.

use crate::dictionary::{Dictionary, Param};
use lm_saes_runtime::{DType, Traffic};
use std::ops::Range;

/// Bytes of a gradient that is kept which are exchanged at a time: enough to be worth a message, few enough that the first are there
/// soon.
const PIECE: usize = 16 << 20;
/// Pieces of more rows than this have a multiple of them, which most numbers of ranks divide without rest.
const EVEN: usize = 256;

/// Rows of a parameter whose gradient comes at once.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Which parameter, counted as in [`Dictionary::params`].
    pub param: usize,
    /// Which of its rows.
    pub rows: Range<usize>,
    /// Their width.
    pub cols: usize,
    /// Whether the gradient is made when asked for; otherwise the dictionary keeps it.
    pub made: bool,
    /// Row of the parameter's moments, as this rank has them, with which those of this piece begin.
    pub moments: usize,
}

/// Rows of a piece that a rank updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Counted in the piece.
    pub rows: Range<usize>,
    /// Where their moments are.
    pub moments: Range<usize>,
    /// Whose they are; `None` when every rank does the same.
    pub rank: Option<usize>,
}

impl Piece {
    /// Rows that belong to each of `size` ranks alone, and how many belong to all.
    pub fn divided(&self, size: usize) -> (usize, usize) {
        (self.rows.len() / size, self.rows.len() % size)
    }

    /// What rank `rank` of `size` updates.
    pub fn runs(&self, rank: usize, size: usize) -> impl Iterator<Item = Run> + use<> {
        let ((each, left), moments) = (self.divided(size), self.moments);
        let run = |first: usize, n: usize, at: usize, rank| Run {
            rows: first..first + n,
            moments: at..at + n,
            rank,
        };
        let own = run(rank * each, each, moments, Some(rank));
        let rest = run(size * each, left, moments + each, None);
        [own, rest].into_iter().filter(|r| !r.rows.is_empty())
    }

    /// Where the moments of row `i` of the parameter are, if they are here.
    pub fn place(&self, i: usize, rank: usize, size: usize) -> Option<usize> {
        let row = i.checked_sub(self.rows.start)?;
        let run = self.runs(rank, size).find(|r| r.rows.contains(&row))?;
        Some(run.moments.start + row - run.rows.start)
    }
}

/// All pieces of a dictionary planned for training, in the order they are updated: kept gradients first, then those made, as they
/// are made. With `size` ranks.
pub(crate) fn pieces(dictionary: &dyn Dictionary, size: usize) -> Vec<Piece> {
    let params = dictionary.params();
    let piece =
        |param: usize, rows, made| Piece { param, rows, cols: params[param].value.cols(), made, moments: 0 };
    let mut all = Vec::new();
    for (i, p) in params.iter().enumerate().filter(|(_, p)| p.grad.is_some()) {
        all.extend(kept(p).map(|rows| piece(i, rows, false)));
    }
    all.extend(dictionary.made_gradients().into_iter().map(|(param, rows)| piece(param, rows, true)));
    for param in 0..params.len() {
        let mut at = 0;
        for i in by_rows(&all, param) {
            let (each, left) = all[i].divided(size);
            all[i].moments = at;
            at += each + left;
        }
    }
    all
}

/// Numbers of the pieces of a parameter, by ascending rows.
pub(crate) fn by_rows(pieces: &[Piece], param: usize) -> Vec<usize> {
    let mut own: Vec<usize> = (0..pieces.len()).filter(|&i| pieces[i].param == param).collect();
    own.sort_by_key(|&i| pieces[i].rows.start);
    own
}

fn kept(p: &Param) -> impl Iterator<Item = Range<usize>> + use<> {
    let rows = p.value.rows();
    let step = (PIECE / size_of::<f32>() / p.value.cols().max(1)).max(1);
    let step = if step > EVEN { step / EVEN * EVEN } else { step };
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

/// Bytes that each of `size` ranks sends in a step: of gradients, of parameters, and of row norms where gradients are measured before
/// they are used; those that are made are made and sent twice then.
pub(crate) fn sent(pieces: &[Piece], size: usize, measured: bool) -> [u64; 3] {
    let of = |kind, rows: usize, cols: usize| Traffic::of(kind, (rows * cols) as u64, DType::F32, size).sent;
    let (mut gradients, mut parameters, mut own) = (0, 0, 0);
    for p in pieces {
        let ((each, left), times) = (p.divided(size), if p.made && measured { 2 } else { 1 });
        gradients += times * (of("reduce_scatter", size * each, p.cols) + of("all_reduce", left, p.cols));
        parameters += of("all_gather", size * each, p.cols);
        own += each;
    }
    let norms = if measured { of("all_gather", size * 2 * own, 1) } else { 0 };
    [gradients, parameters, norms]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(rows: Range<usize>, moments: usize) -> Piece {
        Piece { param: 0, rows, cols: 3, made: false, moments }
    }

    #[test]
    fn every_row_is_one_ranks_or_everybodys() {
        let p = piece(10..21, 4);
        // 11 rows among 3: three each, two left over.
        let runs: Vec<Vec<Run>> = (0..3).map(|r| p.runs(r, 3).collect()).collect();
        for (rank, own) in runs.iter().enumerate() {
            let first = Run { rows: 3 * rank..3 * rank + 3, moments: 4..7, rank: Some(rank) };
            assert_eq!(own[..], [first, Run { rows: 9..11, moments: 7..9, rank: None }]);
        }
        assert_eq!(p.place(13, 1, 3), Some(4));
        assert_eq!((p.place(13, 0, 3), p.place(13, 2, 3)), (None, None));
        assert!((0..3).all(|r| p.place(20, r, 3) == Some(8)));
        assert_eq!((p.place(9, 0, 3), p.place(21, 0, 3)), (None, None));
        assert_eq!(p.runs(0, 1).collect::<Vec<_>>(), [Run { rows: 0..11, moments: 4..15, rank: Some(0) }]);
    }

    #[test]
    fn a_vector_is_everybodys() {
        let p = piece(0..1, 0);
        assert_eq!(p.divided(4), (0, 1));
        // All-reduce of 3 numbers among 4 ranks: 2 · 3/4 of 12 bytes.
        assert_eq!(sent(&[p], 4, false), [18, 0, 0]);
    }

    #[test]
    fn dividing_moves_as_much_as_adding_up_everywhere() {
        let [gradients, parameters, norms] = sent(&[piece(0..8, 0)], 4, true);
        let all_reduce = Traffic::of("all_reduce", 24, DType::F32, 4).sent;
        assert_eq!(gradients + parameters, all_reduce);
        // Two numbers a row.
        assert_eq!(norms, Traffic::of("all_gather", 16, DType::F32, 4).sent);
    }
}
