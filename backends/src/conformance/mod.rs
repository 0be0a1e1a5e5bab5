//! The conformance table: one list of cases (op, sizes, flags, seed, tolerance) that runs on any device against the scalar
//! reference. It drives tests, benches, the support matrix and `lm-saes devices --conformance`, for plugins too. Operands
//! lie in one image with sentinels around them (`build`); the verdict is in `compare`; the cases are in `table`.

mod build;
mod compare;
mod table;

pub(crate) use compare::operand as compare_operand;
pub use table::{bench_cases, cases};

use crate::reference;
use build::{Build, Built, Layout};
use lm_saes_runtime::{Addr, Device, Op, Result, Stream, Unsupported};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

type Builder = Arc<dyn Fn(&mut Build) -> Op + Send + Sync>;

/// One row of the table.
#[derive(Clone)]
pub struct Case {
    /// Op name.
    pub op: &'static str,
    /// Sizes, flags and layout, for people.
    pub what: String,
    /// Seed of its data.
    pub seed: u64,
    /// Bound on floats, relative to each value plus the root mean square; 0 = exact. Integers are always exact.
    pub tolerance: f64,
    /// The device must report a failure instead of a result.
    pub fails: bool,
    layout: Layout,
    builder: Builder,
}

impl Case {
    /// `op: what`, what filters match against.
    pub fn name(&self) -> String {
        format!("{}: {}", self.op, self.what)
    }

    fn build(&self) -> Built {
        let mut b = Build::new(self.seed, self.layout);
        let op = (self.builder)(&mut b);
        b.finish(op)
    }

    /// Puts the case's operands on a device, to launch its op repeatedly.
    ///
    /// # Errors
    /// What the device reports while allocating and copying; the op may still be unsupported (see [`Loaded::supports`]).
    pub fn load(&self, device: &Arc<dyn Device>) -> Result<Loaded> {
        Loaded::new(device, &self.build())
    }
}

/// A case's operands in the memory of one device.
pub struct Loaded {
    stream: Box<dyn Stream>,
    device: Arc<dyn Device>,
    base: Addr,
    bytes: usize,
    op: Op,
}

impl Loaded {
    fn new(device: &Arc<dyn Device>, built: &Built) -> Result<Self> {
        let bytes = built.image.len();
        let base = device.alloc(bytes)?;
        let op = built.op.relocated(|a| Addr(base.0 + a.0));
        // Owned from here on, so that an error below frees the memory.
        let mut loaded = Self { stream: device.stream()?, device: device.clone(), base, bytes, op };
        // SAFETY: `base` was allocated with exactly this many bytes.
        unsafe { loaded.stream.upload(&built.image, base)? };
        loaded.stream.sync()?;
        Ok(loaded)
    }

    /// Whether the device can run the op.
    pub fn supports(&self) -> Result<(), Unsupported> {
        self.device.supports(&self.op)
    }

    /// The op as the device sees it.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// Runs the op once and waits for it.
    ///
    /// # Errors
    /// What the device reports; ask [`Loaded::supports`] first.
    pub fn run(&mut self) -> Result<()> {
        // SAFETY: every address of the op lies in the image this value owns, the builder made shapes, types and aliasing as the
        // op's contract demands (cases that must fail differ only in data the device has to check), and sync ends before return.
        let queued = unsafe { self.stream.launch(&self.op) };
        // Of an op that fails halfway some work may be queued, and the memory is looked at next.
        let done = self.stream.sync();
        queued.and(done)
    }

    fn image(&self) -> Result<Vec<u8>> {
        let mut image = vec![0; self.bytes];
        // A new stream, because a failed one accepts no work.
        let mut stream = self.device.stream()?;
        // SAFETY: `base` has as many bytes as `image`, which outlives the sync.
        unsafe { stream.download(self.base, &mut image)? };
        stream.sync()?;
        Ok(image)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A failure was reported by the call that met it.
        let _ = self.stream.sync();
        // SAFETY: allocated in `new` with this size; the stream is idle.
        unsafe { self.device.free(self.base, self.bytes) }
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Agrees with the reference.
    Passed,
    /// The device refuses the op in this form: shown, never a pass.
    Unsupported(String),
    /// The first disagreement.
    Failed(String),
}

/// Runs one case on a device and on the reference.
pub fn run_case(device: &Arc<dyn Device>, case: &Case) -> Outcome {
    // A panic in a device is that device's failure, not the end of the table.
    let verdict = catch_unwind(AssertUnwindSafe(|| judge(device, case)));
    verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Outcome::Failed(format!("panicked: {text}"))
    })
}

