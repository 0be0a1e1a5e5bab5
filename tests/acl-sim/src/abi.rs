//! The C ABI as documented for CANN 8.1 to 9.1: scalar types, handles, constants, and the macro that exports a function
//! together with its C prototype, so that a compiler can compare these with somebody else's header.

use std::ffi::{c_char, c_int};

pub type aclError = c_int;
pub type aclnnStatus = c_int;
pub type aclDataType = c_int;
pub type aclFormat = c_int;
pub type aclDeviceInfo = c_int;
pub type aclrtMemcpyKind = u32;
pub type aclrtMemMallocPolicy = u32;
pub type aclrtMemAttr = u32;
pub type aclrtRunMode = u32;
pub type aclrtStreamStatus = u32;
pub type aclrtEventStatus = u32;
pub type aclrtEventRecordedStatus = u32;
pub type aclrtEventWaitStatus = u32;
pub type aclSysParamOpt = u32;
pub type aclrtLastErrLevel = u32;
pub type aclmdlRICaptureMode = u32;
pub type aclmdlRICaptureStatus = u32;
pub type aclrtContext = *mut std::ffi::c_void;
pub type aclrtStream = *mut std::ffi::c_void;
pub type aclrtEvent = *mut std::ffi::c_void;
pub type aclmdlRI = *mut std::ffi::c_void;
pub type aclFloat16 = u16;
pub type HcclResult = u32;
pub type HcclDataType = u32;
pub type HcclReduceOp = u32;
pub type HcclComm = *mut std::ffi::c_void;

/// Bytes of a root.
pub const ROOT_BYTES: usize = 4108;

/// What one rank makes and all others are given.
#[repr(C)]
pub struct HcclRootInfo {
    bytes: [c_char; ROOT_BYTES],
}

/// Opaque objects, used only by pointer.
pub enum aclTensor {}
pub enum aclScalar {}
pub enum aclIntArray {}
pub enum aclFloatArray {}
pub enum aclBoolArray {}
pub enum aclTensorList {}
pub enum aclOpExecutor {}

