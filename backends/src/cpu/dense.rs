//! Adapters of the dense ops.

use super::{rows, rows_opt, slice, slice_opt};
use half::{bf16, f16};
use lm_saes_kernels::cpu::attention::{GradOperands, Heads, Operands, Shape};
use lm_saes_kernels::cpu::gemm::{Activation, Float, Operand, Product, gemm_batch};
use lm_saes_kernels::cpu::map::Form;
use lm_saes_kernels::cpu::norm::Style;
use lm_saes_kernels::cpu::reduce::{Kind, along_columns, along_rows};
use lm_saes_kernels::cpu::rope::Layout;
use lm_saes_runtime::op::{
    Attention, AttentionGrad, Copy, CrossEntropy, Fill, Gather, Gemm, Map, Mat, Norm, Reduce, Rope,
};
use lm_saes_runtime::{Act, DType, MapKind, Op, ReduceKind, Unsupported};

/// The kernels under their own names, beside the adapters of the same names.
mod kernel {
    pub use lm_saes_kernels::cpu::attention::{attention, attention_grad};
    pub use lm_saes_kernels::cpu::copy::{convert, copy, fill, gather};
    pub use lm_saes_kernels::cpu::map::map;
    pub use lm_saes_kernels::cpu::norm::{cross_entropy, norm};
    pub use lm_saes_kernels::cpu::rope::rope;
}

/// Whether the op can run in this form. Queue has checked that mixed types in `Copy` are floats.
pub(super) fn supports(op: &Op) -> Result<(), Unsupported> {
    match op {
        Op::Map(op) if form(op.kind).is_none() => Err(Unsupported::because(format!("{:?}", op.kind))),
        Op::Reduce(op) if kind(op.kind).is_none() => Err(Unsupported::because(format!("{:?}", op.kind))),
        Op::Gemm(op) if activation(op.act).is_none() => Err(Unsupported::because(format!("{:?}", op.act))),
        Op::Fill(Fill { y, .. }) | Op::Copy(Copy { y, .. }) if y.dtype.bytes() == 0 => {
            Err(Unsupported::because("the element type is not known"))
        }
        _ => Ok(()),
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
        act: activation(op.act).ok_or("unknown activation")?,
    };
    let strides = (op.stride_a as usize, op.stride_b as usize, op.stride_c as usize);
    // SAFETY: shapes and memory are the caller's; an absent bias has address 0.
    unsafe { gemm_batch(&product, op.batch as usize, strides) }
    Ok(())
}

