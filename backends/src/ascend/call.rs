//! The operators of CANN in use: for each its two functions, its arguments, and the chips it is documented for. One helper runs
//! them all: the first function checks and plans, the second queues the work and consumes the plan.

use super::{
    device::Card,
    load::Api,
    soc::Family,
    stream::AscendStream,
    sys::{aclDataType, aclOpExecutor, aclnnStatus, aclrtStream},
    view::{Argument, In, Ints, Maybe, Num, Out},
};
use lm_saes_runtime::Result;
use std::{ffi::c_void, ptr::null_mut};

/// The second function of every operator.
pub(super) type Launch =
    unsafe extern "C" fn(*mut c_void, u64, *mut aclOpExecutor, aclrtStream) -> aclnnStatus;

/// An operator: its name, the families of chips it is documented for, and whether a CANN has it.
pub(super) struct Operator {
    pub(super) name: &'static str,
    pub(super) families: u8,
    pub(super) present: fn(&Api) -> bool,
}

const NEW: u8 = Family::A2.0 | Family::A3.0 | Family::A5.0;
const FIRST: u8 = NEW | Family::FIRST.0;
const INFERENCE: u8 = NEW | Family::INFERENCE.0;
const ALL: u8 = FIRST | INFERENCE;
const ATLAS: u8 = Family::A2.0 | Family::A3.0;

macro_rules! operators {
    ($($method:ident: $plan:ident, $launch:ident on $families:ident ($($arg:ident: $kind:ty),* $(,)?);)*) => {
        impl AscendStream {$(
            #[doc = concat!("`", stringify!($launch), "`.")]
            pub(super) fn $method(&mut self, $($arg: <$kind as Argument>::Given),*) -> Result<()> {
                const NAME: &str = stringify!($launch);
                self.note(NAME)?;
                let api = self.card.api;
                let plan = api.operator(|f| &f.$plan).ok_or_else(|| self.card.missing(NAME))?;
                let launch: Launch = api.operator(|f| &f.$launch).ok_or_else(|| self.card.missing(NAME))?;
                $(let $arg = <$kind as Argument>::hold(&self.card, $arg)?;)*
                let (mut bytes, mut executor) = (0, null_mut());
                // SAFETY: the types are those of the bindings; every descriptor lives until after the launch below, and its
                // memory is live on this device, as the caller of the op vouches.
                let code = unsafe { plan($(<$kind as Argument>::raw(&$arg)),*, &mut bytes, &mut executor) };
                if code != 0 {
                    return Err(self.failed(NAME, code));
                }
                self.run(NAME, launch, bytes, executor)
            }
        )*}

        /// Every operator in use.
        pub(super) const OPERATORS: &[Operator] = &[$(Operator {
            name: stringify!($launch),
            families: $families,
            present: |api| api.operator(|f| &f.$plan).is_some() && api.operator(|f| &f.$launch).is_some(),
        }),*];
    };
}

