//! One NPU: its context, memory, the failures of its driver in words, and what it can run.

use super::{
    load::Api,
    ops,
    soc::Soc,
    stream::AscendStream,
    sys::{self, aclError, aclSysParamOpt, aclrtContext, aclrtMemAttr, aclrtMemMallocPolicy},
};
use lm_saes_runtime::{Addr, Device, DeviceInfo, Error, Op, Result, Stream, Unsupported};
use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CStr, c_void},
    ptr::null_mut,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// What `aclrtMalloc` promises.
const ALIGNMENT: usize = 64;
/// Bytes past the end of an allocation that kernels may touch.
const PAD: usize = 32;

/// NPUs in use: while there are any, the process does not finish with ACL.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Numbers every opening of a device, so that no thread takes a context of before for the current one.
static OPENINGS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The opening whose context is current on this thread; 0 for none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Calls a function of the runtime by name: `Ok`, or its failure in words.
macro_rules! acl {
    ($card:expr, $name:ident($($arg:expr),* $(,)?)) => {
        match $card.api.runtime(|f| &f.$name) {
            Some(f) => $card.check(stringify!($name), f($($arg),*)),
            None => Err($card.missing(stringify!($name))),
        }
    };
}
pub(super) use acl;

/// A device in use.
pub(super) struct AscendDevice(Arc<Card>);

/// What a device's streams share.
pub(super) struct Card {
    pub(super) info: DeviceInfo,
    pub(super) api: &'static Api,
    /// The chip's row of the table; `None` for a chip that is not in it.
    pub(super) soc: Option<Soc>,
    /// The chip's name.
    pub(super) chip: String,
    /// How products of f32 are computed: a `cubeMathType`.
    pub(super) cube: Option<i8>,
    pub(super) index: i32,
    context: aclrtContext,
    opening: u64,
    /// Allocations, by address.
    memory: Mutex<BTreeMap<u64, u64>>,
}

// SAFETY: the context belongs to the process, not to a thread; every call makes it current first.
unsafe impl Send for Card {}
// SAFETY: as for `Send`; what changes is behind a lock.
unsafe impl Sync for Card {}

impl AscendDevice {
    pub(super) fn open(api: &'static Api, index: usize) -> Result<Self> {
        let chip = chip(api);
        let soc = Soc::of(&chip);
        let name = format!("npu:{index}");
        let cube = cube(&name, soc)?;
        let set = api.runtime(|f| &f.aclrtSetDevice).map_or(-1, |set| {
            // SAFETY: ACL is initialised; the index is below the number of devices.
            unsafe { set(index as i32) }
        });
        if set != 0 {
            return Err(failure(api, &name, "aclrtSetDevice", set));
        }
        OPEN.fetch_add(1, Ordering::SeqCst);
        // From here on dropping the card gives the device back.
        let info =
            DeviceInfo { name, model: String::new(), memory: 0, alignment: ALIGNMENT, deterministic: true };
        let mut card = Card {
            info,
            api,
            soc,
            chip,
            cube,
            index: index as i32,
            context: null_mut(),
            opening: OPENINGS.fetch_add(1, Ordering::Relaxed),
            memory: Mutex::default(),
        };
        let mut context = null_mut();
        // SAFETY: the device set above has a context.
        unsafe { acl!(card, aclrtGetCurrentContext(&mut context)) }?;
        card.context = context;
        CURRENT.set(0);
        card.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both places are written before the call returns.
        if unsafe { acl!(card, aclrtGetMemInfo(aclrtMemAttr::ACL_HBM_MEM, &mut free, &mut total)) }.is_ok() {
            card.info.memory = total as u64;
        }
        card.info.model = card.describe();
        Ok(Self(Arc::new(card)))
    }
}

