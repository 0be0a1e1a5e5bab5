//! Matrix products in f32, of what the element types and `cubeMathType` leave of the operands.

use super::{Call, Plan, broadcast_shape, check_shape, expand, value::View};
use crate::{
    abi::*,
    config::Chip,
    executor::{Refusal, refuse},
};

/// What a chip's product makes of an f32 operand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Keep,
    Hf32,
    Half,
}

/// `cubeMathType` 0 keeps the type, 1 lets f32 lose precision, 2 computes in f16, 3 in HF32. The first generation and 310P
/// have no product of f32: they refuse 0 and compute 1 in f16.
fn rounding(chip: Chip, math: i64, operands: [&View; 2]) -> Result<Round, Refusal> {
    let f32 = operands.iter().any(|v| i64::from(v.dtype) == ACL_FLOAT);
    let old = matches!(chip, Chip::A910 | Chip::P310);
    match (f32, math) {
        (_, ..0 | 5..) => refuse(format!("cubeMathType {math} does not exist")),
        (false, _) => Ok(Round::Keep),
        (true, 0) if old => refuse("self has DT_FLOAT, which this chip cannot multiply with cubeMathType 0"),
        (true, 3) if old => refuse("this chip has no HF32 (cubeMathType 3)"),
        (true, 0 | 4) => Ok(Round::Keep),
        (true, 2) => Ok(Round::Half),
        (true, _) => Ok(if old { Round::Half } else { Round::Hf32 }),
    }
}

fn load(v: &View, round: Round) -> Vec<f32> {
    let mut values = v.load_f32();
    match round {
        Round::Keep => {}
        Round::Half => values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
        // HF32 keeps 11 bits of the fraction, to nearest.
        Round::Hf32 => values.iter_mut().filter(|v| v.is_finite()).for_each(|v| {
            *v = f32::from_bits((v.to_bits() + (1 << 11)) & !((1 << 12) - 1));
        }),
    }
    values
}

fn same_types(views: &[&View]) -> Result<(), Refusal> {
    if views.windows(2).any(|w| w[0].dtype != w[1].dtype) {
        let names: Vec<String> = views.iter().map(|v| dtype_name(v.dtype)).collect();
        return refuse(format!("the operands have different types: {}", names.join(", ")));
    }
    Ok(())
}

/// Like the framework's: vectors gain a dim, leading dims broadcast.
pub fn matmul(c: &Call) -> Result<Plan, Refusal> {
    let (mut a, mut b, y) = (c.tensor(0)?.clone(), c.tensor(1)?.clone(), c.tensor(2)?.clone());
    if a.dtype != b.dtype {
        same_types(&[&a, &b])?;
    }
    // The result may be of the operands' type or wider.
    if a.dtype != y.dtype && i64::from(y.dtype) != ACL_FLOAT {
        same_types(&[&a, &y])?;
    }
    let round = rounding(c.chip, c.int(3), [&a, &b])?;
    let (vector_a, vector_b) = (a.rank() == 1, b.rank() == 1);
    if a.rank() == 0 || b.rank() == 0 || a.rank() > 6 || b.rank() > 6 {
        return refuse("self and mat2 need 1 to 6 dims");
    }
    if vector_a {
        a.shape.insert(0, 1);
        a.strides.insert(0, 0);
    }
    if vector_b {
        b.shape.push(1);
        b.strides.push(0);
    }
    let (m, k, n) = (a.shape[a.rank() - 2], a.shape[a.rank() - 1], b.shape[b.rank() - 1]);
    if b.shape[b.rank() - 2] != k {
        return refuse(format!("shapes {:?} and {:?} cannot be multiplied", a.shape, b.shape));
    }
    let batch = broadcast_shape(&a.shape[..a.rank() - 2], &b.shape[..b.rank() - 2])?;
    let mut expected = batch.clone();
    expected.extend((!vector_a).then_some(m));
    expected.extend((!vector_b).then_some(n));
    check_shape("out", &y, &expected)?;
    let full = |rows: i64, cols: i64| batch.iter().copied().chain([rows, cols]).collect::<Vec<_>>();
    let (Some(a), Some(b)) = (a.broadcast(&full(m, k)), b.broadcast(&full(k, n))) else {
        return refuse("the batches do not broadcast");
    };
    let (m, k, n) = (m as usize, k as usize, n as usize);
    Ok(Plan::always(move || {
        let (a, b) = (load(&a, round), load(&b, round));
        let mut out = vec![0f32; y.len()];
        if out.is_empty() {
            return;
        }
        for (i, out) in out.chunks_mut(m * n).enumerate() {
            multiply(&a[i * m * k..][..m * k], &b[i * k * n..][..k * n], out, k, n);
        }
        y.store_f32(&out);
    })
    .with_workspace(64))
}