fn activation(act: Act) -> Option<Activation> {
    Some(match act {
        Act::None => Activation::None,
        Act::Relu => Activation::Relu,
        Act::GeluErf => Activation::GeluErf,
        Act::GeluTanh => Activation::GeluTanh,
        Act::Silu => Activation::Silu,
        _ => return None,
    })
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
pub(super) unsafe fn fill(op: &Fill) -> Result<(), String> {
    let v = op.value;
    // SAFETY: `rows` is asked for the operand's own type.
    unsafe {
        match op.y.dtype {
            DType::F32 => kernel::fill(rows::<f32>(&op.y), v),
            DType::BF16 => kernel::fill(rows(&op.y), bf16::from_f32(v)),
            DType::F16 => kernel::fill(rows(&op.y), f16::from_f32(v)),
            DType::I32 => kernel::fill(rows(&op.y), v as i32),
            DType::U32 => kernel::fill(rows(&op.y), v as u32),
            _ => kernel::fill(rows(&op.y), v as u8),
        }
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn copy(op: &Copy) -> Result<(), String> {
    let (x, y) = (&op.x, &op.y);
    // SAFETY: `rows` is asked for each operand's own type, or for one of the same size where bits are moved.
    unsafe {
        match (x.dtype, y.dtype) {
            (a, b) if a == b => match a.bytes() {
                4 => kernel::copy(rows::<u32>(x), rows(y)),
                2 => kernel::copy(rows::<u16>(x), rows(y)),
                _ => kernel::copy(rows::<u8>(x), rows(y)),
            },
            (DType::F32, DType::BF16) => kernel::convert(rows::<f32>(x), rows::<bf16>(y)),
            (DType::F32, _) => kernel::convert(rows::<f32>(x), rows::<f16>(y)),
            (DType::BF16, DType::F32) => kernel::convert(rows::<bf16>(x), rows::<f32>(y)),
            (DType::BF16, _) => kernel::convert(rows::<bf16>(x), rows::<f16>(y)),
            (_, DType::F32) => kernel::convert(rows::<f16>(x), rows::<f32>(y)),
            _ => kernel::convert(rows::<f16>(x), rows::<bf16>(y)),
        }
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn gather(op: &Gather) -> Result<(), String> {
    // SAFETY: `rows` is asked for the table's own type.
    unsafe {
        let (idx, y) = (slice(&op.idx), rows(&op.y));
        match op.table.dtype {
            DType::BF16 => kernel::gather(rows::<bf16>(&op.table), idx, y),
            DType::F16 => kernel::gather(rows::<f16>(&op.table), idx, y),
            _ => kernel::gather(rows::<f32>(&op.table), idx, y),
        }
    }
}

fn form(kind: MapKind) -> Option<Form> {
    Some(match kind {
        MapKind::Affine => Form::Affine,
        MapKind::Relu => Form::Relu,
        MapKind::GeluErf => Form::GeluErf,
        MapKind::GeluTanh => Form::GeluTanh,
        MapKind::Silu => Form::Silu,
        MapKind::Tanh => Form::Tanh,
        MapKind::Exp => Form::Exp,
        MapKind::Sqrt => Form::Sqrt,
        MapKind::Add => Form::Add,
        MapKind::Mul => Form::Mul,
        MapKind::Div => Form::Div,
        MapKind::SiluMul => Form::SiluMul,
        MapKind::GeluTanhMul => Form::GeluTanhMul,
        MapKind::GeluErfMul => Form::GeluErfMul,
        MapKind::Shrink => Form::Shrink,
        MapKind::SoftCap => Form::SoftCap,
        _ => return None,
    })
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn map(op: &Map) -> Result<(), String> {
    let form = form(op.kind).ok_or("unknown form")?;
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe { kernel::map(form, rows(&op.x), rows_opt(&op.z), rows(&op.y), op.a, op.b) }
    Ok(())
}

fn kind(kind: ReduceKind) -> Option<Kind> {
    Some(match kind {
        ReduceKind::Sum => Kind::Sum,
        ReduceKind::SumSq => Kind::SumSq,
        ReduceKind::Max => Kind::Max,
        ReduceKind::NonZero => Kind::NonZero,
        _ => return None,
    })
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn reduce(op: &Reduce) -> Result<(), String> {
    let kind = kind(op.kind).ok_or("unknown reduction")?;
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe {
        if op.by_row == 1 {
            along_columns(kind, rows(&op.x), rows(&op.y), op.beta);
        } else {
            along_rows(kind, rows(&op.x), rows_opt(&op.weight), rows(&op.y), op.beta);
        }
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn norm(op: &Norm) -> Result<(), String> {
    let style = Style { rms: op.rms == 1, eps: op.eps, gain_offset: op.gain_offset };
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe {
        let (gain, bias) = (slice_opt(&op.gain), slice_opt(&op.bias));
        kernel::norm(rows(&op.x), gain, bias, rows(&op.y), rows_opt(&op.scale), style);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn cross_entropy(op: &CrossEntropy) -> Result<(), String> {
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe { kernel::cross_entropy(rows(&op.logits), slice(&op.target), rows(&op.loss)) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn rope(op: &Rope) -> Result<(), String> {
    let layout = Layout {
        heads: op.heads as usize,
        d_head: op.d_head as usize,
        rotary_dim: op.rotary_dim as usize,
        adjacent: op.adjacent == 1,
        inverse: op.inverse == 1,
    };
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe { kernel::rope(rows(&op.x), slice(&op.pos), rows(&op.cos), rows(&op.sin), layout) }
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention(op: &Attention) -> Result<(), String> {
    let shape = Shape {
        batch: op.batch as usize,
        len: op.len as usize,
        heads: op.heads as usize,
        kv_heads: op.kv_heads as usize,
        d_head: op.d_head as usize,
        d_value: op.d_value as usize,
        window: op.window as usize,
        scale: op.scale,
        soft_cap: op.soft_cap,
    };
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe {
        let pattern = rows_opt(&op.pattern);
        let o = Operands { q: rows(&op.q), k: rows(&op.k), v: rows(&op.v), z: rows(&op.z), pattern };
        kernel::attention(&o, &shape);
    }
    Ok(())
}

/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn attention_grad(op: &AttentionGrad) -> Result<(), String> {
    let heads = Heads {
        batch: op.batch as usize,
        len: op.len as usize,
        heads: op.heads as usize,
        d_head: op.d_head as usize,
        d_value: op.d_value as usize,
        scale: op.scale,
    };
    // SAFETY: shapes and aliasing were checked by the queue.
    unsafe {
        let (q, k, v, dz) = (rows(&op.q), rows(&op.k), rows(&op.v), rows(&op.dz));
        let o = GradOperands { q, k, v, dz, dq: rows(&op.dq), dk: rows(&op.dk), dv: rows(&op.dv) };
        kernel::attention_grad(&o, &heads);
    }
    Ok(())
}
