//! Principal directions of a batch: eigenvectors of its covariance `[d, d]`, by Householder reduction to tridiagonal form and
//! implicit QL steps in f64 on the host. Deterministic, and done once a run, so it need not be a device operation.

use crate::{Error, Result};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, ReduceKind, Tensor, View};

/// The first `k` principal directions of `x [B, d]` as rows `[k, d]`, strongest first. The sign of each is fixed by making
/// its largest entry positive.
pub(super) fn principal_directions(q: &mut Queue, x: View<'_>, k: usize) -> Result<Tensor> {
    let (rows, d) = (x.rows(), x.cols());
    if k == 0 || k > d {
        let what = format!("must be between 1 and {d}, got {k}");
        return Err(Error::setting("initializer.d_active_subspace", what));
    }
    let mut mean = q.empty(1, d, DType::F32)?;
    q.reduce_rows(ReduceKind::Sum, x, None, &mut mean, 0.0)?;
    q.map_in_place(MapKind::Affine, 1.0 / rows as f32, 0.0, &mut mean)?;
    let mut centred = q.empty(rows, d, DType::F32)?;
    q.zip(MapKind::Add, x, &mean, 1.0, -1.0, &mut centred)?;
    let mut covariance = q.empty(d, d, DType::F32)?;
    q.gemm(&centred, &centred, &mut covariance, GemmOpts { ta: true, ..Default::default() })?;
    let host: Vec<f32> = q.download(&covariance)?;
    let mut a: Vec<f64> = host.iter().map(|&v| f64::from(v)).collect();
    let values = eigen(&mut a, d)?;

    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    let mut directions = Vec::with_capacity(k * d);
    for &i in &order[..k] {
        let v = &a[i * d..(i + 1) * d];
        let largest = v.iter().copied().fold(0.0, |m: f64, e| if e.abs() > m.abs() { e } else { m });
        directions.extend(v.iter().map(|&e| (e * largest.signum()) as f32));
    }
    Ok(q.tensor(k, d, &directions)?)
}

/// Eigenvalues of the symmetric `a [n, n]`, unordered; row i of `a` becomes the unit eigenvector of value i.
fn eigen(a: &mut [f64], n: usize) -> Result<Vec<f64>> {
    let (mut diagonal, mut off) = tridiagonal(a, n);
    ql(&mut diagonal, &mut off, a, n)?;
    Ok(diagonal)
}

/// Reduces symmetric `a` to tridiagonal form `Q·a·Qᵀ` by Householder reflections: returns diagonal and subdiagonal (`off[i]`
/// couples i and i+1) and leaves Q in `a`.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut reflectors: Vec<Vec<f64>> = Vec::new();
    let mut off = vec![0.0; n];
    for k in 0..n.saturating_sub(2) {
        // Column k below the diagonal, equal to row k right of it.
        let mut v = a[k * n + k + 1..(k + 1) * n].to_vec();
        let length = v.iter().map(|e| e * e).sum::<f64>().sqrt();
        let alpha = if v[0] > 0.0 { -length } else { length };
        off[k] = alpha;
        v[0] -= alpha;
        let square: f64 = v.iter().map(|e| e * e).sum();
        if square > 0.0 {
            let scale = (2.0 / square).sqrt();
            v.iter_mut().for_each(|e| *e *= scale);
            reflect_both_sides(a, n, k + 1, &v);
        } else {
            v.clear();
        }
        reflectors.push(v);
    }
    if n >= 2 {
        off[n - 2] = a[(n - 2) * n + n - 1];
    }
    let diagonal = (0..n).map(|i| a[i * n + i]).collect();
    accumulate(a, n, &reflectors);
    (diagonal, off)
}

/// The trailing block from `start` of `a` becomes `(I − v·vᵀ)·a·(I − v·vᵀ)`.
fn reflect_both_sides(a: &mut [f64], n: usize, start: usize, v: &[f64]) {
    let p: Vec<f64> = (start..n).map(|i| dot(&a[i * n + start..(i + 1) * n], v)).collect();
    let half = dot(&p, v) / 2.0;
    let w: Vec<f64> = p.iter().zip(v).map(|(p, v)| p - half * v).collect();
    for i in start..n {
        let (vi, wi) = (v[i - start], w[i - start]);
        let row = &mut a[i * n + start..(i + 1) * n];
        for ((e, v), w) in row.iter_mut().zip(v).zip(&w) {
            *e -= vi * w + wi * v;
        }
    }
}

