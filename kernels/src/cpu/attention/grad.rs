//! Gradient of causal attention. One task is one head of one sequence. Its keys and values are packed once; blocks of
//! query rows then recompute their rows of the pattern p, turn `dp = dz·vᵀ` into `ds` in place, and give their share to
//! `dq`, `dk` and `dv`. A task never holds more of p than one block.

use super::{operand, softmax};
use crate::cpu::gemm::{
    Float, Operand, edge, pack,
    tile::{self, Auto, Store, Tile},
};
use crate::cpu::{Isa, Rows, scratch::Scratch};
use rayon::prelude::*;

/// Sizes of attention whose every head has its own keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub len: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a query or key.
    pub d_head: usize,
    /// Width of a value.
    pub d_value: usize,
    /// Multiplies q·k.
    pub scale: f32,
}

/// The matrices: `q, k, dq, dk [batch·len, heads·d_head]`, `v, dz, dv [batch·len, heads·d_value]`.
#[derive(Clone, Copy, Debug)]
pub struct GradOperands {
    /// Queries.
    pub q: Rows<f32>,
    /// Keys.
    pub k: Rows<f32>,
    /// Values.
    pub v: Rows<f32>,
    /// Gradient of the result.
    pub dz: Rows<f32>,
    /// Receives the gradient of the queries.
    pub dq: Rows<f32>,
    /// Receives the gradient of the keys.
    pub dk: Rows<f32>,
    /// Receives the gradient of the values.
    pub dv: Rows<f32>,
}

/// Computes the gradients with the best instruction set.
///
/// # Safety
/// Operands are live with the shapes of `heads`; outputs overlap nothing and nobody else uses them.
pub unsafe fn attention_grad(o: &GradOperands, heads: &Heads) {
    // SAFETY: the caller's contract; `best` was detected.
    unsafe { attention_grad_with(Isa::best(), o, heads) }
}

unsafe fn attention_grad_with(isa: Isa, o: &GradOperands, s: &Heads) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => run::<tile::Avx512>(o, s),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run::<tile::Avx2>(o, s),
            Isa::Neon => run::<Auto<6, 16, true>>(o, s),
            _ => run::<Auto<4, 8, false>>(o, s),
        }
    }
}

unsafe fn run<T: Tile>(o: &GradOperands, s: &Heads) {
    if s.len == 0 {
        return;
    }
    let tasks = s.batch * s.heads;
    // SAFETY: each task writes the columns of its own head in the rows of its own sequence.
    let one = |task: usize| unsafe { head::<T>(o, s, task / s.heads, task % s.heads) };
    if s.len * s.len * (s.d_head + s.d_value) * tasks < 1 << 16 {
        (0..tasks).for_each(one);
    } else {
        (0..tasks).into_par_iter().for_each(one);
    }
}

/// One head of one sequence: what is packed for all its blocks, and where its part of the operands begins.
struct Head<'a> {
    o: &'a GradOperands,
    s: &'a Heads,
    /// First row of the sequence.
    row: usize,
    /// First column of the head in q and k, and in v.
    col: usize,
    col_v: usize,
    /// Panels of key positions `[d_head]` deep, of value positions `[d_value]` deep, of key columns `[len]` deep.
    key_rows: *const f32,
    value_rows: *const f32,
    key_cols: *const f32,
}

/// Working memory of a block of queries.
struct Block {
    /// Pattern, then `ds`, each `[n, ld]`.
    p: *mut f32,
    ds: *mut f32,
    /// Packed left and right factors of the product at hand.
    left: *mut f32,
    right: *mut f32,
}

/// Room for panels of `w` lines, `depth` deep; whole cache lines, and the 8 floats packing may spill.
fn room(lines: usize, w: usize, depth: usize) -> usize {
    (lines.next_multiple_of(w) * depth + 8).next_multiple_of(16)
}

unsafe fn head<T: Tile>(o: &GradOperands, s: &Heads, b: usize, h: usize) {
    // As in the forward pass: fewer queries at a time when sequences are long.
    let block = T::MR * (65_536 / (T::MR * s.len)).clamp(1, 8);
    let (row, col, col_v) = (b * s.len, h * s.d_head, h * s.d_value);
    let wide = s.d_head.max(s.d_value);
    let keys = room(s.len, T::NR, s.d_head);
    let values = room(s.len, T::NR, s.d_value);
    let columns = room(s.d_head, T::NR, s.len);
    let scores = room(block, T::MR, s.len.next_multiple_of(T::NR));
    let left = room(block, T::MR, wide.max(s.len)).max(room(s.len, T::MR, block));
    let right = room(wide, T::NR, block);
    Scratch::with(keys + values + columns + 2 * scores + left + right, |memory| {
        // SAFETY: the parts lie behind one another; every rectangle packed is one head of one sequence.
        unsafe {
            let (key_rows, value_rows) = (memory, memory.add(keys));
            let key_cols = value_rows.add(values);
            let p = key_cols.add(columns);
            let (ds, left_at) = (p.add(scores), p.add(2 * scores));
            pack::pack(key_rows, T::NR, &operand(o.k), true, (row, s.len), (col, s.d_head));
            pack::pack(value_rows, T::NR, &operand(o.v), true, (row, s.len), (col_v, s.d_value));
            pack::pack(key_cols, T::NR, &operand(o.k), false, (col, s.d_head), (row, s.len));
            let head = Head { o, s, row, col, col_v, key_rows, value_rows, key_cols };
            let work = Block { p, ds, left: left_at, right: left_at.add(left) };
            for from in (0..s.len).step_by(block) {
                head.queries::<T>(from, (s.len - from).min(block), &work);
            }
        }
    });
}

