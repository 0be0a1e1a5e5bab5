//! Initialisation, devices, contexts, messages. Pages: aclInit, aclFinalize, aclrtSetDevice, aclrtResetDevice,
//! aclrtCreateContext, aclGetRecentErrMsg.

use crate::{
    acl::{P, Tensor},
    call, caught, clients, run, works,
};
use std::ffi::c_char;

clients! {
    starts_and_ends(acl) {
        assert_eq!(call!(acl, aclrtSetDevice(0 => i32)), 100_001);
        let mut p = acl.null();
        assert_eq!(call!(acl, aclrtMalloc(&mut p => *mut P, 64 => usize, 0 => u32)), 100_001);
        assert_eq!(call!(acl, aclFinalize()), 100_037);
        acl.init();
        assert_eq!(call!(acl, aclInit(std::ptr::null() => *const c_char)), 100_002);
        acl.finish();
        assert_eq!(call!(acl, aclFinalize()), 100_037);
    }
    uses_a_thread_without_a_device(acl) {
        acl.init();
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut p = std::ptr::null_mut();
                assert_eq!(call!(acl, aclrtMalloc(&mut p => *mut P, 64 => usize, 0 => u32)), 107_002);
                assert!(acl.message().contains("aclrtSetDevice"));
                let mut id = -1;
                assert_eq!(call!(acl, aclrtGetDevice(&mut id => *mut i32)), 107_002);
                assert_eq!(call!(acl, aclrtSynchronizeStream(std::ptr::null_mut() => P)), 107_002);
                assert_eq!(acl.set_device(0), 0);
                assert_eq!(call!(acl, aclrtGetDevice(&mut id => *mut i32)), 0);
                assert_eq!((id, call!(acl, aclrtResetDevice(0 => i32))), (0, 0));
            });
        });
        acl.finish();
    }
    asks_for_a_device_that_is_not_there(acl) {
        assert_eq!(call!(acl, aclInit(std::ptr::null() => *const c_char)), 0);
        assert_eq!(acl.set_device(1), 107_001);
        assert_eq!(call!(acl, aclFinalize()), 0);
    }
    resets_more_than_it_sets(acl) {
        acl.init();
        assert_eq!(call!(acl, aclrtResetDevice(0 => i32)), 0);
        assert_eq!(call!(acl, aclrtResetDevice(0 => i32)), 107_002);
        assert_eq!(call!(acl, aclFinalize()), 0);
    }
    resets_less_than_it_sets(acl) {
        acl.init();
        assert_eq!(acl.set_device(0), 0);
        acl.finish();
    }
    never_finalizes(acl) {
        acl.init();
        acl.alloc(64);
    }
    leaves_a_block(acl) {
        acl.init();
        acl.alloc(100);
        acl.finish();
    }
    leaves_a_stream_to_the_reset(acl) {
        acl.init();
        acl.stream();
        assert_eq!(acl.control("leaks"), 1);
        assert_eq!(acl.message(), "1 streams");
        acl.finish();
    }
    leaves_an_event(acl) {
        acl.init();
        acl.event(1);
        acl.finish();
    }
    leaves_a_descriptor(acl) {
        acl.init();
        acl.scalar(1.0);
        acl.finish();
    }
    leaves_an_executor(acl) {
        acl.init();
        let p = acl.upload(&[1.0]);
        let t = Tensor::f32(acl, p, &[1]);
        assert_eq!(acl.plan_add(&t, &t, &t).0, 0);
        drop(t);
    }
    uses_a_stream_of_another_context(acl) {
        acl.init();
        let stream = acl.stream();
        let mut context = acl.null();
        assert_eq!(call!(acl, aclrtCreateContext(&mut context => *mut P, 0 => i32)), 0);
        assert_eq!(acl.sync(stream), 107_003);
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 107_003);
        assert_eq!(call!(acl, aclrtDestroyContext(context => P)), 0);
        assert_eq!(acl.sync(stream), 107_002);
    }
    uses_a_destroyed_stream(acl) {
        acl.init();
        let stream = acl.stream();
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
        acl.sync(stream);
    }
    uses_a_destroyed_event(acl) {
        acl.init();
        let event = acl.event(1);
        assert_eq!(call!(acl, aclrtDestroyEvent(event => P)), 0);
        call!(acl, aclrtRecordEvent(event => P, acl.null() => P));
    }
    keeps_a_message(acl) {
        let code = call!(acl, aclrtSetDevice(0 => i32));
        let first = call!(acl, aclGetRecentErrMsg() -> *const c_char);
        assert_eq!(call!(acl, aclrtSetDevice(0 => i32)), code);
        assert!(acl.message().contains("aclInit"));
        // SAFETY: the memory stays mapped; what it says is spoiled, which is what is looked at.
        let kept = unsafe { std::ffi::CStr::from_ptr(first) }.to_string_lossy().into_owned();
        assert!(kept.chars().all(|c| c == '#'), "{kept}");
        assert!(acl.message().is_empty(), "a message is given once");
    }
}

#[test]
fn calls_before_init_and_after_finalize_are_refused() {
    works("starts_and_ends", "");
}

#[test]
fn every_thread_sets_its_device() {
    works("uses_a_thread_without_a_device", "");
}

#[test]
fn devices_are_counted() {
    works("asks_for_a_device_that_is_not_there", "");
    works("resets_more_than_it_sets", "");
    caught("resets_less_than_it_sets", "", "set 1 times more than it was reset");
}

#[test]
fn what_is_left_at_the_end_is_named() {
    caught("leaves_a_block", "", "1 blocks of device memory (100 bytes)");
    // The vendor's own client never destroys its streams: the last reset of the device takes them along.
    works("leaves_a_stream_to_the_reset", "");
    caught("leaves_an_event", "", "1 events");
    caught("leaves_a_descriptor", "", "1 descriptors");
    caught("leaves_an_executor", "", "destroyed between the two phases of Add");
    let output = run("never_finalizes", "");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("ends without aclFinalize; alive: 1 blocks of device memory (64 bytes)"), "{text}");
}

#[test]
fn streams_belong_to_contexts_and_die_once() {
    let output = run("uses_a_stream_of_another_context", "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    caught("uses_a_destroyed_stream", "", "a stream is used that was destroyed");
    caught("uses_a_destroyed_event", "", "an event is used that was destroyed");
}

#[test]
fn a_message_is_good_until_the_next() {
    works("keeps_a_message", "");
}
