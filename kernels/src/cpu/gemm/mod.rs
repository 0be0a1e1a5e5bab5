//! Matrix product in the manner of BLIS: operands are packed into panels that fit the caches, a register tile runs over
//! them, and scale, bias and activation happen while the block is at hand. Work is split over blocks of c only, so every
//! element is summed in the same order on any number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(super) mod pack;
#[cfg(target_arch = "x86_64")]
mod parts;
pub(super) mod tile;

#[cfg(test)]
mod accuracy_tests;
#[cfg(test)]
mod tests;

use crate::cpu::{Isa, scratch::Scratch, vmath};
use rayon::prelude::*;
use tile::{Auto, Store, Tile};

/// Element types of the factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

/// A factor in memory.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Element (0, 0).
    pub ptr: *const u8,
    /// Elements between rows.
    pub ld: usize,
    /// Whether the product uses its transpose.
    pub transposed: bool,
    /// Element type.
    pub float: Float,
}

impl Operand {
    /// Address of element (row, col) as it lies in memory.
    fn at(&self, row: usize, col: usize) -> *const u8 {
        let width = if self.float == Float::F32 { 4 } else { 2 };
        self.ptr.wrapping_add((row * self.ld + col) * width)
    }

    /// The part of the operand that starts at (row, col) of its transposed or untransposed form, as the product uses it.
    fn from(&self, row: usize, col: usize) -> Self {
        let (row, col) = if self.transposed { (col, row) } else { (row, col) };
        Self { ptr: self.at(row, col), ..*self }
    }
}

/// Activation applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Identity.
    None,
    /// max(x, 0).
    Relu,
    /// x·Φ(x).
    GeluErf,
    /// The tanh form.
    GeluTanh,
    /// x·sigmoid(x).
    Silu,
}

/// `c [m, n] = act(alpha·op(a) [m, k]·op(b) [k, n] + beta·c + bias [1, n])`; c is not read when `beta == 0`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Summed dimension; 0 is allowed.
    pub k: usize,
    /// Left factor.
    pub a: Operand,
    /// Right factor.
    pub b: Operand,
    /// Result.
    pub c: *mut f32,
    /// Elements between rows of c.
    pub ldc: usize,
    /// n floats, or null.
    pub bias: *const f32,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old c.
    pub beta: f32,
    /// Applied last.
    pub act: Activation,
}

// SAFETY: plain addresses; `gemm`'s contract covers who may use them.
unsafe impl Send for Product {}
// SAFETY: as above.
unsafe impl Sync for Product {}

/// Columns packed at a time: the packed part of b is at most NC·KC floats (12 MiB) and lives in the last-level cache.
const NC: usize = 8192;
/// Rows in one task's packed block of a, which lives in the second-level cache.
const MC: usize = 168;
/// Multiply-adds below which threads cost more than they bring.
const SERIAL: usize = 1 << 17;

/// Computes the product with the best instruction set.
///
/// # Safety
/// Operands are live with the shapes given, c is written by nobody else, and c overlaps neither factor nor the bias.
pub unsafe fn gemm(p: &Product) {
    let isa = match Isa::best() {
        Isa::Amx if !tiles_pay(p) => Isa::Avx512,
        best => best,
    };
    // SAFETY: the caller's contract; `best` was detected, and AMX comes with AVX-512.
    unsafe { gemm_with(isa, p) }
}

/// Whether AMX is the faster one: with few rows packing b, and with few steps writing c, decides, and both of these cost
/// AMX more. Measured: 0.7 to 0.9 of the speed of AVX-512 with 16 to 64 rows or 16 to 32 steps, more from 96 and 64 on.
fn tiles_pay(p: &Product) -> bool {
    p.m >= 96 && p.k >= 64 && p.n >= 16
}

/// Computes the product with a given instruction set.
///
/// # Safety
/// As [`gemm`], and the instruction set is one of [`Isa::available`].
pub unsafe fn gemm_with(isa: Isa, p: &Product) {
    let parallel = p.m * p.n * p.k.max(1) > SERIAL && rayon::current_num_threads() > 1;
    // SAFETY: the caller's contract.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => blocks::<amx::Amx>(p, parallel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => blocks::<tile::Avx512>(p, parallel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => blocks::<tile::Avx2>(p, parallel),
            Isa::Neon => blocks::<Auto<6, 16, true>>(p, parallel),
            _ => blocks::<Auto<4, 8, false>>(p, parallel),
        }
    }
}

