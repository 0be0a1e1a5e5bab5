//! Making, destroying, waiting for and asking about streams.

use super::*;

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
}
