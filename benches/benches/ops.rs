//! Every row of the conformance table's bench list on the device named by `BENCH_DEVICE` (cpu). Give part of a name to run
//! only those: `cargo bench -p lm-saes-benches --bench ops -- TopK`.

use criterion::Criterion;
use lm_saes_backends::{conformance::bench_cases, registry};

fn main() {
    let name = std::env::var("BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = match registry().open(&name) {
        Ok(device) => device,
        Err(e) => return eprintln!("{e}"),
    };
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for case in bench_cases() {
        // Operands are built before criterion filters: skip those that it would.
        if filter.as_ref().is_some_and(|f| !case.name().contains(f)) {
            continue;
        }
        let mut loaded = match case.load(&device) {
            Ok(loaded) => loaded,
            Err(e) => return eprintln!("{}: {e}", case.name()),
        };
        match loaded.supports() {
            Ok(()) => {
                criterion.bench_function(&case.name(), |b| b.iter(|| loaded.run().expect("a supported op")));
            }
            Err(why) => println!("{}: not supported: {}", case.name(), why.0),
        }
    }
    criterion.final_summary();
}
