//! What only a language model and Lorsa need: norms, cross-entropy, rotary embedding, attention and its gradient.

use super::Mat;

/// Row normalisation. Layer (`rms == 0`): `(x−mean)/s·gain + bias`, `s = sqrt(mean((x−mean)²)+eps)`.
/// Rms: `x/s·(gain + gain_offset) + bias`, `s = sqrt(mean(x²)+eps)`. `gain, bias [1,D]` optional (1 and 0; without gain
/// `gain_offset` is 0),
/// `scale [B,1]` optional output: s. `y` may be `x`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Norm {
    pub x: Mat,
    pub gain: Mat,
    pub bias: Mat,
    pub y: Mat,
    pub scale: Mat,
    pub eps: f32,
    pub gain_offset: f32,
    pub rms: u32,
}

/// `loss[b] = logsumexp(logits[b,:]) − logits[b, target[b]]`; target `u32::MAX` gives 0, any other
/// target ≥ the columns fails. `target [1,B] u32`, `loss [1,B]`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CrossEntropy {
    pub logits: Mat,
    pub target: Mat,
    pub loss: Mat,
}

/// Rotary embedding in place on `x [N, heads·d_head]`; `pos [1,N] u32`; `cos, sin [n_ctx, rotary_dim/2] f32`.
/// Frequency j rotates the pair (2j, 2j+1) when `adjacent == 1`, otherwise (j, j + rotary_dim/2), of every head.
/// `(u, w) → (u·cos − w·sin, w·cos + u·sin)`; `inverse == 1` turns back (`sin` negated), which is also the gradient of the
/// forward turn. Coordinates ≥ rotary_dim pass through. A position ≥ n_ctx fails.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Rope {
    pub x: Mat,
    pub pos: Mat,
    pub cos: Mat,
    pub sin: Mat,
    pub heads: u64,
    pub d_head: u64,
    pub rotary_dim: u64,
    pub adjacent: u32,
    pub inverse: u32,
}

/// Causal attention. `q [batch·len, heads·d_head]`, `k [batch·len, kv_heads·d_head]`, `v [batch·len, kv_heads·d_value]`,
/// `z [batch·len, heads·d_value]`; head h reads kv head `h / (heads/kv_heads)`. `s = scale·q·k`, soft-capped `cap·tanh(s/cap)` when `soft_cap > 0`; query i sees keys
/// `max(0, i−window+1)..=i` (`window == 0`: all up to i); softmax; `z = p·v`. `pattern [batch·heads·len, len] f32`
/// optional output of p (0 where masked). f32.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Attention {
    pub q: Mat,
    pub k: Mat,
    pub v: Mat,
    pub z: Mat,
    pub pattern: Mat,
    pub batch: u64,
    pub len: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub d_head: u64,
    pub d_value: u64,
    pub window: u64,
    pub scale: f32,
    pub soft_cap: f32,
}

/// Gradients of [`Attention`] without window and soft cap, with a key-value head for each head. From `q, k [batch·len,
/// heads·d_head]` and `v, dz [batch·len, heads·d_value]`, p recomputed: `dv = pᵀ·dz`, and with `dp = dz·vᵀ` and
/// `ds = scale·p∘(dp − Σ_j p·dp)`: `dq = ds·k`, `dk = dsᵀ·q` (all `=`, shaped like v, q, k). f32. No device holds more
/// of p than a block of query rows for each thread or group of threads.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AttentionGrad {
    pub q: Mat,
    pub k: Mat,
    pub v: Mat,
    pub dz: Mat,
    pub dq: Mat,
    pub dk: Mat,
    pub dv: Mat,
    pub batch: u64,
    pub len: u64,
    pub heads: u64,
    pub d_head: u64,
    pub d_value: u64,
    pub scale: f32,
}
