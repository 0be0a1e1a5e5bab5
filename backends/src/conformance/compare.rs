//! Verdict on a device's memory after an op: nothing outside the outputs has changed, integers and exact cases agree to the
//! bit, floats within bounds, NaN and infinity in the same places.

use super::build::{Built, Region};
use half::{bf16, f16};
use lm_saes_runtime::{DType, op::Mat};
use std::ops::Range;

/// Checks that only elements of output operands differ from the image before the op.
pub(super) fn untouched(built: &Built, after: &[u8]) -> Result<(), String> {
    let mut writable = vec![false; built.image.len()];
    for m in built.regions.iter().filter(|r| r.output && !r.mat.is_empty()).map(|r| &r.mat) {
        let size = m.dtype.bytes();
        for r in 0..m.rows {
            let at = m.addr.0 as usize + (r * m.ld) as usize * size;
            writable[at..at + m.cols as usize * size].fill(true);
        }
    }
    let changed = (0..after.len()).find(|&i| !writable[i] && after[i] != built.image[i]);
    changed.map_or(Ok(()), |at| Err(format!("memory outside the outputs changed: {}", locate(built, at))))
}

/// Describes a byte of the image in terms of the nearest operand.
fn locate(built: &Built, at: usize) -> String {
    for Region { name, mat, .. } in &built.regions {
        let (start, end) = (mat.addr.0 as usize, (mat.addr.0 + mat.span_bytes()) as usize);
        if (start..end).contains(&at) {
            let element = ((at - start) / mat.dtype.bytes()) as u64;
            let (r, c) = (element / mat.ld, element % mat.ld);
            return format!("element ({r}, {c}) of {name} [{}, {}] ld {}", mat.rows, mat.cols, mat.ld);
        }
        if at < start {
            return format!("{} bytes before {name}", start - at);
        }
    }
    let last = built.regions.last().map_or("the image", |r| r.name);
    format!("past the end of {last}")
}

/// Compares every defined element of every output with the reference's.
pub(super) fn outputs(built: &Built, want: &[u8], got: &[u8], tolerance: f64) -> Result<(), String> {
    for region in built.regions.iter().filter(|r| r.output) {
        let defined = match region.defined_by {
            Some((counts, i)) => u32_at(want, &counts, 0).into()..u32_at(want, &counts, i).into(),
            None => 0..u64::MAX,
        };
        let tolerance = region.tolerance.unwrap_or(tolerance);
        compare(region, want, got, tolerance, defined).map_err(|e| format!("{}: {e}", region.name))?;
    }
    Ok(())
}

fn u32_at(image: &[u8], m: &Mat, i: u64) -> u32 {
    element(image, m, 0, i) as u32
}

/// Element (r, c) widened to f64, exactly for every type.
fn element(image: &[u8], m: &Mat, r: u64, c: u64) -> f64 {
    let size = m.dtype.bytes();
    let at = m.addr.0 as usize + (r * m.ld + c) as usize * size;
    let bytes = &image[at..at + size];
    match m.dtype {
        DType::F32 => bytemuck::pod_read_unaligned::<f32>(bytes).into(),
        DType::BF16 => bytemuck::pod_read_unaligned::<bf16>(bytes).into(),
        DType::F16 => bytemuck::pod_read_unaligned::<f16>(bytes).into(),
        DType::U32 => bytemuck::pod_read_unaligned::<u32>(bytes).into(),
        DType::I32 => bytemuck::pod_read_unaligned::<i32>(bytes).into(),
        _ => bytes[0].into(),
    }
}

/// Bounds: each element within `tolerance·(size + |reference|)`, `size` the root mean square or the operand's own, and the
/// squared error below `tolerance²` of the square of all elements at that size.
fn compare(
    region: &Region,
    want: &[u8],
    got: &[u8],
    tolerance: f64,
    defined: Range<u64>,
) -> Result<(), String> {
    let m = &region.mat;
    let exact = !m.dtype.is_float() || tolerance == 0.0;
    let places = || (defined.start..defined.end.min(m.len())).map(|i| (i / m.cols, i % m.cols));
    let (mut squares, mut finite) = (0.0, 0.0);
    for (r, c) in places() {
        let w = element(want, m, r, c);
        if w.is_finite() {
            squares += w * w;
            finite += 1.0;
        }
    }
    let rms = if finite > 0.0 { f64::sqrt(squares / finite) } else { 0.0 };
    let size = rms.max(region.size);
    let mut error = 0.0;
    for (r, c) in places() {
        let (w, g) = (element(want, m, r, c), element(got, m, r, c));
        let agrees = if exact || !w.is_finite() || !g.is_finite() {
            w == g || (w.is_nan() && g.is_nan())
        } else {
            error += (w - g) * (w - g);
            (w - g).abs() <= tolerance * (size + w.abs())
        };
        if !agrees {
            return Err(format!("element ({r}, {c}) is {g}, the reference has {w} (tolerance {tolerance})"));
        }
    }
    let bound = tolerance * tolerance * size * size * finite;
    if !exact && error > bound {
        return Err(format!("the squared error is {error:.3e}, at most {bound:.3e} is allowed"));
    }
    Ok(())
}

/// Compares two sets of bytes of one operand elementwise; the first disagreement as text.
pub(crate) fn operand(m: &Mat, want: &[u8], got: &[u8], tolerance: f64) -> Result<(), String> {
    let mat = Mat { addr: lm_saes_runtime::Addr(0), ..*m };
    let region = Region { name: "", mat, output: true, tolerance: None, size: 0.0, defined_by: None };
    compare(&region, want, got, tolerance, 0..u64::MAX)
}
