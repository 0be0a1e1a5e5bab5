//! The block formats of GGUF tensors and their conversion to f32: one small function per format, blocks independent of
//! each other. Layouts are those of ggml; all numbers are little-endian.

use half::{bf16, f16};

/// Storage format of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names the format gives them")]
pub enum Format {
    F32,
    F16,
    BF16,
    F64,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
}

use Format::*;

/// Every readable format with its number in the file, values per block and bytes per block.
pub(super) const FORMATS: [(Format, u32, usize, usize); 15] = [
    (F32, 0, 1, 4),
    (F16, 1, 1, 2),
    (Q4_0, 2, 32, 18),
    (Q4_1, 3, 32, 20),
    (Q5_0, 6, 32, 22),
    (Q5_1, 7, 32, 24),
    (Q8_0, 8, 32, 34),
    (Q2_K, 10, 256, 84),
    (Q3_K, 11, 256, 110),
    (Q4_K, 12, 256, 144),
    (Q5_K, 13, 256, 176),
    (Q6_K, 14, 256, 210),
    (Q8_K, 15, 256, 292),
    (F64, 28, 1, 8),
    (BF16, 30, 1, 2),
];

impl Format {
    /// The format with this number, when it can be read.
    pub fn from_id(id: u32) -> Option<Self> {
        FORMATS.iter().find(|f| f.1 == id).map(|f| f.0)
    }

    /// Names of all readable formats.
    pub fn list() -> String {
        FORMATS.map(|f| format!("{:?}", f.0)).join(", ")
    }

    /// Values and bytes per block.
    pub fn block(self) -> (usize, usize) {
        FORMATS.iter().find(|f| f.0 == self).map(|f| (f.2, f.3)).expect("every format is in the table")
    }

    /// Converts whole blocks: `bytes` and `out` hold the same number of them.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let (values, size) = self.block();
        debug_assert_eq!(bytes.len() / size, out.len() / values, "as many blocks in as out");
        let block = match self {
            F32 => |b: &[u8], y: &mut [f32]| y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            F16 => |b: &[u8], y: &mut [f32]| y[0] = half_at(b, 0),
            BF16 => |b: &[u8], y: &mut [f32]| y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            F64 => f64_value,
            Q8_0 => q8_0,
            Q4_0 => q4_0,
            Q4_1 => q4_1,
            Q5_0 => q5_0,
            Q5_1 => q5_1,
            Q2_K => q2_k,
            Q3_K => q3_k,
            Q4_K => q4_k,
            Q5_K => q5_k,
            Q6_K => q6_k,
            Q8_K => q8_k,
        };
        bytes.chunks_exact(size).zip(out.chunks_exact_mut(values)).for_each(|(b, y)| block(b, y));
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn f64_value(b: &[u8], y: &mut [f32]) {
    y[0] = f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32;
}

// --- 32 values a block: scale `d`, perhaps offset `m`, then the quanta; low nibbles are the first 16 values ---

/// `d f16, q i8[32]`: d·q.
fn q8_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    for (y, &q) in y.iter_mut().zip(&b[2..]) {
        *y = d * f32::from(q as i8);
    }
}

/// `d f16, q u4[32]`: d·(q − 8).
fn q4_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    let (low, high) = y.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&b[2..]) {
        *low = d * (f32::from(q & 15) - 8.0);
        *high = d * (f32::from(q >> 4) - 8.0);
    }
}

/// `d f16, m f16, q u4[32]`: d·q + m.
fn q4_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let (low, high) = y.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(&b[4..]) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The 32 five-bit quanta of `fifth u1[32], q u4[32]`.
fn five_bits(b: &[u8], y: &mut [f32], value: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let bit = |i: usize| ((fifth >> i & 1) as u8) << 4;
    for (i, &q) in b[4..].iter().enumerate() {
        y[i] = value(q & 15 | bit(i));
        y[i + 16] = value(q >> 4 | bit(i + 16));
    }
}

/// `d f16, fifth u1[32], q u4[32]`: d·(q − 16).
fn q5_0(b: &[u8], y: &mut [f32]) {
    let d = half_at(b, 0);
    five_bits(&b[2..], y, |q| d * (f32::from(q) - 16.0));
}

/// `d f16, m f16, fifth u1[32], q u4[32]`: d·q + m.
fn q5_1(b: &[u8], y: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    five_bits(&b[4..], y, |q| d * f32::from(q) + m);
}

// --- 256 values a block: `d` (and `dmin`) times small integer scales per 16 or 32 values ---

