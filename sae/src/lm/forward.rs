//! The forward of every family: one pass over `[batch·len]` tokens, causal, without a cache. Right padding needs no mask: a token
//! never sees what comes after it. A pass does the least work that the wanted hooks allow: where no hook looks, biases,
//! activations and residual additions ride in the products' epilogues.

use super::{
    architecture::{Activation, LayerKind, NormKind, Positions, QkNorm},
    hooks::{Edit, Halt, Hooks, Output, Run},
    model::Lm,
    parameters::{Block, Linear, NormWeights},
    rotary,
};
use crate::{Error, Result};
use lm_saes_runtime::{Act, AttentionArgs, DType, GemmOpts, MapKind, NormArgs, Queue, Tensor, View, ViewMut};
use std::ops::Range;

/// Rows of the MLP done at once where no hook needs all of them: bounds its memory and keeps it in cache.
const MLP_ROWS: usize = 1024;

/// Bytes of logits that exist at a time while losses are computed.
const LOGIT_BYTES: usize = 64 << 20;

/// Token ids to run, `batch` sequences of `len`, padded on the right.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[batch·len]`.
    pub ids: &'a [u32],
    /// Sequences.
    pub batch: usize,
    /// Tokens a sequence.
    pub len: usize,
    /// 1 for real tokens, `[batch·len]`; only losses look at it. Absent: all are real.
    pub mask: Option<&'a [u8]>,
}

impl Lm {
    /// Runs the model as far as the wanted hooks and logits need.
    ///
    /// # Errors
    /// [`Error::Hook`] for a hook that does not exist, [`Error::Data`] for tokens the model has no place for.
    pub fn run(&self, q: &mut Queue, tokens: &Tokens<'_>, run: Run<'_>) -> Result<Output> {
        let mut pass = Pass::new(self, q, tokens, run.capture, run.edit, run.logits)?;
        let logits = match pass.logits(run.logits) {
            Ok(logits) => logits,
            Err(Halt::Done) => None,
            Err(Halt::Failed(e)) => return Err(e),
        };
        Ok(Output { captured: pass.hooks.captured, logits })
    }

    /// Next-token losses `[batch·len]`: entry t is the loss of predicting token t + 1 from those up to t. 0 at the last
    /// position and wherever either of the two tokens is masked; [`Tokens::predictions`] counts the others.
    pub fn losses(&self, q: &mut Queue, tokens: &Tokens<'_>, edit: Option<Edit<'_>>) -> Result<Vec<f32>> {
        let mut pass = Pass::new(self, q, tokens, &[], edit, true)?;
        pass.losses(tokens).map_err(|halt| match halt {
            Halt::Failed(e) => e,
            Halt::Done => unreachable!("a pass to the end has no earlier stop"),
        })
    }
}

impl Tokens<'_> {
    /// What each position has to predict, `u32::MAX` for nothing.
    fn targets(&self) -> Vec<u32> {
        let real = |i: usize| self.mask.is_none_or(|m| m[i] == 1);
        (0..self.batch * self.len)
            .map(
                |i| {
                    if (i + 1) % self.len != 0 && real(i) && real(i + 1) { self.ids[i + 1] } else { u32::MAX }
                },
            )
            .collect()
    }

    /// Number of positions with a prediction to score.
    pub fn predictions(&self) -> usize {
        self.targets().iter().filter(|&&t| t != u32::MAX).count()
    }

    fn check(&self, lm: &Lm) -> Result<()> {
        let a = &lm.arch;
        let bad = |what: String| Err(Error::Data { what });
        let n = self.batch.checked_mul(self.len);
        if n != Some(self.ids.len()) || self.ids.is_empty() {
            return bad(format!("{} tokens for {} sequences of {}", self.ids.len(), self.batch, self.len));
        }
        if self.mask.is_some_and(|m| m.len() != self.ids.len()) {
            return bad(format!("a mask for {} tokens needs as many entries", self.ids.len()));
        }
        if self.len > a.n_ctx {
            return bad(format!("sequences of {} tokens; {} takes at most {}", self.len, lm.name(), a.n_ctx));
        }
        match self.ids.iter().find(|&&id| id as usize >= a.d_vocab) {
            Some(id) => bad(format!("token id {id}; the vocabulary of {} has {}", lm.name(), a.d_vocab)),
            None => Ok(()),
        }
    }
}

/// One forward under way. N = batch·len rows.
struct Pass<'a, 'h> {
    lm: &'a Lm,
    q: &'a mut Queue,
    hooks: Hooks<'h>,
    batch: usize,
    len: usize,
    ids: Tensor,
    pos: Tensor,
    /// `(cos, sin)` of each rotary table of the architecture.
    rotary: Vec<(Tensor, Tensor)>,
}