impl Head<'_> {
    /// Queries `from..from+n`; `from` is a multiple of the tile's height.
    unsafe fn queries<T: Tile>(&self, from: usize, n: usize, w: &Block) {
        let (o, s) = (self.o, self.s);
        let (row0, seen) = (self.row + from, from + n);
        let ld = seen.next_multiple_of(T::NR);
        let high = n.next_multiple_of(T::MR);
        // SAFETY: scratch has room for `high` rows of `ld` scores, so whole tiles fit; see `head` for the rest.
        unsafe {
            pack::pack(w.left, T::MR, &operand(o.q), true, (row0, n), (self.col, s.d_head));
            let scores = Factors { left: w.left, right: self.key_rows, depth: s.d_head, panel: s.d_head };
            scores.multiply::<T>((high, ld), (w.p, ld), |_| (s.scale, 0.0));
            pack::pack(w.left, T::MR, &operand(o.dz), true, (row0, n), (self.col_v, s.d_value));
            let dp = Factors { left: w.left, right: self.value_rows, depth: s.d_value, panel: s.d_value };
            dp.multiply::<T>((high, ld), (w.ds, ld), |_| (1.0, 0.0));
            for i in 0..n {
                let row = |m: *mut f32| std::slice::from_raw_parts_mut(m.add(i * ld), ld);
                let (p, ds) = (row(w.p), row(w.ds));
                let (p, masked) = p.split_at_mut(from + i + 1);
                masked.fill(0.0);
                softmax(p, 0.0);
                let (ds, masked) = ds.split_at_mut(p.len());
                masked.fill(0.0);
                through_softmax(p, ds);
            }

            let (p, ds) = (scratch(w.p, ld), scratch(w.ds, ld));
            pack::pack(w.left, T::MR, &ds, true, (0, n), (0, seen));
            let dq = Factors { left: w.left, right: self.key_cols, depth: seen, panel: s.len };
            let to = (o.dq.row_ptr(row0).add(self.col), o.dq.ld);
            dq.multiply::<T>((n, s.d_head), to, |_| (s.scale, 0.0));

            // Keys before this block have received from earlier blocks.
            let beta = |key: usize| if key < from { 1.0 } else { 0.0 };
            let share = Factors { left: w.left, right: w.right, depth: n, panel: n };
            pack::pack(w.left, T::MR, &ds, false, (0, seen), (0, n));
            pack::pack(w.right, T::NR, &operand(o.q), false, (self.col, s.d_head), (row0, n));
            let to = (o.dk.row_ptr(self.row).add(self.col), o.dk.ld);
            share.multiply::<T>((seen, s.d_head), to, |key| (s.scale, beta(key)));
            pack::pack(w.left, T::MR, &p, false, (0, seen), (0, n));
            pack::pack(w.right, T::NR, &operand(o.dz), false, (self.col_v, s.d_value), (row0, n));
            let to = (o.dv.row_ptr(self.row).add(self.col_v), o.dv.ld);
            share.multiply::<T>((seen, s.d_value), to, |key| (1.0, beta(key)));
        }
    }
}

fn scratch(ptr: *mut f32, ld: usize) -> Operand {
    Operand { ptr: ptr.cast(), ld, transposed: false, float: Float::F32 }
}

/// Packed factors; the right one's panels hold `panel` steps, of which the first `depth` count.
struct Factors {
    left: *const f32,
    right: *const f32,
    depth: usize,
    panel: usize,
}

