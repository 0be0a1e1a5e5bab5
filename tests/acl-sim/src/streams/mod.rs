//! Streams, events and recorded graphs: queues of tasks, the one worker that empties them in the order the setting asks for,
//! and everything that waits. The exported functions are in `calls`, `events` and `graphs`. Sources: the CANN pages of aclrtCreateStream, aclrtSynchronizeStream(WithTimeout),
//! aclrtRecordEvent, aclrtStreamWaitEvent, aclrtQueryEventStatus, aclrtDestroyEvent and aclmdlRICaptureBegin.

mod calls;
mod events;
mod graphs;

use crate::{
    abi::*,
    config::{Chip, Run},
    order::{Access, Clock},
    world::{self, CHANGED, World, code, due, fail, ready, violation, world},
};
pub use calls::aclrtSynchronizeDevice;
use events::drop_event;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Work of an operator or a copy. It can run more than once, in a recorded graph.
pub struct Task {
    pub name: String,
    pub accesses: Vec<Access>,
    /// It waits for other ranks: tasks of other streams, which those may be waiting for, run meanwhile.
    pub meets: bool,
    pub run: Box<dyn Fn() -> Result<(), Wrong> + Send + Sync>,
}

/// How a task fails.
pub enum Wrong {
    /// By a mistake of the client, which ends the process.
    Client(String),
    /// On the device, with a code that the next wait tells.
    Device(i32, String),
}

impl From<String> for Wrong {
    fn from(text: String) -> Self {
        Self::Client(text)
    }
}

#[derive(Clone)]
enum Work {
    Run(Arc<Task>),
    Record(usize, u64),
    Wait(usize, u64),
}

struct Entry {
    n: u64,
    issued: u64,
    work: Work,
}

pub struct Stream {
    pub context: usize,
    pub device: i32,
    default: bool,
    queue: VecDeque<Entry>,
    busy: bool,
    issued: u64,
    done: u64,
    /// In the mode that runs nothing until synced: up to which task somebody waits.
    demand: u64,
    error: Option<(i32, String)>,
    stop_on_failure: bool,
    hung: bool,
    capture: Option<(aclmdlRICaptureMode, Vec<Arc<Task>>)>,
}

struct Event {
    flag: u32,
    ex: bool,
    recorded: u64,
    done: u64,
    stream: usize,
    n: u64,
    clock: Clock,
    time: Option<Instant>,
    destroyed: bool,
}

#[derive(Default)]
pub struct Streams {
    streams: HashMap<usize, Stream>,
    events: HashMap<usize, Event>,
    graphs: HashMap<usize, (usize, Vec<Arc<Task>>)>,
    issued: u64,
    started: bool,
}

