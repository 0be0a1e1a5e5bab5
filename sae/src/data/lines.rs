//! Files of lines, `.txt` and `.jsonl`: one scan notes where each record starts; after that any record is one positioned read
//! away, however far into the file.

use super::{
    content::{Content, SampleBy},
    record,
};
use crate::{Error, Result};
use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// One indexed file.
pub struct Lines {
    path: PathBuf,
    kind: Kind,
    size: u64,
    /// Where records start. A record ends before the next one; what follows its own end is blank.
    starts: Vec<u64>,
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A line of JSON.
    Jsonl,
    /// Plain text.
    Text(SampleBy),
}

/// Bytes scanned at a time.
pub const SCAN: usize = 1 << 20;
const BOM: &[u8] = b"\xEF\xBB\xBF";

impl Kind {
    /// By the name of a file.
    pub fn of(path: &Path, sample_by: SampleBy) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "txt" => Some(Self::Text(sample_by)),
            _ => None,
        }
    }
}

impl Lines {
    /// Scans a file.
    pub fn open(path: PathBuf, kind: Kind) -> Result<Self> {
        let scanned = File::open(&path).and_then(|mut file| scan(&mut file, kind));
        let (starts, size) = scanned.map_err(|e| Error::io(&path, e))?;
        Ok(Self { path, kind, size, starts })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Records.
    pub fn records(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Bytes before a record.
    pub fn bytes_before(&self, record: u64) -> u64 {
        self.starts.get(record as usize).copied().unwrap_or(0)
    }

    /// Texts of these records; of JSON the field asked for.
    pub fn read(&self, records: Range<u64>, content: &Content, out: &mut Vec<String>) -> Result<()> {
        let open = File::open(&self.path).map_err(|e| Error::io(&self.path, e))?;
        for r in records {
            out.push(self.record(&open, r as usize, content)?);
        }
        Ok(())
    }

    fn record(&self, file: &File, i: usize, content: &Content) -> Result<String> {
        let start = self.starts[i];
        let end = self.starts.get(i + 1).copied().unwrap_or(self.size);
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::format(&self.path, "became shorter while it was read"),
            _ => Error::io(&self.path, e),
        })?;
        if start == 0 && bytes.starts_with(BOM) {
            bytes.drain(..BOM.len());
        }
        let one_line = matches!(self.kind, Kind::Jsonl | Kind::Text(SampleBy::Line));
        if one_line && let Some(n) = bytes.iter().position(|&b| b == b'\n') {
            bytes.truncate(n);
        }
        if one_line && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let text = String::from_utf8(bytes)
            .map_err(|e| self.bad(start + e.utf8_error().valid_up_to() as u64, "not UTF-8 text".into()))?;
        match (self.kind, content) {
            (Kind::Jsonl, Content::Text(field)) => {
                record::text_field(&text, field).map_err(|what| self.bad(start, what))
            }
            (Kind::Jsonl, Content::Messages(field)) => {
                record::list_field(&text, field, "messages_field").map_err(|what| self.bad(start, what))
            }
            (Kind::Jsonl, Content::Tokens(field)) => {
                record::list_field(&text, field, "tokens_field").map_err(|what| self.bad(start, what))
            }
            (Kind::Text(SampleBy::Paragraph), _) => Ok(text.trim_end().into()),
            (Kind::Text(_), _) => Ok(text),
        }
    }

    /// An error at a byte of the file, told by line, which is what editors show.
    fn bad(&self, at: u64, what: String) -> Error {
        let before = File::open(&self.path).map(|f| f.take(at).bytes_counted(b'\n'));
        match before {
            Ok(Ok(lines)) => Error::format(&self.path, format!("line {}: {what}", lines + 1)),
            _ => Error::format(&self.path, format!("byte {at}: {what}")),
        }
    }
}

trait Counted {
    fn bytes_counted(self, byte: u8) -> io::Result<u64>;
}

impl<R: Read> Counted for R {
    fn bytes_counted(mut self, byte: u8) -> io::Result<u64> {
        let (mut buffer, mut count) = (vec![0; SCAN], 0);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(count),
                n => count += buffer[..n].iter().filter(|&&b| b == byte).count() as u64,
            }
        }
    }
}

/// Starts of records, and the size of the file.
fn scan(file: &mut dyn Read, kind: Kind) -> io::Result<(Vec<u64>, u64)> {
    let mut buffer = vec![0; SCAN];
    let (mut starts, mut base, mut line_start) = (Vec::new(), 0u64, 0u64);
    let (mut line_blank, mut last_blank) = (true, true);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((starts, base));
        }
        let mut i = 0;
        while i < n {
            if !line_blank {
                // The rest of a line that has text decides nothing.
                let Some(skip) = buffer[i..n].iter().position(|&b| b == b'\n') else { break };
                i += skip;
            }
            let (byte, at) = (buffer[i], base + i as u64);
            i += 1;
            if byte == b'\n' {
                (last_blank, line_blank, line_start) = (line_blank, true, at + 1);
            } else if line_blank && !byte.is_ascii_whitespace() && !(at < 3 && BOM[at as usize] == byte) {
                line_blank = false;
                if match kind {
                    Kind::Jsonl | Kind::Text(SampleBy::Line) => true,
                    Kind::Text(SampleBy::Paragraph) => last_blank,
                    Kind::Text(SampleBy::Document) => starts.is_empty(),
                } {
                    starts.push(if kind == Kind::Text(SampleBy::Document) { 0 } else { line_start });
                }
            }
        }
        base += n as u64;
    }
}
