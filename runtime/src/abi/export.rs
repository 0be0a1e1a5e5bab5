//! The plugin's side: any [`Backend`] as a table. No panic leaves these functions.

use super::{ABI, RawInfo, RawOp, Status, Table};
use crate::{Addr, Backend, Device, Error, Op, Result, Stream};
use std::{
    any::Any,
    cell::RefCell,
    ffi::{CStr, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

/// Exports a back end from a `cdylib`: `export_backend!(MyBackend, c"mine");`. The name must not contain a colon.
#[macro_export]
macro_rules! export_backend {
    ($backend:expr, $name:literal) => {
        /// The table of this plugin.
        // SAFETY: the name is reserved for this function and its type is the one the loader calls.
        #[unsafe(no_mangle)]
        pub extern "C" fn lm_saes_backend_v1() -> *const $crate::abi::Table {
            $crate::abi::export::table(|| Box::new($backend), $name)
        }
    };
}

static BACKEND: OnceLock<Box<dyn Backend>> = OnceLock::new();
static TABLE: OnceLock<Table> = OnceLock::new();

thread_local!(static LAST: RefCell<String> = const { RefCell::new(String::new()) });

type DeviceBox = Box<Arc<dyn Device>>;
type StreamBox = Box<Box<dyn Stream>>;

/// The table of this library's one back end; the first call decides which.
pub fn table(make: fn() -> Box<dyn Backend>, name: &'static CStr) -> *const Table {
    BACKEND.get_or_init(make);
    TABLE.get_or_init(|| Table {
        abi: ABI,
        size: size_of::<Table>() as u32,
        name: name.as_ptr(),
        count: Some(count),
        open: Some(open),
        info: Some(info),
        supports: Some(supports),
        alloc: Some(alloc),
        free: Some(free),
        stream: Some(stream),
        launch: Some(launch),
        upload: Some(upload),
        download: Some(download),
        sync: Some(sync),
        drop_stream: Some(drop_stream),
        drop_device: Some(drop_device),
        error: Some(error),
    })
}

fn remember(status: Status, text: String) -> Status {
    // On a thread that is ending the text is lost, not the status.
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
    status
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}

/// Runs one call: errors become numbers with a text, panics end here.
fn guard(call: impl FnOnce() -> Result<()>) -> Status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::OK,
        Ok(Err(e)) => match e {
            Error::Unsupported { why, .. } => remember(Status::UNSUPPORTED, why),
            Error::Failed { what, .. } => remember(Status::FAILED, what),
            e @ Error::OutOfMemory { .. } => remember(Status::OUT_OF_MEMORY, e.to_string()),
            e => remember(Status::ERROR, e.to_string()),
        },
        Err(panic) => remember(Status::PANIC, panic_text(&*panic)),
    }
}

/// Runs a call that has no status; a panic is dropped with its memory, never propagated.
fn quietly(call: impl FnOnce()) {
    guard(|| {
        call();
        Ok(())
    });
}

/// # Safety
/// `p` came from `open` and has not been dropped.
unsafe fn device<'a>(p: *mut c_void) -> &'a Arc<dyn Device> {
    // SAFETY: `open` made it from such a box.
    unsafe { &*p.cast::<Arc<dyn Device>>() }
}

/// # Safety
/// `p` came from `stream`, has not been dropped, and no other call uses it meanwhile.
unsafe fn stream_of<'a>(p: *mut c_void) -> &'a mut Box<dyn Stream> {
    // SAFETY: `stream` made it from such a box; streams are used by one thread at a time.
    unsafe { &mut *p.cast::<Box<dyn Stream>>() }
}

/// # Safety
/// `raw` and its payload are readable.
unsafe fn op(raw: *const RawOp) -> Result<Op> {
    // SAFETY: as the caller promises.
    let op = unsafe { Op::from_payload((*raw).tag, (*raw).payload, (*raw).size as usize) };
    op.ok_or_else(|| Error::Unsupported {
        device: String::new(),
        op: "an op",
        // SAFETY: as above.
        why: format!("op number {} in this form is newer than the plugin", unsafe { (*raw).tag }),
    })
}

unsafe extern "C" fn count() -> u32 {
    let mut n = 0;
    quietly(|| n = BACKEND.get().map_or(0, |b| b.count() as u32));
    n
}

