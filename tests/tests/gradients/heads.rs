//! The whole loss of crosscoders, mixtures of linear transforms and cross-layer transcoders, for every activation function and
//! loss term: `train_step` on the reference device against the loss written once more in f64. As in `model`, what passes is
//! frozen at the point of interest, and a threshold enters through the ramp its window stands for.

use super::{reference, values};
use lm_saes::{
    dictionary::{self, Coefficients, Dictionary, StepInput},
    settings::ActFn,
    training::{LossSettings, SparsityLoss},
};
use lm_saes_runtime::{Arena, Queue, Tensor, View};
use serde_json::json;

const D: usize = 4;
const ROWS: usize = 6;
const WINDOW: f64 = 0.4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    CrossCoder,
    Molt,
    Clt,
}
use Kind::{Clt, CrossCoder, Molt};

/// One configuration.
#[derive(Clone, Debug)]
struct Setting {
    kind: Kind,
    act: ActFn,
    gated: bool,
    masked: bool,
    /// Many features for a small k, so that gradients go by entries.
    wide: bool,
    loss: LossSettings,
}

impl Setting {
    /// Features of each rank.
    fn each(&self) -> usize {
        if self.wide { 64 } else { 3 }
    }
    fn s(&self) -> usize {
        3 * self.each()
    }
    fn k(&self) -> usize {
        if self.wide { 1 } else { 2 }
    }
    fn heads(&self) -> usize {
        if self.kind == Molt { 1 } else { 3 }
    }
}

fn plain(kind: Kind, act: ActFn) -> Setting {
    let loss = LossSettings { tanh_stretch: 1.5, frequency_scale: 0.2, ..LossSettings::default() };
    Setting { kind, act, gated: true, masked: false, wide: false, loss }
}

/// Numbers by head (or layer), row and feature (or coordinate).
type Cube = Vec<Vec<Vec<f64>>>;

/// The loss in f64. Parameters are laid out as the device holds them.
struct Model<'a> {
    c: &'a Setting,
    coefficients: Coefficients,
    x: Cube,
    y: Cube,
    weight: Vec<f64>,
}

/// What is frozen at the point where the gradient is taken.
struct Frozen {
    passes: Vec<Vec<Vec<bool>>>,
    /// What thresholds are compared with, what that was divided by, and the norms.
    g: Cube,
    divisor: Vec<Vec<f64>>,
    norms: Vec<Vec<f64>>,
    theta: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn row(p: &[f64], i: usize) -> &[f64] {
    &p[i * D..(i + 1) * D]
}

fn cube(heads: usize, wide: usize, one: impl Fn(usize, usize, usize) -> f64) -> Cube {
    let of_row = |h, r| (0..wide).map(|i| one(h, r, i)).collect();
    (0..heads).map(|h| (0..ROWS).map(|r| of_row(h, r)).collect()).collect()
}

impl Model<'_> {
    fn hidden(&self, p: &[Vec<f64>]) -> Cube {
        let s = self.c.s();
        let of = |e: usize, r: usize, i: usize| dot(row(&p[0], e * s + i), &self.x[e][r]) + p[1][e * s + i];
        cube(self.c.heads(), s, |h, r, i| match self.c.kind {
            CrossCoder => (0..self.x.len()).map(|e| of(e, r, i)).sum(),
            Molt | Clt => of(h, r, i),
        })
    }

