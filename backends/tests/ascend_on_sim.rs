//! The Ascend back end without an NPU: on the strict simulator of CANN's libraries in `tests/acl-sim`, which was written apart
//! from it. A mistake the simulator finds ends its process, so each setting of it runs in a process of its own: the tests here
//! start this program again for the ignored ones.
#![cfg(all(feature = "ascend", target_os = "linux"))]

use lm_saes_backends::{conformance, registry};
use lm_saes_runtime::{DType, Device, Error, GemmOpts, MapKind, Queue, Result};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

/// The simulator laid out as an installation of CANN.
fn home() -> &'static PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("acl-sim");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/acl-sim/build.sh");
        let status = Command::new(script).arg(&folder).status().expect("the simulator's script runs");
        assert!(status.success(), "building the simulator: {status}");
        folder
    })
}

/// Runs an ignored test of this program on the simulator with these settings; returns what it printed.
fn on_simulator(test: &str, settings: &str) -> String {
    let exe = std::env::current_exe().expect("the path of this test");
    let output = Command::new(exe)
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env("ASCEND_HOME_PATH", home())
        .env("ACL_SIM", settings)
        .output()
        .expect("this program starts again");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} with {settings:?}: {}\n{said}", output.status);
    assert!(said.contains("1 passed"), "{test} did not run:\n{said}");
    said
}

fn device() -> Arc<dyn Device> {
    registry().open("npu:0").unwrap_or_else(|e| panic!("{e}"))
}

/// The conformance table, or the part of it that `LM_SAES_ONLY` names.
#[test]
#[ignore = "started by the others"]
fn table() {
    let only = std::env::var("LM_SAES_ONLY").unwrap_or_default();
    let report = conformance::run(&device(), &only);
    println!("{report}");
    for (case, why) in report.failures() {
        println!("failed: {}: {why}", case.name());
    }
    assert_eq!((report.failures().count(), report.refusals().count()), (0, 0));
}