fn of_rank(c: &Call, rank: usize) -> Result<Plan, Refusal> {
    if c.tensor(0)?.rank() != rank || c.tensor(1)?.rank() != rank {
        return refuse(format!("self and mat2 need {rank} dims"));
    }
    matmul(c)
}
pub fn mm(c: &Call) -> Result<Plan, Refusal> {
    of_rank(c, 2)
}
pub fn bmm(c: &Call) -> Result<Plan, Refusal> {
    of_rank(c, 3)
}

/// `self = beta·self + alpha·mat1·mat2`.
pub fn inplace_addmm(c: &Call) -> Result<Plan, Refusal> {
    add_product(c, c.tensor(0)?, c.tensor(0)?, c.int(5))
}
/// `out = beta·self + alpha·mat1·mat2`, `self` repeated to the product's shape.
pub fn addmm(c: &Call) -> Result<Plan, Refusal> {
    add_product(c, c.tensor(0)?, c.tensor(5)?, c.int(6))
}

fn add_product(c: &Call, x: &View, y: &View, math: i64) -> Result<Plan, Refusal> {
    let (y, a, b) = (y.clone(), c.tensor(1)?.clone(), c.tensor(2)?.clone());
    let (beta, alpha) = (c.scalar(3)?.float, c.scalar(4)?.float);
    same_types(&[&a, &b])?;
    let round = rounding(c.chip, math, [&a, &b])?;
    if a.rank() != 2 || b.rank() != 2 || a.shape[1] != b.shape[0] {
        return refuse(format!("shapes {:?} and {:?} cannot be multiplied", a.shape, b.shape));
    }
    check_shape("the result", &y, &[a.shape[0], b.shape[1]])?;
    let x = expand("self", x, &y.shape)?;
    let (k, n) = (a.shape[1] as usize, b.shape[1] as usize);
    Ok(Plan::always(move || {
        let (a, b) = (load(&a, round), load(&b, round));
        let mut out = vec![0f32; y.len()];
        multiply(&a, &b, &mut out, k, n);
        let mut old = if beta == 0.0 { vec![0.0; out.len()] } else { x.load_f() };
        for (o, v) in old.iter_mut().zip(&out) {
            *o = if beta == 0.0 { 0.0 } else { beta * *o } + alpha * f64::from(*v);
        }
        y.store_f(&old);
    })
    .with_workspace(64))
}

/// `out [m, n] = a [m, k] · b [k, n]`, rows shared among threads.
fn multiply(a: &[f32], b: &[f32], out: &mut [f32], k: usize, n: usize) {
    if n == 0 || k == 0 {
        return;
    }
    let m = out.len() / n;
    let threads = if m * n * k > 1 << 20 { 2.min(m) } else { 1 };
    if threads == 1 {
        return rows(a, b, out, k, n);
    }
    let each = m.div_ceil(threads);
    std::thread::scope(|s| {
        for (a, out) in a.chunks(each * k).zip(out.chunks_mut(each * n)) {
            s.spawn(move || rows(a, b, out, k, n));
        }
    });
}

fn rows(a: &[f32], b: &[f32], out: &mut [f32], k: usize, n: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        #[target_feature(enable = "avx2,fma")]
        fn wide(a: &[f32], b: &[f32], out: &mut [f32], k: usize, n: usize) {
            blocks(a, b, out, k, n, f32::mul_add);
        }
        // SAFETY: the processor has both.
        return unsafe { wide(a, b, out, k, n) };
    }
    blocks(a, b, out, k, n, |x, y, z| x * y + z);
}

/// Four rows at a time over a block of columns and of k that stays in the cache.
#[inline(always)]
fn blocks(
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    k: usize,
    n: usize,
    fma: impl Fn(f32, f32, f32) -> f32 + Copy,
) {
    const COLS: usize = 256;
    const DEPTH: usize = 128;
    let m = out.len() / n;
    for j0 in (0..n).step_by(COLS) {
        let width = COLS.min(n - j0);
        for p0 in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - p0);
            for i0 in (0..m).step_by(4) {
                let height = 4.min(m - i0);
                let mut sums = [[0f32; COLS]; 4];
                for p in p0..p0 + depth {
                    let b = &b[p * n + j0..][..width];
                    for r in 0..height {
                        let x = a[(i0 + r) * k + p];
                        for (s, b) in sums[r][..width].iter_mut().zip(b) {
                            *s = fma(x, *b, *s);
                        }
                    }
                }
                for r in 0..height {
                    let out = &mut out[(i0 + r) * n + j0..][..width];
                    out.iter_mut().zip(&sums[r]).for_each(|(o, s)| *o += s);
                }
            }
        }
    }
}