    /// Rows of U and V of feature i of a mixture: rank 1 first, then 2, then 3.
    fn transform<'p>(&self, p: &'p [Vec<f64>], i: usize) -> Vec<(&'p [f64], &'p [f64])> {
        let (group, place) = (i / self.c.each(), i % self.c.each());
        let rank = group + 1;
        let rows = place * rank..(place + 1) * rank;
        rows.map(|j| (row(&p[2 + 2 * group], j), row(&p[3 + 2 * group], j))).collect()
    }

    fn norms(&self, p: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let s = self.c.s();
        let square = |h: usize, i: usize| match self.c.kind {
            CrossCoder => dot(row(&p[2], h * s + i), row(&p[2], h * s + i)),
            Clt => (h..3).map(|t| dot(row(&p[2 + t], h * s + i), row(&p[2 + t], h * s + i))).sum(),
            Molt => {
                let t = self.transform(p, i);
                let entry = |a: usize, b: usize| t.iter().map(|(u, v)| u[a] * v[b]).sum::<f64>();
                (0..D * D).map(|at| entry(at / D, at % D).powi(2)).sum()
            }
        };
        (0..self.c.heads()).map(|h| (0..s).map(|i| square(h, i).sqrt()).collect()).collect()
    }

    fn theta(&self, p: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let s = self.c.s();
        let of = |h: usize, i: usize| match (self.c.act, self.c.kind) {
            (ActFn::JumpRelu, Clt) => p[p.len() - 1][h * s + i].exp(),
            (ActFn::JumpRelu, _) => p[p.len() - 1][i].exp(),
            _ => 0.0,
        };
        (0..self.c.heads()).map(|h| (0..s).map(|i| of(h, i)).collect()).collect()
    }

    fn decode(&self, p: &[Vec<f64>], f: &Cube) -> Cube {
        let s = self.c.s();
        let sum = |w: &[f64], of: usize, h: usize, r: usize, a: usize| -> f64 {
            (0..s).map(|i| f[h][r][i] * row(w, of * s + i)[a]).sum()
        };
        cube(self.y.len(), D, |h, r, a| match self.c.kind {
            CrossCoder => p[3][h * D + a] + sum(&p[2], h, h, r, a),
            Clt => p[5 + h][a] + (0..=h).map(|from| sum(&p[2 + h], from, from, r, a)).sum::<f64>(),
            Molt => {
                let one = |i: usize| -> f64 {
                    self.transform(p, i).iter().map(|(u, v)| u[a] * dot(v, &self.x[0][r])).sum()
                };
                p[8][a] + (0..s).map(|i| f[0][r][i] * one(i)).sum::<f64>()
            }
        })
    }

    /// Which places an entry competes for, and how many there are.
    fn pool(&self, h: usize, r: usize) -> (usize, usize) {
        let k = self.c.k();
        match (self.c.act, self.c.kind) {
            (ActFn::TopK, _) => (h * ROWS + r, k),
            (ActFn::BatchTopK, Clt) => (h, k * ROWS),
            (ActFn::BatchTopK, _) => (0, k * ROWS * self.c.heads()),
            (ActFn::LayerTopK, _) => (r, k),
            (ActFn::BatchLayerTopK, _) => (0, k * ROWS),
            _ => (0, usize::MAX),
        }
    }

    fn freeze(&self, p: &[Vec<f64>]) -> Frozen {
        let (h, norms, theta) = (self.hidden(p), self.norms(p), self.theta(p));
        let (heads, s) = (self.c.heads(), self.c.s());
        let divisor = if self.c.gated { norms.clone() } else { vec![vec![1.0; s]; heads] };
        let g = cube(heads, s, |head, r, i| h[head][r][i] * divisor[head][i]);
        let mut ranked: Vec<(f64, usize, usize, usize)> = Vec::new();
        for (head, rows) in g.iter().enumerate() {
            for (r, row) in rows.iter().enumerate() {
                ranked
                    .extend(row.iter().enumerate().filter(|(_, g)| **g > 0.0).map(|(i, g)| (*g, head, r, i)));
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut taken = vec![0; heads * ROWS];
        let mut passes = vec![vec![vec![false; s]; ROWS]; heads];
        for (g, head, r, i) in ranked {
            let (pool, places) = self.pool(head, r);
            passes[head][r][i] = taken[pool] < places && g > theta[head][i];
            taken[pool] += 1;
        }
        Frozen { passes, g, divisor, norms, theta }
    }

    /// f = h where it passes, plus what a moved threshold changes: the ramp of width `window`, of height θ/n held.
    fn codes(&self, p: &[Vec<f64>], z: &Frozen) -> Cube {
        let (h, theta) = (self.hidden(p), self.theta(p));
        let ramp = |z: f64| (z / WINDOW + 0.5).clamp(0.0, 1.0);
        cube(self.c.heads(), self.c.s(), |head, r, i| {
            let f = if z.passes[head][r][i] { h[head][r][i] } else { 0.0 };
            let (g, held) = (z.g[head][r][i], z.theta[head][i]);
            if self.c.act != ActFn::JumpRelu || g <= 0.0 {
                return f;
            }
            f + held / z.divisor[head][i] * (ramp(g - theta[head][i]) - ramp(g - held))
        })
    }

    /// Mean over heads of the weighted sums over rows.
    fn mean(&self, heads: usize, of: impl Fn(usize, usize) -> f64) -> f64 {
        let head = |h: usize| (0..ROWS).map(|r| self.weight[r] * of(h, r)).sum::<f64>();
        (0..heads).map(head).sum::<f64>() / heads as f64
    }

    /// `[l_rec, l_s, l_p]`.
    fn terms(&self, p: &[Vec<f64>], z: &Frozen) -> [f64; 3] {
        let f = self.codes(p, z);
        let y_hat = self.decode(p, &f);
        let square = |h: usize, r: usize| {
            self.y[h][r].iter().zip(&y_hat[h][r]).map(|(y, y_hat)| (y - y_hat).powi(2)).sum()
        };
        let l_rec = self.mean(self.y.len(), square);
        // To a cross-layer transcoder norms are constants.
        let n = if self.c.kind == Clt { z.norms.clone() } else { self.norms(p) };
        let l_s = self.c.loss.sparsity.map_or(0.0, |kind| self.sparsity(kind, &f, &n, z));
        [l_rec, l_s, self.threshold_penalty(p, &n)]
    }

    fn sparsity(&self, kind: SparsityLoss, f: &Cube, n: &[Vec<f64>], z: &Frozen) -> f64 {
        let (heads, s, loss) = (self.c.heads(), self.c.s(), &self.c.loss);
        let (l1, c, p) = (f64::from(self.coefficients.l1), f64::from(loss.tanh_stretch), f64::from(loss.p));
        let u = cube(heads, s, |h, r, i| f[h][r][i] * n[h][i]);
        // The slope of |u| at 0 counts as 0, also where the ramp moves it.
        let power = |h: usize, r: usize| {
            let kept = u[h][r].iter().zip(&z.passes[h][r]).filter(|(_, passes)| **passes);
            kept.map(|(u, _)| u.powf(p)).sum::<f64>().powf(1.0 / p)
        };
        match kind {
            SparsityLoss::Power => l1 * self.mean(heads, power),
            SparsityLoss::Tanh => l1 * self.mean(heads, |h, r| u[h][r].iter().map(|u| (c * u).tanh()).sum()),
            SparsityLoss::TanhQuad => {
                let q = |i: usize| {
                    let all = u.iter().flatten().map(|row| (c * row[i]).tanh()).sum::<f64>();
                    all / (heads * ROWS) as f64
                };
                let scale = f64::from(loss.frequency_scale);
                l1 * (0..s).map(|i| q(i) * (1.0 + q(i) / scale)).sum::<f64>()
            }
            other => unreachable!("{other:?} does not exist for these"),
        }
    }

    fn threshold_penalty(&self, p: &[Vec<f64>], n: &[Vec<f64>]) -> f64 {
        if !self.c.loss.lp {
            return 0.0;
        }
        let (h, theta) = (self.hidden(p), self.theta(p));
        let one = |head: usize, r: usize, i: usize| {
            let g = h[head][r][i] * if self.c.gated && self.c.loss.lp_gated { n[head][i] } else { 1.0 };
            (theta[head][i] - g).max(0.0) * n[head][i]
        };
        let of_row = |head, r| (0..self.c.s()).map(|i| one(head, r, i)).sum();
        f64::from(self.coefficients.lp) * self.mean(self.c.heads(), of_row)
    }
}

fn settings(c: &Setting) -> lm_saes::settings::DictionarySettings {
    let hooks = ["a", "b", "c"];
    let mut json = match c.kind {
        CrossCoder => json!({"sae_type": "crosscoder", "hook_points": hooks}),
        Clt => json!({"sae_type": "clt", "hook_points_in": hooks, "hook_points_out": ["x", "y", "z"]}),
        Molt => json!({
            "sae_type": "molt", "hook_point_in": "a", "hook_point_out": "x",
            "rank_counts": {"1": c.each(), "2": c.each(), "3": c.each()},
        }),
    };
    let common = json!({
        "d_model": D, "expansion_factor": c.s() as f64 / D as f64, "act_fn": c.act, "top_k": c.k(),
        "sparsity_include_decoder_norm": c.gated, "jumprelu_threshold_window": WINDOW,
        "norm_activation": "inference",
    });
    common.as_object().expect("a table").iter().for_each(|(key, value)| json[key] = value.clone());
    serde_json::from_value(json).expect("the settings of this test are valid")
}

fn to_cube(tensors: &[Vec<f32>]) -> Cube {
    let rows = |t: &Vec<f32>| t.chunks(D).map(|r| r.iter().map(|&v| v.into()).collect()).collect();
    tensors.iter().map(rows).collect()
}

fn assert_agrees(c: &Setting) {
    let q = &mut reference();
    let mut d = dictionary::build(q, &settings(c)).expect("the dictionary");
    for (i, p) in d.params_mut().into_iter().enumerate() {
        let mut host = values(20 + i as u64, p.value.len());
        if p.name.contains("threshold") {
            host.iter_mut().for_each(|v| *v = 0.3 * *v - 1.0);
        }
        q.upload(&host, &mut p.value).expect("upload");
    }
    let mut params: Vec<Vec<f64>> = d.params().iter().map(|p| download(q, &p.value)).collect();
    let outputs = d.hook_points_out().len();
    let x: Vec<Vec<f32>> = (0..d.hook_points_in().len()).map(|i| values(40 + i as u64, ROWS * D)).collect();
    let y: Vec<Vec<f32>> = (0..outputs).map(|i| values(50 + i as u64, ROWS * D)).collect();
    let mask: Vec<u8> = (0..ROWS).map(|r| u8::from(!c.masked || r % 3 != 1)).collect();
    let n_tokens: usize = mask.iter().map(|&m| usize::from(m)).sum();
    let weight: Vec<f32> = mask.iter().map(|&m| f32::from(m) / n_tokens as f32).collect();
    let coefficients = Coefficients { k: c.k(), l1: 0.3, lp: 0.2, auxk: 0.0 };

    let mut plan = Arena::planning("step");
    d.plan(&mut plan, ROWS, c.k(), Some(&c.loss)).expect("planning");
    let mut arena = Arena::build(&plan, q.device()).expect("memory");
    d.plan(&mut arena, ROWS, c.k(), Some(&c.loss)).expect("the plan");
    let upload = |q: &mut Queue, all: &[Vec<f32>]| -> Vec<Tensor> {
        all.iter().map(|t| q.tensor(ROWS, D, t).expect("upload")).collect()
    };
    let (xt, yt) = (upload(q, &x), upload(q, &y));
    let (wt, mt) = (q.tensor(ROWS, 1, &weight).expect("weights"), q.tensor(1, ROWS, &mask).expect("a mask"));
    let input = StepInput {
        inputs: xt.iter().map(Tensor::view).collect(),
        labels: yt.iter().map(Tensor::view).collect(),
        context: None,
        mask: c.masked.then(|| mt.view()),
        weight: wt.view(),
        n_tokens,
    };
    let terms = d.train_step(q, &input, &c.loss, coefficients, None).expect("a step");

    let weight = weight.iter().map(|&w| w.into()).collect();
    let model = Model { c, coefficients, x: to_cube(&x), y: to_cube(&y), weight };
    let frozen = model.freeze(&params);
    let wanted = model.terms(&params, &frozen);
    let found = [Some(terms.l_rec), terms.l_s, terms.l_p].map(|v| f64::from(v.unwrap_or(0.0)));
    for ((name, found), wanted) in ["l_rec", "l_s", "l_p"].iter().zip(found).zip(wanted) {
        assert!((found - wanted).abs() <= 1e-5 * (1.0 + wanted.abs()), "{c:?}\n{name} {found} for {wanted}");
    }
    for (which, (name, gradient)) in gradients(q, &mut *d).into_iter().enumerate() {
        // Of many features a sample.
        let every = if c.wide { 13 } else { 1 };
        for (i, gradient) in gradient.into_iter().enumerate().step_by(every) {
            let (step, v) = (1e-5, params[which][i]);
            let mut at = |v: f64| {
                params[which][i] = v;
                model.terms(&params, &frozen).iter().sum::<f64>()
            };
            let slope = (at(v + step) - at(v - step)) / (2.0 * step);
            at(v);
            assert!(
                (gradient - slope).abs() <= 1e-4 * (1.0 + slope.abs()),
                "{c:?}\n{name}[{i}] is {gradient}, central differences give {slope}"
            );
        }
    }
}

/// Every parameter's name and gradient.
fn gradients(q: &mut Queue, d: &mut dyn Dictionary) -> Vec<(String, Vec<f64>)> {
    let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
    let all: Vec<Vec<f64>> = lm_saes_tests::gradients(q, d).into_iter().map(wide).collect();
    d.params().iter().map(|p| p.name.clone()).zip(all).collect()
}

fn download<'a>(q: &mut Queue, t: impl Into<View<'a>>) -> Vec<f64> {
    q.download::<f32>(t).expect("download").iter().map(|&v| v.into()).collect()
}

