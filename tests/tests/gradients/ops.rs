//! Ops that are gradients of other ops.

use super::{assert_gradient, dot, reference, values};
use lm_saes_runtime::{
    ByColumnView, CompactArgs, DType, PenaltyArgs, PenaltyKind, Queue, Select, SparseView, Tensor,
    ThresholdPenaltyArgs,
};

const ROWS: usize = 4;
const FEATURES: usize = 9;
const WIDTH: usize = 5;

/// Sparse codes of [ROWS, FEATURES]: fixed slots with one empty, or ragged rows.
struct Codes {
    vals: Tensor,
    idx: Tensor,
    ptr: Option<Tensor>,
    /// Slots that hold an entry.
    occupied: Vec<usize>,
}

impl Codes {
    fn new(q: &mut Queue, ragged: bool) -> Self {
        let empty = u32::MAX;
        let idx =
            if ragged { vec![3, 0, 8, 2, 4, 5, 1, 8] } else { vec![3, 1, 8, empty, 2, 0, 5, 6, 7, 1, 3, 4] };
        let mut vals: Vec<f32> = values(5, idx.len()).iter().map(|v| v.abs() + 0.2).collect();
        let occupied: Vec<usize> = (0..idx.len()).filter(|&i| idx[i] != empty).collect();
        (0..idx.len()).filter(|&i| idx[i] == empty).for_each(|i| vals[i] = 0.0);
        let shape = if ragged { (1, idx.len()) } else { (ROWS, idx.len() / ROWS) };
        Self {
            vals: q.tensor(shape.0, shape.1, &vals).unwrap(),
            idx: q.tensor(shape.0, shape.1, &idx).unwrap(),
            // The second row is empty.
            ptr: ragged.then(|| q.tensor(1, ROWS + 1, &[0u32, 1, 1, 4, 8]).unwrap()),
            occupied,
        }
    }

    fn view(&self) -> SparseView<'_> {
        SparseView {
            vals: self.vals.view(),
            idx: self.idx.view(),
            ptr: self.ptr.as_ref().map(Tensor::view),
            n: FEATURES,
        }
    }

    /// Sets the occupied values.
    fn set(&mut self, q: &mut Queue, new: &[f32]) {
        let mut all = vec![0.0; self.vals.len()];
        self.occupied.iter().zip(new).for_each(|(&slot, &v)| all[slot] = v);
        q.upload(&all, &mut self.vals).unwrap();
    }

    fn pick(&self, all: &[f32]) -> Vec<f32> {
        self.occupied.iter().map(|&slot| all[slot]).collect()
    }
}

#[test]
fn sparse_dot_and_sparse_outer_are_the_gradients_of_sparse_mul() {
    for ragged in [false, true] {
        let q = &mut reference();
        let mut codes = Codes::new(q, ragged);
        let weights = values(1, FEATURES * WIDTH);
        let mut w = q.tensor(FEATURES, WIDTH, &weights).unwrap();
        let dy_host = values(2, ROWS * WIDTH);
        let dy = q.tensor(ROWS, WIDTH, &dy_host).unwrap();
        let loss = |q: &mut Queue, codes: &Codes, w: &Tensor| {
            let mut y = q.empty(ROWS, WIDTH, DType::F32).unwrap();
            q.sparse_mul(codes.view(), w, None, &mut y, 0.0).unwrap();
            dot(&q.download::<f32>(&y).unwrap(), &dy_host)
        };

        let mut dvals = q.empty(codes.vals.rows(), codes.vals.cols(), DType::F32).unwrap();
        q.sparse_dot(codes.view(), &w, &dy, &mut dvals).unwrap();
        let capacity = codes.vals.len();
        let mut col_ptr = q.empty(1, FEATURES + 1, DType::U32).unwrap();
        let mut row = q.empty(1, capacity, DType::U32).unwrap();
        let mut slot = q.empty(1, capacity, DType::U32).unwrap();
        q.sort_by_column(codes.view(), &mut col_ptr, &mut row, &mut slot).unwrap();
        let by = ByColumnView { col_ptr: col_ptr.view(), row: row.view(), slot: slot.view() };
        let mut dw = q.empty(FEATURES, WIDTH, DType::F32).unwrap();
        q.sparse_outer(by, &codes.vals, &dy, &mut dw, 0.0).unwrap();

        let gradient: Vec<f32> = q.download(&dw).unwrap();
        assert_gradient("W", &weights, &gradient, 0.5, 1e-5, |w_new| {
            q.upload(w_new, &mut w).unwrap();
            loss(q, &codes, &w)
        });
        q.upload(&weights, &mut w).unwrap();
        let gradient = codes.pick(&q.download::<f32>(&dvals).unwrap());
        let at = codes.pick(&q.download::<f32>(&codes.vals).unwrap());
        assert_gradient("vals", &at, &gradient, 0.125, 1e-5, |new| {
            codes.set(q, new);
            loss(q, &codes, &w)
        });
    }
}