/// What the runtime calls the chip.
fn chip(api: &Api) -> String {
    let Some(ask) = api.runtime(|f| &f.aclrtGetSocName) else { return String::new() };
    // SAFETY: the answer is null or a string that lives as long as the process.
    unsafe {
        let name = ask();
        if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// The `cubeMathType` of products of f32, from `LM_SAES_NPU_GEMM`; `None` where the chip has none that keeps f32.
///
/// # Errors
/// When the variable has another value than the three.
fn cube(device: &str, soc: Option<Soc>) -> Result<Option<i8>> {
    let wanted = std::env::var("LM_SAES_NPU_GEMM").unwrap_or_else(|_| "f32".into());
    let exact = soc.is_none_or(|s| s.exact);
    match wanted.as_str() {
        "f32" => Ok(exact.then_some(0)),
        "hf32" => Ok(exact.then_some(3)),
        "f16" => Ok(Some(2)),
        other => {
            let available = format!("LM_SAES_NPU_GEMM is {other:?}; it can be f32, hf32 or f16");
            Err(Error::NoDevice { name: device.into(), available })
        }
    }
}

impl Card {
    /// Makes the device's context current on this thread, and has operators of one order of summation chosen.
    pub(super) fn bind(&self) -> Result<()> {
        if CURRENT.get() == self.opening {
            return Ok(());
        }
        // SAFETY: the context lives as long as the card.
        unsafe { acl!(self, aclrtSetCurrentContext(self.context)) }?;
        // SAFETY: takes two numbers.
        unsafe { acl!(self, aclrtSetSysParamOpt(aclSysParamOpt::ACL_OPT_DETERMINISTIC, 1)) }?;
        CURRENT.set(self.opening);
        Ok(())
    }

    fn describe(&self) -> String {
        let family = self.soc.map_or("a chip unknown to this version", |s| s.name);
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: the three places are written before the call returns.
        let version = unsafe { acl!(self, aclrtGetVersion(&mut major, &mut minor, &mut patch)) };
        let version = version.map_or_else(|_| "unknown".into(), |()| format!("{major}.{minor}.{patch}"));
        let products = match self.cube {
            Some(3) => ", products in HF32",
            Some(2) => ", products in f16",
            _ => "",
        };
        format!("{} ({family}, ACL {version}{products})", self.chip)
    }

    /// Turns a status into the runtime's error.
    pub(super) fn check(&self, call: &'static str, code: aclError) -> Result<()> {
        if code == 0 { Ok(()) } else { Err(self.error(call, code)) }
    }

    /// A failed call, with the driver's own words.
    pub(super) fn error(&self, call: &'static str, code: aclError) -> Error {
        failure(self.api, &self.info.name, call, code)
    }

    /// A call that was not made, for a reason of ours.
    pub(super) fn error_text(&self, call: &'static str, text: String) -> Error {
        Error::Driver { device: self.info.name.clone(), call, code: 0, text }
    }

    /// A function that this CANN does not have.
    pub(super) fn missing(&self, function: &'static str) -> Error {
        self.error_text(function, self.api.missing(function))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, u64>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The allocation an address lies in: its address and bytes.
    pub(super) fn allocation(&self, addr: u64) -> Option<(u64, u64)> {
        let memory = self.memory();
        let (&base, &bytes) = memory.range(..=addr).next_back()?;
        (addr < base + bytes).then_some((base, bytes))
    }

    /// Raw memory, with room behind it for kernels that read past the end.
    pub(super) fn alloc(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        let mut addr = null_mut();
        let asked = bytes.max(1).next_multiple_of(ALIGNMENT) + PAD;
        let policy = aclrtMemMallocPolicy::ACL_MEM_MALLOC_HUGE_FIRST;
        // SAFETY: the place is written before the call returns.
        let done = unsafe { acl!(self, aclrtMalloc(&mut addr, asked, policy)) };
        match done {
            Ok(()) => {
                self.memory().insert(addr as u64, bytes.max(1) as u64);
                Ok(addr as u64)
            }
            Err(Error::Driver { code, .. }) if is_out_of_memory(code) => Err(Error::OutOfMemory {
                device: self.info.name.clone(),
                asked: bytes,
                what: "a tensor".into(),
            }),
            Err(e) => Err(e),
        }
    }

    /// Waits for all work on the device. A failure is for the stream's owner to report.
    fn settle(&self) {
        if self.bind().is_ok()
            && let Some(wait) = self.api.runtime(|f| &f.aclrtSynchronizeDevice)
        {
            // SAFETY: takes nothing; the context is current.
            let _ = unsafe { wait() };
        }
    }

    /// # Safety
    /// `addr` came from [`Card::alloc`] and no queued work uses it.
    pub(super) unsafe fn free(&self, addr: u64) {
        self.memory().remove(&addr);
        if self.bind().is_ok() {
            // SAFETY: as the caller promises. A failure means the context is broken, which other calls report.
            let _ = unsafe { acl!(self, aclrtFree(addr as *mut c_void)) };
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // SAFETY: set once when the device was opened; its streams, which hold the card, have ended.
        let _ = unsafe { acl!(self, aclrtResetDevice(self.index)) };
        CURRENT.set(0);
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether no NPU is in use.
pub(super) fn all_closed() -> bool {
    OPEN.load(Ordering::SeqCst) == 0
}

fn is_out_of_memory(code: i32) -> bool {
    let codes = [sys::ACL_ERROR_RT_MEMORY_ALLOCATION, sys::ACL_ERROR_RT_DEVICE_OOM, sys::ACL_ERROR_BAD_ALLOC];
    codes.contains(&code.cast_unsigned())
}

/// A failed call of ACL as the runtime's error: the code's name, and what ACL says about it on this thread.
pub(super) fn failure(api: &Api, device: &str, call: &'static str, code: aclError) -> Error {
    let said = recent(api);
    let name = NAMES.iter().find(|(c, _)| *c == code).map_or("", |(_, name)| name);
    let text = match (name, said.as_str()) {
        ("", "") => "no further message".into(),
        ("", said) => said.into(),
        (name, "") => name.into(),
        (name, said) => format!("{name}: {said}"),
    };
    Error::Driver { device: device.into(), call, code, text }
}

/// ACL's message about the latest failure on this thread, copied at once: the next call may overwrite it.
pub(super) fn recent(api: &Api) -> String {
    let Some(ask) = api.runtime(|f| &f.aclGetRecentErrMsg) else { return String::new() };
    // SAFETY: the answer is null or a string that lives until the next call on this thread.
    let text = unsafe {
        let text = ask();
        if text.is_null() {
            return String::new();
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    let lines: Vec<_> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.join("; ").chars().take(1500).collect()
}

macro_rules! names {
    ($($name:ident)*) => { const NAMES: &[(aclError, &str)] = &[$((sys::$name as aclError, stringify!($name))),*]; };
}
names! {
    ACL_ERROR_INVALID_PARAM ACL_ERROR_UNINITIALIZE ACL_ERROR_UNSUPPORTED_DATA_TYPE ACL_ERROR_RT_PARAM_INVALID
    ACL_ERROR_RT_INVALID_DEVICEID ACL_ERROR_RT_CONTEXT_NULL ACL_ERROR_RT_STREAM_CONTEXT
    ACL_ERROR_RT_INVALID_MEMORY_TYPE ACL_ERROR_RT_INVALID_HANDLE ACL_ERROR_RT_WAIT_TIMEOUT
    ACL_ERROR_RT_STREAM_CAPTURED ACL_ERROR_RT_EVENT_CAPTURED ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT
    ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT ACL_ERROR_BAD_ALLOC ACL_ERROR_API_NOT_SUPPORT
    ACL_ERROR_FEATURE_UNSUPPORTED ACL_ERROR_RT_FEATURE_NOT_SUPPORT ACL_ERROR_RT_MEMORY_ALLOCATION
    ACL_ERROR_RT_NO_DEVICE ACL_ERROR_RT_RESOURCE_ALLOC_FAIL ACL_ERROR_RT_NO_EVENT_RESOURCE
    ACL_ERROR_RT_NO_STREAM_RESOURCE ACL_ERROR_RT_DEVICE_OOM ACL_ERROR_INTERNAL_ERROR ACL_ERROR_FAILURE
    ACL_ERROR_RT_INTERNAL_ERROR ACL_ERROR_RT_LOST_HEARTBEAT ACL_ERROR_RT_AICORE_TIMEOUT
    ACL_ERROR_RT_AICORE_EXCEPTION ACL_ERROR_RT_AICPU_EXCEPTION ACL_ERROR_RT_VECTOR_CORE_EXCEPTION
    ACL_ERROR_RT_STREAM_SYNC_TIMEOUT ACL_ERROR_RT_EVENT_SYNC_TIMEOUT ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR
    ACLNN_ERR_PARAM_NULLPTR ACLNN_ERR_PARAM_INVALID ACLNN_ERR_RUNTIME_ERROR ACLNN_ERR_INNER
    ACLNN_ERR_INNER_TILING_ERROR ACLNN_ERR_INNER_FIND_KERNEL_ERROR ACLNN_ERR_INNER_NULLPTR
}

// SAFETY: `aclrtMalloc` gives memory of at least this size and alignment, valid until `aclrtFree`.
unsafe impl Device for AscendDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }
    fn supports(&self, op: &Op) -> Result<(), Unsupported> {
        ops::supports(&self.0, op)
    }
    fn alloc(&self, bytes: usize) -> Result<Addr> {
        self.0.alloc(bytes).map(Addr)
    }
    unsafe fn free(&self, addr: Addr, _: usize) {
        // A run that ends with an error of its own gives memory back while work is queued, and CANN frees without waiting.
        self.0.settle();
        // SAFETY: as the caller promises.
        unsafe { self.0.free(addr.0) }
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(AscendStream::new(&self.0)?))
    }
}