operators! {
    matmul: aclnnMatmulGetWorkspaceSize, aclnnMatmul on ALL (a: In, b: In, out: Out, cube: i8);
    inplace_addmm: aclnnInplaceAddmmGetWorkspaceSize, aclnnInplaceAddmm on ALL
        (c: Out, a: In, b: In, beta: Num, alpha: Num, cube: i8);
    add: aclnnAddGetWorkspaceSize, aclnnAdd on FIRST (x: In, z: In, alpha: Num, out: Out);
    adds: aclnnAddsGetWorkspaceSize, aclnnAdds on ALL (x: In, number: Num, alpha: Num, out: Out);
    inplace_add: aclnnInplaceAddGetWorkspaceSize, aclnnInplaceAdd on FIRST (x: Out, z: In, alpha: Num);
    inplace_adds: aclnnInplaceAddsGetWorkspaceSize, aclnnInplaceAdds on FIRST (x: Out, number: Num, alpha: Num);
    sub: aclnnSubGetWorkspaceSize, aclnnSub on FIRST (x: In, z: In, alpha: Num, out: Out);
    mul: aclnnMulGetWorkspaceSize, aclnnMul on ALL (x: In, z: In, out: Out);
    muls: aclnnMulsGetWorkspaceSize, aclnnMuls on ALL (x: In, number: Num, out: Out);
    inplace_mul: aclnnInplaceMulGetWorkspaceSize, aclnnInplaceMul on ALL (x: Out, z: In);
    inplace_muls: aclnnInplaceMulsGetWorkspaceSize, aclnnInplaceMuls on ALL (x: Out, number: Num);
    div: aclnnDivGetWorkspaceSize, aclnnDiv on FIRST (x: In, z: In, out: Out);
    reciprocal: aclnnReciprocalGetWorkspaceSize, aclnnReciprocal on ALL (x: In, out: Out);
    pow: aclnnPowTensorScalarGetWorkspaceSize, aclnnPowTensorScalar on ALL (x: In, exponent: Num, out: In);
    abs: aclnnAbsGetWorkspaceSize, aclnnAbs on ALL (x: In, out: Out);
    clamp: aclnnClampGetWorkspaceSize, aclnnClamp on ALL (x: In, least: Num, most: Num, out: Out);
    relu: aclnnReluGetWorkspaceSize, aclnnRelu on FIRST (x: In, out: In);
    gelu: aclnnGeluV2GetWorkspaceSize, aclnnGeluV2 on ALL (x: In, approximate: i64, out: Out);
    silu: aclnnSiluGetWorkspaceSize, aclnnSilu on ALL (x: In, out: Out);
    tanh: aclnnTanhGetWorkspaceSize, aclnnTanh on FIRST (x: In, out: Out);
    exp: aclnnExpGetWorkspaceSize, aclnnExp on NEW (x: In, out: Out);
    sqrt: aclnnSqrtGetWorkspaceSize, aclnnSqrt on FIRST (x: In, out: Out);
    softmax: aclnnSoftmaxGetWorkspaceSize, aclnnSoftmax on ALL (x: In, dim: i64, out: Out);
    logsumexp: aclnnLogSumExpGetWorkspaceSize, aclnnLogSumExp on ALL (x: In, dims: Ints, keep: bool, out: Out);
    layer_norm: aclnnLayerNormGetWorkspaceSize, aclnnLayerNorm on FIRST
        (x: In, shape: Ints, gain: Maybe, bias: Maybe, eps: f64, out: Out, mean: Out, rstd: Out);
    rms_norm: aclnnRmsNormGetWorkspaceSize, aclnnRmsNorm on INFERENCE (x: In, gain: In, eps: f64, out: In, rstd: In);
    index_select: aclnnIndexSelectGetWorkspaceSize, aclnnIndexSelect on ALL (x: In, dim: i64, index: In, out: Out);
    gather: aclnnGatherGetWorkspaceSize, aclnnGather on ATLAS (x: In, dim: i64, index: In, out: Out);
    embedding_bag: aclnnEmbeddingBagGetWorkspaceSize, aclnnEmbeddingBag on ALL
        (weight: In, indices: In, offsets: In, by_frequency: bool, mode: i64, sparse: bool, weights: Maybe,
         last_offset: bool, padding: i64, out: Out, bags: Out, sizes: Out, maxima: Out);
    scatter_add: aclnnScatterAddGetWorkspaceSize, aclnnScatterAdd on NEW (x: In, dim: i64, index: In, src: In, out: Out);
    inplace_scatter: aclnnInplaceScatterGetWorkspaceSize, aclnnInplaceScatter on NEW
        (x: Out, dim: i64, index: In, src: In, reduce: i64);
    search_sorted: aclnnSearchSortedGetWorkspaceSize, aclnnSearchSorted on FIRST
        (sorted: In, values: In, int32: bool, right: bool, sorter: Maybe, out: Out);
    topk: aclnnTopkGetWorkspaceSize, aclnnTopk on ALL
        (x: In, k: i64, dim: i64, largest: bool, sorted: bool, values: Out, indices: Out);
    sort: aclnnSortGetWorkspaceSize, aclnnSort on ALL
        (x: In, stable: bool, dim: i64, descending: bool, values: Out, indices: Out);
    reduce_sum: aclnnReduceSumGetWorkspaceSize, aclnnReduceSum on ALL
        (x: In, dims: Ints, keep: bool, dtype: aclDataType, out: Out);
    amax: aclnnAmaxGetWorkspaceSize, aclnnAmax on ALL (x: In, dims: Ints, keep: bool, out: Out);
    any: aclnnAnyGetWorkspaceSize, aclnnAny on ALL (x: In, dims: Ints, keep: bool, out: Out);
    cumsum: aclnnCumsumGetWorkspaceSize, aclnnCumsum on ALL (x: In, dim: i64, dtype: aclDataType, out: Out);
    cast: aclnnCastGetWorkspaceSize, aclnnCast on ALL (x: In, dtype: aclDataType, out: Out);
    copy: aclnnInplaceCopyGetWorkspaceSize, aclnnInplaceCopy on ALL (y: Out, x: In);
    fill: aclnnInplaceFillScalarGetWorkspaceSize, aclnnInplaceFillScalar on ALL (y: Out, value: Num);
    ones: aclnnInplaceOneGetWorkspaceSize, aclnnInplaceOne on ALL (y: In);
    arange: aclnnArangeGetWorkspaceSize, aclnnArange on ALL (from: Num, to: Num, step: Num, out: Out);
    tril: aclnnTrilGetWorkspaceSize, aclnnTril on FIRST (x: In, diagonal: i64, out: Out);
    triu: aclnnTriuGetWorkspaceSize, aclnnTriu on ALL (x: In, diagonal: i64, out: Out);
    gt_scalar: aclnnGtScalarGetWorkspaceSize, aclnnGtScalar on ALL (x: In, number: Num, out: Out);
    ge_scalar: aclnnGeScalarGetWorkspaceSize, aclnnGeScalar on ALL (x: In, number: Num, out: Out);
    lt_scalar: aclnnLtScalarGetWorkspaceSize, aclnnLtScalar on FIRST (x: In, number: Num, out: Out);
    le_scalar: aclnnLeScalarGetWorkspaceSize, aclnnLeScalar on ALL (x: In, number: Num, out: Out);
    eq_scalar: aclnnEqScalarGetWorkspaceSize, aclnnEqScalar on FIRST (x: In, number: Num, out: Out);
    ne_scalar: aclnnNeScalarGetWorkspaceSize, aclnnNeScalar on FIRST (x: In, number: Num, out: Out);
    gt: aclnnGtTensorGetWorkspaceSize, aclnnGtTensor on ALL (x: In, z: In, out: Out);
    ge: aclnnGeTensorGetWorkspaceSize, aclnnGeTensor on ALL (x: In, z: In, out: Out);
    eq: aclnnEqTensorGetWorkspaceSize, aclnnEqTensor on FIRST (x: In, z: In, out: Out);
    logical_and: aclnnLogicalAndGetWorkspaceSize, aclnnLogicalAnd on ALL (x: In, z: In, out: Out);
    logical_or: aclnnLogicalOrGetWorkspaceSize, aclnnLogicalOr on ALL (x: In, z: In, out: Out);
    logical_not: aclnnLogicalNotGetWorkspaceSize, aclnnLogicalNot on ALL (x: In, out: Out);
    choose: aclnnSWhereGetWorkspaceSize, aclnnSWhere on ALL (condition: In, x: In, z: In, out: Out);
    masked_fill: aclnnInplaceMaskedFillScalarGetWorkspaceSize, aclnnInplaceMaskedFillScalar on ALL
        (y: Out, mask: In, value: Num);
}