/// `batch` products whose operands lie `strides` (a, b, c) elements apart.
///
/// # Safety
/// As [`gemm`], for every product of the batch.
pub unsafe fn gemm_batch(p: &Product, batch: usize, strides: (usize, usize, usize)) {
    let one = |i: usize| {
        let mut q = *p;
        q.a.ptr = p.a.at(0, i * strides.0);
        q.b.ptr = p.b.at(0, i * strides.1);
        q.c = p.c.wrapping_add(i * strides.2);
        // SAFETY: product i of the caller's batch.
        unsafe { gemm(&q) }
    };
    // Many small products run side by side, large ones one after another with all threads each.
    if batch > 1 && p.m * p.n * p.k < 64 * SERIAL {
        (0..batch).into_par_iter().for_each(one);
    } else {
        (0..batch).for_each(one);
    }
}

/// One slab of the product: columns `jc..jc+nc`, depth `pc..pc+kc`.
struct Slab<'a> {
    p: &'a Product,
    jc: usize,
    nc: usize,
    pc: usize,
    kc: usize,
    /// Packed b.
    b: *mut f32,
    parallel: bool,
}
// SAFETY: packed b is written in disjoint panels, then only read; see `blocks`.
unsafe impl Sync for Slab<'_> {}

unsafe fn blocks<T: Tile>(p: &Product, parallel: bool) {
    if p.m == 0 || p.n == 0 {
        return;
    }
    // Equal depths instead of full ones and a rest; a function of k alone, so that the sums do not depend on the rest.
    let depths = p.k.div_ceil(T::KC).max(1);
    let kc_max = p.k.div_ceil(depths).next_multiple_of(T::STEP);
    let nc_max = p.n.next_multiple_of(T::NR).min(NC);
    Scratch::with(T::room(nc_max, kc_max) + 8, |b| {
        for jc in (0..p.n).step_by(nc_max) {
            for d in 0..depths {
                let pc = d * kc_max;
                let kc = (p.k - pc).min(kc_max);
                let slab = Slab { p, jc, nc: (p.n - jc).min(nc_max), pc, kc, b, parallel };
                // SAFETY: the slab lies inside the product.
                unsafe {
                    slab.pack_b::<T>();
                    slab.multiply::<T>();
                }
            }
        }
    });
}

