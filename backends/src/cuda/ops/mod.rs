//! From an op to its kernels: which there are, with how many blocks. Kernels take the op's own struct; the kernels of each
//! family are in the file of `kernels/cuda` named at the top of the adapters.

mod dense;
mod layers;
mod select;
mod sparse;
mod train;

use super::device::{Card, STATIC_SHARED};
use super::stream::{CudaStream, MOST, Shape};
use lm_saes_runtime::{
    Act, DType, MapKind, Op, PenaltyKind, RandomKind, ReduceKind, Result, Unsupported,
    op::{Mat, Sparse},
};

/// Threads of a block for rows of this width: whole warps, at most 256.
fn threads(width: u64) -> u32 {
    (width.clamp(1, 256) as u32).next_multiple_of(32)
}

/// Blocks for a loop over all elements: columns by the block, rows one each as far as the grid goes.
fn elements(m: &Mat) -> Shape {
    grid(m.rows, m.cols)
}

fn grid(rows: u64, cols: u64) -> Shape {
    let block = threads(cols);
    // A block covers four widths of itself, so that the start of a thread is paid for.
    let across = cols.div_ceil(u64::from(block) * 4).min(1 << 20);
    Shape { grid: (across, rows.min(MOST), 1), block: (block, 1), shared: 0 }
}

/// A block a row.
fn by_row(rows: u64, width: u64) -> Shape {
    Shape::line(rows, threads(width))
}

/// A thread an element of `[1, n]`.
fn by_thread(n: u64) -> Shape {
    Shape::line(n.div_ceil(256), 256)
}

/// A thread a slot; the kernels loop, because the number of slots of ragged codes is known on the card only.
fn by_slot(s: &Sparse) -> Shape {
    Shape::line(s.vals.len().div_ceil(256).min(4096), 256)
}

/// Blocks of (32, 8) over columns, with the rows split so that narrow matrices fill the card too. The split depends on shapes
/// only, so sums have the same order on every card.
fn by_column(rows: u64, cols: u64) -> (Shape, u64) {
    let across = cols.div_ceil(32);
    let splits = (1024 / across.max(1)).min(rows.div_ceil(128)).clamp(1, 64);
    (Shape { grid: (across, splits, 1), block: (32, 8), shared: 0 }, splits)
}

/// The same elements as one row when rows touch: no division by the width, and full blocks for narrow matrices.
fn flattened<const N: usize>(mats: [&mut Mat; N]) {
    if mats.iter().all(|m| !m.is_some() || m.ld == m.cols) {
        for m in mats.into_iter().filter(|m| m.is_some()) {
            *m = Mat { rows: m.rows.min(1), cols: m.len(), ld: m.len(), ..*m };
        }
    }
}

fn known<T: PartialEq>(kinds: &[(T, &str)], kind: &T) -> bool {
    kinds.iter().any(|(k, _)| k == kind)
}

/// Whether the card can run the op in this form.
pub(super) fn supports(card: &Card, op: &Op) -> Result<(), Unsupported> {
    let defined = match op {
        Op::Gemm(o) => known(Act::ALL, &o.act),
        Op::Map(o) => known(MapKind::ALL, &o.kind),
        Op::Reduce(o) => known(ReduceKind::ALL, &o.kind),
        Op::Penalty(o) => known(PenaltyKind::ALL, &o.kind),
        Op::Random(o) => known(RandomKind::ALL, &o.kind),
        Op::Fill(o) => o.y.dtype.bytes() > 0,
        Op::Copy(o) => o.y.dtype.bytes() > 0,
        _ => true,
    };
    if !defined {
        return Err(Unsupported::because("a kind or type this version does not define"));
    }
    let shared = match op {
        Op::Attention(o) => layers::attention_shared(o),
        Op::AttentionGrad(o) => layers::attention_grad_shared(o),
        _ => 0,
    };
    if shared + STATIC_SHARED > card.shared {
        let why =
            format!("heads this wide need {shared} bytes of shared memory, the card has {}", card.shared);
        return Err(Unsupported::because(why));
    }
    let slots = match op {
        Op::SortByColumn(o) => o.s.vals.len(),
        Op::TopK(o) => o.x.cols,
        Op::Compact(o) => o.y.vals.len().max(o.x.cols),
        _ => 0,
    };
    if slots >= u64::from(u32::MAX) {
        return Err(Unsupported::because(format!("{slots} places do not fit 32-bit indices")));
    }
    Ok(())
}

/// Queues the kernels of an op.
///
/// # Safety
/// As [`lm_saes_runtime::Stream::launch`].
pub(super) unsafe fn launch(s: &mut CudaStream, op: &Op) -> Result<()> {
    // SAFETY: the caller vouches for every address and shape of the op.
    unsafe {
        match op {
            Op::Gemm(op) => dense::gemm(s, op),
            Op::Fill(op) => dense::fill(s, op),
            Op::Copy(op) => dense::copy(s, op),
            Op::Gather(op) => dense::gather(s, op),
            Op::Map(op) => dense::map(s, op),
            Op::Reduce(op) => dense::reduce(s, op),
            Op::Norm(op) => layers::norm(s, op),
            Op::CrossEntropy(op) => layers::cross_entropy(s, op),
            Op::Rope(op) => layers::rope(s, op),
            Op::Attention(op) => layers::attention(s, op),
            Op::AttentionGrad(op) => layers::attention_grad(s, op),
            Op::TopK(op) => select::topk(s, op),
            Op::Threshold(op) => select::threshold(s, op),
            Op::Compact(op) => select::compact(s, op),
            Op::Gate(op) => select::gate(s, op),
            Op::GateGrad(op) => select::gate_grad(s, op),
            Op::Penalty(op) => train::penalty(s, op),
            Op::ThresholdPenalty(op) => train::threshold_penalty(s, op),
            Op::SparseMul(op) => sparse::sparse_mul(s, op),
            Op::Scatter(op) => sparse::scatter(s, op),
            Op::Confine(op) => sparse::confine(s, op),
            Op::SparseDot(op) => sparse::sparse_dot(s, op),
            Op::SortByColumn(op) => sparse::sort_by_column(s, op),
            Op::SparseOuter(op) => sparse::sparse_outer(s, op),
            Op::Activity(op) => train::activity(s, op),
            Op::Age(op) => train::age(s, op),
            Op::Adam(op) => train::adam(s, op),
            Op::Random(op) => train::random(s, op),
        }
    }
}

/// The bits of `value` as an element of `dtype`: floats to nearest even, integers truncated and saturated.
fn encoded(dtype: DType, value: f32) -> u32 {
    match dtype {
        DType::F32 => value.to_bits(),
        DType::BF16 => half::bf16::from_f32(value).to_bits().into(),
        DType::F16 => half::f16::from_f32(value).to_bits().into(),
        DType::I32 => (value as i32).cast_unsigned(),
        DType::U32 => value as u32,
        _ => (value as u8).into(),
    }
}
