//! One JSON object a line: what dictionary and analysis are, then every feature as [`crate::store::Feature`] has it, its
//! contexts' tokens included.

use super::Selection;
use crate::{Error, Result, files};
use serde::Serialize;
use serde_json::json;
use std::{io, path::Path};

/// Writes `path`; it is there whole or not at all.
///
/// # Errors
/// What the store refuses, or a disk that does not take the file.
pub fn json(from: &Selection<'_>, path: &Path, mut progress: impl FnMut(usize)) -> Result<()> {
    write_lines(path, |line| {
        line(text(path, &json!({ "dictionary": from.dictionary, "analysis": from.analysis }))?)?;
        from.each(|n, feature| {
            line(text(path, &feature)?)?;
            progress(n + 1);
            Ok(())
        })
    })
}

/// Straight to text: a detour over a JSON value would print f32 with the digits of f64.
fn text(path: &Path, value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::format(path, e.to_string()))
}

/// Writes a file of JSON lines atomically, keeping errors that are not the disk's.
fn write_lines(
    path: &Path,
    fill: impl FnOnce(&mut dyn FnMut(String) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let mut failed = None;
    let done = files::write_atomic(path, |w| {
        let mut line = |text: String| writeln!(w, "{text}").map_err(|e| Error::io(path, e));
        fill(&mut line).map_err(|e| {
            failed = Some(e);
            io::Error::other("the lines could not be had")
        })
    });
    match failed {
        Some(e) => Err(e),
        None => done,
    }
}
