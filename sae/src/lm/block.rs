//! One block of the forward. It does the least work that the wanted hooks allow: where no hook looks, biases, activations and
//! residual additions ride in the products' epilogues, and the MLP goes through its rows in pieces.

use super::{
    architecture::{Activation, LayerKind, NormKind, Positions, QkNorm},
    forward::Pass,
    hooks::Halt,
    parameters::{Block, Linear, NormWeights},
};
use crate::Result;
use lm_saes_runtime::{Act, AttentionArgs, DType, GemmOpts, MapKind, NormArgs, Tensor, View};
use std::ops::Range;

/// Rows of the MLP done at once where no hook needs all of them. It bounds the hidden layer's memory (25 MB at d_mlp 3072) and
/// costs nothing measurable against one product over 4096 rows.
const MLP_ROWS: usize = 2048;

impl Pass<'_, '_> {
    /// Runs block `i` on the residual stream `[N, d_model]`.
    pub(super) fn block(&mut self, i: usize, resid: &mut Tensor) -> Result<(), Halt> {
        let lm = self.lm;
        let (a, w) = (&lm.arch, &lm.blocks[i]);
        let at = |hook: &str| format!("blocks.{i}.{hook}");
        self.hook(&at("hook_resid_pre"), resid)?;
        let x1 = match &w.ln1 {
            Some(ln) => Some(self.norm(ln, &at("ln1"), resid)?),
            None => None,
        };
        let z = self.attention(w, a.layers[i], &at("attn."), x1.as_ref().unwrap_or(resid))?;
        // In a parallel block the MLP reads the residual stream from before the attention's output.
        let mut x2 = if a.parallel { self.mlp_input(i, x1, resid)? } else { None };
        let out = [at("ln1_post"), at("hook_attn_out")];
        self.write(&z, &w.o, w.ln1_post.as_ref(), out, 0..z.rows(), resid)?;
        drop(z);
        if !a.parallel {
            self.hook(&at("hook_resid_mid"), resid)?;
            x2 = self.mlp_input(i, None, resid)?;
        }
        self.mlp(i, x2, resid)?;
        self.hook(&at("hook_resid_post"), resid)
    }

    /// What the MLP reads, when it is not the residual stream itself. `x1`: the attention's input in a parallel block.
    fn mlp_input(&mut self, i: usize, x1: Option<Tensor>, resid: &Tensor) -> Result<Option<Tensor>, Halt> {
        let w = &self.lm.blocks[i];
        let name = format!("blocks.{i}.ln2");
        match (&w.ln2, &w.ln1) {
            (Some(ln2), _) => self.norm(ln2, &name, resid).map(Some),
            // One norm for both: `ln2` names the same values, computed apart only where someone looks at that name.
            (None, Some(shared)) => {
                let looked_at = ["hook_scale", "hook_normalized"]
                    .iter()
                    .any(|hook| self.hooks.wants(&format!("{name}.{hook}")));
                if looked_at { self.norm(shared, &name, resid).map(Some) } else { Ok(x1) }
            }
            (None, None) => Ok(None),
        }
    }

    /// `resid += norm?(x·Wᵀ + b)`; hooks: the post-norm's prefix and the name of what is added.
    fn write(
        &mut self,
        x: &Tensor,
        w: &Linear<Tensor>,
        post: Option<&NormWeights<Tensor>>,
        [post_name, out_name]: [String; 2],
        rows: Range<usize>,
        resid: &mut Tensor,
    ) -> Result<(), Halt> {
        let bias = w.b.as_ref().map(Tensor::view);
        if post.is_none() && !self.hooks.wants(&out_name) {
            let opts = GemmOpts { tb: true, bias, beta: 1.0, ..GemmOpts::default() };
            self.q.gemm(x, &w.w, resid.rows_mut(rows), opts)?;
            return Ok(());
        }
        let mut out = self.linear(x.view(), w, Act::None)?;
        if let Some(ln) = post {
            out = self.norm(ln, &post_name, &out)?;
        }
        self.hook(&out_name, &mut out)?;
        Ok(self.q.zip_in_place(MapKind::Add, &out, 1.0, 1.0, resid.rows_mut(rows))?)
    }

