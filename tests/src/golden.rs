//! Golden cases: folders `<kind>/<name>` with a `case.json` and tensors, under `tests/fixtures` and under the directory named by
//! `LM_SAES_FIXTURES`. A test binary per kind calls [`run`]; this file finds the cases, compares, and prints one line per kind.
//! To add a kind: write `tests/tests/golden_<kind>.rs` around [`run`] and move the kind from [`NOT_YET`] to [`TESTED`].

use lm_saes::tensorfile::TensorFile;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Kinds with a test binary of their own.
pub const TESTED: &[&str] = &["lm", "dict", "train", "saelens"];

/// Kinds known and not yet supported. Any other folder with cases fails.
pub const NOT_YET: &[&str] = &["graph"];

/// One case folder.
pub struct Case {
    /// Folder name of the kind.
    pub kind: String,
    /// Folder name of the case.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// Contents of `case.json`.
    pub json: Value,
}

/// What became of a case.
pub enum Outcome {
    /// Compared and equal within tolerance.
    Passed,
    /// Understood, but the thing it tests does not exist yet: why.
    NotYet(String),
}

impl Case {
    /// A tensor file of the case.
    pub fn open(&self, file: &str) -> Result<TensorFile, String> {
        TensorFile::open(self.dir.join(file)).map_err(|e| e.to_string())
    }

    /// A file of the case.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Whether the case has this file.
    pub fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }

    /// A number in `case.json` by JSON pointer, e.g. `/tolerance/rtol`.
    pub fn number(&self, pointer: &str) -> Result<f64, String> {
        self.json
            .pointer(pointer)
            .and_then(Value::as_f64)
            .ok_or_else(|| format!("case.json has no number at {pointer}"))
    }

    /// A string in `case.json` by JSON pointer.
    pub fn text(&self, pointer: &str) -> Result<&str, String> {
        self.json
            .pointer(pointer)
            .and_then(Value::as_str)
            .ok_or_else(|| format!("case.json has no string at {pointer}"))
    }

    /// `rtol` and `atol` of the object at this JSON pointer.
    pub fn tolerance(&self, pointer: &str) -> Result<Tolerance, String> {
        let part = |name| self.number(&format!("{pointer}/{name}"));
        Ok(Tolerance { rtol: part("rtol")?, atol: part("atol")? })
    }
}

/// `|got − want| <= atol + rtol·|want|`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative part.
    pub rtol: f64,
    /// Absolute part.
    pub atol: f64,
}

impl Tolerance {
    /// Only an absolute part.
    pub fn abs(atol: f64) -> Self {
        Self { rtol: 0.0, atol }
    }
}

/// Collects every disagreement of a case, so that one run shows all of them.
#[derive(Default)]
pub struct Differences {
    text: String,
    compared: usize,
}

impl Differences {
    /// Notes a disagreement found otherwise.
    pub fn note(&mut self, what: impl AsRef<str>) {
        let _ = writeln!(self.text, "    {}", what.as_ref());
    }

    /// Compares elementwise; NaN never agrees.
    pub fn compare(&mut self, name: &str, got: &[f32], want: &[f32], tol: Tolerance) {
        self.compared += 1;
        if got.len() != want.len() {
            return self.note(format!("{name}: {} values, expected {}", got.len(), want.len()));
        }
        let mut bad = 0;
        let mut worst = (0.0, 0);
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let (g, w) = (f64::from(g), f64::from(w));
            let excess = (g - w).abs() - (tol.atol + tol.rtol * w.abs());
            if excess.is_nan() || excess > 0.0 {
                bad += 1;
                if bad == 1 || excess > worst.0 {
                    worst = (excess, i);
                }
            }
        }
        if bad > 0 {
            let i = worst.1;
            self.note(format!(
                "{name}: {bad} of {} values differ; worst at {i}: {} instead of {} (rtol {}, atol {})",
                want.len(),
                got[i],
                want[i],
                tol.rtol,
                tol.atol
            ));
        }
    }

    /// Compares exactly.
    pub fn same<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, got: T, want: T) {
        self.compared += 1;
        if got != want {
            self.note(format!("{name}: {got:?} instead of {want:?}"));
        }
    }

    /// Passed when something was compared and nothing differed.
    pub fn outcome(self) -> Result<Outcome, String> {
        match (self.compared, self.text.is_empty()) {
            (0, true) => Err("nothing was compared".into()),
            (_, true) => Ok(Outcome::Passed),
            _ => Err(self.text.trim_start().trim_end().to_string()),
        }
    }
}

