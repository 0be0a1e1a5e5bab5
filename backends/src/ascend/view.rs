//! Strided views of device memory, which become `aclTensor`s, and the descriptors an operator is called with. Every descriptor
//! has an owner that destroys it.

use super::{
    device::Card,
    load::Api,
    sys::{aclDataType, aclFormat, aclIntArray, aclScalar, aclTensor},
};
use lm_saes_runtime::{DType, Result, op::Mat};

/// Most dimensions of a view.
const MOST: usize = 6;

/// A tensor in device memory: strides in elements. u32 is carried as i32, its bits unchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct View {
    pub(super) addr: u64,
    pub(super) dtype: aclDataType,
    rank: usize,
    dims: [i64; MOST],
    strides: [i64; MOST],
}

impl View {
    /// A matrix.
    pub(super) fn of(m: &Mat) -> Self {
        let dtype = match m.dtype {
            DType::BF16 => aclDataType::ACL_BF16,
            DType::F16 => aclDataType::ACL_FLOAT16,
            DType::I32 | DType::U32 => aclDataType::ACL_INT32,
            DType::U8 => aclDataType::ACL_UINT8,
            _ => aclDataType::ACL_FLOAT,
        };
        Self::strided(m.addr.0, dtype, &[m.rows as i64, m.cols as i64], &[m.ld as i64, 1])
    }

    /// Memory without gaps.
    pub(super) fn packed(addr: u64, dtype: aclDataType, dims: &[i64]) -> Self {
        let mut strides = [1; MOST];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i] * dims[i].max(1);
        }
        Self::strided(addr, dtype, dims, &strides[..dims.len()])
    }

    /// Memory with these strides. At most six dimensions.
    pub(super) fn strided(addr: u64, dtype: aclDataType, dims: &[i64], strides: &[i64]) -> Self {
        let mut view = Self { addr, dtype, rank: dims.len(), dims: [1; MOST], strides: [1; MOST] };
        view.dims[..dims.len()].copy_from_slice(dims);
        view.strides[..dims.len()].copy_from_slice(strides);
        view
    }

    /// The same shape elsewhere.
    pub(super) fn at(&self, addr: u64) -> Self {
        Self { addr, ..*self }
    }

    pub(super) fn dims(&self) -> &[i64] {
        &self.dims[..self.rank]
    }
    pub(super) fn strides(&self) -> &[i64] {
        &self.strides[..self.rank]
    }
    /// Size of a dimension.
    pub(super) fn dim(&self, i: usize) -> i64 {
        self.dims[i]
    }
    /// Number of elements.
    pub(super) fn len(&self) -> i64 {
        self.dims().iter().product()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of an element.
    pub(super) fn size(&self) -> u64 {
        width(self.dtype)
    }
    /// Elements from the first to just past the last.
    pub(super) fn span(&self) -> i64 {
        if self.is_empty() {
            return 0;
        }
        1 + self.dims().iter().zip(self.strides()).map(|(d, s)| (d - 1) * s).sum::<i64>()
    }
    /// Whether elements follow one another without gaps, in order.
    pub(super) fn is_packed(&self) -> bool {
        let mut next = 1;
        for i in (0..self.rank).rev() {
            if self.dims[i] != 1 && self.strides[i] != next {
                return false;
            }
            next *= self.dims[i];
        }
        true
    }

    /// The same elements, which must be packed, under another shape.
    pub(super) fn shaped(&self, dims: &[i64]) -> Self {
        debug_assert!(self.is_packed() && dims.iter().product::<i64>() == self.len(), "{self:?} as {dims:?}");
        Self::packed(self.addr, self.dtype, dims)
    }

    /// The one dimension that has more than one element, alone.
    pub(super) fn line(&self) -> Self {
        let i = (0..self.rank).find(|&i| self.dims[i] != 1).unwrap_or(0);
        Self::strided(self.addr, self.dtype, &[self.dims[i]], &[self.strides[i]])
    }

    /// A row as a column, or the other way round, whatever its place in memory.
    pub(super) fn turned(&self) -> Self {
        let mut view = *self;
        view.dims.swap(self.rank - 2, self.rank - 1);
        view.strides.swap(self.rank - 2, self.rank - 1);
        view
    }

    /// Elements `from..from + n` of dimension `dim`.
    pub(super) fn part(&self, dim: usize, from: i64, n: i64) -> Self {
        let mut view = *self;
        view.addr += (from * self.strides[dim]) as u64 * self.size();
        view.dims[dim] = n;
        view
    }

    /// All memory from the first to the last element as one dimension: elements are found at `Σ index·stride`.
    pub(super) fn flat(&self) -> Self {
        Self::packed(self.addr, self.dtype, &[self.span()])
    }

    /// The same bits as another type of the same width.
    pub(super) fn bits(&self, dtype: aclDataType) -> Self {
        debug_assert_eq!(width(dtype), self.size());
        Self { dtype, ..*self }
    }
}

