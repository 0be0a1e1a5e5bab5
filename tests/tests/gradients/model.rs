//! The loss of a dictionary written once more, in f64 and for clarity only (VARIANTS §5). Discrete choices
//! (which entries pass) and quantities that count as constants are frozen at the point of interest, so that the loss is
//! smooth there and central differences give exactly the gradient that is specified. A JumpReLU threshold enters through
//! the ramp its window stands for.

use super::encoders::Encoder;
use lm_saes::{dictionary::Coefficients, training::SparsityLoss};
use lm_saes::{settings::ActFn, training::LossSettings};

/// What only some SAEs have.
#[derive(Clone, Debug, Default)]
pub struct Forms {
    pub skip: bool,
    /// The encoder sees x − b_D.
    pub centred: bool,
    /// Thresholds themselves are parameters, not their logarithms.
    pub direct: bool,
    /// Prefixes that reconstruct; none: only all features do.
    pub widths: Vec<usize>,
}

/// Everything but the parameters.
pub struct Model {
    pub d: usize,
    pub s: usize,
    pub act: ActFn,
    pub gated: bool,
    pub encoder: Encoder,
    pub forms: Forms,
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
    /// `W_D, [b_D], …`, through which a gate reconstructs.
    decoder: Vec<Vec<f64>>,
}

/// One evaluation's intermediate results.
struct Forward {
    h: Vec<Vec<f64>>,
    /// Activations of a gate.
    side: Option<Vec<Vec<f64>>>,
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

    /// Where the decoder is in the list of the encoder's parameters, `W_D, [b_D], [W_skip], [log θ or θ]`.
    fn w_d_at(&self) -> usize {
        self.encoder.parameters()
    }

    fn forward(&self, p: &[Vec<f64>]) -> Forward {
        let n = (0..self.s)
            .map(|i| dot(self.row(&p[self.w_d_at()], i), self.row(&p[self.w_d_at()], i)).sqrt())
            .collect();
        let theta = match self.act {
            ActFn::JumpRelu if self.forms.direct => p[p.len() - 1].clone(),
            ActFn::JumpRelu => p[p.len() - 1].iter().map(|t| t.exp()).collect(),
            _ => vec![0.0; self.s],
        };
        let seen = |x: &Vec<f64>| match self.forms.centred {
            true => x.iter().zip(&p[self.w_d_at() + 1]).map(|(x, b)| x - b).collect(),
            false => x.clone(),
        };
        let x: Vec<Vec<f64>> = self.x.iter().map(seen).collect();
        let (h, side) = (self.encoder.hidden(p, &x, self.s), self.encoder.side(p, &x, self.s));
        Forward { h, side, n, theta }
    }

