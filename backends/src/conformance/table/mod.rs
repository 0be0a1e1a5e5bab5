//! The cases: one file per op family. Each row appears packed and loose (leading dimension > columns, unaligned), and the
//! same builders at realistic sizes are the bench rows.

mod bench;
mod dense;
mod layers;
mod select;
mod sparse;
mod train;

use super::{
    Case,
    build::{Build, Layout},
};
use lm_saes_runtime::Op;
use std::sync::Arc;

/// Tolerance of sums and elementwise functions in f32 against f64.
const CLOSE: f64 = 2e-5;
/// Bits must agree.
const EXACT: f64 = 0.0;

/// Sizes around the widths of vectors and tiles.
const WIDTHS: [u64; 7] = [0, 1, 7, 63, 64, 65, 200];

#[derive(Default)]
struct Table {
    cases: Vec<Case>,
}

impl Table {
    fn push(
        &mut self,
        op: &'static str,
        what: String,
        tolerance: f64,
        fails: bool,
        build: impl Fn(&mut Build) -> Op + Send + Sync + 'static,
    ) {
        let builder: super::Builder = Arc::new(build);
        for (layout, suffix) in [(Layout::Packed, ""), (Layout::Loose, " loose")] {
            self.cases.push(Case {
                op,
                what: format!("{what}{suffix}"),
                seed: 1 + self.cases.len() as u64,
                tolerance,
                fails,
                layout,
                builder: builder.clone(),
            });
        }
    }

    fn add(
        &mut self,
        op: &'static str,
        what: String,
        tolerance: f64,
        build: impl Fn(&mut Build) -> Op + Send + Sync + 'static,
    ) {
        self.push(op, what, tolerance, false, build);
    }

    /// A case whose data the device must refuse while running.
    fn add_failing(
        &mut self,
        op: &'static str,
        what: &str,
        build: impl Fn(&mut Build) -> Op + Send + Sync + 'static,
    ) {
        self.push(op, format!("{what} fails"), EXACT, true, build);
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut t = Table::default();
    dense::gemm(&mut t);
    dense::fill_copy_gather(&mut t);
    dense::map(&mut t);
    dense::reduce(&mut t);
    layers::norm(&mut t);
    layers::cross_entropy(&mut t);
    layers::rope(&mut t);
    layers::attention(&mut t);
    layers::attention_grad(&mut t);
    select::topk(&mut t);
    select::threshold(&mut t);
    select::compact_and_gate(&mut t);
    select::gate_grad(&mut t);
    train::penalty(&mut t);
    train::threshold_penalty(&mut t);
    sparse::products(&mut t);
    sparse::columns(&mut t);
    train::activity_and_age(&mut t);
    train::adam(&mut t);
    train::random(&mut t);
    t.cases
}

/// One row per op at the sizes of a training step (d_model 768, d_sae 6144, k 50, batch 4096) or of a language model's forward
/// pass; their operands take up to 200 MB, laid out packed.
pub fn bench_cases() -> Vec<Case> {
    let mut t = Table::default();
    bench::rows(&mut t);
    t.cases.retain(|c| c.layout == Layout::Packed);
    t.cases
}

/// `yes` when the flag is set, for names of cases.
fn tag(flag: bool, yes: &'static str) -> &'static str {
    if flag { yes } else { "" }
}