    /// `act(x·Wᵀ + b)`.
    fn linear(&mut self, x: View<'_>, w: &Linear<Tensor>, act: Act) -> Result<Tensor> {
        let mut y = self.q.empty(x.rows(), w.w.rows(), DType::F32)?;
        let bias = w.b.as_ref().map(Tensor::view);
        self.q.gemm(x, &w.w, &mut y, GemmOpts { tb: true, bias, act, ..GemmOpts::default() })?;
        Ok(y)
    }

    /// A norm with its hooks `{at}.hook_scale` and `{at}.hook_normalized`: the latter after gain and bias for LayerNorm, before
    /// the gain for RMSNorm, as TransformerLens has it.
    pub(super) fn norm(&mut self, w: &NormWeights<Tensor>, at: &str, x: &Tensor) -> Result<Tensor, Halt> {
        let a = &self.lm.arch;
        let (scale_name, out_name) = (format!("{at}.hook_scale"), format!("{at}.hook_normalized"));
        let rms = a.norm == NormKind::Rms;
        let (gain, bias) = (w.gain.as_ref().map(Tensor::view), w.bias.as_ref().map(Tensor::view));
        let mut y = self.q.empty(x.rows(), x.cols(), DType::F32)?;
        let mut scale =
            if self.hooks.wants(&scale_name) { Some(self.q.empty(x.rows(), 1, DType::F32)?) } else { None };
        // Whether a hook looks between the division and the gain.
        let split = self.hooks.edits(&scale_name) || (rms && self.hooks.wants(&out_name));
        let mut args = NormArgs { rms, eps: a.norm_eps, gain: None, gain_offset: 0.0, bias: None };
        if !split {
            (args.gain, args.bias) = (gain, bias);
        }
        self.q.norm(x, args, &mut y, scale.as_mut().map(Tensor::view_mut))?;
        if let Some(s) = &mut scale {
            if self.hooks.edits(&scale_name) {
                self.q.zip_in_place(MapKind::Mul, &*s, 1.0, 0.0, &mut y)?;
                self.hook(&scale_name, s)?;
                self.q.zip_in_place(MapKind::Div, &*s, 1.0, 0.0, &mut y)?;
            } else {
                self.hook(&scale_name, s)?;
            }
        }
        if rms {
            self.hook(&out_name, &mut y)?;
        }
        if let Some(gain) = gain.filter(|_| split) {
            self.q.zip_in_place(MapKind::Mul, gain, 1.0, 0.0, &mut y)?;
        }
        if let Some(bias) = bias.filter(|_| split) {
            self.q.zip_in_place(MapKind::Add, bias, 1.0, 1.0, &mut y)?;
        }
        if !rms {
            self.hook(&out_name, &mut y)?;
        }
        Ok(y)
    }

