//! The memory of one case as one image: every operand at some offset, sentinels everywhere else (between operands, and
//! between the columns and the leading dimension). The same image goes to the device and to the reference.

use bytemuck::bytes_of;
use half::{bf16, f16};
use lm_saes_kernels::philox;
use lm_saes_runtime::{
    Addr, DType, Element, Op,
    op::{ByColumn, Mat, Sparse},
};
use std::collections::HashSet;

/// Bytes between operands, so that an overrun of a whole vector register stays inside the image.
const GUARD: usize = 256;
/// As f32 a NaN, as an index far out of range: reading a sentinel shows too.
const SENTINEL: [u8; 4] = [0xE1, 0xA5, 0xC5, 0xFF];

/// How operands lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `ld == cols`, aligned as a device would.
    Packed,
    /// `ld == cols + 3` where the op allows it, and aligned only to the element: slices of larger tensors look so.
    Loose,
}

/// One operand in the image; `mat.addr` is its offset.
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) mat: Mat,
    pub(super) output: bool,
    /// Replaces the case's tolerance.
    pub(super) tolerance: Option<f64>,
    /// Size its values have by nature, where those of one case may all be the small difference of large numbers.
    pub(super) size: f64,
    /// Elements before the first of these u32 of the reference's result, and from the one at this place, are undefined.
    pub(super) defined_by: Option<(Mat, u64)>,
}

/// The image of one case and the op on it, addresses being offsets.
pub(super) struct Built {
    pub(super) op: Op,
    pub(super) image: Vec<u8>,
    pub(super) regions: Vec<Region>,
}

/// Seeded values.
#[derive(Clone, Copy)]
pub(super) struct Rng {
    seed: u64,
    draws: u64,
}

impl Rng {
    fn next(&mut self) -> u64 {
        self.draws += 1;
        self.draws
    }
    pub(super) fn uniform(&mut self, a: f32, b: f32) -> f32 {
        philox::uniform(self.seed, self.next(), a, b)
    }
    pub(super) fn normal(&mut self) -> f32 {
        philox::normal(self.seed, self.next(), 0.0, 1.0)
    }
    pub(super) fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { u64::from(philox::word(self.seed, self.next())) % n }
    }
}

/// Element i of an operand.
type Values<'a, T> = &'a mut dyn FnMut(&mut Rng, u64) -> T;

/// Lays out the operands of one case.
pub(super) struct Build {
    image: Vec<u8>,
    regions: Vec<Region>,
    rng: Rng,
    layout: Layout,
    contiguous: bool,
}

impl Build {
    pub(super) fn new(seed: u64, layout: Layout) -> Self {
        let rng = Rng { seed, draws: 0 };
        Self { image: Vec::new(), regions: Vec::new(), rng, layout, contiguous: false }
    }

    pub(super) fn finish(mut self, op: Op) -> Built {
        self.extend(self.image.len() + GUARD);
        Built { op, image: self.image, regions: self.regions }
    }

    fn extend(&mut self, to: usize) {
        let from = self.image.len();
        self.image.extend((from..to).map(|i| SENTINEL[i % 4]));
    }

    /// The next operand has `ld == cols` in every layout.
    pub(super) fn contiguous(&mut self) -> &mut Self {
        self.contiguous = true;
        self
    }

    fn place<T: Element>(
        &mut self,
        name: &'static str,
        (rows, cols): (u64, u64),
        output: bool,
        value: Option<Values<'_, T>>,
    ) -> Mat {
        let size = size_of::<T>();
        let loose = self.layout == Layout::Loose;
        let ld = if loose && !self.contiguous { cols + 3 } else { cols };
        self.contiguous = false;
        let shift = if loose { (1 + self.regions.len() % 3) * size } else { 0 };
        let start = (self.image.len() + GUARD).next_multiple_of(GUARD) + shift;
        let mat = Mat { addr: Addr(start as u64), rows, cols, ld, dtype: T::DTYPE };
        self.extend(start + mat.span_bytes() as usize);
        if let Some(value) = value {
            for r in 0..rows {
                for c in 0..cols {
                    let v = value(&mut self.rng, r * cols + c);
                    let at = start + (r * ld + c) as usize * size;
                    self.image[at..at + size].copy_from_slice(bytes_of(&v));
                }
            }
        }
        self.regions.push(Region { name, mat, output, tolerance: None, size: 0.0, defined_by: None });
        mat
    }