/// Bytes of an element of the types the back end uses.
pub(super) fn width(dtype: aclDataType) -> u64 {
    match dtype {
        aclDataType::ACL_INT64 => 8,
        aclDataType::ACL_FLOAT | aclDataType::ACL_INT32 => 4,
        aclDataType::ACL_FLOAT16 | aclDataType::ACL_BF16 => 2,
        _ => 1,
    }
}

/// A number an operator takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Float(f32),
    Int(i32),
}

impl From<f32> for Number {
    fn from(v: f32) -> Self {
        Self::Float(v)
    }
}
impl From<i32> for Number {
    fn from(v: i32) -> Self {
        Self::Int(v)
    }
}

macro_rules! owners {
    ($($(#[$doc:meta])* $name:ident $raw:ty, $destroy:ident;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name {
            raw: *mut $raw,
            api: &'static Api,
        }
        impl $name {
            pub(super) fn raw(&self) -> *mut $raw {
                self.raw
            }
        }
        impl Drop for $name {
            fn drop(&mut self) {
                if let Some(destroy) = self.api.descriptor(|f| &f.$destroy) {
                    // SAFETY: created by this owner alone and destroyed once. The call it was made for has returned: work
                    // that is still queued does not refer to descriptors.
                    let _ = unsafe { destroy(self.raw) };
                }
            }
        }
    )*};
}

owners! {
    /// Owner of a tensor descriptor.
    Tensor aclTensor, aclDestroyTensor;
    /// Owner of a scalar.
    Scalar aclScalar, aclDestroyScalar;
    /// Owner of a list of integers.
    IntArray aclIntArray, aclDestroyIntArray;
}

impl Tensor {
    /// The descriptor of a view. Its storage is the whole allocation the view lies in, so that what is declared is what is there.
    pub(super) fn new(card: &Card, v: &View) -> Result<Self> {
        let call = "aclCreateTensor";
        let (base, bytes) = card
            .allocation(v.addr)
            .ok_or_else(|| card.error_text(call, format!("{:#x} is in no memory of this device", v.addr)))?;
        let (offset, size) = (v.addr - base, v.size());
        if offset % size != 0 || offset + v.span() as u64 * size > bytes {
            let what = format!("{v:?} does not fit the {bytes} bytes at {base:#x}");
            return Err(card.error_text(call, what));
        }
        let storage = [(bytes / size) as i64];
        let create = card.api.descriptor(|f| &f.aclCreateTensor);
        let create = create.ok_or_else(|| card.missing(call))?;
        // SAFETY: the arrays have the lengths given and are copied; the storage was allocated with this many bytes.
        let raw = unsafe {
            create(
                v.dims().as_ptr(),
                v.rank as u64,
                v.dtype,
                v.strides().as_ptr(),
                (offset / size) as i64,
                aclFormat::ACL_FORMAT_ND,
                storage.as_ptr(),
                1,
                base as *mut _,
            )
        };
        if raw.is_null() { Err(card.error(call, 0)) } else { Ok(Self { raw, api: card.api }) }
    }
}

