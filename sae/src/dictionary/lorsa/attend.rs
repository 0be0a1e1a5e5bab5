//! From inputs to pre-activations `z`, whole contexts at a time, and from the gradient of z to those of the parameters.
//! Everything else of a step sees z as another encoder's output; only here do tokens meet.

use super::{
    Geometry, not_planned,
    side::{Side, SideWork, Turn},
};
use crate::{
    Result,
    dictionary::{Param, grad},
};
use lm_saes_runtime::{
    Arena, AttentionGradArgs, DType, GemmOpts, HeadsArgs, Queue, ReduceKind, Tensor, View, ViewMut,
};

const F32: DType = DType::F32;

/// What turns inputs into pre-activations: the trainable tensors, and rotary tables.
pub(super) struct Heads {
    pub geometry: Geometry,
    pub query: Side,
    pub key: Side,
    /// `[S, d]`; rows of one QK head lie together.
    pub w_v: Param,
    /// `[1, S]`.
    pub b_v: Param,
    /// Cosines and sines `[n_ctx, rotary_dim/2]`; `None` without positions.
    pub tables: Option<(Tensor, Tensor)>,
}

/// Memory for the contexts at hand, up to `rows` tokens.
pub(super) struct Chunk {
    rows: usize,
    query: SideWork,
    key: SideWork,
    /// Values `[rows, S]`.
    v: Tensor,
    /// Gradient of the values; present for training.
    dv: Option<Tensor>,
    /// Position of each row, `[1, rows]`, and the length of context they were written for.
    pos: Tensor,
    written_for: usize,
}

impl Chunk {
    pub fn plan(arena: &mut Arena, g: &Geometry, rows: usize, training: bool) -> Result<Self> {
        Ok(Self {
            rows,
            query: SideWork::plan(arena, "queries", g, rows, training)?,
            key: SideWork::plan(arena, "keys", g, rows, training)?,
            v: arena.tensor("values", rows, g.n_qk * g.group, F32)?,
            dv: match training {
                true => Some(arena.tensor("gradient of the values", rows, g.n_qk * g.group, F32)?),
                false => None,
            },
            pos: arena.tensor("positions", 1, rows, DType::U32)?,
            written_for: 0,
        })
    }

    /// Queries, keys and values of the contexts last projected, `rows` tokens.
    pub fn projected(&self, rows: usize) -> [View<'_>; 3] {
        [self.query.ready(rows), self.key.ready(rows), self.v.rows_view(0..rows)]
    }

    /// Positions count from 0 in each context.
    fn set_positions(&mut self, q: &mut Queue, len: usize) -> Result<()> {
        if self.written_for != len {
            let pos: Vec<u32> = (0..self.rows).map(|i| (i % len) as u32).collect();
            q.upload(&pos, &mut self.pos)?;
            self.written_for = len;
        }
        Ok(())
    }
}

impl Heads {
    /// `z [rows, S]` of `x [rows, d]`, contexts of `len` tokens.
    pub fn forward(
        &self,
        q: &mut Queue,
        x: View<'_>,
        len: usize,
        chunk: &mut Chunk,
        z: ViewMut<'_>,
    ) -> Result<()> {
        self.project(q, x, len, chunk)?;
        let (n, Chunk { query, key, v, .. }) = (x.rows(), chunk);
        let heads = self.geometry.heads(n / len, len);
        Ok(q.attention(query.ready(n), key.ready(n), v.rows_view(0..n), z, None, heads.into())?)
    }

    /// Queries, keys and values of `x [rows, d]`, contexts of `len` tokens.
    pub fn project(&self, q: &mut Queue, x: View<'_>, len: usize, chunk: &mut Chunk) -> Result<()> {
        let (n, g) = (x.rows(), &self.geometry);
        chunk.set_positions(q, len)?;
        let Chunk { query, key, v, pos, .. } = chunk;
        let turn = turn(&self.tables, pos, n);
        self.query.forward(q, g, x, turn, query)?;
        self.key.forward(q, g, x, turn, key)?;
        let opts = GemmOpts { tb: true, bias: Some(self.b_v.value.view()), ..Default::default() };
        Ok(q.gemm(x, &self.w_v.value, v.rows_mut(0..n), opts)?)
    }

    /// Parameter gradients (`= beta·old + …`) from `dz [rows, S]` of the contexts last given to [`Heads::forward`].
    pub fn backward(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        len: usize,
        chunk: &mut Chunk,
        dz: View<'_>,
        beta: f32,
    ) -> Result<()> {
        let (n, g) = (x.rows(), &self.geometry);
        let Chunk { query, key, v, dv: Some(dv), pos, .. } = chunk else { return Err(not_planned()) };
        let (Some((q_at, dq)), Some((k_at, dk))) = (query.ready_and_grad(n), key.ready_and_grad(n)) else {
            return Err(not_planned());
        };
        let (v, dv_at) = (v.rows_view(0..n), dv.rows_mut(0..n));
        let operands = AttentionGradArgs { q: q_at, k: k_at, v, dz, dq, dk, dv: dv_at };
        q.attention_grad(operands, g.heads(n / len, len))?;
        let dv = dv.rows_view(0..n);
        q.gemm(dv, x, grad(&mut self.w_v)?, GemmOpts { ta: true, beta, ..Default::default() })?;
        q.reduce_rows(ReduceKind::Sum, dv, None, grad(&mut self.b_v)?, beta)?;
        let turn = turn(&self.tables, pos, n);
        self.query.backward(q, g, x, turn, query, beta)?;
        self.key.backward(q, g, x, turn, key, beta)
    }
}

fn turn<'a>(tables: &'a Option<(Tensor, Tensor)>, pos: &'a Tensor, rows: usize) -> Option<Turn<'a>> {
    let (cos, sin) = tables.as_ref()?;
    Some(Turn { pos: pos.view().slice_cols(0..rows), tables: (cos.view(), sin.view()) })
}

impl Geometry {
    /// Shape of the attention over `batch` contexts of `len` tokens.
    pub fn heads(&self, batch: usize, len: usize) -> HeadsArgs {
        HeadsArgs {
            batch,
            len,
            heads: self.n_qk,
            d_head: self.d_qk * self.repeat,
            d_value: self.group,
            scale: self.scale,
        }
    }
}
