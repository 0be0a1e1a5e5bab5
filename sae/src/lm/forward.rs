//! The forward of every family: one pass over `[batch·len]` tokens, causal, without a cache. Right padding needs no mask: a token
//! never sees what comes after it. This file owns the way from tokens to logits and losses; blocks are in `block.rs`.

use super::{
    architecture::Positions,
    hooks::{Edit, Halt, Hooks, Output, Run},
    model::Lm,
    rotary,
};
use crate::{Error, Result};
use lm_saes_runtime::{DType, GemmOpts, MapKind, Queue, Tensor, View, ViewMut};
use std::ops::Range;

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
        pass.losses(tokens).map_err(Halt::into_error)
    }

    /// Logits `[n, d_vocab]` of vectors `x [n, d_model]` of the final residual stream: `unembed(ln_final(x))`.
    ///
    /// # Errors
    /// Vectors of another width.
    pub fn read_out(&self, q: &mut Queue, x: View<'_>) -> Result<Tensor> {
        let (n, d_model) = (x.rows(), self.arch.d_model);
        if x.cols() != d_model {
            let what = format!(
                "vectors of {} to read out of {}, whose residual stream is {d_model} wide",
                x.cols(),
                self.name()
            );
            return Err(Error::Data { what });
        }
        let mut vectors = q.empty(n, d_model, DType::F32)?;
        q.copy(x, &mut vectors)?;
        let tokens = Tokens { ids: &vec![0; n], batch: n, len: 1, mask: None };
        let mut pass = Pass::new(self, q, &tokens, &[], None, true)?;
        let x = pass.norm(&self.outer.ln_final, "ln_final", &vectors).map_err(Halt::into_error)?;
        let mut logits = pass.empty(self.arch.d_vocab)?;
        pass.unembed(&x, 0..n, logits.view_mut())?;
        Ok(logits)
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
pub(super) struct Pass<'a, 'h> {
    pub(super) lm: &'a Lm,
    pub(super) q: &'a mut Queue,
    pub(super) hooks: Hooks<'h>,
    pub(super) batch: usize,
    pub(super) len: usize,
    ids: Tensor,
    pub(super) pos: Tensor,
    /// `(cos, sin)` of each rotary table of the architecture.
    pub(super) rotary: Vec<(Tensor, Tensor)>,
}

impl<'a, 'h> Pass<'a, 'h> {
    pub(super) fn new(
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

    pub(super) fn rows(&self) -> usize {
        self.batch * self.len
    }

    pub(super) fn empty(&mut self, cols: usize) -> Result<Tensor> {
        Ok(self.q.empty(self.rows(), cols, DType::F32)?)
    }

    pub(super) fn hook(&mut self, name: &str, t: &mut Tensor) -> Result<(), Halt> {
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
}
