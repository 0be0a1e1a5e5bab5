//! Tests of the harness itself: devices broken on purpose, each by one plausible bug, must be caught.

use super::*;
use lm_saes_runtime::{DeviceInfo, MapKind, op};

/// The reference with one op tampered with before it runs.
struct Broken {
    inner: Arc<dyn Device>,
    tamper: fn(Op) -> Op,
}

struct BrokenStream {
    inner: Box<dyn Stream>,
    tamper: fn(Op) -> Op,
}

// SAFETY: memory is the reference's.
unsafe impl Device for Broken {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn supports(&self, op: &Op) -> std::result::Result<(), Unsupported> {
        match op {
            Op::Age(_) => Err(Unsupported::because("no ageing here")),
            op => self.inner.supports(op),
        }
    }
    fn alloc(&self, bytes: usize) -> Result<Addr> {
        self.inner.alloc(bytes)
    }
    unsafe fn free(&self, addr: Addr, bytes: usize) {
        // SAFETY: passed on.
        unsafe { self.inner.free(addr, bytes) }
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(BrokenStream { inner: self.inner.stream()?, tamper: self.tamper }))
    }
}

// SAFETY: copies are the reference's; tampered ops stay inside the case's image, which has guards around every operand.
unsafe impl Stream for BrokenStream {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.inner.launch(&(self.tamper)(*op)) }
    }
    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.upload(src, dst) }
    }
    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.download(src, dst) }
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
}

/// Runs the cases matching `filter` on a device with this bug and returns the failures' texts.
fn failures(filter: &str, tamper: fn(Op) -> Op) -> Vec<String> {
    let device: Arc<dyn Device> = Arc::new(Broken { inner: reference::device(), tamper });
    run(&device, filter).failures().map(|(c, why)| format!("{}: {why}", c.name())).collect()
}

#[test]
fn a_wrong_sum_is_caught() {
    let found = failures("Reduce: Sum over rows [7, 65] beta 0.5", |op| match op {
        Op::Reduce(o) => Op::Reduce(op::Reduce { x: op::Mat { rows: o.x.rows - 1, ..o.x }, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("the reference has"), "{found:?}");
}

#[test]
fn a_slightly_wrong_factor_is_caught() {
    let found = failures("Map: Affine [5, 65]", |op| match op {
        Op::Map(o) => Op::Map(op::Map { a: o.a * 1.0002, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_write_past_the_end_is_caught() {
    let found = failures("Fill: f32 1.5 [3, 65]", |op| match op {
        Op::Fill(o) => Op::Fill(op::Fill { y: op::Mat { rows: 1, cols: 3 * o.y.ld + 1, ..o.y }, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("past the end of y"), "{found:?}");
    assert!(found[1].contains("of y [3, 65] ld 68"), "the gap between columns and ld: {found:?}");
}

#[test]
fn an_index_off_by_one_is_caught() {
    let found = failures("TopK: [3, 63] Normal k 7", |op| match op {
        Op::TopK(o) => Op::TopK(op::TopK { x: op::Mat { addr: Addr(o.x.addr.0 + 4), ..o.x }, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_changed_input_is_caught() {
    let found = failures("Gather: 7 rows of 200 f32", |op| match op {
        Op::Gather(o) => Op::Gather(op::Gather { y: op::Mat { rows: 0, ..o.y }, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "an output left as it was: {found:?}");
    let found = failures("Copy: u32 [4, 7]", |op| match op {
        Op::Copy(o) => Op::Fill(op::Fill { y: o.x, value: 0.0 }),
        op => op,
    });
    assert!(found[0].contains("of x [4, 7]"), "{found:?}");
}

#[test]
fn lost_nan_is_caught() {
    let found = failures("Map: Relu NaN", |op| match op {
        Op::Map(o) => Op::Map(op::Map { kind: MapKind::Exp, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn accepting_an_index_out_of_range_is_caught() {
    let found = failures("Gather: an index past the table", |op| match op {
        Op::Gather(o) => Op::Gather(op::Gather { table: op::Mat { rows: 18, ..o.table }, ..o }),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("accepted what must fail"), "{found:?}");
}

#[test]
fn a_panic_is_a_failure_of_that_case_only() {
    let found = failures("Random: Uniform [1, 1] from", |op| match op {
        Op::Random(o) if o.offset == 1 => panic!("broken on purpose"),
        op => op,
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("broken on purpose"), "{found:?}");
}

#[test]
fn a_refusal_is_shown_and_is_no_pass() {
    let device: Arc<dyn Device> = Arc::new(Broken { inner: reference::device(), tamper: |op| op });
    let report = run(&device, "Age: [1, 64] limit 1");
    assert_eq!((report.refusals().count(), report.failures().count()), (report.results.len(), 0));
    assert!(report.to_string().contains("no ageing here"), "{report}");
}

#[test]
fn every_op_has_cases_and_a_bench_row() {
    for op in Op::NAMES {
        assert!(cases().iter().any(|c| c.op == *op), "no case of {op}");
        // Gate differs from Compact only in where it writes; training uses the latter.
        assert!(*op == "Gate" || bench_cases().iter().any(|c| c.op == *op), "no bench row of {op}");
    }
}

#[test]
fn the_reference_stays_inside_its_outputs_and_repeats_itself() {
    for case in cases().iter().filter(|c| c.seed % 5 == 0) {
        assert_eq!(run_case(&reference::device(), case), Outcome::Passed, "{}", case.name());
    }
}

#[test]
fn a_device_behind_the_plugin_table_agrees_as_well() {
    let table = lm_saes_runtime::abi::export::table(|| Box::new(reference::Reference), c"table");
    // SAFETY: the table is this process's own.
    let backend = unsafe { lm_saes_runtime::abi::from_table(table) }.expect("a valid table");
    let device = backend.open(0).expect("a device");
    // Every op and every way to fail; all cases would only repeat them.
    for case in cases().iter().filter(|c| c.fails || c.seed % 16 == 1) {
        assert_eq!(run_case(&device, case), Outcome::Passed, "{}", case.name());
    }
}
