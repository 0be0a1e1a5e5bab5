//! The loss of a dictionary written once more, in f64 and for clarity only (VARIANTS §5). Discrete choices
//! (which entries pass) and quantities that count as constants are frozen at the point of interest, so that the loss is
//! smooth there and central differences give exactly the gradient that is specified. A JumpReLU threshold enters through
//! the ramp its window stands for.

use super::encoders::Encoder;
use lm_saes::{dictionary::Coefficients, training::SparsityLoss};
use lm_saes::{settings::ActFn, training::LossSettings};

/// Everything but the parameters.
pub struct Model {
    pub d: usize,
    pub s: usize,
    pub act: ActFn,
    pub gated: bool,
    pub encoder: Encoder,
    pub decoder_bias: bool,
    pub window: f64,
    pub loss: LossSettings,
    pub c: Coefficients,
    /// Inputs and labels `[B, d]`.
    pub x: Vec<Vec<f64>>,
    pub y: Vec<Vec<f64>>,
    /// `m_t / Σ m`.
    pub weight: Vec<f64>,
    pub dead: Vec<bool>,
}

/// What is frozen at the point where the gradient is taken.
#[derive(Clone, Default)]
pub struct Frozen {
    /// Entries that pass the activation, and, among dead features, the auxiliary one; `[B][S]`.
    passes: Vec<Vec<bool>>,
    dead_passes: Vec<Vec<bool>>,
    /// g and n the thresholds are compared with and divided by.
    g: Vec<Vec<f64>>,
    n: Vec<f64>,
    theta: Vec<f64>,
    /// y − ŷ.
    error: Vec<Vec<f64>>,
}

