//! Collectives (HCCL): communicators made from a root that is copied to all ranks, and collectives that run as tasks of a stream.
//! Sources: the CANN pages of HcclGetRootInfo, HcclCommInitRootInfo, HcclAllReduce, HcclAlltoAll and their kin, HcclCommDestroy.

mod hub;
mod numbers;

use crate::{
    abi::*,
    config::Chip,
    memory,
    order::Access,
    streams::{self, Task, Wrong, submit},
    world::{self, World, fail, ready, violation, world},
};
use hub::{End, Reply};
use numbers::{bytes_of, reducible, reduction};
use std::{
    collections::HashMap,
    ffi::{c_char, c_void},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What the runtime says when a collective's task waits too long for another rank: the code of the scheduler it runs on.
const WAITED_TOO_LONG: i32 = 507_048;
/// How the text in a root begins.
const MARK: &[u8] = b"acl-sim-root ";

struct Comm {
    rank: u32,
    n: u32,
    device: i32,
    end: Arc<Mutex<End>>,
    /// Collectives that have not run.
    queued: Arc<AtomicUsize>,
    failed: Arc<AtomicBool>,
    /// Collectives stated so far: with the seed, the order in which sums are added.
    stated: u64,
}

#[derive(Default)]
pub struct Comms {
    live: HashMap<usize, Comm>,
}

impl Comms {
    pub fn alive(&self, out: &mut Vec<String>) {
        if !self.live.is_empty() {
            out.push(format!("{} communicators", self.live.len()));
        }
    }
}

fn refuse<T>(code: i64, text: impl AsRef<str>) -> Result<T, u32> {
    fail(code as i32, text);
    Err(code as u32)
}

fn end(result: Result<(), u32>) -> HcclResult {
    result.err().unwrap_or(HCCL_SUCCESS as u32)
}

/// Thread's context and device. Failures of the runtime are HCCL_E_RUNTIME here.
fn current(w: &World) -> Result<i32, u32> {
    ready(w).map(|(_, device)| device).map_err(|_| HCCL_E_RUNTIME as u32)
}

fn new_root(w: &mut World) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let name = format!("hccl-{pid}-{n}-{:x}", w.random());
    let mut root = [MARK, name.as_bytes(), b"\0"].concat();
    // All of the bytes matter, as their receiver cannot know which do.
    root.extend((root.len()..ROOT_BYTES - 8).map(|_| w.random() as u8));
    let sum = checksum(&root);
    root.extend(sum.to_ne_bytes());
    root
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The name in a root, which must be what some process was given.
fn name_in(root: &[u8]) -> String {
    let (text, sum) = root.split_at(ROOT_BYTES - 8);
    if !text.starts_with(MARK) || sum != checksum(text).to_ne_bytes() {
        violation("the root is not what HcclGetRootInfo gave, byte by byte");
    }
    let name = &text[MARK.len()..];
    String::from_utf8_lossy(&name[..name.iter().position(|b| *b == 0).unwrap_or(0)]).into_owned()
}

fn get_root(out: *mut HcclRootInfo) -> Result<(), u32> {
    let (root, patience) = {
        let mut w = world();
        current(&w)?;
        if out.is_null() {
            return refuse(HCCL_E_PTR, "EI0003: the root's place is null");
        }
        (new_root(&mut w), w.config.hccl_timeout)
    };
    if let Err(e) = hub::open(&name_in(&root), Duration::from_millis(patience)) {
        return refuse(HCCL_E_NETWORK, format!("EI0019: no socket: {e}"));
    }
    // SAFETY: the caller gave a place of this size.
    unsafe { std::ptr::copy_nonoverlapping(root.as_ptr(), out.cast(), ROOT_BYTES) };
    Ok(())
}

fn init(n: u32, root: *const HcclRootInfo, rank: u32, out: *mut HcclComm) -> Result<(), u32> {
    let device = current(&world())?;
    if root.is_null() || out.is_null() {
        return refuse(HCCL_E_PTR, "EI0003: the root or the communicator's place is null");
    }
    if n == 0 || rank >= n {
        return refuse(HCCL_E_PARA, format!("EI0003: rank {rank} of {n}"));
    }
    // SAFETY: the caller gave a root, which has this size.
    let name = name_in(unsafe { std::slice::from_raw_parts(root.cast(), ROOT_BYTES) });
    let joined = match End::join(&name, rank, n, device) {
        Ok(joined) => joined,
        Err(Reply::Wrong(text)) => violation(&format!("HcclCommInitRootInfo: {text}")),
        Err(Reply::Absent(text)) => {
            return refuse(HCCL_E_TIMEOUT, format!("EI0006: connecting timed out: {text}"));
        }
        Err(Reply::All(_)) => return refuse(HCCL_E_INTERNAL, "EI9999"),
    };
    let mut w = world();
    let handle = w.new_handle();
    let comm = Comm {
        rank,
        n,
        device,
        end: Arc::new(Mutex::new(joined)),
        queued: Arc::default(),
        failed: Arc::default(),
        stated: 0,
    };
    w.comms.live.insert(handle, comm);
    // SAFETY: the caller gave a place for the handle.
    unsafe { *out = crate::abi::handle(handle) };
    Ok(())
}

/// One collective as a rank states it.
struct Call {
    name: &'static str,
    comm: HcclComm,
    stream: aclrtStream,
    /// What all ranks must state alike.
    what: String,
    dtype: HcclDataType,
    /// Addresses and elements.
    send: Option<(u64, u64)>,
    receive: Option<(u64, u64)>,
}

/// From what all ranks sent to what this one receives.
type Combine = Box<dyn Fn(&[Vec<u8>]) -> Vec<u8> + Send + Sync>;

/// A collective that has not run.
struct Pending(Arc<AtomicUsize>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rank, number of ranks, and a number that all ranks have for this collective.
struct Seat {
    rank: usize,
    n: usize,
    turn: u64,
}

fn queue(call: Call, combine: impl FnOnce(Seat) -> Combine) -> Result<(), u32> {
    let mut w = world();
    current(&w)?;
    let name = call.name;
    let Some(width) = bytes_of(call.dtype) else {
        return refuse(HCCL_E_PARA, format!("EI0003: {name}: type {} does not exist in HCCL", call.dtype));
    };
    let old = matches!(w.config.chip(), Chip::A910 | Chip::P310);
    if old && i64::from(call.dtype) == HCCL_DATA_TYPE_BFP16 {
        return refuse(HCCL_E_NOT_SUPPORT, format!("EI0003: {name}: {} has no bfp16", w.config.soc));
    }
    let handle = streams::resolve(&w, call.stream).map_err(|_| HCCL_E_RUNTIME as u32)?;
    if w.streams.captures(handle) {
        return refuse(HCCL_E_NOT_SUPPORT, "the simulator records no collectives");
    }
    let on = w.streams.device(handle);
    let seed = w.config.seed;
    let Some(comm) = w.comms.live.get_mut(&call.comm.addr()) else {
        violation(&format!("{name}: the communicator was destroyed or never made"))
    };
    if on != comm.device {
        let text =
            format!("EI0003: {name}: the communicator is on device {}, the stream on {on}", comm.device);
        return refuse(HCCL_E_PARA, text);
    }
    let seat = Seat { rank: comm.rank as usize, n: comm.n as usize, turn: seed.wrapping_add(comm.stated) };
    comm.stated += 1;
    let (end, failed) = (comm.end.clone(), comm.failed.clone());
    comm.queued.fetch_add(1, Ordering::Relaxed);
    let pending = Pending(comm.queued.clone());
    let mut accesses = Vec::new();
    for (range, write, what) in [(call.send, false, "what is sent"), (call.receive, true, "what is received")]
    {
        let Some((addr, n)) = range else { continue };
        if addr == 0 || n == 0 {
            return refuse(HCCL_E_PTR, format!("EI0003: {name}: {what} is null or empty"));
        }
        if !memory::is_device(addr) {
            violation(&format!("{name}: {what} at {addr:#x} is no device memory"));
        }
        accesses.push(Access { start: addr, end: addr + n * width, write, what: what.into() });
    }
    let combine = combine(seat);
    let deal = format!("{name} of {}", call.what);
    let run = move || {
        let _ = &pending;
        let sent = call.send.map_or_else(Vec::new, |(addr, n)| {
            // SAFETY: the range was checked when the task was queued, and freeing it before now is a violation.
            unsafe { std::slice::from_raw_parts(memory::translate(addr), (n * width) as usize) }.to_vec()
        });
        let reply = end.lock().unwrap_or_else(PoisonError::into_inner).exchange(&deal, &sent);
        match reply {
            Reply::All(all) => {
                if let Some((addr, n)) = call.receive {
                    let bytes = combine(&all);
                    assert_eq!(bytes.len() as u64, n * width);
                    // SAFETY: as above.
                    unsafe {
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory::translate(addr), bytes.len())
                    };
                }
                Ok(())
            }
            Reply::Wrong(text) => Err(Wrong::Client(text)),
            Reply::Absent(text) => {
                failed.store(true, Ordering::Relaxed);
                let text = format!("EI0002: the notify wait timed out: {text} (HCCL_EXEC_TIMEOUT)");
                Err(Wrong::Device(WAITED_TOO_LONG, text))
            }
        }
    };
    submit(&mut w, handle, Task { name: name.into(), accesses, meets: true, run: Box::new(run) });
    Ok(())
}

fn destroy(comm: HcclComm) -> Result<(), u32> {
    let mut w = world();
    world::initialised(&w).map_err(|_| HCCL_E_RUNTIME as u32)?;
    if comm.is_null() {
        return refuse(HCCL_E_PTR, "EI0003: the communicator is null");
    }
    let Some(c) = w.comms.live.remove(&comm.addr()) else {
        violation("HcclCommDestroy: the communicator was destroyed before or never made")
    };
    let n = c.queued.load(Ordering::Relaxed);
    if n > 0 {
        violation(&format!("HcclCommDestroy: {n} collectives are queued, and nothing has waited for them"));
    }
    Ok(())
}

fn ask<T>(comm: HcclComm, out: *mut T, of: impl Fn(&Comm) -> T) -> Result<(), u32> {
    let w = world();
    if comm.is_null() || out.is_null() {
        return refuse(HCCL_E_PTR, "EI0003: null");
    }
    let Some(c) = w.comms.live.get(&comm.addr()) else {
        violation("a communicator is asked that was destroyed or never made")
    };
    // SAFETY: the caller gave a place.
    unsafe { *out = of(c) };
    Ok(())
}

/// Types whose reductions exist.
fn check_reduction(name: &str, dtype: HcclDataType, op: HcclReduceOp) -> Result<(), u32> {
    if i64::from(op) > HCCL_REDUCE_MIN {
        return refuse(HCCL_E_PARA, format!("EI0003: {name}: reduction {op} does not exist"));
    }
    if bytes_of(dtype).is_some() && !reducible(dtype) {
        return refuse(HCCL_E_NOT_SUPPORT, format!("EI0003: {name}: no reduction of type {dtype}"));
    }
    Ok(())
}

fn address<T>(p: *const T) -> u64 {
    p.addr() as u64
}

/// All elements of all ranks reduced, in an order that the documents leave open.
fn reduced(dtype: HcclDataType, op: HcclReduceOp, turn: u64) -> impl Fn(&[Vec<u8>]) -> Vec<u8> {
    move |all| {
        let first = (turn % all.len() as u64) as usize;
        let parts: Vec<&[u8]> = (0..all.len()).map(|i| all[(first + i) % all.len()].as_slice()).collect();
        reduction(&parts, dtype, op)
    }
}

exports! { FUNCTIONS:
    fn HcclGetRootInfo(rootInfo: *mut HcclRootInfo) -> HcclResult {
        end(get_root(rootInfo))
    }
    fn HcclCommInitRootInfo(
        nRanks: u32,
        rootInfo: *const HcclRootInfo,
        rank: u32,
        comm: *mut HcclComm,
    ) -> HcclResult {
        end(init(nRanks, rootInfo, rank, comm))
    }
    fn HcclAllReduce(
        sendBuf: *mut c_void,
        recvBuf: *mut c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let name = "HcclAllReduce";
        let (send, receive) = (Some((address(sendBuf), count)), Some((address(recvBuf), count)));
        let call = Call { name, comm, stream, what: format!("{count} of type {dtype}, reduction {op}"), dtype, send, receive };
        end(check_reduction(name, dtype, op).and_then(|()| queue(call, |s| Box::new(reduced(dtype, op, s.turn)))))
    }
    fn HcclBroadcast(
        buf: *mut c_void,
        count: u64,
        dtype: HcclDataType,
        root: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let (mut rank, mut n) = (0, 0);
        if let Err(code) = ask(comm, &mut rank, |c| c.rank).and_then(|()| ask(comm, &mut n, |c| c.n)) {
            return code;
        }
        if root >= n {
            return end(refuse(HCCL_E_PARA, format!("EI0003: HcclBroadcast: root {root} of {n}")));
        }
        let (own, all) = (rank == root, Some((address(buf), count)));
        let (send, receive) = if own { (all, None) } else { (None, all) };
        let what = format!("{count} of type {dtype} from rank {root}");
        let call = Call { name: "HcclBroadcast", comm, stream, what, dtype, send, receive };
        end(queue(call, |_| Box::new(move |all| all[root as usize].clone())))
    }
    fn HcclReduceScatter(
        sendBuf: *mut c_void,
        recvBuf: *mut c_void,
        recvCount: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let name = "HcclReduceScatter";
        let mut n = 0;
        if let Err(code) = ask(comm, &mut n, |c| u64::from(c.n)).and_then(|()| check_reduction(name, dtype, op)) {
            return code;
        }
        let (send, receive) = (Some((address(sendBuf), recvCount * n)), Some((address(recvBuf), recvCount)));
        let what = format!("{recvCount} of type {dtype}, reduction {op}");
        let call = Call { name, comm, stream, what, dtype, send, receive };
        end(queue(call, |s| {
            let reduced = reduced(dtype, op, s.turn);
            Box::new(move |all| {
                let whole = reduced(all);
                let own = whole.len() / s.n;
                whole[s.rank * own..(s.rank + 1) * own].to_vec()
            })
        }))
    }
    fn HcclAllGather(
        sendBuf: *mut c_void,
        recvBuf: *mut c_void,
        sendCount: u64,
        dtype: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let mut n = 0;
        if let Err(code) = ask(comm, &mut n, |c| u64::from(c.n)) {
            return code;
        }
        let (send, receive) = (Some((address(sendBuf), sendCount)), Some((address(recvBuf), sendCount * n)));
        let what = format!("{sendCount} of type {dtype}");
        let call = Call { name: "HcclAllGather", comm, stream, what, dtype, send, receive };
        end(queue(call, |_| Box::new(|all| all.concat())))
    }
    fn HcclReduce(
        sendBuf: *mut c_void,
        recvBuf: *mut c_void,
        count: u64,
        dtype: HcclDataType,
        op: HcclReduceOp,
        root: u32,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let name = "HcclReduce";
        let (mut rank, mut n) = (0, 0);
        let asked = ask(comm, &mut rank, |c| c.rank).and_then(|()| ask(comm, &mut n, |c| c.n));
        if let Err(code) = asked.and_then(|()| check_reduction(name, dtype, op)) {
            return code;
        }
        if root >= n {
            return end(refuse(HCCL_E_PARA, format!("EI0003: {name}: root {root} of {n}")));
        }
        let receive = (rank == root).then(|| (address(recvBuf), count));
        let what = format!("{count} of type {dtype}, reduction {op}, to rank {root}");
        let call = Call { name, comm, stream, what, dtype, send: Some((address(sendBuf), count)), receive };
        end(queue(call, |s| Box::new(reduced(dtype, op, s.turn))))
    }
    fn HcclAlltoAll(
        sendBuf: *const c_void,
        sendCount: u64,
        sendType: HcclDataType,
        recvBuf: *const c_void,
        recvCount: u64,
        recvType: HcclDataType,
        comm: HcclComm,
        stream: aclrtStream,
    ) -> HcclResult {
        let name = "HcclAlltoAll";
        let mut n = 0;
        if let Err(code) = ask(comm, &mut n, |c| u64::from(c.n)) {
            return code;
        }
        // The page wants all four alike on all ranks; then what one sends to another is what that receives only if both are.
        if (sendCount, sendType) != (recvCount, recvType) {
            let text = format!("EI0003: {name}: {sendCount} of type {sendType} are sent, {recvCount} of {recvType} received");
            return end(refuse(HCCL_E_PARA, text));
        }
        let width = bytes_of(sendType).unwrap_or(0);
        let (from, to, bytes) = (address(sendBuf), address(recvBuf), sendCount * n * width);
        if from < to + bytes && to < from + bytes {
            violation("HcclAlltoAll: what is sent and what is received overlap");
        }
        let (send, receive) = (Some((from, sendCount * n)), Some((to, recvCount * n)));
        let what = format!("{sendCount} of type {sendType}");
        let call = Call { name, comm, stream, what, dtype: sendType, send, receive };
        end(queue(call, |s| {
            Box::new(move |all| {
                let own = all[0].len() / s.n;
                all.iter().flat_map(|sent| sent[s.rank * own..(s.rank + 1) * own].to_vec()).collect()
            })
        }))
    }
    fn HcclBarrier(comm: HcclComm, stream: aclrtStream) -> HcclResult {
        let (what, dtype) = ("nothing".to_owned(), HCCL_DATA_TYPE_INT8 as u32);
        let call = Call { name: "HcclBarrier", comm, stream, what, dtype, send: None, receive: None };
        end(queue(call, |_| Box::new(|_| Vec::new())))
    }
    fn HcclGetRankSize(comm: HcclComm, rankSize: *mut u32) -> HcclResult {
        end(ask(comm, rankSize, |c| c.n))
    }
    fn HcclGetRankId(comm: HcclComm, rank: *mut u32) -> HcclResult {
        end(ask(comm, rank, |c| c.rank))
    }
    fn HcclGetCommAsyncError(comm: HcclComm, asyncError: *mut HcclResult) -> HcclResult {
        let code = |c: &Comm| if c.failed.load(Ordering::Relaxed) { HCCL_E_REMOTE as u32 } else { HCCL_SUCCESS as u32 };
        end(ask(comm, asyncError, code))
    }
    fn HcclGetErrorString(code: HcclResult) -> *const c_char {
        let text: &[u8] = match i64::from(code) {
            HCCL_SUCCESS => b"no error\0",
            HCCL_E_PARA => b"parameter error\0",
            HCCL_E_PTR => b"empty pointer\0",
            HCCL_E_NOT_SUPPORT => b"feature not supported\0",
            HCCL_E_TIMEOUT => b"timeout\0",
            HCCL_E_RUNTIME => b"call runtime api fail\0",
            HCCL_E_NETWORK => b"call network api fail\0",
            HCCL_E_REMOTE => b"error cqe\0",
            _ => b"unknown error\0",
        };
        text.as_ptr().cast()
    }
    fn HcclCommDestroy(comm: HcclComm) -> HcclResult {
        end(destroy(comm))
    }
}
