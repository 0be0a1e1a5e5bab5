//! Every format on pseudo-random blocks: against a formula for one value at a time, written from the layout in f64, and
//! against hashes of what the Python package `gguf` 0.x gives for the same blocks.

use super::*;

/// Blocks per format in every test.
const BLOCKS: usize = 8;

/// Where a block keeps the last byte of its floating-point scales.
fn scale_ends(format: Format) -> &'static [usize] {
    match format {
        F32 | Q8_K => &[3],
        F64 => &[7],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[1, 3],
        Q2_K => &[81, 83],
        Q3_K => &[109],
        Q6_K => &[209],
        F16 | BF16 | Q8_0 | Q4_0 | Q5_0 => &[1],
    }
}

/// Random bytes, block by block, with scales kept below 2 so that no value is NaN or infinite.
fn blocks(format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    for seed in 0..BLOCKS as u64 {
        let mut x = seed;
        let mut block: Vec<u8> = (0..format.block().1)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (x >> 56) as u8
            })
            .collect();
        scale_ends(format).iter().for_each(|&at| block[at] &= 0xBF);
        out.extend(block);
    }
    out
}

fn run(format: Format) -> Vec<f32> {
    let mut out = vec![f32::NAN; BLOCKS * format.block().0];
    format.dequantize(&blocks(format), &mut out);
    out
}

/// Bits `from..from + n` of a byte.
fn bits(byte: u8, from: usize, n: usize) -> f64 {
    f64::from(u32::from(byte) >> from & ((1 << n) - 1))
}

/// Scale and minimum of group `g` in the 12 packed bytes of Q4_K and Q5_K.
fn packed(s: &[u8], g: usize) -> (f64, f64) {
    match g {
        0..4 => (bits(s[g], 0, 6), bits(s[4 + g], 0, 6)),
        _ => (
            bits(s[4 + g], 0, 4) + 16.0 * bits(s[g - 4], 6, 2),
            bits(s[4 + g], 4, 4) + 16.0 * bits(s[g], 6, 2),
        ),
    }
}

/// Value `i` of block `b`.
fn slow(format: Format, b: &[u8], i: usize) -> f64 {
    let h = |at: usize| f64::from(f16::from_le_bytes([b[at], b[at + 1]]).to_f32());
    let signed = |at: usize| f64::from(b[at] as i8);
    // 32-value formats: value i is in byte i mod 16, low nibble first.
    let nibble = |start: usize| bits(b[start + i % 16], 4 * (i / 16), 4);
    let fifth = |start: usize| 16.0 * bits(b[start + i / 8], i % 8, 1);
    // 256-value formats with two-bit quanta: 128 values share 32 bytes.
    let pair = |start: usize| bits(b[start + i / 128 * 32 + i % 32], i % 128 / 32 * 2, 2);
    match format {
        F32 => f32::from_le_bytes(b.try_into().unwrap()).into(),
        F64 => f64::from_le_bytes(b.try_into().unwrap()),
        F16 => h(0),
        BF16 => f32::from_bits(u32::from(b[0]) << 16 | u32::from(b[1]) << 24).into(),
        Q8_0 => h(0) * signed(2 + i),
        Q4_0 => h(0) * (nibble(2) - 8.0),
        Q4_1 => h(0) * nibble(4) + h(2),
        Q5_0 => h(0) * (nibble(6) + fifth(2) - 16.0),
        Q5_1 => h(0) * (nibble(8) + fifth(4)) + h(2),
        Q2_K => h(80) * bits(b[i / 16], 0, 4) * pair(16) - h(82) * bits(b[i / 16], 4, 4),
        Q3_K => {
            let g = i / 16;
            let low = bits(b[96 + g % 8], g / 8 * 4, 4);
            let scale = low + 16.0 * bits(b[96 + 8 + g % 4], g / 4 * 2, 2) - 32.0;
            h(108) * scale * (pair(32) - 4.0 * (1.0 - bits(b[i % 32], i / 32, 1)))
        }
        Q4_K | Q5_K => {
            let (scale, min) = packed(&b[4..16], i / 32);
            let start = if format == Q4_K { 16 } else { 48 };
            let fifth = if format == Q4_K { 0.0 } else { 16.0 * bits(b[16 + i % 32], i / 32, 1) };
            let q = bits(b[start + i / 64 * 32 + i % 32], i / 32 % 2 * 4, 4) + fifth;
            h(0) * scale * q - h(2) * min
        }
        Q6_K => {
            let low = bits(b[i / 128 * 64 + i % 64], i % 128 / 64 * 4, 4);
            let high = bits(b[128 + i / 128 * 32 + i % 32], i % 128 / 32 * 2, 2);
            h(208) * signed(192 + i / 16) * (low + 16.0 * high - 32.0)
        }
        Q8_K => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])) * signed(4 + i),
    }
}

#[test]
fn every_format_agrees_with_the_formula_for_one_value() {
    for (format, _, values, size) in FORMATS {
        let (raw, fast) = (blocks(format), run(format));
        for (n, &y) in fast.iter().enumerate() {
            let truth = slow(format, &raw[n / values * size..][..size], n % values);
            let close = (f64::from(y) - truth).abs() <= 1e-6 * truth.abs().max(1.0);
            assert!(close, "{format:?} value {n}: {y} instead of {truth}");
        }
    }
}

#[test]
fn blocks_give_the_bits_the_python_package_gives() {
    let golden = [
        (F16, 0x0100_0de0_8cc5_6fb7_u64),
        (BF16, 0x8175_0c2c_8f52_56d9),
        (Q8_0, 0xdd38_2c3a_5b11_5d7d),
        (Q4_0, 0x58a1_2b47_d8f8_207f),
        (Q4_1, 0xbe45_d408_658f_d86e),
        (Q5_0, 0x50c9_49f7_a3c0_8ef7),
        (Q5_1, 0xf13b_3037_f6a4_d042),
        (Q2_K, 0x6de9_c8fa_5144_e937),
        (Q3_K, 0xc0d8_fc50_fd31_ad4b),
        (Q4_K, 0x2507_6d21_4a93_dcd5),
        (Q5_K, 0xdef9_048e_f03a_fce2),
        (Q6_K, 0x76e1_1cd8_0872_c482),
    ];
    for (format, expected) in golden {
        // FNV-1a over the bytes; adding zero makes −0 and 0 the same.
        let bytes = run(format).into_iter().flat_map(|y| (y + 0.0).to_le_bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(hash, expected, "{format:?}");
    }
}
