//! The innermost loop of Gemm: one MR×NR block of c held in registers while k runs. One implementation for each
//! instruction set; `Auto` leaves vectorisation to the compiler, and the one for AMX has its own file.

use super::{Operand, pack};

/// What happens to an accumulated block: `c = max?(alpha·acc + beta·c + bias)`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Store {
    pub alpha: f32,
    /// 0 means c is not read.
    pub beta: f32,
    /// NR values, or null.
    pub bias: *const f32,
    pub relu: bool,
}

/// A register block.
pub(in crate::cpu) trait Tile {
    /// Rows.
    const MR: usize;
    /// Columns.
    const NR: usize;
    /// Depth of one packed panel: MR·KC and NR·KC floats should share the first-level cache.
    const KC: usize;
    /// Depths are multiples of this, but for the last of a product.
    const STEP: usize = 1;
    /// The tile for blocks this one declines.
    type Plain: Tile;

    /// Floats that packed panels of `lines` lines (a multiple of MR or NR) occupy at depth `k`.
    fn room(lines: usize, k: usize) -> usize {
        lines * k
    }

    /// Packs rows `(first, count)` of op(a), steps `(first, count)`.
    ///
    /// # Safety
    /// The processor has the instruction set, the rectangle lies inside the operand, and `dst` has `room` for whole
    /// panels plus 8 floats, aligned to 64 bytes.
    unsafe fn pack_a(dst: *mut f32, a: &Operand, rows: (usize, usize), steps: (usize, usize)) {
        // SAFETY: the caller's contract.
        unsafe { pack::pack(dst, Self::MR, a, !a.transposed, rows, steps) }
    }

    /// Packs columns of op(b).
    ///
    /// # Safety
    /// As `pack_a`.
    unsafe fn pack_b(dst: *mut f32, b: &Operand, cols: (usize, usize), steps: (usize, usize)) {
        // SAFETY: the caller's contract.
        unsafe { pack::pack(dst, Self::NR, b, b.transposed, cols, steps) }
    }

    /// Calls `work` with the thread's registers ready for `run`.
    ///
    /// # Safety
    /// The processor has the instruction set, and `work` stays on this thread and does not call this again.
    unsafe fn prepared(work: impl FnOnce()) {
        work();
    }

    /// Computes one block from packed panels of `a` and `b`. False means that the block was declined and `c` left alone:
    /// an infinity or NaN was met, which this way of summing would have spread.
    ///
    /// # Safety
    /// Inside `prepared`; `a` and `b` hold `k` steps, aligned to 64 bytes but for `a` of vector tiles; `c` is `MR` rows of
    /// `NR` floats, `ldc` apart; `store.bias` is null or NR floats.
    unsafe fn run(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, store: &Store) -> bool;
}

