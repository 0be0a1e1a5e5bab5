//! Causal attention. One task is one key-value head of one sequence: its keys and values are packed once for the Gemm
//! tiles, then blocks of queries pass through scores, softmax and the weighted sum without leaving the cache. Gradients
//! are in `grad`.

mod grad;

pub use grad::{GradOperands, Heads, attention_grad};

use super::gemm::{
    Float, Operand, edge, pack,
    tile::{self, Auto, Store, Tile},
};
use super::{Isa, Rows, scratch::Scratch, vmath};
use rayon::prelude::*;

/// Sizes and constants; see the fields.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub len: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; query head h reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a query or key.
    pub d_head: usize,
    /// Width of a value.
    pub d_value: usize,
    /// Keys a query sees, itself included; 0 = all up to itself.
    pub window: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// `cap·tanh(s/cap)` where positive.
    pub soft_cap: f32,
}

/// The matrices: `q [batch·len, heads·d_head]`, `k [batch·len, kv_heads·d_head]`, `v [batch·len, kv_heads·d_value]`,
/// `z [batch·len, heads·d_value]`.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// Queries.
    pub q: Rows<f32>,
    /// Keys.
    pub k: Rows<f32>,
    /// Values.
    pub v: Rows<f32>,
    /// Result.
    pub z: Rows<f32>,
    /// Optional probabilities `[batch·heads·len, len]`, 0 where masked.
    pub pattern: Option<Rows<f32>>,
}

/// Computes attention with the best instruction set.
///
/// # Safety
/// Operands are live with the shapes of `shape`; outputs overlap nothing and nobody else uses them.
pub unsafe fn attention(o: &Operands, shape: &Shape) {
    // SAFETY: the caller's contract; `best` was detected.
    unsafe { attention_with(Isa::best(), o, shape) }
}

unsafe fn attention_with(isa: Isa, o: &Operands, shape: &Shape) {
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx | Isa::Avx512 => run::<tile::Avx512>(o, shape),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => run::<tile::Avx2>(o, shape),
            Isa::Neon => run::<Auto<6, 16, true>>(o, shape),
            _ => run::<Auto<4, 8, false>>(o, shape),
        }
    }
}

unsafe fn run<T: Tile>(o: &Operands, shape: &Shape) {
    if shape.len == 0 {
        return;
    }
    let tasks = shape.batch * shape.kv_heads;
    let one = |task: usize| {
        // SAFETY: each task writes the heads of its own group only.
        unsafe { group::<T>(o, shape, task / shape.kv_heads, task % shape.kv_heads) }
    };
    if shape.len * shape.len * (shape.d_head + shape.d_value) * tasks < 1 << 16 {
        (0..tasks).for_each(one);
    } else {
        (0..tasks).into_par_iter().for_each(one);
    }
}

fn operand(m: Rows<f32>) -> Operand {
    Operand { ptr: m.ptr().cast(), ld: m.ld, transposed: false, float: Float::F32 }
}

/// Packed keys and values of one key-value head.
struct Packed {
    keys: *const f32,
    values: *const f32,
}

/// All query heads that read key-value head `kv` of sequence `b`.
unsafe fn group<T: Tile>(o: &Operands, s: &Shape, b: usize, kv: usize) {
    let first = b * s.len;
    let key_floats = s.len.next_multiple_of(T::NR) * s.d_head + 16;
    let value_floats = s.d_value.next_multiple_of(T::NR) * s.len + 16;
    // Few queries at a time when sequences are long, so that their scores stay in the second-level cache.
    let block = T::MR * (65_536 / (T::MR * s.len)).clamp(1, 8);
    let wide = s.len.next_multiple_of(T::NR);
    Scratch::with(key_floats, |keys| {
        Scratch::with(value_floats, |values| {
            Scratch::with(2 * (block * wide + 16) + block * s.d_head + 16, |work| {
                // SAFETY: rows of sequence b and columns of head kv; scratch has the rounded-up sizes.
                unsafe {
                    pack::pack(keys, T::NR, &operand(o.k), true, (first, s.len), (kv * s.d_head, s.d_head));
                    let columns = (kv * s.d_value, s.d_value);
                    pack::pack(values, T::NR, &operand(o.v), false, columns, (first, s.len));
                    let packed = Packed { keys, values };
                    let group = s.heads / s.kv_heads;
                    for h in kv * group..(kv + 1) * group {
                        for from in (0..s.len).step_by(block) {
                            let n = (s.len - from).min(block);
                            queries::<T>(o, s, &packed, (b, h), (from, n), (work, block * wide + 16));
                        }
                    }
                }
            });
        });
    });
}

