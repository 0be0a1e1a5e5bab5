//! Encoders written once more, in f64 and for clarity only: from parameters, laid out as the device holds them, and inputs to
//! pre-activations. VARIANTS §6, §9.

use serde_json::{Value, json};

/// Which encoder a dictionary under test has.
#[derive(Clone, Copy, Debug)]
pub enum Encoder {
    /// `W_E, b_E`, with a gate also `W_E_glu, b_E_glu`.
    Linear { glu: bool },
    /// `W_E, b_gate, r_mag, b_mag` of a gated SAE.
    Gate,
    /// `W_Q, W_K, b_Q, b_K, W_V, b_V`, with a norm also `ln_q.w, ln_k.w`.
    Attention(Heads),
}

/// An attention encoder.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub n_qk: usize,
    pub d_qk: usize,
    /// Tokens of a context.
    pub len: usize,
    pub rotary_dim: usize,
    pub adjacent: bool,
    pub repeat: usize,
    pub norm: bool,
    pub attn_scale: f64,
}

/// Base of the rotary wavelengths, and eps of the norm.
const BASE: f64 = 50.0;
const EPS: f64 = 0.01;

/// Row i of the map with weights and biases at two places of the list of parameters.
type Linear<'a> = &'a dyn Fn(usize, usize, &[f64], usize) -> f64;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Encoder {
    /// The variant's settings beside hook points.
    pub fn settings(&self) -> Value {
        match self {
            Self::Linear { glu } => json!({"sae_type": "sae", "use_glu_encoder": glu}),
            Self::Gate => json!({"sae_type": "gated"}),
            Self::Attention(h) => json!({
                "sae_type": "lorsa", "n_qk_heads": h.n_qk, "d_qk_head": h.d_qk, "n_ctx": h.len + 3,
                "positional_embedding_type": if h.rotary_dim > 0 { "rotary" } else { "none" },
                "rotary_dim": h.rotary_dim, "rotary_base": BASE, "rotary_adjacent_pairs": h.adjacent,
                "rotary_scale": h.repeat, "attn_scale": h.attn_scale, "use_post_qk_ln": h.norm,
                "normalization_type": if h.norm { Some("RMS") } else { None }, "eps": EPS,
            }),
        }
    }

    /// How many parameters come before the decoder's.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Linear { glu } => 2 + 2 * usize::from(*glu),
            Self::Gate => 4,
            Self::Attention(h) => 6 + 2 * usize::from(h.norm),
        }
    }

    /// Tokens of a context, for an encoder that reads contexts.
    pub fn context(&self) -> Option<usize> {
        match self {
            Self::Linear { .. } | Self::Gate => None,
            Self::Attention(h) => Some(h.len),
        }
    }

    /// Activations `[B, s]` of a gate beside h.
    pub fn side(&self, p: &[Vec<f64>], x: &[Vec<f64>], s: usize) -> Option<Vec<Vec<f64>>> {
        let one =
            |row: &[f64], i: usize| (dot(row, &p[0][i * row.len()..(i + 1) * row.len()]) + p[1][i]).max(0.0);
        matches!(self, Self::Gate)
            .then(|| x.iter().map(|row| (0..s).map(|i| one(row, i)).collect()).collect())
    }

    /// `h [B, s]` of `x [B, d]`.
    pub fn hidden(&self, p: &[Vec<f64>], x: &[Vec<f64>], s: usize) -> Vec<Vec<f64>> {
        let linear = |w: usize, b: usize, row: &[f64], i: usize| {
            dot(row, &p[w][i * row.len()..(i + 1) * row.len()]) + p[b][i]
        };
        match self {
            Self::Linear { glu } => {
                let one = |row: &[f64], i| {
                    let factor = if *glu { 1.0 / (1.0 + (-linear(2, 3, row, i)).exp()) } else { 1.0 };
                    linear(0, 1, row, i) * factor
                };
                x.iter().map(|row| (0..s).map(|i| one(row, i)).collect()).collect()
            }
            Self::Gate => {
                let one = |row: &[f64], i| {
                    let magnitude = (linear(0, 1, row, i) - p[1][i]) * p[2][i].exp() + p[3][i];
                    if linear(0, 1, row, i) > 0.0 { magnitude } else { 0.0 }
                };
                x.iter().map(|row| (0..s).map(|i| one(row, i)).collect()).collect()
            }
            Self::Attention(h) => x.chunks(h.len).flat_map(|x| h.context(p, x, s, &linear)).collect(),
        }
    }
}

impl Heads {
    /// `z [T, s]` of one context.
    fn context(&self, p: &[Vec<f64>], x: &[Vec<f64>], s: usize, linear: Linear<'_>) -> Vec<Vec<f64>> {
        let side = |(w, b, gain): (usize, usize, usize), t: usize, head: usize| {
            let mut u: Vec<f64> = (0..self.d_qk).map(|e| linear(w, b, &x[t], head * self.d_qk + e)).collect();
            if self.norm {
                let scale = (dot(&u, &u) / self.d_qk as f64 + EPS).sqrt();
                let gain = &p[gain][head * self.d_qk..];
                u.iter_mut().zip(gain).for_each(|(u, g)| *u *= g / scale);
            }
            let mut u: Vec<f64> = u.into_iter().flat_map(|u| vec![u; self.repeat]).collect();
            for j in 0..self.rotary_dim / 2 {
                let (a, b) = if self.adjacent { (2 * j, 2 * j + 1) } else { (j, j + self.rotary_dim / 2) };
                let angle = t as f64 / BASE.powf(2.0 * j as f64 / self.rotary_dim as f64);
                let (sin, cos) = angle.sin_cos();
                (u[a], u[b]) = (u[a] * cos - u[b] * sin, u[b] * cos + u[a] * sin);
            }
            u
        };
        let one = |t: usize, i: usize| {
            let head = i / (s / self.n_qk);
            let query = side((0, 2, 6), t, head);
            let score = |k: usize| (dot(&query, &side((1, 3, 7), k, head)) / self.attn_scale).exp();
            let scores: Vec<f64> = (0..=t).map(score).collect();
            let sum: f64 = scores.iter().sum();
            (0..=t).map(|k| scores[k] / sum * linear(4, 5, &x[k], i)).sum()
        };
        (0..x.len()).map(|t| (0..s).map(|i| one(t, i)).collect()).collect()
    }
}
