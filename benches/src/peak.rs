//! The highest rate of fused multiply-adds the processor reaches in registers: what a product is measured against.

use crate::timed;
use rayon::prelude::*;
use std::hint::black_box;

/// GFLOP/s of `threads` threads running independent multiply-adds for `steps` steps each: by wall clock, and by processor
/// time as if no other process had held the cores.
pub fn gflops(threads: usize, steps: usize) -> (f64, f64) {
    let mut flops = 0;
    let (wall, cpu) = timed(|| {
        flops = (0..threads).into_par_iter().with_max_len(1).map(|_| run(steps)).sum::<usize>();
    });
    let gflop = flops as f64 / 1e9;
    (gflop / wall, gflop * threads as f64 / cpu)
}

/// Runs the chains of the best instruction set; returns the operations done.
fn run(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: detected.
            unsafe { x86::avx512(steps) };
            return steps * CHAINS * 16 * 2;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: detected.
            unsafe { x86::avx2(steps) };
            return steps * CHAINS * 8 * 2;
        }
    }
    let mut acc = [[black_box(0.001f32); 4]; CHAINS];
    let (x, y) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..steps {
        for chain in &mut acc {
            for v in chain {
                *v = *v * x + y;
            }
        }
    }
    black_box(acc);
    steps * CHAINS * 4 * 2
}

/// Enough independent chains to hide the latency of two units.
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(steps: usize) {
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut acc = [y; CHAINS];
        for _ in 0..steps {
            for a in &mut acc {
                *a = _mm512_fmadd_ps(*a, x, y);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(steps: usize) {
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut acc = [y; CHAINS];
        for _ in 0..steps {
            for a in &mut acc {
                *a = _mm256_fmadd_ps(*a, x, y);
            }
        }
        black_box(acc);
    }
}
