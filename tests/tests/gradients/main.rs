//! Every hand-written gradient against central differences: single ops here in f32 steps on the reference device, whole
//! dictionaries in `sae` against an independent f64 model of the loss (`model`).

#![forbid(unsafe_code)]

mod attention;
mod encoders;
mod heads;
mod lorsa;
mod model;
mod ops;
mod sae;
mod variants;

use lm_saes_backends::registry;
use lm_saes_runtime::Queue;

/// A queue on the scalar reference.
fn reference() -> Queue {
    let device = registry().open("reference").expect("the reference device always opens");
    Queue::new(&device).expect("a stream of the reference")
}

/// Numbers in (−1, 1) that look random but are the same everywhere.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Asserts that `gradient` agrees with central differences of `loss` at `x` in every coordinate.
fn assert_gradient(
    what: &str,
    x: &[f32],
    gradient: &[f32],
    step: f32,
    tolerance: f64,
    mut loss: impl FnMut(&[f32]) -> f64,
) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + step;
        let (high, above) = (moved[i], loss(&moved));
        moved[i] = x[i] - step;
        let (low, below) = (moved[i], loss(&moved));
        moved[i] = x[i];
        // The distance actually moved: x ± step is rounded to f32.
        let expected = (above - below) / (f64::from(high) - f64::from(low));
        let error = (f64::from(gradient[i]) - expected).abs();
        assert!(
            error <= tolerance * (1.0 + expected.abs()),
            "{what}: coordinate {i} is {}, central differences give {expected}",
            gradient[i]
        );
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}
