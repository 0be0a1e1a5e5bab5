//! The program's side of a plugin: a table as a [`Backend`].

use super::{ABI, Calls, RawInfo, RawOp, SYMBOL, Status, Table};
use crate::{Addr, Backend, Device, DeviceInfo, Error, Op, Result, Stream, Unsupported};
use std::{
    ffi::{CStr, c_void},
    path::Path,
    ptr::null_mut,
    sync::Arc,
};

/// Loads a back end from a shared library. This runs the library's code with all rights of the program: load only files you
/// trust. The library stays loaded for ever, because code and thread-locals of an unloaded one may still be in use.
///
/// # Errors
/// [`Error::Plugin`] when the file cannot be loaded, exports no table, or its table is of another version.
pub fn load(path: &Path) -> Result<Box<dyn Backend>> {
    let bad = |what: String| Error::Plugin { path: path.display().to_string(), what };
    // SAFETY: the user vouches for the library by naming it; that its initialisers behave cannot be checked.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| bad(chain(&e)))?;
    let library = Box::leak(Box::new(library));
    // SAFETY: the symbol is reserved for functions of this type.
    let entry = unsafe { library.get::<unsafe extern "C" fn() -> *const Table>(SYMBOL) };
    let entry = entry.map_err(|e| bad(format!("it exports no {SYMBOL}: {}", chain(&e))))?;
    // SAFETY: the entry takes nothing, and what it returns is checked and never unloaded.
    unsafe { from_table(entry()) }.map_err(bad)
}

/// An error with its causes: the loader's reason is in the last one.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

/// A back end from a table in this process; the error says what is wrong with the table.
///
/// # Safety
/// `table` is null or points to a table as [`Table`] describes it, its `size` bytes and functions valid for ever.
pub unsafe fn from_table(table: *const Table) -> Result<Box<dyn Backend>, String> {
    if table.is_null() {
        return Err("it returned no table".into());
    }
    // SAFETY: the two numbers come first in every version.
    let (abi, size) = unsafe { ((&raw const (*table).abi).read(), (&raw const (*table).size).read()) };
    if abi != ABI || (size as usize) < size_of::<Table>() {
        let ours = size_of::<Table>();
        return Err(format!(
            "its table is version {abi} of {size} bytes; this program needs {ABI} of {ours}"
        ));
    }
    // SAFETY: it is at least as large as this program's, and valid for ever.
    let table = unsafe { &*table };
    let calls = table.calls().map_err(|missing| format!("its table lacks {missing}"))?;
    if table.name.is_null() {
        return Err("it has no name".into());
    }
    // SAFETY: the rules ask for a nul-terminated name valid for ever.
    let name = unsafe { CStr::from_ptr(table.name) }.to_string_lossy().into_owned();
    if name.is_empty() || name.contains(':') {
        return Err(format!("{name:?} cannot name a back end"));
    }
    Ok(Box::new(Plugin { calls, name }))
}

struct Plugin {
    calls: Calls,
    name: String,
}

/// A device handle, ended after the last stream.
struct Handle {
    calls: Calls,
    device: *mut c_void,
    name: String,
}

// SAFETY: the table's rules ask for functions callable from any thread; the handle is only passed to them.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and no stream is left.
        unsafe { (self.calls.drop_device)(self.device) }
    }
}

struct PluginDevice {
    handle: Arc<Handle>,
    info: DeviceInfo,
}

struct PluginStream {
    handle: Arc<Handle>,
    stream: *mut c_void,
}

// SAFETY: a stream may move to another thread between calls by the table's rules.
unsafe impl Send for PluginStream {}

/// The calling thread's last error.
fn text(calls: &Calls) -> String {
    let mut buffer = [0u8; 512];
    // SAFETY: the buffer has the length given.
    let n = unsafe { (calls.error)(buffer.as_mut_ptr(), buffer.len() as u64) };
    String::from_utf8_lossy(&buffer[..(n as usize).min(buffer.len())]).into_owned()
}

fn check(calls: &Calls, device: &str, call: &'static str, status: Status) -> Result<()> {
    match status {
        Status::OK => Ok(()),
        Status(code) => Err(Error::Driver { device: device.into(), call, code, text: text(calls) }),
    }
}

fn raw(op: &Op) -> RawOp {
    let (payload, size) = op.payload();
    RawOp { tag: op.tag(), size: size as u32, payload }
}

impl Backend for Plugin {
    fn name(&self) -> &str {
        &self.name
    }

