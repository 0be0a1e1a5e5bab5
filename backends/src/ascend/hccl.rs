//! Collectives between NPUs by HCCL: data goes from device to device, behind what is queued and before what comes. The root from which
//! a communicator is made goes to the other ranks through the engine that connects the processes.
//!
//! Sums are not HCCL's: it adds in an order of its own, and in the type itself. Every rank is sent its segment of everybody's values,
//! adds them in the order of the ranks in f32, and what it got goes to all: as much data moves, and the bits are those of all engines.

use super::{
    device::{Card, acl, recent},
    ops::{self, BLOCK},
    stream::{AscendStream, Handle},
    sys::{
        HCCL_ROOT_INFO_BYTES, HcclComm, HcclDataType, HcclReduceOp, HcclResult, HcclRootInfo, aclDataType,
    },
    view::View,
};
use lm_saes_runtime::{Addr, Collective, Comm, DType, Error, Reduction, Result, Stream, op::Mat};
use std::{
    ffi::{CStr, c_void},
    ptr::null_mut,
    sync::{Arc, Weak},
};

const ROOT: usize = HCCL_ROOT_INFO_BYTES as usize;

/// Calls a function of HCCL by name: `Ok`, or its failure in words.
macro_rules! hccl {
    ($card:expr, $name:ident($($arg:expr),* $(,)?)) => {
        match $card.api.collective(|f| &f.$name) {
            Some(f) => check(&$card, stringify!($name), f($($arg),*)),
            None => Err($card.missing(stringify!($name))),
        }
    };
}

/// Turns a status into the runtime's error, with HCCL's name for it and what the driver says.
fn check(card: &Card, call: &'static str, code: HcclResult) -> Result<()> {
    if code == HcclResult::HCCL_SUCCESS {
        return Ok(());
    }
    let name = card.api.collective(|f| &f.HcclGetErrorString).map_or_else(String::new, |name| {
        // SAFETY: the answer is null or a constant string.
        unsafe {
            let text = name(code);
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    });
    let said = recent(card.api);
    let text = [name, said].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ");
    Err(Error::Driver { device: card.info.name.clone(), call, code: code.0 as i32, text })
}

/// Ranks that speak HCCL, and by what they are connected; streams that are no NPU's go on to `host`. With `LM_SAES_NPU_COMM=host` all data
/// does. A rank that has no HCCL is an error at the first collective.
///
/// # Errors
/// Another value of the variable.
pub(crate) fn over(host: Box<dyn Comm>) -> Result<(Box<dyn Comm>, String)> {
    match std::env::var("LM_SAES_NPU_COMM").as_deref() {
        Err(_) | Ok("" | "hccl") => Ok((Box::new(Hccl { host, end: None }), "HCCL between NPUs".into())),
        Ok("host") => Ok((host, "host memory (LM_SAES_NPU_COMM)".into())),
        Ok(other) => {
            let available = format!("LM_SAES_NPU_COMM is {other:?}; it can be hccl or host");
            Err(Error::NoDevice { name: "npu".into(), available })
        }
    }
}

struct Hccl {
    host: Box<dyn Comm>,
    /// Made at the first collective, when the device is known.
    end: Option<End>,
}

/// A communicator, until it is destroyed.
struct End {
    raw: HcclComm,
    card: Arc<Card>,
    /// Streams that may have work of this communicator.
    used: Vec<Weak<Handle>>,
}

// SAFETY: the communicator belongs to the process; only its owner uses it, after making the context current.
unsafe impl Send for End {}

impl Drop for End {
    fn drop(&mut self) {
        // Failures here were reported by the calls that met them.
        let _ = self.card.bind();
        for raw in self.used.iter().filter_map(Weak::upgrade).filter_map(|h| h.raw().ok()) {
            // SAFETY: the stream is live.
            let _ = unsafe { acl!(self.card, aclrtSynchronizeStream(raw)) };
        }
        // SAFETY: made by `connect` and destroyed once; no work of it is queued any more.
        let _ = unsafe { hccl!(self.card, HcclCommDestroy(self.raw)) };
    }
}

// SAFETY: what `host` is given is passed on. HCCL reads and writes what its functions are told, in the order of the stream, in sizes of
// the contract.
unsafe impl Comm for Hccl {
    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn size(&self) -> usize {
        self.host.size()
    }

    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        if let Some(s) = stream.as_any().and_then(|s| s.downcast_mut::<AscendStream>()) {
            return self.on_device(s, c);
        }
        // SAFETY: passed on.
        unsafe { self.host.collective(stream, c) }
    }

    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        Ok(Box::new(Self { host: self.host.split(color, key)?, end: None }))
    }
}

