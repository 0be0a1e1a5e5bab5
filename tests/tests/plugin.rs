//! Back ends from shared libraries: the example plugin is built, loaded by path and accepted by the conformance table;
//! files that are no plugins are refused with their reason.

#![forbid(unsafe_code)]

use lm_saes_backends::{conformance, registry};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the example where this test binary was built, and returns the library.
fn example() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this test");
    let profile = exe.ancestors().nth(2).expect("tests are in target/PROFILE/deps").to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "-q", "-p", "lm-saes-plugin-example", "--target-dir"]);
    cargo.arg(profile.parent().expect("target/PROFILE has a parent"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "building the example plugin: {status}");
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    profile.join(format!("{prefix}lm_saes_plugin_example{suffix}"))
}

#[test]
fn the_example_is_loaded_and_accepted_by_the_conformance_table() {
    let path = example();
    let mut registry = registry();
    registry.load_plugin(&path).expect("the example loads");
    assert!(registry.devices().contains(&"example:0".to_string()), "{:?}", registry.devices());
    let device = registry.open("example").expect("the example opens");
    assert_eq!(device.info().model, "host memory, two ops");

    let report = conformance::run(&device, "");
    let wrong: Vec<_> = report.failures().map(|(case, why)| format!("{}: {why}", case.name())).collect();
    assert!(wrong.is_empty(), "{report}\n{wrong:?}");
    for (op, [passed, unsupported, _], reason) in report.matrix() {
        match op {
            "Fill" | "Map" => assert!(passed > 0 && unsupported > 0, "{report}"),
            _ => {
                assert_eq!(passed, 0, "{report}");
                assert!(reason.is_some_and(|r| r.contains("has Fill and Map only")), "{report}");
            }
        }
    }

    let again = registry.load_plugin(&path).expect_err("the name is taken").to_string();
    assert!(again.contains("already there"), "{again}");
}

#[test]
fn a_file_that_is_no_plugin_is_refused_by_name_with_the_loaders_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("notes.so");
    std::fs::write(&text, "not a library").expect("writing");
    for (path, expected) in [(text.as_path(), "notes.so"), (Path::new("/nowhere/missing.so"), "missing.so")] {
        let error = registry().load_plugin(path).expect_err("no plugin").to_string();
        assert!(error.starts_with("plugin ") && error.contains(expected), "{error}");
        assert!(error.len() > expected.len() + 30, "the loader's own reason is missing: {error}");
    }
}
