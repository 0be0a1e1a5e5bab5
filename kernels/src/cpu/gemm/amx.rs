//! The 32×32 block on AMX tiles of bfloat16. With both factors split into three parts, `x = h + m + l`, six of the nine
//! products of parts carry all that f32 can hold: hh, hm, mh, hl, lh and mm. The others are below 2^-23·|x·y| together.

use super::Operand;
use super::parts::{self, LINES, STEPS, Side};
use super::tile::{Avx512, Store, Tile};
use std::arch::{asm, x86_64::*};
use std::mem::MaybeUninit;

/// Four accumulators of 16×16 floats.
///
/// Accuracy: `|c - exact| <= (k + 16)·2^-24·Σ|a·b|`, the bound of a chain of fused multiply-adds up to the constant. Tiles
/// take subnormal numbers for zero, which adds an error of at most `2^-125·Σ(|a| + |b| + 4)`: it shows where a factor is
/// below 2^-102 or a product below 2^-100. A block in which a sum is not finite is left to AVX-512, so infinities and NaN
/// come out as from a chain of multiply-adds, also where only a part overflowed.
pub(in crate::cpu) struct Amx;

/// Rows and bytes a row of the eight tile registers: 16 of 64 each.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, 16);
        i += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// The tile registers are configured while this lives; after that threads switch without saving them.
struct Configured;

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: only made where the registers exist.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[repr(align(64))]
struct Sums([f32; LINES * LINES]);

impl Tile for Amx {
    const MR: usize = LINES;
    const NR: usize = LINES;
    const KC: usize = 1024;
    const STEP: usize = STEPS;
    type Plain = Avx512;

    fn room(lines: usize, k: usize) -> usize {
        parts::room(lines, k)
    }

    unsafe fn pack_a(dst: *mut f32, a: &Operand, rows: (usize, usize), steps: (usize, usize)) {
        // SAFETY: the caller's contract.
        unsafe { parts::pack(dst, Side::Left, a, !a.transposed, rows, steps) }
    }

    unsafe fn pack_b(dst: *mut f32, b: &Operand, cols: (usize, usize), steps: (usize, usize)) {
        // SAFETY: the caller's contract.
        unsafe { parts::pack(dst, Side::Right, b, b.transposed, cols, steps) }
    }

    unsafe fn prepared(work: impl FnOnce()) {
        // SAFETY: the processor has tiles, and the configuration is valid for palette 1.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(readonly, nostack, preserves_flags))
        }
        let _configured = Configured;
        work();
    }

    #[inline]
    unsafe fn run(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, s: &Store) -> bool {
        let mut sums = MaybeUninit::<Sums>::uninit();
        // SAFETY: the panels hold k steps rounded up; every sum is written; c and the bias are the caller's.
        unsafe {
            multiply(k.div_ceil(STEPS), a, b, sums.as_mut_ptr());
            store(sums.assume_init_ref(), c, ldc, s)
        }
    }
}

