//! Memory and copies. Pages: aclrtMalloc, aclrtMallocAlign32, aclrtFree, aclrtMallocHost, aclrtMemcpy, aclrtMemcpyAsync,
//! aclrtMemset.

use crate::{
    acl::{P, Tensor},
    call, caught, clients, run, works,
};

const TO_DEVICE: u32 = 1;
const TO_HOST: u32 = 2;

clients! {
    adds_two_vectors(acl) {
        acl.init();
        let (a, b) = (acl.upload(&[1.0, 2.0, 3.0]), acl.upload(&[10.0, 20.0, 30.0]));
        let y = acl.alloc(12);
        let [ta, tb, ty] = [a, b, y].map(|p| Tensor::f32(acl, p, &[3]));
        acl.add(&ta, &tb, &ty, acl.null());
        assert_eq!(acl.sync(acl.null()), 0);
        assert_eq!(acl.download(y, 3), [11.0, 22.0, 33.0]);
        drop((ta, tb, ty));
        for p in [a, b, y] {
            assert_eq!(acl.free(p), 0);
        }
        acl.finish();
    }
    host_touches_device_memory(acl) {
        acl.init();
        let a = acl.upload(&[1.0]);
        // SAFETY: there is none, this is the client's mistake; the address faults.
        let v = unsafe { *(a as *const f32) };
        println!("{v}");
    }
    asks_for_nothing(acl) {
        acl.init();
        let mut p = acl.null();
        assert_eq!(call!(acl, aclrtMalloc(&mut p => *mut P, 0 => usize, 0 => u32)), 100_000);
        assert_eq!(call!(acl, aclrtMallocHost(&mut p => *mut P, 0 => usize)), 100_000);
        assert_eq!(acl.free(0), 100_000);
        assert_eq!(call!(acl, aclrtFreeHost(acl.null() => P)), 100_000);
        assert_eq!(acl.copy(0, 0, 0, TO_DEVICE), 0, "a copy of nothing is a success");
        acl.finish();
    }
    asks_for_more_than_there_is(acl) {
        acl.init();
        let (mut free, mut total) = (0, 0);
        assert_eq!(call!(acl, aclrtGetMemInfo(1 => u32, &mut free => *mut usize, &mut total => *mut usize)), 0);
        assert_eq!((free, total), (1 << 20, 1 << 20));
        let half = acl.alloc(1 << 19);
        let mut p = acl.null();
        assert_eq!(call!(acl, aclrtMalloc(&mut p => *mut P, 1 << 20 => usize, 0 => u32)), 207_001);
        assert!(acl.message().contains("524288 of 1048576 bytes left"));
        assert_eq!(acl.free(half), 0);
        assert_eq!(acl.free(acl.alloc(1 << 20)), 0);
        acl.finish();
    }
    gets_no_more_than_the_promised_alignment(acl) {
        acl.init();
        let p = acl.alloc(1000);
        assert_eq!((p % 64, p % 128), (0, 64));
        assert!(acl.download(p, 250).iter().all(|v| v.is_nan()), "fresh memory is not zeroed");
        assert_eq!(acl.free(p), 0);
        acl.finish();
    }
    frees_twice(acl) {
        acl.init();
        let p = acl.alloc(64);
        assert_eq!(acl.free(p), 0);
        acl.free(p);
    }
    frees_inside(acl) {
        acl.init();
        acl.free(acl.alloc(64) + 32);
    }
    frees_what_is_not_its_own(acl) {
        acl.init();
        acl.free(0x1234_5000);
    }
    frees_pinned_memory_as_device_memory(acl) {
        acl.init();
        acl.free(acl.pinned(64));
    }
    copies_more_than_fits(acl) {
        acl.init();
        let (p, host) = (acl.alloc(64), [0u8; 128]);
        let code = call!(acl, aclrtMemcpy(
            p as P => P, 64 => usize, host.as_ptr() as P => P, 65 => usize, TO_DEVICE => u32
        ));
        assert_eq!(code, 107_000);
        assert_eq!(acl.free(p), 0);
        acl.finish();
    }
    copies_past_the_end(acl) {
        acl.init();
        let host = [0u8; 128];
        acl.copy(acl.alloc(64), host.as_ptr().expose_provenance(), 65, TO_DEVICE);
    }
    copies_in_the_wrong_direction(acl) {
        acl.init();
        let host = [0u8; 64];
        acl.copy(acl.alloc(64), host.as_ptr().expose_provenance(), 64, TO_HOST);
    }
    copies_from_freed_memory(acl) {
        acl.init();
        let p = acl.alloc(64);
        assert_eq!(acl.free(p), 0);
        acl.download(p, 16);
    }
    copies_on_the_host_asynchronously(acl) {
        acl.init();
        let (a, b) = (acl.pinned(64), acl.pinned(64));
        assert_eq!(acl.copy_async(a, b, 64, 0, acl.null()), 207_000);
        for p in [a, b] {
            assert_eq!(call!(acl, aclrtFreeHost(p as P => P)), 0);
        }
        acl.finish();
    }
    reads_a_pinned_buffer_too_early(acl) {
        acl.init();
        let (p, host) = (acl.upload(&[1.0]), acl.pinned(4));
        // SAFETY: pinned memory of 4 bytes, that nothing writes at this moment.
        let read = || unsafe { *(host as *const f32) };
        assert_eq!(acl.copy_async(host, p, 4, TO_HOST, acl.null()), 0);
        assert!(read().is_nan(), "nothing ran yet, so the old bytes are spoiled");
        assert_eq!(acl.sync(acl.null()), 0);
        assert_eq!(read(), 1.0);
        assert_eq!((acl.free(p), call!(acl, aclrtFreeHost(host as P => P))), (0, 0));
        acl.finish();
    }
    changes_a_pinned_source_too_early(acl) {
        acl.init();
        let (p, host) = (acl.alloc(4), acl.pinned(4));
        assert_eq!(acl.copy_async(p, host, 4, TO_DEVICE, acl.null()), 0);
        // SAFETY: pinned memory of 4 bytes; that a queued copy reads it is the client's mistake.
        unsafe { *(host as *mut f32) = 7.0 };
        acl.sync(acl.null());
    }
    copies_pageable_memory_at_once(acl) {
        acl.init();
        let mut value = 5.0f32;
        let p = acl.alloc(4);
        let at = (&raw mut value).expose_provenance();
        assert_eq!(acl.copy_async(p, at, 4, TO_DEVICE, acl.null()), 0);
        value = 6.0;
        assert_eq!(acl.download(p, 1), [5.0]);
        assert_eq!(acl.copy_async(at, p, 4, TO_HOST, acl.null()), 0);
        assert_eq!(value, 5.0);
        assert_eq!(acl.free(p), 0);
        acl.finish();
    }
    frees_what_a_stream_still_uses(acl) {
        acl.init();
        let (p, host) = (acl.alloc(4), acl.pinned(4));
        assert_eq!(acl.copy_async(p, host, 4, TO_DEVICE, acl.null()), 0);
        acl.free(p);
    }
    frees_pinned_memory_a_stream_still_uses(acl) {
        acl.init();
        let (p, host) = (acl.alloc(4), acl.pinned(4));
        assert_eq!(acl.copy_async(p, host, 4, TO_DEVICE, acl.null()), 0);
        call!(acl, aclrtFreeHost(host as P => P));
    }
    sets_memory_of_the_host(acl) {
        acl.init();
        let mut host = [0u8; 64];
        call!(acl, aclrtMemset(host.as_mut_ptr() as P => P, 64 => usize, 0 => i32, 64 => usize));
    }
}