impl Factors {
    /// `c [m, n] = alpha·left·right + beta·c`, with `(alpha, beta)` given for each row that starts a tile.
    unsafe fn multiply<T: Tile>(
        &self,
        (m, n): (usize, usize),
        (c, ldc): (*mut f32, usize),
        factors: impl Fn(usize) -> (f32, f32),
    ) {
        for j in (0..n).step_by(T::NR) {
            let width = (n - j).min(T::NR);
            for i in (0..m).step_by(T::MR) {
                let (alpha, beta) = factors(i);
                let store = Store { alpha, beta, bias: std::ptr::null(), relu: false };
                let height = (m - i).min(T::MR);
                // SAFETY: panels and block lie inside the caller's.
                unsafe {
                    let (a, b) = (self.left.add(i * self.depth), self.right.add(j * self.panel));
                    let c = c.add(i * ldc + j);
                    if height == T::MR && width == T::NR {
                        T::run(self.depth, a, b, c, ldc, &store);
                    } else {
                        edge::<T>((height, width, self.depth), a, b, c, ldc, &store);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// `dp` becomes `p∘(dp − Σ p·dp)`.
    fn through_softmax(p: &[f32], dp: &mut [f32]) {
        let mut acc = [0f32; 16];
        for (p, dp) in p.chunks(16).zip(dp.chunks(16)) {
            for ((a, p), dp) in acc.iter_mut().zip(p).zip(dp) {
                *a += p * dp;
            }
        }
        let mean = acc.into_iter().sum::<f32>();
        dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - mean));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Operands, Shape, attention};
    use super::*;
    use crate::cpu::testing::{rows_mut, rows_of};

    fn values(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| crate::philox::uniform(seed, i, -1.5, 1.5)).collect()
    }

    fn gradients(isa: Isa, s: &Heads, [q, k, v, dz]: [&[f32]; 4]) -> [Vec<f32>; 3] {
        let (n, narrow, wide) = (s.batch * s.len, s.heads * s.d_head, s.heads * s.d_value);
        let [mut dq, mut dk, mut dv] = [narrow, narrow, wide].map(|w| vec![f32::NAN; n * w]);
        let o = GradOperands {
            q: rows_of(q, n, narrow),
            k: rows_of(k, n, narrow),
            v: rows_of(v, n, wide),
            dz: rows_of(dz, n, wide),
            dq: rows_mut(&mut dq, n, narrow),
            dk: rows_mut(&mut dk, n, narrow),
            dv: rows_mut(&mut dv, n, wide),
        };
        // SAFETY: shapes match, memory is distinct, the instruction set is available.
        unsafe { attention_grad_with(isa, &o, s) }
        [dq, dk, dv]
    }

    /// ⟨dz, z⟩ of the forward kernel.
    fn loss(s: &Heads, q: &[f32], k: &[f32], v: &[f32], dz: &[f32]) -> f64 {
        let (n, narrow, wide) = (s.batch * s.len, s.heads * s.d_head, s.heads * s.d_value);
        let mut z = vec![0.0; n * wide];
        let shape = Shape {
            batch: s.batch,
            len: s.len,
            heads: s.heads,
            kv_heads: s.heads,
            d_head: s.d_head,
            d_value: s.d_value,
            window: 0,
            scale: s.scale,
            soft_cap: 0.0,
        };
        let o = Operands {
            q: rows_of(q, n, narrow),
            k: rows_of(k, n, narrow),
            v: rows_of(v, n, wide),
            z: rows_mut(&mut z, n, wide),
            pattern: None,
        };
        // SAFETY: shapes match, memory is distinct.
        unsafe { attention(&o, &shape) }
        z.iter().zip(dz).map(|(z, dz)| f64::from(*z) * f64::from(*dz)).sum()
    }

    /// Along a random direction, the slope of the loss is the product of gradient and direction.
    fn check(isa: Isa, s: &Heads) {
        let (n, narrow, wide) = (s.batch * s.len, s.heads * s.d_head, s.heads * s.d_value);
        let (q, k) = (values(n * narrow, 1), values(n * narrow, 2));
        let (v, dz) = (values(n * wide, 3), values(n * wide, 4));
        let got = gradients(isa, s, [&q, &k, &v, &dz]);
        for (which, gradient) in got.iter().enumerate() {
            let direction = values(gradient.len(), 5 + which as u64);
            let want: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let step = 1e-2;
            let at = |sign: f32| {
                let mut x = [q.clone(), k.clone(), v.clone()];
                x[which].iter_mut().zip(&direction).for_each(|(x, d)| *x += sign * step * d);
                loss(s, &x[0], &x[1], &x[2], &dz)
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            let size: f64 = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
            assert!((slope - want).abs() <= 2e-2 * (0.1 + size), "{isa:?} {s:?} {which}: {slope}, {want}");
        }
    }

    const BASE: Heads = Heads { batch: 2, len: 37, heads: 3, d_head: 20, d_value: 11, scale: 0.3 };

    #[test]
    fn slopes_of_the_forward_pass_on_every_instruction_set() {
        for isa in Isa::available() {
            for len in [1, 2, 13, 15, 33, 65, 113, 130] {
                check(isa, &Heads { len, ..BASE });
            }
            for (d_head, d_value) in [(1, 1), (33, 70), (8, 0), (0, 5), (64, 32)] {
                check(isa, &Heads { d_head, d_value, ..BASE });
            }
        }
    }

    #[test]
    fn every_instruction_set_agrees_on_long_sequences() {
        let s = Heads { batch: 1, len: 700, heads: 1, ..BASE };
        let (n, narrow, wide) = (s.len, s.d_head, s.d_value);
        let (q, k) = (values(n * narrow, 1), values(n * narrow, 2));
        let (v, dz) = (values(n * wide, 3), values(n * wide, 4));
        let all = Isa::available().into_iter().map(|isa| gradients(isa, &s, [&q, &k, &v, &dz]));
        let all: Vec<_> = all.collect();
        for other in &all[1..] {
            for (a, b) in all[0].iter().flatten().zip(other.iter().flatten()) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
