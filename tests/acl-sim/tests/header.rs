//! The simulator's idea of the C interface against the back end's header: two transcriptions of the documents by different
//! hands. A C compiler compares the type of every function and the value of every constant.
#![allow(clippy::macro_metavars_in_unsafe)]

#[path = "clients/acl/mod.rs"]
mod acl;

use std::{collections::BTreeMap, ffi::CStr, ffi::c_char, path::Path, process::Command};

fn interface() -> String {
    // SAFETY: the library's initialisers do nothing; the function returns a C string that is never freed.
    unsafe {
        let library = libloading::Library::new(acl::library()).expect("the library loads");
        let text = library
            .get::<unsafe extern "C" fn() -> *const c_char>(b"acl_sim_abi")
            .expect("it lists its ABI")();
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Names a header declares as functions.
fn declared(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in header.split(';') {
        let Some((before, _)) = part.split_once('(') else { continue };
        if part.contains("typedef") || part.contains('{') {
            continue;
        }
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty());
        names.extend(name.filter(|n| n.starts_with("acl") || n.starts_with("Hccl")).map(str::to_owned));
    }
    names
}

#[test]
fn the_back_ends_header_and_the_simulator_agree_on_every_function_and_value() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../backends/ascend/acl.h");
    let text = std::fs::read_to_string(&header).expect("the back end's header");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        println!("NOT TESTED: comparing the interfaces needs a C compiler (CC)");
        return;
    }
    let interface = interface();
    let functions: BTreeMap<&str, &str> = interface.lines().filter_map(|l| l.split_once('|')).collect();
    let names = declared(&text);
    assert!(names.len() > 150, "the header's functions were not understood: {names:?}");
    let mut c = format!("#include \"{}\"\n", header.display());
    for name in &names {
        if let Some(prototype) = functions.get(name.as_str()) {
            let (ret, arguments) = prototype.split_once(" (").expect("a return type and arguments");
            c += &format!("typedef {ret} sim_{name}({arguments};\n");
            c += &format!(
                "_Static_assert(__builtin_types_compatible_p(__typeof__({name}), sim_{name}), \"{name}\");\n"
            );
        }
    }
    let mut values = 0;
    c += "_Static_assert(sizeof(HcclRootInfo) == 4108 && _Alignof(HcclRootInfo) == 1, \"HcclRootInfo\");\n";
    for (name, value) in interface.lines().filter_map(|l| l.split_once('=')) {
        if text.contains(&format!("    {name} = ")) {
            c += &format!("_Static_assert({name} == {value}, \"{name}\");\n");
            values += 1;
        }
    }
    let source = std::env::temp_dir().join(format!("acl-sim-header-{}.c", std::process::id()));
    std::fs::write(&source, c).expect("writing the comparison");
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-fsyntax-only", "-Wall", "-Werror"])
        .arg(&source)
        .output()
        .expect("the compiler runs");
    std::fs::remove_file(&source).expect("removing the comparison");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let missing: Vec<&String> = names.iter().filter(|n| !functions.contains_key(n.as_str())).collect();
    println!(
        "{} functions and {values} values agree; not simulated: {missing:?}",
        names.len() - missing.len()
    );
    let operators: Vec<_> = missing.iter().filter(|n| n.starts_with("aclnn")).collect();
    assert!(operators.is_empty(), "operators of the back end that the simulator lacks: {operators:?}");
}