unsafe extern "C" fn open(index: u32, out: *mut *mut c_void) -> Status {
    guard(|| {
        let absent = || Error::NoDevice { name: index.to_string(), available: "nothing".into() };
        let device = BACKEND.get().ok_or_else(absent)?.open(index as usize)?;
        let device: DeviceBox = Box::new(device);
        // SAFETY: the caller gives a place for the handle.
        unsafe { *out = Box::into_raw(device).cast() };
        Ok(())
    })
}

unsafe extern "C" fn info(d: *mut c_void, out: *mut RawInfo) -> Status {
    guard(|| {
        // SAFETY: the caller passes a live device and a live place of this type.
        let (info, out) = unsafe { (device(d).info(), &mut *out) };
        out.memory = info.memory;
        out.alignment = info.alignment as u64;
        out.deterministic = info.deterministic.into();
        let n = info.model.len().min(out.model.len());
        out.model[..n].copy_from_slice(&info.model.as_bytes()[..n]);
        out.model_len = n as u32;
        Ok(())
    })
}

unsafe extern "C" fn supports(d: *mut c_void, raw: *const RawOp) -> Status {
    guard(|| {
        // SAFETY: the caller passes a live device and op.
        let (device, op) = unsafe { (device(d), op(raw)?) };
        let refused = |why: crate::Unsupported| crate::device::refused(&**device, &op, why);
        device.supports(&op).map_err(refused)
    })
}

unsafe extern "C" fn alloc(d: *mut c_void, bytes: u64, out: *mut u64) -> Status {
    guard(|| {
        // SAFETY: the caller passes a live device and a place for the address.
        unsafe { *out = device(d).alloc(bytes as usize)?.0 };
        Ok(())
    })
}

unsafe extern "C" fn free(d: *mut c_void, addr: u64, bytes: u64) {
    // SAFETY: the caller got the address from `alloc(bytes)` of this device.
    quietly(|| unsafe { device(d).free(Addr(addr), bytes as usize) });
}

unsafe extern "C" fn stream(d: *mut c_void, out: *mut *mut c_void) -> Status {
    guard(|| {
        // SAFETY: the caller passes a live device.
        let stream: StreamBox = Box::new(unsafe { device(d) }.stream()?);
        // SAFETY: the caller gives a place for the handle.
        unsafe { *out = Box::into_raw(stream).cast() };
        Ok(())
    })
}

unsafe extern "C" fn launch(s: *mut c_void, raw: *const RawOp) -> Status {
    // SAFETY: the caller passes a live stream and op and keeps the promises of `Stream::launch`.
    guard(|| unsafe { stream_of(s).launch(&op(raw)?) })
}

unsafe extern "C" fn upload(s: *mut c_void, src: *const u8, dst: u64, bytes: u64) -> Status {
    guard(|| {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller passes a live stream and so many readable bytes.
        unsafe { stream_of(s).upload(std::slice::from_raw_parts(src, bytes as usize), Addr(dst)) }
    })
}

unsafe extern "C" fn download(s: *mut c_void, src: u64, dst: *mut u8, bytes: u64) -> Status {
    guard(|| {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller passes a live stream and so many writable bytes, kept until the next sync.
        unsafe { stream_of(s).download(Addr(src), std::slice::from_raw_parts_mut(dst, bytes as usize)) }
    })
}

unsafe extern "C" fn sync(s: *mut c_void) -> Status {
    // SAFETY: the caller passes a live stream.
    guard(|| unsafe { stream_of(s) }.sync())
}

unsafe extern "C" fn drop_stream(s: *mut c_void) {
    // SAFETY: made by `stream` and used for the last time.
    quietly(|| drop(unsafe { StreamBox::from_raw(s.cast()) }));
}

unsafe extern "C" fn drop_device(d: *mut c_void) {
    // SAFETY: made by `open` and used for the last time.
    quietly(|| drop(unsafe { DeviceBox::from_raw(d.cast()) }));
}

unsafe extern "C" fn error(buffer: *mut u8, len: u64) -> u64 {
    let copied = LAST.try_with(|last| {
        let last = last.borrow();
        let n = last.len().min(len as usize);
        // SAFETY: the caller gives `len` writable bytes.
        unsafe { std::ptr::copy_nonoverlapping(last.as_ptr(), buffer, n) };
        n as u64
    });
    copied.unwrap_or(0)
}
