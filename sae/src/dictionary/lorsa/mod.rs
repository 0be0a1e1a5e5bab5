//! Low-rank sparse attention (VARIANTS §9): every feature is an attention head whose value and output have rank one, and
//! groups of `S/n_qk` features share the pattern of one QK head Q.
//!   v = x·W_Vᵀ + b_V     z[t, i] = Σ_{s ≤ t} A[Q(i)][t, s]·v[s, i]     f = z where selected by z·n (or z)     ŷ = f·W_O + b_D
//! Here is the encoder, from x to z; selection, losses and decoder are [`super::coder`]'s. Contexts pass a few at a time and
//! patterns never leave the attention kernel, so neither the patterns nor (but for batchtopk) z of a batch exist.

mod attend;
mod init;
mod pattern;
mod settings;
mod side;

pub use settings::{LorsaSettings, NormalizationType, PositionalEmbedding};

use super::{
    ModelAttention, Param, RandomInit, Share,
    checkpoint::Buffer,
    coder::{Encoder, RandomParts},
    norms_of,
    settings::CommonSettings,
};
use crate::{Error, Result, lm::rotary};
use attend::{Chunk, Heads};
use lm_saes_runtime::{Arena, MapKind, Queue, Tensor, View, ViewMut};
use side::Side;

/// Sizes and constants of the attention.
pub(super) struct Geometry {
    pub n_qk: usize,
    pub d_qk: usize,
    /// Features of a QK head.
    pub group: usize,
    /// How often every coordinate of a query or key is repeated.
    pub repeat: usize,
    pub n_ctx: usize,
    /// Pairs that turn are neighbours.
    pub adjacent: bool,
    /// Multiplies q·k.
    pub scale: f32,
    /// `eps` of the norm of queries and keys, where there is one.
    pub qk_norm: Option<f32>,
}

impl Geometry {
    fn new(common: &CommonSettings, own: &LorsaSettings, share: &Share) -> Self {
        Self {
            n_qk: own.n_qk_heads / share.model().0,
            d_qk: own.d_qk_head,
            group: common.features() / own.n_qk_heads,
            repeat: own.rotary_scale,
            n_ctx: own.n_ctx,
            adjacent: own.rotary_adjacent_pairs,
            scale: (1.0 / own.attn_scale()) as f32,
            qk_norm: own.use_post_qk_ln.then_some(own.eps as f32),
        }
    }

    fn check_context(&self, len: usize) -> Result<()> {
        if (1..=self.n_ctx).contains(&len) {
            return Ok(());
        }
        let what = format!("a context of {len} tokens; this dictionary was made for 1 to {}", self.n_ctx);
        Err(Error::setting("sae.n_ctx", what))
    }
}

/// The encoder of a Lorsa dictionary.
pub(super) struct Attention {
    own: LorsaSettings,
    heads: Heads,
    /// Memory of a block, once planned.
    chunk: Option<Chunk>,
    /// Tokens of a context in the present pass.
    len: usize,
}

fn not_planned() -> Error {
    Error::Data { what: "an attention encoder that was not planned for this pass".into() }
}

impl Attention {
    /// Zeros; gains of norms are 1.
    pub fn zeros(q: &mut Queue, common: &CommonSettings, own: &LorsaSettings, share: &Share) -> Result<Self> {
        let (d, s) = (common.d_model, common.features());
        let geometry = Geometry::new(common, own, share);
        let (n_qk, d_qk) = (own.n_qk_heads, own.d_qk_head);
        let of_heads = share.along(0, n_qk);
        let mut side = |which: &str, gain: &str| -> Result<Side> {
            let mut gain = match own.use_post_qk_ln {
                true => Some(Param::zeros(q, gain, &[n_qk, d_qk], of_heads.clone())?.of_heads()),
                false => None,
            };
            if let Some(gain) = &mut gain {
                q.fill(&mut gain.value, 1.0)?;
            }
            Ok(Side {
                w: Param::transposed(q, &format!("W_{which}"), &[n_qk, d, d_qk], of_heads.clone())?
                    .of_heads(),
                b: Param::zeros(q, &format!("b_{which}"), &[n_qk, d_qk], of_heads.clone())?.of_heads(),
                gain,
            })
        };
        let (query, key) = (side("Q", "ln_q.w")?, side("K", "ln_k.w")?);
        let tables = match own.rotary() {
            None => None,
            Some(r) => {
                let (cos, sin) = rotary::tables(&r, own.n_ctx);
                Some((q.tensor(own.n_ctx, r.dim / 2, &cos)?, q.tensor(own.n_ctx, r.dim / 2, &sin)?))
            }
        };
        let w_v = Param::zeros(q, "W_V", &[s, d], share.of_features(0))?;
        let b_v = Param::zeros(q, "b_V", &[s], share.of_features(0))?;
        let heads = Heads { geometry, query, key, w_v, b_v, tables };
        Ok(Self { own: own.clone(), heads, chunk: None, len: 0 })
    }
}

