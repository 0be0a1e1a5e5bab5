//! `metrics.jsonl`: one JSON object a record, `step` and `tokens` first.

use super::{Record, Tracker};
use crate::{Error, Result, files};
use serde_json::{Map, Value};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
};

/// Appends records to a file of JSON lines.
pub struct JsonLines {
    path: PathBuf,
    file: Option<File>,
}

impl JsonLines {
    /// A writer to `path`; nothing is touched before [`Tracker::start`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }
}

impl Tracker for JsonLines {
    fn start(&mut self, step: u64) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let mut kept = Vec::new();
        if step > 0 && self.path.exists() {
            for line in BufReader::new(File::open(&self.path).map_err(io)?).lines() {
                let line = line.map_err(io)?;
                // A line cut off by a crash does not parse and is dropped.
                let at = serde_json::from_str::<Value>(&line).ok().and_then(|v| v.get("step")?.as_u64());
                if at.is_some_and(|at| at <= step) {
                    kept.push(line);
                }
            }
        }
        files::write_atomic(&self.path, |w| kept.iter().try_for_each(|line| writeln!(w, "{line}")))?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path).map_err(io)?);
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        let mut map = Map::new();
        map.insert("step".into(), record.step.into());
        map.insert("tokens".into(), record.tokens.into());
        for (key, value) in &record.values {
            // NaN and infinity have no JSON form and become null.
            map.insert(key.clone(), (*value).into());
        }
        let line = format!("{}\n", Value::Object(map));
        match &mut self.file {
            Some(file) => file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e)),
            None => Err(Error::io(&self.path, std::io::Error::other("records arrived before start"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record { step, tokens: step * 10, values: vec![("losses/overall_loss".into(), 0.5 / step as f64)] }
    }

    #[test]
    fn a_resumed_run_drops_later_and_broken_lines_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut t = JsonLines::new(&path);
        t.start(0).unwrap();
        (1..=4).for_each(|s| t.record(&record(s)).unwrap());
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"step\": 5, \"tok")).unwrap();
        let mut t = JsonLines::new(&path);
        t.start(2).unwrap();
        (3..=4).for_each(|s| t.record(&record(s)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        assert!(whole.starts_with("{\"step\":1,\"tokens\":10,\"losses/overall_loss\":0.5}\n"), "{whole}");
    }

    #[test]
    fn a_new_run_starts_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n").unwrap();
        JsonLines::new(&path).start(0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
