//! Values of tensors: strided views of device memory, read into plain vectors and written back. Floats are held in f64,
//! integers and flags in i64, so every type except the upper half of u64 is exact.

use crate::{abi::*, memory::translate};
use half::{bf16, f16};

#[derive(Clone, Debug)]
pub struct View {
    pub dtype: i32,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    /// Address of element 0 of the view.
    pub addr: u64,
}

/// Values in row-major order.
#[derive(Clone, Debug)]
pub enum Data {
    F(Vec<f64>),
    I(Vec<i64>),
}

impl Data {
    pub fn ints(self) -> Vec<i64> {
        match self {
            Self::I(v) => v,
            Self::F(v) => v.into_iter().map(|x| x as i64).collect(),
        }
    }
}

pub fn is_float(dtype: i32) -> bool {
    matches!(i64::from(dtype), ACL_FLOAT | ACL_FLOAT16 | ACL_BF16 | ACL_DOUBLE)
}

/// One element type: how it is read and written.
trait Element: Copy {
    fn f(self) -> f64;
    fn i(self) -> i64;
    fn from_f(v: f64) -> Self;
    fn from_i(v: i64) -> Self;
}

macro_rules! element {
    ($($t:ty),*) => {$(
        impl Element for $t {
            fn f(self) -> f64 { self as f64 }
            fn i(self) -> i64 { self as i64 }
            fn from_f(v: f64) -> Self { v as $t }
            fn from_i(v: i64) -> Self { v as $t }
        }
    )*};
}
element!(f32, f64, i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! half_element {
    ($($t:ty),*) => {$(
        impl Element for $t {
            fn f(self) -> f64 { self.to_f64() }
            fn i(self) -> i64 { self.to_f64() as i64 }
            fn from_f(v: f64) -> Self { <$t>::from_f64(v) }
            fn from_i(v: i64) -> Self { <$t>::from_f64(v as f64) }
        }
    )*};
}
half_element!(f16, bf16);

/// A flag: anything but 0 is true.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Flag(u8);
impl Element for Flag {
    fn f(self) -> f64 {
        f64::from(self.0 != 0)
    }
    fn i(self) -> i64 {
        i64::from(self.0 != 0)
    }
    fn from_f(v: f64) -> Self {
        Self(u8::from(v != 0.0))
    }
    fn from_i(v: i64) -> Self {
        Self(u8::from(v != 0))
    }
}

macro_rules! by_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match i64::from($dtype) {
            ACL_FLOAT => {
                type $t = f32;
                $body
            }
            ACL_FLOAT16 => {
                type $t = f16;
                $body
            }
            ACL_BF16 => {
                type $t = bf16;
                $body
            }
            ACL_DOUBLE => {
                type $t = f64;
                $body
            }
            ACL_INT8 => {
                type $t = i8;
                $body
            }
            ACL_UINT8 => {
                type $t = u8;
                $body
            }
            ACL_INT16 => {
                type $t = i16;
                $body
            }
            ACL_UINT16 => {
                type $t = u16;
                $body
            }
            ACL_INT32 => {
                type $t = i32;
                $body
            }
            ACL_UINT32 => {
                type $t = u32;
                $body
            }
            ACL_INT64 => {
                type $t = i64;
                $body
            }
            ACL_UINT64 => {
                type $t = u64;
                $body
            }
            _ => {
                type $t = Flag;
                $body
            }
        }
    };
}