impl<'a, 'h> Pass<'a, 'h> {
    fn new(
        lm: &'a Lm,
        q: &'a mut Queue,
        tokens: &Tokens<'_>,
        capture: &'h [&'h str],
        edit: Option<Edit<'h>>,
        to_the_end: bool,
    ) -> Result<Self> {
        tokens.check(lm)?;
        let edited = edit.as_ref().map_or(&[][..], |e| e.hooks);
        for name in capture.iter().chain(edited) {
            lm.hook_width(name)?;
        }
        let (batch, len) = (tokens.batch, tokens.len);
        let n = batch * len;
        let positions: Vec<u32> = (0..n).map(|i| (i % len) as u32).collect();
        let mut tables = Vec::new();
        if let Positions::Rotary(all) = &lm.arch.positions {
            for r in all {
                let (cos, sin) = rotary::tables(r, len);
                tables.push((q.tensor(len, r.dim / 2, &cos)?, q.tensor(len, r.dim / 2, &sin)?));
            }
        }
        let (ids, pos) = (q.tensor(1, n, tokens.ids)?, q.tensor(1, n, &positions)?);
        let hooks = Hooks::new(capture, edit, to_the_end);
        Ok(Self { lm, q, hooks, batch, len, ids, pos, rotary: tables })
    }

    fn rows(&self) -> usize {
        self.batch * self.len
    }

    fn empty(&mut self, cols: usize) -> Result<Tensor> {
        Ok(self.q.empty(self.rows(), cols, DType::F32)?)
    }

    fn hook(&mut self, name: &str, t: &mut Tensor) -> Result<(), Halt> {
        self.hooks.at(self.q, name, t)
    }

    /// The normalised final residual stream `[N, d_model]`.
    fn final_norm(&mut self) -> Result<Tensor, Halt> {
        let lm = self.lm;
        let mut resid = self.embed()?;
        for i in 0..lm.blocks.len() {
            self.block(i, &mut resid)?;
        }
        self.norm(&lm.outer.ln_final, "ln_final", &resid)
    }

    fn logits(&mut self, wanted: bool) -> Result<Option<Tensor>, Halt> {
        if self.hooks.is_idle() {
            return Ok(None);
        }
        let x = self.final_norm()?;
        if !wanted {
            return Ok(None);
        }
        let mut logits = self.empty(self.lm.arch.d_vocab)?;
        self.unembed(&x, 0..x.rows(), logits.view_mut())?;
        Ok(Some(logits))
    }

    fn losses(&mut self, tokens: &Tokens<'_>) -> Result<Vec<f32>, Halt> {
        let x = self.final_norm()?;
        let n = self.rows();
        let d_vocab = self.lm.arch.d_vocab;
        let chunk = (LOGIT_BYTES / (4 * d_vocab)).next_multiple_of(64).min(n);
        let target = self.q.tensor(1, n, &tokens.targets())?;
        let mut loss = self.q.empty(1, n, DType::F32)?;
        let mut logits = self.q.empty(chunk, d_vocab, DType::F32)?;
        for start in (0..n).step_by(chunk) {
            let rows = start..n.min(start + chunk);
            self.unembed(&x, rows.clone(), logits.rows_mut(0..rows.len()))?;
            self.q.cross_entropy(
                logits.rows_view(0..rows.len()),
                target.view().slice_cols(rows.clone()),
                loss.view_mut().slice_cols(rows),
            )?;
        }
        Ok(self.q.download(&loss)?)
    }

    fn unembed(&mut self, x: &Tensor, rows: Range<usize>, mut logits: ViewMut<'_>) -> Result<()> {
        let (a, outer) = (&self.lm.arch, &self.lm.outer);
        let w = outer.unembed.as_ref().unwrap_or(&outer.embed);
        let bias = outer.unembed_bias.as_ref().map(Tensor::view);
        let opts = GemmOpts { tb: true, bias, ..GemmOpts::default() };
        self.q.gemm(x.rows_view(rows), w, logits.reborrow(), opts)?;
        if a.logit_cap > 0.0 {
            self.q.map_in_place(MapKind::SoftCap, a.logit_cap, 0.0, logits)?;
        }
        Ok(())
    }

    /// The residual stream before the first block `[N, d_model]`.
    fn embed(&mut self) -> Result<Tensor, Halt> {
        let (a, outer) = (&self.lm.arch, &self.lm.outer);
        let mut resid = self.empty(a.d_model)?;
        self.q.gather(&outer.embed, &self.ids, &mut resid)?;
        if a.embed_scale != 1.0 {
            self.q.map_in_place(MapKind::Affine, a.embed_scale, 0.0, &mut resid)?;
        }
        self.hook("hook_embed", &mut resid)?;
        if let Some(table) = &outer.pos_embed {
            let mut pos = self.empty(a.d_model)?;
            self.q.gather(table, &self.pos, &mut pos)?;
            self.hook("hook_pos_embed", &mut pos)?;
            self.q.zip_in_place(MapKind::Add, &pos, 1.0, 1.0, &mut resid)?;
        }
        Ok(resid)
    }

    fn block(&mut self, i: usize, resid: &mut Tensor) -> Result<(), Halt> {
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
    fn norm(&mut self, w: &NormWeights<Tensor>, at: &str, x: &Tensor) -> Result<Tensor, Halt> {
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
    fn mlp(&mut self, i: usize, x: Option<Tensor>, resid: &mut Tensor) -> Result<(), Halt> {
        let lm = self.lm;
        let w = &lm.blocks[i];
        let at = |hook: &str| format!("blocks.{i}.{hook}");
        let out = [at("ln2_post"), at("hook_mlp_out")];
        let watched = ["mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "hook_mlp_out"]
            .iter()
            .any(|hook| self.hooks.wants(&at(hook)));
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
