//! Descriptors of the operator library: tensors, scalars, arrays and lists. A descriptor is a number that was never given
//! before, so that one used after its destruction is recognised. Source: aclCreateTensor and the other pages of
//! libnnopbase: strides and offset count elements, the data address is the storage's, a list destroys what it holds.

use crate::{
    abi::*,
    world::{fail, violation, world},
};
use std::{
    collections::HashMap,
    ffi::{c_char, c_void},
};

#[derive(Clone, Debug)]
pub struct Tensor {
    pub dims: Vec<i64>,
    pub strides: Vec<i64>,
    pub offset: i64,
    pub dtype: i32,
    pub format: i32,
    /// Elements of the whole buffer.
    pub storage: i64,
    pub data: u64,
}

/// A value as the client wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Scalar {
    pub dtype: i32,
    pub float: f64,
    pub int: i64,
}

#[derive(Clone, Debug)]
pub enum Object {
    Tensor(Tensor),
    Scalar(Scalar),
    Ints(Vec<i64>),
    Floats,
    Bools,
    Tensors(Vec<usize>),
}

#[derive(Default)]
pub struct Objects {
    live: HashMap<usize, Object>,
}

impl Objects {
    pub fn get(&self, handle: usize) -> &Object {
        match self.live.get(&handle) {
            Some(o) => o,
            None => violation(
                "a descriptor (aclTensor, aclScalar, array or list) is used that was destroyed or never created",
            ),
        }
    }
    pub fn is_live(&self, handle: usize) -> bool {
        self.live.contains_key(&handle)
    }
    pub fn get_mut(&mut self, handle: usize) -> Option<&mut Object> {
        self.live.get_mut(&handle)
    }
    pub fn alive(&self, out: &mut Vec<String>) {
        if !self.live.is_empty() {
            out.push(format!("{} descriptors", self.live.len()));
        }
    }
}

fn create<T>(object: Object) -> *mut T {
    let mut w = world();
    let id = w.new_handle();
    w.objects.live.insert(id, object);
    handle(id)
}

fn destroy(pointer: usize, is_kind: impl Fn(&Object) -> bool, kind: &str) -> i32 {
    if pointer == 0 {
        return 0;
    }
    let mut w = world();
    match w.objects.live.remove(&pointer) {
        None => violation(&format!(
            "{kind} is destroyed twice, after the list that held it, or was never created"
        )),
        Some(o) if !is_kind(&o) => violation(&format!("{kind} is destroyed that is of another kind")),
        Some(Object::Tensors(held)) => {
            for t in held {
                if w.objects.live.remove(&t).is_none() {
                    violation("a list is destroyed that holds a tensor destroyed before");
                }
            }
        }
        Some(_) => {}
    }
    if let Some(op) = w.executors.needs(pointer) {
        violation(&format!("{kind} is destroyed between the two phases of {op}"));
    }
    0
}

/// # Safety
/// `values` holds `n` elements, or is null.
unsafe fn slice<'a, T>(values: *const T, n: u64) -> Option<&'a [T]> {
    match (values.is_null(), n) {
        (_, 0) => Some(&[]),
        (true, _) => None,
        // SAFETY: as the caller promises.
        (false, n) => Some(unsafe { std::slice::from_raw_parts(values, n as usize) }),
    }
}

