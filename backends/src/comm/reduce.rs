//! Reductions of several ranks' values on the host, always in the order of the ranks, so that all ranks and all repetitions get the
//! same bits.

use half::{bf16, f16};
use lm_saes_runtime::{DType, Reduction};

/// What an element is computed in.
trait Value: bytemuck::Pod {
    fn join(self, other: Self, how: Reduction) -> Self;
}

macro_rules! value {
    ($t:ty, $sum:expr) => {
        impl Value for $t {
            fn join(self, other: Self, how: Reduction) -> Self {
                match how {
                    Reduction::Sum => $sum(self, other),
                    Reduction::Max if other > self => other,
                    Reduction::Min if other < self => other,
                    _ => self,
                }
            }
        }
    };
}
value!(f32, |a: f32, b: f32| a + b);
value!(u32, u32::wrapping_add);
value!(i32, i32::wrapping_add);
value!(u8, u8::wrapping_add);

/// The reduction of equally long `parts` into `out`.
///
/// A comparison with NaN keeps what came first; a sum with NaN is NaN.
pub(super) fn reduce(parts: &[&[u8]], dtype: DType, how: Reduction, out: &mut [u8]) {
    match dtype {
        DType::F32 => plain::<f32>(parts, how, out),
        DType::U32 => plain::<u32>(parts, how, out),
        DType::I32 => plain::<i32>(parts, how, out),
        DType::BF16 => narrow(parts, how, out, bf16::to_f32, bf16::from_f32),
        DType::F16 => narrow(parts, how, out, f16::to_f32, f16::from_f32),
        _ => plain::<u8>(parts, how, out),
    }
}

/// Elements that are joined as they are. Passes over a piece that stays in the cache, part after part.
fn plain<T: Value>(parts: &[&[u8]], how: Reduction, out: &mut [u8]) {
    const PIECE: usize = 16 << 10;
    let size = size_of::<T>();
    for at in (0..out.len()).step_by(PIECE) {
        let piece = at..(at + PIECE).min(out.len());
        let Some((first, others)) = parts.split_first() else { return };
        let out = &mut out[piece.clone()];
        out.copy_from_slice(&first[piece.clone()]);
        for part in others {
            for (o, p) in out.chunks_exact_mut(size).zip(part[piece.clone()].chunks_exact(size)) {
                let joined = bytemuck::pod_read_unaligned::<T>(o).join(bytemuck::pod_read_unaligned(p), how);
                o.copy_from_slice(bytemuck::bytes_of(&joined));
            }
        }
    }
}

/// Narrow floats, joined in f32 and rounded once at the end.
fn narrow<T: bytemuck::Pod>(
    parts: &[&[u8]],
    how: Reduction,
    out: &mut [u8],
    widen: fn(T) -> f32,
    round: fn(f32) -> T,
) {
    let size = size_of::<T>();
    for (i, o) in out.chunks_exact_mut(size).enumerate() {
        let mut values =
            parts.iter().map(|p| widen(bytemuck::pod_read_unaligned(&p[i * size..(i + 1) * size])));
        let Some(first) = values.next() else { return };
        o.copy_from_slice(bytemuck::bytes_of(&round(values.fold(first, |a, b| a.join(b, how)))));
    }
}