impl AscendStream {
    /// Queues the work of a planned operator. Its workspace may be used again at once: the stream runs in order.
    fn run(
        &mut self,
        name: &'static str,
        launch: Launch,
        bytes: u64,
        executor: *mut aclOpExecutor,
    ) -> Result<()> {
        let mark = self.scratch.mark();
        let workspace = if bytes == 0 { Ok(0) } else { self.scratch.take(bytes, self.recording) };
        let (workspace, stream) = match workspace.and_then(|w| Ok((w, self.handle.raw()?))) {
            Ok(ready) => ready,
            Err(e) => {
                if let Some(destroy) = self.card.api.descriptor(|f| &f.aclDestroyAclOpExecutor) {
                    // SAFETY: planned above and never launched.
                    let _ = unsafe { destroy(executor) };
                }
                return Err(e);
            }
        };
        // SAFETY: the executor was planned just now and is consumed here; the workspace has the size asked for and belongs to
        // this stream until it is destroyed.
        let code = unsafe { launch(workspace as *mut c_void, bytes, executor, stream) };
        self.scratch.release(mark);
        if code == 0 { Ok(()) } else { Err(self.failed(name, code)) }
    }
}

/// The operators among `names` that this chip or this CANN lacks, in words.
pub(super) fn lacking(card: &Card, names: &[&str]) -> Option<String> {
    let of = |name: &&str| OPERATORS.iter().find(|o| o.name == *name);
    for operator in names.iter().filter_map(of) {
        if card.soc.is_some_and(|s| operator.families & s.family.0 == 0) {
            let chip = card.soc.map_or("this chip", |s| s.name);
            return Some(format!("{} is not documented for {chip} ({})", operator.name, card.chip));
        }
        if !(operator.present)(card.api) {
            return Some(card.api.missing(operator.name));
        }
    }
    None
}
