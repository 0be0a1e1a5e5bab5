//! NCCL between GPUs: opened at run time, nothing of it is needed to build. Sums of floats do not use its reductions, whose order is its
//! own: every rank gets the others' shares of its segment and adds them on its card in the order of the ranks, which sends as much and
//! gives the bits of every other engine. Who meets whom is settled by another engine through host memory, which also finds out who
//! is missing when a collective is not done in time.

mod api;

use self::api::{Api, Handle, Status, UniqueId, data_type, operator};
use cudarc::driver::{CudaContext, result::event, sys};
use lm_saes_runtime::{
    Addr, Collective, Comm, DType, Device, Error, Group, MapKind, Queue, Reduction, Result, Stream,
    op::{self, Mat},
};
use std::{
    ffi::c_int,
    ops::Range,
    ptr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Most elements of one rank that are on their way to be added up at a time.
const PIECE: usize = 8 << 20;
/// Scratch memory begins with this much for small sums.
const SCRATCH: usize = 1 << 20;

/// One rank's end of a group of GPUs.
pub struct Nccl {
    /// The same ranks, through host memory.
    base: Box<dyn Comm>,
    device: Arc<dyn Device>,
    context: Arc<CudaContext>,
    api: Arc<Api>,
    comm: Handle,
    event: sys::CUevent,
    scratch: (Addr, usize),
    patience: Duration,
    broken: bool,
}

/// What ranks on cards have found.
pub enum Found {
    /// All of them have NCCL.
    Nccl(Box<Nccl>),
    /// One has not; the engine they came with, and why.
    Missing(Box<dyn Comm>, String),
}

// SAFETY: communicator and event are used by one thread at a time, with their context made current there.
unsafe impl Send for Nccl {}

impl Nccl {
    /// The ranks that `base` connects, on their cards, if all of them have NCCL; otherwise `base` again and why. One that does not take
    /// part in a collective within `patience` ends it.
    ///
    /// # Errors
    /// A rank that is not there, or a communicator that does not start.
    pub fn join(device: &Arc<dyn Device>, base: Box<dyn Comm>, patience: Duration) -> Result<Found> {
        let api = Api::open();
        let (rank, mut group) = (base.rank(), Meeting { device, base });
        let told = group.gather(api.as_ref().err().map_or("", |e| e).as_bytes())?;
        if let Some((other, why)) = told.iter().enumerate().find(|(_, why)| !why.is_empty()) {
            let why = String::from_utf8_lossy(why);
            let why = if other == rank { why.into() } else { format!("rank {other}: {why}") };
            return Ok(Found::Missing(group.base, why));
        }
        let api = Arc::new(api.map_err(|text| failed("dlopen", 0, text))?);
        Self::form(device, group.base, api, patience).map(|nccl| Found::Nccl(Box::new(nccl)))
    }

    /// What connects the ranks, for people.
    pub fn describe(&self) -> String {
        let v = self.api.version;
        // 2.9 and newer count in hundreds and ten thousands.
        let (major, minor, patch) = (v / 10_000, v / 100 % 100, v % 100);
        format!("NCCL {major}.{minor}.{patch}")
    }

    fn form(
        device: &Arc<dyn Device>,
        base: Box<dyn Comm>,
        api: Arc<Api>,
        patience: Duration,
    ) -> Result<Self> {
        let name = &device.info().name;
        let index = name.rsplit(':').next().and_then(|i| i.parse().ok()).unwrap_or(0);
        let context = CudaContext::new(index).map_err(super::failed(name, "cuDevicePrimaryCtxRetain"))?;
        context.bind_to_thread().map_err(super::failed(name, "cuCtxSetCurrent"))?;
        let (rank, size) = (base.rank(), base.size());
        let mut id = UniqueId([0; 128]);
        if rank == 0 {
            // SAFETY: writes 128 bytes.
            api.check("ncclGetUniqueId", unsafe { (api.unique_id)(&mut id) })?;
        }
        let mut meeting = Meeting { device, base };
        let told = meeting.gather(&id.0)?;
        id.0.copy_from_slice(&told[0]);
        let mut comm = ptr::null_mut();
        // SAFETY: all ranks have the id and call this; `comm` is written.
        let code = unsafe { (api.init)(&mut comm, size as c_int, id, rank as c_int) };
        api.check("ncclCommInitRank", code)?;
        let event = event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(super::failed(name, "cuEventCreate"))?;
        let (device, base) = (device.clone(), meeting.base);
        Ok(Self {
            base,
            device,
            context,
            api,
            comm,
            event,
            scratch: (Addr::NONE, 0),
            patience,
            broken: false,
        })
    }

    fn check(&self, call: &'static str, code: Status) -> Result<()> {
        self.api.check(call, code)
    }

    /// Scratch memory for `bytes`; nothing of it is in use between collectives.
    fn scratch(&mut self, bytes: usize) -> Result<Addr> {
        if bytes > self.scratch.1 {
            let size = bytes.next_power_of_two().max(SCRATCH);
            let new = self.device.alloc(size)?;
            let old = std::mem::replace(&mut self.scratch, (new, size));
            if old.1 > 0 {
                // SAFETY: allocated here, and every collective waits for its work.
                unsafe { self.device.free(old.0, old.1) }
            }
        }
        Ok(self.scratch.0)
    }

    /// Messages to and from all other ranks at once: where what goes to a rank is and how much, and likewise what comes.
    ///
    /// # Safety
    /// The memory is live on this device and that large.
    unsafe fn messages(
        &self,
        stream: Handle,
        dtype: DType,
        out: impl Fn(usize) -> (Addr, usize),
        into: impl Fn(usize) -> (Addr, usize),
    ) -> Result<()> {
        let (rank, kind) = (self.base.rank(), data_type(dtype));
        // SAFETY: as promised by the caller; `stream` is this device's.
        unsafe {
            self.check("ncclGroupStart", (self.api.group_start)())?;
            let mut stated = Ok(());
            for peer in (0..self.base.size()).filter(|&r| r != rank) {
                let ((from, n), (to, m)) = (out(peer), into(peer));
                if n > 0 && stated.is_ok() {
                    let code = (self.api.send)(from.0, n, kind, peer as c_int, self.comm, stream);
                    stated = self.check("ncclSend", code);
                }
                if m > 0 && stated.is_ok() {
                    let code = (self.api.recv)(to.0, m, kind, peer as c_int, self.comm, stream);
                    stated = self.check("ncclRecv", code);
                }
            }
            let ended = self.check("ncclGroupEnd", (self.api.group_end)());
            stated.and(ended)
        }
    }

    /// `dst =` this rank's segment of the sum of everybody's `x`, whose segments lie as `place` says; added in the order of the ranks.
    ///
    /// # Safety
    /// As [`Comm::collective`].
    unsafe fn sum(
        &mut self,
        stream: &mut dyn Stream,
        (x, dst): (Addr, Addr),
        place: impl Fn(usize) -> Range<usize>,
    ) -> Result<()> {
        let (rank, size, width) = (self.base.rank(), self.base.size(), size_of::<f32>());
        let longest = (0..size).map(|r| place(r).len()).max().unwrap_or(0);
        let scratch = self.scratch(longest.min(PIECE) * (size - 1) * width)?;
        let at = |base: Addr, element: usize| Addr(base.0 + (element * width) as u64);
        // Where others' shares lie in the scratch memory.
        let slot = |r: usize| if r < rank { r } else { r - 1 };
        for first in (0..longest).step_by(PIECE) {
            let piece = |r: usize| {
                let all = place(r);
                let start = (all.start + first).min(all.end);
                start..(start + PIECE).min(all.end)
            };
            let own = piece(rank);
            let n = own.len();
            let part = |r: usize| at(scratch, slot(r) * longest.min(PIECE));
            let out = |r: usize| (at(x, piece(r).start), piece(r).len());
            // SAFETY: as promised by the caller; the scratch memory has a place for the longest piece of every other rank.
            unsafe { self.messages(stream.native() as Handle, DType::F32, out, |r| (part(r), n))? };
            if n == 0 {
                continue;
            }
            let (mine, to) = (at(x, own.start), at(dst, first));
            let mut sum = if rank == 0 { mine } else { part(0) };
            for r in 1..size {
                // What is added to may be overwritten; this rank's own addend only where its segment is to be.
                let (a, b, y) = match r {
                    _ if r == rank => (mine, sum, to),
                    _ if r > rank => (sum, part(r), to),
                    _ => (sum, part(r), sum),
                };
                // SAFETY: three stretches of `n` live floats; `y` is `a` or apart from both.
                unsafe { add(stream, n, a, b, y)? };
                sum = y;
            }
        }
        Ok(())
    }

    /// Segments of all ranks, as `place` says, into everybody's `x`.
    ///
    /// # Safety
    /// As [`Comm::collective`].
    unsafe fn gather(
        &self,
        stream: Handle,
        x: Addr,
        place: impl Fn(usize) -> Range<usize>,
        dtype: DType,
    ) -> Result<()> {
        let rank = self.base.rank();
        let of = |r: usize| (Addr(x.0 + (place(r).start * dtype.bytes()) as u64), place(r).len());
        // SAFETY: as promised by the caller.
        unsafe { self.messages(stream, dtype, |_| of(rank), of) }
    }

    /// Waits for what was queued, with an eye on ranks that never come.
    fn wait(&mut self, stream: &mut dyn Stream, what: &'static str) -> Result<()> {
        let name = self.device.info().name.clone();
        let (began, mut rounds) = (Instant::now(), 0_u32);
        // SAFETY: event and stream are live and of this context.
        unsafe { event::record(self.event, stream.native() as sys::CUstream) }
            .map_err(super::failed(&name, "cuEventRecord"))?;
        loop {
            // SAFETY: recorded above.
            let done = match unsafe { event::query(self.event) } {
                Ok(()) => true,
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => false,
                Err(e) => {
                    self.broken = true;
                    return Err(super::failed(&name, "cuEventQuery")(e));
                }
            };
            let mut status = 0;
            // SAFETY: the communicator is live; one int is written.
            unsafe { (self.api.async_error)(self.comm, &mut status) };
            // 7: still connecting.
            let failure = (status != 0 && status != 7).then(|| self.api.text(status));
            if done && failure.is_none() {
                return Ok(());
            }
            if failure.is_some() || began.elapsed() >= self.patience {
                return Err(self.give_up(stream, what, failure));
            }
            rounds += 1;
            match rounds {
                0..=1000 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// Ends the communicator, and finds out through host memory which rank is to blame.
    fn give_up(&mut self, stream: &mut dyn Stream, what: &'static str, failure: Option<String>) -> Error {
        self.broken = true;
        // SAFETY: the communicator is live and not used again.
        unsafe { (self.api.abort)(self.comm) };
        // SAFETY: a barrier has no memory.
        let missing = unsafe { self.base.collective(stream, &Collective::Barrier) };
        let why = failure.unwrap_or_else(|| format!("not done within {} s", self.patience.as_secs_f64()));
        match missing {
            Err(Error::Comm { rank, what: who, .. }) => Error::Comm { rank, op: what, what: who },
            _ => Error::Comm { rank: self.base.rank(), op: what, what: format!("NCCL: {why}") },
        }
    }

    /// # Safety
    /// As [`Comm::collective`].
    unsafe fn queue(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let (size, queue) = (self.base.size(), stream.native() as Handle);
        // Alone there is no order, and nothing to receive.
        let add_up = |dtype: DType, how: Reduction| how == Reduction::Sum && dtype == DType::F32 && size > 1;
        let narrow = |dtype: DType, how: Reduction| match dtype {
            DType::F16 | DType::BF16 if how == Reduction::Sum => Err(Error::Unsupported {
                device: self.device.info().name.clone(),
                op: c.name(),
                why: format!("sums of {dtype} over NCCL are not in f32; convert them first"),
            }),
            _ => Ok(()),
        };
        match *c {
            Collective::AllReduce { x, n, dtype, how } if add_up(dtype, how) => {
                let n = n as usize;
                let place = |r: usize| r * n / size..(r + 1) * n / size;
                let own = Addr(x.0 + (place(self.base.rank()).start * dtype.bytes()) as u64);
                // SAFETY: as promised by the caller.
                unsafe {
                    self.sum(stream, (x, own), place)?;
                    self.gather(queue, x, place, dtype)
                }
            }
            Collective::ReduceScatter { src, dst, n, dtype, how } if add_up(dtype, how) => {
                let n = n as usize;
                // SAFETY: as promised by the caller.
                unsafe { self.sum(stream, (src, dst), |r| r * n..(r + 1) * n) }
            }
            Collective::AllReduce { x, n, dtype, how } => {
                narrow(dtype, how)?;
                let (n, kind) = (n as usize, data_type(dtype));
                // SAFETY: as promised by the caller; integers and extremes do not depend on the order.
                let code =
                    unsafe { (self.api.all_reduce)(x.0, x.0, n, kind, operator(how), self.comm, queue) };
                self.check("ncclAllReduce", code)
            }
            Collective::ReduceScatter { src, dst, n, dtype, how } => {
                narrow(dtype, how)?;
                let (n, kind) = (n as usize, data_type(dtype));
                // SAFETY: as above.
                let code = unsafe {
                    (self.api.reduce_scatter)(src.0, dst.0, n, kind, operator(how), self.comm, queue)
                };
                self.check("ncclReduceScatter", code)
            }
            Collective::AllGather { src, dst, n, dtype } => {
                let (n, kind) = (n as usize, data_type(dtype));
                // SAFETY: as promised by the caller.
                let code = unsafe { (self.api.all_gather)(src.0, dst.0, n, kind, self.comm, queue) };
                self.check("ncclAllGather", code)
            }
            Collective::Broadcast { x, n, dtype, root } => {
                let (n, kind) = (n as usize, data_type(dtype));
                // SAFETY: as promised by the caller.
                let code =
                    unsafe { (self.api.broadcast)(x.0, x.0, n, kind, root as c_int, self.comm, queue) };
                self.check("ncclBroadcast", code)
            }
            // SAFETY: a barrier has no memory.
            Collective::Barrier => unsafe { self.base.collective(stream, c) },
        }
    }
}

// SAFETY: work is queued on the stream given, whose device it is on, for exactly the memory of the contract, and waited for.
unsafe impl Comm for Nccl {
    fn rank(&self) -> usize {
        self.base.rank()
    }

    fn size(&self) -> usize {
        self.base.size()
    }

    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let (rank, op) = (self.base.rank(), c.name());
        if self.broken {
            return Err(Error::Comm { rank, op, what: "an earlier collective failed".into() });
        }
        if stream.native() == 0 {
            let what = "this stream is none of CUDA's; NCCL connects ranks on cuda devices".into();
            return Err(Error::Comm { rank, op, what });
        }
        let name = self.device.info().name.clone();
        self.context.bind_to_thread().map_err(super::failed(&name, "cuCtxSetCurrent"))?;
        // SAFETY: the caller's promises.
        let done = unsafe { self.queue(stream, c) };
        done.inspect_err(|_| self.broken = true)?;
        self.wait(stream, op)
    }

    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        let base = self.base.split(color, key)?;
        Ok(Box::new(Self::form(&self.device, base, self.api.clone(), self.patience)?))
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: created here and not used again; nothing is queued any more, every collective waited. One that failed was aborted.
        unsafe {
            if !self.broken {
                (self.api.destroy)(self.comm);
            }
            let _ = event::destroy(self.event);
            if self.scratch.1 > 0 {
                self.device.free(self.scratch.0, self.scratch.1);
            }
        }
    }
}

fn failed(call: &'static str, code: Status, text: String) -> Error {
    Error::Driver { device: "nccl".into(), call, code, text }
}

/// `y = a + b` of `n` floats.
///
/// # Safety
/// All live on the stream's device; `y` is `a` or apart from both.
unsafe fn add(stream: &mut dyn Stream, n: usize, a: Addr, b: Addr, y: Addr) -> Result<()> {
    let mat = |addr| Mat { addr, rows: 1, cols: n as u64, ld: n as u64, dtype: DType::F32 };
    let map = op::Map { kind: MapKind::Add, x: mat(a), z: mat(b), y: mat(y), a: 1.0, b: 1.0 };
    // SAFETY: as promised by the caller.
    unsafe { stream.launch(&map.into()) }
}

/// Host bytes among ranks that have no group of their own yet.
struct Meeting<'a> {
    device: &'a Arc<dyn Device>,
    base: Box<dyn Comm>,
}

impl Meeting<'_> {
    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.base.size() == 1 {
            return Ok(vec![bytes.to_vec()]);
        }
        let mut q = Queue::new(self.device)?;
        // A group owns its engine, so it gets this one for a while.
        let base = std::mem::replace(&mut self.base, Box::new(Nobody));
        let mut group = Group::new(base);
        let told = group.gather_bytes(&mut q, bytes);
        if let Some(base) = group.into_comm() {
            self.base = base;
        }
        told
    }
}

/// Stands where an engine is for the moment not.
struct Nobody;

// SAFETY: does nothing.
unsafe impl Comm for Nobody {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    unsafe fn collective(&mut self, _: &mut dyn Stream, c: &Collective) -> Result<()> {
        Err(Error::Comm { rank: 0, op: c.name(), what: "there is nobody".into() })
    }
    fn split(&mut self, _: u32, _: u32) -> Result<Box<dyn Comm>> {
        Ok(Box::new(Self))
    }
}
