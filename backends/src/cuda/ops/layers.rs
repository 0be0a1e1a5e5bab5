//! Kernels of layers.cu, attention.cu and attention_grad.cu.

use super::{by_row, grid};
use crate::cuda::stream::{CudaStream, Shape, args};
use lm_saes_runtime::{
    Result,
    op::{Attention, AttentionGrad, CrossEntropy, Norm, Rope},
};

/// Rows a block of attention owns, and rows of the other side it stages at a time.
const OWN: u64 = 16;
const STAGED: u64 = 32;

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn norm(s: &mut CudaStream, op: &Norm) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_norm", by_row(op.x.rows, op.x.cols), args![op]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn cross_entropy(s: &mut CudaStream, op: &CrossEntropy) -> Result<()> {
    let failure = s.failure();
    let shape = by_row(op.logits.rows, op.logits.cols);
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_cross_entropy", shape, args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn rope(s: &mut CudaStream, op: &Rope) -> Result<()> {
    let failure = s.failure();
    let shape = grid(op.x.rows, op.heads * (op.rotary_dim / 2));
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_rope", shape, args![op, &failure]) }
}

/// Bytes of shared memory of a block: queries, keys, values, results, weights (attention.cu).
pub(super) fn attention_shared(op: &Attention) -> u64 {
    let (d, v) = (op.d_head, op.d_value);
    4 * (OWN * d + STAGED * (d + 1) + STAGED * v + OWN * v + OWN * STAGED)
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention(s: &mut CudaStream, op: &Attention) -> Result<()> {
    let blocks = op.batch * op.heads * op.len.div_ceil(OWN);
    let shape = Shape { shared: attention_shared(op), ..Shape::line(blocks, 128) };
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_attention", shape, args![op]) }
}

/// Bytes of shared memory of a block of the largest of the three kernels (attention_grad.cu).
pub(super) fn attention_grad_shared(op: &AttentionGrad) -> u64 {
    let (d, v) = (op.d_head, op.d_value);
    4 * (2 * OWN * (d + v) + STAGED * (d + v + 2) + 2 * OWN * STAGED)
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention_grad(s: &mut CudaStream, op: &AttentionGrad) -> Result<()> {
    let rows = op.batch * op.heads * op.len;
    let lse = s.scratch(2 * 4 * rows)?;
    let mean = lse + 4 * rows;
    let blocks = op.batch * op.heads * op.len.div_ceil(OWN);
    let shape = Shape { shared: attention_grad_shared(op), ..Shape::line(blocks, 128) };
    for kernel in ["op_attention_grad_rows", "op_attention_grad_queries", "op_attention_grad_keys"] {
        // SAFETY: as the caller promises; the scratch holds two numbers for each row of each head.
        unsafe { s.fire(kernel, shape, args![op, &lse, &mean])? };
    }
    Ok(())
}