    /// An operand the op only reads; `value(rng, i)` is its element i in row-major order.
    pub(super) fn input<T: Element>(
        &mut self,
        name: &'static str,
        shape: (u64, u64),
        mut value: impl FnMut(&mut Rng, u64) -> T,
    ) -> Mat {
        self.place(name, shape, false, Some(&mut value))
    }

    /// An operand the op reads and writes.
    pub(super) fn update<T: Element>(
        &mut self,
        name: &'static str,
        shape: (u64, u64),
        mut value: impl FnMut(&mut Rng, u64) -> T,
    ) -> Mat {
        self.place(name, shape, true, Some(&mut value))
    }

    /// An operand the op only writes; it starts as sentinels, so reading it shows.
    pub(super) fn output<T: Element>(&mut self, name: &'static str, shape: (u64, u64)) -> Mat {
        self.place::<T>(name, shape, true, None)
    }

    /// An f32 output that is added to (`accumulate`) or only written.
    pub(super) fn result(&mut self, name: &'static str, shape: (u64, u64), accumulate: bool) -> Mat {
        if accumulate { self.update(name, shape, |r, _| r.normal()) } else { self.output::<f32>(name, shape) }
    }

    /// Standard normal f32 input.
    pub(super) fn normal(&mut self, name: &'static str, shape: (u64, u64)) -> Mat {
        self.input(name, shape, |r, _| r.normal())
    }

    /// Uniform f32 input.
    pub(super) fn uniform(&mut self, name: &'static str, shape: (u64, u64), a: f32, b: f32) -> Mat {
        self.input(name, shape, move |r, _| r.uniform(a, b))
    }

    /// Normal input of any float type.
    pub(super) fn floats(&mut self, name: &'static str, shape: (u64, u64), dtype: DType) -> Mat {
        match dtype {
            DType::BF16 => self.input(name, shape, |r, _| bf16::from_f32(r.normal())),
            DType::F16 => self.input(name, shape, |r, _| f16::from_f32(r.normal())),
            _ => self.normal(name, shape),
        }
    }

    /// Any float type with every kind of value: specials, halfway cases, tiny, huge.
    pub(super) fn float_bits(&mut self, name: &'static str, shape: (u64, u64), dtype: DType) -> Mat {
        let specials =
            [f32::NAN, f32::INFINITY, -0.0, 1e-40, 65519.0, 65520.0, 3.4e38, 1.0 + 1.0 / 256.0, 6e-8];
        let value = move |r: &mut Rng, i: u64| match specials.get(i as usize) {
            Some(&v) => v,
            None => r.normal() * 10f32.powi(r.below(12) as i32 - 6),
        };
        match dtype {
            DType::BF16 => self.input(name, shape, |r, i| bf16::from_f32(value(r, i))),
            DType::F16 => self.input(name, shape, |r, i| f16::from_f32(value(r, i))),
            _ => self.input(name, shape, value),
        }
    }

    /// An output of any float type.
    pub(super) fn float_output(&mut self, name: &'static str, shape: (u64, u64), dtype: DType) -> Mat {
        match dtype {
            DType::BF16 => self.output::<bf16>(name, shape),
            DType::F16 => self.output::<f16>(name, shape),
            _ => self.output::<f32>(name, shape),
        }
    }

    /// The operand when `present`, else the absent one.
    pub(super) fn when(&mut self, present: bool, make: impl FnOnce(&mut Self) -> Mat) -> Mat {
        if present { make(self) } else { Mat::NONE }
    }

    /// The most recent operand gets its own tolerance.
    pub(super) fn with_tolerance(&mut self, tolerance: f64) {
        if let Some(r) = self.regions.last_mut() {
            r.tolerance = Some(tolerance);
        }
    }

    /// The most recent operand's values are of this size by nature.
    pub(super) fn of_size(&mut self, size: f64) {
        if let Some(r) = self.regions.last_mut() {
            r.size = size;
        }
    }

    /// Elements of `mat` before the offset at `(0, 0)` of `counts` and from that at `(0, i)` are undefined.
    pub(super) fn defined_by(&mut self, mat: Mat, counts: Mat, i: u64) {
        for r in self.regions.iter_mut().filter(|r| r.mat.addr == mat.addr) {
            r.defined_by = Some((counts, i));
        }
    }

