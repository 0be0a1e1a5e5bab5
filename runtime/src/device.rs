//! The three traits a back end implements. Below this line shapes, dtypes and aliasing have been checked by
//! [`crate::Queue`]; back ends trust it.

use crate::{Error, Op, Result};
use std::{any::Any, sync::Arc};

/// An opaque device address. CPU, CUDA and ACL all hand out plain addresses; 0 means "no operand".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Addr(pub u64);

impl Addr {
    /// "No operand".
    pub const NONE: Self = Self(0);
}

/// Why a device refuses an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl Unsupported {
    /// A refusal with this reason.
    pub fn because(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// What a device says about itself.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// `cpu:0`, `cuda:1`, …
    pub name: String,
    /// Marketing or instruction-set name, for people.
    pub model: String,
    /// Total memory in bytes, 0 when unknown.
    pub memory: u64,
    /// Allocation alignment in bytes, a power of two.
    pub alignment: usize,
    /// Whether the same program gives the same bits every time.
    pub deterministic: bool,
}

/// A family of devices: one per driver. Discovery never panics and never fails because a driver is absent.
pub trait Backend: Send + Sync {
    /// `cpu`, `cuda`, `npu`, or a plugin's own name.
    fn name(&self) -> &str;
    /// Number of devices; 0 when the driver is absent.
    fn count(&self) -> usize;
    /// Why `count` is 0, in one line.
    fn absence(&self) -> Option<String> {
        None
    }
    /// Opens device `index < count()`.
    fn open(&self, index: usize) -> Result<Arc<dyn Device>>;
}

/// Memory and capabilities of one device.
///
/// # Safety
/// `alloc` must return memory of at least the asked size, aligned to `info().alignment`, valid until `free`.
pub unsafe trait Device: Send + Sync {
    /// Description.
    fn info(&self) -> &DeviceInfo;
    /// Whether exactly this op, with these shapes and types, can run.
    fn supports(&self, op: &Op) -> Result<(), Unsupported>;
    /// Raw memory, contents undefined. Called by pools and arenas only.
    fn alloc(&self, bytes: usize) -> Result<Addr>;
    /// Returns memory.
    ///
    /// # Safety
    /// `addr` came from `alloc(bytes)` of this device and no queued work uses it.
    unsafe fn free(&self, addr: Addr, bytes: usize);
    /// A new ordered queue of work.
    fn stream(&self) -> Result<Box<dyn Stream>>;
}

/// An ordered queue of work. Calls may return before the work is done; an error surfaces at the latest in `sync`.
///
/// # Safety
/// `upload` must have copied `src` before returning; `download` must have filled `dst` once `sync` returns.
pub unsafe trait Stream: Send {
    /// Queues one op.
    ///
    /// # Safety
    /// All addresses in `op` are live on this device, shapes satisfy the op's contract, and outputs alias nothing
    /// but what the contract allows.
    unsafe fn launch(&mut self, op: &Op) -> Result<()>;
    /// Copies host bytes to the device.
    ///
    /// # Safety
    /// `dst` has `src.len()` bytes.
    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()>;
    /// Copies device bytes to the host.
    ///
    /// # Safety
    /// `src` has `dst.len()` bytes; `dst` stays valid until the next `sync`.
    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()>;
    /// Waits for everything queued so far and reports the first failure.
    fn sync(&mut self) -> Result<()>;
    /// The driver's own handle of this stream, for libraries that queue work on it themselves; 0 where there is none.
    fn native(&self) -> u64 {
        0
    }
    /// The stream itself, for engines of collectives that queue work on streams of their own back end; `None` for others.
    fn as_any(&mut self) -> Option<&mut dyn Any> {
        None
    }
    /// Starts recording instead of executing, where the device can.
    fn begin_capture(&mut self) -> Result<(), Unsupported> {
        Err(Unsupported::because("graph capture"))
    }
    /// Ends recording.
    fn end_capture(&mut self) -> Result<Box<dyn Graph>, Unsupported> {
        Err(Unsupported::because("graph capture"))
    }
}

/// A recorded sequence of ops.
pub trait Graph: Send {
    /// Runs the sequence again on the stream that recorded it.
    fn replay(&self, stream: &mut dyn Stream) -> Result<()>;
}

/// Turns a refusal into the runtime's error.
pub(crate) fn refused(device: &dyn Device, op: &Op, why: Unsupported) -> Error {
    Error::Unsupported { device: device.info().name.clone(), op: op.name(), why: why.0 }
}
