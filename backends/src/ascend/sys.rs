//! Bindings to CANN, written by backends/ascend/regenerate.sh from backends/ascend/acl.h: change those.

pub const HCCL_ROOT_INFO_BYTES: i32 = 4108;
pub type aclError = ::std::os::raw::c_int;
pub type aclnnStatus = i32;
pub type aclFloat16 = u16;
pub type aclrtContext = *mut ::std::os::raw::c_void;
pub type aclrtStream = *mut ::std::os::raw::c_void;
pub type aclrtEvent = *mut ::std::os::raw::c_void;
pub type aclmdlRI = *mut ::std::os::raw::c_void;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclTensor {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclScalar {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclIntArray {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclFloatArray {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclBoolArray {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclTensorList {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclScalarList {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aclOpExecutor {
    _unused: [u8; 0],
}
pub type aclrtCallback = ::std::option::Option<unsafe extern "C" fn(userData: *mut ::std::os::raw::c_void)>;
pub type aclrtHostFunc = ::std::option::Option<unsafe extern "C" fn(args: *mut ::std::os::raw::c_void)>;
pub const ACL_ERROR_NONE: _bindgen_ty_1 = 0;
pub const ACL_ERROR_INVALID_PARAM: _bindgen_ty_1 = 100000;
pub const ACL_ERROR_UNINITIALIZE: _bindgen_ty_1 = 100001;
pub const ACL_ERROR_REPEAT_INITIALIZE: _bindgen_ty_1 = 100002;
pub const ACL_ERROR_REPEAT_FINALIZE: _bindgen_ty_1 = 100037;
pub const ACL_ERROR_UNSUPPORTED_DATA_TYPE: _bindgen_ty_1 = 100026;
pub const ACL_ERROR_RT_PARAM_INVALID: _bindgen_ty_1 = 107000;
pub const ACL_ERROR_RT_INVALID_DEVICEID: _bindgen_ty_1 = 107001;
pub const ACL_ERROR_RT_CONTEXT_NULL: _bindgen_ty_1 = 107002;
pub const ACL_ERROR_RT_STREAM_CONTEXT: _bindgen_ty_1 = 107003;
pub const ACL_ERROR_RT_INVALID_MEMORY_TYPE: _bindgen_ty_1 = 107016;
pub const ACL_ERROR_RT_INVALID_HANDLE: _bindgen_ty_1 = 107017;
pub const ACL_ERROR_RT_WAIT_TIMEOUT: _bindgen_ty_1 = 107019;
pub const ACL_ERROR_RT_STREAM_CAPTURED: _bindgen_ty_1 = 107027;
pub const ACL_ERROR_RT_EVENT_CAPTURED: _bindgen_ty_1 = 107028;
pub const ACL_ERROR_RT_STREAM_NOT_CAPTURED: _bindgen_ty_1 = 107029;
pub const ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT: _bindgen_ty_1 = 107030;
pub const ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT: _bindgen_ty_1 = 107031;
pub const ACL_ERROR_BAD_ALLOC: _bindgen_ty_1 = 200000;
pub const ACL_ERROR_API_NOT_SUPPORT: _bindgen_ty_1 = 200001;
pub const ACL_ERROR_FEATURE_UNSUPPORTED: _bindgen_ty_1 = 200006;
pub const ACL_ERROR_RT_FEATURE_NOT_SUPPORT: _bindgen_ty_1 = 207000;
pub const ACL_ERROR_RT_MEMORY_ALLOCATION: _bindgen_ty_1 = 207001;
pub const ACL_ERROR_RT_NO_DEVICE: _bindgen_ty_1 = 207004;
pub const ACL_ERROR_RT_RESOURCE_ALLOC_FAIL: _bindgen_ty_1 = 207005;
pub const ACL_ERROR_RT_NO_EVENT_RESOURCE: _bindgen_ty_1 = 207007;
pub const ACL_ERROR_RT_NO_STREAM_RESOURCE: _bindgen_ty_1 = 207008;
pub const ACL_ERROR_RT_DEVICE_OOM: _bindgen_ty_1 = 207018;
pub const ACL_ERROR_INTERNAL_ERROR: _bindgen_ty_1 = 500000;
pub const ACL_ERROR_FAILURE: _bindgen_ty_1 = 500001;
pub const ACL_ERROR_RT_INTERNAL_ERROR: _bindgen_ty_1 = 507000;
pub const ACL_ERROR_RT_LOST_HEARTBEAT: _bindgen_ty_1 = 507010;
pub const ACL_ERROR_RT_AICORE_TIMEOUT: _bindgen_ty_1 = 507014;
pub const ACL_ERROR_RT_AICORE_EXCEPTION: _bindgen_ty_1 = 507015;
pub const ACL_ERROR_RT_AICPU_EXCEPTION: _bindgen_ty_1 = 507018;
pub const ACL_ERROR_RT_VECTOR_CORE_EXCEPTION: _bindgen_ty_1 = 507035;
pub const ACL_ERROR_RT_STREAM_SYNC_TIMEOUT: _bindgen_ty_1 = 507046;
pub const ACL_ERROR_RT_EVENT_SYNC_TIMEOUT: _bindgen_ty_1 = 507047;
pub const ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR: _bindgen_ty_1 = 507054;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
pub const ACLNN_SUCCESS: _bindgen_ty_2 = 0;
pub const ACLNN_ERR_PARAM_NULLPTR: _bindgen_ty_2 = 161001;
pub const ACLNN_ERR_PARAM_INVALID: _bindgen_ty_2 = 161002;
pub const ACLNN_ERR_RUNTIME_ERROR: _bindgen_ty_2 = 361001;
pub const ACLNN_ERR_INNER: _bindgen_ty_2 = 561000;
pub const ACLNN_ERR_INNER_TILING_ERROR: _bindgen_ty_2 = 561002;
pub const ACLNN_ERR_INNER_FIND_KERNEL_ERROR: _bindgen_ty_2 = 561003;
pub const ACLNN_ERR_INNER_NULLPTR: _bindgen_ty_2 = 561103;
pub type _bindgen_ty_2 = ::std::os::raw::c_uint;
pub const ACL_EVENT_SYNC: _bindgen_ty_3 = 1;
pub const ACL_EVENT_CAPTURE_STREAM_PROGRESS: _bindgen_ty_3 = 2;
pub const ACL_EVENT_TIME_LINE: _bindgen_ty_3 = 8;
pub const ACL_STREAM_FAST_LAUNCH: _bindgen_ty_3 = 1;
pub const ACL_STREAM_FAST_SYNC: _bindgen_ty_3 = 2;
pub const ACL_CONTINUE_ON_FAILURE: _bindgen_ty_3 = 0;
pub const ACL_STOP_ON_FAILURE: _bindgen_ty_3 = 1;
pub type _bindgen_ty_3 = ::std::os::raw::c_uint;
impl aclDataType {
    pub const ACL_DT_UNDEFINED: aclDataType = aclDataType(-1);
    pub const ACL_FLOAT: aclDataType = aclDataType(0);
    pub const ACL_FLOAT16: aclDataType = aclDataType(1);
    pub const ACL_INT8: aclDataType = aclDataType(2);
    pub const ACL_INT32: aclDataType = aclDataType(3);
    pub const ACL_UINT8: aclDataType = aclDataType(4);
    pub const ACL_INT16: aclDataType = aclDataType(6);
    pub const ACL_UINT16: aclDataType = aclDataType(7);
    pub const ACL_UINT32: aclDataType = aclDataType(8);
    pub const ACL_INT64: aclDataType = aclDataType(9);
    pub const ACL_UINT64: aclDataType = aclDataType(10);
    pub const ACL_DOUBLE: aclDataType = aclDataType(11);
    pub const ACL_BOOL: aclDataType = aclDataType(12);
    pub const ACL_STRING: aclDataType = aclDataType(13);
    pub const ACL_COMPLEX64: aclDataType = aclDataType(16);
    pub const ACL_COMPLEX128: aclDataType = aclDataType(17);
    pub const ACL_BF16: aclDataType = aclDataType(27);
    pub const ACL_INT4: aclDataType = aclDataType(29);
    pub const ACL_UINT1: aclDataType = aclDataType(30);
    pub const ACL_COMPLEX32: aclDataType = aclDataType(33);
    pub const ACL_HIFLOAT8: aclDataType = aclDataType(34);
    pub const ACL_FLOAT8_E5M2: aclDataType = aclDataType(35);
    pub const ACL_FLOAT8_E4M3FN: aclDataType = aclDataType(36);
    pub const ACL_FLOAT8_E8M0: aclDataType = aclDataType(37);
    pub const ACL_FLOAT6_E3M2: aclDataType = aclDataType(38);
    pub const ACL_FLOAT6_E2M3: aclDataType = aclDataType(39);
    pub const ACL_FLOAT4_E2M1: aclDataType = aclDataType(40);
    pub const ACL_FLOAT4_E1M2: aclDataType = aclDataType(41);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclDataType(pub ::std::os::raw::c_int);
impl aclFormat {
    pub const ACL_FORMAT_UNDEFINED: aclFormat = aclFormat(-1);
    pub const ACL_FORMAT_NCHW: aclFormat = aclFormat(0);
    pub const ACL_FORMAT_NHWC: aclFormat = aclFormat(1);
    pub const ACL_FORMAT_ND: aclFormat = aclFormat(2);
    pub const ACL_FORMAT_NC1HWC0: aclFormat = aclFormat(3);
    pub const ACL_FORMAT_FRACTAL_Z: aclFormat = aclFormat(4);
    pub const ACL_FORMAT_NC1HWC0_C04: aclFormat = aclFormat(12);
    pub const ACL_FORMAT_HWCN: aclFormat = aclFormat(16);
    pub const ACL_FORMAT_NDHWC: aclFormat = aclFormat(27);
    pub const ACL_FORMAT_FRACTAL_NZ: aclFormat = aclFormat(29);
    pub const ACL_FORMAT_NCDHW: aclFormat = aclFormat(30);
    pub const ACL_FORMAT_NDC1HWC0: aclFormat = aclFormat(32);
    pub const ACL_FRACTAL_Z_3D: aclFormat = aclFormat(33);
    pub const ACL_FORMAT_NC: aclFormat = aclFormat(35);
    pub const ACL_FORMAT_NCL: aclFormat = aclFormat(47);
    pub const ACL_FORMAT_FRACTAL_NZ_C0_16: aclFormat = aclFormat(50);
    pub const ACL_FORMAT_FRACTAL_NZ_C0_32: aclFormat = aclFormat(51);
    pub const ACL_FORMAT_FRACTAL_NZ_C0_2: aclFormat = aclFormat(52);
    pub const ACL_FORMAT_FRACTAL_NZ_C0_4: aclFormat = aclFormat(53);
    pub const ACL_FORMAT_FRACTAL_NZ_C0_8: aclFormat = aclFormat(54);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclFormat(pub ::std::os::raw::c_int);
impl aclrtMemcpyKind {
    pub const ACL_MEMCPY_HOST_TO_HOST: aclrtMemcpyKind = aclrtMemcpyKind(0);
    pub const ACL_MEMCPY_HOST_TO_DEVICE: aclrtMemcpyKind = aclrtMemcpyKind(1);
    pub const ACL_MEMCPY_DEVICE_TO_HOST: aclrtMemcpyKind = aclrtMemcpyKind(2);
    pub const ACL_MEMCPY_DEVICE_TO_DEVICE: aclrtMemcpyKind = aclrtMemcpyKind(3);
    pub const ACL_MEMCPY_DEFAULT: aclrtMemcpyKind = aclrtMemcpyKind(4);
    pub const ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE: aclrtMemcpyKind = aclrtMemcpyKind(5);
    pub const ACL_MEMCPY_INNER_DEVICE_TO_DEVICE: aclrtMemcpyKind = aclrtMemcpyKind(6);
    pub const ACL_MEMCPY_INTER_DEVICE_TO_DEVICE: aclrtMemcpyKind = aclrtMemcpyKind(7);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtMemcpyKind(pub ::std::os::raw::c_uint);
impl aclrtMemMallocPolicy {
    pub const ACL_MEM_MALLOC_HUGE_FIRST: aclrtMemMallocPolicy = aclrtMemMallocPolicy(0);
    pub const ACL_MEM_MALLOC_HUGE_ONLY: aclrtMemMallocPolicy = aclrtMemMallocPolicy(1);
    pub const ACL_MEM_MALLOC_NORMAL_ONLY: aclrtMemMallocPolicy = aclrtMemMallocPolicy(2);
    pub const ACL_MEM_MALLOC_HUGE_FIRST_P2P: aclrtMemMallocPolicy = aclrtMemMallocPolicy(3);
    pub const ACL_MEM_MALLOC_HUGE_ONLY_P2P: aclrtMemMallocPolicy = aclrtMemMallocPolicy(4);
    pub const ACL_MEM_MALLOC_NORMAL_ONLY_P2P: aclrtMemMallocPolicy = aclrtMemMallocPolicy(5);
    pub const ACL_MEM_MALLOC_HUGE1G_ONLY: aclrtMemMallocPolicy = aclrtMemMallocPolicy(6);
    pub const ACL_MEM_MALLOC_HUGE1G_ONLY_P2P: aclrtMemMallocPolicy = aclrtMemMallocPolicy(7);
    pub const ACL_MEM_TYPE_LOW_BAND_WIDTH: aclrtMemMallocPolicy = aclrtMemMallocPolicy(256);
    pub const ACL_MEM_TYPE_HIGH_BAND_WIDTH: aclrtMemMallocPolicy = aclrtMemMallocPolicy(4096);
    pub const ACL_MEM_ACCESS_USER_SPACE_READONLY: aclrtMemMallocPolicy = aclrtMemMallocPolicy(1048576);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtMemMallocPolicy(pub ::std::os::raw::c_uint);
impl aclrtMemAttr {
    pub const ACL_DDR_MEM: aclrtMemAttr = aclrtMemAttr(0);
    pub const ACL_HBM_MEM: aclrtMemAttr = aclrtMemAttr(1);
    pub const ACL_DDR_MEM_HUGE: aclrtMemAttr = aclrtMemAttr(2);
    pub const ACL_DDR_MEM_NORMAL: aclrtMemAttr = aclrtMemAttr(3);
    pub const ACL_HBM_MEM_HUGE: aclrtMemAttr = aclrtMemAttr(4);
    pub const ACL_HBM_MEM_NORMAL: aclrtMemAttr = aclrtMemAttr(5);
    pub const ACL_DDR_MEM_P2P_HUGE: aclrtMemAttr = aclrtMemAttr(6);
    pub const ACL_DDR_MEM_P2P_NORMAL: aclrtMemAttr = aclrtMemAttr(7);
    pub const ACL_HBM_MEM_P2P_HUGE: aclrtMemAttr = aclrtMemAttr(8);
    pub const ACL_HBM_MEM_P2P_NORMAL: aclrtMemAttr = aclrtMemAttr(9);
    pub const ACL_HBM_MEM_HUGE1G: aclrtMemAttr = aclrtMemAttr(10);
    pub const ACL_HBM_MEM_P2P_HUGE1G: aclrtMemAttr = aclrtMemAttr(11);
    pub const ACL_MEM_NORMAL: aclrtMemAttr = aclrtMemAttr(12);
    pub const ACL_MEM_HUGE: aclrtMemAttr = aclrtMemAttr(13);
    pub const ACL_MEM_HUGE1G: aclrtMemAttr = aclrtMemAttr(14);
    pub const ACL_MEM_P2P_NORMAL: aclrtMemAttr = aclrtMemAttr(15);
    pub const ACL_MEM_P2P_HUGE: aclrtMemAttr = aclrtMemAttr(16);
    pub const ACL_MEM_P2P_HUGE1G: aclrtMemAttr = aclrtMemAttr(17);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtMemAttr(pub ::std::os::raw::c_uint);
impl aclrtRunMode {
    pub const ACL_DEVICE: aclrtRunMode = aclrtRunMode(0);
    pub const ACL_HOST: aclrtRunMode = aclrtRunMode(1);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtRunMode(pub ::std::os::raw::c_uint);
impl aclrtStreamStatus {
    pub const ACL_STREAM_STATUS_COMPLETE: aclrtStreamStatus = aclrtStreamStatus(0);
    pub const ACL_STREAM_STATUS_NOT_READY: aclrtStreamStatus = aclrtStreamStatus(1);
    pub const ACL_STREAM_STATUS_RESERVED: aclrtStreamStatus = aclrtStreamStatus(65535);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtStreamStatus(pub ::std::os::raw::c_uint);
impl aclrtEventStatus {
    pub const ACL_EVENT_STATUS_COMPLETE: aclrtEventStatus = aclrtEventStatus(0);
    pub const ACL_EVENT_STATUS_NOT_READY: aclrtEventStatus = aclrtEventStatus(1);
    pub const ACL_EVENT_STATUS_RESERVED: aclrtEventStatus = aclrtEventStatus(2);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtEventStatus(pub ::std::os::raw::c_uint);
impl aclrtEventRecordedStatus {
    pub const ACL_EVENT_RECORDED_STATUS_NOT_READY: aclrtEventRecordedStatus = aclrtEventRecordedStatus(0);
    pub const ACL_EVENT_RECORDED_STATUS_COMPLETE: aclrtEventRecordedStatus = aclrtEventRecordedStatus(1);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtEventRecordedStatus(pub ::std::os::raw::c_uint);
impl aclrtEventWaitStatus {
    pub const ACL_EVENT_WAIT_STATUS_COMPLETE: aclrtEventWaitStatus = aclrtEventWaitStatus(0);
    pub const ACL_EVENT_WAIT_STATUS_NOT_READY: aclrtEventWaitStatus = aclrtEventWaitStatus(1);
    pub const ACL_EVENT_WAIT_STATUS_RESERVED: aclrtEventWaitStatus = aclrtEventWaitStatus(65535);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtEventWaitStatus(pub ::std::os::raw::c_uint);
impl aclrtCallbackBlockType {
    pub const ACL_CALLBACK_NO_BLOCK: aclrtCallbackBlockType = aclrtCallbackBlockType(0);
    pub const ACL_CALLBACK_BLOCK: aclrtCallbackBlockType = aclrtCallbackBlockType(1);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtCallbackBlockType(pub ::std::os::raw::c_uint);
impl aclSysParamOpt {
    pub const ACL_OPT_DETERMINISTIC: aclSysParamOpt = aclSysParamOpt(0);
    pub const ACL_OPT_ENABLE_DEBUG_KERNEL: aclSysParamOpt = aclSysParamOpt(1);
    pub const ACL_OPT_STRONG_CONSISTENCY: aclSysParamOpt = aclSysParamOpt(2);
    pub const ACL_OPT_ENABLE_KERNEL_EARLY_START: aclSysParamOpt = aclSysParamOpt(3);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclSysParamOpt(pub ::std::os::raw::c_uint);
impl aclrtLastErrLevel {
    pub const ACL_RT_THREAD_LEVEL: aclrtLastErrLevel = aclrtLastErrLevel(0);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclrtLastErrLevel(pub ::std::os::raw::c_uint);
impl aclDeviceInfo {
    pub const ACL_DEVICE_INFO_UNDEFINED: aclDeviceInfo = aclDeviceInfo(-1);
    pub const ACL_DEVICE_INFO_AI_CORE_NUM: aclDeviceInfo = aclDeviceInfo(0);
    pub const ACL_DEVICE_INFO_VECTOR_CORE_NUM: aclDeviceInfo = aclDeviceInfo(1);
    pub const ACL_DEVICE_INFO_L2_SIZE: aclDeviceInfo = aclDeviceInfo(2);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclDeviceInfo(pub ::std::os::raw::c_int);
impl aclmdlRICaptureMode {
    pub const ACL_MODEL_RI_CAPTURE_MODE_GLOBAL: aclmdlRICaptureMode = aclmdlRICaptureMode(0);
    pub const ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL: aclmdlRICaptureMode = aclmdlRICaptureMode(1);
    pub const ACL_MODEL_RI_CAPTURE_MODE_RELAXED: aclmdlRICaptureMode = aclmdlRICaptureMode(2);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclmdlRICaptureMode(pub ::std::os::raw::c_uint);
impl aclmdlRICaptureStatus {
    pub const ACL_MODEL_RI_CAPTURE_STATUS_NONE: aclmdlRICaptureStatus = aclmdlRICaptureStatus(0);
    pub const ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE: aclmdlRICaptureStatus = aclmdlRICaptureStatus(1);
    pub const ACL_MODEL_RI_CAPTURE_STATUS_INVALIDATED: aclmdlRICaptureStatus = aclmdlRICaptureStatus(2);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct aclmdlRICaptureStatus(pub ::std::os::raw::c_uint);
pub type HcclComm = *mut ::std::os::raw::c_void;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct HcclRootInfo {
    pub internal: [::std::os::raw::c_char; 4108usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of HcclRootInfo"][::std::mem::size_of::<HcclRootInfo>() - 4108usize];
    ["Alignment of HcclRootInfo"][::std::mem::align_of::<HcclRootInfo>() - 1usize];
    ["Offset of field: HcclRootInfo::internal"][::std::mem::offset_of!(HcclRootInfo, internal) - 0usize];
};
impl HcclResult {
    pub const HCCL_SUCCESS: HcclResult = HcclResult(0);
    pub const HCCL_E_PARA: HcclResult = HcclResult(1);
    pub const HCCL_E_PTR: HcclResult = HcclResult(2);
    pub const HCCL_E_MEMORY: HcclResult = HcclResult(3);
    pub const HCCL_E_INTERNAL: HcclResult = HcclResult(4);
    pub const HCCL_E_NOT_SUPPORT: HcclResult = HcclResult(5);
    pub const HCCL_E_NOT_FOUND: HcclResult = HcclResult(6);
    pub const HCCL_E_UNAVAIL: HcclResult = HcclResult(7);
    pub const HCCL_E_SYSCALL: HcclResult = HcclResult(8);
    pub const HCCL_E_TIMEOUT: HcclResult = HcclResult(9);
    pub const HCCL_E_OPEN_FILE_FAILURE: HcclResult = HcclResult(10);
    pub const HCCL_E_TCP_CONNECT: HcclResult = HcclResult(11);
    pub const HCCL_E_ROCE_CONNECT: HcclResult = HcclResult(12);
    pub const HCCL_E_TCP_TRANSFER: HcclResult = HcclResult(13);
    pub const HCCL_E_ROCE_TRANSFER: HcclResult = HcclResult(14);
    pub const HCCL_E_RUNTIME: HcclResult = HcclResult(15);
    pub const HCCL_E_DRV: HcclResult = HcclResult(16);
    pub const HCCL_E_PROFILING: HcclResult = HcclResult(17);
    pub const HCCL_E_CCE: HcclResult = HcclResult(18);
    pub const HCCL_E_NETWORK: HcclResult = HcclResult(19);
    pub const HCCL_E_AGAIN: HcclResult = HcclResult(20);
    pub const HCCL_E_REMOTE: HcclResult = HcclResult(21);
    pub const HCCL_E_SUSPENDING: HcclResult = HcclResult(22);
    pub const HCCL_E_OPRETRY_FAIL: HcclResult = HcclResult(23);
    pub const HCCL_E_OOM: HcclResult = HcclResult(24);
    pub const HCCL_E_IN_STATUS: HcclResult = HcclResult(1041);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclResult(pub ::std::os::raw::c_uint);
impl HcclDataType {
    pub const HCCL_DATA_TYPE_INT8: HcclDataType = HcclDataType(0);
    pub const HCCL_DATA_TYPE_INT16: HcclDataType = HcclDataType(1);
    pub const HCCL_DATA_TYPE_INT32: HcclDataType = HcclDataType(2);
    pub const HCCL_DATA_TYPE_FP16: HcclDataType = HcclDataType(3);
    pub const HCCL_DATA_TYPE_FP32: HcclDataType = HcclDataType(4);
    pub const HCCL_DATA_TYPE_INT64: HcclDataType = HcclDataType(5);
    pub const HCCL_DATA_TYPE_UINT64: HcclDataType = HcclDataType(6);
    pub const HCCL_DATA_TYPE_UINT8: HcclDataType = HcclDataType(7);
    pub const HCCL_DATA_TYPE_UINT16: HcclDataType = HcclDataType(8);
    pub const HCCL_DATA_TYPE_UINT32: HcclDataType = HcclDataType(9);
    pub const HCCL_DATA_TYPE_FP64: HcclDataType = HcclDataType(10);
    pub const HCCL_DATA_TYPE_BFP16: HcclDataType = HcclDataType(11);
    pub const HCCL_DATA_TYPE_INT128: HcclDataType = HcclDataType(12);
    pub const HCCL_DATA_TYPE_HIF8: HcclDataType = HcclDataType(14);
    pub const HCCL_DATA_TYPE_FP8E4M3: HcclDataType = HcclDataType(15);
    pub const HCCL_DATA_TYPE_FP8E5M2: HcclDataType = HcclDataType(16);
    pub const HCCL_DATA_TYPE_FP8E8M0: HcclDataType = HcclDataType(17);
    pub const HCCL_DATA_TYPE_MXFP8: HcclDataType = HcclDataType(18);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclDataType(pub ::std::os::raw::c_uint);
impl HcclReduceOp {
    pub const HCCL_REDUCE_SUM: HcclReduceOp = HcclReduceOp(0);
    pub const HCCL_REDUCE_PROD: HcclReduceOp = HcclReduceOp(1);
    pub const HCCL_REDUCE_MAX: HcclReduceOp = HcclReduceOp(2);
    pub const HCCL_REDUCE_MIN: HcclReduceOp = HcclReduceOp(3);
}
#[repr(transparent)]
#[derive(Debug, Copy, Clone, Hash, PartialEq, Eq)]
pub struct HcclReduceOp(pub ::std::os::raw::c_uint);
pub struct Functions {
    __library: ::libloading::Library,
    pub aclInit: Result<
        unsafe extern "C" fn(configPath: *const ::std::os::raw::c_char) -> aclError,
        ::libloading::Error,
    >,
    pub aclFinalize: Result<unsafe extern "C" fn() -> aclError, ::libloading::Error>,
    pub aclGetRecentErrMsg:
        Result<unsafe extern "C" fn() -> *const ::std::os::raw::c_char, ::libloading::Error>,
    pub aclrtGetVersion: Result<
        unsafe extern "C" fn(
            majorVersion: *mut i32,
            minorVersion: *mut i32,
            patchVersion: *mut i32,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtGetSocName: Result<unsafe extern "C" fn() -> *const ::std::os::raw::c_char, ::libloading::Error>,
    pub aclrtSetDevice: Result<unsafe extern "C" fn(deviceId: i32) -> aclError, ::libloading::Error>,
    pub aclrtResetDevice: Result<unsafe extern "C" fn(deviceId: i32) -> aclError, ::libloading::Error>,
    pub aclrtGetDevice: Result<unsafe extern "C" fn(deviceId: *mut i32) -> aclError, ::libloading::Error>,
    pub aclrtGetDeviceCount: Result<unsafe extern "C" fn(count: *mut u32) -> aclError, ::libloading::Error>,
    pub aclrtSynchronizeDevice: Result<unsafe extern "C" fn() -> aclError, ::libloading::Error>,
    pub aclrtGetRunMode:
        Result<unsafe extern "C" fn(runMode: *mut aclrtRunMode) -> aclError, ::libloading::Error>,
    pub aclrtDeviceCanAccessPeer: Result<
        unsafe extern "C" fn(canAccessPeer: *mut i32, deviceId: i32, peerDeviceId: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDeviceEnablePeerAccess:
        Result<unsafe extern "C" fn(peerDeviceId: i32, flags: u32) -> aclError, ::libloading::Error>,
    pub aclGetDeviceCapability: Result<
        unsafe extern "C" fn(deviceId: u32, deviceInfo: aclDeviceInfo, value: *mut i64) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtCreateContext: Result<
        unsafe extern "C" fn(context: *mut aclrtContext, deviceId: i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDestroyContext:
        Result<unsafe extern "C" fn(context: aclrtContext) -> aclError, ::libloading::Error>,
    pub aclrtSetCurrentContext:
        Result<unsafe extern "C" fn(context: aclrtContext) -> aclError, ::libloading::Error>,
    pub aclrtGetCurrentContext:
        Result<unsafe extern "C" fn(context: *mut aclrtContext) -> aclError, ::libloading::Error>,
    pub aclrtCreateStream:
        Result<unsafe extern "C" fn(stream: *mut aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtCreateStreamWithConfig: Result<
        unsafe extern "C" fn(stream: *mut aclrtStream, priority: u32, flag: u32) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtDestroyStream:
        Result<unsafe extern "C" fn(stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtDestroyStreamForce:
        Result<unsafe extern "C" fn(stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtSynchronizeStream:
        Result<unsafe extern "C" fn(stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtSynchronizeStreamWithTimeout:
        Result<unsafe extern "C" fn(stream: aclrtStream, timeout: i32) -> aclError, ::libloading::Error>,
    pub aclrtStreamQuery: Result<
        unsafe extern "C" fn(stream: aclrtStream, status: *mut aclrtStreamStatus) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSetStreamFailureMode:
        Result<unsafe extern "C" fn(stream: aclrtStream, mode: u64) -> aclError, ::libloading::Error>,
    pub aclrtStreamWaitEvent:
        Result<unsafe extern "C" fn(stream: aclrtStream, event: aclrtEvent) -> aclError, ::libloading::Error>,
    pub aclrtCreateEvent:
        Result<unsafe extern "C" fn(event: *mut aclrtEvent) -> aclError, ::libloading::Error>,
    pub aclrtCreateEventWithFlag:
        Result<unsafe extern "C" fn(event: *mut aclrtEvent, flag: u32) -> aclError, ::libloading::Error>,
    pub aclrtCreateEventExWithFlag:
        Result<unsafe extern "C" fn(event: *mut aclrtEvent, flag: u32) -> aclError, ::libloading::Error>,
    pub aclrtDestroyEvent: Result<unsafe extern "C" fn(event: aclrtEvent) -> aclError, ::libloading::Error>,
    pub aclrtRecordEvent:
        Result<unsafe extern "C" fn(event: aclrtEvent, stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtResetEvent:
        Result<unsafe extern "C" fn(event: aclrtEvent, stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtQueryEvent: Result<
        unsafe extern "C" fn(event: aclrtEvent, status: *mut aclrtEventStatus) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtQueryEventStatus: Result<
        unsafe extern "C" fn(event: aclrtEvent, status: *mut aclrtEventRecordedStatus) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtQueryEventWaitStatus: Result<
        unsafe extern "C" fn(event: aclrtEvent, status: *mut aclrtEventWaitStatus) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSynchronizeEvent:
        Result<unsafe extern "C" fn(event: aclrtEvent) -> aclError, ::libloading::Error>,
    pub aclrtEventElapsedTime: Result<
        unsafe extern "C" fn(ms: *mut f32, startEvent: aclrtEvent, endEvent: aclrtEvent) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMalloc: Result<
        unsafe extern "C" fn(
            devPtr: *mut *mut ::std::os::raw::c_void,
            size: usize,
            policy: aclrtMemMallocPolicy,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMallocAlign32: Result<
        unsafe extern "C" fn(
            devPtr: *mut *mut ::std::os::raw::c_void,
            size: usize,
            policy: aclrtMemMallocPolicy,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtFree:
        Result<unsafe extern "C" fn(devPtr: *mut ::std::os::raw::c_void) -> aclError, ::libloading::Error>,
    pub aclrtMallocHost: Result<
        unsafe extern "C" fn(hostPtr: *mut *mut ::std::os::raw::c_void, size: usize) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtFreeHost:
        Result<unsafe extern "C" fn(hostPtr: *mut ::std::os::raw::c_void) -> aclError, ::libloading::Error>,
    pub aclrtGetMemInfo: Result<
        unsafe extern "C" fn(attr: aclrtMemAttr, free: *mut usize, total: *mut usize) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemcpy: Result<
        unsafe extern "C" fn(
            dst: *mut ::std::os::raw::c_void,
            destMax: usize,
            src: *const ::std::os::raw::c_void,
            count: usize,
            kind: aclrtMemcpyKind,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemcpyAsync: Result<
        unsafe extern "C" fn(
            dst: *mut ::std::os::raw::c_void,
            destMax: usize,
            src: *const ::std::os::raw::c_void,
            count: usize,
            kind: aclrtMemcpyKind,
            stream: aclrtStream,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemcpy2d: Result<
        unsafe extern "C" fn(
            dst: *mut ::std::os::raw::c_void,
            dpitch: usize,
            src: *const ::std::os::raw::c_void,
            spitch: usize,
            width: usize,
            height: usize,
            kind: aclrtMemcpyKind,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemcpy2dAsync: Result<
        unsafe extern "C" fn(
            dst: *mut ::std::os::raw::c_void,
            dpitch: usize,
            src: *const ::std::os::raw::c_void,
            spitch: usize,
            width: usize,
            height: usize,
            kind: aclrtMemcpyKind,
            stream: aclrtStream,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemset: Result<
        unsafe extern "C" fn(
            devPtr: *mut ::std::os::raw::c_void,
            maxCount: usize,
            value: i32,
            count: usize,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtMemsetAsync: Result<
        unsafe extern "C" fn(
            devPtr: *mut ::std::os::raw::c_void,
            maxCount: usize,
            value: i32,
            count: usize,
            stream: aclrtStream,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSetSysParamOpt:
        Result<unsafe extern "C" fn(opt: aclSysParamOpt, value: i64) -> aclError, ::libloading::Error>,
    pub aclrtGetSysParamOpt:
        Result<unsafe extern "C" fn(opt: aclSysParamOpt, value: *mut i64) -> aclError, ::libloading::Error>,
    pub aclrtCtxSetSysParamOpt:
        Result<unsafe extern "C" fn(opt: aclSysParamOpt, value: i64) -> aclError, ::libloading::Error>,
    pub aclrtPeekAtLastError:
        Result<unsafe extern "C" fn(level: aclrtLastErrLevel) -> aclError, ::libloading::Error>,
    pub aclrtGetLastError:
        Result<unsafe extern "C" fn(level: aclrtLastErrLevel) -> aclError, ::libloading::Error>,
    pub aclrtLaunchCallback: Result<
        unsafe extern "C" fn(
            fn_: aclrtCallback,
            userData: *mut ::std::os::raw::c_void,
            blockType: aclrtCallbackBlockType,
            stream: aclrtStream,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclrtSubscribeReport:
        Result<unsafe extern "C" fn(threadId: u64, stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtUnSubscribeReport:
        Result<unsafe extern "C" fn(threadId: u64, stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtProcessReport: Result<unsafe extern "C" fn(timeout: i32) -> aclError, ::libloading::Error>,
    pub aclDataTypeSize: Result<unsafe extern "C" fn(dataType: aclDataType) -> usize, ::libloading::Error>,
    pub aclFloatToFloat16: Result<unsafe extern "C" fn(value: f32) -> aclFloat16, ::libloading::Error>,
    pub aclFloat16ToFloat: Result<unsafe extern "C" fn(value: aclFloat16) -> f32, ::libloading::Error>,
    pub aclmdlRICaptureBegin: Result<
        unsafe extern "C" fn(stream: aclrtStream, mode: aclmdlRICaptureMode) -> aclError,
        ::libloading::Error,
    >,
    pub aclmdlRICaptureEnd: Result<
        unsafe extern "C" fn(stream: aclrtStream, modelRI: *mut aclmdlRI) -> aclError,
        ::libloading::Error,
    >,
    pub aclmdlRICaptureGetInfo: Result<
        unsafe extern "C" fn(
            stream: aclrtStream,
            status: *mut aclmdlRICaptureStatus,
            modelRI: *mut aclmdlRI,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclmdlRIExecuteAsync:
        Result<unsafe extern "C" fn(modelRI: aclmdlRI, stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclmdlRIDestroy: Result<unsafe extern "C" fn(modelRI: aclmdlRI) -> aclError, ::libloading::Error>,
    pub aclrtResetDeviceForce: Result<unsafe extern "C" fn(deviceId: i32) -> aclError, ::libloading::Error>,
    pub aclrtSynchronizeDeviceWithTimeout:
        Result<unsafe extern "C" fn(timeout: i32) -> aclError, ::libloading::Error>,
    pub aclrtStreamAbort: Result<unsafe extern "C" fn(stream: aclrtStream) -> aclError, ::libloading::Error>,
    pub aclrtFreeWithDevSync:
        Result<unsafe extern "C" fn(devPtr: *mut ::std::os::raw::c_void) -> aclError, ::libloading::Error>,
    pub aclrtLaunchHostFunc: Result<
        unsafe extern "C" fn(
            stream: aclrtStream,
            fn_: aclrtHostFunc,
            args: *mut ::std::os::raw::c_void,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclsysGetVersionNum: Result<
        unsafe extern "C" fn(pkgName: *mut ::std::os::raw::c_char, versionNum: *mut i32) -> aclError,
        ::libloading::Error,
    >,
    pub aclsysGetVersionStr: Result<
        unsafe extern "C" fn(
            pkgName: *mut ::std::os::raw::c_char,
            versionStr: *mut ::std::os::raw::c_char,
        ) -> aclError,
        ::libloading::Error,
    >,
    pub aclFinalizeReference:
        Result<unsafe extern "C" fn(refCount: *mut u64) -> aclError, ::libloading::Error>,
    pub aclCreateTensor: Result<
        unsafe extern "C" fn(
            viewDims: *const i64,
            viewDimsNum: u64,
            dataType: aclDataType,
            stride: *const i64,
            offset: i64,
            format: aclFormat,
            storageDims: *const i64,
            storageDimsNum: u64,
            tensorData: *mut ::std::os::raw::c_void,
        ) -> *mut aclTensor,
        ::libloading::Error,
    >,
    pub aclCreateScalar: Result<
        unsafe extern "C" fn(value: *mut ::std::os::raw::c_void, dataType: aclDataType) -> *mut aclScalar,
        ::libloading::Error,
    >,
    pub aclCreateIntArray:
        Result<unsafe extern "C" fn(value: *const i64, size: u64) -> *mut aclIntArray, ::libloading::Error>,
    pub aclCreateFloatArray:
        Result<unsafe extern "C" fn(value: *const f32, size: u64) -> *mut aclFloatArray, ::libloading::Error>,
    pub aclCreateBoolArray:
        Result<unsafe extern "C" fn(value: *const bool, size: u64) -> *mut aclBoolArray, ::libloading::Error>,
    pub aclCreateTensorList: Result<
        unsafe extern "C" fn(value: *const *const aclTensor, size: u64) -> *mut aclTensorList,
        ::libloading::Error,
    >,
    pub aclCreateScalarList: Result<
        unsafe extern "C" fn(value: *const *const aclScalar, size: u64) -> *mut aclScalarList,
        ::libloading::Error,
    >,
    pub aclDestroyTensor:
        Result<unsafe extern "C" fn(tensor: *const aclTensor) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyScalar:
        Result<unsafe extern "C" fn(scalar: *const aclScalar) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyIntArray:
        Result<unsafe extern "C" fn(array: *const aclIntArray) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyFloatArray:
        Result<unsafe extern "C" fn(array: *const aclFloatArray) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyBoolArray:
        Result<unsafe extern "C" fn(array: *const aclBoolArray) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyTensorList:
        Result<unsafe extern "C" fn(array: *const aclTensorList) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyScalarList:
        Result<unsafe extern "C" fn(array: *const aclScalarList) -> aclnnStatus, ::libloading::Error>,
    pub aclGetViewShape: Result<
        unsafe extern "C" fn(
            tensor: *const aclTensor,
            viewDims: *mut *mut i64,
            viewDimsNum: *mut u64,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetStorageShape: Result<
        unsafe extern "C" fn(
            tensor: *const aclTensor,
            storageDims: *mut *mut i64,
            storageDimsNum: *mut u64,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetViewStrides: Result<
        unsafe extern "C" fn(
            tensor: *const aclTensor,
            stridesValue: *mut *mut i64,
            stridesNum: *mut u64,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetViewOffset: Result<
        unsafe extern "C" fn(tensor: *const aclTensor, offset: *mut i64) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetFormat: Result<
        unsafe extern "C" fn(tensor: *const aclTensor, format: *mut aclFormat) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetDataType: Result<
        unsafe extern "C" fn(tensor: *const aclTensor, dataType: *mut aclDataType) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetIntArraySize: Result<
        unsafe extern "C" fn(array: *const aclIntArray, size: *mut u64) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetTensorListSize: Result<
        unsafe extern "C" fn(tensorList: *const aclTensorList, size: *mut u64) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclInitTensor: Result<
        unsafe extern "C" fn(
            tensor: *mut aclTensor,
            viewDims: *const i64,
            viewDimsNum: u64,
            dataType: aclDataType,
            stride: *const i64,
            offset: i64,
            format: aclFormat,
            storageDims: *const i64,
            storageDimsNum: u64,
            tensorDataAddr: *mut ::std::os::raw::c_void,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetAclOpExecutorRepeatable:
        Result<unsafe extern "C" fn(executor: *mut aclOpExecutor) -> aclnnStatus, ::libloading::Error>,
    pub aclDestroyAclOpExecutor:
        Result<unsafe extern "C" fn(executor: *mut aclOpExecutor) -> aclnnStatus, ::libloading::Error>,
    pub aclSetInputTensorAddr: Result<
        unsafe extern "C" fn(
            executor: *mut aclOpExecutor,
            index: usize,
            tensor: *mut aclTensor,
            addr: *mut ::std::os::raw::c_void,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetOutputTensorAddr: Result<
        unsafe extern "C" fn(
            executor: *mut aclOpExecutor,
            index: usize,
            tensor: *mut aclTensor,
            addr: *mut ::std::os::raw::c_void,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetTensorAddr: Result<
        unsafe extern "C" fn(
            executor: *mut aclOpExecutor,
            index: usize,
            tensor: *mut aclTensor,
            addr: *mut ::std::os::raw::c_void,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetDynamicTensorAddr: Result<
        unsafe extern "C" fn(
            executor: *mut aclOpExecutor,
            irIndex: usize,
            relativeIndex: usize,
            tensors: *mut aclTensorList,
            addr: *mut ::std::os::raw::c_void,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclSetRawTensorAddr: Result<
        unsafe extern "C" fn(tensor: *mut aclTensor, addr: *mut ::std::os::raw::c_void) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclGetRawTensorAddr: Result<
        unsafe extern "C" fn(tensor: *const aclTensor, addr: *mut *mut ::std::os::raw::c_void) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInit: Result<
        unsafe extern "C" fn(configPath: *const ::std::os::raw::c_char) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnFinalize: Result<unsafe extern "C" fn() -> aclnnStatus, ::libloading::Error>,
    pub aclnnMatmulGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            mat2: *const aclTensor,
            out: *mut aclTensor,
            cubeMathType: i8,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnMatmul: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAddmmGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *const aclTensor,
            mat1: *const aclTensor,
            mat2: *const aclTensor,
            beta: *const aclScalar,
            alpha: *const aclScalar,
            cubeMathType: i8,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAddmm: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAddGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            alpha: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAdd: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAddsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            alpha: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAdds: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAddGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *const aclTensor,
            other: *const aclTensor,
            alpha: *const aclScalar,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAdd: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAddsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *const aclTensor,
            other: *const aclScalar,
            alpha: *const aclScalar,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceAdds: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSubGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            alpha: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSub: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSubsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            alpha: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSubs: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnMulGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnMul: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnMulsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnMuls: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMulGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            other: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMul: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMulsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            other: *const aclScalar,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMuls: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnDivGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnDiv: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnReciprocalGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnReciprocal: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnPowTensorScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            exponent: *const aclScalar,
            out: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnPowTensorScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAbsGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAbs: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnClampGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            clipValueMin: *const aclScalar,
            clipValueMax: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnClamp: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnReluGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnRelu: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeluV2GetWorkspaceSize: Result<
        unsafe extern "C" fn(
            x: *const aclTensor,
            approximate: i64,
            y: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeluV2: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSiluGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSilu: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTanhGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTanh: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnExpGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnExp: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSqrtGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSqrt: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSoftmaxGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: i64,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSoftmax: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogSumExpGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: *const aclIntArray,
            keepDim: bool,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogSumExp: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLayerNormGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            input: *const aclTensor,
            normalizedShape: *const aclIntArray,
            weightOptional: *const aclTensor,
            biasOptional: *const aclTensor,
            eps: f64,
            out: *mut aclTensor,
            meanOutOptional: *mut aclTensor,
            rstdOutOptional: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLayerNorm: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnRmsNormGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            x: *const aclTensor,
            gamma: *const aclTensor,
            epsilon: f64,
            yOut: *const aclTensor,
            rstdOut: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnRmsNorm: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnIndexSelectGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: i64,
            index: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnIndexSelect: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGatherGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: i64,
            index: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGather: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEmbeddingBagGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            weight: *const aclTensor,
            indices: *const aclTensor,
            offsets: *const aclTensor,
            scaleGradByFreq: bool,
            mode: i64,
            sparse: bool,
            perSampleWeights: *const aclTensor,
            includeLastOffset: bool,
            paddingIdx: i64,
            output: *mut aclTensor,
            offset2bag: *mut aclTensor,
            bagSize: *mut aclTensor,
            maxIndices: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEmbeddingBag: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnScatterAddGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: i64,
            index: *const aclTensor,
            src: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnScatterAdd: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceScatterGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            dim: i64,
            index: *const aclTensor,
            src: *const aclTensor,
            reduce: i64,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceScatter: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSearchSortedGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            sortedSequence: *const aclTensor,
            self_: *const aclTensor,
            outInt32: bool,
            right: bool,
            sorter: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSearchSorted: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTopkGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            k: i64,
            dim: i64,
            largest: bool,
            sorted: bool,
            valuesOut: *mut aclTensor,
            indicesOut: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTopk: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSortGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            stable: bool,
            dim: i64,
            descending: bool,
            valuesOut: *mut aclTensor,
            indicesOut: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSort: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnReduceSumGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dims: *const aclIntArray,
            keepDims: bool,
            dtype: aclDataType,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnReduceSum: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAmaxGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: *const aclIntArray,
            keepDim: bool,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAmax: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAnyGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: *const aclIntArray,
            keepdim: bool,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnAny: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnCumsumGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dim: i64,
            dtype: aclDataType,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnCumsum: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnCastGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            dtype: aclDataType,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnCast: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceCopyGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            src: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceCopy: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceFillScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            value: *const aclScalar,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceFillScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceZeroGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceZero: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceOneGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *const aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceOne: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnArangeGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            start: *const aclScalar,
            end: *const aclScalar,
            step: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnArange: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTrilGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            diagonal: i64,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTril: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTriuGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            diagonal: i64,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnTriu: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGtScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGtScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLtScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLtScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLeScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLeScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEqScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEqScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnNeScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclScalar,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnNeScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGtTensorGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGtTensor: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeTensorGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnGeTensor: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEqTensorGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnEqTensor: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalAndGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalAnd: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalOrGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalOr: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalNotGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            self_: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnLogicalNot: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSWhereGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            condition: *const aclTensor,
            self_: *const aclTensor,
            other: *const aclTensor,
            out: *mut aclTensor,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnSWhere: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMaskedFillScalarGetWorkspaceSize: Result<
        unsafe extern "C" fn(
            selfRef: *mut aclTensor,
            mask: *const aclTensor,
            value: *const aclScalar,
            workspaceSize: *mut u64,
            executor: *mut *mut aclOpExecutor,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub aclnnInplaceMaskedFillScalar: Result<
        unsafe extern "C" fn(
            workspace: *mut ::std::os::raw::c_void,
            workspaceSize: u64,
            executor: *mut aclOpExecutor,
            stream: aclrtStream,
        ) -> aclnnStatus,
        ::libloading::Error,
    >,
    pub HcclGetRootInfo:
        Result<unsafe extern "C" fn(rootInfo: *mut HcclRootInfo) -> HcclResult, ::libloading::Error>,
    pub HcclCommInitRootInfo: Result<
        unsafe extern "C" fn(
            nRanks: u32,
            rootInfo: *const HcclRootInfo,
            rank: u32,
            comm: *mut HcclComm,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclAllReduce: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            op: HcclReduceOp,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclBroadcast: Result<
        unsafe extern "C" fn(
            buf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            root: u32,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclReduceScatter: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            recvCount: u64,
            dataType: HcclDataType,
            op: HcclReduceOp,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclAllGather: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            sendCount: u64,
            dataType: HcclDataType,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclReduce: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            recvBuf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            op: HcclReduceOp,
            root: u32,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclSend: Result<
        unsafe extern "C" fn(
            sendBuf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            destRank: u32,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclRecv: Result<
        unsafe extern "C" fn(
            recvBuf: *mut ::std::os::raw::c_void,
            count: u64,
            dataType: HcclDataType,
            srcRank: u32,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclAlltoAll: Result<
        unsafe extern "C" fn(
            sendBuf: *const ::std::os::raw::c_void,
            sendCount: u64,
            sendType: HcclDataType,
            recvBuf: *const ::std::os::raw::c_void,
            recvCount: u64,
            recvType: HcclDataType,
            comm: HcclComm,
            stream: aclrtStream,
        ) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclBarrier:
        Result<unsafe extern "C" fn(comm: HcclComm, stream: aclrtStream) -> HcclResult, ::libloading::Error>,
    pub HcclGetRankSize:
        Result<unsafe extern "C" fn(comm: HcclComm, rankSize: *mut u32) -> HcclResult, ::libloading::Error>,
    pub HcclGetRankId:
        Result<unsafe extern "C" fn(comm: HcclComm, rank: *mut u32) -> HcclResult, ::libloading::Error>,
    pub HcclGetCommAsyncError: Result<
        unsafe extern "C" fn(comm: HcclComm, asyncError: *mut HcclResult) -> HcclResult,
        ::libloading::Error,
    >,
    pub HcclGetErrorString:
        Result<unsafe extern "C" fn(code: HcclResult) -> *const ::std::os::raw::c_char, ::libloading::Error>,
    pub HcclCommDestroy: Result<unsafe extern "C" fn(comm: HcclComm) -> HcclResult, ::libloading::Error>,
}
impl Functions {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: ::libloading::AsFilename,
    {
        let library = unsafe { ::libloading::Library::new(path) }?;
        unsafe { Self::from_library(library) }
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let aclInit = unsafe { __library.get(b"aclInit\0") }.map(|sym| *sym);
        let aclFinalize = unsafe { __library.get(b"aclFinalize\0") }.map(|sym| *sym);
        let aclGetRecentErrMsg = unsafe { __library.get(b"aclGetRecentErrMsg\0") }.map(|sym| *sym);
        let aclrtGetVersion = unsafe { __library.get(b"aclrtGetVersion\0") }.map(|sym| *sym);
        let aclrtGetSocName = unsafe { __library.get(b"aclrtGetSocName\0") }.map(|sym| *sym);
        let aclrtSetDevice = unsafe { __library.get(b"aclrtSetDevice\0") }.map(|sym| *sym);
        let aclrtResetDevice = unsafe { __library.get(b"aclrtResetDevice\0") }.map(|sym| *sym);
        let aclrtGetDevice = unsafe { __library.get(b"aclrtGetDevice\0") }.map(|sym| *sym);
        let aclrtGetDeviceCount = unsafe { __library.get(b"aclrtGetDeviceCount\0") }.map(|sym| *sym);
        let aclrtSynchronizeDevice = unsafe { __library.get(b"aclrtSynchronizeDevice\0") }.map(|sym| *sym);
        let aclrtGetRunMode = unsafe { __library.get(b"aclrtGetRunMode\0") }.map(|sym| *sym);
        let aclrtDeviceCanAccessPeer =
            unsafe { __library.get(b"aclrtDeviceCanAccessPeer\0") }.map(|sym| *sym);
        let aclrtDeviceEnablePeerAccess =
            unsafe { __library.get(b"aclrtDeviceEnablePeerAccess\0") }.map(|sym| *sym);
        let aclGetDeviceCapability = unsafe { __library.get(b"aclGetDeviceCapability\0") }.map(|sym| *sym);
        let aclrtCreateContext = unsafe { __library.get(b"aclrtCreateContext\0") }.map(|sym| *sym);
        let aclrtDestroyContext = unsafe { __library.get(b"aclrtDestroyContext\0") }.map(|sym| *sym);
        let aclrtSetCurrentContext = unsafe { __library.get(b"aclrtSetCurrentContext\0") }.map(|sym| *sym);
        let aclrtGetCurrentContext = unsafe { __library.get(b"aclrtGetCurrentContext\0") }.map(|sym| *sym);
        let aclrtCreateStream = unsafe { __library.get(b"aclrtCreateStream\0") }.map(|sym| *sym);
        let aclrtCreateStreamWithConfig =
            unsafe { __library.get(b"aclrtCreateStreamWithConfig\0") }.map(|sym| *sym);
        let aclrtDestroyStream = unsafe { __library.get(b"aclrtDestroyStream\0") }.map(|sym| *sym);
        let aclrtDestroyStreamForce = unsafe { __library.get(b"aclrtDestroyStreamForce\0") }.map(|sym| *sym);
        let aclrtSynchronizeStream = unsafe { __library.get(b"aclrtSynchronizeStream\0") }.map(|sym| *sym);
        let aclrtSynchronizeStreamWithTimeout =
            unsafe { __library.get(b"aclrtSynchronizeStreamWithTimeout\0") }.map(|sym| *sym);
        let aclrtStreamQuery = unsafe { __library.get(b"aclrtStreamQuery\0") }.map(|sym| *sym);
        let aclrtSetStreamFailureMode =
            unsafe { __library.get(b"aclrtSetStreamFailureMode\0") }.map(|sym| *sym);
        let aclrtStreamWaitEvent = unsafe { __library.get(b"aclrtStreamWaitEvent\0") }.map(|sym| *sym);
        let aclrtCreateEvent = unsafe { __library.get(b"aclrtCreateEvent\0") }.map(|sym| *sym);
        let aclrtCreateEventWithFlag =
            unsafe { __library.get(b"aclrtCreateEventWithFlag\0") }.map(|sym| *sym);
        let aclrtCreateEventExWithFlag =
            unsafe { __library.get(b"aclrtCreateEventExWithFlag\0") }.map(|sym| *sym);
        let aclrtDestroyEvent = unsafe { __library.get(b"aclrtDestroyEvent\0") }.map(|sym| *sym);
        let aclrtRecordEvent = unsafe { __library.get(b"aclrtRecordEvent\0") }.map(|sym| *sym);
        let aclrtResetEvent = unsafe { __library.get(b"aclrtResetEvent\0") }.map(|sym| *sym);
        let aclrtQueryEvent = unsafe { __library.get(b"aclrtQueryEvent\0") }.map(|sym| *sym);
        let aclrtQueryEventStatus = unsafe { __library.get(b"aclrtQueryEventStatus\0") }.map(|sym| *sym);
        let aclrtQueryEventWaitStatus =
            unsafe { __library.get(b"aclrtQueryEventWaitStatus\0") }.map(|sym| *sym);
        let aclrtSynchronizeEvent = unsafe { __library.get(b"aclrtSynchronizeEvent\0") }.map(|sym| *sym);
        let aclrtEventElapsedTime = unsafe { __library.get(b"aclrtEventElapsedTime\0") }.map(|sym| *sym);
        let aclrtMalloc = unsafe { __library.get(b"aclrtMalloc\0") }.map(|sym| *sym);
        let aclrtMallocAlign32 = unsafe { __library.get(b"aclrtMallocAlign32\0") }.map(|sym| *sym);
        let aclrtFree = unsafe { __library.get(b"aclrtFree\0") }.map(|sym| *sym);
        let aclrtMallocHost = unsafe { __library.get(b"aclrtMallocHost\0") }.map(|sym| *sym);
        let aclrtFreeHost = unsafe { __library.get(b"aclrtFreeHost\0") }.map(|sym| *sym);
        let aclrtGetMemInfo = unsafe { __library.get(b"aclrtGetMemInfo\0") }.map(|sym| *sym);
        let aclrtMemcpy = unsafe { __library.get(b"aclrtMemcpy\0") }.map(|sym| *sym);
        let aclrtMemcpyAsync = unsafe { __library.get(b"aclrtMemcpyAsync\0") }.map(|sym| *sym);
        let aclrtMemcpy2d = unsafe { __library.get(b"aclrtMemcpy2d\0") }.map(|sym| *sym);
        let aclrtMemcpy2dAsync = unsafe { __library.get(b"aclrtMemcpy2dAsync\0") }.map(|sym| *sym);
        let aclrtMemset = unsafe { __library.get(b"aclrtMemset\0") }.map(|sym| *sym);
        let aclrtMemsetAsync = unsafe { __library.get(b"aclrtMemsetAsync\0") }.map(|sym| *sym);
        let aclrtSetSysParamOpt = unsafe { __library.get(b"aclrtSetSysParamOpt\0") }.map(|sym| *sym);
        let aclrtGetSysParamOpt = unsafe { __library.get(b"aclrtGetSysParamOpt\0") }.map(|sym| *sym);
        let aclrtCtxSetSysParamOpt = unsafe { __library.get(b"aclrtCtxSetSysParamOpt\0") }.map(|sym| *sym);
        let aclrtPeekAtLastError = unsafe { __library.get(b"aclrtPeekAtLastError\0") }.map(|sym| *sym);
        let aclrtGetLastError = unsafe { __library.get(b"aclrtGetLastError\0") }.map(|sym| *sym);
        let aclrtLaunchCallback = unsafe { __library.get(b"aclrtLaunchCallback\0") }.map(|sym| *sym);
        let aclrtSubscribeReport = unsafe { __library.get(b"aclrtSubscribeReport\0") }.map(|sym| *sym);
        let aclrtUnSubscribeReport = unsafe { __library.get(b"aclrtUnSubscribeReport\0") }.map(|sym| *sym);
        let aclrtProcessReport = unsafe { __library.get(b"aclrtProcessReport\0") }.map(|sym| *sym);
        let aclDataTypeSize = unsafe { __library.get(b"aclDataTypeSize\0") }.map(|sym| *sym);
        let aclFloatToFloat16 = unsafe { __library.get(b"aclFloatToFloat16\0") }.map(|sym| *sym);
        let aclFloat16ToFloat = unsafe { __library.get(b"aclFloat16ToFloat\0") }.map(|sym| *sym);
        let aclmdlRICaptureBegin = unsafe { __library.get(b"aclmdlRICaptureBegin\0") }.map(|sym| *sym);
        let aclmdlRICaptureEnd = unsafe { __library.get(b"aclmdlRICaptureEnd\0") }.map(|sym| *sym);
        let aclmdlRICaptureGetInfo = unsafe { __library.get(b"aclmdlRICaptureGetInfo\0") }.map(|sym| *sym);
        let aclmdlRIExecuteAsync = unsafe { __library.get(b"aclmdlRIExecuteAsync\0") }.map(|sym| *sym);
        let aclmdlRIDestroy = unsafe { __library.get(b"aclmdlRIDestroy\0") }.map(|sym| *sym);
        let aclrtResetDeviceForce = unsafe { __library.get(b"aclrtResetDeviceForce\0") }.map(|sym| *sym);
        let aclrtSynchronizeDeviceWithTimeout =
            unsafe { __library.get(b"aclrtSynchronizeDeviceWithTimeout\0") }.map(|sym| *sym);
        let aclrtStreamAbort = unsafe { __library.get(b"aclrtStreamAbort\0") }.map(|sym| *sym);
        let aclrtFreeWithDevSync = unsafe { __library.get(b"aclrtFreeWithDevSync\0") }.map(|sym| *sym);
        let aclrtLaunchHostFunc = unsafe { __library.get(b"aclrtLaunchHostFunc\0") }.map(|sym| *sym);
        let aclsysGetVersionNum = unsafe { __library.get(b"aclsysGetVersionNum\0") }.map(|sym| *sym);
        let aclsysGetVersionStr = unsafe { __library.get(b"aclsysGetVersionStr\0") }.map(|sym| *sym);
        let aclFinalizeReference = unsafe { __library.get(b"aclFinalizeReference\0") }.map(|sym| *sym);
        let aclCreateTensor = unsafe { __library.get(b"aclCreateTensor\0") }.map(|sym| *sym);
        let aclCreateScalar = unsafe { __library.get(b"aclCreateScalar\0") }.map(|sym| *sym);
        let aclCreateIntArray = unsafe { __library.get(b"aclCreateIntArray\0") }.map(|sym| *sym);
        let aclCreateFloatArray = unsafe { __library.get(b"aclCreateFloatArray\0") }.map(|sym| *sym);
        let aclCreateBoolArray = unsafe { __library.get(b"aclCreateBoolArray\0") }.map(|sym| *sym);
        let aclCreateTensorList = unsafe { __library.get(b"aclCreateTensorList\0") }.map(|sym| *sym);
        let aclCreateScalarList = unsafe { __library.get(b"aclCreateScalarList\0") }.map(|sym| *sym);
        let aclDestroyTensor = unsafe { __library.get(b"aclDestroyTensor\0") }.map(|sym| *sym);
        let aclDestroyScalar = unsafe { __library.get(b"aclDestroyScalar\0") }.map(|sym| *sym);
        let aclDestroyIntArray = unsafe { __library.get(b"aclDestroyIntArray\0") }.map(|sym| *sym);
        let aclDestroyFloatArray = unsafe { __library.get(b"aclDestroyFloatArray\0") }.map(|sym| *sym);
        let aclDestroyBoolArray = unsafe { __library.get(b"aclDestroyBoolArray\0") }.map(|sym| *sym);
        let aclDestroyTensorList = unsafe { __library.get(b"aclDestroyTensorList\0") }.map(|sym| *sym);
        let aclDestroyScalarList = unsafe { __library.get(b"aclDestroyScalarList\0") }.map(|sym| *sym);
        let aclGetViewShape = unsafe { __library.get(b"aclGetViewShape\0") }.map(|sym| *sym);
        let aclGetStorageShape = unsafe { __library.get(b"aclGetStorageShape\0") }.map(|sym| *sym);
        let aclGetViewStrides = unsafe { __library.get(b"aclGetViewStrides\0") }.map(|sym| *sym);
        let aclGetViewOffset = unsafe { __library.get(b"aclGetViewOffset\0") }.map(|sym| *sym);
        let aclGetFormat = unsafe { __library.get(b"aclGetFormat\0") }.map(|sym| *sym);
        let aclGetDataType = unsafe { __library.get(b"aclGetDataType\0") }.map(|sym| *sym);
        let aclGetIntArraySize = unsafe { __library.get(b"aclGetIntArraySize\0") }.map(|sym| *sym);
        let aclGetTensorListSize = unsafe { __library.get(b"aclGetTensorListSize\0") }.map(|sym| *sym);
        let aclInitTensor = unsafe { __library.get(b"aclInitTensor\0") }.map(|sym| *sym);
        let aclSetAclOpExecutorRepeatable =
            unsafe { __library.get(b"aclSetAclOpExecutorRepeatable\0") }.map(|sym| *sym);
        let aclDestroyAclOpExecutor = unsafe { __library.get(b"aclDestroyAclOpExecutor\0") }.map(|sym| *sym);
        let aclSetInputTensorAddr = unsafe { __library.get(b"aclSetInputTensorAddr\0") }.map(|sym| *sym);
        let aclSetOutputTensorAddr = unsafe { __library.get(b"aclSetOutputTensorAddr\0") }.map(|sym| *sym);
        let aclSetTensorAddr = unsafe { __library.get(b"aclSetTensorAddr\0") }.map(|sym| *sym);
        let aclSetDynamicTensorAddr = unsafe { __library.get(b"aclSetDynamicTensorAddr\0") }.map(|sym| *sym);
        let aclSetRawTensorAddr = unsafe { __library.get(b"aclSetRawTensorAddr\0") }.map(|sym| *sym);
        let aclGetRawTensorAddr = unsafe { __library.get(b"aclGetRawTensorAddr\0") }.map(|sym| *sym);
        let aclnnInit = unsafe { __library.get(b"aclnnInit\0") }.map(|sym| *sym);
        let aclnnFinalize = unsafe { __library.get(b"aclnnFinalize\0") }.map(|sym| *sym);
        let aclnnMatmulGetWorkspaceSize =
            unsafe { __library.get(b"aclnnMatmulGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnMatmul = unsafe { __library.get(b"aclnnMatmul\0") }.map(|sym| *sym);
        let aclnnInplaceAddmmGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceAddmmGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceAddmm = unsafe { __library.get(b"aclnnInplaceAddmm\0") }.map(|sym| *sym);
        let aclnnAddGetWorkspaceSize =
            unsafe { __library.get(b"aclnnAddGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnAdd = unsafe { __library.get(b"aclnnAdd\0") }.map(|sym| *sym);
        let aclnnAddsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnAddsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnAdds = unsafe { __library.get(b"aclnnAdds\0") }.map(|sym| *sym);
        let aclnnInplaceAddGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceAddGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceAdd = unsafe { __library.get(b"aclnnInplaceAdd\0") }.map(|sym| *sym);
        let aclnnInplaceAddsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceAddsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceAdds = unsafe { __library.get(b"aclnnInplaceAdds\0") }.map(|sym| *sym);
        let aclnnSubGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSubGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSub = unsafe { __library.get(b"aclnnSub\0") }.map(|sym| *sym);
        let aclnnSubsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSubsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSubs = unsafe { __library.get(b"aclnnSubs\0") }.map(|sym| *sym);
        let aclnnMulGetWorkspaceSize =
            unsafe { __library.get(b"aclnnMulGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnMul = unsafe { __library.get(b"aclnnMul\0") }.map(|sym| *sym);
        let aclnnMulsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnMulsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnMuls = unsafe { __library.get(b"aclnnMuls\0") }.map(|sym| *sym);
        let aclnnInplaceMulGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceMulGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceMul = unsafe { __library.get(b"aclnnInplaceMul\0") }.map(|sym| *sym);
        let aclnnInplaceMulsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceMulsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceMuls = unsafe { __library.get(b"aclnnInplaceMuls\0") }.map(|sym| *sym);
        let aclnnDivGetWorkspaceSize =
            unsafe { __library.get(b"aclnnDivGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnDiv = unsafe { __library.get(b"aclnnDiv\0") }.map(|sym| *sym);
        let aclnnReciprocalGetWorkspaceSize =
            unsafe { __library.get(b"aclnnReciprocalGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnReciprocal = unsafe { __library.get(b"aclnnReciprocal\0") }.map(|sym| *sym);
        let aclnnPowTensorScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnPowTensorScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnPowTensorScalar = unsafe { __library.get(b"aclnnPowTensorScalar\0") }.map(|sym| *sym);
        let aclnnAbsGetWorkspaceSize =
            unsafe { __library.get(b"aclnnAbsGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnAbs = unsafe { __library.get(b"aclnnAbs\0") }.map(|sym| *sym);
        let aclnnClampGetWorkspaceSize =
            unsafe { __library.get(b"aclnnClampGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnClamp = unsafe { __library.get(b"aclnnClamp\0") }.map(|sym| *sym);
        let aclnnReluGetWorkspaceSize =
            unsafe { __library.get(b"aclnnReluGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnRelu = unsafe { __library.get(b"aclnnRelu\0") }.map(|sym| *sym);
        let aclnnGeluV2GetWorkspaceSize =
            unsafe { __library.get(b"aclnnGeluV2GetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGeluV2 = unsafe { __library.get(b"aclnnGeluV2\0") }.map(|sym| *sym);
        let aclnnSiluGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSiluGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSilu = unsafe { __library.get(b"aclnnSilu\0") }.map(|sym| *sym);
        let aclnnTanhGetWorkspaceSize =
            unsafe { __library.get(b"aclnnTanhGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnTanh = unsafe { __library.get(b"aclnnTanh\0") }.map(|sym| *sym);
        let aclnnExpGetWorkspaceSize =
            unsafe { __library.get(b"aclnnExpGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnExp = unsafe { __library.get(b"aclnnExp\0") }.map(|sym| *sym);
        let aclnnSqrtGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSqrtGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSqrt = unsafe { __library.get(b"aclnnSqrt\0") }.map(|sym| *sym);
        let aclnnSoftmaxGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSoftmaxGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSoftmax = unsafe { __library.get(b"aclnnSoftmax\0") }.map(|sym| *sym);
        let aclnnLogSumExpGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLogSumExpGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLogSumExp = unsafe { __library.get(b"aclnnLogSumExp\0") }.map(|sym| *sym);
        let aclnnLayerNormGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLayerNormGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLayerNorm = unsafe { __library.get(b"aclnnLayerNorm\0") }.map(|sym| *sym);
        let aclnnRmsNormGetWorkspaceSize =
            unsafe { __library.get(b"aclnnRmsNormGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnRmsNorm = unsafe { __library.get(b"aclnnRmsNorm\0") }.map(|sym| *sym);
        let aclnnIndexSelectGetWorkspaceSize =
            unsafe { __library.get(b"aclnnIndexSelectGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnIndexSelect = unsafe { __library.get(b"aclnnIndexSelect\0") }.map(|sym| *sym);
        let aclnnGatherGetWorkspaceSize =
            unsafe { __library.get(b"aclnnGatherGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGather = unsafe { __library.get(b"aclnnGather\0") }.map(|sym| *sym);
        let aclnnEmbeddingBagGetWorkspaceSize =
            unsafe { __library.get(b"aclnnEmbeddingBagGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnEmbeddingBag = unsafe { __library.get(b"aclnnEmbeddingBag\0") }.map(|sym| *sym);
        let aclnnScatterAddGetWorkspaceSize =
            unsafe { __library.get(b"aclnnScatterAddGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnScatterAdd = unsafe { __library.get(b"aclnnScatterAdd\0") }.map(|sym| *sym);
        let aclnnInplaceScatterGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceScatterGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceScatter = unsafe { __library.get(b"aclnnInplaceScatter\0") }.map(|sym| *sym);
        let aclnnSearchSortedGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSearchSortedGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSearchSorted = unsafe { __library.get(b"aclnnSearchSorted\0") }.map(|sym| *sym);
        let aclnnTopkGetWorkspaceSize =
            unsafe { __library.get(b"aclnnTopkGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnTopk = unsafe { __library.get(b"aclnnTopk\0") }.map(|sym| *sym);
        let aclnnSortGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSortGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSort = unsafe { __library.get(b"aclnnSort\0") }.map(|sym| *sym);
        let aclnnReduceSumGetWorkspaceSize =
            unsafe { __library.get(b"aclnnReduceSumGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnReduceSum = unsafe { __library.get(b"aclnnReduceSum\0") }.map(|sym| *sym);
        let aclnnAmaxGetWorkspaceSize =
            unsafe { __library.get(b"aclnnAmaxGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnAmax = unsafe { __library.get(b"aclnnAmax\0") }.map(|sym| *sym);
        let aclnnAnyGetWorkspaceSize =
            unsafe { __library.get(b"aclnnAnyGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnAny = unsafe { __library.get(b"aclnnAny\0") }.map(|sym| *sym);
        let aclnnCumsumGetWorkspaceSize =
            unsafe { __library.get(b"aclnnCumsumGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnCumsum = unsafe { __library.get(b"aclnnCumsum\0") }.map(|sym| *sym);
        let aclnnCastGetWorkspaceSize =
            unsafe { __library.get(b"aclnnCastGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnCast = unsafe { __library.get(b"aclnnCast\0") }.map(|sym| *sym);
        let aclnnInplaceCopyGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceCopyGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceCopy = unsafe { __library.get(b"aclnnInplaceCopy\0") }.map(|sym| *sym);
        let aclnnInplaceFillScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceFillScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceFillScalar = unsafe { __library.get(b"aclnnInplaceFillScalar\0") }.map(|sym| *sym);
        let aclnnInplaceZeroGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceZeroGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceZero = unsafe { __library.get(b"aclnnInplaceZero\0") }.map(|sym| *sym);
        let aclnnInplaceOneGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceOneGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceOne = unsafe { __library.get(b"aclnnInplaceOne\0") }.map(|sym| *sym);
        let aclnnArangeGetWorkspaceSize =
            unsafe { __library.get(b"aclnnArangeGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnArange = unsafe { __library.get(b"aclnnArange\0") }.map(|sym| *sym);
        let aclnnTrilGetWorkspaceSize =
            unsafe { __library.get(b"aclnnTrilGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnTril = unsafe { __library.get(b"aclnnTril\0") }.map(|sym| *sym);
        let aclnnTriuGetWorkspaceSize =
            unsafe { __library.get(b"aclnnTriuGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnTriu = unsafe { __library.get(b"aclnnTriu\0") }.map(|sym| *sym);
        let aclnnGtScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnGtScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGtScalar = unsafe { __library.get(b"aclnnGtScalar\0") }.map(|sym| *sym);
        let aclnnGeScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnGeScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGeScalar = unsafe { __library.get(b"aclnnGeScalar\0") }.map(|sym| *sym);
        let aclnnLtScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLtScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLtScalar = unsafe { __library.get(b"aclnnLtScalar\0") }.map(|sym| *sym);
        let aclnnLeScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLeScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLeScalar = unsafe { __library.get(b"aclnnLeScalar\0") }.map(|sym| *sym);
        let aclnnEqScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnEqScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnEqScalar = unsafe { __library.get(b"aclnnEqScalar\0") }.map(|sym| *sym);
        let aclnnNeScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnNeScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnNeScalar = unsafe { __library.get(b"aclnnNeScalar\0") }.map(|sym| *sym);
        let aclnnGtTensorGetWorkspaceSize =
            unsafe { __library.get(b"aclnnGtTensorGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGtTensor = unsafe { __library.get(b"aclnnGtTensor\0") }.map(|sym| *sym);
        let aclnnGeTensorGetWorkspaceSize =
            unsafe { __library.get(b"aclnnGeTensorGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnGeTensor = unsafe { __library.get(b"aclnnGeTensor\0") }.map(|sym| *sym);
        let aclnnEqTensorGetWorkspaceSize =
            unsafe { __library.get(b"aclnnEqTensorGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnEqTensor = unsafe { __library.get(b"aclnnEqTensor\0") }.map(|sym| *sym);
        let aclnnLogicalAndGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLogicalAndGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLogicalAnd = unsafe { __library.get(b"aclnnLogicalAnd\0") }.map(|sym| *sym);
        let aclnnLogicalOrGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLogicalOrGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLogicalOr = unsafe { __library.get(b"aclnnLogicalOr\0") }.map(|sym| *sym);
        let aclnnLogicalNotGetWorkspaceSize =
            unsafe { __library.get(b"aclnnLogicalNotGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnLogicalNot = unsafe { __library.get(b"aclnnLogicalNot\0") }.map(|sym| *sym);
        let aclnnSWhereGetWorkspaceSize =
            unsafe { __library.get(b"aclnnSWhereGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnSWhere = unsafe { __library.get(b"aclnnSWhere\0") }.map(|sym| *sym);
        let aclnnInplaceMaskedFillScalarGetWorkspaceSize =
            unsafe { __library.get(b"aclnnInplaceMaskedFillScalarGetWorkspaceSize\0") }.map(|sym| *sym);
        let aclnnInplaceMaskedFillScalar =
            unsafe { __library.get(b"aclnnInplaceMaskedFillScalar\0") }.map(|sym| *sym);
        let HcclGetRootInfo = unsafe { __library.get(b"HcclGetRootInfo\0") }.map(|sym| *sym);
        let HcclCommInitRootInfo = unsafe { __library.get(b"HcclCommInitRootInfo\0") }.map(|sym| *sym);
        let HcclAllReduce = unsafe { __library.get(b"HcclAllReduce\0") }.map(|sym| *sym);
        let HcclBroadcast = unsafe { __library.get(b"HcclBroadcast\0") }.map(|sym| *sym);
        let HcclReduceScatter = unsafe { __library.get(b"HcclReduceScatter\0") }.map(|sym| *sym);
        let HcclAllGather = unsafe { __library.get(b"HcclAllGather\0") }.map(|sym| *sym);
        let HcclReduce = unsafe { __library.get(b"HcclReduce\0") }.map(|sym| *sym);
        let HcclSend = unsafe { __library.get(b"HcclSend\0") }.map(|sym| *sym);
        let HcclRecv = unsafe { __library.get(b"HcclRecv\0") }.map(|sym| *sym);
        let HcclAlltoAll = unsafe { __library.get(b"HcclAlltoAll\0") }.map(|sym| *sym);
        let HcclBarrier = unsafe { __library.get(b"HcclBarrier\0") }.map(|sym| *sym);
        let HcclGetRankSize = unsafe { __library.get(b"HcclGetRankSize\0") }.map(|sym| *sym);
        let HcclGetRankId = unsafe { __library.get(b"HcclGetRankId\0") }.map(|sym| *sym);
        let HcclGetCommAsyncError = unsafe { __library.get(b"HcclGetCommAsyncError\0") }.map(|sym| *sym);
        let HcclGetErrorString = unsafe { __library.get(b"HcclGetErrorString\0") }.map(|sym| *sym);
        let HcclCommDestroy = unsafe { __library.get(b"HcclCommDestroy\0") }.map(|sym| *sym);
        Ok(Functions {
            __library,
            aclInit,
            aclFinalize,
            aclGetRecentErrMsg,
            aclrtGetVersion,
            aclrtGetSocName,
            aclrtSetDevice,
            aclrtResetDevice,
            aclrtGetDevice,
            aclrtGetDeviceCount,
            aclrtSynchronizeDevice,
            aclrtGetRunMode,
            aclrtDeviceCanAccessPeer,
            aclrtDeviceEnablePeerAccess,
            aclGetDeviceCapability,
            aclrtCreateContext,
            aclrtDestroyContext,
            aclrtSetCurrentContext,
            aclrtGetCurrentContext,
            aclrtCreateStream,
            aclrtCreateStreamWithConfig,
            aclrtDestroyStream,
            aclrtDestroyStreamForce,
            aclrtSynchronizeStream,
            aclrtSynchronizeStreamWithTimeout,
            aclrtStreamQuery,
            aclrtSetStreamFailureMode,
            aclrtStreamWaitEvent,
            aclrtCreateEvent,
            aclrtCreateEventWithFlag,
            aclrtCreateEventExWithFlag,
            aclrtDestroyEvent,
            aclrtRecordEvent,
            aclrtResetEvent,
            aclrtQueryEvent,
            aclrtQueryEventStatus,
            aclrtQueryEventWaitStatus,
            aclrtSynchronizeEvent,
            aclrtEventElapsedTime,
            aclrtMalloc,
            aclrtMallocAlign32,
            aclrtFree,
            aclrtMallocHost,
            aclrtFreeHost,
            aclrtGetMemInfo,
            aclrtMemcpy,
            aclrtMemcpyAsync,
            aclrtMemcpy2d,
            aclrtMemcpy2dAsync,
            aclrtMemset,
            aclrtMemsetAsync,
            aclrtSetSysParamOpt,
            aclrtGetSysParamOpt,
            aclrtCtxSetSysParamOpt,
            aclrtPeekAtLastError,
            aclrtGetLastError,
            aclrtLaunchCallback,
            aclrtSubscribeReport,
            aclrtUnSubscribeReport,
            aclrtProcessReport,
            aclDataTypeSize,
            aclFloatToFloat16,
            aclFloat16ToFloat,
            aclmdlRICaptureBegin,
            aclmdlRICaptureEnd,
            aclmdlRICaptureGetInfo,
            aclmdlRIExecuteAsync,
            aclmdlRIDestroy,
            aclrtResetDeviceForce,
            aclrtSynchronizeDeviceWithTimeout,
            aclrtStreamAbort,
            aclrtFreeWithDevSync,
            aclrtLaunchHostFunc,
            aclsysGetVersionNum,
            aclsysGetVersionStr,
            aclFinalizeReference,
            aclCreateTensor,
            aclCreateScalar,
            aclCreateIntArray,
            aclCreateFloatArray,
            aclCreateBoolArray,
            aclCreateTensorList,
            aclCreateScalarList,
            aclDestroyTensor,
            aclDestroyScalar,
            aclDestroyIntArray,
            aclDestroyFloatArray,
            aclDestroyBoolArray,
            aclDestroyTensorList,
            aclDestroyScalarList,
            aclGetViewShape,
            aclGetStorageShape,
            aclGetViewStrides,
            aclGetViewOffset,
            aclGetFormat,
            aclGetDataType,
            aclGetIntArraySize,
            aclGetTensorListSize,
            aclInitTensor,
            aclSetAclOpExecutorRepeatable,
            aclDestroyAclOpExecutor,
            aclSetInputTensorAddr,
            aclSetOutputTensorAddr,
            aclSetTensorAddr,
            aclSetDynamicTensorAddr,
            aclSetRawTensorAddr,
            aclGetRawTensorAddr,
            aclnnInit,
            aclnnFinalize,
            aclnnMatmulGetWorkspaceSize,
            aclnnMatmul,
            aclnnInplaceAddmmGetWorkspaceSize,
            aclnnInplaceAddmm,
            aclnnAddGetWorkspaceSize,
            aclnnAdd,
            aclnnAddsGetWorkspaceSize,
            aclnnAdds,
            aclnnInplaceAddGetWorkspaceSize,
            aclnnInplaceAdd,
            aclnnInplaceAddsGetWorkspaceSize,
            aclnnInplaceAdds,
            aclnnSubGetWorkspaceSize,
            aclnnSub,
            aclnnSubsGetWorkspaceSize,
            aclnnSubs,
            aclnnMulGetWorkspaceSize,
            aclnnMul,
            aclnnMulsGetWorkspaceSize,
            aclnnMuls,
            aclnnInplaceMulGetWorkspaceSize,
            aclnnInplaceMul,
            aclnnInplaceMulsGetWorkspaceSize,
            aclnnInplaceMuls,
            aclnnDivGetWorkspaceSize,
            aclnnDiv,
            aclnnReciprocalGetWorkspaceSize,
            aclnnReciprocal,
            aclnnPowTensorScalarGetWorkspaceSize,
            aclnnPowTensorScalar,
            aclnnAbsGetWorkspaceSize,
            aclnnAbs,
            aclnnClampGetWorkspaceSize,
            aclnnClamp,
            aclnnReluGetWorkspaceSize,
            aclnnRelu,
            aclnnGeluV2GetWorkspaceSize,
            aclnnGeluV2,
            aclnnSiluGetWorkspaceSize,
            aclnnSilu,
            aclnnTanhGetWorkspaceSize,
            aclnnTanh,
            aclnnExpGetWorkspaceSize,
            aclnnExp,
            aclnnSqrtGetWorkspaceSize,
            aclnnSqrt,
            aclnnSoftmaxGetWorkspaceSize,
            aclnnSoftmax,
            aclnnLogSumExpGetWorkspaceSize,
            aclnnLogSumExp,
            aclnnLayerNormGetWorkspaceSize,
            aclnnLayerNorm,
            aclnnRmsNormGetWorkspaceSize,
            aclnnRmsNorm,
            aclnnIndexSelectGetWorkspaceSize,
            aclnnIndexSelect,
            aclnnGatherGetWorkspaceSize,
            aclnnGather,
            aclnnEmbeddingBagGetWorkspaceSize,
            aclnnEmbeddingBag,
            aclnnScatterAddGetWorkspaceSize,
            aclnnScatterAdd,
            aclnnInplaceScatterGetWorkspaceSize,
            aclnnInplaceScatter,
            aclnnSearchSortedGetWorkspaceSize,
            aclnnSearchSorted,
            aclnnTopkGetWorkspaceSize,
            aclnnTopk,
            aclnnSortGetWorkspaceSize,
            aclnnSort,
            aclnnReduceSumGetWorkspaceSize,
            aclnnReduceSum,
            aclnnAmaxGetWorkspaceSize,
            aclnnAmax,
            aclnnAnyGetWorkspaceSize,
            aclnnAny,
            aclnnCumsumGetWorkspaceSize,
            aclnnCumsum,
            aclnnCastGetWorkspaceSize,
            aclnnCast,
            aclnnInplaceCopyGetWorkspaceSize,
            aclnnInplaceCopy,
            aclnnInplaceFillScalarGetWorkspaceSize,
            aclnnInplaceFillScalar,
            aclnnInplaceZeroGetWorkspaceSize,
            aclnnInplaceZero,
            aclnnInplaceOneGetWorkspaceSize,
            aclnnInplaceOne,
            aclnnArangeGetWorkspaceSize,
            aclnnArange,
            aclnnTrilGetWorkspaceSize,
            aclnnTril,
            aclnnTriuGetWorkspaceSize,
            aclnnTriu,
            aclnnGtScalarGetWorkspaceSize,
            aclnnGtScalar,
            aclnnGeScalarGetWorkspaceSize,
            aclnnGeScalar,
            aclnnLtScalarGetWorkspaceSize,
            aclnnLtScalar,
            aclnnLeScalarGetWorkspaceSize,
            aclnnLeScalar,
            aclnnEqScalarGetWorkspaceSize,
            aclnnEqScalar,
            aclnnNeScalarGetWorkspaceSize,
            aclnnNeScalar,
            aclnnGtTensorGetWorkspaceSize,
            aclnnGtTensor,
            aclnnGeTensorGetWorkspaceSize,
            aclnnGeTensor,
            aclnnEqTensorGetWorkspaceSize,
            aclnnEqTensor,
            aclnnLogicalAndGetWorkspaceSize,
            aclnnLogicalAnd,
            aclnnLogicalOrGetWorkspaceSize,
            aclnnLogicalOr,
            aclnnLogicalNotGetWorkspaceSize,
            aclnnLogicalNot,
            aclnnSWhereGetWorkspaceSize,
            aclnnSWhere,
            aclnnInplaceMaskedFillScalarGetWorkspaceSize,
            aclnnInplaceMaskedFillScalar,
            HcclGetRootInfo,
            HcclCommInitRootInfo,
            HcclAllReduce,
            HcclBroadcast,
            HcclReduceScatter,
            HcclAllGather,
            HcclReduce,
            HcclSend,
            HcclRecv,
            HcclAlltoAll,
            HcclBarrier,
            HcclGetRankSize,
            HcclGetRankId,
            HcclGetCommAsyncError,
            HcclGetErrorString,
            HcclCommDestroy,
        })
    }
    pub unsafe fn aclInit(&self, configPath: *const ::std::os::raw::c_char) -> aclError {
        unsafe { (self.aclInit.as_ref().expect("Expected function, got error."))(configPath) }
    }
    pub unsafe fn aclFinalize(&self) -> aclError {
        unsafe { (self.aclFinalize.as_ref().expect("Expected function, got error."))() }
    }
    pub unsafe fn aclGetRecentErrMsg(&self) -> *const ::std::os::raw::c_char {
        unsafe { (self.aclGetRecentErrMsg.as_ref().expect("Expected function, got error."))() }
    }
    pub unsafe fn aclrtGetVersion(
        &self,
        majorVersion: *mut i32,
        minorVersion: *mut i32,
        patchVersion: *mut i32,
    ) -> aclError {
        unsafe {
            (self.aclrtGetVersion.as_ref().expect("Expected function, got error."))(
                majorVersion,
                minorVersion,
                patchVersion,
            )
        }
    }
    pub unsafe fn aclrtGetSocName(&self) -> *const ::std::os::raw::c_char {
        unsafe { (self.aclrtGetSocName.as_ref().expect("Expected function, got error."))() }
    }
    pub unsafe fn aclrtSetDevice(&self, deviceId: i32) -> aclError {
        unsafe { (self.aclrtSetDevice.as_ref().expect("Expected function, got error."))(deviceId) }
    }
    pub unsafe fn aclrtResetDevice(&self, deviceId: i32) -> aclError {
        unsafe { (self.aclrtResetDevice.as_ref().expect("Expected function, got error."))(deviceId) }
    }
    pub unsafe fn aclrtGetDevice(&self, deviceId: *mut i32) -> aclError {
        unsafe { (self.aclrtGetDevice.as_ref().expect("Expected function, got error."))(deviceId) }
    }
    pub unsafe fn aclrtGetDeviceCount(&self, count: *mut u32) -> aclError {
        unsafe { (self.aclrtGetDeviceCount.as_ref().expect("Expected function, got error."))(count) }
    }
    pub unsafe fn aclrtSynchronizeDevice(&self) -> aclError {
        unsafe { (self.aclrtSynchronizeDevice.as_ref().expect("Expected function, got error."))() }
    }
    pub unsafe fn aclrtGetRunMode(&self, runMode: *mut aclrtRunMode) -> aclError {
        unsafe { (self.aclrtGetRunMode.as_ref().expect("Expected function, got error."))(runMode) }
    }
    pub unsafe fn aclrtDeviceCanAccessPeer(
        &self,
        canAccessPeer: *mut i32,
        deviceId: i32,
        peerDeviceId: i32,
    ) -> aclError {
        unsafe {
            (self.aclrtDeviceCanAccessPeer.as_ref().expect("Expected function, got error."))(
                canAccessPeer,
                deviceId,
                peerDeviceId,
            )
        }
    }
    pub unsafe fn aclrtDeviceEnablePeerAccess(&self, peerDeviceId: i32, flags: u32) -> aclError {
        unsafe {
            (self.aclrtDeviceEnablePeerAccess.as_ref().expect("Expected function, got error."))(
                peerDeviceId,
                flags,
            )
        }
    }
    pub unsafe fn aclGetDeviceCapability(
        &self,
        deviceId: u32,
        deviceInfo: aclDeviceInfo,
        value: *mut i64,
    ) -> aclError {
        unsafe {
            (self.aclGetDeviceCapability.as_ref().expect("Expected function, got error."))(
                deviceId, deviceInfo, value,
            )
        }
    }
    pub unsafe fn aclrtCreateContext(&self, context: *mut aclrtContext, deviceId: i32) -> aclError {
        unsafe {
            (self.aclrtCreateContext.as_ref().expect("Expected function, got error."))(context, deviceId)
        }
    }
    pub unsafe fn aclrtDestroyContext(&self, context: aclrtContext) -> aclError {
        unsafe { (self.aclrtDestroyContext.as_ref().expect("Expected function, got error."))(context) }
    }
    pub unsafe fn aclrtSetCurrentContext(&self, context: aclrtContext) -> aclError {
        unsafe { (self.aclrtSetCurrentContext.as_ref().expect("Expected function, got error."))(context) }
    }
    pub unsafe fn aclrtGetCurrentContext(&self, context: *mut aclrtContext) -> aclError {
        unsafe { (self.aclrtGetCurrentContext.as_ref().expect("Expected function, got error."))(context) }
    }
    pub unsafe fn aclrtCreateStream(&self, stream: *mut aclrtStream) -> aclError {
        unsafe { (self.aclrtCreateStream.as_ref().expect("Expected function, got error."))(stream) }
    }
    pub unsafe fn aclrtCreateStreamWithConfig(
        &self,
        stream: *mut aclrtStream,
        priority: u32,
        flag: u32,
    ) -> aclError {
        unsafe {
            (self.aclrtCreateStreamWithConfig.as_ref().expect("Expected function, got error."))(
                stream, priority, flag,
            )
        }
    }
    pub unsafe fn aclrtDestroyStream(&self, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtDestroyStream.as_ref().expect("Expected function, got error."))(stream) }
    }
    pub unsafe fn aclrtDestroyStreamForce(&self, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtDestroyStreamForce.as_ref().expect("Expected function, got error."))(stream) }
    }
    pub unsafe fn aclrtSynchronizeStream(&self, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtSynchronizeStream.as_ref().expect("Expected function, got error."))(stream) }
    }
    pub unsafe fn aclrtSynchronizeStreamWithTimeout(&self, stream: aclrtStream, timeout: i32) -> aclError {
        unsafe {
            (self.aclrtSynchronizeStreamWithTimeout.as_ref().expect("Expected function, got error."))(
                stream, timeout,
            )
        }
    }
    pub unsafe fn aclrtStreamQuery(&self, stream: aclrtStream, status: *mut aclrtStreamStatus) -> aclError {
        unsafe { (self.aclrtStreamQuery.as_ref().expect("Expected function, got error."))(stream, status) }
    }
    pub unsafe fn aclrtSetStreamFailureMode(&self, stream: aclrtStream, mode: u64) -> aclError {
        unsafe {
            (self.aclrtSetStreamFailureMode.as_ref().expect("Expected function, got error."))(stream, mode)
        }
    }
    pub unsafe fn aclrtStreamWaitEvent(&self, stream: aclrtStream, event: aclrtEvent) -> aclError {
        unsafe { (self.aclrtStreamWaitEvent.as_ref().expect("Expected function, got error."))(stream, event) }
    }
    pub unsafe fn aclrtCreateEvent(&self, event: *mut aclrtEvent) -> aclError {
        unsafe { (self.aclrtCreateEvent.as_ref().expect("Expected function, got error."))(event) }
    }
    pub unsafe fn aclrtCreateEventWithFlag(&self, event: *mut aclrtEvent, flag: u32) -> aclError {
        unsafe {
            (self.aclrtCreateEventWithFlag.as_ref().expect("Expected function, got error."))(event, flag)
        }
    }
    pub unsafe fn aclrtCreateEventExWithFlag(&self, event: *mut aclrtEvent, flag: u32) -> aclError {
        unsafe {
            (self.aclrtCreateEventExWithFlag.as_ref().expect("Expected function, got error."))(event, flag)
        }
    }
    pub unsafe fn aclrtDestroyEvent(&self, event: aclrtEvent) -> aclError {
        unsafe { (self.aclrtDestroyEvent.as_ref().expect("Expected function, got error."))(event) }
    }
    pub unsafe fn aclrtRecordEvent(&self, event: aclrtEvent, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtRecordEvent.as_ref().expect("Expected function, got error."))(event, stream) }
    }
    pub unsafe fn aclrtResetEvent(&self, event: aclrtEvent, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtResetEvent.as_ref().expect("Expected function, got error."))(event, stream) }
    }
    pub unsafe fn aclrtQueryEvent(&self, event: aclrtEvent, status: *mut aclrtEventStatus) -> aclError {
        unsafe { (self.aclrtQueryEvent.as_ref().expect("Expected function, got error."))(event, status) }
    }
    pub unsafe fn aclrtQueryEventStatus(
        &self,
        event: aclrtEvent,
        status: *mut aclrtEventRecordedStatus,
    ) -> aclError {
        unsafe {
            (self.aclrtQueryEventStatus.as_ref().expect("Expected function, got error."))(event, status)
        }
    }
    pub unsafe fn aclrtQueryEventWaitStatus(
        &self,
        event: aclrtEvent,
        status: *mut aclrtEventWaitStatus,
    ) -> aclError {
        unsafe {
            (self.aclrtQueryEventWaitStatus.as_ref().expect("Expected function, got error."))(event, status)
        }
    }
    pub unsafe fn aclrtSynchronizeEvent(&self, event: aclrtEvent) -> aclError {
        unsafe { (self.aclrtSynchronizeEvent.as_ref().expect("Expected function, got error."))(event) }
    }
    pub unsafe fn aclrtEventElapsedTime(
        &self,
        ms: *mut f32,
        startEvent: aclrtEvent,
        endEvent: aclrtEvent,
    ) -> aclError {
        unsafe {
            (self.aclrtEventElapsedTime.as_ref().expect("Expected function, got error."))(
                ms, startEvent, endEvent,
            )
        }
    }
    pub unsafe fn aclrtMalloc(
        &self,
        devPtr: *mut *mut ::std::os::raw::c_void,
        size: usize,
        policy: aclrtMemMallocPolicy,
    ) -> aclError {
        unsafe { (self.aclrtMalloc.as_ref().expect("Expected function, got error."))(devPtr, size, policy) }
    }
    pub unsafe fn aclrtMallocAlign32(
        &self,
        devPtr: *mut *mut ::std::os::raw::c_void,
        size: usize,
        policy: aclrtMemMallocPolicy,
    ) -> aclError {
        unsafe {
            (self.aclrtMallocAlign32.as_ref().expect("Expected function, got error."))(devPtr, size, policy)
        }
    }
    pub unsafe fn aclrtFree(&self, devPtr: *mut ::std::os::raw::c_void) -> aclError {
        unsafe { (self.aclrtFree.as_ref().expect("Expected function, got error."))(devPtr) }
    }
    pub unsafe fn aclrtMallocHost(&self, hostPtr: *mut *mut ::std::os::raw::c_void, size: usize) -> aclError {
        unsafe { (self.aclrtMallocHost.as_ref().expect("Expected function, got error."))(hostPtr, size) }
    }
    pub unsafe fn aclrtFreeHost(&self, hostPtr: *mut ::std::os::raw::c_void) -> aclError {
        unsafe { (self.aclrtFreeHost.as_ref().expect("Expected function, got error."))(hostPtr) }
    }
    pub unsafe fn aclrtGetMemInfo(
        &self,
        attr: aclrtMemAttr,
        free: *mut usize,
        total: *mut usize,
    ) -> aclError {
        unsafe { (self.aclrtGetMemInfo.as_ref().expect("Expected function, got error."))(attr, free, total) }
    }
    pub unsafe fn aclrtMemcpy(
        &self,
        dst: *mut ::std::os::raw::c_void,
        destMax: usize,
        src: *const ::std::os::raw::c_void,
        count: usize,
        kind: aclrtMemcpyKind,
    ) -> aclError {
        unsafe {
            (self.aclrtMemcpy.as_ref().expect("Expected function, got error."))(
                dst, destMax, src, count, kind,
            )
        }
    }
    pub unsafe fn aclrtMemcpyAsync(
        &self,
        dst: *mut ::std::os::raw::c_void,
        destMax: usize,
        src: *const ::std::os::raw::c_void,
        count: usize,
        kind: aclrtMemcpyKind,
        stream: aclrtStream,
    ) -> aclError {
        unsafe {
            (self.aclrtMemcpyAsync.as_ref().expect("Expected function, got error."))(
                dst, destMax, src, count, kind, stream,
            )
        }
    }
    pub unsafe fn aclrtMemcpy2d(
        &self,
        dst: *mut ::std::os::raw::c_void,
        dpitch: usize,
        src: *const ::std::os::raw::c_void,
        spitch: usize,
        width: usize,
        height: usize,
        kind: aclrtMemcpyKind,
    ) -> aclError {
        unsafe {
            (self.aclrtMemcpy2d.as_ref().expect("Expected function, got error."))(
                dst, dpitch, src, spitch, width, height, kind,
            )
        }
    }
    pub unsafe fn aclrtMemcpy2dAsync(
        &self,
        dst: *mut ::std::os::raw::c_void,
        dpitch: usize,
        src: *const ::std::os::raw::c_void,
        spitch: usize,
        width: usize,
        height: usize,
        kind: aclrtMemcpyKind,
        stream: aclrtStream,
    ) -> aclError {
        unsafe {
            (self.aclrtMemcpy2dAsync.as_ref().expect("Expected function, got error."))(
                dst, dpitch, src, spitch, width, height, kind, stream,
            )
        }
    }
    pub unsafe fn aclrtMemset(
        &self,
        devPtr: *mut ::std::os::raw::c_void,
        maxCount: usize,
        value: i32,
        count: usize,
    ) -> aclError {
        unsafe {
            (self.aclrtMemset.as_ref().expect("Expected function, got error."))(
                devPtr, maxCount, value, count,
            )
        }
    }
    pub unsafe fn aclrtMemsetAsync(
        &self,
        devPtr: *mut ::std::os::raw::c_void,
        maxCount: usize,
        value: i32,
        count: usize,
        stream: aclrtStream,
    ) -> aclError {
        unsafe {
            (self.aclrtMemsetAsync.as_ref().expect("Expected function, got error."))(
                devPtr, maxCount, value, count, stream,
            )
        }
    }
    pub unsafe fn aclrtSetSysParamOpt(&self, opt: aclSysParamOpt, value: i64) -> aclError {
        unsafe { (self.aclrtSetSysParamOpt.as_ref().expect("Expected function, got error."))(opt, value) }
    }
    pub unsafe fn aclrtGetSysParamOpt(&self, opt: aclSysParamOpt, value: *mut i64) -> aclError {
        unsafe { (self.aclrtGetSysParamOpt.as_ref().expect("Expected function, got error."))(opt, value) }
    }
    pub unsafe fn aclrtCtxSetSysParamOpt(&self, opt: aclSysParamOpt, value: i64) -> aclError {
        unsafe { (self.aclrtCtxSetSysParamOpt.as_ref().expect("Expected function, got error."))(opt, value) }
    }
    pub unsafe fn aclrtPeekAtLastError(&self, level: aclrtLastErrLevel) -> aclError {
        unsafe { (self.aclrtPeekAtLastError.as_ref().expect("Expected function, got error."))(level) }
    }
    pub unsafe fn aclrtGetLastError(&self, level: aclrtLastErrLevel) -> aclError {
        unsafe { (self.aclrtGetLastError.as_ref().expect("Expected function, got error."))(level) }
    }
    pub unsafe fn aclrtLaunchCallback(
        &self,
        fn_: aclrtCallback,
        userData: *mut ::std::os::raw::c_void,
        blockType: aclrtCallbackBlockType,
        stream: aclrtStream,
    ) -> aclError {
        unsafe {
            (self.aclrtLaunchCallback.as_ref().expect("Expected function, got error."))(
                fn_, userData, blockType, stream,
            )
        }
    }
    pub unsafe fn aclrtSubscribeReport(&self, threadId: u64, stream: aclrtStream) -> aclError {
        unsafe {
            (self.aclrtSubscribeReport.as_ref().expect("Expected function, got error."))(threadId, stream)
        }
    }
    pub unsafe fn aclrtUnSubscribeReport(&self, threadId: u64, stream: aclrtStream) -> aclError {
        unsafe {
            (self.aclrtUnSubscribeReport.as_ref().expect("Expected function, got error."))(threadId, stream)
        }
    }
    pub unsafe fn aclrtProcessReport(&self, timeout: i32) -> aclError {
        unsafe { (self.aclrtProcessReport.as_ref().expect("Expected function, got error."))(timeout) }
    }
    pub unsafe fn aclDataTypeSize(&self, dataType: aclDataType) -> usize {
        unsafe { (self.aclDataTypeSize.as_ref().expect("Expected function, got error."))(dataType) }
    }
    pub unsafe fn aclFloatToFloat16(&self, value: f32) -> aclFloat16 {
        unsafe { (self.aclFloatToFloat16.as_ref().expect("Expected function, got error."))(value) }
    }
    pub unsafe fn aclFloat16ToFloat(&self, value: aclFloat16) -> f32 {
        unsafe { (self.aclFloat16ToFloat.as_ref().expect("Expected function, got error."))(value) }
    }
    pub unsafe fn aclmdlRICaptureBegin(&self, stream: aclrtStream, mode: aclmdlRICaptureMode) -> aclError {
        unsafe { (self.aclmdlRICaptureBegin.as_ref().expect("Expected function, got error."))(stream, mode) }
    }
    pub unsafe fn aclmdlRICaptureEnd(&self, stream: aclrtStream, modelRI: *mut aclmdlRI) -> aclError {
        unsafe { (self.aclmdlRICaptureEnd.as_ref().expect("Expected function, got error."))(stream, modelRI) }
    }
    pub unsafe fn aclmdlRICaptureGetInfo(
        &self,
        stream: aclrtStream,
        status: *mut aclmdlRICaptureStatus,
        modelRI: *mut aclmdlRI,
    ) -> aclError {
        unsafe {
            (self.aclmdlRICaptureGetInfo.as_ref().expect("Expected function, got error."))(
                stream, status, modelRI,
            )
        }
    }
    pub unsafe fn aclmdlRIExecuteAsync(&self, modelRI: aclmdlRI, stream: aclrtStream) -> aclError {
        unsafe {
            (self.aclmdlRIExecuteAsync.as_ref().expect("Expected function, got error."))(modelRI, stream)
        }
    }
    pub unsafe fn aclmdlRIDestroy(&self, modelRI: aclmdlRI) -> aclError {
        unsafe { (self.aclmdlRIDestroy.as_ref().expect("Expected function, got error."))(modelRI) }
    }
    pub unsafe fn aclrtResetDeviceForce(&self, deviceId: i32) -> aclError {
        unsafe { (self.aclrtResetDeviceForce.as_ref().expect("Expected function, got error."))(deviceId) }
    }
    pub unsafe fn aclrtSynchronizeDeviceWithTimeout(&self, timeout: i32) -> aclError {
        unsafe {
            (self.aclrtSynchronizeDeviceWithTimeout.as_ref().expect("Expected function, got error."))(timeout)
        }
    }
    pub unsafe fn aclrtStreamAbort(&self, stream: aclrtStream) -> aclError {
        unsafe { (self.aclrtStreamAbort.as_ref().expect("Expected function, got error."))(stream) }
    }
    pub unsafe fn aclrtFreeWithDevSync(&self, devPtr: *mut ::std::os::raw::c_void) -> aclError {
        unsafe { (self.aclrtFreeWithDevSync.as_ref().expect("Expected function, got error."))(devPtr) }
    }
    pub unsafe fn aclrtLaunchHostFunc(
        &self,
        stream: aclrtStream,
        fn_: aclrtHostFunc,
        args: *mut ::std::os::raw::c_void,
    ) -> aclError {
        unsafe {
            (self.aclrtLaunchHostFunc.as_ref().expect("Expected function, got error."))(stream, fn_, args)
        }
    }
    pub unsafe fn aclsysGetVersionNum(
        &self,
        pkgName: *mut ::std::os::raw::c_char,
        versionNum: *mut i32,
    ) -> aclError {
        unsafe {
            (self.aclsysGetVersionNum.as_ref().expect("Expected function, got error."))(pkgName, versionNum)
        }
    }
    pub unsafe fn aclsysGetVersionStr(
        &self,
        pkgName: *mut ::std::os::raw::c_char,
        versionStr: *mut ::std::os::raw::c_char,
    ) -> aclError {
        unsafe {
            (self.aclsysGetVersionStr.as_ref().expect("Expected function, got error."))(pkgName, versionStr)
        }
    }
    pub unsafe fn aclFinalizeReference(&self, refCount: *mut u64) -> aclError {
        unsafe { (self.aclFinalizeReference.as_ref().expect("Expected function, got error."))(refCount) }
    }
    pub unsafe fn aclCreateTensor(
        &self,
        viewDims: *const i64,
        viewDimsNum: u64,
        dataType: aclDataType,
        stride: *const i64,
        offset: i64,
        format: aclFormat,
        storageDims: *const i64,
        storageDimsNum: u64,
        tensorData: *mut ::std::os::raw::c_void,
    ) -> *mut aclTensor {
        unsafe {
            (self.aclCreateTensor.as_ref().expect("Expected function, got error."))(
                viewDims,
                viewDimsNum,
                dataType,
                stride,
                offset,
                format,
                storageDims,
                storageDimsNum,
                tensorData,
            )
        }
    }
    pub unsafe fn aclCreateScalar(
        &self,
        value: *mut ::std::os::raw::c_void,
        dataType: aclDataType,
    ) -> *mut aclScalar {
        unsafe { (self.aclCreateScalar.as_ref().expect("Expected function, got error."))(value, dataType) }
    }
    pub unsafe fn aclCreateIntArray(&self, value: *const i64, size: u64) -> *mut aclIntArray {
        unsafe { (self.aclCreateIntArray.as_ref().expect("Expected function, got error."))(value, size) }
    }
    pub unsafe fn aclCreateFloatArray(&self, value: *const f32, size: u64) -> *mut aclFloatArray {
        unsafe { (self.aclCreateFloatArray.as_ref().expect("Expected function, got error."))(value, size) }
    }
    pub unsafe fn aclCreateBoolArray(&self, value: *const bool, size: u64) -> *mut aclBoolArray {
        unsafe { (self.aclCreateBoolArray.as_ref().expect("Expected function, got error."))(value, size) }
    }
    pub unsafe fn aclCreateTensorList(
        &self,
        value: *const *const aclTensor,
        size: u64,
    ) -> *mut aclTensorList {
        unsafe { (self.aclCreateTensorList.as_ref().expect("Expected function, got error."))(value, size) }
    }
    pub unsafe fn aclCreateScalarList(
        &self,
        value: *const *const aclScalar,
        size: u64,
    ) -> *mut aclScalarList {
        unsafe { (self.aclCreateScalarList.as_ref().expect("Expected function, got error."))(value, size) }
    }
    pub unsafe fn aclDestroyTensor(&self, tensor: *const aclTensor) -> aclnnStatus {
        unsafe { (self.aclDestroyTensor.as_ref().expect("Expected function, got error."))(tensor) }
    }
    pub unsafe fn aclDestroyScalar(&self, scalar: *const aclScalar) -> aclnnStatus {
        unsafe { (self.aclDestroyScalar.as_ref().expect("Expected function, got error."))(scalar) }
    }
    pub unsafe fn aclDestroyIntArray(&self, array: *const aclIntArray) -> aclnnStatus {
        unsafe { (self.aclDestroyIntArray.as_ref().expect("Expected function, got error."))(array) }
    }
    pub unsafe fn aclDestroyFloatArray(&self, array: *const aclFloatArray) -> aclnnStatus {
        unsafe { (self.aclDestroyFloatArray.as_ref().expect("Expected function, got error."))(array) }
    }
    pub unsafe fn aclDestroyBoolArray(&self, array: *const aclBoolArray) -> aclnnStatus {
        unsafe { (self.aclDestroyBoolArray.as_ref().expect("Expected function, got error."))(array) }
    }
    pub unsafe fn aclDestroyTensorList(&self, array: *const aclTensorList) -> aclnnStatus {
        unsafe { (self.aclDestroyTensorList.as_ref().expect("Expected function, got error."))(array) }
    }
    pub unsafe fn aclDestroyScalarList(&self, array: *const aclScalarList) -> aclnnStatus {
        unsafe { (self.aclDestroyScalarList.as_ref().expect("Expected function, got error."))(array) }
    }
    pub unsafe fn aclGetViewShape(
        &self,
        tensor: *const aclTensor,
        viewDims: *mut *mut i64,
        viewDimsNum: *mut u64,
    ) -> aclnnStatus {
        unsafe {
            (self.aclGetViewShape.as_ref().expect("Expected function, got error."))(
                tensor,
                viewDims,
                viewDimsNum,
            )
        }
    }
    pub unsafe fn aclGetStorageShape(
        &self,
        tensor: *const aclTensor,
        storageDims: *mut *mut i64,
        storageDimsNum: *mut u64,
    ) -> aclnnStatus {
        unsafe {
            (self.aclGetStorageShape.as_ref().expect("Expected function, got error."))(
                tensor,
                storageDims,
                storageDimsNum,
            )
        }
    }
    pub unsafe fn aclGetViewStrides(
        &self,
        tensor: *const aclTensor,
        stridesValue: *mut *mut i64,
        stridesNum: *mut u64,
    ) -> aclnnStatus {
        unsafe {
            (self.aclGetViewStrides.as_ref().expect("Expected function, got error."))(
                tensor,
                stridesValue,
                stridesNum,
            )
        }
    }
    pub unsafe fn aclGetViewOffset(&self, tensor: *const aclTensor, offset: *mut i64) -> aclnnStatus {
        unsafe { (self.aclGetViewOffset.as_ref().expect("Expected function, got error."))(tensor, offset) }
    }
    pub unsafe fn aclGetFormat(&self, tensor: *const aclTensor, format: *mut aclFormat) -> aclnnStatus {
        unsafe { (self.aclGetFormat.as_ref().expect("Expected function, got error."))(tensor, format) }
    }
    pub unsafe fn aclGetDataType(&self, tensor: *const aclTensor, dataType: *mut aclDataType) -> aclnnStatus {
        unsafe { (self.aclGetDataType.as_ref().expect("Expected function, got error."))(tensor, dataType) }
    }
    pub unsafe fn aclGetIntArraySize(&self, array: *const aclIntArray, size: *mut u64) -> aclnnStatus {
        unsafe { (self.aclGetIntArraySize.as_ref().expect("Expected function, got error."))(array, size) }
    }
    pub unsafe fn aclGetTensorListSize(
        &self,
        tensorList: *const aclTensorList,
        size: *mut u64,
    ) -> aclnnStatus {
        unsafe {
            (self.aclGetTensorListSize.as_ref().expect("Expected function, got error."))(tensorList, size)
        }
    }
    pub unsafe fn aclInitTensor(
        &self,
        tensor: *mut aclTensor,
        viewDims: *const i64,
        viewDimsNum: u64,
        dataType: aclDataType,
        stride: *const i64,
        offset: i64,
        format: aclFormat,
        storageDims: *const i64,
        storageDimsNum: u64,
        tensorDataAddr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe {
            (self.aclInitTensor.as_ref().expect("Expected function, got error."))(
                tensor,
                viewDims,
                viewDimsNum,
                dataType,
                stride,
                offset,
                format,
                storageDims,
                storageDimsNum,
                tensorDataAddr,
            )
        }
    }
    pub unsafe fn aclSetAclOpExecutorRepeatable(&self, executor: *mut aclOpExecutor) -> aclnnStatus {
        unsafe {
            (self.aclSetAclOpExecutorRepeatable.as_ref().expect("Expected function, got error."))(executor)
        }
    }
    pub unsafe fn aclDestroyAclOpExecutor(&self, executor: *mut aclOpExecutor) -> aclnnStatus {
        unsafe { (self.aclDestroyAclOpExecutor.as_ref().expect("Expected function, got error."))(executor) }
    }
    pub unsafe fn aclSetInputTensorAddr(
        &self,
        executor: *mut aclOpExecutor,
        index: usize,
        tensor: *mut aclTensor,
        addr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe {
            (self.aclSetInputTensorAddr.as_ref().expect("Expected function, got error."))(
                executor, index, tensor, addr,
            )
        }
    }
    pub unsafe fn aclSetOutputTensorAddr(
        &self,
        executor: *mut aclOpExecutor,
        index: usize,
        tensor: *mut aclTensor,
        addr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe {
            (self.aclSetOutputTensorAddr.as_ref().expect("Expected function, got error."))(
                executor, index, tensor, addr,
            )
        }
    }
    pub unsafe fn aclSetTensorAddr(
        &self,
        executor: *mut aclOpExecutor,
        index: usize,
        tensor: *mut aclTensor,
        addr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe {
            (self.aclSetTensorAddr.as_ref().expect("Expected function, got error."))(
                executor, index, tensor, addr,
            )
        }
    }
    pub unsafe fn aclSetDynamicTensorAddr(
        &self,
        executor: *mut aclOpExecutor,
        irIndex: usize,
        relativeIndex: usize,
        tensors: *mut aclTensorList,
        addr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe {
            (self.aclSetDynamicTensorAddr.as_ref().expect("Expected function, got error."))(
                executor,
                irIndex,
                relativeIndex,
                tensors,
                addr,
            )
        }
    }
    pub unsafe fn aclSetRawTensorAddr(
        &self,
        tensor: *mut aclTensor,
        addr: *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe { (self.aclSetRawTensorAddr.as_ref().expect("Expected function, got error."))(tensor, addr) }
    }
    pub unsafe fn aclGetRawTensorAddr(
        &self,
        tensor: *const aclTensor,
        addr: *mut *mut ::std::os::raw::c_void,
    ) -> aclnnStatus {
        unsafe { (self.aclGetRawTensorAddr.as_ref().expect("Expected function, got error."))(tensor, addr) }
    }
    pub unsafe fn aclnnInit(&self, configPath: *const ::std::os::raw::c_char) -> aclnnStatus {
        unsafe { (self.aclnnInit.as_ref().expect("Expected function, got error."))(configPath) }
    }
    pub unsafe fn aclnnFinalize(&self) -> aclnnStatus {
        unsafe { (self.aclnnFinalize.as_ref().expect("Expected function, got error."))() }
    }
    pub unsafe fn aclnnMatmulGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        mat2: *const aclTensor,
        out: *mut aclTensor,
        cubeMathType: i8,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMatmulGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                mat2,
                out,
                cubeMathType,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnMatmul(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMatmul.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceAddmmGetWorkspaceSize(
        &self,
        selfRef: *const aclTensor,
        mat1: *const aclTensor,
        mat2: *const aclTensor,
        beta: *const aclScalar,
        alpha: *const aclScalar,
        cubeMathType: i8,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAddmmGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                mat1,
                mat2,
                beta,
                alpha,
                cubeMathType,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceAddmm(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAddmm.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnAddGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        alpha: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAddGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                alpha,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnAdd(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAdd.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnAddsGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        alpha: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAddsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                alpha,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnAdds(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAdds.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceAddGetWorkspaceSize(
        &self,
        selfRef: *const aclTensor,
        other: *const aclTensor,
        alpha: *const aclScalar,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAddGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                other,
                alpha,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceAdd(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAdd.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceAddsGetWorkspaceSize(
        &self,
        selfRef: *const aclTensor,
        other: *const aclScalar,
        alpha: *const aclScalar,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAddsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                other,
                alpha,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceAdds(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceAdds.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSubGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        alpha: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSubGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                alpha,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSub(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSub.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSubsGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        alpha: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSubsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                alpha,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSubs(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSubs.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnMulGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMulGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnMul(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMul.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnMulsGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMulsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnMuls(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnMuls.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceMulGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        other: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceMulGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                other,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceMul(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceMul.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceMulsGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        other: *const aclScalar,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceMulsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                other,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceMuls(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceMuls.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnDivGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnDivGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnDiv(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnDiv.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnReciprocalGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnReciprocalGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnReciprocal(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnReciprocal.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnPowTensorScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        exponent: *const aclScalar,
        out: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnPowTensorScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                exponent,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnPowTensorScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnPowTensorScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnAbsGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAbsGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnAbs(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAbs.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnClampGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        clipValueMin: *const aclScalar,
        clipValueMax: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnClampGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                clipValueMin,
                clipValueMax,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnClamp(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnClamp.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnReluGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnReluGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnRelu(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnRelu.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGeluV2GetWorkspaceSize(
        &self,
        x: *const aclTensor,
        approximate: i64,
        y: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeluV2GetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                x,
                approximate,
                y,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGeluV2(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeluV2.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSiluGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSiluGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSilu(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSilu.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnTanhGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTanhGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnTanh(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTanh.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnExpGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnExpGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnExp(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnExp.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSqrtGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSqrtGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSqrt(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSqrt.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSoftmaxGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: i64,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSoftmaxGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSoftmax(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSoftmax.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLogSumExpGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: *const aclIntArray,
        keepDim: bool,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogSumExpGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                keepDim,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLogSumExp(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogSumExp.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLayerNormGetWorkspaceSize(
        &self,
        input: *const aclTensor,
        normalizedShape: *const aclIntArray,
        weightOptional: *const aclTensor,
        biasOptional: *const aclTensor,
        eps: f64,
        out: *mut aclTensor,
        meanOutOptional: *mut aclTensor,
        rstdOutOptional: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLayerNormGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                input,
                normalizedShape,
                weightOptional,
                biasOptional,
                eps,
                out,
                meanOutOptional,
                rstdOutOptional,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLayerNorm(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLayerNorm.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnRmsNormGetWorkspaceSize(
        &self,
        x: *const aclTensor,
        gamma: *const aclTensor,
        epsilon: f64,
        yOut: *const aclTensor,
        rstdOut: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnRmsNormGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                x,
                gamma,
                epsilon,
                yOut,
                rstdOut,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnRmsNorm(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnRmsNorm.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnIndexSelectGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: i64,
        index: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnIndexSelectGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                index,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnIndexSelect(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnIndexSelect.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGatherGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: i64,
        index: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGatherGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                index,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGather(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGather.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnEmbeddingBagGetWorkspaceSize(
        &self,
        weight: *const aclTensor,
        indices: *const aclTensor,
        offsets: *const aclTensor,
        scaleGradByFreq: bool,
        mode: i64,
        sparse: bool,
        perSampleWeights: *const aclTensor,
        includeLastOffset: bool,
        paddingIdx: i64,
        output: *mut aclTensor,
        offset2bag: *mut aclTensor,
        bagSize: *mut aclTensor,
        maxIndices: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEmbeddingBagGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                weight,
                indices,
                offsets,
                scaleGradByFreq,
                mode,
                sparse,
                perSampleWeights,
                includeLastOffset,
                paddingIdx,
                output,
                offset2bag,
                bagSize,
                maxIndices,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnEmbeddingBag(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEmbeddingBag.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnScatterAddGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: i64,
        index: *const aclTensor,
        src: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnScatterAddGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                index,
                src,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnScatterAdd(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnScatterAdd.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceScatterGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        dim: i64,
        index: *const aclTensor,
        src: *const aclTensor,
        reduce: i64,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceScatterGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                dim,
                index,
                src,
                reduce,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceScatter(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceScatter.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSearchSortedGetWorkspaceSize(
        &self,
        sortedSequence: *const aclTensor,
        self_: *const aclTensor,
        outInt32: bool,
        right: bool,
        sorter: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSearchSortedGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                sortedSequence,
                self_,
                outInt32,
                right,
                sorter,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSearchSorted(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSearchSorted.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnTopkGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        k: i64,
        dim: i64,
        largest: bool,
        sorted: bool,
        valuesOut: *mut aclTensor,
        indicesOut: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTopkGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                k,
                dim,
                largest,
                sorted,
                valuesOut,
                indicesOut,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnTopk(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTopk.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSortGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        stable: bool,
        dim: i64,
        descending: bool,
        valuesOut: *mut aclTensor,
        indicesOut: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSortGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                stable,
                dim,
                descending,
                valuesOut,
                indicesOut,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSort(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSort.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnReduceSumGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dims: *const aclIntArray,
        keepDims: bool,
        dtype: aclDataType,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnReduceSumGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dims,
                keepDims,
                dtype,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnReduceSum(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnReduceSum.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnAmaxGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: *const aclIntArray,
        keepDim: bool,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAmaxGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                keepDim,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnAmax(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAmax.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnAnyGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: *const aclIntArray,
        keepdim: bool,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAnyGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                keepdim,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnAny(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnAny.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnCumsumGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dim: i64,
        dtype: aclDataType,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnCumsumGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dim,
                dtype,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnCumsum(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnCumsum.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnCastGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        dtype: aclDataType,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnCastGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                dtype,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnCast(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnCast.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceCopyGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        src: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceCopyGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                src,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceCopy(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceCopy.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceFillScalarGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        value: *const aclScalar,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceFillScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                value,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceFillScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceFillScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceZeroGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceZeroGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceZero(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceZero.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceOneGetWorkspaceSize(
        &self,
        selfRef: *const aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceOneGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                selfRef,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnInplaceOne(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceOne.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnArangeGetWorkspaceSize(
        &self,
        start: *const aclScalar,
        end: *const aclScalar,
        step: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnArangeGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                start,
                end,
                step,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnArange(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnArange.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnTrilGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        diagonal: i64,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTrilGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                diagonal,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnTril(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTril.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnTriuGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        diagonal: i64,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTriuGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                diagonal,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnTriu(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnTriu.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGtScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGtScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGtScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGtScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGeScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGeScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLtScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLtScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLtScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLtScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLeScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLeScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLeScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLeScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnEqScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEqScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnEqScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEqScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnNeScalarGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclScalar,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnNeScalarGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnNeScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnNeScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGtTensorGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGtTensorGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGtTensor(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGtTensor.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnGeTensorGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeTensorGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnGeTensor(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnGeTensor.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnEqTensorGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEqTensorGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnEqTensor(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnEqTensor.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLogicalAndGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalAndGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLogicalAnd(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalAnd.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLogicalOrGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalOrGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLogicalOr(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalOr.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnLogicalNotGetWorkspaceSize(
        &self,
        self_: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalNotGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                self_,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnLogicalNot(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnLogicalNot.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnSWhereGetWorkspaceSize(
        &self,
        condition: *const aclTensor,
        self_: *const aclTensor,
        other: *const aclTensor,
        out: *mut aclTensor,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSWhereGetWorkspaceSize.as_ref().expect("Expected function, got error."))(
                condition,
                self_,
                other,
                out,
                workspaceSize,
                executor,
            )
        }
    }
    pub unsafe fn aclnnSWhere(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnSWhere.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn aclnnInplaceMaskedFillScalarGetWorkspaceSize(
        &self,
        selfRef: *mut aclTensor,
        mask: *const aclTensor,
        value: *const aclScalar,
        workspaceSize: *mut u64,
        executor: *mut *mut aclOpExecutor,
    ) -> aclnnStatus {
        unsafe {
            (self
                .aclnnInplaceMaskedFillScalarGetWorkspaceSize
                .as_ref()
                .expect("Expected function, got error."))(
                selfRef, mask, value, workspaceSize, executor
            )
        }
    }
    pub unsafe fn aclnnInplaceMaskedFillScalar(
        &self,
        workspace: *mut ::std::os::raw::c_void,
        workspaceSize: u64,
        executor: *mut aclOpExecutor,
        stream: aclrtStream,
    ) -> aclnnStatus {
        unsafe {
            (self.aclnnInplaceMaskedFillScalar.as_ref().expect("Expected function, got error."))(
                workspace,
                workspaceSize,
                executor,
                stream,
            )
        }
    }
    pub unsafe fn HcclGetRootInfo(&self, rootInfo: *mut HcclRootInfo) -> HcclResult {
        unsafe { (self.HcclGetRootInfo.as_ref().expect("Expected function, got error."))(rootInfo) }
    }
    pub unsafe fn HcclCommInitRootInfo(
        &self,
        nRanks: u32,
        rootInfo: *const HcclRootInfo,
        rank: u32,
        comm: *mut HcclComm,
    ) -> HcclResult {
        unsafe {
            (self.HcclCommInitRootInfo.as_ref().expect("Expected function, got error."))(
                nRanks, rootInfo, rank, comm,
            )
        }
    }
    pub unsafe fn HcclAllReduce(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclAllReduce.as_ref().expect("Expected function, got error."))(
                sendBuf, recvBuf, count, dataType, op, comm, stream,
            )
        }
    }
    pub unsafe fn HcclBroadcast(
        &self,
        buf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        root: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclBroadcast.as_ref().expect("Expected function, got error."))(
                buf, count, dataType, root, comm, stream,
            )
        }
    }
    pub unsafe fn HcclReduceScatter(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        recvCount: u64,
        dataType: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclReduceScatter.as_ref().expect("Expected function, got error."))(
                sendBuf, recvBuf, recvCount, dataType, op, comm, stream,
            )
        }
    }
    pub unsafe fn HcclAllGather(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        sendCount: u64,
        dataType: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclAllGather.as_ref().expect("Expected function, got error."))(
                sendBuf, recvBuf, sendCount, dataType, comm, stream,
            )
        }
    }
    pub unsafe fn HcclReduce(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        recvBuf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        op: HcclReduceOp,
        root: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclReduce.as_ref().expect("Expected function, got error."))(
                sendBuf, recvBuf, count, dataType, op, root, comm, stream,
            )
        }
    }
    pub unsafe fn HcclSend(
        &self,
        sendBuf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        destRank: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclSend.as_ref().expect("Expected function, got error."))(
                sendBuf, count, dataType, destRank, comm, stream,
            )
        }
    }
    pub unsafe fn HcclRecv(
        &self,
        recvBuf: *mut ::std::os::raw::c_void,
        count: u64,
        dataType: HcclDataType,
        srcRank: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclRecv.as_ref().expect("Expected function, got error."))(
                recvBuf, count, dataType, srcRank, comm, stream,
            )
        }
    }
    pub unsafe fn HcclAlltoAll(
        &self,
        sendBuf: *const ::std::os::raw::c_void,
        sendCount: u64,
        sendType: HcclDataType,
        recvBuf: *const ::std::os::raw::c_void,
        recvCount: u64,
        recvType: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        unsafe {
            (self.HcclAlltoAll.as_ref().expect("Expected function, got error."))(
                sendBuf, sendCount, sendType, recvBuf, recvCount, recvType, comm, stream,
            )
        }
    }
    pub unsafe fn HcclBarrier(&self, comm: HcclComm, stream: aclrtStream) -> HcclResult {
        unsafe { (self.HcclBarrier.as_ref().expect("Expected function, got error."))(comm, stream) }
    }
    pub unsafe fn HcclGetRankSize(&self, comm: HcclComm, rankSize: *mut u32) -> HcclResult {
        unsafe { (self.HcclGetRankSize.as_ref().expect("Expected function, got error."))(comm, rankSize) }
    }
    pub unsafe fn HcclGetRankId(&self, comm: HcclComm, rank: *mut u32) -> HcclResult {
        unsafe { (self.HcclGetRankId.as_ref().expect("Expected function, got error."))(comm, rank) }
    }
    pub unsafe fn HcclGetCommAsyncError(&self, comm: HcclComm, asyncError: *mut HcclResult) -> HcclResult {
        unsafe {
            (self.HcclGetCommAsyncError.as_ref().expect("Expected function, got error."))(comm, asyncError)
        }
    }
    pub unsafe fn HcclGetErrorString(&self, code: HcclResult) -> *const ::std::os::raw::c_char {
        unsafe { (self.HcclGetErrorString.as_ref().expect("Expected function, got error."))(code) }
    }
    pub unsafe fn HcclCommDestroy(&self, comm: HcclComm) -> HcclResult {
        unsafe { (self.HcclCommDestroy.as_ref().expect("Expected function, got error."))(comm) }
    }
}