impl Slab<'_> {
    unsafe fn pack_b<T: Tile>(&self) {
        let group = pack::GROUP * T::NR;
        self.each(self.nc.div_ceil(group), |i| {
            let at = i * group;
            let n = (self.nc - at).min(group);
            // SAFETY: groups of panels are disjoint; a whole group starts at a multiple of NR.
            unsafe {
                let dst = self.b.add(T::room(at, self.kc));
                T::pack_b(dst, &self.p.b, (self.jc + at, n), (self.pc, self.kc));
            }
        });
    }

    /// Tasks are blocks of rows, and of columns too while there are fewer than four tasks a thread.
    unsafe fn multiply<T: Tile>(&self) {
        let mc_max = (MC / T::MR).max(1) * T::MR;
        let high = self.p.m.div_ceil(mc_max);
        let mc = self.p.m.div_ceil(high).next_multiple_of(T::MR);
        let high = self.p.m.div_ceil(mc);
        let wanted = if self.parallel { (4 * rayon::current_num_threads()).div_ceil(high) } else { 1 };
        let panels = self.nc.div_ceil(T::NR);
        let wide = wanted.min(panels.div_ceil(4)).max(1);
        let panels_each = panels.div_ceil(wide);
        let wide = panels.div_ceil(panels_each);
        self.each(high * wide, |task| {
            let ic = task / wide * mc;
            let from = task % wide * panels_each;
            let to = (from + panels_each).min(panels);
            // SAFETY: tasks write disjoint blocks of c.
            unsafe { T::prepared(|| self.block::<T>(ic, (self.p.m - ic).min(mc), from..to)) }
        });
    }

    fn each(&self, n: usize, work: impl Fn(usize) + Sync) {
        if self.parallel && n > 1 {
            (0..n).into_par_iter().with_max_len(1).for_each(&work);
        } else {
            (0..n).for_each(work);
        }
    }

    /// Rows `ic..ic+mc` times the panels of packed b.
    unsafe fn block<T: Tile>(&self, ic: usize, mc: usize, panels: std::ops::Range<usize>) {
        let (p, kc) = (self.p, self.kc);
        let last = self.pc + kc == p.k;
        let store = Store {
            alpha: p.alpha,
            beta: if self.pc == 0 { p.beta } else { 1.0 },
            bias: std::ptr::null(),
            relu: last && p.act == Activation::Relu,
        };
        Scratch::with(T::room(mc.next_multiple_of(T::MR), kc) + 8, |a| {
            // SAFETY: the block is inside the product; `a` has room for its panels.
            unsafe {
                T::pack_a(a, &p.a, (ic, mc), (self.pc, kc));
                for panel in panels {
                    let j = panel * T::NR;
                    let n = (self.nc - j).min(T::NR);
                    let pb = self.b.add(T::room(j, kc));
                    let j = self.jc + j;
                    let bias = if last && !p.bias.is_null() { p.bias.add(j) } else { std::ptr::null() };
                    let store = Store { bias, ..store };
                    let c = p.c.add(ic * p.ldc + j);
                    for i in (0..mc).step_by(T::MR) {
                        let (pa, c) = (a.add(T::room(i, kc)), c.add(i * p.ldc));
                        let m = (mc - i).min(T::MR);
                        let done = if m == T::MR && n == T::NR {
                            T::run(kc, pa, pb, c, p.ldc, &store)
                        } else {
                            edge::<T>((m, n, kc), pa, pb, c, p.ldc, &store)
                        };
                        if !done {
                            self.plain::<T::Plain>((ic + i, m), (j, n), &store);
                        }
                    }
                    if last && !matches!(p.act, Activation::None | Activation::Relu) {
                        activate(p.act, c, mc, n, p.ldc);
                    }
                }
            }
        });
    }

    /// This slab's share of rows `i..i+m` and columns `j..j+n` as a product of its own.
    #[cold]
    unsafe fn plain<T: Tile>(&self, (i, m): (usize, usize), (j, n): (usize, usize), s: &Store) {
        let p = self.p;
        let part = Product {
            m,
            n,
            k: self.kc,
            a: p.a.from(i, self.pc),
            b: p.b.from(self.pc, j),
            c: p.c.wrapping_add(i * p.ldc + j),
            ldc: p.ldc,
            bias: s.bias,
            alpha: s.alpha,
            beta: s.beta,
            act: if s.relu { Activation::Relu } else { Activation::None },
        };
        // SAFETY: inside the product.
        unsafe { blocks::<T>(&part, false) }
    }
}

/// A block that sticks out over the edge of c: computed whole in a copy.
pub(super) unsafe fn edge<T: Tile>(
    (m, n, k): (usize, usize, usize),
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    store: &Store,
) -> bool {
    #[repr(align(64))]
    struct Block([f32; 1024]);
    debug_assert!(T::MR * T::NR <= 1024 && T::NR <= 64);
    let mut block = Block([0.0; 1024]);
    let mut bias = [0f32; 64];
    // SAFETY: m·n floats of c and n of the bias exist; the copy has MR·NR.
    unsafe {
        if store.beta != 0.0 {
            for i in 0..m {
                std::ptr::copy_nonoverlapping(c.add(i * ldc), block.0.as_mut_ptr().add(i * T::NR), n);
            }
        }
        let mut store = *store;
        if !store.bias.is_null() {
            std::ptr::copy_nonoverlapping(store.bias, bias.as_mut_ptr(), n);
            store.bias = bias.as_ptr();
        }
        let done = T::run(k, a, b, block.0.as_mut_ptr(), T::NR, &store);
        for i in 0..if done { m } else { 0 } {
            std::ptr::copy_nonoverlapping(block.0.as_ptr().add(i * T::NR), c.add(i * ldc), n);
        }
        done
    }
}

multiversion! {
    /// Applies an activation to a block in place.
    fn activate(act: Activation, c: *mut f32, rows: usize, cols: usize, ld: usize) {
        for i in 0..rows {
            // SAFETY: the caller's block.
            let row = unsafe { std::slice::from_raw_parts_mut(c.add(i * ld), cols) };
            match act {
                Activation::None => {}
                Activation::Relu => row.iter_mut().for_each(|v| *v = if *v < 0.0 { 0.0 } else { *v }),
                Activation::GeluErf => row.iter_mut().for_each(|v| *v = vmath::gelu_erf::<FMA>(*v)),
                Activation::GeluTanh => row.iter_mut().for_each(|v| *v = vmath::gelu_tanh::<FMA>(*v)),
                Activation::Silu => row.iter_mut().for_each(|v| *v = vmath::silu::<FMA>(*v)),
            }
        }
    }
}
