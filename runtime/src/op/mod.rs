//! The operations, as data. One `repr(C)` struct per op; the same value is asked about (`Device::supports`), executed,
//! traced, recorded, sent to plugins, and listed as a conformance or bench case. The doc comment of each struct is its
//! contract: what [`crate::Queue`] checks and what every back end must compute. Accumulation is f32 or wider.
//!
//! Rules for all ops: decisions (which entry passes, ties, windows) compare f32 values, each product or difference rounded
//! to f32, never fused, so every device decides alike. With `beta == 0` the old output is not read. A condition selects, it
//! does not multiply: NaN times a false condition is 0. Matrices without elements are legal everywhere.

mod dense;
mod model;
mod modes;
mod operand;
mod select;
mod sparse;
mod train;

pub use dense::{Copy, Fill, Gather, Gemm, Map, Random, Reduce};
pub use model::{Attention, AttentionGrad, CrossEntropy, Norm, Rope};
pub use modes::{Act, MapKind, PenaltyKind, RandomKind, ReduceKind};
pub use operand::{ByColumn, Mat, Sparse};
pub use select::{Compact, Gate, GateGrad, Threshold, TopK};
pub use sparse::{Confine, Scatter, SortByColumn, SparseDot, SparseMul, SparseOuter};
pub use train::{Activity, Adam, Age, Penalty, ThresholdPenalty};

macro_rules! ops {
    ($($tag:literal $name:ident),* $(,)?) => {
        /// One operation.
        #[derive(Clone, ::core::marker::Copy, Debug)]
        pub enum Op { $(#[allow(missing_docs)] $name($name)),* }
        $(impl From<$name> for Op { fn from(op: $name) -> Self { Op::$name(op) } })*
        impl Op {
            /// Name as printed in errors, traces and the support matrix.
            pub const fn name(&self) -> &'static str { match self { $(Op::$name(_) => stringify!($name)),* } }
            /// Stable number used across the plugin table.
            pub const fn tag(&self) -> u32 { match self { $(Op::$name(_) => $tag),* } }
            /// The payload as raw bytes for the plugin table: pointer and size.
            pub fn payload(&self) -> (*const std::ffi::c_void, usize) {
                match self { $(Op::$name(p) => (std::ptr::from_ref(p).cast(), size_of::<$name>())),* }
            }
            /// The op a plugin table brought; `None` for a tag or size this version does not define.
            ///
            /// # Safety
            /// `payload` points to `size` readable bytes.
            pub(crate) unsafe fn from_payload(tag: u32, payload: *const std::ffi::c_void, size: usize) -> Option<Self> {
                match tag {
                    // SAFETY: the caller vouches for `size` bytes; every bit pattern is a value of these structs of numbers.
                    $($tag if size == size_of::<$name>() => Some(Op::$name(unsafe { payload.cast::<$name>().read_unaligned() })),)*
                    _ => None,
                }
            }
            /// Every op's name, in tag order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

ops! {
    1 Gemm, 2 Fill, 3 Copy, 4 Gather, 5 Map, 6 Reduce, 7 Norm, 8 CrossEntropy, 9 Rope, 10 Attention,
    11 TopK, 12 Threshold, 13 Compact, 14 Gate, 15 GateGrad, 16 Penalty, 17 ThresholdPenalty,
    18 SparseMul, 19 SparseDot, 20 SortByColumn, 21 SparseOuter, 22 Activity, 23 Age, 24 Adam, 25 Random, 26 AttentionGrad, 27 Scatter,
    28 Confine,
}
