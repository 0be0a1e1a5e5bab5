//! Injected failures: what a client sees when memory runs out, an operator fails, a task fails on the device, the device is
//! lost, or a task never ends.

use crate::{
    acl::{Acl, P, Tensor},
    call, clients, works,
};

/// One element and its descriptor, on a fresh stream.
fn start<'a>(acl: &'a Acl) -> (P, usize, Tensor<'a>) {
    acl.init();
    let (stream, p) = (acl.stream(), acl.upload(&[1.0]));
    (stream, p, Tensor::f32(acl, p, &[1]))
}

fn stop(acl: &Acl, stream: P, p: usize, t: Tensor<'_>) {
    drop(t);
    assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
    assert_eq!(acl.free(p), 0);
    acl.finish();
}

clients! {
    meets_a_failing_call(acl) {
        let (stream, p, t) = start(acl);
        assert_eq!(acl.control("fail=aclrtMalloc:2:207001;fail=aclnnAddGetWorkspaceSize:1:561003"), 0);
        let mut q = acl.null();
        let mut malloc = || call!(acl, aclrtMalloc(&mut q => *mut P, 64 => usize, 0 => u32));
        assert_eq!((malloc(), malloc()), (0, 207_001));
        assert!(acl.message().contains("injected failure of aclrtMalloc"));
        assert_eq!(acl.free(q as usize), 0);
        assert_eq!(acl.plan_add(&t, &t, &t).0, 561_003);
        acl.add(&t, &t, &t, stream);
        // Phase 2 that fails consumes its executor as well.
        assert_eq!(acl.control("fail=aclnnAdd:1:361001"), 0);
        let (_, size, executor) = acl.plan_add(&t, &t, &t);
        let workspace = acl.alloc(size.max(1) as usize);
        assert_eq!(acl.run_add(workspace, size, executor, stream), 361_001);
        assert_eq!(acl.free(workspace), 0);
        assert_eq!(acl.sync(stream), 0);
        stop(acl, stream, p, t);
    }
    meets_a_failing_task(acl) {
        let (stream, p, t) = start(acl);
        assert_eq!(acl.control("fault=2:507035"), 0);
        for _ in 0..3 {
            acl.add(&t, &t, &t, stream);
        }
        // The failure is told by the next wait, with the task's name, and ends the use of the device.
        assert_eq!(acl.sync(stream), 507_035);
        assert!(acl.message().contains("aclnnAdd"));
        assert_eq!(acl.plan_add(&t, &t, &t).0, 507_035);
        stop(acl, stream, p, t);
    }
    loses_the_device(acl) {
        let (stream, p, t) = start(acl);
        assert_eq!(acl.control("lost=1"), 0);
        acl.add(&t, &t, &t, stream);
        assert_eq!(acl.sync(stream), 507_010);
        let mut q = acl.null();
        assert_eq!(call!(acl, aclrtMalloc(&mut q => *mut P, 64 => usize, 0 => u32)), 507_010);
        assert_eq!(acl.sync(stream), 507_010);
        drop(t);
        assert_eq!((call!(acl, aclrtDestroyStream(stream => P)), acl.free(p)), (0, 0));
        acl.finish();
        // A device that was reset can be used again.
        let (stream, p, t) = start(acl);
        acl.add(&t, &t, &t, stream);
        assert_eq!(acl.sync(stream), 0);
        assert_eq!(acl.download(p, 1), [2.0]);
        stop(acl, stream, p, t);
    }
    waits_for_what_never_ends(acl) {
        let (stream, p, t) = start(acl);
        assert_eq!(acl.control("hang=1"), 0);
        acl.add(&t, &t, &t, stream);
        let begun = std::time::Instant::now();
        assert_eq!(call!(acl, aclrtSynchronizeStreamWithTimeout(stream => P, 50 => i32)), 507_046);
        assert!(begun.elapsed().as_millis() >= 50);
        assert_eq!(acl.sync(stream), 507_014, "the device itself gives up in the end");
        stop(acl, stream, p, t);
    }
    goes_on_after_a_failure(acl) {
        let (stream, p, t) = start(acl);
        assert_eq!(acl.control("fault=1:200000"), 0);
        acl.add(&t, &t, &t, stream);
        acl.add(&t, &t, &t, stream);
        assert_eq!(acl.sync(stream), 200_000);
        assert_eq!(acl.download(p, 1), [2.0], "the second addition ran");
        assert_eq!(call!(acl, aclrtSetStreamFailureMode(stream => P, 1 => u64)), 0);
        assert_eq!(acl.control("fault=1:200000"), 0);
        acl.add(&t, &t, &t, stream);
        acl.add(&t, &t, &t, stream);
        assert_eq!(acl.sync(stream), 200_000);
        assert_eq!(acl.download(p, 1), [2.0], "nothing ran after the failure");
        stop(acl, stream, p, t);
    }
}

#[test]
fn failures_have_a_code_a_text_and_leave_nothing_behind() {
    works("meets_a_failing_call", "");
    for settings in ["", "run=synced"] {
        works("meets_a_failing_task", settings);
        works("loses_the_device", settings);
        works("waits_for_what_never_ends", &format!("{settings};op_timeout=200"));
    }
}

#[test]
fn streams_stop_at_a_failure_only_when_told_to() {
    works("goes_on_after_a_failure", "run=synced");
}
