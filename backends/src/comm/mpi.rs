//! MPI, opened at run time: nothing of it is needed to build, and one program serves Open MPI and MPICH (and what has MPICH's binary
//! interface: Intel MPI, Cray MPI, MVAPICH). Only messages between pairs of ranks are used, tested until they arrive, so that a rank
//! that is missing is known by name and in time.
//!
//! The two differ in their handles: addresses of library objects in Open MPI, fixed `int`s in MPICH. Both are passed here in
//! a word of 64 bits, whose lower half is the `int` on the little-endian machines both run on.

use super::wire::{Wire, Wired};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use lm_saes_runtime::{Comm, Error, Result};
use std::{
    ffi::{c_int, c_void},
    mem, ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

type Handle = u64;
type Init = unsafe extern "C" fn(*mut c_int, *mut c_void, c_int, *mut c_int) -> c_int;
type Of = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
type Message = unsafe extern "C" fn(*mut c_void, c_int, Handle, c_int, c_int, Handle, *mut Handle) -> c_int;
type Test = unsafe extern "C" fn(*mut Handle, *mut c_int, *mut c_void) -> c_int;
type Abort = unsafe extern "C" fn(Handle, c_int) -> c_int;
type Plain = unsafe extern "C" fn() -> c_int;

/// All calls of one process, one at a time.
const SERIALIZED: c_int = 2;
/// Most bytes of one message: counts are `int`s.
const MOST: usize = 1 << 28;

/// The functions used, and the constants of this implementation.
struct Api {
    isend: Message,
    irecv: Message,
    test: Test,
    abort: Abort,
    finalize: Plain,
    world: Handle,
    byte: Handle,
    ignore: *mut c_void,
    _library: Library,
}

/// This process's place in an MPI job, from `MPI_Init` until it is dropped. When that happens in a panic, the whole job ends.
pub struct Mpi {
    engine: Arc<Engine>,
    rank: usize,
    size: usize,
}

struct Engine {
    /// Held for one call at a time: an exchange that waits must not keep another thread's from being answered.
    api: Mutex<Api>,
    patience: Duration,
    /// After a failure nothing is sent any more: the library may still write to memory of unfinished messages.
    broken: AtomicBool,
}

// SAFETY: the pointers are constants of the library, and calls are made one at a time, under the mutex.
unsafe impl Send for Api {}

impl Mpi {
    /// Joins the job this process was started in. `LM_SAES_MPI` names the library; without it the usual names are tried, those of
    /// the launcher that `open_mpi` guesses first.
    ///
    /// # Errors
    /// No library, or one without the functions used.
    pub fn join(open_mpi: bool, patience: Duration) -> Result<Self> {
        let library = open(open_mpi)?;
        // SAFETY: the types are those of the MPI standard, with handles as described above.
        unsafe {
            let mut given = 0;
            let init: Init = symbol(&library, "MPI_Init_thread")?;
            let code = init(ptr::null_mut(), ptr::null_mut(), SERIALIZED, &mut given);
            if code != 0 {
                return Err(failed("MPI_Init_thread", code, "the launcher and the library may not match"));
            }
            if given < SERIALIZED {
                let text =
                    "the MPI library was built for one thread; use one that serializes calls of several";
                return Err(failed("MPI_Init_thread", given, text));
            }
            let constant = |name: &str| library.get::<*mut c_void>(name.as_bytes()).ok();
            let (world, byte, ignore) = match constant("ompi_mpi_comm_world") {
                Some(world) => {
                    let byte = constant("ompi_mpi_byte")
                        .ok_or_else(|| failed("dlsym", 0, "libmpi has no ompi_mpi_byte"))?;
                    (world.into_raw() as Handle, byte.into_raw() as Handle, ptr::null_mut())
                }
                None => (0x4400_0000, 0x4c00_010d, ptr::without_provenance_mut(1)),
            };
            let (mut rank, mut size) = (0, 0);
            symbol::<Of>(&library, "MPI_Comm_rank")?(world, &mut rank);
            symbol::<Of>(&library, "MPI_Comm_size")?(world, &mut size);
            let api = Api {
                isend: symbol(&library, "MPI_Isend")?,
                irecv: symbol(&library, "MPI_Irecv")?,
                test: symbol(&library, "MPI_Test")?,
                abort: symbol(&library, "MPI_Abort")?,
                finalize: symbol(&library, "MPI_Finalize")?,
                world,
                byte,
                ignore,
                _library: library,
            };
            let engine = Engine { api: Mutex::new(api), patience, broken: AtomicBool::new(false) };
            Ok(Self { engine: Arc::new(engine), rank: rank as usize, size: size as usize })
        }
    }

    /// Whether there is a library to join with.
    pub fn is_installed() -> bool {
        open(true).is_ok()
    }

    /// This rank.
    pub const fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// All ranks. Groups must be gone before this value is dropped.
    pub fn world(&self) -> Box<dyn Comm> {
        Box::new(Wired::world(self.engine.clone(), self.rank, self.size))
    }

    /// Ends all processes of the job at once.
    pub fn abort(&self, code: i32) {
        let api = self.engine.calls();
        // SAFETY: the library is initialised.
        unsafe { (api.abort)(api.world, code) };
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if thread::panicking() {
            return self.abort(101);
        }
        if self.engine.broken.load(Ordering::Relaxed) {
            return;
        }
        let api = self.engine.calls();
        // SAFETY: the library is initialised and no message is on its way: exchanges end when theirs have arrived.
        unsafe { (api.finalize)() };
    }
}

fn failed(call: &'static str, code: c_int, text: &str) -> Error {
    Error::Driver { device: "mpi".into(), call, code, text: text.into() }
}

fn open(open_mpi: bool) -> Result<Library> {
    let named = std::env::var("LM_SAES_MPI").ok().filter(|n| !n.is_empty());
    let names: Vec<String> = match named {
        Some(name) => vec![name],
        None => {
            let mut names = ["libmpi.so.40", "libmpich.so.12", "libmpi.so.12", "libmpi.so"];
            if !open_mpi {
                names.rotate_left(1);
            }
            names.map(String::from).to_vec()
        }
    };
    let mut why = String::new();
    for name in &names {
        // SAFETY: an MPI library's initialisers only prepare it. Its plugins look for its symbols among the global ones.
        match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => return Ok(library),
            Err(e) => why = e.to_string(),
        }
    }
    let text = format!(
        "none of {} could be opened ({why}); install MPI (Debian: openmpi-bin) or name its library in LM_SAES_MPI",
        names.join(", ")
    );
    Err(failed("dlopen", 0, &text))
}