/// Sums over all blocks of two strips. Where neighbours in the sequence of products share a part it is loaded once. The next
/// block is fetched into the first-level cache meanwhile, 8 lines a product: a core that shares its tile registers with
/// another thread cannot load ahead.
#[inline]
unsafe fn multiply(blocks: usize, a: *const f32, b: *const f32, sums: *mut Sums) {
    macro_rules! fetch {
        ($strip:literal, $at:literal, $quarter:literal) => {
            concat!(
                fetch!(@ $strip, $at, $quarter, "0"), fetch!(@ $strip, $at, $quarter, "64"),
                fetch!(@ $strip, $at, $quarter, "128"), fetch!(@ $strip, $at, $quarter, "192"),
            )
        };
        (@ $strip:literal, $at:literal, $quarter:literal, $line:literal) => {
            concat!("prefetcht0 [", $strip, " + 6144 + ", $at, " + ", $quarter, " + ", $line, "]\n")
        };
    }
    // The four products of two loaded tiles of each side, fetching a tile of each side at the offsets given.
    macro_rules! four {
        ($a:literal, $b:literal) => {
            concat!(
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                fetch!("{a}", $a, "0"),
                fetch!("{b}", $b, "0"),
                "tdpbf16ps tmm1, tmm4, tmm7\n",
                fetch!("{a}", $a, "256"),
                fetch!("{b}", $b, "256"),
                "tdpbf16ps tmm2, tmm5, tmm6\n",
                fetch!("{a}", $a, "512"),
                fetch!("{b}", $b, "512"),
                "tdpbf16ps tmm3, tmm5, tmm7\n",
                fetch!("{a}", $a, "768"),
                fetch!("{b}", $b, "768"),
            )
        };
    }
    macro_rules! left {
        ($at:literal) => {
            concat!(
                "tileloadd tmm4, [{a} + {row} + ",
                $at,
                "]\n tileloadd tmm5, [{a} + {row} + ",
                $at,
                " + 1024]"
            )
        };
    }
    macro_rules! right {
        ($at:literal) => {
            concat!(
                "tileloadd tmm6, [{b} + {row} + ",
                $at,
                "]\n tileloadd tmm7, [{b} + {row} + ",
                $at,
                " + 1024]"
            )
        };
    }
    // SAFETY: reads `blocks` blocks of both strips and writes the 32×32 sums; the compiler itself uses no tile register.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {blocks}, {blocks}",
            "jz 3f",
            "2:",
            left!(4096),
            right!(0),
            four!(4096, 0),
            left!(2048),
            four!(5120, 1024),
            right!(2048),
            four!(2048, 2048),
            left!(0),
            four!(3072, 3072),
            right!(4096),
            four!(0, 4096),
            right!(0),
            four!(1024, 5120),
            "add {a}, 6144",
            "add {b}, 6144",
            "dec {blocks}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + {sum_row}], tmm0",
            "tilestored [{sums} + {sum_row} + 64], tmm1",
            "tilestored [{sums} + {sum_row} + 2048], tmm2",
            "tilestored [{sums} + {sum_row} + 2112], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            blocks = inout(reg) blocks => _,
            sums = in(reg) sums,
            row = in(reg) 64usize,
            sum_row = in(reg) 4 * LINES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Writes a block unless one of its sums is not finite.
#[target_feature(enable = "avx512f")]
unsafe fn store(sums: &Sums, c: *mut f32, ldc: usize, s: &Store) -> bool {
    // SAFETY: c is 32 rows of 32 floats, and so are the sums; the bias, where present, has 32.
    unsafe {
        let mut largest = _mm512_setzero_si512();
        let magnitude = _mm512_set1_epi32(i32::MAX);
        for at in (0..LINES * LINES).step_by(16) {
            let bits = _mm512_load_si512(sums.0.as_ptr().add(at).cast());
            largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude));
        }
        if _mm512_cmpge_epu32_mask(largest, _mm512_set1_epi32(0x7F80_0000)) != 0 {
            return false;
        }
        let (alpha, beta) = (_mm512_set1_ps(s.alpha), _mm512_set1_ps(s.beta));
        for i in 0..LINES {
            for j in [0, 16] {
                let p = c.add(i * ldc + j);
                let mut v = _mm512_mul_ps(alpha, _mm512_load_ps(sums.0.as_ptr().add(i * LINES + j)));
                if s.beta != 0.0 {
                    v = _mm512_fmadd_ps(beta, _mm512_loadu_ps(p), v);
                }
                if !s.bias.is_null() {
                    v = _mm512_add_ps(v, _mm512_loadu_ps(s.bias.add(j)));
                }
                if s.relu {
                    // This operand order keeps NaN.
                    v = _mm512_max_ps(_mm512_setzero_ps(), v);
                }
                _mm512_storeu_ps(p, v);
            }
        }
    }
    true
}
