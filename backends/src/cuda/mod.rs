//! NVIDIA GPUs through the driver API. The driver library is opened at run time: without one there are no devices and a reason
//! why. Memory and capabilities are in `device`, the ordered queue in `stream`, the launch of each op in `ops`; the kernels
//! are CUDA C++ in `kernels/cuda`, which tests also run on the CPU.

mod blas;
mod device;
pub mod nccl;
mod ops;
mod stage;
mod stream;

#[cfg(test)]
mod layout_tests;

use cudarc::driver::{CudaContext, DriverError, sys};
use lm_saes_runtime::{Backend, Device, Error, Result};
use std::sync::Arc;

/// The back end; zero devices where there is no driver or no card.
pub struct Cuda;

impl Backend for Cuda {
    fn name(&self) -> &str {
        "cuda"
    }
    fn count(&self) -> usize {
        cards().unwrap_or(0)
    }
    fn absence(&self) -> Option<String> {
        cards().err()
    }
    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        let name = format!("cuda:{index}");
        match cards() {
            Ok(n) if index < n => Ok(Arc::new(device::CudaDevice::open(index)?)),
            Ok(n) => Err(Error::NoDevice { name, available: format!("{n} CUDA devices") }),
            Err(why) => Err(Error::NoDevice { name, available: why }),
        }
    }
}

/// Number of cards, at least one, or why there is none. The bindings panic when the library is missing, so its presence is
/// asked for before anything else.
fn cards() -> std::result::Result<usize, String> {
    // SAFETY: opens the driver library and closes it again; its initialisers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err("the NVIDIA driver (libcuda.so.1) is not installed".into());
    }
    match CudaContext::device_count() {
        Ok(n) if n > 0 => Ok(n as usize),
        Ok(_) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err("the NVIDIA driver finds no card".into())
        }
        Err(e) => Err(format!("the NVIDIA driver does not start: {}", text(e))),
    }
}

/// What the driver says about a failure, in one line.
fn text(e: DriverError) -> String {
    let words = e.error_string().ok().map(|s| s.to_string_lossy().into_owned());
    words.unwrap_or_else(|| format!("error {}", e.0 as i32))
}

/// A failed driver call as the runtime's error.
fn failed(device: &str, call: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Driver { device: device.into(), call, code: e.0 as i32, text: text(e) }
}