/// Directories with case folders: the committed subset, and `LM_SAES_FIXTURES` (relative paths start at the workspace root).
pub fn roots() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut roots = vec![here.join("fixtures")];
    if let Some(more) = std::env::var_os("LM_SAES_FIXTURES").filter(|v| !v.is_empty()) {
        let more = here.parent().unwrap_or(here).join(more);
        assert!(more.is_dir(), "LM_SAES_FIXTURES: {} is not a directory", more.display());
        roots.push(more);
    }
    roots
}

/// Every case, by kind and name. Of two copies with the same `case.json` the one under `LM_SAES_FIXTURES` counts.
pub fn discover() -> BTreeMap<String, Vec<Case>> {
    let mut kinds: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for root in roots() {
        for kind in folders(&root) {
            for dir in folders(&kind) {
                let path = dir.join("case.json");
                let text =
                    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let (kind, name) = (file_name(&kind), file_name(&dir));
                let cases = kinds.entry(kind.clone()).or_default();
                // The committed subset is thinned, so the other copy of the same case is the one to run.
                cases.retain(|c| c.name != name || c.json != json);
                cases.push(Case { kind, name, dir, json });
            }
        }
    }
    kinds
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    all.sort();
    all
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs `check` on every case of a kind, prints the kind's line (past the test harness's capture, so it always shows), and
/// panics when a case failed. A panic inside `check` is a failure of that case.
pub fn run(kind: &str, check: impl Fn(&Case) -> Result<Outcome, String>) {
    let cases = discover().remove(kind).unwrap_or_default();
    let (mut passed, mut failed, mut not_yet) = (0, Vec::new(), Vec::new());
    for case in &cases {
        let result = catch_unwind(AssertUnwindSafe(|| check(case)))
            .unwrap_or_else(|_| Err("panicked (see above)".into()));
        match result {
            Ok(Outcome::Passed) => passed += 1,
            Ok(Outcome::NotYet(why)) => not_yet.push(format!("{}: {why}", case.name)),
            Err(why) => failed.push(format!("{}: {why}", case.name)),
        }
    }
    report(kind, cases.len(), passed, &failed, &not_yet);
    assert!(failed.is_empty(), "{} of {} {kind} cases failed (listed above)", failed.len(), cases.len());
    assert!(!cases.is_empty(), "no {kind} cases found under {:?}", roots());
}

fn report(kind: &str, all: usize, passed: usize, failed: &[String], not_yet: &[String]) {
    // The harness may be in the middle of a line.
    let mut text = format!(
        "\n{kind}: {all} cases, {passed} passed, {} failed, {} not yet supported\n",
        failed.len(),
        not_yet.len()
    );
    for line in failed {
        let _ = writeln!(text, "  failed: {kind}/{line}");
    }
    for line in not_yet {
        let _ = writeln!(text, "  not yet supported: {kind}/{line}");
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_case_is_tested_or_listed_as_not_yet_supported() {
        let kinds = discover();
        for kind in NOT_YET {
            let names: Vec<String> = kinds.get(*kind).into_iter().flatten().map(|c| c.name.clone()).collect();
            report(kind, names.len(), 0, &[], &names);
        }
        let unknown: Vec<&String> = kinds
            .keys()
            .filter(|k| !TESTED.contains(&k.as_str()) && !NOT_YET.contains(&k.as_str()))
            .collect();
        assert!(unknown.is_empty(), "cases of unknown kinds {unknown:?}");
    }

    #[test]
    fn a_difference_beyond_tolerance_and_a_nan_are_reported() {
        let tol = Tolerance { rtol: 1e-4, atol: 1e-6 };
        let mut d = Differences::default();
        d.compare("near", &[1.00005, 0.0], &[1.0, 1e-7], tol);
        assert!(d.outcome().is_ok());
        for got in [[1.001, 0.0], [f32::NAN, 0.0]] {
            let mut d = Differences::default();
            d.compare("far", &got, &[1.0, 0.0], tol);
            assert!(d.outcome().is_err_and(|e| e.contains("far: 1 of 2")));
        }
    }

    #[test]
    fn a_case_that_compares_nothing_fails() {
        assert!(Differences::default().outcome().is_err());
    }
}