    /// Mixed values of all heads `z [N, heads·d_head]`. Names: `blocks.{i}.attn.`.
    fn attention(
        &mut self,
        w: &Block<Tensor>,
        kind: LayerKind,
        at: &str,
        x: &Tensor,
    ) -> Result<Tensor, Halt> {
        let a = &self.lm.arch;
        let name = |hook: &str| format!("{at}{hook}");
        let mut query = self.linear(x.view(), &w.q, Act::None)?;
        self.hook(&name("hook_q"), &mut query)?;
        let mut key = self.linear(x.view(), &w.k, Act::None)?;
        self.hook(&name("hook_k"), &mut key)?;
        let mut value = self.linear(x.view(), &w.v, Act::None)?;
        self.hook(&name("hook_v"), &mut value)?;
        query = self.qk_norm(query, w.q_norm.as_ref())?;
        key = self.qk_norm(key, w.k_norm.as_ref())?;
        if let Positions::Rotary(tables) = &a.positions {
            let adjacent = tables[kind.rotary].adjacent;
            let (cos, sin) = &self.rotary[kind.rotary];
            self.q.rope(&mut query, &self.pos, (cos, sin), a.d_head, adjacent)?;
            self.q.rope(&mut key, &self.pos, (cos, sin), a.d_head, adjacent)?;
            self.hook(&name("hook_rot_q"), &mut query)?;
            self.hook(&name("hook_rot_k"), &mut key)?;
        }
        let mut z = self.empty(a.n_heads * a.d_head)?;
        let mut pattern = if self.hooks.wants(&name("hook_pattern")) {
            Some(self.q.empty(self.rows() * a.n_heads, self.len, DType::F32)?)
        } else {
            None
        };
        let args = AttentionArgs {
            batch: self.batch,
            len: self.len,
            heads: a.n_heads,
            kv_heads: a.n_kv_heads,
            d_head: a.d_head,
            d_value: a.d_head,
            window: kind.window,
            scale: kind.scale,
            soft_cap: a.score_cap,
        };
        self.q.attention(&query, &key, &value, &mut z, pattern.as_mut().map(Tensor::view_mut), args)?;
        if let Some(p) = &mut pattern {
            let edited = self.hooks.edits(&name("hook_pattern"));
            self.hook(&name("hook_pattern"), p)?;
            if edited {
                self.mix(p, &value, &mut z)?;
            }
        }
        self.hook(&name("hook_z"), &mut z)?;
        Ok(z)
    }

    fn qk_norm(&mut self, x: Tensor, gain: Option<&Tensor>) -> Result<Tensor> {
        let a = &self.lm.arch;
        let Some(gain) = gain else { return Ok(x) };
        let cols = if a.qk_norm == QkNorm::Head { a.d_head } else { x.cols() };
        let (rows, full) = (x.len() / cols, x.cols());
        let mut y = self.q.empty(x.rows(), full, DType::F32)?;
        let args =
            NormArgs { rms: true, eps: a.norm_eps, gain: Some(gain.view()), gain_offset: 0.0, bias: None };
        self.q.norm(x.view().reshaped(rows, cols), args, y.view_mut().reshaped(rows, cols), None)?;
        Ok(y)
    }

    /// `z = pattern·value` head by head, for a pattern that was replaced.
    fn mix(&mut self, pattern: &Tensor, value: &Tensor, z: &mut Tensor) -> Result<()> {
        let a = &self.lm.arch;
        let (len, d) = (self.len, a.d_head);
        for b in 0..self.batch {
            for h in 0..a.n_heads {
                let kv = h / (a.n_heads / a.n_kv_heads);
                let first = (b * a.n_heads + h) * len;
                let tokens = b * len..(b + 1) * len;
                self.q.gemm(
                    pattern.rows_view(first..first + len),
                    value.rows_view(tokens.clone()).slice_cols(kv * d..(kv + 1) * d),
                    z.rows_mut(tokens).slice_cols(h * d..(h + 1) * d),
                    GemmOpts::default(),
                )?;
            }
        }
        Ok(())
    }