macro_rules! constants {
    ($($name:ident = $value:expr),* $(,)?) => {
        $(#[allow(dead_code)] pub const $name: i64 = $value;)*
        /// Every constant with its name, for comparison with a header.
        pub const CONSTANTS: &[(&str, i64)] = &[$((stringify!($name), $name)),*];
    };
}

constants! {
    ACL_DT_UNDEFINED = -1, ACL_FLOAT = 0, ACL_FLOAT16 = 1, ACL_INT8 = 2, ACL_INT32 = 3, ACL_UINT8 = 4, ACL_INT16 = 6,
    ACL_UINT16 = 7, ACL_UINT32 = 8, ACL_INT64 = 9, ACL_UINT64 = 10, ACL_DOUBLE = 11, ACL_BOOL = 12, ACL_STRING = 13,
    ACL_COMPLEX64 = 16, ACL_COMPLEX128 = 17, ACL_BF16 = 27, ACL_INT4 = 29, ACL_UINT1 = 30, ACL_COMPLEX32 = 33,
    ACL_FORMAT_UNDEFINED = -1, ACL_FORMAT_NCHW = 0, ACL_FORMAT_NHWC = 1, ACL_FORMAT_ND = 2, ACL_FORMAT_NC1HWC0 = 3,
    ACL_FORMAT_FRACTAL_NZ = 29,
    ACL_MEMCPY_HOST_TO_HOST = 0, ACL_MEMCPY_HOST_TO_DEVICE = 1, ACL_MEMCPY_DEVICE_TO_HOST = 2,
    ACL_MEMCPY_DEVICE_TO_DEVICE = 3,
    ACL_MEM_MALLOC_HUGE_FIRST = 0, ACL_MEM_MALLOC_HUGE_ONLY = 1, ACL_MEM_MALLOC_NORMAL_ONLY = 2,
    ACL_DDR_MEM = 0, ACL_HBM_MEM = 1, ACL_HBM_MEM_HUGE = 4, ACL_HBM_MEM_NORMAL = 5,
    ACL_DEVICE = 0, ACL_HOST = 1,
    ACL_STREAM_STATUS_COMPLETE = 0, ACL_STREAM_STATUS_NOT_READY = 1,
    ACL_EVENT_STATUS_COMPLETE = 0, ACL_EVENT_STATUS_NOT_READY = 1,
    ACL_EVENT_RECORDED_STATUS_NOT_READY = 0, ACL_EVENT_RECORDED_STATUS_COMPLETE = 1,
    ACL_EVENT_WAIT_STATUS_COMPLETE = 0, ACL_EVENT_WAIT_STATUS_NOT_READY = 1,
    ACL_OPT_DETERMINISTIC = 0, ACL_OPT_ENABLE_DEBUG_KERNEL = 1,
    ACL_RT_THREAD_LEVEL = 0,
    ACL_DEVICE_INFO_AI_CORE_NUM = 0, ACL_DEVICE_INFO_VECTOR_CORE_NUM = 1, ACL_DEVICE_INFO_L2_SIZE = 2,
    ACL_MODEL_RI_CAPTURE_MODE_GLOBAL = 0, ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL = 1,
    ACL_MODEL_RI_CAPTURE_MODE_RELAXED = 2,
    ACL_MODEL_RI_CAPTURE_STATUS_NONE = 0, ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE = 1,
    ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED = 2,
    ACL_EVENT_SYNC = 1, ACL_EVENT_CAPTURE_STREAM_PROGRESS = 2, ACL_EVENT_TIME_LINE = 8,
    ACL_STREAM_FAST_LAUNCH = 1, ACL_STREAM_FAST_SYNC = 2, ACL_CONTINUE_ON_FAILURE = 0, ACL_STOP_ON_FAILURE = 1,
    ACL_ERROR_INVALID_PARAM = 100000, ACL_ERROR_UNINITIALIZE = 100001, ACL_ERROR_REPEAT_INITIALIZE = 100002,
    ACL_ERROR_REPEAT_FINALIZE = 100037, ACL_ERROR_RT_PARAM_INVALID = 107000, ACL_ERROR_RT_INVALID_DEVICEID = 107001,
    ACL_ERROR_RT_CONTEXT_NULL = 107002, ACL_ERROR_RT_STREAM_CONTEXT = 107003,
    ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID = 107006,
    ACL_ERROR_RT_INVALID_HANDLE = 107017, ACL_ERROR_RT_WAIT_TIMEOUT = 107019,
    ACL_ERROR_RT_STREAM_CAPTURED = 107027, ACL_ERROR_RT_STREAM_NOT_CAPTURED = 107029,
    ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT = 107030,
    ACL_ERROR_RT_FEATURE_NOT_SUPPORT = 207000, ACL_ERROR_RT_MEMORY_ALLOCATION = 207001,
    ACL_ERROR_RT_NO_STREAM_RESOURCE = 207008,
    ACL_ERROR_RT_LOST_HEARTBEAT = 507010, ACL_ERROR_RT_AICORE_TIMEOUT = 507014,
    ACL_ERROR_RT_AICORE_EXCEPTION = 507015, ACL_ERROR_RT_VECTOR_CORE_EXCEPTION = 507035,
    ACL_ERROR_RT_STREAM_SYNC_TIMEOUT = 507046,
    HCCL_SUCCESS = 0, HCCL_E_PARA = 1, HCCL_E_PTR = 2, HCCL_E_INTERNAL = 4, HCCL_E_NOT_SUPPORT = 5, HCCL_E_TIMEOUT = 9,
    HCCL_E_RUNTIME = 15, HCCL_E_NETWORK = 19, HCCL_E_REMOTE = 21,
    HCCL_DATA_TYPE_INT8 = 0, HCCL_DATA_TYPE_INT16 = 1, HCCL_DATA_TYPE_INT32 = 2, HCCL_DATA_TYPE_FP16 = 3,
    HCCL_DATA_TYPE_FP32 = 4, HCCL_DATA_TYPE_INT64 = 5, HCCL_DATA_TYPE_UINT64 = 6, HCCL_DATA_TYPE_UINT8 = 7,
    HCCL_DATA_TYPE_UINT16 = 8, HCCL_DATA_TYPE_UINT32 = 9, HCCL_DATA_TYPE_FP64 = 10, HCCL_DATA_TYPE_BFP16 = 11,
    HCCL_REDUCE_SUM = 0, HCCL_REDUCE_PROD = 1, HCCL_REDUCE_MAX = 2, HCCL_REDUCE_MIN = 3,
}

/// Codes of the operator library; no public header that clients include names them.
pub const PARAM_NULLPTR: i32 = 161001;
pub const PARAM_INVALID: i32 = 161002;
pub const RUNTIME_ERROR: i32 = 361001;
pub const FIND_KERNEL: i32 = 561003;

/// A constant as the type most calls use.
pub const fn code(value: i64) -> i32 {
    value as i32
}

/// Exports functions under their C names and lists their types. The body runs where the failure to inject says nothing.
macro_rules! exports {
    ($list:ident: $($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> $ret {
                if let Some(code) = $crate::world::injected(stringify!($name)) {
                    return $crate::abi::Failed::failed(code);
                }
                $body
            }
        )*
        pub const $list: &[(&str, &[&str], &str)] =
            &[$((stringify!($name), &[$(stringify!($ty)),*], stringify!($ret))),*];
    };
}
pub(crate) use exports;

/// What a call returns when its failure is injected.
pub trait Failed {
    fn failed(code: i32) -> Self;
}
impl Failed for i32 {
    fn failed(code: i32) -> Self {
        code
    }
}
impl Failed for u32 {
    fn failed(code: i32) -> Self {
        code as u32
    }
}
impl Failed for usize {
    fn failed(_: i32) -> Self {
        0
    }
}
impl Failed for u16 {
    fn failed(_: i32) -> Self {
        0
    }
}
impl Failed for f32 {
    fn failed(_: i32) -> Self {
        0.0
    }
}
impl<T> Failed for *mut T {
    fn failed(_: i32) -> Self {
        std::ptr::null_mut()
    }
}
impl<T> Failed for *const T {
    fn failed(_: i32) -> Self {
        std::ptr::null()
    }
}

/// A Rust type of this module as C writes it.
fn c_type(rust: &str) -> String {
    let rust = rust.trim();
    if let Some(to) = rust.strip_prefix("*mut ") {
        return format!("{} *", c_type(to));
    }
    if let Some(to) = rust.strip_prefix("*const ") {
        let to = c_type(to);
        return if to.ends_with('*') { format!("{to}const *") } else { format!("const {to} *") };
    }
    match rust {
        "c_void" => "void",
        "c_char" => "char",
        "c_int" => "int",
        "i8" => "int8_t",
        "i32" => "int32_t",
        "i64" => "int64_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        "f32" => "float",
        "f64" => "double",
        "T" => "const aclTensor *",
        "O" => "aclTensor *",
        "S" => "const aclScalar *",
        "I" => "const aclIntArray *",
        "Dt" => "aclDataType",
        other => other,
    }
    .to_owned()
}

/// One `name|prototype` a line for every exported function, then `name=value` for every constant.
pub fn text() -> String {
    let mut out = String::new();
    let runtime = [
        crate::runtime::FUNCTIONS,
        crate::copies::FUNCTIONS,
        crate::objects::FUNCTIONS,
        crate::hccl::FUNCTIONS,
    ];
    for (name, arguments, ret) in runtime.into_iter().chain(crate::streams::FUNCTIONS).flatten() {
        let arguments: Vec<String> = arguments.iter().map(|a| c_type(a)).collect();
        let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
        out += &format!("{name}|{} ({arguments})\n", c_type(ret));
    }
    for (name, arguments) in crate::ops::table::PROTOTYPES {
        let mut arguments: Vec<String> = arguments.iter().map(|a| c_type(a)).collect();
        arguments.extend(["uint64_t *".into(), "aclOpExecutor **".into()]);
        out += &format!("aclnn{name}GetWorkspaceSize|aclnnStatus ({})\n", arguments.join(", "));
        out += &format!("aclnn{name}|aclnnStatus (void *, uint64_t, aclOpExecutor *, aclrtStream)\n");
    }
    for (name, value) in CONSTANTS {
        out += &format!("{name}={value}\n");
    }
    out
}

/// [`text`] for a test that loads the library.
#[unsafe(no_mangle)]
pub extern "C" fn acl_sim_abi() -> *const c_char {
    static TEXT: std::sync::LazyLock<std::ffi::CString> =
        std::sync::LazyLock::new(|| std::ffi::CString::new(text()).unwrap_or_default());
    TEXT.as_ptr()
}

/// Bytes of one element; 0 for types the simulator does not hold.
pub fn size_of(dtype: aclDataType) -> usize {
    match dtype as i64 {
        ACL_INT8 | ACL_UINT8 | ACL_BOOL => 1,
        ACL_FLOAT16 | ACL_BF16 | ACL_INT16 | ACL_UINT16 => 2,
        ACL_FLOAT | ACL_INT32 | ACL_UINT32 => 4,
        ACL_INT64 | ACL_UINT64 | ACL_DOUBLE => 8,
        _ => 0,
    }
}

/// Name of an element type in messages.
pub fn dtype_name(dtype: aclDataType) -> String {
    CONSTANTS[..20]
        .iter()
        .find(|(_, v)| *v == dtype as i64)
        .map_or_else(|| format!("dtype {dtype}"), |(n, _)| format!("DT_{}", &n[4..]))
}

/// An opaque handle: a number that is no address.
pub fn handle<T>(id: usize) -> *mut T {
    std::ptr::without_provenance_mut(id)
}
