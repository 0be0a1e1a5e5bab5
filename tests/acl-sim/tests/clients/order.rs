//! Streams and events. Pages: aclrtSynchronizeStream(WithTimeout), aclrtRecordEvent, aclrtStreamWaitEvent, aclrtDestroyEvent,
//! aclrtQueryEventStatus, aclrtResetEvent, aclrtStreamQuery.

use crate::{
    acl::{Acl, P, Tensor},
    call, caught, clients, works,
};

/// `y = a + a` on one stream, then `z = y + y` on another, with what lies between.
fn two_streams(acl: &Acl, between: impl FnOnce(P, P)) -> Vec<f32> {
    acl.init();
    let (first, second) = (acl.stream(), acl.stream());
    let (a, y, z) = (acl.upload(&[1.0, 2.0]), acl.alloc(8), acl.alloc(8));
    let [ta, ty, tz] = [a, y, z].map(|p| Tensor::f32(acl, p, &[2]));
    acl.add(&ta, &ta, &ty, first);
    between(first, second);
    acl.add(&ty, &ty, &tz, second);
    assert_eq!(acl.sync(second), 0);
    let out = acl.download(z, 2);
    assert_eq!(acl.sync(first), 0);
    drop((ta, ty, tz));
    for p in [a, y, z] {
        assert_eq!(acl.free(p), 0);
    }
    for s in [first, second] {
        assert_eq!(call!(acl, aclrtDestroyStream(s => P)), 0);
    }
    acl.finish();
    out
}

clients! {
    reads_before_waiting(acl) {
        acl.init();
        let (a, y) = (acl.upload(&[1.0, 2.0, 3.0]), acl.alloc(12));
        let (ta, ty) = (Tensor::f32(acl, a, &[3]), Tensor::f32(acl, y, &[3]));
        acl.add(&ta, &ta, &ty, acl.null());
        acl.download(y, 3);
    }
    writes_before_waiting(acl) {
        acl.init();
        let (a, y) = (acl.upload(&[1.0]), acl.alloc(4));
        let (ta, ty) = (Tensor::f32(acl, a, &[1]), Tensor::f32(acl, y, &[1]));
        acl.add(&ta, &ta, &ty, acl.null());
        let value = [2.0f32];
        acl.copy(a, value.as_ptr().expose_provenance(), 4, 1);
    }
    joins_streams_by_an_event(acl) {
        let out = two_streams(acl, |first, second| {
            let event = acl.event(1);
            assert_eq!(call!(acl, aclrtRecordEvent(event => P, first => P)), 0);
            assert_eq!(call!(acl, aclrtStreamWaitEvent(second => P, event => P)), 0);
            // Its resources go when it has passed, as the page says.
            assert_eq!(call!(acl, aclrtDestroyEvent(event => P)), 0);
        });
        assert_eq!(out, [4.0, 8.0]);
    }
    joins_streams_by_waiting(acl) {
        assert_eq!(two_streams(acl, |first, _| assert_eq!(acl.sync(first), 0)), [4.0, 8.0]);
    }
    joins_streams_by_asking(acl) {
        let out = two_streams(acl, |first, _| {
            let mut status = 1;
            while status != 0 {
                assert_eq!(call!(acl, aclrtStreamQuery(first => P, &mut status => *mut u32)), 0);
            }
        });
        assert_eq!(out, [4.0, 8.0]);
    }
    joins_streams_by_nothing(acl) {
        two_streams(acl, |_, _| {});
    }
    waits_for_an_event_recorded_too_early(acl) {
        acl.init();
        let event = acl.event(1);
        assert_eq!(call!(acl, aclrtRecordEvent(event => P, acl.null() => P)), 0);
        let (a, y) = (acl.upload(&[1.0]), acl.alloc(4));
        let (ta, ty) = (Tensor::f32(acl, a, &[1]), Tensor::f32(acl, y, &[1]));
        acl.add(&ta, &ta, &ty, acl.null());
        assert_eq!(call!(acl, aclrtSynchronizeEvent(event => P)), 0);
        acl.download(y, 1);
    }
    asks_events(acl) {
        acl.init();
        let (old, new) = (acl.event(9), acl.event_ex(8));
        let status = |e: P| {
            let (mut status, mut recorded) = (9, 9);
            assert_eq!(call!(acl, aclrtQueryEvent(e => P, &mut status => *mut u32)), 0);
            assert_eq!(call!(acl, aclrtQueryEventStatus(e => P, &mut recorded => *mut u32)), 0);
            assert_eq!(status + recorded, 1, "the two status enumerations are each other's inverse");
            recorded
        };
        assert_eq!((status(old), status(new)), (0, 1), "an unrecorded event of the second kind is complete");
        let mut ms = 0.0f32;
        let elapsed = |ms: &mut f32| call!(acl, aclrtEventElapsedTime(ms => *mut f32, old => P, new => P));
        assert_eq!(elapsed(&mut ms), 107_006);
        for e in [old, new] {
            assert_eq!(call!(acl, aclrtRecordEvent(e => P, acl.null() => P)), 0);
        }
        assert_eq!(acl.sync(acl.null()), 0);
        assert_eq!((status(old), status(new)), (1, 1));
        assert_eq!(elapsed(&mut ms), 0);
        assert_eq!(call!(acl, aclrtResetEvent(new => P, acl.null() => P)), 107_000);
        assert_eq!(call!(acl, aclrtResetEvent(old => P, acl.null() => P)), 0);
        assert_eq!(status(old), 0);
        for e in [old, new] {
            assert_eq!(call!(acl, aclrtDestroyEvent(e => P)), 0);
        }
        acl.finish();
    }
    waits_for_a_destroyed_stream(acl) {
        acl.init();
        let stream = acl.stream();
        let (a, y) = (acl.upload(&[3.0]), acl.alloc(4));
        let (ta, ty) = (Tensor::f32(acl, a, &[1]), Tensor::f32(acl, y, &[1]));
        acl.add(&ta, &ta, &ty, stream);
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
        assert_eq!(acl.download(y, 1), [6.0], "destroying a stream waits for its tasks");
        drop((ta, ty));
        assert_eq!((acl.free(a), acl.free(y)), (0, 0));
        acl.finish();
    }
}

const ORDERS: [&str; 5] = ["", "run=synced", "run=reverse", "run=random;seed=1", "run=random;seed=5"];

#[test]
fn streams_joined_rightly_agree_in_every_order() {
    for settings in ORDERS {
        works("joins_streams_by_an_event", settings);
        works("joins_streams_by_waiting", settings);
        works("joins_streams_by_asking", settings);
    }
}

#[test]
fn streams_not_joined_are_caught_in_every_order() {
    for settings in ORDERS {
        caught("joins_streams_by_nothing", settings, "no event orders the two");
    }
}

#[test]
fn a_copy_does_not_wait_for_a_stream() {
    for settings in ORDERS {
        caught("reads_before_waiting", settings, "aclrtMemcpy does not wait for streams");
        caught("writes_before_waiting", settings, "aclrtMemcpy does not wait for streams");
        caught("waits_for_an_event_recorded_too_early", settings, "aclrtMemcpy does not wait for streams");
    }
}

#[test]
fn events_answer_as_documented() {
    works("asks_events", "");
    works("waits_for_a_destroyed_stream", "run=synced");
}
