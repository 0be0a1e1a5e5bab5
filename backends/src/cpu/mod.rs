//! The CPU as a device: host memory, a stream that runs every op before `launch` returns, and the dispatch of ops to the
//! adapters in `dense`, `select`, `sparse` and `train`, which turn op structs into calls of `lm_saes_kernels::cpu`.

mod dense;
mod select;
mod sparse;
mod train;

use lm_saes_kernels::cpu::{Isa, Rows};
use lm_saes_runtime::op::Mat;
use lm_saes_runtime::{Addr, Backend, Device, DeviceInfo, Error, Op, Result, Stream, Unsupported};
use std::alloc::Layout;
use std::sync::Arc;

/// Bytes every allocation is aligned to: one cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// The host processor, always present, one device.
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }
    fn count(&self) -> usize {
        1
    }
    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        if index > 0 {
            return Err(Error::NoDevice { name: format!("cpu:{index}"), available: "cpu:0".into() });
        }
        Ok(Arc::new(CpuDevice { info: info() }))
    }
}

fn info() -> DeviceInfo {
    let processor =
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024);
    DeviceInfo {
        name: "cpu:0".into(),
        model: format!("{processor} ({})", Isa::best().name()),
        memory,
        alignment: ALIGNMENT,
        deterministic: true,
    }
}

/// The value of the first `key : value` line of a file of the proc file system, where there is one.
fn field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

struct CpuDevice {
    info: DeviceInfo,
}

/// Size of a large page, where pages can be large.
const LARGE_PAGE: usize = 2 << 20;

fn layout(bytes: usize) -> Option<Layout> {
    let align = if bytes >= 2 * LARGE_PAGE { LARGE_PAGE } else { ALIGNMENT };
    // An empty tensor still needs an address other than 0, which means "no operand".
    Layout::from_size_align(bytes.max(1).checked_next_multiple_of(ALIGNMENT)?, align).ok()
}

/// Asks for large pages under a big allocation: gathers from matrices of many megabytes otherwise miss the address
/// translation cache on almost every row.
fn advise_large_pages(ptr: *mut u8, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.align() == LARGE_PAGE {
        unsafe extern "C" {
            fn madvise(
                addr: *mut std::ffi::c_void,
                length: usize,
                advice: std::ffi::c_int,
            ) -> std::ffi::c_int;
        }
        const MADV_HUGEPAGE: std::ffi::c_int = 14;
        // SAFETY: the range was just allocated and is aligned to pages. This is a hint: without it memory works the same, so its
        // result does not matter.
        unsafe { madvise(ptr.cast(), layout.size(), MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (ptr, layout);
}

// SAFETY: `alloc` hands out memory of the global allocator with `ALIGNMENT`, valid until `free`.
unsafe impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, op: &Op) -> Result<(), Unsupported> {
        match op {
            Op::Gemm(_)
            | Op::Fill(_)
            | Op::Copy(_)
            | Op::Gather(_)
            | Op::Map(_)
            | Op::Reduce(_)
            | Op::Norm(_)
            | Op::CrossEntropy(_)
            | Op::Rope(_)
            | Op::Attention(_)
            | Op::AttentionGrad(_) => dense::supports(op),
            Op::Penalty(_) | Op::Random(_) => train::supports(op),
            _ => Ok(()),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Addr> {
        let layout = layout(bytes);
        let place = layout.and_then(|layout| {
            // SAFETY: the layout's size is at least ALIGNMENT.
            let ptr = unsafe { std::alloc::alloc(layout) };
            (!ptr.is_null()).then_some((ptr, layout))
        });
        let Some((ptr, layout)) = place else {
            return Err(Error::OutOfMemory {
                device: self.info.name.clone(),
                asked: bytes,
                what: "a tensor".into(),
            });
        };
        advise_large_pages(ptr, layout);
        Ok(Addr(ptr as u64))
    }

    unsafe fn free(&self, addr: Addr, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: `addr` came from `alloc(bytes)`, which used this layout.
            unsafe { std::alloc::dealloc(addr.0 as *mut u8, layout) }
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Inline))
    }
}

/// Runs everything at once; there is nothing to wait for.
struct Inline;

// SAFETY: both copies are complete when the call returns.
unsafe impl Stream for Inline {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        // SAFETY: the caller vouches for every address and shape of the op.
        let done = unsafe {
            match op {
                Op::Gemm(op) => dense::gemm(op),
                Op::Fill(op) => dense::fill(op),
                Op::Copy(op) => dense::copy(op),
                Op::Gather(op) => dense::gather(op),
                Op::Map(op) => dense::map(op),
                Op::Reduce(op) => dense::reduce(op),
                Op::Norm(op) => dense::norm(op),
                Op::CrossEntropy(op) => dense::cross_entropy(op),
                Op::Rope(op) => dense::rope(op),
                Op::Attention(op) => dense::attention(op),
                Op::AttentionGrad(op) => dense::attention_grad(op),
                Op::TopK(op) => select::top_k(op),
                Op::Threshold(op) => select::threshold(op),
                Op::Compact(op) => select::compact(op),
                Op::Gate(op) => select::gate(op),
                Op::GateGrad(op) => select::gate_grad(op),
                Op::SparseMul(op) => sparse::sparse_mul(op),
                Op::Scatter(op) => sparse::scatter(op),
                Op::Confine(op) => sparse::confine(op),
                Op::SparseDot(op) => sparse::sparse_dot(op),
                Op::SortByColumn(op) => sparse::sort_by_column(op),
                Op::SparseOuter(op) => sparse::sparse_outer(op),
                Op::Activity(op) => sparse::activity(op),
                Op::Age(op) => sparse::age(op),
                Op::Penalty(op) => train::penalty(op),
                Op::ThresholdPenalty(op) => train::threshold_penalty(op),
                Op::Adam(op) => train::adam(op),
                Op::Random(op) => train::random(op),
            }
        };
        done.map_err(|what| Error::Failed { device: "cpu:0".into(), op: op.name(), what })
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: `dst` has `src.len()` bytes, and device memory never overlaps a borrowed host slice.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.0 as *mut u8, src.len()) }
        Ok(())
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: `src` has `dst.len()` bytes, and device memory never overlaps a borrowed host slice.
        unsafe { std::ptr::copy_nonoverlapping(src.0 as *const u8, dst.as_mut_ptr(), dst.len()) }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A matrix as the kernels see it.