#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Store, Tile};
    use std::arch::x86_64::*;

    macro_rules! tile {
        ($name:ident, $doc:literal, $features:literal, $mr:literal x $nv:literal x $lanes:literal, kc $kc:literal,
         $zero:ident, $load:ident, $loadu:ident, $set1:ident, $fma:ident, $mul:ident, $add:ident, $max:ident, $storeu:ident) => {
            #[doc = $doc]
            pub(in crate::cpu) struct $name;

            impl Tile for $name {
                const MR: usize = $mr;
                const NR: usize = $nv * $lanes;
                const KC: usize = $kc;
                type Plain = Self;

                #[inline]
                unsafe fn run(
                    k: usize,
                    a: *const f32,
                    b: *const f32,
                    c: *mut f32,
                    ldc: usize,
                    store: &Store,
                ) -> bool {
                    #[target_feature(enable = $features)]
                    unsafe fn block(
                        k: usize,
                        a: *const f32,
                        b: *const f32,
                        c: *mut f32,
                        ldc: usize,
                        s: &Store,
                    ) {
                        let mut acc = [[$zero(); $nv]; $mr];
                        let (mut pa, mut pb) = (a, b);
                        // SAFETY: reads stay within k steps of the panels and writes within the block.
                        unsafe {
                            for i in 0..$mr {
                                _mm_prefetch::<_MM_HINT_T0>(c.add(i * ldc).cast());
                                _mm_prefetch::<_MM_HINT_T0>(c.add(i * ldc + $nv * $lanes - 1).cast());
                            }
                            macro_rules! step {
                                ($at:expr) => {{
                                    let mut bv = [$zero(); $nv];
                                    for j in 0..$nv {
                                        bv[j] = $load(pb.add($at * $nv * $lanes + j * $lanes));
                                    }
                                    for i in 0..$mr {
                                        let av = $set1(*pa.add($at * $mr + i));
                                        for j in 0..$nv {
                                            acc[i][j] = $fma(av, bv[j], acc[i][j]);
                                        }
                                    }
                                }};
                            }
                            for _ in 0..k / 4 {
                                step!(0);
                                step!(1);
                                step!(2);
                                step!(3);
                                pa = pa.add(4 * $mr);
                                pb = pb.add(4 * $nv * $lanes);
                            }
                            for _ in 0..k % 4 {
                                step!(0);
                                pa = pa.add($mr);
                                pb = pb.add($nv * $lanes);
                            }
                            let (alpha, beta) = ($set1(s.alpha), $set1(s.beta));
                            for i in 0..$mr {
                                for j in 0..$nv {
                                    let p = c.add(i * ldc + j * $lanes);
                                    let mut v = $mul(alpha, acc[i][j]);
                                    if s.beta != 0.0 {
                                        v = $fma(beta, $loadu(p), v);
                                    }
                                    if !s.bias.is_null() {
                                        v = $add(v, $loadu(s.bias.add(j * $lanes)));
                                    }
                                    if s.relu {
                                        // This operand order keeps NaN.
                                        v = $max($zero(), v);
                                    }
                                    $storeu(p, v);
                                }
                            }
                        }
                    }
                    // SAFETY: the caller has checked the instruction set and vouches for the panels.
                    unsafe { block(k, a, b, c, ldc, store) }
                    true
                }
            }
        };
    }

    tile!(Avx512, "28 accumulators of 16 floats.", "avx512f", 14 x 2 x 16, kc 512,
        _mm512_setzero_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_mul_ps,
        _mm512_add_ps, _mm512_max_ps, _mm512_storeu_ps);
    tile!(Avx2, "12 accumulators of 8 floats.", "avx2,fma", 6 x 2 x 8, kc 256,
        _mm256_setzero_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_mul_ps,
        _mm256_add_ps, _mm256_max_ps, _mm256_storeu_ps);
}

/// A block the compiler vectorises: 4×8 fits the sixteen 4-float registers of baseline x86-64, 6×16 the 32 of aarch64.
pub(in crate::cpu) struct Auto<const MR: usize, const NR: usize, const FMA: bool>;

impl<const MR_: usize, const NR_: usize, const FMA: bool> Tile for Auto<MR_, NR_, FMA> {
    const MR: usize = MR_;
    const NR: usize = NR_;
    const KC: usize = 256;
    type Plain = Self;

    #[inline]
    unsafe fn run(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize, s: &Store) -> bool {
        let mut acc = [[0f32; NR_]; MR_];
        for p in 0..k {
            // SAFETY: the panels hold k steps of MR and NR floats.
            let (av, bv) =
                unsafe { (&*a.add(p * MR_).cast::<[f32; MR_]>(), &*b.add(p * NR_).cast::<[f32; NR_]>()) };
            for i in 0..MR_ {
                for j in 0..NR_ {
                    acc[i][j] = crate::cpu::vmath::fma::<FMA>(av[i], bv[j], acc[i][j]);
                }
            }
        }
        for i in 0..MR_ {
            for j in 0..NR_ {
                // SAFETY: c is MR rows of NR floats; the bias, where present, has NR.
                unsafe {
                    let p = c.add(i * ldc + j);
                    let mut v = s.alpha * acc[i][j];
                    if s.beta != 0.0 {
                        v += s.beta * *p;
                    }
                    if !s.bias.is_null() {
                        v += *s.bias.add(j);
                    }
                    *p = if s.relu && v < 0.0 { 0.0 } else { v };
                }
            }
        }
        true
    }
}