/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T: Copy>(library: &Library, name: &'static str) -> Result<T> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|f| *f).map_err(|e| failed(name, 0, &e.to_string()))
}

impl Engine {
    fn calls(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages on their way, each with the rank at its other end.
struct Pending(Vec<(usize, Handle)>);

impl Wire for Engine {
    fn exchange(
        &self,
        tag: u32,
        outgoing: &[(usize, &[u8])],
        incoming: &mut [(usize, &mut [u8])],
        what: &'static str,
    ) -> Result<(), String> {
        if self.broken.load(Ordering::Relaxed) {
            return Err("an earlier exchange failed".into());
        }
        let mut pending = Pending(Vec::new());
        let mut state = |receive: bool, rank: usize, at: *mut u8, bytes: usize| -> Result<(), String> {
            let (mut request, api) = (0, self.calls());
            let call = if receive { api.irecv } else { api.isend };
            // SAFETY: the bytes stay where they are until the request is done; if it never is, the caller's memory is given up below.
            let code = unsafe {
                call(
                    at.cast(),
                    bytes as c_int,
                    api.byte,
                    rank as c_int,
                    tag as c_int,
                    api.world,
                    &mut request,
                )
            };
            pending.0.push((rank, request));
            if code == 0 {
                Ok(())
            } else {
                Err(format!("MPI refused a message with rank {rank}: code {code}"))
            }
        };
        // Copies, so that memory the library may still write to can be given up when a rank never answers.
        let sent: Vec<(usize, Vec<u8>)> = outgoing.iter().map(|(r, bytes)| (*r, bytes.to_vec())).collect();
        let mut got: Vec<(usize, Vec<u8>)> = incoming.iter().map(|(r, to)| (*r, vec![0; to.len()])).collect();
        let mut stated = Ok(());
        for (rank, to) in &mut got {
            for piece in pieces(to.len()) {
                let at = to[piece.clone()].as_mut_ptr();
                stated = stated.and_then(|()| state(true, *rank, at, piece.len()));
            }
        }
        for (rank, from) in &sent {
            for piece in pieces(from.len()) {
                let at = from[piece.clone()].as_ptr().cast_mut();
                stated = stated.and_then(|()| state(false, *rank, at, piece.len()));
            }
        }
        let done = stated.and_then(|()| pending.wait(self, what));
        if done.is_err() {
            self.broken.store(true, Ordering::Relaxed);
            mem::forget((sent, got));
            return done;
        }
        incoming.iter_mut().zip(&got).for_each(|((_, to), (_, from))| to.copy_from_slice(from));
        Ok(())
    }
}

/// Ranges of at most `MOST` of `n` bytes; one that is empty when there are none.
fn pieces(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n.max(1)).step_by(MOST).map(move |at| at..(at + MOST).min(n))
}

impl Pending {
    /// Tests until all messages have arrived.
    fn wait(&mut self, engine: &Engine, what: &str) -> Result<(), String> {
        let (began, patience) = (Instant::now(), engine.patience);
        let mut rounds = 0_u32;
        while !self.0.is_empty() {
            let before = self.0.len();
            let (mut refused, api) = (None, engine.calls());
            self.0.retain_mut(|(rank, request)| {
                let mut done = 0;
                // SAFETY: the request came from this library and is not done yet.
                let code = unsafe { (api.test)(request, &mut done, api.ignore) };
                if code != 0 {
                    refused = Some(format!("a message with rank {rank} failed: code {code}"));
                }
                done == 0
            });
            drop(api);
            if let Some(text) = refused {
                return Err(text);
            }
            rounds = if self.0.len() < before { 0 } else { rounds + 1 };
            if rounds > 0 && began.elapsed() >= patience {
                let mut missing: Vec<usize> = self.0.iter().map(|(r, _)| *r).collect();
                missing.sort_unstable();
                missing.dedup();
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                let seconds = patience.as_secs_f64();
                return Err(format!(
                    "rank {} did not take part in {what} within {seconds} s",
                    missing.join(", ")
                ));
            }
            match rounds {
                0 => {}
                // Cores may be fewer than ranks: whoever is waited for must get one.
                1..=500 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(100)),
            }
        }
        Ok(())
    }
}
