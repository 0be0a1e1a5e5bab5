//! Every op as operators of CANN. The table says which, for `supports`, for people (backends/README.md) and for tests; running
//! an operator that an op's row does not name is an error.

mod dense;
mod model;
mod select;
mod sparse;
mod train;

#[cfg(test)]
mod table_tests;

use super::{call, device::Card, stream::AscendStream, sys::aclDataType, view::Number};
use lm_saes_runtime::{Act, DType, MapKind, Op, PenaltyKind, RandomKind, ReduceKind, Result, Unsupported};

const FLOAT: aclDataType = aclDataType::ACL_FLOAT;
const INT: aclDataType = aclDataType::ACL_INT32;
const LONG: aclDataType = aclDataType::ACL_INT64;
const ZERO: Number = Number::Float(0.0);

/// Elements of the largest matrix that is made beside the operands, where an op can go block by block.
pub(super) const BLOCK: u64 = 1 << 24;
/// Whole numbers up to here are exact in f32, in which columns are sorted.
const EXACT: u64 = 1 << 24;

/// Runs of rows whose elements fit a block: the first row and the number of rows of each.
fn blocks(rows: u64, cols: u64) -> Vec<(i64, i64)> {
    if rows == 0 || cols == 0 {
        return Vec::new();
    }
    let step = (BLOCK / cols).clamp(1, rows);
    (0..rows).step_by(step as usize).map(|from| (from as i64, step.min(rows - from) as i64)).collect()
}

/// An op and the operators it is made of.
pub(super) struct Lowering {
    pub(super) op: &'static str,
    pub(super) operators: &'static [&'static str],
}

macro_rules! lowerings {
    ($($op:ident: $($name:ident)*;)*) => {
        /// Every op, in the order of the families in `lm_saes_runtime::op`.
        pub(super) const LOWERINGS: &[Lowering] =
            &[$(Lowering { op: stringify!($op), operators: &[$(concat!("aclnn", stringify!($name))),*] }),*];
    };
}