impl Streams {
    pub fn alive(&self, out: &mut Vec<String>) {
        let kinds = [
            (self.streams.values().filter(|s| !s.default).count(), "streams"),
            (self.events.values().filter(|e| !e.destroyed).count(), "events"),
            (self.graphs.len(), "recorded graphs"),
        ];
        out.extend(kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    }

    /// A stream, for a context's default or for the client.
    pub fn create(&mut self, handle: usize, context: usize, device: i32, default: bool) {
        let stream = Stream {
            context,
            device,
            default,
            queue: VecDeque::new(),
            busy: false,
            issued: 0,
            done: 0,
            demand: 0,
            error: None,
            stop_on_failure: false,
            hung: false,
            capture: None,
        };
        self.streams.insert(handle, stream);
    }

    pub fn of_context(&self, context: usize) -> Vec<usize> {
        self.streams.iter().filter(|(_, s)| s.context == context).map(|(h, _)| *h).collect()
    }

    pub fn forget(&mut self, handle: usize) {
        self.streams.remove(&handle);
    }

    /// The mode of a recording in progress on any stream of the context.
    pub fn capturing(&self, context: usize) -> Option<aclmdlRICaptureMode> {
        self.streams.values().filter(|s| s.context == context).find_map(|s| s.capture.as_ref().map(|c| c.0))
    }

    /// Whether this one stream records.
    pub fn captures(&self, handle: usize) -> bool {
        self.streams.get(&handle).is_some_and(|s| s.capture.is_some())
    }

    pub fn device(&self, handle: usize) -> i32 {
        self.streams.get(&handle).map_or(0, |s| s.device)
    }
}

/// The stream a call means, which must be alive and of the thread's context.
pub fn resolve(w: &World, stream: aclrtStream) -> Result<usize, i32> {
    let (context, device) = ready(w)?;
    if stream.is_null() {
        let default = w.streams.streams.iter().find(|(_, s)| s.context == context && s.default);
        return default.map(|(h, _)| *h).ok_or_else(|| {
            fail(code!(ACL_ERROR_RT_CONTEXT_NULL), format!("EE1001: device {device} has no default stream"))
        });
    }
    let handle = stream.addr();
    match w.streams.streams.get(&handle) {
        None => violation("a stream is used that was destroyed or never created"),
        Some(s) if s.context != context => {
            Err(fail(code!(ACL_ERROR_RT_STREAM_CONTEXT), "EE1003: the stream belongs to another context"))
        }
        Some(_) => Ok(handle),
    }
}

/// Queues a task, or records it; checks that the memory it uses is there and not in use elsewhere.
pub fn submit(w: &mut World, handle: usize, task: Task) {
    let task = Arc::new(task);
    let Some(stream) = w.streams.streams.get(&handle) else { return };
    if stream.capture.is_some() {
        check_live(w, &task);
        if let Some((_, tasks)) = w.streams.streams.get_mut(&handle).and_then(|s| s.capture.as_mut()) {
            tasks.push(task);
        }
        return;
    }
    enqueue_task(w, handle, task);
}

fn check_live(w: &World, task: &Task) {
    for a in &task.accesses {
        match w.memory.find(a.start) {
            Some(block) if a.end <= block.start + block.usable => {}
            Some(block) => violation(&format!(
                "{}: {} spans {} bytes from {:#x}, past the end of its block of {} bytes at {:#x}",
                task.name,
                a.what,
                a.end - a.start,
                a.start,
                block.size,
                block.start
            )),
            None => violation(&format!("{}: {}: {}", task.name, a.what, w.memory.not_a_block(a.start))),
        }
    }
}

fn enqueue_task(w: &mut World, handle: usize, task: Arc<Task>) {
    check_live(w, &task);
    let n = push(w, handle, Work::Run(task.clone()));
    for a in &task.accesses {
        w.order.touch(&mut w.memory, handle, n, &task.name, a);
    }
}

fn push(w: &mut World, handle: usize, work: Work) -> u64 {
    start_worker(w);
    let n = w.order.enqueue(handle);
    w.streams.issued += 1;
    let issued = w.streams.issued;
    if let Some(s) = w.streams.streams.get_mut(&handle) {
        s.queue.push_back(Entry { n, issued, work });
        s.issued = n;
    }
    CHANGED.notify_all();
    n
}

fn start_worker(w: &mut World) {
    if !std::mem::replace(&mut w.streams.started, true) {
        let spawned = std::thread::Builder::new().name("acl-sim".into()).spawn(work);
        if let Err(e) = spawned {
            violation(&format!("the simulator cannot start its thread: {e}"));
        }
    }
}

/// The worker: for ever, one task at a time, but for those that wait for other ranks.
fn work() {
    let mut w = world();
    loop {
        let Some(handle) = choose(&mut w) else {
            w = world::wait(w, Duration::from_secs(3600));
            continue;
        };
        let Some(entry) = w.streams.streams.get_mut(&handle).and_then(|s| {
            s.busy = true;
            s.queue.pop_front()
        }) else {
            continue;
        };
        let outcome = match entry.work {
            Work::Run(task) => match failure_of_task(&mut w, handle) {
                Some(Outcome::Hang) => {
                    if let Some(s) = w.streams.streams.get_mut(&handle) {
                        s.hung = true;
                        s.error =
                            Some((code!(ACL_ERROR_RT_AICORE_TIMEOUT), format!("{}: no end", task.name)));
                    }
                    CHANGED.notify_all();
                    continue;
                }
                Some(Outcome::Fail(code, text)) => Err((code, format!("{}: {text}", task.name))),
                None if task.meets => {
                    run_beside(task, handle, entry.n);
                    continue;
                }
                None => {
                    drop(w);
                    let r = run(&task);
                    w = world();
                    r
                }
            },
            Work::Record(event, generation) => {
                if let Some(e) = w.streams.events.get_mut(&event) {
                    e.done = e.done.max(generation);
                    e.time = Some(Instant::now());
                }
                drop_event(&mut w, event);
                Ok(())
            }
            Work::Wait(..) => Ok(()),
        };
        finish(&mut w, handle, entry.n, outcome);
        CHANGED.notify_all();
    }
}

fn run(task: &Task) -> Result<(), (i32, String)> {
    (task.run)().map_err(|e| match e {
        Wrong::Client(text) => violation(&format!("{}: {text}", task.name)),
        Wrong::Device(code, text) => (code, format!("{}: {text}", task.name)),
    })
}

/// Runs a task on a thread of its own; its stream is busy until it ends.
fn run_beside(task: Arc<Task>, handle: usize, n: u64) {
    let spawned = std::thread::Builder::new().name("acl-sim-meets".into()).spawn(move || {
        let outcome = run(&task);
        drop(task);
        finish(&mut world(), handle, n, outcome);
        CHANGED.notify_all();
    });
    if let Err(e) = spawned {
        violation(&format!("the simulator cannot start a thread: {e}"));
    }
}

fn finish(w: &mut World, handle: usize, n: u64, outcome: Result<(), (i32, String)>) {
    let Some(s) = w.streams.streams.get_mut(&handle) else { return };
    s.busy = false;
    s.done = n;
    if let Err((code, text)) = outcome {
        // A core's exception or a lost device leaves nothing of the device usable.
        let device = s.device;
        if s.error.is_none() {
            s.error = Some((code, text.clone()));
        }
        if s.stop_on_failure {
            s.done = s.issued;
            s.queue.clear();
        }
        if code >= 507_000 {
            w.devices.entry(device).or_default().fatal.get_or_insert((code, text));
        }
    }
}

enum Outcome {
    Hang,
    Fail(i32, String),
}

fn failure_of_task(w: &mut World, handle: usize) -> Option<Outcome> {
    let device = w.streams.device(handle);
    let tasks = &mut w.config.tasks;
    let (lost, hang, fault) = (due(tasks, "lost"), due(tasks, "hang"), due(tasks, "fault"));
    if let Some(f) = lost {
        return Some(Outcome::Fail(f.code, format!("EE9999: device {device} lost its heartbeat")));
    }
    if hang.is_some() {
        return Some(Outcome::Hang);
    }
    if let Some(f) = fault {
        return Some(Outcome::Fail(
            f.code,
            format!("EZ9999: the task failed on device {device} with {}", f.code),
        ));
    }
    let (code, text) = w.devices.get(&device)?.fatal.clone()?;
    Some(Outcome::Fail(code, text))
}

/// The stream whose first task runs next.
fn choose(w: &mut World) -> Option<usize> {
    let run = w.config.run;
    // A wait for an event is a demand for the work before it.
    let mut demands = Vec::new();
    for s in w.streams.streams.values().filter(|s| run != Run::Synced || s.done < s.demand) {
        if let Some(Entry { work: Work::Wait(event, generation), .. }) = s.queue.front()
            && let Some(e) = w.streams.events.get(event)
            && e.done < *generation
        {
            demands.push((e.stream, e.n));
        }
    }
    for (stream, n) in demands {
        if let Some(s) = w.streams.streams.get_mut(&stream) {
            s.demand = s.demand.max(n);
        }
    }
    let can_run = |s: &Stream| {
        let Some(first) = s.queue.front() else { return false };
        let waits = match first.work {
            Work::Wait(event, generation) => {
                w.streams.events.get(&event).is_some_and(|e| e.done < generation)
            }
            _ => false,
        };
        !s.busy && !s.hung && !waits && (run != Run::Synced || first.n <= s.demand)
    };
    let mut ready: Vec<(u64, usize)> = w
        .streams
        .streams
        .iter()
        .filter(|(_, s)| can_run(s))
        .map(|(h, s)| (s.queue.front().map_or(0, |e| e.issued), *h))
        .collect();
    ready.sort_unstable();
    match run {
        Run::Random if ready.len() > 1 => {
            let i = w.random() as usize % ready.len();
            Some(ready[i].1)
        }
        Run::Reverse => ready.last().map(|r| r.1),
        _ => ready.first().map(|r| r.1),
    }
}

/// Waits until a stream has done its task `n`; `None` waits for ever, but not for a task that hangs.
fn wait_for(handle: usize, n: u64, limit: Option<Duration>) -> Result<(), i32> {
    let start = Instant::now();
    let mut w = world();
    let patience = Duration::from_millis(w.config.op_timeout);
    if let Some(s) = w.streams.streams.get_mut(&handle) {
        s.demand = s.demand.max(n);
    }
    CHANGED.notify_all();
    loop {
        let Some(s) = w.streams.streams.get_mut(&handle) else { return Ok(()) };
        if s.done >= n {
            let error = s.error.take();
            return match error {
                Some((code, text)) => Err(fail(code, text)),
                None => Ok(()),
            };
        }
        let spent = start.elapsed();
        if let Some(limit) = limit
            && spent >= limit
        {
            return Err(fail(
                code!(ACL_ERROR_RT_STREAM_SYNC_TIMEOUT),
                "EE1002: waiting for the stream timed out",
            ));
        }
        let hangs = w.streams.streams.values().any(|s| s.hung);
        if hangs && limit.is_none() && spent >= patience {
            give_up(&mut w);
            continue;
        }
        let left = limit.map_or(Duration::from_millis(200), |l| l - spent);
        let left = if hangs { left.min(patience / 4 + Duration::from_millis(1)) } else { left };
        w = world::wait(w, left);
    }
}

/// The device notices that a task never ends: its stream fails and drops what it has.
fn give_up(w: &mut World) {
    let hung: Vec<usize> = w.streams.streams.iter().filter(|(_, s)| s.hung).map(|(h, _)| *h).collect();
    for handle in hung {
        let Some(s) = w.streams.streams.get_mut(&handle) else { continue };
        s.hung = false;
        s.queue.clear();
        let n = s.issued;
        let (code, text) = s.error.take().unwrap_or((code!(ACL_ERROR_RT_AICORE_TIMEOUT), String::new()));
        finish(w, handle, n, Err((code, format!("EZ9999: aicore timeout: {text}"))));
    }
    CHANGED.notify_all();
}

/// The clock and the last number of a stream; what a wait for it will have seen.
fn frontier(w: &World, handle: usize) -> (u64, Clock) {
    (w.streams.streams.get(&handle).map_or(0, |s| s.issued), w.order.of_stream(handle))
}

/// Waits for everything queued on a stream so far.
pub fn drain(handle: usize, limit: Option<Duration>) -> Result<(), i32> {
    let (n, clock) = frontier(&world(), handle);
    let result = wait_for(handle, n, limit);
    let timed_out = result == Err(code!(ACL_ERROR_RT_STREAM_SYNC_TIMEOUT));
    if !timed_out {
        world().order.host_waits(&clock);
    }
    result
}

fn refuse_in_capture(w: &World, handle: usize) -> Result<(), i32> {
    if w.streams.captures(handle) {
        return Err(fail(code!(ACL_ERROR_RT_STREAM_CAPTURED), "EE1006: the stream is being captured"));
    }
    Ok(())
}

fn end(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

/// Every exported function of this family.
pub const FUNCTIONS: [&[(&str, &[&str], &str)]; 3] = [calls::FUNCTIONS, events::FUNCTIONS, graphs::FUNCTIONS];