impl Scalar {
    pub(super) fn new(card: &Card, number: Number) -> Result<Self> {
        let call = "aclCreateScalar";
        let create = card.api.descriptor(|f| &f.aclCreateScalar).ok_or_else(|| card.missing(call))?;
        let raw = match number {
            // SAFETY: the value has the type given and is copied.
            Number::Float(mut v) => unsafe { create((&raw mut v).cast(), aclDataType::ACL_FLOAT) },
            // SAFETY: as above.
            Number::Int(mut v) => unsafe { create((&raw mut v).cast(), aclDataType::ACL_INT32) },
        };
        if raw.is_null() { Err(card.error(call, 0)) } else { Ok(Self { raw, api: card.api }) }
    }
}

impl IntArray {
    pub(super) fn new(card: &Card, values: &[i64]) -> Result<Self> {
        let call = "aclCreateIntArray";
        let create = card.api.descriptor(|f| &f.aclCreateIntArray).ok_or_else(|| card.missing(call))?;
        // SAFETY: the values are copied.
        let raw = unsafe { create(values.as_ptr(), values.len() as u64) };
        if raw.is_null() { Err(card.error(call, 0)) } else { Ok(Self { raw, api: card.api }) }
    }
}

/// How an argument of an operator is given, kept alive during the call, and passed.
pub(super) trait Argument {
    type Given;
    type Held;
    type Raw;
    fn hold(card: &Card, given: Self::Given) -> Result<Self::Held>;
    fn raw(held: &Self::Held) -> Self::Raw;
}

/// A tensor that is read.
pub(super) struct In;
/// A tensor that is written, or read and written.
pub(super) struct Out;
/// A tensor that may be absent.
pub(super) struct Maybe;
/// A number.
pub(super) struct Num;
/// A list of integers.
pub(super) struct Ints;

impl Argument for In {
    type Given = View;
    type Held = Tensor;
    type Raw = *const aclTensor;
    fn hold(card: &Card, given: View) -> Result<Tensor> {
        Tensor::new(card, &given)
    }
    fn raw(held: &Tensor) -> Self::Raw {
        held.raw()
    }
}
impl Argument for Out {
    type Given = View;
    type Held = Tensor;
    type Raw = *mut aclTensor;
    fn hold(card: &Card, given: View) -> Result<Tensor> {
        Tensor::new(card, &given)
    }
    fn raw(held: &Tensor) -> Self::Raw {
        held.raw()
    }
}
impl Argument for Maybe {
    type Given = Option<View>;
    type Held = Option<Tensor>;
    type Raw = *const aclTensor;
    fn hold(card: &Card, given: Option<View>) -> Result<Option<Tensor>> {
        given.map(|v| Tensor::new(card, &v)).transpose()
    }
    fn raw(held: &Option<Tensor>) -> Self::Raw {
        held.as_ref().map_or(std::ptr::null(), |t| t.raw().cast_const())
    }
}
impl Argument for Num {
    type Given = Number;
    type Held = Scalar;
    type Raw = *const aclScalar;
    fn hold(card: &Card, given: Number) -> Result<Scalar> {
        Scalar::new(card, given)
    }
    fn raw(held: &Scalar) -> Self::Raw {
        held.raw()
    }
}
impl Argument for Ints {
    type Given = Vec<i64>;
    type Held = IntArray;
    type Raw = *const aclIntArray;
    fn hold(card: &Card, given: Vec<i64>) -> Result<IntArray> {
        IntArray::new(card, &given)
    }
    fn raw(held: &IntArray) -> Self::Raw {
        held.raw()
    }
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        impl Argument for $t {
            type Given = $t;
            type Held = $t;
            type Raw = $t;
            fn hold(_: &Card, given: $t) -> Result<$t> {
                Ok(given)
            }
            fn raw(held: &$t) -> $t {
                *held
            }
        }
    )*};
}
plain!(i8, i64, bool, f64, aclDataType);
