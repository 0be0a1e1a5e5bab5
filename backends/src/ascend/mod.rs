//! Ascend NPUs through CANN. Its libraries are opened at run time: without them there are no devices and a reason why. The
//! bindings in `sys` are generated from the project's own header (`backends/ascend`); `load` finds the libraries, `call` runs
//! operators, `ops` writes every op as one or several of them. What each op uses, on which chips, and how to try it on real
//! hardware is in `backends/README.md`.

mod call;
mod device;
mod hccl;
mod load;
mod ops;
mod scratch;
mod soc;
mod stage;
mod stream;
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, dead_code, nonstandard_style, unsafe_op_in_unsafe_fn)]
#[rustfmt::skip]
mod sys;
mod view;

pub(crate) use hccl::over as collectives_over;
use lm_saes_runtime::{Backend, Device, Error, Result};
use load::Api;
use std::sync::{Arc, OnceLock};

/// The back end; zero devices where CANN, its driver or an NPU is missing.
pub struct Ascend;

impl Backend for Ascend {
    fn name(&self) -> &str {
        "npu"
    }
    fn count(&self) -> usize {
        cards().unwrap_or(0)
    }
    fn absence(&self) -> Option<String> {
        cards().err()
    }
    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        let name = format!("npu:{index}");
        match (Api::get(), cards()) {
            (Ok(api), Ok(n)) if index < n => Ok(Arc::new(device::AscendDevice::open(api, index)?)),
            (_, Ok(n)) => Err(Error::NoDevice { name, available: format!("{n} Ascend NPUs") }),
            (_, Err(why)) => Err(Error::NoDevice { name, available: why }),
        }
    }
}

/// Number of NPUs, at least one, or why there is none.
fn cards() -> std::result::Result<usize, String> {
    let api = Api::get()?;
    initialise(api)?;
    let mut n = 0;
    let Some(count) = api.runtime(|f| &f.aclrtGetDeviceCount) else {
        return Err(api.missing("aclrtGetDeviceCount"));
    };
    // SAFETY: the place is written before the call returns.
    match unsafe { count(&mut n) } {
        0 if n > 0 => Ok(n as usize),
        0 => Err("CANN finds no Ascend NPU".into()),
        code => Err(format!("CANN finds no Ascend NPU: {}", text(api, "aclrtGetDeviceCount", code))),
    }
}

/// Starts ACL, once in a process. Another library of the process may have started it before; then it is not ours to finish.
fn initialise(api: &'static Api) -> std::result::Result<(), String> {
    static STARTED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let start = || {
        let Some(init) = api.runtime(|f| &f.aclInit) else { return Err(api.missing("aclInit")) };
        // SAFETY: no configuration file.
        match unsafe { init(std::ptr::null()) } {
            0 => {
                finish_at_exit();
                Ok(())
            }
            code if code.cast_unsigned() == sys::ACL_ERROR_REPEAT_INITIALIZE => Ok(()),
            code => Err(format!("CANN does not start: {}", text(api, "aclInit", code))),
        }
    };
    STARTED.get_or_init(start).clone()
}

/// Has ACL finished with when the process ends in order and every NPU has been given back.
fn finish_at_exit() {
    unsafe extern "C" {
        fn atexit(call: extern "C" fn()) -> std::ffi::c_int;
    }
    extern "C" fn finish() {
        let Ok(api) = Api::get() else { return };
        if device::all_closed()
            && let Some(finalize) = api.runtime(|f| &f.aclFinalize)
        {
            // SAFETY: started by this program; no device is in use any more.
            let _ = unsafe { finalize() };
        }
    }
    // SAFETY: the function lives as long as the program. Without room for it nothing is finished, which the system does anyway.
    let _ = unsafe { atexit(finish) };
}

/// A failed call in one line.
fn text(api: &Api, call: &'static str, code: i32) -> String {
    match device::failure(api, "", call, code) {
        Error::Driver { code, text, .. } => format!("{call} failed with code {code}: {text}"),
        e => e.to_string(),
    }
}