lowerings! {
    Gemm: Matmul InplaceAddmm InplaceMuls InplaceAdd InplaceCopy InplaceFillScalar Relu GeluV2 Silu;
    Fill: InplaceFillScalar;
    Copy: InplaceCopy;
    Gather: IndexSelect InplaceCopy Clamp Sub NeScalar EqTensor Any Cast InplaceAdd;
    Map: Relu GeluV2 Silu Exp Sqrt Tanh Muls Adds InplaceAdds InplaceMuls InplaceAdd InplaceMul Add Mul Div Reciprocal
        LeScalar InplaceMaskedFillScalar;
    Reduce: ReduceSum Amax Mul InplaceMul InplaceMuls InplaceAdd InplaceAdds InplaceCopy InplaceFillScalar EqTensor
        LogicalNot InplaceMaskedFillScalar NeScalar SWhere Cast;
    Random: InplaceCopy;
    Norm: LayerNorm RmsNorm Reciprocal Adds InplaceAdd InplaceCopy InplaceFillScalar;
    CrossEntropy: LogSumExp Gather Sub Clamp EqScalar NeScalar InplaceMaskedFillScalar Any Cast InplaceAdd;
    Rope: IndexSelect Mul Add Clamp Sub NeScalar EqTensor Any Cast InplaceAdd;
    Attention: Matmul InplaceMuls Tanh InplaceOne Triu Tril LogicalOr InplaceMaskedFillScalar Softmax InplaceCopy
        InplaceFillScalar;
    AttentionGrad: Matmul InplaceMuls Tanh InplaceOne Triu Tril LogicalOr InplaceMaskedFillScalar Softmax Mul ReduceSum
        InplaceAdd InplaceMul InplaceCopy InplaceFillScalar;
    TopK: Topk Sort Gather Abs InplaceMul GtScalar EqScalar LogicalAnd LogicalNot InplaceMaskedFillScalar LeScalar Arange
        Cast Add GtTensor SWhere EqTensor ReduceSum LtScalar InplaceCopy InplaceFillScalar;
    Threshold: GeTensor GtTensor Mul GtScalar EqScalar LogicalAnd LogicalNot InplaceMaskedFillScalar Adds Cast ReduceSum
        GeScalar LeScalar InplaceAdd InplaceCopy InplaceFillScalar;
    Compact: SearchSorted Cumsum IndexSelect Mul GtScalar GtTensor EqScalar EqTensor GeTensor LogicalAnd LogicalOr Cast Sub
        InplaceAdd Any Arange Clamp Muls InplaceCopy InplaceFillScalar;
    Gate: Mul GtScalar GtTensor EqTensor GeTensor LogicalAnd LogicalOr LogicalNot Cumsum Cast Sub InplaceAdd InplaceCopy
        InplaceMaskedFillScalar;
    GateGrad: Mul GtScalar GtTensor LogicalAnd LogicalNot Sub Abs LtScalar SWhere ReduceSum InplaceMul Div InplaceAdd
        InplaceCopy InplaceMaskedFillScalar InplaceFillScalar;
    Penalty: Mul Muls PowTensorScalar Sqrt Tanh Div ReduceSum ScatterAdd IndexSelect EqScalar InplaceMuls InplaceAdds
        InplaceMaskedFillScalar InplaceCopy InplaceFillScalar Clamp LtScalar GeTensor LogicalOr LogicalNot SearchSorted Arange;
    ThresholdPenalty: Mul GtTensor Sub SWhere ReduceSum InplaceAdd InplaceMul InplaceFillScalar;
    SparseMul: EmbeddingBag InplaceAdd InplaceMuls InplaceCopy InplaceFillScalar InplaceMaskedFillScalar Clamp LtScalar
        GeTensor LogicalOr LogicalNot SearchSorted Arange;
    SparseDot: IndexSelect InplaceMul ReduceSum InplaceCopy InplaceFillScalar InplaceMaskedFillScalar Clamp LtScalar
        GeTensor LogicalOr LogicalNot SearchSorted Arange;
    SortByColumn: Sort SearchSorted IndexSelect Cast InplaceAdd InplaceCopy InplaceFillScalar InplaceMaskedFillScalar Clamp
        LtScalar GeTensor LogicalOr LogicalNot Arange;
    SparseOuter: EmbeddingBag IndexSelect GeTensor LogicalOr LogicalNot Clamp Arange InplaceMaskedFillScalar InplaceAdd
        InplaceMuls InplaceCopy InplaceFillScalar;
    Scatter: InplaceScatter InplaceMuls Muls InplaceAdd InplaceCopy InplaceFillScalar InplaceMaskedFillScalar Clamp
        LtScalar GeTensor LogicalOr LogicalNot SearchSorted Arange;
    Confine: Adds GeScalar LtScalar LogicalAnd LogicalNot InplaceMaskedFillScalar;
    Activity: Abs GtScalar EqScalar Cast Mul ReduceSum ScatterAdd IndexSelect InplaceAdd InplaceCopy InplaceFillScalar
        InplaceMaskedFillScalar Clamp LtScalar GeTensor LogicalOr LogicalNot SearchSorted Arange;
    Age: Adds LtScalar GeScalar NeScalar SWhere LogicalAnd LogicalOr InplaceMaskedFillScalar InplaceCopy;
    Adam: Mul NeScalar Cast ReduceSum InplaceMuls InplaceAdd InplaceAdds Sqrt Div LogicalNot InplaceMaskedFillScalar
        InplaceCopy InplaceFillScalar;
}

/// What collectives compute beside HCCL's functions.
const SUMS: [Lowering; 3] = {
    let operators = &["aclnnInplaceAdd", "aclnnInplaceCopy"];
    [
        Lowering { op: "all_reduce", operators },
        Lowering { op: "reduce_scatter", operators },
        Lowering { op: "all_gather", operators },
    ]
};

/// The operators of an op or a collective.
pub(super) fn operators(op: &str) -> &'static [&'static str] {
    LOWERINGS.iter().chain(&SUMS).find(|l| l.op == op).map_or(&[], |l| l.operators)
}

/// Why this CANN or chip cannot add up what ranks have.
pub(super) fn lacking_for_sums(card: &Card) -> Option<String> {
    call::lacking(card, SUMS[0].operators)
}

