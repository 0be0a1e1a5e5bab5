//! The functions of NCCL that are used, found in the library at run time, with its types and codes.

use libloading::Library;
use lm_saes_runtime::{DType, Error, Reduction, Result};
use std::ffi::{CStr, c_char, c_int, c_void};

pub type Handle = *mut c_void;
pub type Status = c_int;

/// What ranks must know to form a communicator.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

/// `ncclSum`, `ncclMax`, `ncclMin`.
pub const fn operator(how: Reduction) -> c_int {
    match how {
        Reduction::Sum => 0,
        Reduction::Max => 2,
        Reduction::Min => 3,
    }
}

/// `ncclDataType_t`; sizes are powers of two, and what is not computed with is bytes.
pub const fn data_type(dtype: DType) -> c_int {
    match dtype {
        DType::F32 => 7,
        DType::F16 => 6,
        DType::BF16 => 9,
        DType::U32 => 3,
        DType::I32 => 2,
        _ => 1,
    }
}

type Init = unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> Status;
type Of = unsafe extern "C" fn(Handle) -> Status;
type Reduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Handle, Handle) -> Status;
type Gather = unsafe extern "C" fn(u64, u64, usize, c_int, Handle, Handle) -> Status;
type Message = unsafe extern "C" fn(u64, usize, c_int, c_int, Handle, Handle) -> Status;

/// The functions used.
pub struct Api {
    pub version: c_int,
    pub unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    pub init: Init,
    pub destroy: Of,
    pub abort: Of,
    pub async_error: unsafe extern "C" fn(Handle, *mut Status) -> Status,
    pub error_string: unsafe extern "C" fn(Status) -> *const c_char,
    pub all_reduce: Reduce,
    pub reduce_scatter: Reduce,
    pub all_gather: Gather,
    pub broadcast: Reduce,
    pub send: Message,
    pub recv: Message,
    pub group_start: unsafe extern "C" fn() -> Status,
    pub group_end: unsafe extern "C" fn() -> Status,
    _library: Library,
}

impl Api {
    /// `LM_SAES_NCCL` names the library; without it the usual names are tried.
    pub fn open() -> std::result::Result<Self, String> {
        let named = std::env::var("LM_SAES_NCCL").ok().filter(|n| !n.is_empty());
        let names = named.map_or_else(|| vec!["libnccl.so.2".into(), "libnccl.so".into()], |n| vec![n]);
        let mut why = String::new();
        for name in &names {
            // SAFETY: the library's initialisers are NVIDIA's own.
            match unsafe { Library::new(name) } {
                // SAFETY: the types are those of nccl.h; its handles and streams are pointers, addresses on the card 64 bits wide.
                Ok(library) => return unsafe { Self::of(library) },
                Err(e) => why = e.to_string(),
            }
        }
        Err(format!("NCCL ({}) is not installed: {why}", names.join(", ")))
    }

    /// # Safety
    /// The library is NCCL.
    unsafe fn of(library: Library) -> std::result::Result<Self, String> {
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type is that of the place it is stored in, taken from nccl.h.
                *unsafe { library.get($name) }.map_err(|e| format!("this is no NCCL: {e}"))?
            };
        }
        let get_version: unsafe extern "C" fn(*mut c_int) -> Status = symbol!(b"ncclGetVersion");
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { get_version(&mut version) };
        Ok(Self {
            version,
            unique_id: symbol!(b"ncclGetUniqueId"),
            init: symbol!(b"ncclCommInitRank"),
            destroy: symbol!(b"ncclCommDestroy"),
            abort: symbol!(b"ncclCommAbort"),
            async_error: symbol!(b"ncclCommGetAsyncError"),
            error_string: symbol!(b"ncclGetErrorString"),
            all_reduce: symbol!(b"ncclAllReduce"),
            reduce_scatter: symbol!(b"ncclReduceScatter"),
            all_gather: symbol!(b"ncclAllGather"),
            broadcast: symbol!(b"ncclBroadcast"),
            send: symbol!(b"ncclSend"),
            recv: symbol!(b"ncclRecv"),
            group_start: symbol!(b"ncclGroupStart"),
            group_end: symbol!(b"ncclGroupEnd"),
            _library: library,
        })
    }

    pub fn text(&self, code: Status) -> String {
        // SAFETY: the library returns a constant text for every code.
        unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy().into_owned()
    }

    pub fn check(&self, call: &'static str, code: Status) -> Result<()> {
        match code {
            0 => Ok(()),
            _ => Err(Error::Driver { device: "nccl".into(), call, code, text: self.text(code) }),
        }
    }
}