fn contiguous(dims: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

/// # Safety
/// `value` points at an element of the type.
unsafe fn read_scalar(value: *const c_void, dtype: i32) -> Option<Scalar> {
    macro_rules! read {
        ($t:ty) => {
            // SAFETY: as the caller promises; it may be unaligned.
            unsafe { value.cast::<$t>().read_unaligned() }
        };
    }
    let (float, int) = match i64::from(dtype) {
        ACL_FLOAT => (f64::from(read!(f32)), 0),
        ACL_DOUBLE => (read!(f64), 0),
        ACL_FLOAT16 => (f64::from(half::f16::from_bits(read!(u16)).to_f32()), 0),
        ACL_BF16 => (f64::from(half::bf16::from_bits(read!(u16)).to_f32()), 0),
        ACL_INT8 => (0.0, i64::from(read!(i8))),
        ACL_UINT8 | ACL_BOOL => (0.0, i64::from(read!(u8))),
        ACL_INT16 => (0.0, i64::from(read!(i16))),
        ACL_UINT16 => (0.0, i64::from(read!(u16))),
        ACL_INT32 => (0.0, i64::from(read!(i32))),
        ACL_UINT32 => (0.0, i64::from(read!(u32))),
        ACL_INT64 => (0.0, read!(i64)),
        ACL_UINT64 => (0.0, read!(u64) as i64),
        _ => return None,
    };
    let is_float = matches!(i64::from(dtype), ACL_FLOAT | ACL_DOUBLE | ACL_FLOAT16 | ACL_BF16);
    let scalar = if is_float {
        Scalar { dtype, float, int: float as i64 }
    } else {
        Scalar { dtype, float: int as f64, int }
    };
    Some(scalar)
}

fn of_tensor<R>(tensor: *const aclTensor, read: impl FnOnce(&mut Tensor) -> R) -> Result<R, i32> {
    if tensor.is_null() {
        return Err(fail(PARAM_NULLPTR, "EZ1001: the tensor is null"));
    }
    let mut w = world();
    match w.objects.get_mut(tensor.addr()) {
        Some(Object::Tensor(t)) => Ok(read(t)),
        _ => violation("a tensor is used that was destroyed or never created"),
    }
}

exports! { FUNCTIONS:
    fn aclnnInit(_config: *const c_char) -> aclnnStatus { 0 }
    fn aclnnFinalize() -> aclnnStatus { 0 }
    fn aclCreateTensor(
        dims: *const i64,
        n_dims: u64,
        dtype: aclDataType,
        strides: *const i64,
        offset: i64,
        format: aclFormat,
        storage: *const i64,
        n_storage: u64,
        data: *mut c_void,
    ) -> *mut aclTensor {
        // SAFETY: the caller's arrays have the lengths it gives.
        let (dims, storage) = unsafe { (slice(dims, n_dims), slice(storage, n_storage)) };
        let (Some(dims), Some(storage)) = (dims, storage) else {
            fail(PARAM_NULLPTR, "EZ1001: the dims of a tensor or of its storage are null");
            return std::ptr::null_mut();
        };
        // SAFETY: strides, where given, are as many as dims.
        let strides = match unsafe { slice(strides, n_dims) } {
            Some(s) if !strides.is_null() => s.to_vec(),
            _ => contiguous(dims),
        };
        create(Object::Tensor(Tensor {
            dims: dims.to_vec(),
            strides,
            offset,
            dtype,
            format,
            storage: storage.iter().product(),
            data: data.addr() as u64,
        }))
    }
    fn aclCreateScalar(value: *mut c_void, dtype: aclDataType) -> *mut aclScalar {
        if value.is_null() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller points at an element of this type.
        match unsafe { read_scalar(value, dtype) } {
            Some(s) => create(Object::Scalar(s)),
            None => std::ptr::null_mut(),
        }
    }
    fn aclCreateIntArray(value: *const i64, size: u64) -> *mut aclIntArray {
        // SAFETY: the caller's array has this length.
        unsafe { slice(value, size) }.map_or(std::ptr::null_mut(), |v| create(Object::Ints(v.to_vec())))
    }
    fn aclCreateFloatArray(value: *const f32, size: u64) -> *mut aclFloatArray {
        // SAFETY: the caller's array has this length.
        unsafe { slice(value, size) }.map_or(std::ptr::null_mut(), |_| create(Object::Floats))
    }
    fn aclCreateBoolArray(value: *const bool, size: u64) -> *mut aclBoolArray {
        // SAFETY: the caller's array has this length.
        unsafe { slice(value, size) }.map_or(std::ptr::null_mut(), |_| create(Object::Bools))
    }
    fn aclCreateTensorList(value: *const *const aclTensor, size: u64) -> *mut aclTensorList {
        // SAFETY: the caller's array has this length.
        let Some(tensors) = (unsafe { slice(value, size) }) else { return std::ptr::null_mut() };
        create(Object::Tensors(tensors.iter().map(|t| t.addr()).collect()))
    }
    fn aclDestroyTensor(tensor: *const aclTensor) -> aclnnStatus {
        destroy(tensor.addr(), |o| matches!(o, Object::Tensor(_)), "a tensor")
    }
    fn aclDestroyScalar(scalar: *const aclScalar) -> aclnnStatus {
        destroy(scalar.addr(), |o| matches!(o, Object::Scalar(_)), "a scalar")
    }
    fn aclDestroyIntArray(array: *const aclIntArray) -> aclnnStatus {
        destroy(array.addr(), |o| matches!(o, Object::Ints(_)), "an array of integers")
    }
    fn aclDestroyFloatArray(array: *const aclFloatArray) -> aclnnStatus {
        destroy(array.addr(), |o| matches!(o, Object::Floats), "an array of floats")
    }
    fn aclDestroyBoolArray(array: *const aclBoolArray) -> aclnnStatus {
        destroy(array.addr(), |o| matches!(o, Object::Bools), "an array of flags")
    }
    fn aclDestroyTensorList(list: *const aclTensorList) -> aclnnStatus {
        destroy(list.addr(), |o| matches!(o, Object::Tensors(_)), "a list of tensors")
    }
    fn aclGetIntArraySize(array: *const aclIntArray, size: *mut u64) -> aclnnStatus {
        match world().objects.get(array.addr()) {
            Object::Ints(v) => {
                // SAFETY: the caller gave a place.
                unsafe { *size = v.len() as u64 };
                0
            }
            _ => fail(PARAM_INVALID, "EZ1001: not an array of integers"),
        }
    }
    fn aclGetTensorListSize(list: *const aclTensorList, size: *mut u64) -> aclnnStatus {
        match world().objects.get(list.addr()) {
            Object::Tensors(v) => {
                // SAFETY: the caller gave a place.
                unsafe { *size = v.len() as u64 };
                0
            }
            _ => fail(PARAM_INVALID, "EZ1001: not a list of tensors"),
        }
    }
    fn aclGetViewOffset(tensor: *const aclTensor, offset: *mut i64) -> aclnnStatus {
        // SAFETY: the caller gave a place.
        of_tensor(tensor, |t| unsafe { *offset = t.offset }).err().unwrap_or(0)
    }
    fn aclGetFormat(tensor: *const aclTensor, format: *mut aclFormat) -> aclnnStatus {
        // SAFETY: the caller gave a place.
        of_tensor(tensor, |t| unsafe { *format = t.format }).err().unwrap_or(0)
    }
    fn aclGetDataType(tensor: *const aclTensor, dtype: *mut aclDataType) -> aclnnStatus {
        // SAFETY: the caller gave a place.
        of_tensor(tensor, |t| unsafe { *dtype = t.dtype }).err().unwrap_or(0)
    }
    fn aclSetRawTensorAddr(tensor: *mut aclTensor, addr: *mut c_void) -> aclnnStatus {
        of_tensor(tensor, |t| t.data = addr.addr() as u64).err().unwrap_or(0)
    }
    fn aclGetRawTensorAddr(tensor: *const aclTensor, addr: *mut *mut c_void) -> aclnnStatus {
        // SAFETY: the caller gave a place.
        of_tensor(tensor, |t| unsafe { *addr = std::ptr::without_provenance_mut(t.data as usize) }).err().unwrap_or(0)
    }
    fn aclSetAclOpExecutorRepeatable(executor: *mut aclOpExecutor) -> aclnnStatus {
        crate::executor::repeatable(executor)
    }
    fn aclDestroyAclOpExecutor(executor: *mut aclOpExecutor) -> aclnnStatus {
        crate::executor::destroy(executor)
    }
}
