//! Clients of the simulator, each in a process of its own: right ones that must work, and wrong ones that must be stopped or
//! refused with the documented code. A test starts this binary again with the client's name and looks at how that ended.

mod acl;

use acl::{Acl, Tensor};
use std::process::{Command, Output};

/// Runs a client of the list below in a process of its own.
fn run(name: &str, settings: &str) -> Output {
    let exe = std::env::current_exe().expect("the path of this test");
    let mut command = Command::new(exe);
    command.args(["a_client_of_its_own", "--exact", "--nocapture"]);
    command.env("ACL_SIM_CLIENT", name).env("ACL_SIM", settings).env("ACL_SIM_LIBRARY", acl::library());
    command.output().expect("the client starts")
}

/// The client ends well, and the simulator finds nothing.
fn works(name: &str, settings: &str) {
    let output = run(name, settings);
    let text = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name} with {settings:?}: {}\n{text}{said}", output.status);
    assert!(!text.contains("acl-sim:"), "{name} with {settings:?}: {text}");
    assert!(said.contains("1 passed"), "{name}: no such client? {said}");
}

/// The simulator stops the client, saying this.
fn caught(name: &str, settings: &str, expected: &str) {
    let output = run(name, settings);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{name} went through");
    let said = text.lines().find(|l| l.contains("acl-sim: violation")).unwrap_or_default();
    assert!(said.contains(expected), "{name}: expected {expected:?}, got {text}");
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident($acl:ident) $body:block)*) => {
        $($(#[$doc])* fn $name($acl: &Acl) $body)*
        const CLIENTS: &[(&str, fn(&Acl))] = &[$((stringify!($name), $name)),*];
    };
}

#[test]
fn a_client_of_its_own() {
    let Ok(name) = std::env::var("ACL_SIM_CLIENT") else { return };
    let (_, client) = CLIENTS.iter().find(|(n, _)| *n == name).expect("the client is in the list");
    client(&Acl::load());
}

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
    reads_before_waiting(acl) {
        acl.init();
        let a = acl.upload(&[1.0, 2.0, 3.0]);
        let y = acl.alloc(12);
        let (ta, ty) = (Tensor::f32(acl, a, &[3]), Tensor::f32(acl, y, &[3]));
        acl.add(&ta, &ta, &ty, acl.null());
        acl.download(y, 3);
    }
    host_touches_device_memory(acl) {
        acl.init();
        let a = acl.upload(&[1.0]);
        // SAFETY: there is none, this is the client's mistake; the address faults.
        let v = unsafe { *(a as *const f32) };
        println!("{v}");
    }
}

#[test]
fn right_clients_work_in_every_order() {
    for settings in ["", "run=synced", "run=random;seed=1", "run=random;seed=2", "run=reverse", "perturb=20"]
    {
        works("adds_two_vectors", settings);
    }
}

#[test]
fn a_copy_does_not_wait_for_a_stream() {
    for settings in ["", "run=synced"] {
        caught("reads_before_waiting", settings, "aclrtMemcpy does not wait for streams");
    }
}

#[cfg(unix)]
#[test]
fn the_host_cannot_touch_device_memory() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run("host_touches_device_memory", "").status.signal(), Some(11));
}
