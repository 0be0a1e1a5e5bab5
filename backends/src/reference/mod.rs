//! The scalar reference: every op in the simplest code that follows its contract, with f64 accumulation, on host memory,
//! inline. It is slow and meant to be believed by reading; every other device, the fast CPU too, is tested against it.
//! Operand access is in `host`; the ops are in `attention`, `dense`, `select`, `sparse` and `train`.

mod attention;
mod dense;
mod host;
mod select;
mod sparse;
mod train;

use host::Live;
use lm_saes_runtime::{
    Act, Addr, Backend, Device, DeviceInfo, Error, MapKind, Op, PenaltyKind, RandomKind, ReduceKind, Result,
    Stream, Unsupported,
};
use std::{
    alloc::{Layout, alloc, dealloc},
    sync::Arc,
};

/// What an op reports: nothing, or what it found outside its contract.
type Outcome = std::result::Result<(), String>;

const NAME: &str = "reference:0";
const ALIGNMENT: usize = 64;

/// The reference back end; always one device.
pub struct Reference;

impl Backend for Reference {
    fn name(&self) -> &str {
        "reference"
    }
    fn count(&self) -> usize {
        1
    }
    fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
        Ok(device())
    }
}

/// Opens the reference device.
pub fn device() -> Arc<dyn Device> {
    Arc::new(Scalar {
        info: DeviceInfo {
            name: NAME.into(),
            model: "scalar Rust, f64 accumulation".into(),
            memory: 0,
            alignment: ALIGNMENT,
            deterministic: true,
        },
    })
}

struct Scalar {
    info: DeviceInfo,
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()
}

// SAFETY: `alloc` asks the global allocator for exactly this size and alignment, which stay valid until `dealloc`.
unsafe impl Device for Scalar {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, op: &Op) -> Result<(), Unsupported> {
        let known = match op {
            Op::Gemm(o) => Act::ALL.iter().any(|(k, _)| *k == o.act),
            Op::Map(o) => MapKind::ALL.iter().any(|(k, _)| *k == o.kind),
            Op::Reduce(o) => ReduceKind::ALL.iter().any(|(k, _)| *k == o.kind),
            Op::Penalty(o) => PenaltyKind::ALL.iter().any(|(k, _)| *k == o.kind),
            Op::Random(o) => RandomKind::ALL.iter().any(|(k, _)| *k == o.kind),
            _ => true,
        };
        if known { Ok(()) } else { Err(Unsupported::because("a kind this version does not define")) }
    }

    fn alloc(&self, bytes: usize) -> Result<Addr> {
        let fail = || Error::OutOfMemory { device: NAME.into(), asked: bytes, what: "an allocation".into() };
        let layout = layout(bytes).ok_or_else(fail)?;
        // SAFETY: the layout has a non-zero size.
        let p = unsafe { alloc(layout) };
        if p.is_null() { Err(fail()) } else { Ok(Addr(p as u64)) }
    }

    unsafe fn free(&self, addr: Addr, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: the caller got `addr` from `alloc(bytes)`, which used this same layout.
            unsafe { dealloc(addr.0 as *mut u8, layout) }
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Inline))
    }
}

struct Inline;

// SAFETY: both copies are finished when the calls return.
unsafe impl Stream for Inline {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        // SAFETY: the caller vouches for every address in `op` for the time of this call.
        let live = unsafe { Live::assume() };
        run(live, op).map_err(|what| Error::Failed { device: NAME.into(), op: op.name(), what })
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: the caller gives `src.len()` bytes at `dst`; host and tensor memory are different allocations.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.0 as *mut u8, src.len()) }
        Ok(())
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(src.0 as *const u8, dst.as_mut_ptr(), dst.len()) }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

fn run(m: Live, op: &Op) -> Outcome {
    match op {
        Op::Gemm(o) => dense::gemm(m, o),
        Op::Fill(o) => dense::fill(m, o),
        Op::Copy(o) => dense::copy(m, o),
        Op::Gather(o) => dense::gather(m, o),
        Op::Map(o) => dense::map(m, o),
        Op::Reduce(o) => dense::reduce(m, o),
        Op::Norm(o) => dense::norm(m, o),
        Op::CrossEntropy(o) => dense::cross_entropy(m, o),
        Op::Rope(o) => dense::rope(m, o),
        Op::Attention(o) => attention::attention(m, o),
        Op::AttentionGrad(o) => attention::attention_grad(m, o),
        Op::TopK(o) => select::topk(m, o),
        Op::Threshold(o) => select::threshold(m, o),
        Op::Compact(o) => select::compact(m, o),
        Op::Gate(o) => select::gate(m, o),
        Op::GateGrad(o) => select::gate_grad(m, o),
        Op::Penalty(o) => train::penalty(m, o),
        Op::ThresholdPenalty(o) => train::threshold_penalty(m, o),
        Op::SparseMul(o) => sparse::mul(m, o),
        Op::Confine(o) => sparse::confine(m, o),
        Op::Scatter(o) => sparse::scatter(m, o),
        Op::SparseDot(o) => sparse::dot(m, o),
        Op::SortByColumn(o) => sparse::sort_by_column(m, o),
        Op::SparseOuter(o) => sparse::outer(m, o),
        Op::Activity(o) => train::activity(m, o),
        Op::Age(o) => train::age(m, o),
        Op::Adam(o) => train::adam(m, o),
        Op::Random(o) => train::random(m, o),
    }
}
