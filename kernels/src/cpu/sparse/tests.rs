//! Products with sparse rows against loops in f64.

use super::*;
use crate::{
    cpu::{Codes, Isa, testing::*},
    philox,
};

fn normal(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| philox::normal(seed, i, 0.0, 1.0)).collect()
}

/// Codes with empty slots; ragged rows of 0 to 2k entries when `ragged`.
fn codes(rows: usize, k: usize, n: usize, ragged: bool) -> (Vec<f32>, Vec<u32>, Option<Vec<u32>>) {
    let mut ptr = vec![0];
    for r in 0..rows {
        let len = if ragged { philox::word(1, r as u64) as usize % (2 * k + 1) } else { k };
        ptr.push(ptr[r] + len as u32);
    }
    let slots = ptr[rows] as usize;
    let mut vals = normal(slots, 2);
    let mut idx: Vec<u32> =
        (0..slots as u64).map(|i| philox::word(3, i).checked_rem(n as u32).unwrap_or(u32::MAX)).collect();
    for e in (0..slots).step_by(11) {
        (vals[e], idx[e]) = (0.0, u32::MAX);
    }
    (vals, idx, ragged.then_some(ptr))
}

fn close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= 1e-5 * (w.abs() + 10.0), "{what} element {i}: {g} against {w}");
    }
}

fn view<'a>(c: &'a (Vec<f32>, Vec<u32>, Option<Vec<u32>>), k: usize, rows: usize, n: usize) -> Codes<'a> {
    match &c.2 {
        Some(p) => Codes::ragged(&c.0, &c.1, p, n),
        None => Codes::fixed(&c.0, &c.1, k, rows, n),
    }
}

const SIZES: [(usize, usize, usize, usize); 8] = [
    (0, 3, 5, 8),
    (1, 1, 1, 1),
    (5, 0, 4, 9),
    (7, 3, 9, 7),
    (64, 5, 63, 65),
    (33, 9, 100, 129),
    (130, 20, 700, 200),
    (40, 8, 9000, 130),
];

#[test]
fn mul_and_dot_equal_f64_loops() {
    for ((rows, k, n, d), ragged) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let c = codes(rows, k, n, ragged);
        let s = view(&c, k, rows, n);
        let (w, x, bias) = (normal(n * d, 4), normal(rows * d, 5), normal(d, 6));
        let mut dots = vec![0.0; s.idx.len()];
        for (beta, with_bias) in [(0.0, true), (1.0, false), (-0.5, true)] {
            let mut want: Vec<f64> = x.iter().map(|&v| f64::from(beta * v)).collect();
            for r in 0..rows {
                for j in 0..d {
                    want[r * d + j] += if with_bias { f64::from(bias[j]) } else { 0.0 };
                }
                for e in s.row(r).filter(|&e| s.idx[e] != u32::MAX) {
                    let i = s.idx[e] as usize;
                    dots[e] = (0..d).map(|j| f64::from(w[i * d + j]) * f64::from(x[r * d + j])).sum();
                    for j in 0..d {
                        want[r * d + j] += f64::from(s.vals[e]) * f64::from(w[i * d + j]);
                    }
                }
            }
            for isa in Isa::available() {
                let what = format!("{isa:?} [{rows}, {k}, {n}, {d}] beta {beta}");
                let mut y = if beta == 0.0 { vec![f32::NAN; rows * d] } else { x.clone() };
                let bias = with_bias.then_some(&bias[..]);
                let w = rows_of(&w, n, d);
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe { sparse_mul(isa, s, w, bias, rows_mut(&mut y, rows, d), beta) };
                close(&y, &want, &what);
                let mut out = vec![f32::NAN; s.idx.len()];
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe { sparse_dot(isa, s, w, rows_of(&x, rows, d), &mut out) };
                close(&out, &dots, &what);
            }
        }
    }
}

#[test]
fn sorting_is_stable_and_outer_equals_f64_loops() {
    for ((rows, k, n, d), ragged) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
        let c = codes(rows, k, n, ragged);
        let s = view(&c, k, rows, n);
        let (mut ptr, mut row, mut slot) = (vec![9; n + 1], vec![9; s.idx.len()], vec![9; s.idx.len()]);
        sort_by_column(s, &mut ptr, &mut row, &mut slot);
        let mut want: Vec<(u32, u32, u32)> = (0..rows)
            .flat_map(|r| s.row(r).map(move |e| (s.idx[e], r as u32, e as u32)))
            .filter(|t| t.0 != u32::MAX)
            .collect();
        want.sort_unstable();
        let used = want.len();
        assert_eq!(row[..used], want.iter().map(|t| t.1).collect::<Vec<_>>());
        assert_eq!(slot[..used], want.iter().map(|t| t.2).collect::<Vec<_>>());
        assert_eq!((ptr[0], ptr[n]), (0, used as u32));

        let (x, y0) = (normal(rows * d, 7), normal(n * d, 8));
        for beta in [0.0, 1.0] {
            let mut sum: Vec<f64> = y0.iter().map(|&v| f64::from(beta * v)).collect();
            for &(f, r, e) in &want {
                for j in 0..d {
                    sum[f as usize * d + j] +=
                        f64::from(s.vals[e as usize]) * f64::from(x[r as usize * d + j]);
                }
            }
            for isa in Isa::available() {
                let mut y = if beta == 0.0 { vec![f32::NAN; n * d] } else { y0.clone() };
                let (xm, ym) = (rows_of(&x, rows, d), rows_mut(&mut y, n, d));
                // SAFETY: fresh arrays of these shapes, an available instruction set.
                unsafe { sparse_outer(isa, &ptr, &row, &slot, s.vals, xm, ym, beta) };
                close(&y, &sum, &format!("{isa:?} [{rows}, {k}, {n}, {d}] beta {beta}"));
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (rows, k, n, d) = (3000, 20, 500, 192);
    let c = codes(rows, k, n, false);
    let s = view(&c, k, rows, n);
    let (w, x) = (normal(n * d, 1), normal(rows * d, 2));
    let all = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let (mut y, mut dots, mut grad) = (vec![0.0; rows * d], vec![0.0; rows * k], vec![0.0; n * d]);
            let (mut ptr, mut row, mut slot) = (vec![0; n + 1], vec![0; rows * k], vec![0; rows * k]);
            // SAFETY: fresh arrays of these shapes, an available instruction set.
            unsafe { sparse_mul(Isa::best(), s, rows_of(&w, n, d), None, rows_mut(&mut y, rows, d), 0.0) };
            // SAFETY: fresh arrays of these shapes, an available instruction set.
            unsafe { sparse_dot(Isa::best(), s, rows_of(&w, n, d), rows_of(&x, rows, d), &mut dots) };
            sort_by_column(s, &mut ptr, &mut row, &mut slot);
            let (xm, gm) = (rows_of(&x, rows, d), rows_mut(&mut grad, n, d));
            // SAFETY: fresh arrays of these shapes, an available instruction set.
            unsafe { sparse_outer(Isa::best(), &ptr, &row, &slot, s.vals, xm, gm, 0.0) };
            (y, dots, ptr, row, slot, grad)
        })
    };
    let one = all(1);
    assert!(one == all(2) && one == all(3));
}