/// Queries `from..from+n` of one head.
unsafe fn queries<T: Tile>(
    o: &Operands,
    s: &Shape,
    packed: &Packed,
    (b, h): (usize, usize),
    (from, n): (usize, usize),
    (work, part): (*mut f32, usize),
) {
    let first_key = |i: usize| if s.window == 0 { 0 } else { (i + 1).saturating_sub(s.window) };
    // Whole key panels that any query of the block sees.
    let k0 = first_key(from) / T::NR * T::NR;
    let k1 = from + n;
    let ld = (k1 - k0).next_multiple_of(T::NR);
    let row0 = b * s.len + from;
    // SAFETY: three parts of the scratch: scores, packed scores, packed queries.
    unsafe {
        let (scores, probs, q) = (work, work.add(part), work.add(2 * part));
        pack::pack(q, T::MR, &operand(o.q), true, (row0, n), (h * s.d_head, s.d_head));
        let store = Store { alpha: s.scale, beta: 0.0, bias: std::ptr::null(), relu: false };
        for j in (0..ld).step_by(T::NR) {
            let keys = packed.keys.add((k0 + j) * s.d_head);
            for i in (0..n).step_by(T::MR) {
                // Rows past n are room of the block.
                T::run(s.d_head, q.add(i * s.d_head), keys, scores.add(i * ld + j), ld, &store);
            }
        }
        for i in 0..n {
            let (lo, hi) = (first_key(from + i) - k0, from + i + 1 - k0);
            let row = std::slice::from_raw_parts_mut(scores.add(i * ld), k1 - k0);
            row[..lo].fill(0.0);
            row[hi..].fill(0.0);
            softmax(&mut row[lo..hi], s.soft_cap);
            if let Some(pattern) = o.pattern {
                let out = pattern.row_mut((b * s.heads + h) * s.len + from + i);
                out.fill(0.0);
                out[k0..k1].copy_from_slice(row);
            }
        }
        let p = Operand { ptr: scores.cast::<u8>(), ld, transposed: false, float: Float::F32 };
        pack::pack(probs, T::MR, &p, true, (0, n), (0, k1 - k0));
        let store = Store { alpha: 1.0, ..store };
        for j in (0..s.d_value).step_by(T::NR) {
            let values = packed.values.add(j * s.len + k0 * T::NR);
            let width = (s.d_value - j).min(T::NR);
            for i in (0..n).step_by(T::MR) {
                let z = o.z.row_ptr(row0 + i).add(h * s.d_value + j);
                let (height, depth) = ((n - i).min(T::MR), k1 - k0);
                if height == T::MR && width == T::NR {
                    T::run(depth, probs.add(i * depth), values, z, o.z.ld, &store);
                } else {
                    edge::<T>((height, width, depth), probs.add(i * depth), values, z, o.z.ld, &store);
                }
            }
        }
    }
}

