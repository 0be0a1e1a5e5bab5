//! One card: its context, the kernels loaded into it, raw memory, and what it can run.

use super::{blas::Library, failed, ops, stream::CudaStream};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use lm_saes_kernels::cuda::IMAGES;
use lm_saes_runtime::{Addr, Device, DeviceInfo, Error, Op, Result, Stream, Unsupported};
use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::Arc,
};

/// What `cuMemAlloc` aligns to.
const ALIGNMENT: usize = 256;
/// The kernels are compiled for Ampere and newer.
const OLDEST: (i32, i32) = (8, 0);

/// A card in use.
pub(super) struct CudaDevice(Arc<Card>);

/// What a card's streams share.
pub(super) struct Card {
    pub(super) info: DeviceInfo,
    pub(super) context: Arc<CudaContext>,
    /// Bytes of shared memory a block may ask for.
    pub(super) shared: u64,
    /// Multiprocessors.
    pub(super) processors: u64,
    /// cuBLASLt, where it is installed.
    pub(super) library: Option<Library>,
    modules: Modules,
}

/// Loaded modules and their kernels by name.
struct Modules {
    handles: Vec<sys::CUmodule>,
    kernels: HashMap<String, sys::CUfunction>,
}

// SAFETY: the handles belong to the context, not to a thread, and the driver may be called with them from any thread.
unsafe impl Send for Modules {}
// SAFETY: as for `Send`; they are never changed after loading.
unsafe impl Sync for Modules {}

impl CudaDevice {
    pub(super) fn open(index: usize) -> Result<Self> {
        let name = format!("cuda:{index}");
        let error = |call| failed(&name, call);
        let context = CudaContext::new(index).map_err(error("cuDevicePrimaryCtxRetain"))?;
        let capability = context.compute_capability().map_err(error("cuDeviceGetAttribute"))?;
        let model = context.name().map_err(error("cuDeviceGetName"))?;
        if capability < OLDEST {
            let available = format!(
                "{model} has compute capability {}.{}; {}.{} or newer is needed",
                capability.0, capability.1, OLDEST.0, OLDEST.1
            );
            return Err(Error::NoDevice { name, available });
        }
        use sys::CUdevice_attribute as Attribute;
        let attribute =
            |a| context.attribute(a).map(|v| v.max(0) as u64).map_err(error("cuDeviceGetAttribute"));
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
        let memory = context.total_mem().map_err(error("cuDeviceTotalMem"))? as u64;
        let modules = Modules::load(shared).map_err(|(call, e)| failed(&name, call)(e))?;
        let library = Library::open(&name)?;
        let model = format!(
            "{model} (compute capability {}.{}, {})",
            capability.0,
            capability.1,
            Library::describe(library.as_ref())
        );
        let info = DeviceInfo { name, model, memory, alignment: ALIGNMENT, deterministic: true };
        Ok(Self(Arc::new(Card { info, context, shared, processors, library, modules })))
    }
}

impl Modules {
    /// Loads every image into the current context and lets its kernels ask for all of the shared memory there is.
    fn load(shared: u64) -> Result<Self, (&'static str, DriverError)> {
        let mut modules = Self { handles: Vec::new(), kernels: HashMap::new() };
        for (_, ptx) in IMAGES {
            let image = CString::new(*ptx).expect("PTX is text without nul");
            // SAFETY: the image is nul-terminated PTX; the context was made current by the caller.
            let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
            let module = module.map_err(|e| ("cuModuleLoadData", e))?;
            modules.handles.push(module);
            for name in entries(ptx) {
                let symbol = CString::new(name).expect("a kernel name is text without nul");
                // SAFETY: the module was just loaded.
                let kernel = unsafe { result::module::get_function(module, symbol) };
                let kernel = kernel.map_err(|e| ("cuModuleGetFunction", e))?;
                if !ptx_is_static(ptx) {
                    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    // A kernel's own static arrays count against the limit too.
                    let bytes = shared.saturating_sub(STATIC_SHARED) as i32;
                    // SAFETY: the kernel belongs to a loaded module.
                    unsafe { result::function::set_function_attribute(kernel, most, bytes) }
                        .map_err(|e| ("cuFuncSetAttribute", e))?;
                }
                modules.kernels.insert(name.into(), kernel);
            }
        }
        Ok(modules)
    }
}

/// Room left for static shared arrays of kernels that also ask for dynamic ones.
pub(super) const STATIC_SHARED: u64 = 16 << 10;

/// Names of the kernels in a PTX text.
fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next())
}

/// Whether no kernel of the text asks for shared memory at launch.
fn ptx_is_static(ptx: &str) -> bool {
    !ptx.contains(".extern .shared")
}

impl Drop for Card {
    fn drop(&mut self) {
        // A failure here was reported by the call that met it.
        let _ = self.context.bind_to_thread();
        for &module in &self.modules.handles {
            // SAFETY: loaded by this card, and its streams, which hold the card, have ended.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

impl Card {
    /// A kernel by name.
    pub(super) fn kernel(&self, name: &'static str) -> Result<sys::CUfunction> {
        self.modules.kernels.get(name).copied().ok_or_else(|| Error::Driver {
            device: self.info.name.clone(),
            call: "cuModuleGetFunction",
            code: 500,
            text: format!("the compiled kernels have no {name}"),
        })
    }

    /// Makes the card's context current on this thread.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed(&self.info.name, "cuCtxSetCurrent"))
    }

    /// Raw memory.
    pub(super) fn alloc(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the context is current; contents are undefined, which callers are told.
        unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Error::OutOfMemory { device: self.info.name.clone(), asked: bytes, what: "a tensor".into() }
            }
            _ => failed(&self.info.name, "cuMemAlloc")(e),
        })
    }

    /// # Safety
    /// `addr` came from [`Card::alloc`] and no queued work uses it.
    pub(super) unsafe fn free(&self, addr: u64) {
        if self.bind().is_ok() {
            // SAFETY: as the caller promises. A failure means the context is broken, which other calls report.
            let _ = unsafe { result::free_sync(addr) };
        }
    }
}

// SAFETY: `cuMemAlloc` gives memory of at least this size and alignment, valid until `cuMemFree`.
unsafe impl Device for CudaDevice {
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
        // SAFETY: as the caller promises.
        unsafe { self.0.free(addr.0) }
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(CudaStream::new(&self.0)?))
    }
}