/// Every kind with every activation it has, with and without gating where that is a choice, with few features and many.
fn every_setting() -> Vec<Setting> {
    let common = [ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK];
    let joint = [ActFn::LayerTopK, ActFn::BatchLayerTopK];
    let mut all = Vec::new();
    for kind in [CrossCoder, Molt, Clt] {
        for act in common.into_iter().chain(joint.into_iter().filter(|_| kind == Clt)) {
            let base = plain(kind, act);
            all.push(base.clone());
            if kind != CrossCoder {
                all.push(Setting { gated: false, ..base.clone() });
            }
            if act.has_k() {
                all.push(Setting { wide: true, ..base });
            }
        }
    }
    all
}

#[test]
fn reconstruction_alone_with_and_without_a_mask() {
    for base in every_setting() {
        assert_agrees(&Setting { masked: true, ..base.clone() });
        assert_agrees(&base);
    }
}

#[test]
fn every_sparsity_loss() {
    let losses = [
        (SparsityLoss::Power, 1.0),
        (SparsityLoss::Power, 1.5),
        (SparsityLoss::Tanh, 1.0),
        (SparsityLoss::TanhQuad, 1.0),
    ];
    for base in every_setting() {
        for (sparsity, p) in losses {
            let loss = LossSettings { sparsity: Some(sparsity), p, ..base.loss.clone() };
            assert_agrees(&Setting { loss, masked: sparsity != SparsityLoss::TanhQuad, ..base.clone() });
        }
    }
}

#[test]
fn threshold_penalty_in_both_definitions() {
    for base in every_setting().into_iter().filter(|c| c.act == ActFn::JumpRelu && c.kind != Clt) {
        for lp_gated in [false, true] {
            for sparsity in [None, Some(SparsityLoss::TanhQuad)] {
                let loss = LossSettings { lp: true, lp_gated, sparsity, ..base.loss.clone() };
                assert_agrees(&Setting { loss, masked: true, ..base.clone() });
            }
        }
    }
}
