//! Element access for the reference: every read is widened to f64, every write is rounded once to the operand's type,
//! every index is checked. All of the reference's unsafe memory access is here.

use half::{bf16, f16};
use lm_saes_runtime::{
    DType,
    op::{Mat, Sparse},
};

/// Stands for "the addresses of the op being run are live": made only by `launch`, whose caller vouches for them.
#[derive(Clone, Copy)]
pub(super) struct Live(());

impl Live {
    /// # Safety
    /// Every `Mat` given to [`Live::at`] must describe live host memory of its full span.
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }

    /// Access to an operand.
    pub(super) fn at(self, mat: Mat) -> Host {
        Host(mat)
    }

    /// Element (r, c) of an optional operand.
    pub(super) fn or(self, mat: Mat, r: u64, c: u64, absent: f64) -> f64 {
        if mat.is_some() { Host(mat).get(r, c) } else { absent }
    }

    /// Whether an optional u8 mask lets column c pass.
    pub(super) fn passes(self, mask: Mat, c: u64) -> bool {
        !mask.is_some() || Host(mask).u8(0, c) == 1
    }

    /// The slots of row `r`: `(slot, Some(column))`, the column `None` for an empty slot.
    pub(super) fn slots(self, s: &Sparse, r: u64) -> Result<Vec<(u64, Option<u64>)>, String> {
        let range = if s.ptr.is_some() {
            let ptr = self.at(s.ptr);
            u64::from(ptr.u32(0, r))..u64::from(ptr.u32(0, r + 1))
        } else {
            r * s.vals.cols..(r + 1) * s.vals.cols
        };
        range
            .map(|slot| match self.at(s.idx).flat_u32(slot) {
                u32::MAX => Ok((slot, None)),
                c if u64::from(c) < s.n => Ok((slot, Some(u64::from(c)))),
                c => Err(format!("index {c} of a matrix with {} columns", s.n)),
            })
            .collect()
    }

    /// The occupied entries of row `r` as `(slot, column)`.
    pub(super) fn entries(self, s: &Sparse, r: u64) -> Result<Vec<(u64, u64)>, String> {
        Ok(self.slots(s, r)?.into_iter().filter_map(|(slot, c)| c.map(|c| (slot, c))).collect())
    }
}

/// One operand in host memory.
#[derive(Clone, Copy)]
pub(super) struct Host(Mat);

impl Host {
    fn place<T>(self, r: u64, c: u64) -> *mut T {
        let m = &self.0;
        assert!(r < m.rows && c < m.cols, "element ({r}, {c}) of [{}, {}]", m.rows, m.cols);
        assert_eq!(size_of::<T>(), m.dtype.bytes(), "element type {}", m.dtype);
        (m.addr.0 as *mut T).wrapping_add((r * m.ld + c) as usize)
    }

    fn read<T: Copy>(self, r: u64, c: u64) -> T {
        // SAFETY: `place` checked the index and the size; `Live` stands for the memory; matrices are aligned to their type.
        unsafe { self.place::<T>(r, c).read() }
    }

    fn write<T>(self, r: u64, c: u64, v: T) {
        // SAFETY: as in `read`; ops run one at a time on one thread, so nobody reads this element meanwhile.
        unsafe { self.place::<T>(r, c).write(v) }
    }

    /// A float element, exactly.
    pub(super) fn get(self, r: u64, c: u64) -> f64 {
        match self.0.dtype {
            DType::F32 => self.read::<f32>(r, c).into(),
            DType::BF16 => self.read::<bf16>(r, c).into(),
            DType::F16 => self.read::<f16>(r, c).into(),
            DType::U32 => self.read::<u32>(r, c).into(),
            DType::I32 => self.read::<i32>(r, c).into(),
            _ => self.read::<u8>(r, c).into(),
        }
    }

    /// Rounds to the element's type: floats to nearest even by way of f32, integers truncated and saturated.
    pub(super) fn set(self, r: u64, c: u64, v: f64) {
        match self.0.dtype {
            DType::F32 => self.write(r, c, v as f32),
            DType::BF16 => self.write(r, c, bf16::from_f32(v as f32)),
            DType::F16 => self.write(r, c, f16::from_f32(v as f32)),
            DType::U32 => self.write(r, c, v as u32),
            DType::I32 => self.write(r, c, v as i32),
            _ => self.write(r, c, v as u8),
        }
    }

    /// An f32 element.
    pub(super) fn f32(self, r: u64, c: u64) -> f32 {
        self.read(r, c)
    }
    /// A u32 element.
    pub(super) fn u32(self, r: u64, c: u64) -> u32 {
        self.read(r, c)
    }
    /// A byte.
    pub(super) fn u8(self, r: u64, c: u64) -> u8 {
        self.read(r, c)
    }
    /// Writes a u32 element.
    pub(super) fn set_u32(self, r: u64, c: u64, v: u32) {
        self.write(r, c, v);
    }

    /// Element `i` in row-major order, as float.
    pub(super) fn flat(self, i: u64) -> f64 {
        self.get(i / self.0.cols, i % self.0.cols)
    }
    /// Element `i` in row-major order, as u32.
    pub(super) fn flat_u32(self, i: u64) -> u32 {
        self.u32(i / self.0.cols, i % self.0.cols)
    }
    /// Writes element `i` in row-major order.
    pub(super) fn set_flat(self, i: u64, v: f64) {
        self.set(i / self.0.cols, i % self.0.cols, v);
    }
}
