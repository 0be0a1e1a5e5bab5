//! Sparse rows confined to a range of columns, for decoders that are used in parts.

use crate::cpu::Codes;
use rayon::prelude::*;
use std::ops::Range;

/// `out = idx − columns.start`, and `u32::MAX` for columns outside the range. Slots past the last row keep what they had.
pub fn confine(s: Codes<'_>, columns: Range<usize>, out: &mut [u32]) {
    let used = s.slots();
    let limits = columns.start as u64..columns.end as u64;
    out[..used].par_iter_mut().zip(&s.idx[..used]).with_min_len(1 << 14).for_each(|(out, &i)| {
        let inside = limits.contains(&u64::from(i));
        *out = if inside { i - limits.start as u32 } else { u32::MAX };
    });
}