impl Hccl {
    fn on_device(&mut self, s: &mut AscendStream, c: &Collective) -> Result<()> {
        s.begin(c.name())?;
        if s.recording {
            return Err(s.card.error_text("HcclAllReduce", "collectives are not recorded".into()));
        }
        let (rank, size) = (self.rank(), self.size());
        let end = match &mut self.end {
            Some(end) => end,
            none => none.insert(connect(&mut *self.host, s)?),
        };
        // A device that was opened twice is in one context.
        if end.card.index != s.card.index {
            let text = format!("this group of ranks is on {}", end.card.info.name);
            return Err(s.card.error_text("HcclCommInitRootInfo", text));
        }
        if !end.used.iter().any(|h| h.upgrade().is_some_and(|h| Arc::ptr_eq(&h, &s.handle))) {
            end.used.retain(|h| h.strong_count() > 0);
            end.used.push(Arc::downgrade(&s.handle));
        }
        let mut job = Job { raw: end.raw, s, rank, size: size as i64 };
        match *c {
            Collective::AllReduce { x, n, dtype, how } => job.all_reduce(x, n, dtype, how),
            Collective::ReduceScatter { src, dst, n, dtype, how } => {
                job.reduce_scatter(src, dst, n, dtype, how)
            }
            Collective::AllGather { src, dst, n, dtype } => {
                let src = job.apart(src.0, dst.0, (n, size as u64), dtype)?;
                job.all_gather(src, dst.0, n as i64, number(dtype))
            }
            Collective::Broadcast { x, n, dtype, root } => job.broadcast(x.0, n, dtype, root),
            Collective::Barrier => job.barrier(),
        }
    }
}

/// Makes a communicator of all ranks on their devices. A rank that cannot is known to all of them by name.
fn connect(host: &mut dyn Comm, s: &mut AscendStream) -> Result<End> {
    let (rank, size) = (host.rank(), host.size());
    let card = s.card.clone();
    let prepared = card.api.collectives().map_err(|text| card.error_text("HcclCommInitRootInfo", text));
    let root = prepared.and_then(|()| if rank == 0 { new_root(&card) } else { Ok(vec![0; ROOT]) });
    let mut mine = vec![0; 1 + ROOT];
    match &root {
        Ok(root) => {
            mine[0] = 1;
            mine[1..].copy_from_slice(root);
        }
        Err(e) => {
            let text = e.to_string();
            let n = text.len().min(ROOT);
            mine[1..=n].copy_from_slice(&text.as_bytes()[..n]);
        }
    }
    let all = gathered(host, s, &mine)?;
    let messages: Vec<&[u8]> = all.chunks_exact(1 + ROOT).collect();
    if let Some(r) = messages.iter().position(|m| m[0] == 0) {
        let text = String::from_utf8_lossy(&messages[r][1..]);
        let what =
            format!("rank {r}: {}; LM_SAES_NPU_COMM=host does without HCCL", text.trim_end_matches('\0'));
        return Err(Error::Comm { rank, op: "connect", what });
    }
    let mut raw = null_mut();
    let root = messages[0][1..].as_ptr().cast::<HcclRootInfo>();
    card.bind()?;
    // SAFETY: the root has the size of its type, which has no alignment; the communicator's place is written before the call returns.
    unsafe { hccl!(card, HcclCommInitRootInfo(size as u32, root, rank as u32, &mut raw)) }?;
    Ok(End { raw, card, used: Vec::new() })
}

fn new_root(card: &Card) -> Result<Vec<u8>> {
    let mut root = vec![0u8; ROOT];
    card.bind()?;
    // SAFETY: the place has the size of the type, which has no alignment.
    unsafe { hccl!(card, HcclGetRootInfo(root.as_mut_ptr().cast())) }?;
    Ok(root)
}

/// Every rank's bytes, one behind the other, by way of the host.
fn gathered(host: &mut dyn Comm, s: &mut AscendStream, mine: &[u8]) -> Result<Vec<u8>> {
    let n = mine.len();
    let mut all = vec![0; n * host.size()];
    let (src, dst) = (s.scratch.take(n as u64, false)?, s.scratch.take(all.len() as u64, false)?);
    let c = Collective::AllGather { src: Addr(src), dst: Addr(dst), n: n as u64, dtype: DType::U8 };
    // SAFETY: both pieces of scratch memory have the sizes of the contract and are in use until the next op begins; `all` outlives the
    // wait below.
    unsafe {
        s.send(mine, src)?;
        host.collective(s, &c)?;
        s.download(Addr(dst), &mut all)?;
    }
    s.sync()?;
    Ok(all)
}

