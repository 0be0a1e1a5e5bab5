//! An ordered queue of kernels and copies on one card, with its scratch memory, the record of the first failure a kernel met,
//! and recording into a CUDA graph.

use super::{
    blas::{self, Plans},
    device::Card,
    failed, ops,
    stage::Stage,
};
use cudarc::driver::{CudaGraph, result, sys};
use lm_saes_runtime::{Addr, Error, Graph, Op, Result, Stream, Unsupported};
use std::{ffi::c_void, sync::Arc};

/// `struct Failure` of kernels/cuda/ops.cuh: which op found what outside its contract.
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Failure {
    tag: u32,
    reserved: u32,
    value: u64,
    limit: u64,
}

/// Most blocks of a grid in its second and third dimension.
pub(super) const MOST: u64 = 65_535;
/// Smallest scratch allocation.
const SCRATCH: usize = 1 << 20;

/// The queue.
pub(super) struct CudaStream {
    pub(super) card: Arc<Card>,
    stream: Arc<cudarc::driver::CudaStream>,
    stage: Stage,
    failure: u64,
    scratch: (u64, usize),
    /// Smaller scratch of before, which recorded graphs may still name.
    retired: Vec<u64>,
    plans: Plans,
    recording: bool,
}

/// One kernel launch: grid, block, bytes of dynamic shared memory.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: (u64, u64, u64),
    pub(super) block: (u32, u32),
    pub(super) shared: u64,
}

impl Shape {
    /// `blocks` blocks in one dimension.
    pub(super) fn line(blocks: u64, threads: u32) -> Self {
        Self { grid: (blocks, 1, 1), block: (threads, 1), shared: 0 }
    }
}

/// Pointers to the parameters of a kernel, in order.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &mut [$(std::ptr::from_ref($arg).cast_mut().cast::<std::ffi::c_void>()),*] };
}
pub(super) use args;

impl CudaStream {
    pub(super) fn new(card: &Arc<Card>) -> Result<Self> {
        card.bind()?;
        let stream = card.context.new_stream().map_err(failed(&card.info.name, "cuStreamCreate"))?;
        let stage = Stage::new(card)?;
        let failure = card.alloc(size_of::<Failure>())?;
        let mut new = Self {
            card: card.clone(),
            stream,
            stage,
            failure,
            scratch: (0, 0),
            retired: Vec::new(),
            plans: Plans::default(),
            recording: false,
        };
        new.clear(failure, size_of::<Failure>() as u64)?;
        Ok(new)
    }

    fn error(&self, call: &'static str) -> impl Fn(cudarc::driver::DriverError) -> Error + use<'_> {
        failed(&self.card.info.name, call)
    }

    /// Where kernels record the first failure.
    pub(super) fn failure(&self) -> u64 {
        self.failure
    }

    /// Sets bytes to zero.
    pub(super) fn clear(&mut self, addr: u64, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: callers pass ranges of operands that the launch contract vouches for, or of this stream's own memory.
        unsafe { result::memset_d8_async(addr, 0, bytes as usize, self.stream.cu_stream()) }
            .map_err(self.error("cuMemsetD8Async"))
    }

    /// Scratch memory of at least `bytes`, the same for every op: work on one stream is in order. It grows by doubling, and
    /// outside of recording only; what it grew out of is kept, because queued work and recorded graphs name it.
    pub(super) fn scratch(&mut self, bytes: u64) -> Result<u64> {
        let bytes = bytes as usize;
        if bytes > self.scratch.1 {
            if self.recording {
                return Err(Error::Driver {
                    device: self.card.info.name.clone(),
                    call: "cuMemAlloc",
                    code: 0,
                    text: "scratch memory cannot grow while recording: run the sequence once before".into(),
                });
            }
            let size = bytes.max(SCRATCH).next_power_of_two();
            let grown = self.card.alloc(size)?;
            self.retired.push(self.scratch.0);
            self.scratch = (grown, size);
        }
        Ok(self.scratch.0)
    }

    fn drain(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream.cu_stream()) }
            .map_err(self.error("cuStreamSynchronize"))
    }

    /// Queues a kernel; nothing happens when the grid is empty.
    ///
    /// # Safety
    /// `args` point to values of the kernel's parameter types, and the memory they name is as the kernel expects.
    pub(super) unsafe fn fire(
        &mut self,
        kernel: &'static str,
        shape: Shape,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        let (x, y, z) = shape.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let too_large = || Error::Driver {
            device: self.card.info.name.clone(),
            call: "cuLaunchKernel",
            code: 1,
            text: format!("{kernel}: a grid of {x} × {y} × {z} blocks is larger than a card takes"),
        };
        if x > i32::MAX as u64 || y > MOST || z > MOST {
            return Err(too_large());
        }
        let grid = (x as u32, y as u32, z as u32);
        let block = (shape.block.0, shape.block.1, 1);
        let function = self.card.kernel(kernel)?;
        // SAFETY: as the caller promises; kernel and stream belong to this card.
        unsafe {
            result::launch_kernel(function, grid, block, shape.shared as u32, self.stream.cu_stream(), args)
        }
        .map_err(self.error("cuLaunchKernel"))
    }

    /// Queues the product without its activation by cuBLASLt; false where that does not take it.
    ///
    /// # Safety
    /// As [`Stream::launch`].
    pub(super) unsafe fn library_gemm(&mut self, op: &lm_saes_runtime::op::Gemm) -> Result<bool> {
        let card = self.card.clone();
        let Some(library) = card.library.as_ref().filter(|_| blas::takes(op)) else { return Ok(false) };
        let workspace = self.scratch(blas::WORKSPACE as u64)?;
        // SAFETY: as the caller promises; the scratch is this stream's and as large as asked for.
        unsafe { self.plans.run(&card, library, op, (workspace, self.stream.cu_stream().cast())) }
    }

    fn not_while_recording(&self, call: &'static str) -> Result<()> {
        if self.recording {
            let text = "not while recording".into();
            return Err(Error::Driver { device: self.card.info.name.clone(), call, code: 900, text });
        }
        Ok(())
    }
}