    fn count(&self) -> usize {
        // SAFETY: a plain call of the table.
        unsafe { (self.calls.count)() as usize }
    }

    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        let (calls, name) = (self.calls, format!("{}:{index}", self.name));
        let mut device = null_mut();
        // SAFETY: the place for the handle is live.
        let status = unsafe { (calls.open)(index as u32, &mut device) };
        check(&calls, &name, "open", status)?;
        let handle = Arc::new(Handle { calls, device, name: name.clone() });
        let mut info = RawInfo { memory: 0, alignment: 0, deterministic: 0, model_len: 0, model: [0; 128] };
        // SAFETY: the device is open and `info` is live.
        let status = unsafe { (calls.info)(device, &mut info) };
        check(&calls, &name, "info", status)?;
        let alignment = info.alignment as usize;
        if !alignment.is_power_of_two() {
            let what = format!("device {name} aligns to {alignment}, which is no power of two");
            return Err(Error::Plugin { path: self.name.clone(), what });
        }
        let model = &info.model[..(info.model_len as usize).min(info.model.len())];
        let info = DeviceInfo {
            name,
            model: String::from_utf8_lossy(model).into_owned(),
            memory: info.memory,
            alignment,
            deterministic: info.deterministic == 1,
        };
        Ok(Arc::new(PluginDevice { handle, info }))
    }
}

// SAFETY: the table's rules for `alloc` are this trait's; acceptance is by the conformance table.
unsafe impl Device for PluginDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, op: &Op) -> Result<(), Unsupported> {
        let calls = &self.handle.calls;
        // SAFETY: the device is open; the payload lives during the call.
        match unsafe { (calls.supports)(self.handle.device, &raw(op)) } {
            Status::OK => Ok(()),
            _ => Err(Unsupported::because(text(calls))),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Addr> {
        let (calls, name) = (&self.handle.calls, &self.handle.name);
        let mut addr = 0;
        // SAFETY: the device is open and the place for the address is live.
        match unsafe { (calls.alloc)(self.handle.device, bytes as u64, &mut addr) } {
            Status::OUT_OF_MEMORY => {
                Err(Error::OutOfMemory { device: name.clone(), asked: bytes, what: "an allocation".into() })
            }
            status => check(calls, name, "alloc", status).map(|()| Addr(addr)),
        }
    }

    unsafe fn free(&self, addr: Addr, bytes: usize) {
        // SAFETY: the caller got the address from `alloc(bytes)` of this device.
        unsafe { (self.handle.calls.free)(self.handle.device, addr.0, bytes as u64) }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let (calls, name) = (&self.handle.calls, &self.handle.name);
        let mut stream = null_mut();
        // SAFETY: the device is open and the place for the handle is live.
        let status = unsafe { (calls.stream)(self.handle.device, &mut stream) };
        check(calls, name, "stream", status)?;
        Ok(Box::new(PluginStream { handle: self.handle.clone(), stream }))
    }
}

impl PluginStream {
    fn check(&self, call: &'static str, status: Status) -> Result<()> {
        check(&self.handle.calls, &self.handle.name, call, status)
    }
}

// SAFETY: the table's rules for transfers are this trait's.
unsafe impl Stream for PluginStream {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        let Handle { calls, name, .. } = &*self.handle;
        // SAFETY: the stream is open, the payload lives during the call, and the caller vouches for the op's operands.
        match unsafe { (calls.launch)(self.stream, &raw(op)) } {
            Status::FAILED => Err(Error::Failed { device: name.clone(), op: op.name(), what: text(calls) }),
            Status::UNSUPPORTED => {
                Err(Error::Unsupported { device: name.clone(), op: op.name(), why: text(calls) })
            }
            status => self.check("launch", status),
        }
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: the stream is open and the caller gives as many bytes at `dst`.
        let status =
            unsafe { (self.handle.calls.upload)(self.stream, src.as_ptr(), dst.0, src.len() as u64) };
        self.check("upload", status)
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: the stream is open, `src` has as many bytes, and the caller keeps `dst` until the next sync.
        let status =
            unsafe { (self.handle.calls.download)(self.stream, src.0, dst.as_mut_ptr(), dst.len() as u64) };
        self.check("download", status)
    }

    fn sync(&mut self) -> Result<()> {
        // SAFETY: the stream is open.
        let status = unsafe { (self.handle.calls.sync)(self.stream) };
        self.check("sync", status)
    }
}

