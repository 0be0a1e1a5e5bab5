//! Every operator with its arguments in the order of the C interface, its element types and its chips. Source: the operators'
//! pages (CANN 9.x) and the headers of CANN 8.1 for the signatures; 9.x lists fewer operators for 310P than 8.1 did.

use super::{Param, Spec, elementwise as el, indexing as ix, making as mk, normalise as nm, ordering as od};
use super::{product, reduce as rd};
use crate::{
    abi::*,
    executor::{Raw, Role, phase1, phase2},
};
use std::ffi::c_void;

/// Types of arguments, short.
pub type T = *const aclTensor;
pub type O = *mut aclTensor;
pub type S = *const aclScalar;
pub type I = *const aclIntArray;
pub type Dt = aclDataType;

trait IntoRaw {
    fn raw(self) -> Raw;
}
impl<A> IntoRaw for *const A {
    fn raw(self) -> Raw {
        Raw::Object(self.addr())
    }
}
impl<A> IntoRaw for *mut A {
    fn raw(self) -> Raw {
        Raw::Object(self.addr())
    }
}
macro_rules! into_int {
    ($($t:ty),*) => {$(
        impl IntoRaw for $t {
            fn raw(self) -> Raw { Raw::Int(self as i64) }
        }
    )*};
}
into_int!(i8, i32, i64, u64, bool);
impl IntoRaw for f64 {
    fn raw(self) -> Raw {
        Raw::Float(self)
    }
}

