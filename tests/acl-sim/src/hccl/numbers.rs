//! Element types of HCCL and their reductions.

use crate::abi::*;
use half::{bf16, f16};

/// Bytes of an element; `None` for a number that is no type here.
pub fn bytes_of(dtype: HcclDataType) -> Option<u64> {
    Some(match i64::from(dtype) {
        HCCL_DATA_TYPE_INT8 | HCCL_DATA_TYPE_UINT8 => 1,
        HCCL_DATA_TYPE_INT16 | HCCL_DATA_TYPE_UINT16 | HCCL_DATA_TYPE_FP16 | HCCL_DATA_TYPE_BFP16 => 2,
        HCCL_DATA_TYPE_INT32 | HCCL_DATA_TYPE_UINT32 | HCCL_DATA_TYPE_FP32 => 4,
        HCCL_DATA_TYPE_INT64 | HCCL_DATA_TYPE_UINT64 | HCCL_DATA_TYPE_FP64 => 8,
        _ => return None,
    })
}

/// The types that the pages of the reductions name.
pub fn reducible(dtype: HcclDataType) -> bool {
    let types = [
        HCCL_DATA_TYPE_INT8,
        HCCL_DATA_TYPE_INT16,
        HCCL_DATA_TYPE_INT32,
        HCCL_DATA_TYPE_INT64,
        HCCL_DATA_TYPE_FP16,
        HCCL_DATA_TYPE_FP32,
        HCCL_DATA_TYPE_BFP16,
    ];
    types.contains(&i64::from(dtype))
}

/// Reads and writes one element.
trait Value: Sized + Copy {
    const BYTES: usize;
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn join(self, other: Self, op: i64) -> Self;
}

macro_rules! value {
    ($($t:ty, $add:expr, $mul:expr;)*) => {$(
        impl Value for $t {
            const BYTES: usize = std::mem::size_of::<$t>();
            fn read(bytes: &[u8]) -> Self {
                <$t>::from_ne_bytes(bytes.try_into().unwrap_or_default())
            }
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_ne_bytes());
            }
            fn join(self, other: Self, op: i64) -> Self {
                match op {
                    HCCL_REDUCE_SUM => $add(self, other),
                    HCCL_REDUCE_PROD => $mul(self, other),
                    HCCL_REDUCE_MAX if other > self => other,
                    HCCL_REDUCE_MIN if other < self => other,
                    _ => self,
                }
            }
        }
    )*};
}
value! {
    i8, i8::wrapping_add, i8::wrapping_mul;
    i16, i16::wrapping_add, i16::wrapping_mul;
    i32, i32::wrapping_add, i32::wrapping_mul;
    i64, i64::wrapping_add, i64::wrapping_mul;
    f32, |a: f32, b: f32| a + b, |a: f32, b: f32| a * b;
    f16, |a: f16, b: f16| a + b, |a: f16, b: f16| a * b;
    bf16, |a: bf16, b: bf16| a + b, |a: bf16, b: bf16| a * b;
}

/// The parts joined in their order, rounded to the type at every step.
pub fn reduction(parts: &[&[u8]], dtype: HcclDataType, op: HcclReduceOp) -> Vec<u8> {
    let join = match i64::from(dtype) {
        HCCL_DATA_TYPE_INT8 => joined::<i8>,
        HCCL_DATA_TYPE_INT16 => joined::<i16>,
        HCCL_DATA_TYPE_INT32 => joined::<i32>,
        HCCL_DATA_TYPE_INT64 => joined::<i64>,
        HCCL_DATA_TYPE_FP16 => joined::<f16>,
        HCCL_DATA_TYPE_BFP16 => joined::<bf16>,
        _ => joined::<f32>,
    };
    join(parts, i64::from(op))
}

fn joined<T: Value>(parts: &[&[u8]], op: i64) -> Vec<u8> {
    let mut out = parts[0].to_vec();
    for (i, bytes) in out.chunks_exact_mut(T::BYTES).enumerate() {
        let at = i * T::BYTES..(i + 1) * T::BYTES;
        let first = T::read(bytes);
        parts[1..].iter().fold(first, |v, p| v.join(T::read(&p[at.clone()]), op)).write(bytes);
    }
    out
}