#[test]
fn right_clients_work_in_every_order() {
    for settings in ["", "run=synced", "run=random;seed=1", "run=random;seed=2", "run=reverse", "perturb=20"]
    {
        works("adds_two_vectors", settings);
        works("copies_pageable_memory_at_once", settings);
    }
}

#[cfg(unix)]
#[test]
fn the_host_cannot_touch_device_memory() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run("host_touches_device_memory", "").status.signal(), Some(11));
}

#[test]
fn sizes_are_checked() {
    works("asks_for_nothing", "");
    works("asks_for_more_than_there_is", "memory=1048576");
    works("gets_no_more_than_the_promised_alignment", "");
    works("copies_more_than_fits", "");
    caught("copies_past_the_end", "", "65 bytes");
}

#[test]
fn only_blocks_are_freed_and_only_once() {
    caught("frees_twice", "", "freed before");
    caught("frees_inside", "", "does not start one");
    caught("frees_what_is_not_its_own", "", "no address of this device's memory");
    caught("frees_pinned_memory_as_device_memory", "", "host memory as device memory");
}

#[test]
fn copies_go_where_they_say() {
    caught("copies_in_the_wrong_direction", "", "a copy of kind 2");
    caught("copies_from_freed_memory", "", "freed before");
    caught("sets_memory_of_the_host", "", "no address of this device's memory");
    works("copies_on_the_host_asynchronously", "");
}

#[test]
fn pinned_memory_waits_for_its_copy() {
    works("reads_a_pinned_buffer_too_early", "run=synced");
    caught("changes_a_pinned_source_too_early", "run=synced", "was changed before the queued copy ran");
}

#[test]
fn memory_in_use_is_not_freed() {
    for settings in ["", "run=synced"] {
        caught("frees_what_a_stream_still_uses", settings, "is freed while aclrtMemcpyAsync writes it");
        caught(
            "frees_pinned_memory_a_stream_still_uses",
            settings,
            "is freed while aclrtMemcpyAsync reads it",
        );
    }
}