/// HCCL's number for a type; it has others than ACL.
fn number(dtype: DType) -> HcclDataType {
    match dtype {
        DType::BF16 => HcclDataType::HCCL_DATA_TYPE_BFP16,
        DType::F16 => HcclDataType::HCCL_DATA_TYPE_FP16,
        DType::I32 | DType::U32 => HcclDataType::HCCL_DATA_TYPE_INT32,
        DType::U8 => HcclDataType::HCCL_DATA_TYPE_UINT8,
        _ => HcclDataType::HCCL_DATA_TYPE_FP32,
    }
}

/// A collective being queued.
struct Job<'a> {
    raw: HcclComm,
    s: &'a mut AscendStream,
    rank: usize,
    size: i64,
}

impl Job<'_> {
    fn barrier(&mut self) -> Result<()> {
        let raw = self.s.handle.raw()?;
        self.s.remember("HcclBarrier");
        // SAFETY: communicator and stream are live and of one device.
        unsafe { hccl!(self.s.card, HcclBarrier(self.raw, raw)) }
    }

    fn broadcast(&mut self, x: u64, n: u64, dtype: DType, root: u32) -> Result<()> {
        let raw = self.s.handle.raw()?;
        self.s.remember("HcclBroadcast");
        // SAFETY: as in `barrier`; the caller vouches for the memory, of `n` elements.
        unsafe { hccl!(self.s.card, HcclBroadcast(x as *mut c_void, n, number(dtype), root, self.raw, raw)) }
    }

    fn all_gather(&mut self, src: u64, dst: u64, n: i64, dtype: HcclDataType) -> Result<()> {
        let raw = self.s.handle.raw()?;
        self.s.remember("HcclAllGather");
        let (src, dst) = (src as *mut c_void, dst as *mut c_void);
        // SAFETY: as in `barrier`; `src` has `n` elements and `dst` as many for each rank.
        unsafe { hccl!(self.s.card, HcclAllGather(src, dst, n as u64, dtype, self.raw, raw)) }
    }

    /// This rank's `n` elements at `part`, copied where they are its place in `whole`, that of all ranks: HCCL does not say that it takes
    /// what overlaps.
    fn apart(&mut self, part: u64, whole: u64, (n, size): (u64, u64), dtype: DType) -> Result<u64> {
        let bytes = n * dtype.bytes() as u64;
        if part + bytes <= whole || whole + size * bytes <= part {
            return Ok(part);
        }
        self.copied(part, n, dtype)
    }

    /// As [`Job::apart`], copying what all ranks have.
    fn apart_all(&mut self, whole: u64, part: u64, (n, size): (u64, u64), dtype: DType) -> Result<u64> {
        let same = self.apart(part, whole, (n, size), dtype)? == part;
        if same { Ok(whole) } else { self.copied(whole, n * size, dtype) }
    }

    fn copied(&mut self, addr: u64, n: u64, dtype: DType) -> Result<u64> {
        let from = row(addr, n, dtype);
        let to = self.s.temp(from.dtype, &[n as i64])?;
        self.s.copy(to, from)?;
        Ok(to.addr)
    }

    /// `n` elements to each rank from each.
    fn all_to_all(&mut self, src: u64, dst: u64, n: i64, dtype: HcclDataType) -> Result<()> {
        let raw = self.s.handle.raw()?;
        self.s.remember("HcclAlltoAll");
        let (src, dst, n) = (src as *const c_void, dst as *const c_void, n as u64);
        // SAFETY: as in `barrier`; both have `n` elements for each rank.
        unsafe { hccl!(self.s.card, HcclAlltoAll(src, n, dtype, dst, n, dtype, self.raw, raw)) }
    }

    fn all_reduce(&mut self, x: Addr, n: u64, dtype: DType, how: Reduction) -> Result<()> {
        if let Some(op) = self.in_no_order(dtype, how)? {
            let (raw, x) = (self.s.handle.raw()?, x.0 as *mut c_void);
            self.s.remember("HcclAllReduce");
            // SAFETY: as in `broadcast`; a reduction may be in place.
            return unsafe { hccl!(self.s.card, HcclAllReduce(x, x, n, number(dtype), op, self.raw, raw)) };
        }
        let x = row(x.0, n, dtype);
        let (n, mut from) = (n as i64, 0);
        while from < n {
            // What is made beside x stays within a block, however large x is.
            let more = (n - from).min(BLOCK as i64);
            let mark = self.s.scratch.mark();
            self.sum_block(x.part(0, from, more), number(dtype))?;
            self.s.scratch.release(mark);
            from += more;
        }
        Ok(())
    }

    /// `x` becomes the sum of everybody's.
    fn sum_block(&mut self, x: View, dtype: HcclDataType) -> Result<()> {
        let n = x.len();
        let segment = (n + self.size - 1) / self.size;
        let even = segment * self.size == n;
        let whole = if even { x } else { self.s.temp(x.dtype, &[segment * self.size])? };
        if !even {
            self.s.copy(whole.part(0, 0, n), x)?;
        }
        let parts = self.s.temp(x.dtype, &[self.size, segment])?;
        self.all_to_all(whole.addr, parts.addr, segment, dtype)?;
        let sum = self.sum_of_rows(parts)?;
        self.all_gather(sum.addr, whole.addr, segment, dtype)?;
        if even { Ok(()) } else { self.s.copy(x, whole.part(0, 0, n)) }
    }

    /// The rows of `[size, n]` added up in their order, in f32 for all floats; the result is packed.
    fn sum_of_rows(&mut self, parts: View) -> Result<View> {
        let narrow = matches!(parts.dtype, aclDataType::ACL_BF16 | aclDataType::ACL_FLOAT16);
        let wide = if narrow { self.s.floats(parts.dims())? } else { parts };
        if narrow {
            self.s.copy(wide, parts)?;
        }
        let (n, one) =
            (parts.dim(1), if wide.dtype == aclDataType::ACL_INT32 { 1.into() } else { 1.0.into() });
        let sum = wide.part(0, 0, 1).shaped(&[n]);
        for r in 1..self.size {
            self.s.inplace_add(sum, wide.part(0, r, 1).shaped(&[n]), one)?;
        }
        let rounded = parts.part(0, 0, 1).shaped(&[n]);
        if narrow {
            self.s.copy(rounded, sum)?;
        }
        Ok(rounded)
    }

    fn reduce_scatter(&mut self, src: Addr, dst: Addr, n: u64, dtype: DType, how: Reduction) -> Result<()> {
        if let Some(op) = self.in_no_order(dtype, how)? {
            let src = self.apart_all(src.0, dst.0, (n, self.size as u64), dtype)?;
            let (src, dst, raw) = (src as *mut c_void, dst.0 as *mut c_void, self.s.handle.raw()?);
            self.s.remember("HcclReduceScatter");
            // SAFETY: as in `barrier`; `dst` has `n` elements and `src` as many for each rank.
            return unsafe {
                hccl!(self.s.card, HcclReduceScatter(src, dst, n, number(dtype), op, self.raw, raw))
            };
        }
        let dst = row(dst.0, n, dtype);
        let parts = self.s.temp(dst.dtype, &[self.size, n as i64])?;
        self.all_to_all(src.0, parts.addr, n as i64, number(dtype))?;
        let sum = self.sum_of_rows(parts)?;
        self.s.copy(dst, sum)
    }

    /// HCCL's own reduction, where the order does not matter.
    fn in_no_order(&self, dtype: DType, how: Reduction) -> Result<Option<HcclReduceOp>> {
        if let Some(lacking) = ops::lacking_for_sums(&self.s.card) {
            return Err(self.s.card.error_text("HcclAllReduce", lacking));
        }
        match (how, dtype) {
            (Reduction::Sum, _) => Ok(None),
            // HCCL has none of these.
            (_, DType::U32 | DType::U8) => {
                let what = format!("no largest or smallest of {} over NPUs", dtype.name());
                Err(Error::Comm { rank: self.rank, op: "all_reduce", what })
            }
            (Reduction::Max, _) => Ok(Some(HcclReduceOp::HCCL_REDUCE_MAX)),
            (Reduction::Min, _) => Ok(Some(HcclReduceOp::HCCL_REDUCE_MIN)),
        }
    }
}

/// `n` elements without gaps.
fn row(addr: u64, n: u64, dtype: DType) -> View {
    View::of(&Mat { addr: Addr(addr), rows: 1, cols: n, ld: n, dtype }).line()
}
