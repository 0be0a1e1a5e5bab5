//! Streams, events and recorded graphs: queues of tasks, the one worker that empties them in the order the setting asks for,
//! and everything that waits. Sources: the CANN pages of aclrtCreateStream, aclrtSynchronizeStream(WithTimeout),
//! aclrtRecordEvent, aclrtStreamWaitEvent, aclrtQueryEventStatus, aclrtDestroyEvent and aclmdlRICaptureBegin.

use crate::{
    abi::*,
    config::{Chip, Run},
    order::{Access, Clock},
    world::{self, CHANGED, World, code, due, fail, ready, violation, world},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Work of an operator or a copy. It can run more than once, in a recorded graph.
pub struct Task {
    pub name: String,
    pub accesses: Vec<Access>,
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
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

/// The worker: for ever, one task at a time.
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
                None => {
                    drop(w);
                    let r = (task.run)();
                    w = world();
                    r.map_err(|e| violation(&format!("{}: {e}", task.name)))
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

fn drop_event(w: &mut World, event: usize) {
    if w.streams.events.get(&event).is_some_and(|e| e.destroyed && e.done == e.recorded) {
        w.streams.events.remove(&event);
    }
}

fn event(w: &mut World, handle: aclrtEvent) -> Result<&mut Event, i32> {
    if handle.is_null() {
        return Err(fail(code!(ACL_ERROR_RT_PARAM_INVALID), "EE1001: the event is null"));
    }
    match w.streams.events.get_mut(&handle.addr()) {
        Some(e) if !e.destroyed => Ok(e),
        _ => violation("an event is used that was destroyed or never created"),
    }
}

fn create_event(out: *mut aclrtEvent, flag: u32, ex: bool) -> i32 {
    let mut w = world();
    if let Err(code) = ready(&w) {
        return code;
    }
    if out.is_null() {
        return fail(code!(ACL_ERROR_INVALID_PARAM), "EE1001: the event's place is null");
    }
    if w.streams.events.len() >= if w.config.chip() == Chip::P310 { 1023 } else { 65536 } {
        return fail(207_007, "EE1007: the device has no more events");
    }
    let handle = w.new_handle();
    let event = Event {
        flag,
        ex,
        recorded: 0,
        done: 0,
        stream: 0,
        n: 0,
        clock: Clock::new(),
        time: None,
        destroyed: false,
    };
    w.streams.events.insert(handle, event);
    // SAFETY: the caller gave a place for the handle.
    unsafe { *out = crate::abi::handle(handle) };
    0
}

/// Whether everything before the event's last record is done; learns it for the order where it is.
fn complete(w: &mut World, handle: aclrtEvent) -> Result<bool, i32> {
    ready(w)?;
    if let Some(context) = Some(world::CURRENT.with(std::cell::Cell::get))
        && w.streams.capturing(context).is_some()
    {
        return Err(fail(
            code!(ACL_ERROR_RT_STREAM_CAPTURED),
            "EE1006: no event can be queried during a capture",
        ));
    }
    let e = event(w, handle)?;
    let done = if e.recorded == 0 { e.ex } else { e.done >= e.recorded };
    let (stream, clock) = (e.stream, e.clock.clone());
    if done {
        w.order.host_waits(&clock);
    } else if let Some(s) = w.streams.streams.get_mut(&stream) {
        // Somebody who polls makes progress too, one task a poll.
        s.demand = s.demand.max(s.done + 1);
        CHANGED.notify_all();
    }
    Ok(done)
}

fn create_stream(out: *mut aclrtStream) -> i32 {
    let mut w = world();
    let (context, device) = match ready(&w) {
        Ok(found) => found,
        Err(code) => return code,
    };
    if out.is_null() {
        return fail(code!(ACL_ERROR_INVALID_PARAM), "EE1001: the stream's place is null");
    }
    let most = match w.config.chip() {
        Chip::P310 => 1024,
        Chip::A910 => 2048,
        _ => 1984,
    };
    if w.streams.streams.len() >= most {
        return fail(code!(ACL_ERROR_RT_NO_STREAM_RESOURCE), "EE1007: the device has no more streams");
    }
    let handle = w.new_handle();
    w.streams.create(handle, context, device, false);
    // SAFETY: the caller gave a place for the handle.
    unsafe { *out = crate::abi::handle(handle) };
    0
}

fn destroy_stream(stream: aclrtStream, force: bool) -> i32 {
    if stream.is_null() {
        return fail(code!(ACL_ERROR_INVALID_PARAM), "EE1001: the stream is null");
    }
    let handle = stream.addr();
    {
        let mut w = world();
        let device_fatal = {
            let Some(s) = w.streams.streams.get(&handle) else {
                violation("a stream is destroyed that was destroyed before or never created")
            };
            if s.default {
                return fail(
                    code!(ACL_ERROR_RT_PARAM_INVALID),
                    "EE1001: the default stream cannot be destroyed",
                );
            }
            if s.context != world::CURRENT.with(std::cell::Cell::get) {
                return fail(
                    code!(ACL_ERROR_RT_STREAM_CONTEXT),
                    "EE1003: the stream belongs to another context",
                );
            }
            if s.capture.is_some() {
                return fail(code!(ACL_ERROR_RT_STREAM_CAPTURED), "EE1006: the stream is being captured");
            }
            w.devices.get(&s.device).is_some_and(|d| d.fatal.is_some())
        };
        if (force || device_fatal)
            && let Some(s) = w.streams.streams.get_mut(&handle)
        {
            s.queue.clear();
            s.hung = false;
            if !s.busy {
                s.done = s.issued;
            }
        }
    }
    // The documented wait; errors of its tasks were for whoever synchronised.
    let _ = drain(handle, None);
    let mut w = world();
    w.streams.forget(handle);
    w.order.end(handle);
    0
}

/// The streams of the thread's context, none of which may be recording.
fn idle_streams() -> Result<Vec<usize>, i32> {
    let w = world();
    let (context, _) = ready(&w)?;
    match w.streams.capturing(context) {
        Some(_) => Err(fail(code!(ACL_ERROR_RT_STREAM_CAPTURED), "EE1006: a stream is being captured")),
        None => Ok(w.streams.of_context(context)),
    }
}

fn end(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(0)
}

exports! { FUNCTIONS:
    fn aclrtCreateStream(stream: *mut aclrtStream) -> aclError {
        create_stream(stream)
    }
    fn aclrtCreateStreamWithConfig(stream: *mut aclrtStream, _priority: u32, _flag: u32) -> aclError {
        create_stream(stream)
    }
    fn aclrtDestroyStream(stream: aclrtStream) -> aclError {
        destroy_stream(stream, false)
    }
    fn aclrtDestroyStreamForce(stream: aclrtStream) -> aclError {
        destroy_stream(stream, true)
    }
    fn aclrtSynchronizeStream(stream: aclrtStream) -> aclError {
        let handle = { let w = world(); resolve(&w, stream).and_then(|h| refuse_in_capture(&w, h).map(|()| h)) };
        end(handle.and_then(|h| drain(h, None)))
    }
    fn aclrtSynchronizeStreamWithTimeout(stream: aclrtStream, timeout: i32) -> aclError {
        let limit = (timeout >= 0).then(|| Duration::from_millis(timeout as u64));
        let handle = { let w = world(); resolve(&w, stream).and_then(|h| refuse_in_capture(&w, h).map(|()| h)) };
        end(handle.and_then(|h| drain(h, limit)))
    }
    fn aclrtSynchronizeDevice() -> aclError {
        end(idle_streams().and_then(|all| all.into_iter().try_for_each(|h| drain(h, None))))
    }
    fn aclrtSynchronizeDeviceWithTimeout(timeout: i32) -> aclError {
        let limit = (timeout >= 0).then(|| Duration::from_millis(timeout as u64));
        end(idle_streams().and_then(|all| all.into_iter().try_for_each(|h| drain(h, limit))))
    }
    fn aclrtStreamQuery(stream: aclrtStream, status: *mut aclrtStreamStatus) -> aclError {
        let mut w = world();
        let handle = match resolve(&w, stream).and_then(|h| refuse_in_capture(&w, h).map(|()| h)) {
            Ok(h) => h,
            Err(code) => return code,
        };
        let clock = w.order.of_stream(handle);
        let Some(s) = w.streams.streams.get_mut(&handle) else { return 0 };
        let done = s.done >= s.issued;
        if !done {
            s.demand = s.demand.max(s.done + 1);
            CHANGED.notify_all();
        } else {
            w.order.host_waits(&clock);
        }
        // SAFETY: the caller gave a place for the status.
        unsafe { *status = code!(ACL_STREAM_STATUS_NOT_READY) as u32 * u32::from(!done) };
        0
    }
    fn aclrtSetStreamFailureMode(stream: aclrtStream, mode: u64) -> aclError {
        let mut w = world();
        if stream.is_null() || mode > 1 {
            return fail(code!(ACL_ERROR_RT_PARAM_INVALID), "EE1001: not the default stream, and mode 0 or 1");
        }
        match resolve(&w, stream) {
            Ok(h) => {
                if let Some(s) = w.streams.streams.get_mut(&h) {
                    s.stop_on_failure = mode == 1;
                }
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtStreamWaitEvent(stream: aclrtStream, event_: aclrtEvent) -> aclError {
        let mut w = world();
        let handle = match resolve(&w, stream) {
            Ok(h) => h,
            Err(code) => return code,
        };
        if w.streams.captures(handle) {
            return fail(code!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT), "the simulator captures one stream without events");
        }
        let (generation, clock) = match event(&mut w, event_) {
            Ok(e) => (e.recorded, e.clock.clone()),
            Err(code) => return code,
        };
        w.order.stream_waits(handle, &clock);
        push(&mut w, handle, Work::Wait(event_.addr(), generation));
        0
    }
    fn aclrtCreateEvent(event: *mut aclrtEvent) -> aclError {
        create_event(event, code!(ACL_EVENT_SYNC) as u32 | code!(ACL_EVENT_TIME_LINE) as u32, false)
    }
    fn aclrtCreateEventWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError {
        create_event(event, flag, false)
    }
    fn aclrtCreateEventExWithFlag(event: *mut aclrtEvent, flag: u32) -> aclError {
        create_event(event, flag, true)
    }
    fn aclrtDestroyEvent(event_: aclrtEvent) -> aclError {
        let mut w = world();
        match event(&mut w, event_) {
            Ok(e) => e.destroyed = true,
            Err(code) => return code,
        }
        drop_event(&mut w, event_.addr());
        0
    }
    fn aclrtRecordEvent(event_: aclrtEvent, stream: aclrtStream) -> aclError {
        let mut w = world();
        let handle = match resolve(&w, stream) {
            Ok(h) => h,
            Err(code) => return code,
        };
        if w.streams.captures(handle) {
            return fail(code!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT), "the simulator captures one stream without events");
        }
        let generation = match event(&mut w, event_) {
            Ok(e) => e.recorded + 1,
            Err(code) => return code,
        };
        let n = push(&mut w, handle, Work::Record(event_.addr(), generation));
        let clock = w.order.of_stream(handle);
        if let Some(e) = w.streams.events.get_mut(&event_.addr()) {
            (e.recorded, e.stream, e.n, e.clock) = (generation, handle, n, clock);
        }
        0
    }
    fn aclrtResetEvent(event_: aclrtEvent, stream: aclrtStream) -> aclError {
        let mut w = world();
        if let Err(code) = resolve(&w, stream) {
            return code;
        }
        match event(&mut w, event_) {
            Ok(e) if e.ex || e.flag & code!(ACL_EVENT_SYNC) as u32 == 0 => {
                fail(code!(ACL_ERROR_RT_PARAM_INVALID), "EE1001: only an event made for synchronisation can be reset")
            }
            Ok(e) => {
                (e.recorded, e.done) = (0, 0);
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtQueryEvent(event: aclrtEvent, status: *mut aclrtEventStatus) -> aclError {
        match complete(&mut world(), event) {
            Ok(done) => {
                // SAFETY: the caller gave a place for the status.
                unsafe { *status = u32::from(!done) };
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtQueryEventStatus(event: aclrtEvent, status: *mut aclrtEventRecordedStatus) -> aclError {
        match complete(&mut world(), event) {
            Ok(done) => {
                // SAFETY: the caller gave a place for the status.
                unsafe { *status = u32::from(done) };
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtQueryEventWaitStatus(event: aclrtEvent, status: *mut aclrtEventWaitStatus) -> aclError {
        match complete(&mut world(), event) {
            Ok(done) => {
                // SAFETY: the caller gave a place for the status.
                unsafe { *status = u32::from(!done) };
                0
            }
            Err(code) => code,
        }
    }
    fn aclrtSynchronizeEvent(event_: aclrtEvent) -> aclError {
        let (stream, n, clock) = {
            let mut w = world();
            if let Err(code) = ready(&w) {
                return code;
            }
            match event(&mut w, event_) {
                Ok(e) => (e.stream, e.n, e.clock.clone()),
                Err(code) => return code,
            }
        };
        let result = wait_for(stream, n, None);
        world().order.host_waits(&clock);
        end(result)
    }
    fn aclrtEventElapsedTime(ms: *mut f32, start: aclrtEvent, stop: aclrtEvent) -> aclError {
        let mut w = world();
        let mut times = [None; 2];
        for (time, handle) in times.iter_mut().zip([start, stop]) {
            match event(&mut w, handle) {
                Ok(e) if e.flag & code!(ACL_EVENT_TIME_LINE) as u32 != 0 && e.done >= e.recorded => *time = e.time,
                Ok(_) => {}
                Err(code) => return code,
            }
        }
        match times {
            [Some(a), Some(b)] => {
                // SAFETY: the caller gave a place for the time.
                unsafe { *ms = b.saturating_duration_since(a).as_secs_f32() * 1000.0 };
                0
            }
            _ => fail(
                code!(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID),
                "EE1001: both events need ACL_EVENT_TIME_LINE and a finished record",
            ),
        }
    }
    fn aclmdlRICaptureBegin(stream: aclrtStream, mode: aclmdlRICaptureMode) -> aclError {
        let mut w = world();
        if matches!(w.config.chip(), Chip::P310 | Chip::A910) {
            return fail(code!(ACL_ERROR_RT_FEATURE_NOT_SUPPORT), "EE1004: this chip has no capture");
        }
        if stream.is_null() {
            return fail(code!(ACL_ERROR_RT_PARAM_INVALID), "EE1001: the default stream cannot be captured");
        }
        match resolve(&w, stream).and_then(|h| refuse_in_capture(&w, h).map(|()| h)) {
            Ok(h) => {
                if let Some(s) = w.streams.streams.get_mut(&h) {
                    s.capture = Some((mode, Vec::new()));
                }
                0
            }
            Err(code) => code,
        }
    }
    fn aclmdlRICaptureEnd(stream: aclrtStream, model: *mut aclmdlRI) -> aclError {
        let mut w = world();
        let handle = match resolve(&w, stream) {
            Ok(h) => h,
            Err(code) => return code,
        };
        let Some((_, tasks)) = w.streams.streams.get_mut(&handle).and_then(|s| s.capture.take()) else {
            return fail(code!(ACL_ERROR_RT_STREAM_NOT_CAPTURED), "EE1006: the stream is not being captured");
        };
        let graph = w.new_handle();
        let context = world::CURRENT.with(std::cell::Cell::get);
        w.streams.graphs.insert(graph, (context, tasks));
        // SAFETY: the caller gave a place for the handle.
        unsafe { *model = crate::abi::handle(graph) };
        0
    }
    fn aclmdlRICaptureGetInfo(
        stream: aclrtStream,
        status: *mut aclmdlRICaptureStatus,
        model: *mut aclmdlRI,
    ) -> aclError {
        let w = world();
        match resolve(&w, stream) {
            Ok(h) => {
                // SAFETY: the caller gave places for both.
                unsafe {
                    *status = u32::from(w.streams.captures(h));
                    *model = std::ptr::null_mut();
                }
                0
            }
            Err(code) => code,
        }
    }
    fn aclmdlRIExecuteAsync(model: aclmdlRI, stream: aclrtStream) -> aclError {
        let mut w = world();
        let handle = match resolve(&w, stream) {
            Ok(h) => h,
            Err(code) => return code,
        };
        let Some((_, tasks)) = w.streams.graphs.get(&model.addr()).cloned() else {
            violation("a recorded graph is run that was destroyed or never recorded")
        };
        for task in tasks {
            enqueue_task(&mut w, handle, task);
        }
        0
    }
    fn aclmdlRIDestroy(model: aclmdlRI) -> aclError {
        match world().streams.graphs.remove(&model.addr()) {
            Some(_) => 0,
            None => violation("a recorded graph is destroyed twice, or was never recorded"),
        }
    }
}
