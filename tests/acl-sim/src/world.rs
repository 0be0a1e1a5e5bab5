//! The one simulated machine of the process: its lock, the calling thread's context and messages, violations, injected
//! failures, and the report of what is still alive.

use crate::{
    config::Config, executor::Executors, hccl::Comms, memory::Memory, objects::Objects, order::Order,
    streams::Streams,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CStr, CString, c_char},
    sync::{Condvar, LazyLock, Mutex, MutexGuard},
};

/// State of one device.
#[derive(Default)]
pub struct Device {
    /// Balance of set and reset.
    pub references: u32,
    /// Handle of the default context.
    pub context: usize,
    /// Set once the device is lost or a core has failed for good.
    pub fatal: Option<(i32, String)>,
}

pub struct World {
    pub config: Config,
    pub initialised: bool,
    pub devices: HashMap<i32, Device>,
    /// Device of every live context.
    pub contexts: HashMap<usize, i32>,
    pub memory: Memory,
    pub order: Order,
    pub streams: Streams,
    pub objects: Objects,
    pub executors: Executors,
    pub comms: Comms,
    pub deterministic: i64,
    random: u64,
    last_handle: usize,
}

impl World {
    fn new() -> Self {
        let mut config = Config::default();
        if let Ok(text) = std::env::var("ACL_SIM")
            && let Err(e) = config.apply(&text)
        {
            violation(&format!("ACL_SIM: {e}"));
        }
        let random = config.seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
        // Handles lie where no memory is.
        Self {
            config,
            initialised: false,
            devices: HashMap::new(),
            contexts: HashMap::new(),
            memory: Memory::default(),
            order: Order::default(),
            streams: Streams::default(),
            objects: Objects::default(),
            executors: Executors::default(),
            comms: Comms::default(),
            deterministic: 0,
            random,
            last_handle: 0x5000_0000_0000_0000,
        }
    }

    /// A handle never given before, so that a stale one is always recognised.
    pub fn new_handle(&mut self) -> usize {
        self.last_handle += 16;
        self.last_handle
    }

    /// The next number of the seeded sequence.
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Everything a client still holds, one line for each kind.
    pub fn alive(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.memory.alive(&mut out);
        self.streams.alive(&mut out);
        self.objects.alive(&mut out);
        self.executors.alive(&mut out);
        self.comms.alive(&mut out);
        out
    }
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::new()));
/// Woken whenever work is queued or done.
pub static CHANGED: Condvar = Condvar::new();

pub fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for a change, or for the time given.
pub fn wait(guard: MutexGuard<'static, World>, limit: std::time::Duration) -> MutexGuard<'static, World> {
    match CHANGED.wait_timeout(guard, limit) {
        Ok((guard, _)) => guard,
        Err(e) => e.into_inner().0,
    }
}

/// Ends the process: real hardware would corrupt memory, hang or fail later and elsewhere.
pub fn violation(what: &str) -> ! {
    eprintln!("acl-sim: violation: {what}");
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
    std::process::abort()
}

thread_local! {
    /// Current context of the thread, 0 before the first set-device.
    pub static CURRENT: Cell<usize> = const { Cell::new(0) };
    pub static LAST_ERROR: Cell<i32> = const { Cell::new(0) };
    static MESSAGE: RefCell<Option<CString>> = const { RefCell::new(None) };
    /// The message handed out last. It is spoiled at the next call, as the thread's string would be.
    static GIVEN: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Keeps the text for `aclGetRecentErrMsg` and returns the code.
pub fn fail(code: i32, text: impl AsRef<str>) -> i32 {
    let text = text.as_ref();
    LAST_ERROR.with(|e| e.set(code));
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    MESSAGE.with(|m| *m.borrow_mut() = Some(text));
    code
}

/// Hands the thread's message out and forgets it; null where there is none.
pub fn take_message() -> *const c_char {
    let message = MESSAGE.with(|m| m.borrow_mut().take());
    GIVEN.with(|given| {
        if let Some(old) = given.borrow_mut().take() {
            // The memory stays mapped so that a late read is seen as nonsense, not as a crash elsewhere.
            let mut bytes = old.into_bytes_with_nul();
            let last = bytes.len() - 1;
            bytes[..last].fill(b'#');
            std::mem::forget(bytes);
        }
        *given.borrow_mut() = message;
        given.borrow().as_ref().map_or(std::ptr::null(), |m| m.as_ptr())
    })
}

/// Code to return instead of running the function, if a setting says so.
pub fn injected(name: &'static str) -> Option<i32> {
    let mut w = world();
    if w.config.trace {
        eprintln!("acl-sim: {name}");
    }
    let hit = due(&mut w.config.calls, name)?;
    Some(fail(hit.code, format!("EZ9999: injected failure of {name} with {}", hit.code)))
}

/// Counts a call against the failures to come; returns the one that is due and forgets it.
pub fn due(failures: &mut Vec<crate::config::Failure>, name: &str) -> Option<crate::config::Failure> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let mut hit = None;
    for (i, f) in failures.iter_mut().enumerate().filter(|(_, f)| matches(&f.name)) {
        f.left = f.left.saturating_sub(1);
        if f.left == 0 && hit.is_none() {
            hit = Some(i);
        }
    }
    hit.map(|i| failures.remove(i))
}

/// Why a call cannot proceed on this thread: not initialised, or without a context.
pub fn ready(w: &World) -> Result<(usize, i32), i32> {
    if !w.initialised {
        return Err(fail(code!(ACL_ERROR_UNINITIALIZE), "EE1001: aclInit has not been called"));
    }
    let context = CURRENT.with(Cell::get);
    let device = w.contexts.get(&context).copied().ok_or_else(|| {
        fail(
            code!(ACL_ERROR_RT_CONTEXT_NULL),
            "EE1001: this thread has no context: call aclrtSetDevice on it first",
        )
    })?;
    if let Some((code, text)) = w.devices.get(&device).and_then(|d| d.fatal.as_ref()) {
        return Err(fail(*code, text));
    }
    Ok((context, device))
}

/// Only that `aclInit` was called.
pub fn initialised(w: &World) -> Result<(), i32> {
    if w.initialised {
        Ok(())
    } else {
        Err(fail(code!(ACL_ERROR_UNINITIALIZE), "EE1001: aclInit has not been called"))
    }
}

/// Registers the report at the end of the process, once.
pub fn report_at_exit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn report() {
        if let Ok(w) = WORLD.try_lock()
            && w.initialised
        {
            eprintln!("acl-sim: the process ends without aclFinalize; alive: {}", join(&w.alive()));
        }
    }
    // SAFETY: `report` touches only statics of this library, which stays loaded.
    ONCE.call_once(|| unsafe {
        libc::atexit(report);
    });
}

pub fn join(lines: &[String]) -> String {
    if lines.is_empty() { "nothing".into() } else { lines.join(", ") }
}

/// Settings from a test; `leaks` returns how many kinds of things are alive and leaves their list as the message. −1 where
/// the text is not understood.
///
/// # Safety
/// `text` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn acl_sim_control(text: *const c_char) -> i32 {
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut w = world();
    if text == "leaks" {
        let alive = w.alive();
        return fail(alive.len() as i32, join(&alive));
    }
    match w.config.apply(&text) {
        Ok(()) => 0,
        Err(e) => {
            drop(w);
            fail(-1, e)
        }
    }
}

/// A documented constant as a return code.
macro_rules! code {
    ($name:ident) => {
        $crate::abi::code($crate::abi::$name)
    };
}
pub(crate) use code;