fn penalty_args<'a>(
    kind: PenaltyKind,
    p: f32,
    scale: &'a Tensor,
    weight: &'a Tensor,
    colgain: Option<&'a Tensor>,
) -> PenaltyArgs<'a> {
    let (scale, weight) = (Some(scale.view()), Some(weight.view()));
    PenaltyArgs { kind, scale, weight, colgain: colgain.map(Tensor::view), p, c: 1.5 }
}

#[test]
fn penalty_slopes_are_the_gradients_of_the_row_penalties() {
    for (kind, p, gained) in [
        (PenaltyKind::Power, 1.0, false),
        (PenaltyKind::Power, 1.5, false),
        (PenaltyKind::Power, 2.0, false),
        (PenaltyKind::Tanh, 1.0, false),
        (PenaltyKind::Tanh, 1.0, true),
    ] {
        for ragged in [false, true] {
            let q = &mut reference();
            let mut codes = Codes::new(q, ragged);
            let norms: Vec<f32> = values(3, FEATURES).iter().map(|v| 1.0 + 0.5 * v).collect();
            let scale = q.tensor(1, FEATURES, &norms).unwrap();
            let colgain = q.tensor(1, FEATURES, &values(4, FEATURES)).unwrap();
            let weights = [0.5, 1.0, 0.0, 2.0];
            let weight = q.tensor(ROWS, 1, &weights).unwrap();
            let args = penalty_args(kind, p, &scale, &weight, gained.then_some(&colgain));

            let mut du = q.empty(codes.vals.rows(), codes.vals.cols(), DType::F32).unwrap();
            q.penalty_sparse(codes.view(), args, None, &mut du).unwrap();
            // u = vals·n, so the gradient of vals is du·n.
            let idx: Vec<u32> = q.download(&codes.idx).unwrap();
            let du: Vec<f32> = q.download(&du).unwrap();
            let dvals = codes.occupied.iter().map(|&s| du[s] * norms[idx[s] as usize]).collect::<Vec<_>>();
            let at = codes.pick(&q.download::<f32>(&codes.vals).unwrap());
            assert_gradient(&format!("{kind:?} {p} ragged {ragged}"), &at, &dvals, 1e-3, 1e-3, |new| {
                codes.set(q, new);
                let mut out = q.empty(ROWS, 1, DType::F32).unwrap();
                let mut du = q.empty(codes.vals.rows(), codes.vals.cols(), DType::F32).unwrap();
                q.penalty_sparse(codes.view(), args, Some(out.view_mut()), &mut du).unwrap();
                dot(&q.download::<f32>(&out).unwrap(), &weights)
            });
        }
    }
}

#[test]
fn the_first_pass_of_tanh_quad_returns_tanh_and_no_penalty() {
    let q = &mut reference();
    let host: Vec<f32> = values(6, ROWS * FEATURES).iter().map(|v| v.max(0.0)).collect();
    let vals = q.tensor(ROWS, FEATURES, &host).unwrap();
    let scale = q.tensor(1, FEATURES, &[2.0f32; FEATURES]).unwrap();
    let weight = q.tensor(ROWS, 1, &[3.0f32; ROWS]).unwrap();
    let args = penalty_args(PenaltyKind::TanhValue, 1.0, &scale, &weight, None);
    let mut du = q.empty(ROWS, FEATURES, DType::F32).unwrap();
    let mut out = q.empty(ROWS, 1, DType::F32).unwrap();
    q.penalty_dense(&vals, args, Some(out.view_mut()), &mut du).unwrap();
    let want: Vec<f32> = host.iter().map(|&v| (f64::from(v) * 3.0).tanh() as f32).collect();
    assert_eq!(q.download::<f32>(&du).unwrap(), want);
    assert_eq!(q.download::<f32>(&out).unwrap(), [0.0; ROWS]);
}