impl View {
    pub fn len(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
    /// Address just past the last element.
    pub fn end(&self) -> u64 {
        let last: i64 = self.shape.iter().zip(&self.strides).map(|(d, s)| (d - 1) * s).sum();
        self.addr + (last as u64 + 1) * size_of(self.dtype) as u64
    }
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same values repeated to a larger shape; `None` where the shapes do not agree.
    pub fn broadcast(&self, shape: &[i64]) -> Option<Self> {
        let ahead = shape.len().checked_sub(self.rank())?;
        let mut strides = vec![0; shape.len()];
        for i in 0..self.rank() {
            if self.shape[i] == shape[ahead + i] {
                strides[ahead + i] = self.strides[i];
            } else if self.shape[i] != 1 {
                return None;
            }
        }
        Some(Self { dtype: self.dtype, shape: shape.to_vec(), strides, addr: self.addr })
    }

    /// Whether the elements lie one after another.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(d, s)| {
            let fits = *d == 1 || *s == expected;
            expected *= d;
            fits
        })
    }

    /// Offsets in elements of each innermost run, with the run's length and stride.
    fn runs(&self, mut each: impl FnMut(i64)) -> (usize, i64) {
        if self.is_contiguous() {
            if !self.is_empty() {
                each(0);
            }
            return (self.len(), 1);
        }
        let last = self.rank() - 1;
        let (n, stride) = (self.shape[last] as usize, self.strides[last]);
        let outer = &self.shape[..last];
        let mut at = vec![0i64; last];
        let total: i64 = outer.iter().product();
        let mut offset = 0;
        for _ in 0..if self.is_empty() { 0 } else { total } {
            each(offset);
            for d in (0..last).rev() {
                at[d] += 1;
                offset += self.strides[d];
                if at[d] < outer[d] {
                    break;
                }
                offset -= at[d] * self.strides[d];
                at[d] = 0;
            }
        }
        (n, stride)
    }

    fn gather<E: Element, R>(&self, convert: impl Fn(E) -> R) -> Vec<R> {
        let base = translate(self.addr).cast::<E>();
        let mut starts = Vec::new();
        let (n, stride) = self.runs(|o| starts.push(o));
        let mut out = Vec::with_capacity(self.len());
        // SAFETY of both: the view lies in a live block (checked when the task was queued), at a multiple of the element's
        // size from an aligned start; E has no invalid bits, and nothing writes the block meanwhile.
        for start in starts {
            if stride == 1 {
                // SAFETY: as above.
                let run = unsafe { std::slice::from_raw_parts(base.offset(start as isize), n) };
                out.extend(run.iter().map(|v| convert(*v)));
            } else {
                // SAFETY: as above.
                let at = |i| unsafe { *base.offset((start + i * stride) as isize) };
                out.extend((0..n as i64).map(|i| convert(at(i))));
            }
        }
        out
    }

    fn scatter<E: Element, V: Copy>(&self, values: &[V], convert: impl Fn(V) -> E) {
        let base = translate(self.addr).cast::<E>();
        let mut starts = Vec::new();
        let (n, stride) = self.runs(|o| starts.push(o));
        for (start, values) in starts.into_iter().zip(values.chunks(n.max(1))) {
            if stride == 1 {
                // SAFETY: as in `gather`; nobody else uses the memory, or the order would have been refused.
                let run =
                    unsafe { std::slice::from_raw_parts_mut(base.offset(start as isize), values.len()) };
                run.iter_mut().zip(values).for_each(|(o, v)| *o = convert(*v));
            } else {
                for (i, v) in values.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { *base.offset((start + i as i64 * stride) as isize) = convert(*v) };
                }
            }
        }
    }

    pub fn load(&self) -> Data {
        if is_float(self.dtype) { Data::F(self.load_f()) } else { Data::I(self.load_i()) }
    }
    pub fn load_f(&self) -> Vec<f64> {
        by_type!(self.dtype, E => self.gather(|v: E| v.f()))
    }
    pub fn load_i(&self) -> Vec<i64> {
        by_type!(self.dtype, E => self.gather(|v: E| v.i()))
    }
    /// As f32, for products.
    pub fn load_f32(&self) -> Vec<f32> {
        by_type!(self.dtype, E => self.gather(|v: E| v.f() as f32))
    }
    pub fn store(&self, data: &Data) {
        match data {
            Data::F(v) => self.store_f(v),
            Data::I(v) => self.store_i(v),
        }
    }
    pub fn store_f(&self, values: &[f64]) {
        by_type!(self.dtype, E => self.scatter(values, E::from_f));
    }
    pub fn store_i(&self, values: &[i64]) {
        by_type!(self.dtype, E => self.scatter(values, E::from_i));
    }
    /// From f32, for products into f32 without a detour.
    pub fn store_f32(&self, values: &[f32]) {
        by_type!(self.dtype, E => self.scatter(values, |v| E::from_f(f64::from(v))));
    }

    /// A dim counted from the front, `None` where it does not exist.
    pub fn dim(&self, dim: i64) -> Option<usize> {
        let rank = (self.rank() as i64).max(1);
        let d = if dim < 0 { dim + rank } else { dim };
        (0..rank).contains(&d).then_some(d as usize)
    }

    /// Elements before, in and after a dim of the row-major order.
    pub fn around(&self, dim: usize) -> (usize, usize, usize) {
        let size = |dims: &[i64]| dims.iter().product::<i64>() as usize;
        if self.rank() == 0 {
            return (1, 1, 1);
        }
        (size(&self.shape[..dim]), self.shape[dim] as usize, size(&self.shape[dim + 1..]))
    }
}

/// Relative noise of up to 2^-bits on every finite value, except on small integers: sums of those are exact in any order.
pub fn perturb(values: &mut [f64], bits: u32, seed: u64) {
    let scale = 0.5f64.powi(bits as i32);
    let mut state = seed | 1;
    for v in values {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        if v.is_finite() && (v.fract() != 0.0 || v.abs() > 16_777_216.0) {
            *v *= 1.0 + unit * scale;
        }
    }
}
