//! Trainable tensors: what they are called and shaped in checkpoints, which part of them this rank holds, and where value and
//! gradient are.

use crate::{
    Error, Result,
    parallel::placement::{Cut, part_shape, runs},
    tensorfile::{PIECE, Put, in_pieces},
};
use lm_saes_runtime::{Arena, DType, Queue, RandomKind, Tensor};
use std::borrow::Cow;

/// Which optimiser group a parameter belongs to (TRAINING §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamGroup {
    /// Everything but thresholds.
    Others,
    /// JumpReLU log-thresholds: own learning rate, not clipped.
    Thresholds,
}

/// One trainable tensor.
pub struct Param {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint of what this rank holds.
    pub shape: Vec<usize>,
    /// Shape in the checkpoint of the whole tensor.
    pub whole: Vec<usize>,
    /// What of it this rank holds: without cuts all, as every rank does.
    pub cuts: Vec<Cut>,
    /// Whether the device holds each matrix of the checkpoint's last two axes transposed (`W_E` is `[d, S]` in files, `[S, d]`
    /// here, so that sparse gradients gather contiguous rows). Leading axes are stacked in rows either way.
    pub transposed: bool,
    /// Whether the first axis counts heads that a file may have fewer of, each then standing for several.
    pub of_heads: bool,
    /// Optimiser group.
    pub group: ParamGroup,
    /// Value, f32.
    pub value: Tensor,
    /// Gradient of the last [`super::Dictionary::train_step`]; present once planned for training, unless the dictionary makes it
    /// when asked ([`super::Dictionary::make_gradient`]), or the optimiser has it.
    pub grad: Option<Tensor>,
}

impl Param {
    /// Zeros, held as in the checkpoint: the last axis in columns, the others in rows. `cuts` of the tensor of shape `whole` are
    /// this rank's.
    pub fn zeros(q: &mut Queue, name: &str, whole: &[usize], cuts: Vec<Cut>) -> Result<Self> {
        Self::held(q, name, whole, cuts, false)
    }

    fn held(q: &mut Queue, name: &str, whole: &[usize], cuts: Vec<Cut>, transposed: bool) -> Result<Self> {
        let shape = part_shape(whole, &cuts);
        let mut held = shape.clone();
        if transposed {
            let n = held.len();
            held.swap(n - 1, n - 2);
        }
        let cols = held.last().copied().unwrap_or(1);
        let rows = held.iter().rev().skip(1).product();
        let (value, group) = (q.zeros(rows, cols, DType::F32)?, ParamGroup::Others);
        let (name, whole) = (name.into(), whole.into());
        Ok(Self { name, shape, whole, cuts, transposed, of_heads: false, group, value, grad: None })
    }

    /// The same, its first axis counting heads that a file may have fewer of.
    pub fn of_heads(self) -> Self {
        Self { of_heads: true, ..self }
    }

    /// Zeros, each matrix of the last two axes of `whole` held transposed.
    pub fn transposed(q: &mut Queue, name: &str, whole: &[usize], cuts: Vec<Cut>) -> Result<Self> {
        Self::held(q, name, whole, cuts, true)
    }

    /// JumpReLU log-thresholds.
    pub fn thresholds(q: &mut Queue, whole: &[usize], cuts: Vec<Cut>) -> Result<Self> {
        let p = Self::zeros(q, "activation_function.log_jumprelu_threshold", whole, cuts)?;
        Ok(Self { group: ParamGroup::Thresholds, ..p })
    }

    /// JumpReLU thresholds themselves.
    pub fn direct_thresholds(q: &mut Queue, whole: &[usize], cuts: Vec<Cut>) -> Result<Self> {
        let p = Self::zeros(q, "activation_function.jumprelu_threshold", whole, cuts)?;
        Ok(Self { group: ParamGroup::Thresholds, ..p })
    }

    /// Whole shape and cuts in the order values are held.
    pub fn held_placement(&self) -> (Vec<usize>, Vec<Cut>) {
        let (mut whole, mut cuts, n) = (self.whole.clone(), self.cuts.clone(), self.whole.len());
        if self.transposed {
            whole.swap(n - 1, n - 2);
            for cut in cuts.iter_mut().filter(|c| c.axis + 2 >= n) {
                cut.axis = 2 * n - 3 - cut.axis;
            }
        }
        (whole, cuts)
    }

    /// Random values: those that the whole tensor, as held, would get from the random stream at `offset`, whatever part is here.
    pub fn random(
        &mut self,
        q: &mut Queue,
        kind: RandomKind,
        range: (f32, f32),
        seed: u64,
        offset: u64,
    ) -> Result<()> {
        let (whole, cuts) = self.held_placement();
        let (cols, mut row) = (self.value.cols().max(1), 0);
        for run in runs(&whole, &cuts) {
            let rows = row..row + run.len() / cols;
            if rows.len() * cols != run.len() {
                let what = format!("{}: a cut through rows has no random stream", self.name);
                return Err(Error::Data { what });
            }
            row = rows.end;
            q.random(kind, range, seed, offset + run.start as u64, self.value.rows_mut(rows))?;
        }
        Ok(())
    }

    /// Number of values of the whole tensor.
    pub fn whole_len(&self) -> usize {
        self.whole.iter().product()
    }

    /// Whether these are logarithms of thresholds.
    pub fn is_log_threshold(&self) -> bool {
        self.group == ParamGroup::Thresholds && self.name.contains("log_jumprelu_threshold")
    }