/// The penalty Σ_r w_r·out_r.
fn threshold_loss(q: &mut Queue, x: &[f32], n: &[f32], theta: &[f32], gated: bool) -> f64 {
    let weights = [0.5f32, 1.0, 0.25, 2.0];
    let x = q.tensor(ROWS, FEATURES, x).unwrap();
    let scale = q.tensor(1, FEATURES, n).unwrap();
    let theta = q.tensor(1, FEATURES, theta).unwrap();
    let weight = q.tensor(ROWS, 1, &weights).unwrap();
    let mut out = q.empty(ROWS, 1, DType::F32).unwrap();
    q.threshold_penalty(ThresholdPenaltyArgs {
        x: x.view(),
        scale: Some(scale.view()),
        theta: theta.view(),
        weight: weight.view(),
        gated,
        out: out.view_mut(),
        dx: None,
        dtheta: None,
        dn: None,
    })
    .unwrap();
    dot(&q.download::<f32>(&out).unwrap(), &weights)
}

#[test]
fn threshold_penalty_gradients_agree_and_are_added() {
    for gated in [false, true] {
        let q = &mut reference();
        let n: Vec<f32> = values(7, FEATURES).iter().map(|v| 1.0 + 0.25 * v).collect();
        let theta: Vec<f32> = values(8, FEATURES).iter().map(|v| 0.5 + 0.25 * v).collect();
        // No x near its threshold, where the penalty has a kink.
        let mut x = values(9, ROWS * FEATURES);
        for (i, v) in x.iter_mut().enumerate() {
            let (n, theta) = (n[i % FEATURES], theta[i % FEATURES]);
            let bar = if gated { theta / n } else { theta };
            if (*v - bar).abs() < 0.05 {
                *v = bar + 0.1;
            }
        }
        let (xt, nt) = (q.tensor(ROWS, FEATURES, &x).unwrap(), q.tensor(1, FEATURES, &n).unwrap());
        let tt = q.tensor(1, FEATURES, &theta).unwrap();
        let weight = q.tensor(ROWS, 1, &[0.5f32, 1.0, 0.25, 2.0]).unwrap();
        let mut out = q.empty(ROWS, 1, DType::F32).unwrap();
        // Starting from 1: the gradients are added.
        let mut dx = q.tensor(ROWS, FEATURES, &[1.0f32; ROWS * FEATURES]).unwrap();
        let mut dtheta = q.tensor(1, FEATURES, &[1.0f32; FEATURES]).unwrap();
        let mut dn = q.tensor(1, FEATURES, &[1.0f32; FEATURES]).unwrap();
        q.threshold_penalty(ThresholdPenaltyArgs {
            x: xt.view(),
            scale: Some(nt.view()),
            theta: tt.view(),
            weight: weight.view(),
            gated,
            out: out.view_mut(),
            dx: Some(dx.view_mut()),
            dtheta: Some(dtheta.view_mut()),
            dn: Some(dn.view_mut()),
        })
        .unwrap();
        let mut added =
            |t: &Tensor| -> Vec<f32> { q.download::<f32>(t).unwrap().iter().map(|v| v - 1.0).collect() };
        let (dx, dtheta, dn) = (added(&dx), added(&dtheta), added(&dn));
        let (h, tol) = (1e-2, 1e-4);
        assert_gradient("x", &x, &dx, h, tol, |x| threshold_loss(q, x, &n, &theta, gated));
        assert_gradient("theta", &theta, &dtheta, h, tol, |theta| threshold_loss(q, &x, &n, theta, gated));
        assert_gradient("n", &n, &dn, h, tol, |n| threshold_loss(q, &x, n, &theta, gated));
    }
}

