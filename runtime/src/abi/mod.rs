//! Back ends from shared libraries: a versioned table of C functions. `host` turns a table into a [`crate::Backend`];
//! `export` turns any `Backend` into a table, with [`crate::export_backend!`]; a vendor may also fill the table in C.
//!
//! Rules. One exported symbol, `lm_saes_backend_v1`, returns the table; the table only grows, its `size` says how far, a
//! breaking change is a new symbol. No Rust enum, bool, reference, allocation or panic crosses: status numbers out, text
//! through `error`. An op crosses as tag, size and payload; an unknown tag or size is "unsupported". Libraries are never
//! unloaded. A plugin is accepted by running the conformance table on it.

pub mod export;
mod host;

pub use host::{from_table, load};

use std::ffi::{c_char, c_void};

/// The version every table of this layout carries.
pub const ABI: u32 = 1;
/// Name of the exported function.
pub const SYMBOL: &str = "lm_saes_backend_v1";

/// Result of a call; the text of anything but [`Status::OK`] is fetched with `error` on the same thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub i32);

impl Status {
    /// Done.
    pub const OK: Self = Self(0);
    /// This op, or this form of it, is not supported.
    pub const UNSUPPORTED: Self = Self(1);
    /// Out of memory.
    pub const OUT_OF_MEMORY: Self = Self(2);
    /// An op found its data outside its contract.
    pub const FAILED: Self = Self(3);
    /// Anything else, such as a driver's error.
    pub const ERROR: Self = Self(4);
    /// The plugin panicked; the panic ended at the table.
    pub const PANIC: Self = Self(5);
}

/// An op as it crosses the table.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawOp {
    /// [`crate::Op::tag`].
    pub tag: u32,
    /// Bytes of the payload.
    pub size: u32,
    /// The op's struct, valid during the call.
    pub payload: *const c_void,
}

/// What a device says about itself; the host fills in zeros before the call.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RawInfo {
    /// Total memory in bytes, 0 when unknown.
    pub memory: u64,
    /// Allocation alignment in bytes, a power of two.
    pub alignment: u64,
    /// 1 when the same program gives the same bits every time.
    pub deterministic: u32,
    /// Bytes of `model` in use.
    pub model_len: u32,
    /// Name for people, UTF-8.
    pub model: [u8; 128],
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// What a plugin exports. Every function is required.
        #[repr(C)]
        pub struct Table {
            /// [`ABI`].
            pub abi: u32,
            /// `size_of::<Table>()` as the plugin knows it.
            pub size: u32,
            /// Name of the back end, nul-terminated, valid for ever.
            pub name: *const c_char,
            $($(#[$doc])* pub $name: Option<unsafe extern "C" fn($($arg),*) $(-> $result)?>,)*
        }

        /// The table's functions, all present.
        #[derive(Clone, Copy)]
        struct Calls {
            $($name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Table {
            /// The functions, or the name of the first that is missing.
            fn calls(&self) -> Result<Calls, &'static str> {
                Ok(Calls { $($name: self.$name.ok_or(stringify!($name))?,)* })
            }
        }
    };
}

table! {
    /// Number of devices.
    count() -> u32;
    /// Opens a device.
    open(u32, *mut *mut c_void) -> Status;
    /// Describes a device.
    info(*mut c_void, *mut RawInfo) -> Status;
    /// Whether exactly this op can run.
    supports(*mut c_void, *const RawOp) -> Status;
    /// Allocates bytes.
    alloc(*mut c_void, u64, *mut u64) -> Status;
    /// Frees an address and its bytes.
    free(*mut c_void, u64, u64);
    /// Makes a stream of a device.
    stream(*mut c_void, *mut *mut c_void) -> Status;
    /// Queues an op.
    launch(*mut c_void, *const RawOp) -> Status;
    /// Copies host bytes to an address; the source has been read when this returns.
    upload(*mut c_void, *const u8, u64, u64) -> Status;
    /// Copies bytes at an address to the host, complete after `sync`.
    download(*mut c_void, u64, *mut u8, u64) -> Status;
    /// Waits for everything queued.
    sync(*mut c_void) -> Status;
    /// Ends a stream.
    drop_stream(*mut c_void);
    /// Ends a device; its streams have ended.
    drop_device(*mut c_void);
    /// Copies the calling thread's last error text, cut to the length, and returns its length in bytes.
    error(*mut u8, u64) -> u64;
}

// SAFETY: the table is constant data and functions that the rules above require to be callable from any thread.
unsafe impl Send for Table {}
// SAFETY: as for `Send`.
unsafe impl Sync for Table {}
