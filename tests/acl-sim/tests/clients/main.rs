//! Clients of the simulator, each in a process of its own: right ones that must work, and wrong ones that must be stopped or
//! refused with the documented code. A test starts this binary again with the client's name and looks at how that ended.
//! Every rule names the page of CANN's documents it comes from.
#![allow(clippy::macro_metavars_in_unsafe)]

mod acl;
mod devices;
mod documented;
mod faults;
mod graphs;
mod hccl;
mod memory;
mod operators;
mod order;

use acl::Acl;
use std::process::{Command, Output};

/// Runs a client of the lists in a process of its own.
fn run(name: &str, settings: &str) -> Output {
    let exe = std::env::current_exe().expect("the path of this test");
    let mut command = Command::new(exe);
    command.args(["a_client_of_its_own", "--exact", "--nocapture"]);
    command.env("ACL_SIM_CLIENT", name).env("ACL_SIM", settings).env("ACL_SIM_LIBRARY", acl::library());
    command.output().expect("the client starts")
}

/// The client ends well, and the simulator has nothing to say.
fn works(name: &str, settings: &str) {
    let output = run(name, settings);
    let text = String::from_utf8_lossy(&output.stderr);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name} with {settings:?}: {}\n{text}{said}", output.status);
    assert!(!text.contains("acl-sim:"), "{name} with {settings:?}: {text}");
    assert!(said.contains("1 passed"), "{name}: {said}");
}

/// The simulator stops the client, saying this.
fn caught(name: &str, settings: &str, expected: &str) {
    let output = run(name, settings);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{name} with {settings:?} went through");
    let said = text.lines().find(|l| l.contains("acl-sim: violation")).unwrap_or_default();
    assert!(said.contains(expected), "{name} with {settings:?}: expected {expected:?}, got {text}");
}

/// Defines clients and the list of them that the process of one looks through.
macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident($acl:ident) $body:block)*) => {
        $($(#[$doc])* fn $name($acl: &$crate::acl::Acl) $body)*
        pub const CLIENTS: $crate::Clients = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use clients;

type Clients = &'static [(&'static str, fn(&Acl))];

#[test]
fn a_client_of_its_own() {
    let Ok(name) = std::env::var("ACL_SIM_CLIENT") else { return };
    let all = [
        devices::CLIENTS,
        documented::CLIENTS,
        faults::CLIENTS,
        graphs::CLIENTS,
        hccl::CLIENTS,
        memory::CLIENTS,
        operators::CLIENTS,
        order::CLIENTS,
    ];
    let (_, client) = all.into_iter().flatten().find(|(n, _)| *n == name).expect("the client is in a list");
    client(&Acl::load());
}