    /// Entries of g that pass, with a budget of k a row in so many groups of features.
    fn choose(&self, g: &[Vec<f64>], theta: &[f64], k: usize, groups: usize) -> Vec<Vec<bool>> {
        let rank = |g: f64| if self.act == ActFn::AbsTopK { g.abs() } else { g };
        let mut all: Vec<(f64, usize, usize)> = Vec::new();
        for (r, row) in g.iter().enumerate() {
            let ranked = row.iter().map(|&g| rank(g)).enumerate();
            all.extend(ranked.filter(|(_, g)| *g > 0.0).map(|(i, g)| (g, r, i)));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut left_in_row = vec![vec![k / groups; groups]; g.len()];
        let mut left = k * g.len();
        let mut passes = vec![vec![false; self.s]; g.len()];
        for (g, r, i) in all {
            let group = i * groups / self.s;
            passes[r][i] = match self.act {
                ActFn::Relu => true,
                ActFn::JumpRelu => g > theta[i],
                ActFn::TopK | ActFn::AbsTopK | ActFn::GroupMax => left_in_row[r][group] > 0,
                ActFn::BatchTopK => left > 0,
                _ => unreachable!("no activation of this model"),
            };
            left_in_row[r][group] = left_in_row[r][group].saturating_sub(1);
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
        let groups = if self.act == ActFn::GroupMax { self.c.k } else { 1 };
        let mut frozen = Frozen {
            passes: self.choose(&g, &at.theta, self.c.k, groups),
            dead_passes: self.choose(&dead_g, &at.theta, k_aux, 1),
            theta: at.theta.clone(),
            g,
            n,
            error: Vec::new(),
            decoder: p[self.w_d_at()..].to_vec(),
        };
        let f = self.codes(&at, &frozen, &frozen.passes, false);
        frozen.error = self.errors(p, &f, self.s);
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

    /// y − ŷ of every row, with the first `width` features.
    fn errors(&self, p: &[Vec<f64>], f: &[Vec<f64>], width: usize) -> Vec<Vec<f64>> {
        let skip = |x: &[f64], j: usize| match self.forms.skip {
            true => {
                let w = &p[self.w_d_at() + 1 + usize::from(self.decoder_bias)];
                (0..self.d).map(|i| x[i] * w[i * self.d + j]).sum()
            }
            false => 0.0,
        };
        let row = |r: usize| {
            let kept = |(i, &f): (usize, &f64)| if i < width { f } else { 0.0 };
            let y_hat = self.decode(p, &f[r].iter().enumerate().map(kept).collect::<Vec<_>>(), true);
            (0..self.d).map(|j| self.y[r][j] - y_hat[j] - skip(&self.x[r], j)).collect()
        };
        (0..f.len()).map(row).collect()
    }

    fn mean(&self, rows: impl Iterator<Item = f64>) -> f64 {
        rows.zip(&self.weight).map(|(v, w)| v * w).sum()
    }

    /// `[l_rec, l_s, l_p, l_aux]`; their sum is the loss.
    pub fn terms(&self, p: &[Vec<f64>], z: &Frozen) -> [f64; 4] {
        let at = self.forward(p);
        let f = self.codes(&at, z, &z.passes, false);
        let error = self.errors(p, &f, self.s);
        let loss_at = |width| self.mean(self.errors(p, &f, width).iter().map(|e| dot(e, e)));
        let widths = if self.forms.widths.is_empty() { vec![self.s] } else { self.forms.widths.clone() };
        let l_rec = widths.iter().map(|&w| loss_at(w)).sum::<f64>() / widths.len() as f64;
        let penalised = at.side.as_ref().unwrap_or(&f);
        let l_s = self.loss.sparsity.map_or(0.0, |kind| self.sparsity(kind, z, penalised, &at));
        let l_aux = match &at.side {
            Some(side) => self.side_loss(z, side),
            None => self.auxiliary(p, z, &at, &error),
        };
        [l_rec, l_s, self.threshold_penalty(&at), l_aux]
    }

    /// What a gate's activations reconstruct through the decoder as it was.
    fn side_loss(&self, z: &Frozen, side: &[Vec<f64>]) -> f64 {
        let row = |(g, y): (&Vec<f64>, &Vec<f64>)| {
            let one = |j: usize| {
                let bias = if self.decoder_bias { z.decoder[1][j] } else { 0.0 };
                bias + (0..self.s).map(|i| g[i] * z.decoder[0][i * self.d + j]).sum::<f64>()
            };
            (0..self.d).map(|j| (y[j] - one(j)).powi(2)).sum::<f64>()
        };
        self.mean(side.iter().zip(&self.y).map(row))
    }

    /// Active entries of a row, with the slope in θ of the ramp the window stands for.
    fn l0(&self, z: &Frozen, at: &Forward) -> f64 {
        let ramp = |z: f64| (z / self.window + 0.5).clamp(0.0, 1.0);
        let row = |(g, passes): (&Vec<f64>, &Vec<bool>)| {
            let one = |i: usize| {
                let moved = ramp(g[i] - at.theta[i]) - ramp(g[i] - z.theta[i]);
                f64::from(u8::from(passes[i])) + if g[i] > 0.0 { moved } else { 0.0 }
            };
            (0..self.s).map(one).sum()
        };
        self.mean(z.g.iter().zip(&z.passes).map(row))
    }

    fn sparsity(&self, kind: SparsityLoss, z: &Frozen, f: &[Vec<f64>], at: &Forward) -> f64 {
        // To a gate the norms are constants.
        let held: Vec<f64> = z.decoder[0].chunks(self.d).map(|w| dot(w, w).sqrt()).collect();
        let n = if at.side.is_some() { &held } else { &at.n };
        let (l1, c) = (f64::from(self.c.l1), f64::from(self.loss.tanh_stretch));
        let u: Vec<Vec<f64>> = f.iter().map(|f| f.iter().zip(n).map(|(f, n)| f * n).collect()).collect();
        let exponent = f64::from(self.loss.p);
        // The slope of |u| at 0 counts as 0: entries that do not pass are left out, also where the ramp moves them.
        let kept: Vec<Vec<bool>> = match at.side {
            Some(_) => f.iter().map(|f| f.iter().map(|f| *f > 0.0).collect()).collect(),
            None => z.passes.clone(),
        };
        let sum = |(u, passes): (&Vec<f64>, &Vec<bool>)| {
            let kept = u.iter().zip(passes).filter(|(_, passes)| **passes);
            kept.map(|(u, _)| u.powf(exponent)).sum::<f64>()
        };
        let tanh = |u: &Vec<f64>| u.iter().map(|u| (c * u).tanh()).sum();
        match kind {
            SparsityLoss::Power => {
                l1 * self.mean(u.iter().zip(&kept).map(|row| sum(row).powf(1.0 / exponent)))
            }
            SparsityLoss::PowerSum => l1 * self.mean(u.iter().zip(&kept).map(sum)),
            SparsityLoss::TargetL0 => l1 * (self.l0(z, at) / f64::from(self.loss.target_l0) - 1.0).powi(2),
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