    /// Adds the MLP of block `i` to the residual stream; `x` is its input where that is not the stream itself.
    fn mlp(&mut self, i: usize, mut x: Option<Tensor>, resid: &mut Tensor) -> Result<(), Halt> {
        let lm = self.lm;
        let w = &lm.blocks[i];
        let at = |hook: &str| format!("blocks.{i}.{hook}");
        let out = [at("ln2_post"), at("hook_mlp_out")];
        let watched = ["mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "hook_mlp_out"]
            .iter()
            .any(|hook| self.hooks.wants(&at(hook)));
        if self.hooks.wants(&at("mlp.hook_in")) {
            let mut input = match x.take() {
                Some(x) => x,
                None => {
                    let mut copy = self.q.empty(resid.rows(), resid.cols(), DType::F32)?;
                    self.q.copy(&*resid, &mut copy)?;
                    copy
                }
            };
            self.hook(&at("mlp.hook_in"), &mut input)?;
            x = Some(input);
        }
        let n = self.rows();
        let step = if watched || w.ln2_post.is_some() { n } else { MLP_ROWS };
        for start in (0..n).step_by(step) {
            let rows = start..n.min(start + step);
            let input = x.as_ref().unwrap_or(resid).rows_view(rows.clone());
            let post = self.mlp_hidden(w, &at("mlp."), input)?;
            self.write(&post, &w.mlp_out, w.ln2_post.as_ref(), out.clone(), rows, resid)?;
        }
        Ok(())
    }

    /// What the MLP of block `i` adds to the stream for `x [n, d_model]`, `[n, d_model]`; `x` is the stream itself, or else what
    /// `ln2.hook_normalized` gives.
    pub(super) fn mlp_of(&mut self, i: usize, x: View<'_>, of_stream: bool) -> Result<Tensor, Halt> {
        let lm = self.lm;
        let w = &lm.blocks[i];
        let ln = w.ln2.as_ref().or(w.ln1.as_ref().filter(|_| lm.arch.parallel));
        let mut out = self.q.empty(x.rows(), lm.arch.d_model, DType::F32)?;
        for start in (0..x.rows()).step_by(MLP_ROWS) {
            let rows = start..x.rows().min(start + MLP_ROWS);
            let mut part = self.q.empty(rows.len(), x.cols(), DType::F32)?;
            self.q.copy(x.slice_rows(rows.clone()), &mut part)?;
            match ln {
                Some(ln) if of_stream => part = self.norm(ln, "", &part)?,
                // RMS norms are observed before their gain.
                Some(NormWeights { gain: Some(gain), .. }) if lm.arch.norm == NormKind::Rms => {
                    self.q.zip_in_place(MapKind::Mul, gain, 1.0, 0.0, &mut part)?;
                }
                _ => {}
            }
            let post = self.mlp_hidden(w, "", part.view())?;
            let mut part = self.linear(post.view(), &w.mlp_out, Act::None)?;
            if let Some(ln) = &w.ln2_post {
                part = self.norm(ln, "", &part)?;
            }
            self.q.copy(&part, out.rows_mut(rows))?;
        }
        Ok(out)
    }

    /// The input of the MLP's output map, `[rows of x, d_mlp]`. Names: `blocks.{i}.mlp.`.
    fn mlp_hidden(&mut self, w: &Block<Tensor>, at: &str, x: View<'_>) -> Result<Tensor, Halt> {
        let name = |hook: &str| format!("{at}{hook}");
        let kind = self.lm.arch.activation;
        let mut hidden;
        if let Some(gate) = &w.mlp_gate {
            hidden = self.linear(x, gate, Act::None)?;
            self.hook(&name("hook_pre"), &mut hidden)?;
            let mut linear = self.linear(x, &w.mlp_in, Act::None)?;
            self.hook(&name("hook_pre_linear"), &mut linear)?;
            let fused = match kind {
                Activation::Silu => MapKind::SiluMul,
                Activation::GeluTanh => MapKind::GeluTanhMul,
                Activation::GeluErf => MapKind::GeluErfMul,
                Activation::Relu => {
                    self.q.map_in_place(MapKind::Relu, 0.0, 0.0, &mut hidden)?;
                    MapKind::Mul
                }
            };
            self.q.zip_in_place(fused, &linear, 1.0, 0.0, &mut hidden)?;
        } else if self.hooks.wants(&name("hook_pre")) {
            hidden = self.linear(x, &w.mlp_in, Act::None)?;
            self.hook(&name("hook_pre"), &mut hidden)?;
            let map = match kind {
                Activation::Silu => MapKind::Silu,
                Activation::GeluTanh => MapKind::GeluTanh,
                Activation::GeluErf => MapKind::GeluErf,
                Activation::Relu => MapKind::Relu,
            };
            self.q.map_in_place(map, 0.0, 0.0, &mut hidden)?;
        } else {
            let act = match kind {
                Activation::Silu => Act::Silu,
                Activation::GeluTanh => Act::GeluTanh,
                Activation::GeluErf => Act::GeluErf,
                Activation::Relu => Act::Relu,
            };
            hidden = self.linear(x, &w.mlp_in, act)?;
        }
        self.hook(&name("hook_post"), &mut hidden)?;
        Ok(hidden)
    }
}
