//! Every kernel of this processor against sums in f64, each result within the bound of a chain of f32 multiply-adds; and
//! what is not finite comes out as it would from one.

use super::*;

/// `[m, n, k]` with both factors in memory as the product uses them, untransposed.
struct Case {
    size: (usize, usize, usize),
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Case {
    fn new(
        size: (usize, usize, usize),
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let (m, n, k) = size;
        let a = (0..m * k).map(|i| a(i / k, i % k)).collect();
        let b = (0..k * n).map(|i| b(i / n, i % n)).collect();
        Self { size, a, b }
    }

    fn product(&self, isa: Isa) -> Vec<f32> {
        let (m, n, k) = self.size;
        let mut c = vec![f32::NAN; m * n];
        let factor =
            |v: &[f32], ld| Operand { ptr: v.as_ptr().cast(), ld, transposed: false, float: Float::F32 };
        let product = Product {
            m,
            n,
            k,
            a: factor(&self.a, k),
            b: factor(&self.b, n),
            c: c.as_mut_ptr(),
            ldc: n,
            bias: std::ptr::null(),
            alpha: 1.0,
            beta: 0.0,
            act: Activation::None,
        };
        // SAFETY: the vectors hold the matrices; the instruction set is one of `available`.
        unsafe { gemm_with(isa, &product) }
        c
    }

    /// Compares every element: |error| <= (k + 16)·2^-24·Σ|a·b|, and 2^-125 for each factor and product that tiles may
    /// take for zero.
    fn check(&self, what: &str) {
        let (m, n, k) = self.size;
        for isa in Isa::available() {
            let c = self.product(isa);
            for i in 0..m {
                for j in 0..n {
                    let (mut sum, mut sizes, mut lost) = (0.0, 0.0, 0.0);
                    for l in 0..k {
                        let (a, b) = (f64::from(self.a[i * k + l]), f64::from(self.b[l * n + j]));
                        sum += a * b;
                        sizes += (a * b).abs();
                        lost += (a.abs() + b.abs() + 4.0) * 2f64.powi(-125);
                    }
                    let got = f64::from(c[i * n + j]);
                    let rounded = f64::from(sum as f32);
                    let agrees = if rounded.is_finite() {
                        (got - sum).abs() <= (k as f64 + 16.0) * 2f64.powi(-24) * sizes + lost
                    } else {
                        got == rounded || (got.is_nan() && rounded.is_nan())
                    };
                    assert!(agrees, "{what}, {isa:?} [{m}, {n}, {k}] at ({i}, {j}): {got} instead of {sum}");
                }
            }
        }
    }
}

fn uniform(seed: u64, i: usize, j: usize) -> f32 {
    crate::philox::uniform(seed, (i * 10_000 + j) as u64, -1.0, 1.0)
}

/// A power of ten between 10^-range and 10^range.
fn power(seed: u64, i: usize, range: f32) -> f32 {
    10f32.powf(range * uniform(seed, 77, i))
}

const DEPTHS: [usize; 7] = [1, 31, 32, 33, 100, 777, 1500];

#[test]
fn random_factors() {
    for k in DEPTHS {
        Case::new((40, 50, k), |i, l| uniform(1, i, l), |l, j| uniform(2, l, j)).check("random");
    }
}

#[test]
fn rows_and_columns_of_very_different_size() {
    for k in DEPTHS {
        let a = |i, l| uniform(1, i, l) * power(3, i, 20.0);
        let b = |l, j| uniform(2, l, j) * power(4, j, 10.0);
        Case::new((40, 50, k), a, b).check("badly scaled rows");
        let a = |i, l| uniform(1, i, l) * power(3, l, 15.0);
        let b = |l, j| uniform(2, l, j) / power(3, l, 15.0);
        Case::new((40, 50, k), a, b).check("badly scaled steps");
    }
}

#[test]
fn sums_that_almost_cancel() {
    for k in [2, 64, 500, 1500] {
        let half = k / 2;
        let a = |i, l: usize| uniform(1, i, l % half);
        let b = |l: usize, j| {
            let v = uniform(2, l % half, j);
            if l < half { v } else { -v * (1.0 + 1e-6 * uniform(5, l, j)) }
        };
        Case::new((35, 34, k), a, b).check("cancelling");
    }
}

#[test]
fn every_bit_of_a_factor_counts() {
    // One product a sum, of whole numbers of 24 bits with a power of two: exact in f32.
    let a = |i: usize, _: usize| (0xFF_FFFF - 977 * i) as f32;
    let b = |_: usize, j: usize| 2f32.powi(j as i32 - 30);
    let case = Case::new((64, 64, 1), a, b);
    for isa in Isa::available() {
        for (at, got) in case.product(isa).into_iter().enumerate() {
            assert_eq!(got, case.a[at / 64] * case.b[at % 64], "{isa:?} at {at}");
        }
    }
}

#[test]
fn infinity_and_nan_reach_what_they_multiply_and_nothing_else() {
    for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::from_bits(0x7FFF_FFFF)] {
        let (plain_a, plain_b) = (|i, l| uniform(1, i, l), |l, j| uniform(2, l, j));
        let a = |i, l| if (i, l) == (37, 60) { special } else { plain_a(i, l) };
        Case::new((70, 45, 90), a, plain_b).check("a special value in a");
        let b = |l, j| if (l, j) == (7, 33) { special } else { plain_b(l, j) };
        Case::new((70, 45, 90), plain_a, b).check("a special value in b");
        let zeros = |l, j: usize| if j.is_multiple_of(2) { 0.0 } else { plain_b(l, j) };
        Case::new((70, 45, 90), a, zeros).check("a special value times 0");
        Case::new((70, 45, 1100), a, b).check("special values in both and two slabs");
    }
}

#[test]
fn the_largest_numbers_do_not_overflow_on_the_way() {
    let a = |i: usize, l: usize| if l == 3 { f32::MAX } else { uniform(1, i, l) };
    let b = |l: usize, j: usize| if l == 3 { 1.0 - 2f32.powi(-8) * j as f32 } else { 0.0 };
    Case::new((33, 40, 50), a, b).check("the largest number");
    // 1.996² · 2^126 is below the largest number; its rounded parts, 2.0² · 2^126, are not.
    let a = |_: usize, l: usize| if l == 0 { 1.998 * 2f32.powi(63) } else { 0.0 };
    Case::new((33, 40, 50), a, |l, _| if l == 0 { 1.998 * 2f32.powi(63) } else { 0.0 }).check("its root");
}

#[test]
fn the_smallest_numbers_are_lost_at_worst() {
    for scale in [1e-40, 1e-37, 1e-33] {
        let a = |i, l| uniform(1, i, l) * scale;
        Case::new((33, 40, 64), a, |l, j| 1e20 * uniform(2, l, j)).check("small factors");
        Case::new((33, 40, 64), a, |l, j| uniform(2, l, j)).check("small products");
    }
}