///
/// # Safety
/// The operand is present, live, and its elements are `T`.
unsafe fn rows<T>(m: &Mat) -> Rows<T> {
    // SAFETY: as the caller promises.
    unsafe { Rows::new(m.addr.0 as *mut T, m.rows as usize, m.cols as usize, m.ld as usize) }
}

/// An optional matrix as the kernels see it.
///
/// # Safety
/// As [`rows`], where present.
unsafe fn rows_opt<T>(m: &Mat) -> Option<Rows<T>> {
    // SAFETY: as the caller promises.
    m.is_some().then(|| unsafe { rows(m) })
}

/// A `[1, n]` or contiguous operand as a slice.
///
/// # Safety
/// As [`rows`]; the memory is not written while the slice lives.
unsafe fn slice<'a, T>(m: &Mat) -> &'a [T] {
    debug_assert!(m.rows <= 1 || m.ld == m.cols);
    // SAFETY: the operand is live and contiguous.
    unsafe { std::slice::from_raw_parts(m.addr.0 as *const T, m.len() as usize) }
}

/// An optional `[1, n]` operand as a slice.
///
/// # Safety
/// As [`slice`], where present.
unsafe fn slice_opt<'a, T>(m: &Mat) -> Option<&'a [T]> {
    // SAFETY: as the caller promises.
    m.is_some().then(|| unsafe { slice(m) })
}

/// A `[1, n]` or contiguous operand as a mutable slice.
///
/// # Safety
/// As [`rows`]; nothing else reads or writes the memory while the slice lives.
unsafe fn slice_mut<'a, T>(m: &Mat) -> &'a mut [T] {
    debug_assert!(m.rows <= 1 || m.ld == m.cols);
    // SAFETY: the operand is live, contiguous and not shared.
    unsafe { std::slice::from_raw_parts_mut(m.addr.0 as *mut T, m.len() as usize) }
}

/// An optional `[1, n]` operand as a mutable slice.
///
/// # Safety
/// As [`slice_mut`], where present.
unsafe fn slice_mut_opt<'a, T>(m: &Mat) -> Option<&'a mut [T]> {
    // SAFETY: as the caller promises.
    m.is_some().then(|| unsafe { slice_mut(m) })
}
