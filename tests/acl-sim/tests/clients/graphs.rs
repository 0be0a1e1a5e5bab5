//! Recorded graphs. Page: aclmdlRICaptureBegin and its neighbours.

use crate::{
    acl::{Acl, P, Tensor},
    call, caught, clients, works,
};

/// Records `y = y + a` once; gives stream, graph, and the two blocks.
fn record(acl: &Acl) -> (P, P, usize, usize) {
    acl.init();
    let stream = acl.stream();
    let (a, y) = (acl.upload(&[1.0, 2.0]), acl.upload(&[0.0, 0.0]));
    let (ta, ty) = (Tensor::f32(acl, a, &[2]), Tensor::f32(acl, y, &[2]));
    assert_eq!(call!(acl, aclmdlRICaptureBegin(stream => P, 1 => u32)), 0);
    acl.add(&ta, &ty, &ty, stream);
    let mut graph = acl.null();
    assert_eq!(call!(acl, aclmdlRICaptureEnd(stream => P, &mut graph => *mut P)), 0);
    assert_eq!(acl.download(y, 2), [0.0, 0.0], "recording runs nothing");
    (stream, graph, a, y)
}

clients! {
    records_and_runs(acl) {
        let (stream, graph, a, y) = record(acl);
        for _ in 0..3 {
            assert_eq!(call!(acl, aclmdlRIExecuteAsync(graph => P, stream => P)), 0);
        }
        assert_eq!(acl.sync(stream), 0);
        assert_eq!(acl.download(y, 2), [3.0, 6.0]);
        assert_eq!(call!(acl, aclmdlRIDestroy(graph => P)), 0);
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
        assert_eq!((acl.free(a), acl.free(y)), (0, 0));
        acl.finish();
    }
    frees_what_a_graph_uses(acl) {
        let (stream, graph, a, _) = record(acl);
        assert_eq!(acl.free(a), 0);
        call!(acl, aclmdlRIExecuteAsync(graph => P, stream => P));
    }
    destroys_a_graph_twice(acl) {
        let (_, graph, ..) = record(acl);
        assert_eq!(call!(acl, aclmdlRIDestroy(graph => P)), 0);
        call!(acl, aclmdlRIDestroy(graph => P));
    }
    waits_while_recording(acl) {
        acl.init();
        let (stream, p) = (acl.stream(), acl.upload(&[1.0]));
        let begin = |mode: u32| call!(acl, aclmdlRICaptureBegin(stream => P, mode => u32));
        let end = || {
            let mut graph = acl.null();
            assert_eq!(call!(acl, aclmdlRICaptureEnd(stream => P, &mut graph => *mut P)), 0);
            assert_eq!(call!(acl, aclmdlRIDestroy(graph => P)), 0);
        };
        assert_eq!(call!(acl, aclmdlRICaptureBegin(acl.null() => P, 0 => u32)), 107_000);
        assert_eq!(begin(0), 0);
        assert_eq!(begin(0), 107_027);
        assert_eq!(acl.sync(stream), 107_027);
        assert_eq!(call!(acl, aclrtSynchronizeDevice()), 107_027);
        let mut status = 0;
        assert_eq!(call!(acl, aclrtStreamQuery(stream => P, &mut status => *mut u32)), 107_027);
        let mut value = 0.0f32;
        let at = (&raw mut value).expose_provenance();
        assert_eq!(acl.copy(at, p, 4, 2), 107_030, "no synchronous copy in global mode");
        end();
        assert_eq!(begin(1), 0);
        assert_eq!(acl.copy(at, p, 4, 2), 0, "the mode of one thread allows it");
        end();
        let mut graph = acl.null();
        assert_eq!(call!(acl, aclmdlRICaptureEnd(stream => P, &mut graph => *mut P)), 107_029);
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
        assert_eq!(acl.free(p), 0);
        acl.finish();
    }
    records_on_a_chip_without_graphs(acl) {
        acl.init();
        let stream = acl.stream();
        assert_eq!(call!(acl, aclmdlRICaptureBegin(stream => P, 0 => u32)), 207_000);
        assert_eq!(call!(acl, aclrtDestroyStream(stream => P)), 0);
        acl.finish();
    }
}

#[test]
fn a_graph_repeats_what_was_recorded() {
    for settings in ["", "run=synced"] {
        works("records_and_runs", settings);
    }
    caught("frees_what_a_graph_uses", "", "freed before");
    caught("destroys_a_graph_twice", "", "destroyed twice");
}

#[test]
fn waiting_is_refused_while_recording() {
    works("waits_while_recording", "");
    works("records_on_a_chip_without_graphs", "soc=Ascend310P3");
}
