//! Half-precision conversions, written so that the compiler can vectorise them.

use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Widens bfloat16.
#[inline(always)]
pub(super) fn bf16_to_f32(src: &[bf16], dst: &mut [f32]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        *d = f32::from_bits(u32::from(s.to_bits()) << 16);
    }
}

/// Widens IEEE half.
#[inline(always)]
pub(super) fn f16_to_f32(src: &[f16], dst: &mut [f32]) {
    src.convert_to_f32_slice(dst);
}

/// Rounds to bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn f32_to_bf16(src: &[f32], dst: &mut [bf16]) {
    for (d, &s) in dst.iter_mut().zip(src) {
        let bits = s.to_bits();
        let rounded = (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet = (bits >> 16) as u16 | 0x40;
        *d = bf16::from_bits(if bits & 0x7FFF_FFFF > 0x7F80_0000 { quiet } else { rounded });
    }
}

/// Rounds to IEEE half, ties to even.
#[inline(always)]
pub(super) fn f32_to_f16(src: &[f32], dst: &mut [f16]) {
    dst.convert_from_f32_slice(src);
}
