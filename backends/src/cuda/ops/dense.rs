//! Kernels of gemm.cu, dense.cu and reduce.cu.

use super::{by_column, by_row, by_thread, elements, encoded, flattened};
use crate::cuda::stream::{CudaStream, MOST, Shape, args};
use lm_saes_runtime::{
    Act, Addr, MapKind, Result,
    op::{Copy, Fill, Gather, Gemm, Map, Mat, Reduce},
};

/// Rows and columns of the result a block computes.
const TILE: u64 = 64;

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gemm(s: &mut CudaStream, op: &Gemm) -> Result<()> {
    // SAFETY: as the caller promises.
    if unsafe { s.library_gemm(op)? } {
        // SAFETY: as the caller promises.
        return unsafe { activate(s, op) };
    }
    let grid = (op.c.cols.div_ceil(TILE), op.c.rows.div_ceil(TILE), op.batch.min(MOST));
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_gemm", Shape { grid, block: (256, 1), shared: 0 }, args![op]) }
}

/// Applies the product's activation to what cuBLASLt wrote, for each product of the batch.
///
/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
unsafe fn activate(s: &mut CudaStream, op: &Gemm) -> Result<()> {
    let kind = match op.act {
        Act::Relu => MapKind::Relu,
        Act::GeluErf => MapKind::GeluErf,
        Act::GeluTanh => MapKind::GeluTanh,
        Act::Silu => MapKind::Silu,
        _ => return Ok(()),
    };
    for i in 0..op.batch {
        let c = Mat { addr: Addr(op.c.addr.0 + 4 * i * op.stride_c), ..op.c };
        // SAFETY: the products of a batch lie within the operand.
        unsafe { map(s, &Map { kind, x: c, z: Mat::NONE, y: c, a: 1.0, b: 0.0 })? };
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn fill(s: &mut CudaStream, op: &Fill) -> Result<()> {
    let (mut y, bits, bytes) = (op.y, encoded(op.y.dtype, op.value), op.y.dtype.bytes() as u32);
    flattened([&mut y]);
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_fill", elements(&y), args![&y, &bits, &bytes]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn copy(s: &mut CudaStream, op: &Copy) -> Result<()> {
    let mut op = *op;
    let bytes = if op.x.dtype == op.y.dtype { op.x.dtype.bytes() as u32 } else { 0 };
    flattened([&mut op.x, &mut op.y]);
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_copy", elements(&op.y), args![&op, &bytes]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gather(s: &mut CudaStream, op: &Gather) -> Result<()> {
    let failure = s.failure();
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_gather", elements(&op.y), args![op, &failure]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn map(s: &mut CudaStream, op: &Map) -> Result<()> {
    let mut op = *op;
    let same = |z: &Mat| z.rows == op.x.rows && z.cols == op.x.cols;
    if !op.z.is_some() || same(&op.z) {
        flattened([&mut op.x, &mut op.z, &mut op.y]);
    }
    // SAFETY: as the caller promises.
    unsafe { s.fire("op_map", elements(&op.x), args![&op]) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn reduce(s: &mut CudaStream, op: &Reduce) -> Result<()> {
    if op.by_row == 1 {
        // SAFETY: as the caller promises.
        return unsafe { s.fire("op_reduce_columns", by_row(op.x.rows, op.x.cols), args![op]) };
    }
    let (shape, splits) = by_column(op.x.rows, op.x.cols);
    let partial = if splits > 1 { s.scratch(splits * op.x.cols * 4)? } else { 0 };
    // SAFETY: as the caller promises; the scratch holds a partial result for each split and column.
    unsafe {
        s.fire("op_reduce_rows", shape, args![op, &partial])?;
        if splits > 1 {
            let splits = splits as u32;
            s.fire("op_reduce_rows_end", by_thread(op.x.cols), args![op, &partial, &splits])?;
        }
    }
    Ok(())
}
