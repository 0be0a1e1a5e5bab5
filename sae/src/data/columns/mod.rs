//! The text column of parquet and Arrow files, as the hub's data sets come, or a column of chats or token ids. Rows are numbered; what is
//! decoded at a time is a chunk of a few thousand of them at most, and the last few chunks of all files together are kept.

mod arrow;
mod parquet;

use super::content::Content;
use crate::{Error, Result};
use std::{
    collections::VecDeque,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Chunks kept decoded: readers go forward, several at once in a sweep or a mixture.
const KEPT: usize = 4;

/// One indexed file.
pub struct Columns {
    path: PathBuf,
    content: Content,
    size: u64,
    format: Format,
    /// Number of the first row of each chunk, then the number of rows.
    firsts: Vec<u64>,
}

/// Chunks decoded lately, by file and number.
#[derive(Default)]
pub struct Recent(Mutex<VecDeque<Kept>>);

type Kept = ((PathBuf, usize), Arc<Vec<String>>);

enum Format {
    Parquet(Vec<parquet::Chunk>),
    Arrow(arrow::Index),
}

impl Columns {
    /// Whether a file name says that a file is of one of the formats read here.
    pub fn reads(path: &Path) -> bool {
        path.extension().is_some_and(|e| e == "parquet" || e == "arrow")
    }

    /// Reads where the rows are, not the rows.
    ///
    /// # Errors
    /// [`Error::Format`] when the file is damaged, or has no such column: then it names those it has.
    pub fn open(path: PathBuf, content: &Content) -> Result<Self> {
        let bad = |what: String| Error::format(&path, what);
        let size = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
        let (format, rows) = if path.extension().is_some_and(|e| e == "parquet") {
            let chunks = caught(|| parquet::index(&path, content)).map_err(bad)?;
            let rows = chunks.iter().map(|c| c.rows as u64).collect::<Vec<_>>();
            (Format::Parquet(chunks), rows)
        } else {
            let index = caught(|| arrow::index(&path, content)).map_err(bad)?;
            let rows = index.batches.iter().map(|b| b.rows).collect();
            (Format::Arrow(index), rows)
        };
        let mut firsts = vec![0];
        firsts.extend(rows.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        }));
        Ok(Self { path, content: content.clone(), size, format, firsts })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Rows.
    pub fn records(&self) -> u64 {
        self.firsts[self.firsts.len() - 1]
    }

    /// Bytes before a row, as if all rows were equally long.
    pub fn bytes_before(&self, row: u64) -> u64 {
        (u128::from(self.size) * u128::from(row) / u128::from(self.records().max(1))) as u64
    }

    /// Texts of the rows, chats as JSON; a row without one is empty.
    pub fn read(&self, rows: Range<u64>, recent: &Recent, out: &mut Vec<String>) -> Result<()> {
        let mut next = rows.start;
        while next < rows.end {
            let c = self.firsts.partition_point(|&first| first <= next) - 1;
            let texts = self.chunk(c, recent)?;
            let last = rows.end.min(self.firsts[c + 1]);
            let inside = (next - self.firsts[c]) as usize..(last - self.firsts[c]) as usize;
            out.extend_from_slice(&texts[inside]);
            next = last;
        }
        Ok(())
    }

    fn chunk(&self, c: usize, recent: &Recent) -> Result<Arc<Vec<String>>> {
        let recent = || recent.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, texts)) = recent().iter().find(|((path, i), _)| *i == c && *path == self.path) {
            return Ok(texts.clone());
        }
        let texts = caught(|| match &self.format {
            Format::Parquet(chunks) => parquet::read(&self.path, &self.content, &chunks[c]),
            Format::Arrow(index) => arrow::read(&self.path, &self.content, index, c),
        });
        let texts = texts.map_err(|what| Error::format(&self.path, what))?;
        let (found, wanted) = (texts.len() as u64, self.firsts[c + 1] - self.firsts[c]);
        if found != wanted {
            return Err(Error::format(&self.path, format!("has {found} rows where its index says {wanted}")));
        }
        let texts = Arc::new(texts);
        let mut recent = recent();
        recent.truncate(KEPT - 1);
        recent.push_front(((self.path.clone(), c), texts.clone()));
        Ok(texts)
    }
}

/// The libraries trust some of the offsets in a file and panic where they lead outside it.
fn caught<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let damaged = |_| Err("damaged: what it says of its own parts cannot be true".into());
    panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
}

/// What to say about a file without the column asked for; `have` are those of its kind.
fn no_column(content: &Content, have: &[String]) -> String {
    let (field, kind, key) = match content {
        Content::Text(field) => (field, "strings", "text_field"),
        Content::Messages(field) => (field, "messages", "messages_field"),
        Content::Tokens(field) => (field, "token ids", "tokens_field"),
    };
    match have {
        [] => format!("no column {field:?}, and no other column of {kind} either"),
        have => format!("no column {field:?} of {kind}; set {key} to one of {}", have.join(", ")),
    }
}

#[cfg(test)]
mod tests;
