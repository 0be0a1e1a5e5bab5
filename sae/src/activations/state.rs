//! The state of a stream in one safetensors file: cursor in the header, then the waiting rows in order of emission. Rows
//! go through memory a slice at a time, so saving needs no second copy of the buffer.

use super::{ActivationStream, StreamCursor, StreamSettings, Target};
use crate::{
    Error, Result,
    data::{TokenBatch, TokenPolicy},
    files,
    tensorfile::TensorFile,
};
use lm_saes_runtime::{Queue, View};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{io, io::Write, path::Path};

const KEY: &str = "activation_stream";
const SLICE_BYTES: usize = 16 << 20;

/// What the header says besides the tensors.
#[derive(Serialize, Deserialize)]
struct Header {
    cursor: StreamCursor,
    target: Target,
    hook_points: Vec<String>,
    policy: TokenPolicy,
}

impl ActivationStream {
    /// Writes the whole state to `path`, atomically.
    pub fn save_state(&self, q: &mut Queue, path: &Path) -> Result<()> {
        let mut failed = None;
        let done = files::write_atomic(path, |w| match self.write_state(q, w) {
            Ok(()) => Ok(()),
            Err(Failure::Write(e)) => Err(e),
            Err(Failure::Read(e)) => {
                failed = Some(e);
                Err(io::Error::other("the rows could not be read"))
            }
        });
        match failed {
            Some(e) => Err(e),
            None => done,
        }
    }

    fn write_state(&self, q: &mut Queue, w: &mut dyn Write) -> Result<(), Failure> {
        let (rows, unit, widths) = (self.buffer.len(), self.buffer.unit, self.buffer.widths());
        let header = Header {
            cursor: self.cursor(),
            target: self.settings.target,
            hook_points: self.settings.hook_points.clone(),
            policy: self.policy().clone(),
        };
        let text = serde_json::to_string(&header).map_err(|e| Failure::Write(e.into()))?;
        let mut tensors = serde_json::Map::new();
        tensors.insert("__metadata__".into(), json!({ KEY: text }));
        let mut end = 0;
        // u32 before u8 keeps every tensor aligned.
        let acts = widths.iter().enumerate().map(|(i, &width)| (format!("acts.{i}"), "F32", width, 4));
        for (name, dtype, cols, size) in
            acts.chain([("tokens".into(), "U32", unit, 4), ("mask".into(), "U8", unit, 1)])
        {
            let start = end;
            end += rows * cols * size;
            let about = json!({ "dtype": dtype, "shape": [rows, cols], "data_offsets": [start, end] });
            tensors.insert(name, about);
        }
        let mut head = serde_json::to_vec(&tensors).map_err(|e| Failure::Write(e.into()))?;
        head.resize(head.len().next_multiple_of(8), b' ');
        w.write_all(&(head.len() as u64).to_le_bytes())?;
        w.write_all(&head)?;
        for i in 0..widths.len() {
            self.write_rows(q, w, i)?;
        }
        let (tokens, mask) = self.buffer.host_rows(rows);
        w.write_all(&tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<_>>())?;
        Ok(w.write_all(&mask)?)
    }

    /// All waiting rows of one hook point.
    fn write_rows(&self, q: &mut Queue, w: &mut dyn Write, hook: usize) -> Result<(), Failure> {
        let rows = self.buffer.len();
        let slice = (SLICE_BYTES / 4 / self.buffer.widths()[hook].max(1)).max(1);
        for from in (0..rows).step_by(slice) {
            let part = self.buffer.rows_of(q, hook, from, slice.min(rows - from))?;
            let values: Vec<f32> = q.download(&part).map_err(Error::from)?;
            w.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Replaces the state by the one in `path`, saved by a stream with the same settings and data.
    ///
    /// # Errors
    /// Names what differs: hook points, target, token policy or the data.
    pub fn load_state(&mut self, q: &mut Queue, path: &Path) -> Result<()> {
        let file = TensorFile::open(path)?;
        let text = file.metadata().remove(KEY);
        let text = text.ok_or_else(|| Error::format(path, "not the state of an activation stream"))?;
        let header: Header =
            serde_json::from_str(&text).map_err(|e| Error::format(path, format!("header: {e}")))?;
        self.check_same(path, &header)?;

        let unit = self.buffer.unit;
        let (shape, tokens) = file.i64("tokens")?;
        let rows = *shape.first().unwrap_or(&0);
        let n = rows.saturating_mul(unit);
        let (_, mask) = file.i64("mask")?;
        let wrong = |name: &str| Error::Tensor {
            path: path.into(),
            name: name.into(),
            what: "has another size than the rest".into(),
        };
        if tokens.len() != n || mask.len() != n {
            return Err(wrong("tokens"));
        }
        let batch = TokenBatch {
            ids: tokens.into_iter().map(|t| t as u32).collect(),
            mask: mask.into_iter().map(|m| m as u8).collect(),
            lengths: vec![unit; rows],
            batch: rows,
            len: unit,
        };
        let mut acts = Vec::new();
        let hooks = if rows > 0 { self.settings.hook_points.len() } else { 0 };
        for i in 0..hooks {
            let name = format!("acts.{i}");
            let (shape, values) = file.f32(&name)?;
            let width = *shape.get(1).filter(|_| shape[0] == rows).ok_or_else(|| wrong(&name))?;
            acts.push(q.tensor(rows, width, &values)?);
        }
        self.tokens.seek(&header.cursor.tokens)?;
        self.buffer.clear();
        self.ahead.clear();
        self.buffer.append(q, &acts.iter().map(View::from).collect::<Vec<_>>(), &batch, None)?;
        self.at = header.cursor;
        Ok(())
    }

    fn check_same(&self, path: &Path, saved: &Header) -> Result<()> {
        let StreamSettings { target, hook_points, .. } = &self.settings;
        let differs = |what: &str, theirs: String, ours: String| {
            Err(Error::format(path, format!("saved with {what} {theirs}, the settings now have {ours}")))
        };
        if saved.hook_points != *hook_points {
            return differs("hook points", saved.hook_points.join(", "), hook_points.join(", "));
        }
        if saved.target != *target {
            return differs("target", format!("{:?}", saved.target), format!("{target:?}"));
        }
        if saved.policy != *self.policy() {
            let (theirs, ours) = (json!(saved.policy), json!(self.policy()));
            return differs("token policy", theirs.to_string(), ours.to_string());
        }
        Ok(())
    }
}

/// Which side of saving failed.
enum Failure {
    Write(io::Error),
    Read(Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::Write(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Read(e)
    }
}