fn judge(device: &Arc<dyn Device>, case: &Case) -> Outcome {
    let built = case.build();
    match compared(device, case, &built) {
        Ok(None) => Outcome::Passed,
        Ok(Some(why)) => Outcome::Unsupported(why.0),
        Err(what) => Outcome::Failed(what),
    }
}

fn compared(
    device: &Arc<dyn Device>,
    case: &Case,
    built: &Built,
) -> std::result::Result<Option<Unsupported>, String> {
    let text = |e: lm_saes_runtime::Error| e.to_string();
    let mut truth = Loaded::new(&reference::device(), built).map_err(text)?;
    let expected = truth.run();
    if expected.is_err() != case.fails {
        return Err(format!("the case is wrong: the reference says {expected:?}"));
    }
    let mut loaded = Loaded::new(device, built).map_err(text)?;
    if let Err(why) = loaded.supports() {
        return Ok(Some(why));
    }
    let done = loaded.run();
    let after = loaded.image().map_err(text)?;
    compare::untouched(built, &after)?;
    match (done, case.fails) {
        (Err(_), true) => Ok(None),
        (Ok(()), true) => Err(format!("accepted what must fail: {}", text(expected.unwrap_err()))),
        (Err(e), false) => Err(text(e)),
        (Ok(()), false) => {
            let want = truth.image().map_err(text)?;
            compare::outputs(built, &want, &after, case.tolerance).map(|()| None)
        }
    }
}

/// The outcome of every case that ran.
pub struct Report {
    /// Device name.
    pub device: String,
    /// Cases and what became of them, in table order.
    pub results: Vec<(Case, Outcome)>,
}

impl Report {
    /// Cases that disagree with the reference.
    pub fn failures(&self) -> impl Iterator<Item = (&Case, &str)> {
        self.results.iter().filter_map(|(c, o)| match o {
            Outcome::Failed(why) => Some((c, why.as_str())),
            _ => None,
        })
    }

    /// Cases the device refuses.
    pub fn refusals(&self) -> impl Iterator<Item = (&Case, &str)> {
        self.results.iter().filter_map(|(c, o)| match o {
            Outcome::Unsupported(why) => Some((c, why.as_str())),
            _ => None,
        })
    }

    /// Per op: passed, unsupported, failed, and the first reason.
    pub fn matrix(&self) -> Vec<(&'static str, [usize; 3], Option<String>)> {
        let mut rows = Vec::new();
        for &op in Op::NAMES {
            let mut counts = [0; 3];
            let mut reason = None;
            for (case, outcome) in self.results.iter().filter(|(c, _)| c.op == op) {
                let (i, why) = match outcome {
                    Outcome::Passed => (0, None),
                    Outcome::Unsupported(why) => (1, Some(format!("unsupported: {why} ({})", case.what))),
                    Outcome::Failed(why) => (2, Some(format!("failed: {why} ({})", case.what))),
                };
                counts[i] += 1;
                reason = reason.or(why);
            }
            if counts != [0; 3] {
                rows.push((op, counts, reason));
            }
        }
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {:<18}{:>8}{:>13}{:>8}", self.device, "op", "passed", "unsupported", "failed")?;
        let indent = self.device.len() + 2;
        let mut total = [0; 3];
        for (op, counts, reason) in self.matrix() {
            let [passed, unsupported, failed] = counts;
            write!(f, "{:indent$}{op:<18}{passed:>8}{unsupported:>13}{failed:>8}", "")?;
            writeln!(f, "{}", reason.map_or_else(String::new, |r| format!("   {r}")))?;
            total.iter_mut().zip(counts).for_each(|(t, c)| *t += c);
        }
        let [passed, unsupported, failed] = total;
        write!(f, "{:indent$}{:<18}{passed:>8}{unsupported:>13}{failed:>8}", "", "all")
    }
}

/// Runs every case whose name contains `filter` (all when empty) on `device`.
pub fn run(device: &Arc<dyn Device>, filter: &str) -> Report {
    let cases = cases().into_iter().filter(|c| c.name().contains(filter));
    let results = cases.map(|c| (c.clone(), run_case(device, &c))).collect();
    Report { device: device.info().name.clone(), results }
}

#[cfg(test)]
mod harness_tests;