    /// Takes the gradient's memory, or gives it up.
    pub fn plan_grad(&mut self, arena: &mut Arena, wanted: bool) -> Result<()> {
        let (label, rows, cols) =
            (format!("gradient of {}", self.name), self.value.rows(), self.value.cols());
        self.grad = if wanted { Some(arena.tensor(&label, rows, cols, DType::F32)?) } else { None };
        Ok(())
    }

    /// Values as held, in the order of the checkpoint.
    pub fn to_stored<'a>(&self, held: &'a [f32]) -> Cow<'a, [f32]> {
        let (rows, cols) = self.last_axes();
        if self.transposed { Cow::Owned(transpose(held, cols, rows)) } else { Cow::Borrowed(held) }
    }

    /// Brings the values to the host in the order of the checkpoint, a piece at a time.
    pub fn put_stored(&self, q: &mut Queue, put: &mut Put<'_>) -> Result<()> {
        if !self.transposed {
            return in_pieces(q, &self.value, put);
        }
        let (d, n) = self.last_axes();
        let step = (PIECE / n.max(1)).clamp(1, d.max(1));
        for first in (0..self.value.rows()).step_by(n.max(1)) {
            let matrix = self.value.rows_view(first..first + n);
            for from in (0..d).step_by(step) {
                let columns = from..d.min(from + step);
                let mut held = q.empty(n, columns.len(), DType::F32)?;
                q.copy(matrix.slice_cols(columns.clone()), &mut held)?;
                put(&transpose(&q.download(&held)?, n, columns.len()))?;
            }
        }
        Ok(())
    }

    /// The whole tensor of a file in which it has `shape`, one head standing for several where it has fewer; `None` when the
    /// shape does not fit.
    pub fn expanded(&self, shape: &[usize], values: Vec<f32>) -> Option<Vec<f32>> {
        if shape == self.whole {
            return Some(values);
        }
        let fewer = self.of_heads
            && shape.len() == self.whole.len()
            && shape[1..] == self.whole[1..]
            && shape[0] > 0
            && self.whole[0].is_multiple_of(shape[0]);
        let each = fewer.then(|| self.whole[0] / shape[0])?;
        let head = values.len() / shape[0];
        let repeat = |h: &[f32]| h.repeat(each);
        Some(if head == 0 { Vec::new() } else { values.chunks_exact(head).flat_map(repeat).collect() })
    }

    /// What of the whole tensor's values, in the order of the checkpoint, is held here.
    pub fn cut(&self, values: Vec<f32>) -> Vec<f32> {
        if self.cuts.is_empty() {
            return values;
        }
        runs(&self.whole, &self.cuts).into_iter().flat_map(|r| values[r].iter().copied()).collect()
    }

    /// Values of the checkpoint, in the order they are held.
    pub fn to_held(&self, stored: Vec<f32>) -> Vec<f32> {
        let (rows, cols) = self.last_axes();
        if self.transposed { transpose(&stored, rows, cols) } else { stored }
    }

    /// The last two axes of the checkpoint's shape.
    fn last_axes(&self) -> (usize, usize) {
        match self.shape[..] {
            [.., rows, cols] => (rows, cols),
            _ => (1, self.value.cols()),
        }
    }
}

/// The gradient buffer of a parameter.
pub(super) fn grad(p: &mut Param) -> Result<&mut Tensor> {
    let name = &p.name;
    p.grad.as_mut().ok_or_else(|| Error::Data { what: format!("{name} was not planned for training") })
}

/// Each `[rows, cols]` of `x` to `[cols, rows]`, in tiles that stay in cache.
fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut y = vec![0.0; x.len()];
    for (x, y) in x.chunks_exact(rows * cols).zip(y.chunks_exact_mut(rows * cols)) {
        for r0 in (0..rows).step_by(TILE) {
            for c0 in (0..cols).step_by(TILE) {
                for c in c0..(c0 + TILE).min(cols) {
                    for r in r0..(r0 + TILE).min(rows) {
                        y[c * rows + r] = x[r * cols + c];
                    }
                }
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_held_transposed_return_to_the_order_of_the_file_one_by_one() {
        let mut q = Queue::new(&lm_saes_backends::registry().open("cpu").unwrap()).unwrap();
        let p = Param::transposed(&mut q, "W_E", &[2, 3, 70], Vec::new()).unwrap();
        assert_eq!((p.value.rows(), p.value.cols()), (140, 3));
        let stored: Vec<f32> = (0..420).map(|i| i as f32).collect();
        let held = p.to_held(stored.clone());
        // Head 1, column 69, input 2.
        assert_eq!(held[(70 + 69) * 3 + 2], stored[210 + 2 * 70 + 69]);
        assert_eq!(p.to_stored(&held)[..], stored[..]);
    }

    #[test]
    fn what_is_written_in_pieces_is_what_the_file_holds() {
        let mut q = Queue::new(&lm_saes_backends::registry().open("cpu").unwrap()).unwrap();
        let (heads, d, n) = (2, 300, 5000);
        let stored: Vec<f32> = (0..heads * d * n).map(|i| i as f32).collect();
        let whole = &[heads, d, n];
        for p in [
            Param::transposed(&mut q, "W_E", whole, Vec::new()),
            Param::zeros(&mut q, "W_D", whole, Vec::new()),
        ] {
            let mut p = p.unwrap();
            q.upload(&p.to_held(stored.clone()), &mut p.value).unwrap();
            let (mut written, mut pieces) = (Vec::new(), 0);
            p.put_stored(&mut q, &mut |v| {
                written.extend_from_slice(v);
                pieces += 1;
                Ok(())
            })
            .unwrap();
            assert!(written == stored && pieces > 2, "{}: {pieces} pieces", p.name);
        }
    }
}