/// One evaluation's intermediate results.
struct Forward {
    h: Vec<Vec<f64>>,
    n: Vec<f64>,
    theta: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Model {
    /// Row i of the matrix that is parameter `p`.
    fn row<'a>(&self, p: &'a [f64], i: usize) -> &'a [f64] {
        &p[i * self.d..(i + 1) * self.d]
    }

    /// Where the decoder is in the list of the encoder's parameters, `W_D, [b_D], [log θ]`.
    fn w_d_at(&self) -> usize {
        self.encoder.parameters()
    }

    fn forward(&self, p: &[Vec<f64>]) -> Forward {
        let n = (0..self.s)
            .map(|i| dot(self.row(&p[self.w_d_at()], i), self.row(&p[self.w_d_at()], i)).sqrt())
            .collect();
        let theta = match self.act {
            ActFn::JumpRelu => p[p.len() - 1].iter().map(|t| t.exp()).collect(),
            _ => vec![0.0; self.s],
        };
        Forward { h: self.encoder.hidden(p, &self.x, self.s), n, theta }
    }

    /// Entries of g that pass, with a budget of k a row.
    fn choose(&self, g: &[Vec<f64>], theta: &[f64], k: usize) -> Vec<Vec<bool>> {
        let mut all: Vec<(f64, usize, usize)> = Vec::new();
        for (r, row) in g.iter().enumerate() {
            all.extend(row.iter().enumerate().filter(|(_, g)| **g > 0.0).map(|(i, &g)| (g, r, i)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut left_in_row = vec![k; g.len()];
        let mut left = k * g.len();
        let mut passes = vec![vec![false; self.s]; g.len()];
        for (g, r, i) in all {
            passes[r][i] = match self.act {
                ActFn::Relu => true,
                ActFn::JumpRelu => g > theta[i],
                ActFn::TopK => left_in_row[r] > 0,
                ActFn::BatchTopK => left > 0,
                _ => unreachable!("no activation of this model"),
            };
            left_in_row[r] = left_in_row[r].saturating_sub(1);
            left = left.saturating_sub(1);
        }
        passes
    }

    /// Freezes the choices at these parameters.
    pub fn freeze(&self, p: &[Vec<f64>]) -> Frozen {
        let at = self.forward(p);
        let n: Vec<f64> = if self.gated { at.n.clone() } else { vec![1.0; self.s] };
        let g: Vec<Vec<f64>> =
            at.h.iter().map(|row| row.iter().zip(&n).map(|(h, n)| h * n).collect()).collect();
        let only_dead = |row: &Vec<f64>| {
            row.iter().zip(&self.dead).map(|(g, &dead)| if dead { *g } else { 0.0 }).collect()
        };
        let dead_g: Vec<Vec<f64>> = g.iter().map(only_dead).collect();
        let k_aux = self.loss.k_aux.min(self.dead.iter().filter(|d| **d).count());
        let mut frozen = Frozen {
            passes: self.choose(&g, &at.theta, self.c.k),
            dead_passes: self.choose(&dead_g, &at.theta, k_aux),
            theta: at.theta.clone(),
            g,
            n,
            error: Vec::new(),
        };
        let f = self.codes(&at, &frozen, &frozen.passes, false);
        frozen.error = self.errors(p, &f);
        frozen
    }

    /// f = h where it passes, plus what a moved threshold changes: the ramp of width `window`, of height θ/n held.
    fn codes(&self, at: &Forward, z: &Frozen, passes: &[Vec<bool>], dead_only: bool) -> Vec<Vec<f64>> {
        let ramp = |z: f64| (z / self.window + 0.5).clamp(0.0, 1.0);
        let one = |r: usize, i: usize| {
            let f = if passes[r][i] { at.h[r][i] } else { 0.0 };
            let g = z.g[r][i];
            if self.act != ActFn::JumpRelu || g <= 0.0 || (dead_only && !self.dead[i]) {
                return f;
            }
            f + z.theta[i] / z.n[i] * (ramp(g - at.theta[i]) - ramp(g - z.theta[i]))
        };
        (0..at.h.len()).map(|r| (0..self.s).map(|i| one(r, i)).collect()).collect()
    }

    fn decode(&self, p: &[Vec<f64>], f: &[f64], bias: bool) -> Vec<f64> {
        let bias = |j: usize| if bias && self.decoder_bias { p[self.w_d_at() + 1][j] } else { 0.0 };
        (0..self.d)
            .map(|j| bias(j) + (0..self.s).map(|i| f[i] * p[self.w_d_at()][i * self.d + j]).sum::<f64>())
            .collect()
    }

    /// y − ŷ of every row.
    fn errors(&self, p: &[Vec<f64>], f: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let row = |(f, y): (&Vec<f64>, &Vec<f64>)| {
            y.iter().zip(self.decode(p, f, true)).map(|(y, y_hat)| y - y_hat).collect()
        };
        f.iter().zip(&self.y).map(row).collect()
    }

    fn mean(&self, rows: impl Iterator<Item = f64>) -> f64 {
        rows.zip(&self.weight).map(|(v, w)| v * w).sum()
    }

    /// `[l_rec, l_s, l_p, l_aux]`; their sum is the loss.
    pub fn terms(&self, p: &[Vec<f64>], z: &Frozen) -> [f64; 4] {
        let at = self.forward(p);
        let f = self.codes(&at, z, &z.passes, false);
        let error = self.errors(p, &f);
        let l_rec = self.mean(error.iter().map(|e| dot(e, e)));
        let l_s = self.loss.sparsity.map_or(0.0, |kind| self.sparsity(kind, z, &f, &at.n));
        [l_rec, l_s, self.threshold_penalty(&at), self.auxiliary(p, z, &at, &error)]
    }

    fn sparsity(&self, kind: SparsityLoss, z: &Frozen, f: &[Vec<f64>], n: &[f64]) -> f64 {
        let (l1, c) = (f64::from(self.c.l1), f64::from(self.loss.tanh_stretch));
        let u: Vec<Vec<f64>> = f.iter().map(|f| f.iter().zip(n).map(|(f, n)| f * n).collect()).collect();
        let exponent = f64::from(self.loss.p);
        // The slope of |u| at 0 counts as 0: entries that do not pass are left out, also where the ramp moves them.
        let norm = |(u, passes): (&Vec<f64>, &Vec<bool>)| {
            let kept = u.iter().zip(passes).filter(|(_, passes)| **passes);
            kept.map(|(u, _)| u.powf(exponent)).sum::<f64>().powf(1.0 / exponent)
        };
        let tanh = |u: &Vec<f64>| u.iter().map(|u| (c * u).tanh()).sum();
        match kind {
            SparsityLoss::Power => l1 * self.mean(u.iter().zip(&z.passes).map(norm)),
            SparsityLoss::PowerSum | SparsityLoss::TargetL0 => unreachable!("added below"),
            SparsityLoss::Tanh => l1 * self.mean(u.iter().map(tanh)),
            SparsityLoss::TanhQuad => {
                let mean = |i: usize| u.iter().map(|u| (c * u[i]).tanh()).sum::<f64>() / u.len() as f64;
                let quad = |q: f64| q * (1.0 + q / f64::from(self.loss.frequency_scale));
                l1 * (0..self.s).map(|i| quad(mean(i))).sum::<f64>()
            }
        }
    }

    fn threshold_penalty(&self, at: &Forward) -> f64 {
        if !(self.loss.lp && self.act == ActFn::JumpRelu) {
            return 0.0;
        }
        let row = |h: &Vec<f64>| {
            let one = |i: usize| {
                let g = if self.gated && self.loss.lp_gated { h[i] * at.n[i] } else { h[i] };
                (at.theta[i] - g).max(0.0) * at.n[i]
            };
            (0..self.s).map(one).sum()
        };
        f64::from(self.c.lp) * self.mean(at.h.iter().map(row))
    }

    fn auxiliary(&self, p: &[Vec<f64>], z: &Frozen, at: &Forward, error: &[Vec<f64>]) -> f64 {
        if !self.loss.auxk || !self.dead.contains(&true) {
            return 0.0;
        }
        let error = if self.loss.auxk_detached { &z.error } else { error };
        let a = self.codes(at, z, &z.dead_passes, true);
        let row = |(a, e): (&Vec<f64>, &Vec<f64>)| {
            let rest: Vec<f64> = e.iter().zip(self.decode(p, a, false)).map(|(e, e_hat)| e - e_hat).collect();
            dot(&rest, &rest)
        };
        // `z.error` is empty only while freezing, which does not come here.
        f64::from(self.c.auxk) * self.mean(a.iter().zip(error).map(row))
    }
}
