//! Adapters of the dense ops.

use super::want;
use lm_saes_kernels::cpu::gemm::{Activation, Float, Operand, Product, gemm_batch};
use lm_saes_runtime::op::{Attention, Copy, CrossEntropy, Fill, Gather, Gemm, Map, Mat, Norm, Reduce, Rope};
use lm_saes_runtime::{Act, DType, Op, Unsupported};

/// Whether the op can run in this form.
pub(super) fn supports(op: &Op) -> Result<(), Unsupported> {
    match op {
        Op::Gemm(op) => want("c", &op.c, DType::F32),
        _ => Err(Unsupported::because("not built yet")),
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gemm(op: &Gemm) -> Result<(), String> {
    let operand = |m: &Mat, transposed: u32| Operand {
        ptr: m.addr.0 as *const u8,
        ld: m.ld as usize,
        transposed: transposed == 1,
        float: float(m.dtype),
    };
    let product = Product {
        m: op.c.rows as usize,
        n: op.c.cols as usize,
        k: if op.ta == 1 { op.a.rows } else { op.a.cols } as usize,
        a: operand(&op.a, op.ta),
        b: operand(&op.b, op.tb),
        c: op.c.addr.0 as *mut f32,
        ldc: op.c.ld as usize,
        bias: op.bias.addr.0 as *const f32,
        alpha: op.alpha,
        beta: op.beta,
        act: match op.act {
            Act::Relu => Activation::Relu,
            Act::GeluErf => Activation::GeluErf,
            Act::GeluTanh => Activation::GeluTanh,
            Act::Silu => Activation::Silu,
            _ => Activation::None,
        },
    };
    let strides = (op.stride_a as usize, op.stride_b as usize, op.stride_c as usize);
    // SAFETY: shapes and memory are the caller's; an absent bias has address 0.
    unsafe { gemm_batch(&product, op.batch as usize, strides) }
    Ok(())
}

/// The float type of an operand that `supports` let through.
fn float(dtype: DType) -> Float {
    match dtype {
        DType::BF16 => Float::Bf16,
        DType::F16 => Float::F16,
        _ => Float::F32,
    }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn fill(_op: &Fill) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn copy(_op: &Copy) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gather(_op: &Gather) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn map(_op: &Map) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn reduce(_op: &Reduce) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn norm(_op: &Norm) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn cross_entropy(_op: &CrossEntropy) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn rope(_op: &Rope) -> Result<(), String> {
    Err("not built yet".into())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention(_op: &Attention) -> Result<(), String> {
    Err("not built yet".into())
}
