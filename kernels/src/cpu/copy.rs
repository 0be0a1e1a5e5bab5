//! Moving values: fill, copy with conversion, gather of rows.

use super::{Rows, convert, split};
use half::{bf16, f16};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sets every element.
///
/// # Safety
/// `y` is live and nobody else uses it.
pub unsafe fn fill<T: Copy + Send + Sync>(y: Rows<T>, value: T) {
    split::by_tiles(y.rows, y.cols, 1, |rows, cols| {
        for i in rows {
            // SAFETY: rectangles are disjoint.
            unsafe { y.row_mut(i)[cols.clone()].fill(value) }
        }
    });
}

/// Copies elements as they are.
///
/// # Safety
/// `x` and `y` are live, of one shape, and do not overlap; nobody else uses `y`.
pub unsafe fn copy<T: Copy + Send + Sync>(x: Rows<T>, y: Rows<T>) {
    // SAFETY: the caller's contract.
    unsafe { convert_with(x, y, |s, d| d.copy_from_slice(s)) }
}

unsafe fn convert_with<S: Send + Sync, D: Send + Sync>(
    x: Rows<S>,
    y: Rows<D>,
    convert: impl Fn(&[S], &mut [D]) + Sync,
) {
    split::by_tiles(x.rows, x.cols, 1, |rows, cols| {
        for i in rows {
            // SAFETY: rectangles are disjoint, and x and y do not overlap.
            unsafe { convert(&x.row(i)[cols.clone()], &mut y.row_mut(i)[cols.clone()]) }
        }
    });
}

/// Element types that convert to and from f32.
pub trait Real: Copy + Send + Sync {
    /// Widens.
    fn widen(src: &[Self], dst: &mut [f32]);
    /// Rounds to nearest, ties to even.
    fn narrow(src: &[f32], dst: &mut [Self]);
}

impl Real for f32 {
    fn widen(src: &[Self], dst: &mut [f32]) {
        dst.copy_from_slice(src);
    }
    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.copy_from_slice(src);
    }
}

macro_rules! half_real {
    ($t:ident, $widen:ident, $narrow:ident, $to:ident, $from:ident) => {
        multiversion! {
            fn $to(src: &[$t], dst: &mut [f32]) {
                convert::$widen(src, dst)
            }
        }
        multiversion! {
            fn $from(src: &[f32], dst: &mut [$t]) {
                convert::$narrow(src, dst)
            }
        }
        impl Real for $t {
            fn widen(src: &[Self], dst: &mut [f32]) {
                // SAFETY: slices; only the instruction set could be unsafe, and it was detected.
                unsafe { $to(src, dst) }
            }
            fn narrow(src: &[f32], dst: &mut [Self]) {
                // SAFETY: as above.
                unsafe { $from(src, dst) }
            }
        }
    };
}
half_real!(bf16, bf16_to_f32, f32_to_bf16, bf16_widen, bf16_narrow);
half_real!(f16, f16_to_f32, f32_to_f16, f16_widen, f16_narrow);

/// Copies between float types, through f32 (which holds every half value exactly).
///
/// # Safety
/// As [`copy`].
pub unsafe fn convert<S: Real, D: Real>(x: Rows<S>, y: Rows<D>) {
    let through_f32 = |s: &[S], d: &mut [D]| {
        let mut wide = [0f32; 256];
        for (s, d) in s.chunks(256).zip(d.chunks_mut(256)) {
            S::widen(s, &mut wide[..s.len()]);
            D::narrow(&wide[..s.len()], d);
        }
    };
    // SAFETY: the caller's contract.
    unsafe { convert_with(x, y, through_f32) }
}

/// `y[i,:] = table[idx[i],:]` as f32.
///
/// # Errors
/// The first index that is not a row of the table, with its place.
///
/// # Safety
/// `table [V, D]` and `y [idx.len(), D]` are live and do not overlap; nobody else uses `y`.
pub unsafe fn gather<T: Real>(table: Rows<T>, idx: &[u32], y: Rows<f32>) -> Result<(), String> {
    let bad = AtomicUsize::new(usize::MAX);
    split::by_rows(idx.len(), y.cols, |rows| {
        for i in rows {
            let row = idx[i] as usize;
            if row >= table.rows {
                bad.fetch_min(i, Ordering::Relaxed);
                continue;
            }
            // SAFETY: row < V; each row of y is written once.
            unsafe { T::widen(table.row(row), y.row_mut(i)) }
        }
    });
    match bad.into_inner() {
        usize::MAX => Ok(()),
        i => Err(format!("index {} at position {i} is not below {}", idx[i], table.rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::*;

    fn every_half() -> Vec<f16> {
        (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect()
    }

    #[test]
    fn every_half_value_survives_the_way_through_f32() {
        let x = every_half();
        let (mut wide, mut back) = (vec![0f32; x.len()], vec![f16::ZERO; x.len()]);
        // SAFETY: shapes match, memory is distinct.
        unsafe {
            convert(rows_of(&x, 1, x.len()), rows_mut(&mut wide, 1, x.len()));
            convert(rows_of(&wide, 1, x.len()), rows_mut(&mut back, 1, x.len()));
        }
        assert!(x.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(x.iter().zip(&wide).all(|(a, b)| a.to_f32() == *b));
    }

    #[test]
    fn rounding_to_bfloat16_is_to_nearest_even() {
        let x: Vec<f32> = (0..200_000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .chain([
                f32::INFINITY,
                f32::MAX,
                f32::NAN,
                f32::from_bits(0x3F80_8000),
                f32::from_bits(0x3F81_8000),
            ])
            .collect();
        let mut y = vec![bf16::ZERO; x.len()];
        // SAFETY: shapes match, memory is distinct.
        unsafe { convert(rows_of(&x, 1, x.len()), rows_mut(&mut y, 1, x.len())) }
        for (x, y) in x.iter().zip(&y) {
            let want = bf16::from_f32(*x);
            assert!(y.to_bits() == want.to_bits() || (y.is_nan() && x.is_nan()), "{x:e} became {y:e}");
        }
    }

    #[test]
    fn gather_names_the_first_bad_index() {
        let table: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let mut y = vec![0f32; 9];
        // SAFETY: shapes match, memory is distinct.
        let (good, bad) = unsafe {
            let (t, y) = (rows_of(&table, 4, 3), rows_mut(&mut y, 3, 3));
            (gather(t, &[3, 0, 3], y), gather(t, &[1, 4, 9], y))
        };
        assert_eq!(good, Ok(()));
        assert_eq!(bad, Err("index 4 at position 1 is not below 4".into()));
        assert_eq!(y[..3], [3.0, 4.0, 5.0]);
    }
}
