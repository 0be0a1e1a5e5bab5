//! Starting values (VARIANTS §9 "Initialisation"): random ones, and those taken from the attention layer of the language model
//! that the dictionary replaces.

use super::attend::Heads;
use crate::{
    Error, Result,
    dictionary::{
        ModelAttention, Param, RandomInit,
        coder::{RandomParts, set_row_norms},
        subspace,
    },
};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, RandomKind, Tensor, View};

const F32: DType = DType::F32;

/// `W_O ~ N(0, 1/√d)`.
pub(super) fn decoder(q: &mut Queue, init: &RandomInit, part: u64, w_o: &mut Param) -> Result<()> {
    let deviation = 1.0 / (w_o.value.cols() as f32).sqrt();
    w_o.random(q, RandomKind::Normal, (0.0, deviation), init.seed, part)
}

impl Heads {
    /// Queries and keys uniform as Xavier has it for the three axes of the checkpoint's tensor, `W_V ~ N(0, 1/√S)`, biases 0,
    /// gains 1.
    pub fn init_random(&mut self, q: &mut Queue, init: &RandomInit, parts: &mut RandomParts) -> Result<()> {
        let g = &self.geometry;
        let (features, d) = (self.w_v.whole[0], self.w_v.value.cols());
        // fan_in = d·d_qk, fan_out = n_qk·d_qk
        let bound = (6.0 / ((d + self.query.w.whole[0]) * g.d_qk) as f32).sqrt();
        for side in [&mut self.query, &mut self.key] {
            side.w.random(q, RandomKind::Uniform, (-bound, bound), init.seed, parts.take())?;
            q.fill(&mut side.b.value, 0.0)?;
            if let Some(gain) = &mut side.gain {
                q.fill(&mut gain.value, 1.0)?;
            }
        }
        let deviation = 1.0 / (features as f32).sqrt();
        self.w_v.random(q, RandomKind::Normal, (0.0, deviation), init.seed, parts.take())?;
        Ok(q.fill(&mut self.b_v.value, 0.0)?)
    }

    /// Queries and keys of the model's attention, each head repeated for the QK heads that start from it, so that on inputs
    /// multiplied by `a` the patterns are the model's. Biases are taken too: without them the patterns would be others.
    pub fn take_queries_and_keys(&mut self, q: &mut Queue, from: &ModelAttention, a: f32) -> Result<()> {
        let g = &self.geometry;
        let refuse = |key: &str, what: String| Err(Error::setting(format!("sae.{key}"), what));
        let (all, first) = (self.query.w.whole[0], first_entry(&self.query.w));
        if !all.is_multiple_of(from.n_heads) {
            return refuse(
                "n_qk_heads",
                format!("{all} is no multiple of the model's {} heads", from.n_heads),
            );
        }
        if g.d_qk != from.d_head {
            return refuse("d_qk_head", format!("is {}, the model's heads are {} wide", g.d_qk, from.d_head));
        }
        if g.qk_norm.is_some() != from.q_gain.is_some() || g.qk_norm.is_some() != from.k_gain.is_some() {
            let has = if from.q_gain.is_some() { "has" } else { "does not have" };
            return refuse("use_post_qk_ln", format!("must be as in the model, which {has} it"));
        }
        if (g.scale - from.scale).abs() > 1e-5 * from.scale {
            return refuse("attn_scale", format!("must be {}, the model's", 1.0 / from.scale));
        }
        let sides = [
            (&mut self.query, &from.w_q, &from.b_q, &from.q_gain),
            (&mut self.key, &from.w_k, &from.b_k, &from.k_gain),
        ];
        for (side, w, b, gain) in sides {
            repeat_heads(q, w.view(), from.n_heads, (first, all), &mut side.w.value)?;
            q.map_in_place(MapKind::Affine, 1.0 / a, 0.0, &mut side.w.value)?;
            match b {
                Some(b) => {
                    let b = b.view().reshaped(from.n_heads, g.d_qk);
                    repeat_heads(q, b, from.n_heads, (first, all), &mut side.b.value)?;
                }
                None => q.fill(&mut side.b.value, 0.0)?,
            }
            if let (Some(gain), Some(from)) = (&mut side.gain, gain) {
                for head in 0..g.n_qk {
                    q.copy(from, gain.value.rows_mut(head..head + 1))?;
                }
            }
        }
        Ok(())
    }

    /// Values and outputs confined, head by head of the model, to the directions in which the model's own values of inputs
    /// `x [B, d]` vary most; rows of both get norm 1.
    pub fn take_value_subspace(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        from: &ModelAttention,
        w_o: &mut Tensor,
    ) -> Result<()> {
        let (s, d, k) = (self.w_v.whole[0], w_o.cols(), self.geometry.d_qk);
        let (first, here) = (first_entry(&self.w_v), w_o.rows());
        if !s.is_multiple_of(from.n_heads) {
            let what = format!("{s} features cannot be shared among the model's {} heads", from.n_heads);
            return Err(Error::setting("sae.expansion_factor", what));
        }
        if k > from.d_head {
            let what = format!("is {k}, more than the {} directions of a model's head", from.d_head);
            return Err(Error::setting("sae.d_qk_head", what));
        }
        let share = s / from.n_heads;
        let mut values = q.empty(x.rows(), from.d_head, F32)?;
        let mut back = q.empty(x.rows(), d, F32)?;
        for head in 0..from.n_heads {
            let part = head * from.d_head..(head + 1) * from.d_head;
            let (w_v, w_out) = (from.w_v.rows_view(part.clone()), from.w_o.rows_view(part));
            // v = x·W_V^m, seen from the residual stream: v·W_V^mᵀ
            q.gemm(x, w_v, &mut values, GemmOpts { tb: true, ..Default::default() })?;
            q.gemm(&values, w_v, &mut back, GemmOpts::default())?;
            let p = subspace::principal_directions(q, back.view(), k)?;
            let place = |i: usize| i.saturating_sub(first).min(here);
            let features = place(head * share)..place((head + 1) * share);
            let mut confined = q.empty(features.len(), d, F32)?;
            let drawn = self.w_v.value.rows_view(features.clone()).slice_cols(0..k);
            q.gemm(drawn, &p, &mut confined, GemmOpts::default())?;
            q.copy(&confined, self.w_v.value.rows_mut(features.clone()))?;
            // W_O = W_V·W_V^m·W_O^m
            let mut inner = q.empty(features.len(), from.d_head, F32)?;
            q.gemm(&confined, w_v, &mut inner, GemmOpts { tb: true, ..Default::default() })?;
            q.gemm(&inner, w_out, w_o.rows_mut(features), GemmOpts::default())?;
        }
        set_row_norms(q, &mut self.w_v.value, 1.0, true)?;
        set_row_norms(q, w_o, 1.0, true)
    }
}

/// The first entry of the first axis that is here.
fn first_entry(p: &Param) -> usize {
    p.cuts.iter().find(|c| c.axis == 0).and_then(|c| c.ranges.first()).map_or(0, |r| r.start)
}

/// Each of `heads` equal stretches of the rows of `w`, as often as it takes for `all` in all; those from `first` on fill `to`.
fn repeat_heads(
    q: &mut Queue,
    w: View<'_>,
    heads: usize,
    (first, all): (usize, usize),
    to: &mut Tensor,
) -> Result<()> {
    let height = w.rows() / heads;
    let each = all / heads;
    for head in 0..to.rows() / height {
        let from = (first + head) / each * height;
        q.copy(w.slice_rows(from..from + height), to.rows_mut(head * height..(head + 1) * height))?;
    }
    Ok(())
}