/// Six-bit scale and minimum of the group of 32 values `j`, packed in 12 bytes by Q4_K and Q5_K.
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// `d f16, dmin f16, scales [12], q u4[256]`: d·scale·q − dmin·min.
fn q4_k(b: &[u8], y: &mut [f32]) {
    let (d, dmin, scales) = (half_at(b, 0), half_at(b, 2), &b[4..16]);
    for (j, (q, y)) in b[16..].chunks_exact(32).zip(y.chunks_exact_mut(64)).enumerate() {
        for (half, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(scales, 2 * j + half);
            let (d, min) = (d * scale, dmin * min);
            y.iter_mut().zip(q).for_each(|(y, &q)| *y = d * f32::from(q >> (4 * half) & 15) - min);
        }
    }
}

/// `d f16, dmin f16, scales [12], fifth u1[256], q u4[256]`: d·scale·q − dmin·min. Bit g of `fifth[i]` belongs to value i
/// of group g.
fn q5_k(b: &[u8], y: &mut [f32]) {
    let (d, dmin, scales, fifth) = (half_at(b, 0), half_at(b, 2), &b[4..16], &b[16..48]);
    for (j, (q, y)) in b[48..].chunks_exact(32).zip(y.chunks_exact_mut(64)).enumerate() {
        for (half, y) in y.chunks_exact_mut(32).enumerate() {
            let group = 2 * j + half;
            let (scale, min) = scale_min(scales, group);
            let (d, min) = (d * scale, dmin * min);
            for ((y, &q), &f) in y.iter_mut().zip(q).zip(fifth) {
                *y = d * f32::from(q >> (4 * half) & 15 | (f >> group & 1) << 4) - min;
            }
        }
    }
}

/// `low u4[256], high u2[256], scales i8[16], d f16`: d·scale·(q − 32), one scale for 16 values.
fn q6_k(b: &[u8], y: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (n, y) in y.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&low[64 * n..][..64], &high[32 * n..][..32], &scales[8 * n..][..8]);
        for (quarter, y) in y.chunks_exact_mut(32).enumerate() {
            let low = &low[32 * (quarter % 2)..][..32];
            for (i, y) in y.iter_mut().enumerate() {
                let q = low[i] >> (4 * (quarter / 2)) & 15 | (high[i] >> (2 * quarter) & 3) << 4;
                let scale = d * f32::from(scales[2 * quarter + i / 16] as i8);
                *y = scale * (f32::from(q) - 32.0);
            }
        }
    }
}

/// `scales u4+u4[16], q u2[256], d f16, dmin f16`: d·scale·q − dmin·min, one pair for 16 values.
fn q2_k(b: &[u8], y: &mut [f32]) {
    let (scales, q, d, dmin) = (&b[..16], &b[16..80], half_at(b, 80), half_at(b, 82));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (dl, ml) = (d * f32::from(scales[group] & 15), dmin * f32::from(scales[group] >> 4));
        let q = two_bit_group(q, group);
        y.iter_mut().zip(q).for_each(|(y, q)| *y = dl * f32::from(q) - ml);
    }
}

/// The 16 two-bit quanta of a group: 128 values share 32 bytes, eight groups of 16 take the bit pairs in turn.
fn two_bit_group(q: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let (shift, start) = (2 * (group % 8 / 2), 32 * (group / 8) + 16 * (group % 2));
    q[start..start + 16].iter().map(move |q| q >> shift & 3)
}

/// `third u1[256], q u2[256], scales u6[16], d f16`: d·(scale − 32)·(q − 4, or q where the third bit is set).
fn q3_k(b: &[u8], y: &mut [f32]) {
    let (third, q, s, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { s[group] & 15 } else { s[group - 8] >> 4 };
        let high = s[8 + group % 4] >> (2 * (group / 4)) & 3;
        let dl = d * (f32::from(low | high << 4) - 32.0);
        let third = &third[16 * (group % 2)..];
        for ((y, q), t) in y.iter_mut().zip(two_bit_group(q, group)).zip(third) {
            let missing = if t >> (group / 2) & 1 == 0 { 4.0 } else { 0.0 };
            *y = dl * (f32::from(q) - missing);
        }
    }
}

/// `d f32, q i8[256], sums i16[16]`: d·q.
fn q8_k(b: &[u8], y: &mut [f32]) {
    let d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    y.iter_mut().zip(&b[4..260]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
}

#[cfg(test)]
mod tests;
