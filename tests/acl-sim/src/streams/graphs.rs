//! Recording a stream into a graph, and running it.

use super::*;

exports! { FUNCTIONS:
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