macro_rules! operators {
    ($($name:ident($($role:ident $arg:ident: $ty:ident $([$types:expr])?),*) $chips:ident $noisy:ident => $build:path;)*) => {
        $(
            mod $name {
                use super::*;
                static SPEC: Spec = Spec {
                    name: stringify!($name),
                    params: &[$(Param {
                        role: Role::$role,
                        name: stringify!($arg),
                        types: operators!(@types $($types)?),
                    }),*],
                    chips: $chips,
                    noisy: $noisy,
                    build: $build,
                };
                #[unsafe(export_name = concat!("aclnn", stringify!($name), "GetWorkspaceSize"))]
                extern "C" fn size($($arg: $ty,)* size: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus {
                    let symbol = concat!("aclnn", stringify!($name), "GetWorkspaceSize");
                    if let Some(code) = crate::world::injected(symbol) {
                        return code;
                    }
                    phase1(&SPEC, &[$($arg.raw()),*], size, executor)
                }
                #[unsafe(export_name = concat!("aclnn", stringify!($name)))]
                extern "C" fn run(
                    workspace: *mut c_void,
                    size: u64,
                    executor: *mut aclOpExecutor,
                    stream: aclrtStream,
                ) -> aclnnStatus {
                    let failure = crate::world::injected(concat!("aclnn", stringify!($name)));
                    // The executor is consumed whether the operator runs or fails.
                    if let Some(code) = failure {
                        if !executor.is_null() {
                            crate::executor::destroy(executor);
                        }
                        return code;
                    }
                    phase2(SPEC.name, workspace, size, executor, stream)
                }
            }
        )*
        /// Name and argument types of every operator.
        pub const PROTOTYPES: &[(&str, &[&str])] = &[$((stringify!($name), &[$(stringify!($ty)),*])),*];
    };
    (@types) => { &[] };
    (@types $types:expr) => { $types };
}

const ALL: u8 = 31;
const NO_310P: u8 = 29;
/// Atlas A2, A3 and Ascend 950.
const NEW: u8 = 28;
const NO_910: u8 = 30;
const A2_A3: u8 = 12;

#[allow(non_upper_case_globals)]
const noisy: bool = true;
#[allow(non_upper_case_globals)]
const exact: bool = false;

/// f32, f16, bf16.
const FLOATS: &[i64] = &[ACL_FLOAT, ACL_FLOAT16, ACL_BF16];
const FLOATS64: &[i64] = &[ACL_FLOAT, ACL_FLOAT16, ACL_BF16, ACL_DOUBLE];
/// What arithmetic is documented for; there is no unsigned type of more than a byte.
const NUMBERS: &[i64] = &[
    ACL_FLOAT,
    ACL_FLOAT16,
    ACL_DOUBLE,
    ACL_INT32,
    ACL_INT64,
    ACL_INT16,
    ACL_INT8,
    ACL_UINT8,
    ACL_BOOL,
    ACL_BF16,
];
const CLAMPED: &[i64] =
    &[ACL_FLOAT16, ACL_FLOAT, ACL_INT8, ACL_UINT8, ACL_INT16, ACL_INT32, ACL_INT64, ACL_BOOL, ACL_BF16];
const EVERY: &[i64] = &[
    ACL_FLOAT,
    ACL_FLOAT16,
    ACL_DOUBLE,
    ACL_INT8,
    ACL_UINT8,
    ACL_INT16,
    ACL_UINT16,
    ACL_INT32,
    ACL_UINT32,
    ACL_INT64,
    ACL_UINT64,
    ACL_BOOL,
    ACL_BF16,
];
/// What is compared for being equal, for not being equal, for not being greater.
const EQUAL: &[i64] = &[
    ACL_DOUBLE,
    ACL_FLOAT16,
    ACL_FLOAT,
    ACL_BF16,
    ACL_INT64,
    ACL_INT32,
    ACL_INT8,
    ACL_UINT8,
    ACL_BOOL,
    ACL_INT16,
    ACL_UINT32,
    ACL_UINT64,
];
const UNEQUAL: &[i64] = &[
    ACL_DOUBLE,
    ACL_FLOAT16,
    ACL_FLOAT,
    ACL_BF16,
    ACL_INT64,
    ACL_INT32,
    ACL_INT8,
    ACL_UINT8,
    ACL_BOOL,
    ACL_INT16,
    ACL_UINT64,
];
const AT_MOST: &[i64] = &[
    ACL_INT8,
    ACL_UINT8,
    ACL_INT16,
    ACL_INT32,
    ACL_INT64,
    ACL_FLOAT16,
    ACL_UINT16,
    ACL_BF16,
    ACL_FLOAT,
    ACL_DOUBLE,
    ACL_BOOL,
    ACL_UINT64,
];
const SIGNED: &[i64] = &[ACL_INT8, ACL_INT32, ACL_INT64, ACL_FLOAT16, ACL_BF16, ACL_FLOAT, ACL_DOUBLE];
const TANH: &[i64] =
    &[ACL_FLOAT, ACL_FLOAT16, ACL_BOOL, ACL_UINT8, ACL_INT8, ACL_INT16, ACL_INT32, ACL_INT64, ACL_BF16];
const SUMMED_UP: &[i64] =
    &[ACL_FLOAT, ACL_FLOAT16, ACL_BF16, ACL_INT32, ACL_INT64, ACL_INT16, ACL_INT8, ACL_UINT8, ACL_BOOL];
const RELU: &[i64] = &[ACL_FLOAT, ACL_FLOAT16, ACL_INT8, ACL_INT32, ACL_INT64, ACL_BF16];
const EXP: &[i64] = &[ACL_FLOAT, ACL_FLOAT16, ACL_DOUBLE, ACL_BOOL, ACL_INT64, ACL_BF16];
const INDEX: &[i64] = &[ACL_INT64, ACL_INT32];
const INT64: &[i64] = &[ACL_INT64];
const SEARCHED: &[i64] =
    &[ACL_DOUBLE, ACL_FLOAT, ACL_FLOAT16, ACL_UINT8, ACL_INT8, ACL_INT16, ACL_INT32, ACL_INT64];
const ORDERED: &[i64] = &[
    ACL_INT8,
    ACL_UINT8,
    ACL_INT16,
    ACL_INT32,
    ACL_INT64,
    ACL_FLOAT16,
    ACL_FLOAT,
    ACL_DOUBLE,
    ACL_BF16,
    ACL_UINT16,
    ACL_UINT32,
    ACL_UINT64,
];
const SORTED: &[i64] = &[
    ACL_BF16,
    ACL_FLOAT16,
    ACL_FLOAT,
    ACL_INT8,
    ACL_INT16,
    ACL_INT32,
    ACL_INT64,
    ACL_UINT8,
    ACL_UINT16,
    ACL_UINT32,
    ACL_UINT64,
    ACL_BOOL,
];
const SUMMED: &[i64] =
    &[ACL_FLOAT, ACL_FLOAT16, ACL_INT32, ACL_DOUBLE, ACL_UINT8, ACL_INT8, ACL_INT16, ACL_INT64, ACL_BF16];
const MASKED: &[i64] = &[ACL_BOOL, ACL_INT8, ACL_INT32, ACL_INT64, ACL_FLOAT, ACL_FLOAT16, ACL_BF16];
const FLAGS: &[i64] = &[ACL_BOOL, ACL_UINT8];
const RANGED: &[i64] = &[ACL_FLOAT16, ACL_FLOAT, ACL_DOUBLE, ACL_INT32, ACL_INT64, ACL_BF16];
const ZEROED: &[i64] = &[
    ACL_INT8,
    ACL_INT32,
    ACL_INT64,
    ACL_UINT8,
    ACL_FLOAT16,
    ACL_FLOAT,
    ACL_BOOL,
    ACL_DOUBLE,
    ACL_INT16,
    ACL_UINT16,
    ACL_BF16,
];
const ONES: &[i64] = &[
    ACL_FLOAT,
    ACL_FLOAT16,
    ACL_DOUBLE,
    ACL_INT8,
    ACL_INT16,
    ACL_INT32,
    ACL_INT64,
    ACL_UINT8,
    ACL_UINT16,
    ACL_BOOL,
    ACL_BF16,
];

operators! {
    Matmul(input self_: T[FLOATS], input mat2: T[FLOATS], out out: O[FLOATS], value cubeMathType: i8)
        ALL noisy => product::matmul;
    Mm(input self_: T[FLOATS], input mat2: T[FLOATS], out out: O[FLOATS], value cubeMathType: i8) ALL noisy => product::mm;
    BatchMatMul(input self_: T[FLOATS], input mat2: T[FLOATS], out out: O[FLOATS], value cubeMathType: i8)
        ALL noisy => product::bmm;
    Addmm(input self_: T[FLOATS], input mat1: T[FLOATS], input mat2: T[FLOATS], value beta: S, value alpha: S,
        out out: O[FLOATS], value cubeMathType: i8) ALL noisy => product::addmm;
    InplaceAddmm(both selfRef: T[FLOATS], input mat1: T[FLOATS], input mat2: T[FLOATS], value beta: S, value alpha: S,
        value cubeMathType: i8) ALL noisy => product::inplace_addmm;

    Add(input self_: T[NUMBERS], input other: T[NUMBERS], value alpha: S, out out: O[NUMBERS]) NO_310P exact => el::add;
    Adds(input self_: T[NUMBERS], value other: S, value alpha: S, out out: O[NUMBERS]) ALL exact => el::adds;
    InplaceAdd(both selfRef: T[NUMBERS], input other: T[NUMBERS], value alpha: S) NO_310P exact => el::inplace_add;
    InplaceAdds(both selfRef: T[NUMBERS], value other: S, value alpha: S) NO_310P exact => el::inplace_adds;
    Sub(input self_: T[NUMBERS], input other: T[NUMBERS], value alpha: S, out out: O[NUMBERS]) NO_310P exact => el::sub;
    Subs(input self_: T[NUMBERS], value other: S, value alpha: S, out out: O[NUMBERS]) ALL exact => el::subs;
    InplaceSub(both selfRef: O[NUMBERS], input other: T[NUMBERS], value alpha: S) NO_310P exact => el::inplace_sub;
    InplaceSubs(both selfRef: O[NUMBERS], value other: S, value alpha: S) NO_310P exact => el::inplace_subs;
    Mul(input self_: T[NUMBERS], input other: T[NUMBERS], out out: O[NUMBERS]) ALL exact => el::mul;
    Muls(input self_: T[NUMBERS], value other: S, out out: O[NUMBERS]) ALL exact => el::muls;
    InplaceMul(both selfRef: O[NUMBERS], input other: T[NUMBERS]) ALL exact => el::inplace_mul;
    InplaceMuls(both selfRef: O[NUMBERS], value other: S) ALL exact => el::inplace_muls;
    Div(input self_: T[NUMBERS], input other: T[NUMBERS], out out: O[NUMBERS]) NO_310P noisy => el::div;
    Divs(input self_: T[NUMBERS], value other: S, out out: O[NUMBERS]) NO_310P noisy => el::divs;
    Neg(input self_: T[SIGNED], out out: O[SIGNED]) NO_310P exact => el::neg;
    Reciprocal(input self_: T[NUMBERS], out out: O[FLOATS64]) ALL noisy => el::reciprocal;
    PowTensorScalar(input self_: T[NUMBERS], value exponent: S, out out: T[EVERY]) ALL noisy => el::pow_scalar;
    Abs(input self_: T[NUMBERS], out out: O[NUMBERS]) ALL exact => el::abs;
    Clamp(input self_: T[CLAMPED], value_option clipValueMin: S, value_option clipValueMax: S, out out: O[CLAMPED])
        ALL exact => el::clamp;
    Relu(input self_: T[RELU], out out: T[RELU]) NO_310P exact => el::relu;
    GeluV2(input x: T[FLOATS], value approximate: i64, out y: O[FLOATS]) ALL noisy => el::gelu;
    Silu(input self_: T[FLOATS], out out: O[FLOATS]) ALL noisy => el::silu;
    Tanh(input self_: T[TANH], out out: O[FLOATS]) NO_310P noisy => el::tanh;
    Exp(input self_: T[EXP], out out: O[FLOATS64]) NEW noisy => el::exp;
    Sqrt(input self_: T[NUMBERS], out out: O[FLOATS64]) NO_310P exact => el::sqrt;

    Softmax(input self_: T[FLOATS64], value dim: i64, out out: O[FLOATS64]) ALL noisy => nm::softmax;
    LogSumExp(input self_: T[SUMMED_UP], value dim: I, value keepDim: bool, out out: O[FLOATS]) ALL noisy => rd::log_sum_exp;
    LayerNorm(input input: T[FLOATS], value normalizedShape: I, option weightOptional: T[FLOATS],
        option biasOptional: T[FLOATS], value eps: f64, out out: O[FLOATS], out_option meanOutOptional: O[FLOATS],
        out_option rstdOutOptional: O[FLOATS]) NO_310P noisy => nm::layer_norm;
    RmsNorm(input x: T[FLOATS], input gamma: T[FLOATS], value epsilon: f64, out yOut: T[FLOATS],
        out rstdOut: T[&[ACL_FLOAT]]) NO_910 noisy => nm::rms_norm;

    IndexSelect(input self_: T[EVERY], value dim: i64, input index: T[INDEX], out out: O[EVERY]) ALL exact => ix::index_select;
    Gather(input self_: T[EVERY], value dim: i64, input index: T[INDEX], out out: O[EVERY]) A2_A3 exact => ix::gather;
    EmbeddingBag(input weight: T[FLOATS], input indices: T[INDEX], input offsets: T[INDEX], value scaleGradByFreq: bool,
        value mode: i64, value sparse: bool, option perSampleWeights: T[FLOATS], value includeLastOffset: bool,
        value paddingIdx: i64, out output: O[FLOATS], out offset2bag: O[INDEX], out bagSize: O[INDEX],
        out maxIndices: O[INDEX]) ALL noisy => ix::embedding_bag;
    ScatterAdd(input self_: T[NUMBERS], value dim: i64, input index: T[INDEX], input src: T[NUMBERS], out out: O[NUMBERS])
        NEW noisy => ix::scatter_add;
    InplaceScatter(both selfRef: O[NUMBERS], value dim: i64, input index: T[INDEX], input src: T[NUMBERS],
        value reduce: i64) NEW exact => ix::inplace_scatter;
    SearchSorted(input sortedSequence: T[SEARCHED], input self_: T[SEARCHED], value outInt32: bool, value right: bool,
        option sorter: T[INT64], out out: O[INDEX]) NO_310P exact => od::search_sorted;
    Topk(input self_: T[ORDERED], value k: i64, value dim: i64, value largest: bool, value sorted: bool,
        out valuesOut: O[ORDERED], out indicesOut: O[INT64]) ALL exact => od::topk;
    Sort(input self_: T[SORTED], value stable: bool, value dim: i64, value descending: bool, out valuesOut: O[SORTED],
        out indicesOut: O[INT64]) ALL exact => od::sort;

    ReduceSum(input self_: T[NUMBERS], value_option dims: I, value keepDims: bool, value dtype: Dt, out out: O[NUMBERS])
        ALL noisy => rd::sum;
    Amax(input self_: T[NUMBERS], value_option dim: I, value keepDim: bool, out out: O[NUMBERS]) ALL exact => rd::amax;
    Any(input self_: T[NUMBERS], value_option dim: I, value keepdim: bool, out out: O[FLAGS]) ALL exact => rd::any;
    Cumsum(input self_: T[SUMMED], value dim: i64, value dtype: Dt, out out: O[SUMMED]) ALL noisy => rd::cumsum;

    Cast(input self_: T[EVERY], value dtype: Dt, out out: O[EVERY]) ALL exact => mk::cast;
    InplaceCopy(out selfRef: O[EVERY], input src: T[EVERY]) ALL exact => mk::inplace_copy;
    InplaceFillScalar(out selfRef: O[EVERY], value value: S) ALL exact => mk::fill;
    InplaceZero(out selfRef: O[ZEROED]) ALL exact => mk::zero;
    InplaceOne(out selfRef: T[ONES]) ALL exact => mk::one;
    Arange(value start: S, value end: S, value step: S, out out: O[RANGED]) ALL exact => mk::arange;
    Tril(input self_: T[EVERY], value diagonal: i64, out out: O[EVERY]) NO_310P exact => mk::tril;
    Triu(input self_: T[EVERY], value diagonal: i64, out out: O[EVERY]) ALL exact => mk::triu;

    GtScalar(input self_: T[EVERY], value other: S, out out: O[EVERY]) ALL exact => el::gt_scalar;
    GeScalar(input self_: T[EVERY], value other: S, out out: O[EVERY]) ALL exact => el::ge_scalar;
    LtScalar(input self_: T[EVERY], value other: S, out out: O[EVERY]) NO_310P exact => el::lt_scalar;
    LeScalar(input self_: T[AT_MOST], value other: S, out out: O[EVERY]) ALL exact => el::le_scalar;
    EqScalar(input self_: T[EQUAL], value other: S, out out: O[EVERY]) NO_310P exact => el::eq_scalar;
    NeScalar(input self_: T[UNEQUAL], value other: S, out out: O[EVERY]) NO_310P exact => el::ne_scalar;
    GtTensor(input self_: T[EVERY], input other: T[EVERY], out out: O[EVERY]) ALL exact => el::gt_tensor;
    GeTensor(input self_: T[EVERY], input other: T[EVERY], out out: O[EVERY]) ALL exact => el::ge_tensor;
    LtTensor(input self_: T[EVERY], input other: T[EVERY], out out: O[EVERY]) ALL exact => el::lt_tensor;
    LeTensor(input self_: T[EVERY], input other: T[EVERY], out out: O[EVERY]) ALL exact => el::le_tensor;
    NeTensor(input self_: T[EVERY], input other: T[EVERY], out out: O[EVERY]) NO_310P exact => el::ne_tensor;
    EqTensor(input self_: T[EQUAL], input other: T[EQUAL], out out: O[EVERY]) NO_310P exact => el::eq_tensor;
    LogicalAnd(input self_: T[NUMBERS], input other: T[NUMBERS], out out: O[NUMBERS]) ALL exact => el::logical_and;
    LogicalOr(input self_: T[NUMBERS], input other: T[NUMBERS], out out: O[EVERY]) ALL exact => el::logical_or;
    LogicalNot(input self_: T[NUMBERS], out out: O[NUMBERS]) ALL exact => el::logical_not;
    SWhere(input condition: T[FLAGS], input self_: T, input other: T, out out: O) ALL exact => el::s_where;
    InplaceMaskedFillScalar(both selfRef: O[MASKED], input mask: T[FLAGS], value value: S) ALL exact => el::masked_fill;
}