/// Whether the device can run the op in this form.
pub(super) fn supports(card: &Card, op: &Op) -> Result<(), Unsupported> {
    let refuse = |why: String| Err(Unsupported::because(why));
    if !is_defined(op) {
        return refuse("a kind or type this version does not define".into());
    }
    if let Some(lacking) = call::lacking(card, operators(op.name())) {
        return refuse(lacking);
    }
    let operands = op.operands();
    if card.soc.is_some_and(|s| !s.bf16) && operands.iter().any(|o| o.mat.dtype == DType::BF16) {
        return refuse(format!("{} has no bf16", card.chip));
    }
    if card.cube.is_none() && matches!(op, Op::Gemm(_) | Op::Attention(_) | Op::AttentionGrad(_)) {
        return refuse(format!(
            "{} multiplies matrices of f32 in f16 only; LM_SAES_NPU_GEMM=f16 accepts that",
            card.chip
        ));
    }
    if let Some(o) = operands.iter().find(|o| o.bytes / o.mat.dtype.bytes().max(1) as u64 >= i32::MAX as u64)
    {
        return refuse(format!("{} has {} bytes: more elements than 32-bit indices reach", o.name, o.bytes));
    }
    let sorted = match op {
        Op::TopK(o) => o.x.cols,
        Op::SortByColumn(o) => o.s.n,
        Op::Threshold(o) => o.x.cols,
        _ => 0,
    };
    if sorted >= EXACT {
        return refuse(format!("{sorted} columns; they are told apart in f32, which counts to {EXACT}"));
    }
    match op {
        Op::Age(o) if o.tokens > i32::MAX as u32 => refuse(format!("{} tokens at once", o.tokens)),
        _ => Ok(()),
    }
}

fn known<T: PartialEq>(kinds: &[(T, &str)], kind: &T) -> bool {
    kinds.iter().any(|(k, _)| k == kind)
}

fn is_defined(op: &Op) -> bool {
    match op {
        Op::Gemm(o) => known(Act::ALL, &o.act),
        Op::Map(o) => known(MapKind::ALL, &o.kind),
        Op::Reduce(o) => known(ReduceKind::ALL, &o.kind),
        Op::Penalty(o) => known(PenaltyKind::ALL, &o.kind),
        Op::Random(o) => known(RandomKind::ALL, &o.kind),
        Op::Fill(o) => o.y.dtype.bytes() > 0,
        Op::Copy(o) => o.y.dtype.bytes() > 0,
        _ => true,
    }
}

/// Queues the operators of an op.
pub(super) fn launch(s: &mut AscendStream, op: &Op) -> Result<()> {
    match op {
        Op::Gemm(o) => dense::gemm(s, o),
        Op::Fill(o) => dense::fill(s, o),
        Op::Copy(o) => dense::copy(s, o),
        Op::Gather(o) => dense::gather(s, o),
        Op::Map(o) => dense::map(s, o),
        Op::Reduce(o) => dense::reduce(s, o),
        Op::Random(o) => dense::random(s, o),
        Op::Norm(o) => model::norm(s, o),
        Op::CrossEntropy(o) => model::cross_entropy(s, o),
        Op::Rope(o) => model::rope(s, o),
        Op::Attention(o) => model::attention(s, o),
        Op::AttentionGrad(o) => model::attention_grad(s, o),
        Op::TopK(o) => select::topk(s, o),
        Op::Threshold(o) => select::threshold(s, o),
        Op::Compact(o) => select::compact(s, o),
        Op::Gate(o) => select::gate(s, o),
        Op::GateGrad(o) => select::gate_grad(s, o),
        Op::Penalty(o) => train::penalty(s, o),
        Op::ThresholdPenalty(o) => train::threshold_penalty(s, o),
        Op::SparseMul(o) => sparse::sparse_mul(s, o),
        Op::Scatter(o) => sparse::scatter(s, o),
        Op::Confine(o) => sparse::confine(s, o),
        Op::SparseDot(o) => sparse::sparse_dot(s, o),
        Op::SortByColumn(o) => sparse::sort_by_column(s, o),
        Op::SparseOuter(o) => sparse::sparse_outer(s, o),
        Op::Activity(o) => train::activity(s, o),
        Op::Age(o) => train::age(s, o),
        Op::Adam(o) => train::adam(s, o),
    }
}
