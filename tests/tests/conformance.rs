//! The fast CPU device passes the whole conformance table; nothing is unsupported. The reference itself is compared with
//! itself in the unit tests of `backends`, where deliberately broken devices show that the harness catches them.

#![forbid(unsafe_code)]

use lm_saes_backends::{conformance, registry};

#[test]
fn cpu_agrees_with_the_reference_on_every_case() {
    let device = registry().open("cpu").expect("the cpu device always opens");
    let report = conformance::run(&device, "");
    let wrong: Vec<String> = report
        .failures()
        .chain(report.refusals())
        .map(|(case, why)| format!("{}: {why}", case.name()))
        .collect();
    assert!(
        wrong.is_empty(),
        "{report}\n{} cases, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(60)].join("\n")
    );
}

#[test]
fn the_table_can_be_filtered_by_op() {
    let device = registry().open("cpu").expect("the cpu device always opens");
    let report = conformance::run(&device, "Age: ");
    assert!(!report.results.is_empty() && report.results.iter().all(|(case, _)| case.op == "Age"));
    assert!(report.to_string().contains("Age"), "{report}");
}