/// Writes `H_last···H_1·H_0` into `a`, `H_k = I − v·vᵀ` acting on coordinates from k+1.
fn accumulate(a: &mut [f64], n: usize, reflectors: &[Vec<f64>]) {
    a.fill(0.0);
    for i in 0..n {
        a[i * n + i] = 1.0;
    }
    // From the last to the first: row i of the product is then touched only where it is not yet the identity.
    for (k, v) in reflectors.iter().enumerate().rev().filter(|(_, v)| !v.is_empty()) {
        let start = k + 1;
        for i in start..n {
            let row = &mut a[i * n + start..(i + 1) * n];
            let along = dot(row, v);
            row.iter_mut().zip(v).for_each(|(e, v)| *e -= along * v);
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Diagonalises the tridiagonal matrix by QL steps with implicit shifts, applying every rotation to the rows of `z`.
fn ql(d: &mut [f64], e: &mut [f64], z: &mut [f64], n: usize) -> Result<()> {
    const MOST: usize = 60;
    for l in 0..n {
        for round in 0.. {
            let m = (l..n - 1)
                .find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs()))
                .unwrap_or(n - 1);
            if m == l {
                break;
            }
            if round == MOST {
                let what = "the covariance of the labels has no usable eigenvectors; is it finite?";
                return Err(Error::Data { what: what.into() });
            }
            let g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let shift = d[m] - d[l] + e[l] / (g + g.hypot(1.0).copysign(g));
            let (mut g, mut s, mut c, mut p) = (shift, 1.0, 1.0, 0.0);
            let mut whole = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    whole = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                let h = d[i + 1] - p;
                let t = (d[i] - h) * s + 2.0 * c * b;
                p = s * t;
                d[i + 1] = h + p;
                g = c * t - b;
                rotate(z, n, i, s, c);
            }
            if whole {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    Ok(())
}

/// Rotates rows i and i+1 of `z`.
fn rotate(z: &mut [f64], n: usize, i: usize, s: f64, c: f64) {
    let (low, high) = z[i * n..(i + 2) * n].split_at_mut(n);
    for (a, b) in low.iter_mut().zip(high) {
        let f = *b;
        *b = s * *a + c * f;
        *a = c * *a - s * f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue::new(&lm_saes_backends::registry().open("cpu").unwrap()).unwrap()
    }

    /// Values in [-1, 1) without structure.
    fn noise(n: usize) -> Vec<f64> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn eigenvectors_are_orthonormal_and_diagonalise_for_any_size() {
        for n in [1, 2, 3, 17, 64] {
            let m = noise(n * n);
            let a: Vec<f64> = (0..n * n).map(|i| m[i] + m[(i % n) * n + i / n]).collect();
            let mut z = a.clone();
            let values = eigen(&mut z, n).unwrap();
            for i in 0..n {
                let v = &z[i * n..(i + 1) * n];
                for r in 0..n {
                    let av = dot(&a[r * n..(r + 1) * n], v);
                    assert!(
                        (av - values[i] * v[r]).abs() < 1e-12 * n as f64,
                        "n {n}: {av} {}",
                        values[i] * v[r]
                    );
                    let other = dot(&z[r * n..(r + 1) * n], v);
                    assert!((other - f64::from(u8::from(r == i))).abs() < 1e-12 * n as f64);
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_already_diagonal_keeps_its_axes() {
        let mut z = vec![3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0];
        assert_eq!(eigen(&mut z, 3).unwrap(), [3.0, 1.0, 2.0]);
        assert_eq!(z, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn principal_directions_come_strongest_first_whatever_the_mean() {
        let mut q = queue();
        let (rows, spread) = (256, [1.0, 5.0, 0.1, 2.0]);
        let x: Vec<f32> = noise(rows * 4)
            .iter()
            .enumerate()
            .map(|(i, v)| (v * spread[i % 4] + 100.0 * f64::from(u8::from(i % 4 == 2))) as f32)
            .collect();
        let x = q.tensor(rows, 4, &x).unwrap();
        let u = principal_directions(&mut q, x.view(), 3).unwrap();
        let u: Vec<f32> = q.download(&u).unwrap();
        for (row, axis) in [1, 3, 0].into_iter().enumerate() {
            assert!(u[row * 4 + axis] > 0.98, "{u:?}");
        }
        let error = principal_directions(&mut q, x.view(), 5).unwrap_err().to_string();
        assert!(error.contains("d_active_subspace") && error.contains("between 1 and 4"), "{error}");
    }
}
