//! Gemm against a naive f64 loop, on every instruction set of this processor.

use super::*;
use half::{bf16, f16};

/// Small whole numbers and halves: exact in every type, so products are exact sums in f32 for small k.
fn values(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| crate::philox::uniform(seed, i, -1.0, 1.0)).collect()
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    ta: bool,
    tb: bool,
    slack: usize,
    alpha: f32,
    beta: f32,
    bias: bool,
    act: Activation,
    float: Float,
}

impl Default for Case {
    fn default() -> Self {
        let (m, n, k) = (17, 33, 19);
        let act = Activation::None;
        Self {
            m,
            n,
            k,
            ta: false,
            tb: false,
            slack: 0,
            alpha: 1.0,
            beta: 0.0,
            bias: false,
            act,
            float: Float::F32,
        }
    }
}

/// Bytes of the values in the given type, and the values after rounding to it.
fn stored(v: &[f32], float: Float) -> (Vec<u8>, Vec<f32>) {
    match float {
        Float::F32 => (v.iter().flat_map(|x| x.to_ne_bytes()).collect(), v.to_vec()),
        Float::Bf16 => {
            let h: Vec<bf16> = v.iter().map(|&x| bf16::from_f32(x)).collect();
            (h.iter().flat_map(|x| x.to_ne_bytes()).collect(), h.iter().map(|x| x.to_f32()).collect())
        }
        Float::F16 => {
            let h: Vec<f16> = v.iter().map(|&x| f16::from_f32(x)).collect();
            (h.iter().flat_map(|x| x.to_ne_bytes()).collect(), h.iter().map(|x| x.to_f32()).collect())
        }
    }
}

fn act(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::GeluErf => x * 0.5 * vmath::tests::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// Runs a case; returns c with its slack columns.
fn run(isa: Isa, case: &Case) -> Vec<f32> {
    let &Case { m, n, k, ta, tb, slack, .. } = case;
    let (ar, ac) = if ta { (k, m) } else { (m, k) };
    let (br, bc) = if tb { (n, k) } else { (k, n) };
    let (lda, ldb, ldc) = (ac + slack, bc + slack, n + slack);
    let (a_bytes, a) = stored(&values(ar * lda, 1), case.float);
    let (b_bytes, b) = stored(&values(br * ldb, 2), case.float);
    let old = values(m * ldc, 3);
    let bias = values(n, 4);
    let mut c = old.clone();
    if case.beta == 0.0 {
        // Never read: NaN would show.
        for i in 0..m {
            c[i * ldc..i * ldc + n].fill(f32::NAN);
        }
    }
    let product = Product {
        m,
        n,
        k,
        a: Operand { ptr: a_bytes.as_ptr(), ld: lda, transposed: ta, float: case.float },
        b: Operand { ptr: b_bytes.as_ptr(), ld: ldb, transposed: tb, float: case.float },
        c: c.as_mut_ptr(),
        ldc,
        bias: if case.bias { bias.as_ptr() } else { std::ptr::null() },
        alpha: case.alpha,
        beta: case.beta,
        act: case.act,
    };
    // SAFETY: the operands above have these shapes; the instruction set is one of `available`.
    unsafe { gemm_with(isa, &product) }
    for i in 0..m {
        for j in 0..n {
            let at = |x: &[f32], t: bool, ld: usize, r: usize, s: usize| {
                f64::from(if t { x[s * ld + r] } else { x[r * ld + s] })
            };
            let mut sum: f64 = (0..k).map(|p| at(&a, ta, lda, i, p) * at(&b, tb, ldb, p, j)).sum();
            sum *= f64::from(case.alpha);
            if case.beta != 0.0 {
                sum += f64::from(case.beta) * f64::from(old[i * ldc + j]);
            }
            if case.bias {
                sum += f64::from(bias[j]);
            }
            let want = act(case.act, sum);
            let got = f64::from(c[i * ldc + j]);
            let tolerance = 2e-6 * (1.0 + (k as f64).sqrt());
            assert!(
                (got - want).abs() <= tolerance,
                "{isa:?} [{m}, {n}, {k}] ta {ta} tb {tb} at ({i}, {j}): {got} instead of {want}"
            );
        }
        assert_eq!(
            c[i * ldc + n..(i + 1) * ldc],
            old[i * ldc + n..(i + 1) * ldc],
            "slack columns are untouched"
        );
    }
    c
}

fn transposes() -> [(bool, bool); 4] {
    [(false, false), (false, true), (true, false), (true, true)]
}

#[test]
fn edge_sizes_are_right_on_every_instruction_set() {
    for isa in Isa::available() {
        for m in [1, 7, 14, 15, 63, 65] {
            for n in [1, 31, 32, 33, 64] {
                for k in [1, 7, 64] {
                    for (ta, tb) in transposes() {
                        run(isa, &Case { m, n, k, ta, tb, slack: 3, ..Case::default() });
                    }
                }
            }
        }
    }
}

#[test]
fn several_blocks_in_every_direction() {
    for isa in Isa::available() {
        for (ta, tb) in transposes() {
            run(
                isa,
                &Case {
                    m: 183,
                    n: 75,
                    k: 777,
                    ta,
                    tb,
                    slack: 1,
                    alpha: 0.5,
                    beta: 2.0,
                    bias: true,
                    ..Case::default()
                },
            );
        }
    }
}

#[test]
fn columns_beyond_one_slab() {
    run(Isa::best(), &Case { m: 3, n: NC + 37, k: 5, bias: true, ..Case::default() });
}

#[test]
fn an_empty_sum_leaves_scaled_c_and_bias() {
    for isa in Isa::available() {
        for beta in [0.0, -1.5] {
            run(isa, &Case { k: 0, beta, bias: true, act: Activation::Relu, ..Case::default() });
        }
    }
}

#[test]
fn empty_results_touch_nothing() {
    for (m, n) in [(0, 5), (5, 0), (0, 0)] {
        run(Isa::best(), &Case { m, n, slack: 2, ..Case::default() });
    }
}

#[test]
fn activations_come_after_the_last_partial_sum() {
    for isa in Isa::available() {
        for act in [Activation::Relu, Activation::GeluErf, Activation::GeluTanh, Activation::Silu] {
            run(isa, &Case { k: 800, alpha: 0.1, bias: true, act, ..Case::default() });
        }
    }
}

#[test]
fn half_precision_factors_are_widened() {
    for isa in Isa::available() {
        for float in [Float::Bf16, Float::F16] {
            for (ta, tb) in transposes() {
                run(isa, &Case { m: 30, n: 70, k: 45, ta, tb, slack: 5, float, ..Case::default() });
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let case = Case { m: 400, n: 300, k: 900, bias: true, act: Activation::GeluErf, ..Case::default() };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool");
        pool.install(|| run(Isa::best(), &case)).iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let one = with(1);
    assert!([2, 3, 8].into_iter().all(|t| with(t) == one));
}