multiversion! {
    /// Softmax of one row, after the soft cap where positive.
    fn softmax(row: &mut [f32], cap: f32) {
        if cap > 0.0 {
            row.iter_mut().for_each(|v| *v = cap * vmath::tanh::<FMA>(*v / cap));
        }
        let mut tops = [f32::NEG_INFINITY; 16];
        for block in row.chunks(16) {
            for (t, &v) in tops.iter_mut().zip(block) {
                *t = if v > *t { v } else { *t };
            }
        }
        let top = tops.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut acc = [0f32; 16];
        let mut blocks = row.chunks_exact_mut(16);
        for block in &mut blocks {
            for l in 0..16 {
                block[l] = vmath::exp::<FMA>(block[l] - top);
                acc[l] += block[l];
            }
        }
        for (a, v) in acc.iter_mut().zip(blocks.into_remainder()) {
            *v = vmath::exp::<FMA>(*v - top);
            *a += *v;
        }
        let inverse = 1.0 / acc.into_iter().sum::<f32>();
        row.iter_mut().for_each(|v| *v *= inverse);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::*;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        (0..n as u64).map(|i| crate::philox::uniform(seed, i, -1.5, 1.5)).collect()
    }

    /// Probabilities and result of query i of head h of sequence b, in f64.
    fn exact(
        s: &Shape,
        (q, k, v): (&[f32], &[f32], &[f32]),
        (b, h, i): (usize, usize, usize),
    ) -> (Vec<f64>, Vec<f64>) {
        let kv = h / (s.heads / s.kv_heads);
        let at = |m: &[f32], heads: usize, width: usize, row: usize, head: usize, d: usize| {
            f64::from(m[((b * s.len + row) * heads + head) * width + d])
        };
        let lo = if s.window == 0 { 0 } else { (i + 1).saturating_sub(s.window) };
        let mut p = vec![0.0; s.len];
        for j in lo..=i {
            let dot: f64 = (0..s.d_head)
                .map(|d| at(q, s.heads, s.d_head, i, h, d) * at(k, s.kv_heads, s.d_head, j, kv, d))
                .sum();
            let score = f64::from(s.scale) * dot;
            let cap = f64::from(s.soft_cap);
            p[j] = if cap > 0.0 { cap * (score / cap).tanh() } else { score }.exp();
        }
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|v| *v /= sum);
        let value = |j: usize, d: usize| at(v, s.kv_heads, s.d_value, j, kv, d);
        let z = (0..s.d_value).map(|d| (lo..=i).map(|j| p[j] * value(j, d)).sum()).collect();
        (p, z)
    }

    fn check(isa: Isa, s: &Shape) {
        let n = s.batch * s.len;
        let (wide, narrow) = (s.heads * s.d_head, s.kv_heads * s.d_head);
        let (z_wide, v_narrow) = (s.heads * s.d_value, s.kv_heads * s.d_value);
        let (q, k, v) = (values(n * wide, 1), values(n * narrow, 2), values(n * v_narrow, 3));
        let (mut z, mut pattern) = (vec![f32::NAN; n * z_wide], vec![f32::NAN; n * s.heads * s.len]);
        let o = Operands {
            q: rows_of(&q, n, wide),
            k: rows_of(&k, n, narrow),
            v: rows_of(&v, n, v_narrow),
            z: rows_mut(&mut z, n, z_wide),
            pattern: Some(rows_mut(&mut pattern, n * s.heads, s.len)),
        };
        // SAFETY: shapes match, memory is distinct, the instruction set is available.
        unsafe { attention_with(isa, &o, s) }
        for b in 0..s.batch {
            for h in 0..s.heads {
                for i in 0..s.len {
                    let (want_p, want_z) = exact(s, (&q, &k, &v), (b, h, i));
                    for (j, want) in want_p.iter().enumerate() {
                        let got = pattern[((b * s.heads + h) * s.len + i) * s.len + j];
                        assert!(
                            (f64::from(got) - want).abs() < 2e-6,
                            "{isa:?} {s:?} p[{i}, {j}]: {got}, {want}"
                        );
                    }
                    for (d, want) in want_z.iter().enumerate() {
                        let got = z[((b * s.len + i) * s.heads + h) * s.d_value + d];
                        assert!(
                            (f64::from(got) - want).abs() < 1e-5,
                            "{isa:?} {s:?} z[{i}, {d}]: {got}, {want}"
                        );
                    }
                }
            }
        }
    }

    const BASE: Shape = Shape {
        batch: 2,
        len: 37,
        heads: 4,
        kv_heads: 2,
        d_head: 20,
        d_value: 20,
        window: 0,
        scale: 0.3,
        soft_cap: 0.0,
    };

    #[test]
    fn lengths_around_block_edges_are_right_on_every_instruction_set() {
        for isa in Isa::available() {
            for len in [1, 13, 14, 32, 33, 64, 65, 129] {
                check(isa, &Shape { len, ..BASE });
            }
        }
    }

    #[test]
    fn windows_caps_and_head_layouts() {
        for isa in Isa::available() {
            for window in [1, 5, 36, 37, 100] {
                check(isa, &Shape { window, len: 75, ..BASE });
            }
            check(isa, &Shape { soft_cap: 1.5, scale: 2.0, ..BASE });
            for (heads, kv_heads, d_head) in [(1, 1, 1), (3, 3, 64), (6, 1, 33)] {
                check(isa, &Shape { heads, kv_heads, d_head, d_value: d_head, ..BASE });
            }
            for d_value in [0, 1, 31, 70] {
                check(isa, &Shape { d_value, ..BASE });
            }
            check(isa, &Shape { d_head: 0, ..BASE });
        }
    }

    #[test]
    fn long_sequences_use_shorter_blocks() {
        check(Isa::best(), &Shape { batch: 1, len: 700, heads: 1, kv_heads: 1, window: 300, ..BASE });
    }
}