    /// Sparse codes: values, indices, and row offsets when ragged.
    pub(super) fn codes(&mut self, shape: Codes) -> (Sparse, Entries) {
        let entries = Entries::random(&mut self.rng, shape);
        let slot = |i: u64| entries.slots.get(i as usize).filter(|_| i as usize >= entries.before);
        let mut vals = |r: &mut Rng, i: u64| match slot(i) {
            Some(&Some(_)) if i % 11 == 5 => 0.0,
            Some(&Some(_)) => r.normal().abs() + 0.01,
            Some(None) => 0.0,
            None => f32::NAN,
        };
        let column = |i: u64| slot(i).map_or(0x7FFF_FFFF, |s| s.unwrap_or(u32::MAX));
        let dims = if shape.ragged { (1, entries.slots.len() as u64 + 5) } else { (shape.rows, shape.k) };
        let vals = self.contiguous().input("vals", dims, &mut vals);
        let idx = self.contiguous().input("idx", dims, |_, i| column(i));
        let ptr =
            self.when(shape.ragged, |b| b.input("ptr", (1, shape.rows + 1), |_, i| entries.ptr[i as usize]));
        (Sparse { vals, idx, ptr, rows: shape.rows, n: shape.n }, entries)
    }

    /// The entries grouped by column, with a few undefined entries at the end, and before the first where offsets begin later.
    pub(super) fn by_column(&mut self, entries: &Entries, n: u64) -> ByColumn {
        let mut list = entries.list();
        list.sort_by_key(|&(row, _, column)| (column, row));
        let before = entries.before as u64;
        let first = |f: u64| list.partition_point(|&(_, _, column)| u64::from(column) < f) as u64;
        let offset = |f: u64| (before + first(f)) as u32;
        let capacity = before + list.len() as u64 + 3;
        let entry = |i: u64| i.checked_sub(before).and_then(|i| list.get(i as usize));
        let nth = |i: u64| entry(i).copied().unwrap_or((0x7FFF_FFFF, 0x7FFF_FFFF, 0));
        ByColumn {
            col_ptr: self.input("col_ptr", (1, n + 1), |_, f| offset(f)),
            row: self.input("row", (1, capacity), |_, i| nth(i).0),
            slot: self.input("slot", (1, capacity), |_, i| nth(i).1),
        }
    }
}

/// Shape of generated sparse codes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    pub(super) rows: u64,
    pub(super) k: u64,
    pub(super) n: u64,
    /// Row offsets and row lengths from 0 to k instead of exactly k slots.
    pub(super) ragged: bool,
    /// Some slots of the fixed form are empty.
    pub(super) holes: bool,
    /// Row offsets are those of later rows of a larger matrix: other entries lie before the first.
    pub(super) later: bool,
}

/// Entries before the first of codes whose offsets begin later.
const BEFORE: usize = 6;

/// The columns of generated codes, slot by slot.
pub(super) struct Entries {
    slots: Vec<Option<u32>>,
    ptr: Vec<u32>,
    /// Slots before the first row's, which no op may look at.
    before: usize,
}

impl Entries {
    fn random(rng: &mut Rng, s: Codes) -> Self {
        let before = if s.later { BEFORE } else { 0 };
        let (mut slots, mut ptr) = (vec![None; before], vec![before as u32]);
        for _ in 0..s.rows {
            let full = s.k.min(s.n);
            let count = if s.ragged { rng.below(full + 1) } else { full };
            let mut row = distinct(rng, count, s.n);
            if s.ragged {
                row.sort_unstable();
                slots.extend(row.into_iter().map(Some));
            } else {
                let hole = |rng: &mut Rng| s.holes && rng.below(5) == 0;
                slots.extend(row.into_iter().map(|c| if hole(rng) { None } else { Some(c) }));
                slots.extend((full..s.k).map(|_| None));
            }
            ptr.push(slots.len() as u32);
        }
        Self { slots, ptr, before }
    }

    /// `(row, slot, column)` of every entry.
    fn list(&self) -> Vec<(u32, u32, u32)> {
        let rows = self.ptr.windows(2).enumerate();
        rows.flat_map(|(r, w)| (w[0]..w[1]).map(move |slot| (r as u32, slot)))
            .filter_map(|(r, slot)| self.slots[slot as usize].map(|c| (r, slot, c)))
            .collect()
    }
}

/// `count` different numbers below `n`.
fn distinct(rng: &mut Rng, count: u64, n: u64) -> Vec<u32> {
    if 2 * count < n {
        let mut seen = HashSet::new();
        let mut row = Vec::with_capacity(count as usize);
        while (row.len() as u64) < count {
            let c = rng.below(n) as u32;
            if seen.insert(c) {
                row.push(c);
            }
        }
        return row;
    }
    let mut all: Vec<u32> = (0..n as u32).collect();
    for i in 0..count {
        all.swap(i as usize, (i + rng.below(n - i)) as usize);
    }
    all.truncate(count as usize);
    all
}