impl Drop for PluginStream {
    fn drop(&mut self) {
        // SAFETY: made by `stream` and not used again; the device outlives it through the handle.
        unsafe { (self.handle.calls.drop_stream)(self.stream) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::export;
    use super::*;
    use crate::op::Fill;

    /// Opens device 0; panics on device 1; knows no ops.
    struct Clumsy;

    impl Backend for Clumsy {
        fn name(&self) -> &str {
            "clumsy"
        }
        fn count(&self) -> usize {
            2
        }
        fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
            assert!(index == 0, "device {index} is broken");
            Ok(Arc::new(Bare(DeviceInfo {
                name: "clumsy:0".into(),
                model: "é".repeat(200),
                memory: 7,
                alignment: 32,
                deterministic: true,
            })))
        }
    }

    struct Bare(DeviceInfo);

    // SAFETY: it hands out no memory.
    unsafe impl Device for Bare {
        fn info(&self) -> &DeviceInfo {
            &self.0
        }
        fn supports(&self, _: &Op) -> Result<(), Unsupported> {
            Err(Unsupported::because("nothing works here"))
        }
        fn alloc(&self, bytes: usize) -> Result<Addr> {
            Err(Error::OutOfMemory { device: "clumsy:0".into(), asked: bytes, what: "anything".into() })
        }
        unsafe fn free(&self, _: Addr, _: usize) {}
        fn stream(&self) -> Result<Box<dyn Stream>> {
            Err(Error::Driver { device: "x".into(), call: "stream", code: 9, text: "no streams".into() })
        }
    }

    fn clumsy() -> *const Table {
        export::table(|| Box::new(Clumsy), c"clumsy")
    }

    fn opened() -> Arc<dyn Device> {
        // SAFETY: the table is this process's own.
        let backend = unsafe { from_table(clumsy()) }.expect("a valid table");
        assert_eq!((backend.name(), backend.count()), ("clumsy", 2));
        backend.open(0).expect("device 0 opens")
    }

    fn fill() -> Op {
        let y = crate::op::Mat::NONE;
        Op::Fill(Fill { y, value: 1.0 })
    }

    #[test]
    fn a_device_is_described_through_the_table() {
        let device = opened();
        let info = device.info();
        assert_eq!((info.name.as_str(), info.memory, info.alignment), ("clumsy:0", 7, 32));
        assert_eq!(info.model, "é".repeat(64), "long names are cut");
    }

    #[test]
    fn refusals_and_errors_arrive_with_their_text() {
        let device = opened();
        assert_eq!(device.supports(&fill()), Err(Unsupported::because("nothing works here")));
        assert!(matches!(device.alloc(5), Err(Error::OutOfMemory { asked: 5, .. })));
        let error = device.stream().err().expect("no streams").to_string();
        assert!(error.contains("no streams"), "{error}");
    }

    #[test]
    fn a_panic_ends_at_the_table() {
        // SAFETY: the table is this process's own.
        let backend = unsafe { from_table(clumsy()) }.expect("a valid table");
        let error = backend.open(1).err().expect("it panics").to_string();
        assert!(error.contains("panicked: device 1 is broken"), "{error}");
    }

    #[test]
    fn ops_of_another_version_are_unsupported() {
        let _device = opened();
        // SAFETY: `clumsy` is a valid table.
        let calls = unsafe { &*clumsy() }.calls().expect("all functions");
        let mut device = null_mut();
        // SAFETY: the place for the handle is live.
        assert_eq!(unsafe { (calls.open)(0, &mut device) }, Status::OK);
        let known = fill();
        let unknown_tag = RawOp { tag: 9999, ..raw(&known) };
        let longer = RawOp { size: raw(&known).size + 8, ..raw(&known) };
        for op in [unknown_tag, longer] {
            // SAFETY: the device is open; the payload is not read for a tag or size nobody defines.
            assert_eq!(unsafe { (calls.supports)(device, &op) }, Status::UNSUPPORTED);
            assert!(text(&calls).contains("newer than the plugin"), "{}", text(&calls));
        }
        // SAFETY: opened above, used for the last time.
        unsafe { (calls.drop_device)(device) };
    }

    #[test]
    fn tables_of_another_version_or_with_holes_are_refused() {
        // SAFETY: a valid table, copied field by field because it is plain data.
        let copy = || unsafe { std::ptr::read(clumsy()) };
        let cases = [
            (Table { abi: 2, ..copy() }, "version 2"),
            (Table { size: 16, ..copy() }, "of 16 bytes"),
            (Table { sync: None, ..copy() }, "lacks sync"),
            (Table { name: std::ptr::null(), ..copy() }, "no name"),
            (Table { name: c"a:b".as_ptr(), ..copy() }, "cannot name a back end"),
        ];
        for (table, expected) in cases {
            // SAFETY: it lives until after the call, which refuses it.
            let error = unsafe { from_table(&table) }.err().expect(expected);
            assert!(error.contains(expected), "{error}");
        }
        // SAFETY: null is refused.
        assert!(unsafe { from_table(std::ptr::null()) }.is_err());
    }
}