// SAFETY: `upload` copies `src` into pinned memory before it returns, `download` waits for its copies.
unsafe impl Stream for CudaStream {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        self.card.bind()?;
        // SAFETY: the caller vouches for addresses and shapes.
        unsafe { ops::launch(self, op) }
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        self.not_while_recording("cuMemcpyHtoDAsync")?;
        self.card.bind()?;
        // SAFETY: as the caller promises.
        unsafe { self.stage.upload(self.stream.cu_stream(), src, dst.0) }
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        self.not_while_recording("cuMemcpyDtoHAsync")?;
        self.card.bind()?;
        // SAFETY: as the caller promises.
        unsafe { self.stage.download(self.stream.cu_stream(), src.0, dst) }
    }

    fn sync(&mut self) -> Result<()> {
        self.not_while_recording("cuStreamSynchronize")?;
        self.card.bind()?;
        let mut failure = Failure::default();
        // SAFETY: the record has this size and lives as long as the stream.
        unsafe {
            let bytes = bytemuck::bytes_of_mut(&mut failure);
            self.stage.download(self.stream.cu_stream(), self.failure, bytes)?;
        }
        self.drain()?;
        if failure.tag == 0 {
            return Ok(());
        }
        self.clear(self.failure, size_of::<Failure>() as u64)?;
        let op = Op::NAMES.get(failure.tag as usize - 1).copied().unwrap_or("an op");
        let what = if op == "Compact" {
            format!("{} entries pass, there is room for {}", failure.value, failure.limit)
        } else {
            format!("index {} is not below {}", failure.value, failure.limit)
        };
        Err(Error::Failed { device: self.card.info.name.clone(), op, what })
    }

    fn native(&self) -> u64 {
        self.stream.cu_stream() as u64
    }

    fn begin_capture(&mut self) -> Result<(), Unsupported> {
        let refuse = |e: Error| Unsupported::because(e.to_string());
        self.card.bind().map_err(refuse)?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(self.error("cuStreamBeginCapture")).map_err(refuse)?;
        self.recording = true;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Box<dyn Graph>, Unsupported> {
        self.recording = false;
        let refuse = |e: Error| Unsupported::because(e.to_string());
        let graph = self
            .stream
            .end_capture(sys::CUgraphInstantiate_flags(0))
            .map_err(self.error("cuStreamEndCapture"))
            .map_err(refuse)?;
        let graph = graph.ok_or_else(|| Unsupported::because("nothing was recorded"))?;
        Ok(Box::new(Recorded { graph, device: self.card.info.name.clone() }))
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // A failure here was reported by the call that met it.
        let _ = self.card.bind();
        let _ = self.drain();
        for addr in self.retired.drain(..).chain([self.scratch.0, self.failure]).filter(|&a| a != 0) {
            // SAFETY: allocated by this stream, which is idle.
            unsafe { self.card.free(addr) }
        }
    }
}

/// A recorded graph; it launches on the stream that recorded it, which it keeps alive.
struct Recorded {
    graph: CudaGraph,
    device: String,
}

// SAFETY: the graph is used by its owner only, from one thread at a time.
unsafe impl Send for Recorded {}

impl Graph for Recorded {
    fn replay(&self, _: &mut dyn Stream) -> Result<()> {
        self.graph.launch().map_err(failed(&self.device, "cuGraphLaunch"))
    }
}