/// x, decoder norms and thresholds with nothing near a threshold or a window edge (window 0.5).
fn gate_operands() -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let n: Vec<f32> = values(10, FEATURES).iter().map(|v| 1.0 + 0.25 * v).collect();
    let theta: Vec<f32> = values(11, FEATURES).iter().map(|v| 0.4 + 0.2 * v).collect();
    let x = values(12, ROWS * FEATURES);
    let near = |v: f32, i: usize| {
        let z = v * n[i % FEATURES] - theta[i % FEATURES];
        z.abs() < 0.02 || (z.abs() - 0.25).abs() < 0.02
    };
    let x = x.iter().enumerate().map(|(i, &v)| if near(v, i) { v + 0.06 } else { v }).collect();
    (x, n, theta)
}

#[test]
fn gate_grad_is_the_gradient_of_the_gate_in_x() {
    for jump in [false, true] {
        let q = &mut reference();
        let (x, n, theta) = gate_operands();
        let df_host = values(13, x.len());
        let (scale, thetas) = (q.tensor(1, FEATURES, &n).unwrap(), q.tensor(1, FEATURES, &theta).unwrap());
        let (xt, df) = (q.tensor(ROWS, FEATURES, &x).unwrap(), q.tensor(ROWS, FEATURES, &df_host).unwrap());
        let (mut dx, mut dtheta) =
            (q.empty(ROWS, FEATURES, DType::F32).unwrap(), q.zeros(1, FEATURES, DType::F32).unwrap());
        let jump_args = jump.then(|| (thetas.view(), 0.5, dtheta.view_mut()));
        q.gate_grad(&xt, Some(scale.view()), jump_args, &df, &mut dx).unwrap();
        let dx: Vec<f32> = q.download(&dx).unwrap();
        assert_gradient("x", &x, &dx, 1e-3, 1e-4, |x| {
            let x = q.tensor(ROWS, FEATURES, x).unwrap();
            let select = Select { scale: Some(scale.view()), mask: None };
            let args = CompactArgs { select, theta: jump.then(|| thetas.view()), thr: None };
            let mut y = q.empty(ROWS, FEATURES, DType::F32).unwrap();
            q.gate(&x, args, &mut y).unwrap();
            dot(&q.download::<f32>(&y).unwrap(), &df_host)
        });
    }
}

#[test]
fn threshold_gradient_of_the_gate_is_that_of_its_smoothed_step() {
    let q = &mut reference();
    let (x, n, theta) = gate_operands();
    let df_host = values(14, x.len());
    let (scale, thetas) = (q.tensor(1, FEATURES, &n).unwrap(), q.tensor(1, FEATURES, &theta).unwrap());
    let (xt, df) = (q.tensor(ROWS, FEATURES, &x).unwrap(), q.tensor(ROWS, FEATURES, &df_host).unwrap());
    let mut dx = q.empty(ROWS, FEATURES, DType::F32).unwrap();
    let mut dtheta = q.zeros(1, FEATURES, DType::F32).unwrap();
    q.gate_grad(&xt, Some(scale.view()), Some((thetas.view(), 0.5, dtheta.view_mut())), &df, &mut dx)
        .unwrap();
    let gradient: Vec<f32> = q.download(&dtheta).unwrap();
    assert!(gradient.iter().filter(|g| **g != 0.0).count() > 3, "the window must be hit: {gradient:?}");
    // The step 1[g > θ] becomes a ramp of the window's width, whose height in f is θ/n with θ held.
    assert_gradient("theta", &theta, &gradient, 1e-3, 1e-3, |moved| {
        let terms = x.iter().zip(&df_host).enumerate().map(|(i, (&x, &df))| {
            let (n, held, theta) = (n[i % FEATURES], theta[i % FEATURES], moved[i % FEATURES]);
            let g = f64::from(x * n);
            let ramp = ((g - f64::from(theta)) / 0.5 + 0.5).clamp(0.0, 1.0);
            if g > 0.0 { f64::from(df) * f64::from(held) / f64::from(n) * ramp } else { 0.0 }
        });
        terms.sum()
    });
}
