//! Events: marks in a stream that others wait for, and times.

use super::*;

pub(super) fn drop_event(w: &mut World, event: usize) {
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

exports! { FUNCTIONS:
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
}
