//! exp, tanh, erfc and the activations built on them, branch-free so that loops over them vectorise. Errors are a few
//! units in the last place (the tests measure them); NaN stays NaN.

/// `a·b + c`, fused where that is one instruction.
#[inline(always)]
pub(super) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x: Cody–Waite reduction by ln 2, degree-6 polynomial (Cephes coefficients), scaled in two steps so that subnormal
/// results and the largest finite ones come out right.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // Adding 1.5·2^23 rounds to an integer, which then sits in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    let t = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let i = (t.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = fma::<FMA>(p, r, c);
    }
    let p = fma::<FMA>(p, r * r, r) + 1.0;
    let half = i >> 1;
    let pow2 = |e: i32| f32::from_bits((e.wrapping_add(127) << 23) as u32);
    p * pow2(half) * pow2(i.wrapping_sub(half))
}

/// Hyperbolic tangent: a polynomial near 0 (Cephes coefficients), the exponential beyond.
#[inline(always)]
pub(super) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let far = 1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0);
    let s = x * x;
    let mut p = -5.704_988_7e-3;
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = fma::<FMA>(p, s, c);
    }
    let near = fma::<FMA>(p * s, x, x);
    if a < 0.625 { near } else { far.copysign(x) }
}

/// erfc(z) for z >= 0, relative error about 2e-7 (rational Chebyshev fit in 1/(1+z/2), Numerical Recipes §6.2).
#[inline(always)]
fn erfc<const FMA: bool>(z: f32) -> f32 {
    let t = 1.0 / fma::<FMA>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    for c in [
        -0.822_152_2,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = fma::<FMA>(p, t, c);
    }
    t * exp::<FMA>(fma::<FMA>(-z, z, p))
}

/// x·Φ(x).
#[inline(always)]
pub(super) fn gelu_erf<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * erfc::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// The tanh form of GELU, as x·sigmoid(2u).
#[inline(always)]
pub(super) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let u = x * fma::<FMA>(x * x, 0.044_715, 1.0);
    x / (1.0 + exp::<FMA>(-1.595_769 * u))
}

/// x·sigmoid(x).
#[inline(always)]
pub(super) fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// erfc in f64 by its power series or continued fraction.
    pub(in crate::cpu) fn erfc(x: f64) -> f64 {
        if x < 0.0 {
            return 2.0 - erfc(-x);
        }
        if x < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let tail = (1..=60).rev().fold(x, |f, n| x + f64::from(n) / 2.0 / f);
        (-x * x).exp() / (tail * std::f64::consts::PI.sqrt())
    }

    fn worst(f: fn(f32) -> f32, exact: impl Fn(f64) -> f64, lo: f32, hi: f32) -> f64 {
        (0..200_001)
            .map(|i| lo + (hi - lo) * i as f32 / 200_000.0)
            .map(|x| {
                let want = exact(f64::from(x));
                (f64::from(f(x)) - want).abs() / want.abs().max(1e-30)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn relative_errors_are_a_few_units_in_the_last_place() {
        let ulp = f64::from(f32::EPSILON);
        {
            let (fused, plain) = (exp::<true> as fn(f32) -> f32, exp::<false> as fn(f32) -> f32);
            assert!(worst(fused, f64::exp, -60.0, 88.0) < 2.0 * ulp);
            assert!(worst(plain, f64::exp, -60.0, 88.0) < 2.0 * ulp);
        }
        assert!(worst(tanh::<true>, f64::tanh, -10.0, 10.0) < 3.0 * ulp);
        assert!(worst(silu::<true>, |x| x / (1.0 + (-x).exp()), -20.0, 20.0) < 4.0 * ulp);
        let phi = |x: f64| 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        assert!(worst(gelu_erf::<true>, phi, -3.0, 10.0) < 12.0 * ulp);
    }

    #[test]
    fn the_ends_of_the_range_come_out_right() {
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan() && tanh::<true>(f32::NAN).is_nan());
        assert_eq!(exp::<false>(0.0), 1.0);
        assert_eq!((tanh::<true>(40.0), tanh::<true>(-40.0), tanh::<true>(0.0)), (1.0, -1.0, 0.0));
    }
}