impl Encoder for Attention {
    fn params(&self) -> Vec<&Param> {
        let Heads { query, key, w_v, b_v, .. } = &self.heads;
        let mut all = vec![&query.w, &key.w, &query.b, &key.b, w_v, b_v];
        all.extend(query.gain.iter().chain(&key.gain));
        all
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let Heads { query, key, w_v, b_v, .. } = &mut self.heads;
        let mut all = vec![&mut query.w, &mut key.w, &mut query.b, &mut key.b, w_v, b_v];
        all.extend(query.gain.iter_mut().chain(&mut key.gain));
        all
    }

    fn buffers(&self) -> Vec<Buffer> {
        self.own.buffers()
    }

    fn most_joined(&self) -> Option<usize> {
        Some(self.heads.geometry.n_ctx)
    }

    fn begin(&mut self, rows: usize, context: Option<usize>) -> Result<usize> {
        let what = "must be activations-2d for a Lorsa dictionary, which reads whole contexts";
        let len = context.ok_or_else(|| Error::setting("activation_factory.target", what))?;
        self.heads.geometry.check_context(len)?;
        if !rows.is_multiple_of(len) {
            return Err(Error::Data { what: format!("{rows} rows are no whole contexts of {len} tokens") });
        }
        self.len = len;
        Ok(len)
    }

    fn plan(&mut self, arena: &mut Arena, block: usize, training: bool) -> Result<()> {
        self.chunk = Some(Chunk::plan(arena, &self.heads.geometry, block, training)?);
        Ok(())
    }

    fn hidden(&mut self, q: &mut Queue, x: View<'_>, h: ViewMut<'_>) -> Result<()> {
        let chunk = self.chunk.as_mut().ok_or_else(not_planned)?;
        self.heads.forward(q, x, self.len, chunk, h)
    }

    fn recall(&mut self, q: &mut Queue, x: View<'_>) -> Result<()> {
        let chunk = self.chunk.as_mut().ok_or_else(not_planned)?;
        self.heads.project(q, x, self.len, chunk)
    }

    fn dense_grads(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        dh: View<'_>,
        _spare: ViewMut<'_>,
        beta: f32,
    ) -> Result<()> {
        let chunk = self.chunk.as_mut().ok_or_else(not_planned)?;
        self.heads.backward(q, x, self.len, chunk, dh, beta)
    }

    fn scale_features(&mut self, q: &mut Queue, factors: View<'_>) -> Result<()> {
        let Heads { w_v, b_v, .. } = &mut self.heads;
        q.zip_in_place(MapKind::Mul, factors, 1.0, 0.0, &mut w_v.value)?;
        Ok(q.zip_in_place(MapKind::Mul, factors.reshaped(1, factors.rows()), 1.0, 0.0, &mut b_v.value)?)
    }

    fn norms(&mut self, q: &mut Queue) -> Result<Vec<f32>> {
        norms_of(q, &self.heads.w_v.value)
    }

    fn fold(&mut self, q: &mut Queue, a: f32) -> Result<f32> {
        // a·x comes to the maps as before, so queries, keys, values and z stay what they were.
        let Heads { query, key, w_v, .. } = &mut self.heads;
        for w in [&mut query.w, &mut key.w, w_v] {
            q.map_in_place(MapKind::Affine, a, 0.0, &mut w.value)?;
        }
        Ok(1.0)
    }

    fn init_random(&mut self, q: &mut Queue, init: &RandomInit, parts: &mut RandomParts) -> Result<()> {
        self.heads.init_random(q, init, parts)
    }

    fn init_decoder(&self, q: &mut Queue, init: &RandomInit, part: u64, w_d: &mut Param) -> Result<()> {
        init::decoder(q, init, part, w_d)
    }

    fn decoder_norms_move_together(&self) -> bool {
        true
    }

    fn has_heads(&self) -> bool {
        true
    }

    fn take_queries_and_keys(&mut self, q: &mut Queue, from: &ModelAttention, a: f32) -> Result<()> {
        self.heads.take_queries_and_keys(q, from, a)
    }

    fn take_value_subspace(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        from: &ModelAttention,
        w_d: &mut Tensor,
    ) -> Result<()> {
        self.heads.take_value_subspace(q, x, from, w_d)
    }

    fn bias_mut(&mut self) -> &mut Param {
        &mut self.heads.b_v
    }

    fn z_patterns(&self, q: &mut Queue, x: View<'_>, features: &[usize]) -> Result<Vec<Tensor>> {
        self.heads.z_patterns(q, x, features)
    }
}
