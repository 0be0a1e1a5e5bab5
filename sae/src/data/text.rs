//! Text files as numbered records: `.txt` and `.jsonl`, single or in folders. One scan on opening notes where each record
//! starts; after that any record is one positioned read away, however far into the data.

use super::record;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// What one record of a `.txt` file is; the names are those of the Hugging Face text loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleBy {
    /// Every line that is not blank.
    #[default]
    Line,
    /// Lines up to the next blank one.
    Paragraph,
    /// The whole file.
    Document,
}

/// How records are found in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Field of a `.jsonl` record that holds the text.
    pub text_field: String,
    /// What one record of a `.txt` file is.
    pub sample_by: SampleBy,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { text_field: "text".into(), sample_by: SampleBy::Line }
    }
}

/// Indexed text files. Records are numbered through all files, sorted by path; blank ones do not count.
pub struct TextSource {
    path: PathBuf,
    field: String,
    files: Vec<Indexed>,
    /// Number of the first record of each file, then the number of records.
    firsts: Vec<u64>,
}

struct Indexed {
    path: PathBuf,
    kind: Kind,
    size: u64,
    /// Where records start. A record ends before the next one; what follows its own end is blank.
    starts: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Jsonl,
    Text(SampleBy),
}

const SCAN: usize = 1 << 20;
const BOM: &[u8] = b"\xEF\xBB\xBF";

impl TextSource {
    /// Finds and indexes the files under `path`: one file, or a folder with all its subfolders.
    pub fn open(path: &Path, options: &TextOptions) -> Result<Self> {
        let mut found = Vec::new();
        if path.is_dir() {
            collect(path, options.sample_by, &mut found)?;
            found.sort_by(|a, b| a.0.cmp(&b.0));
        } else {
            fs::metadata(path).map_err(|e| Error::io(path, e))?;
            found.extend(kind_of(path, options.sample_by).map(|kind| (path.to_path_buf(), kind)));
        }
        if found.is_empty() {
            let what = if path.is_dir() { "no such file in this folder" } else { "not such a file" };
            return Err(Error::format(path, format!("{what}: text is read from .txt and .jsonl files")));
        }
        let files = found.into_par_iter().map(|(p, kind)| index(p, kind)).collect::<Result<Vec<_>>>()?;
        let mut firsts = vec![0];
        for f in &files {
            firsts.push(firsts[firsts.len() - 1] + f.starts.len() as u64);
        }
        if firsts.last() == Some(&0) {
            return Err(Error::format(path, "holds no text"));
        }
        Ok(Self { path: path.into(), field: options.text_field.clone(), files, firsts })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of records.
    pub fn records(&self) -> u64 {
        self.firsts[self.files.len()]
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Bytes of text before a record.
    pub fn bytes_before(&self, record: u64) -> u64 {
        let file = self.firsts.partition_point(|&first| first <= record).saturating_sub(1);
        let earlier: u64 = self.files.iter().take(file).map(|f| f.size).sum();
        let inside = self.files.get(file).map(|f| f.starts.get((record - self.firsts[file]) as usize));
        earlier + inside.flatten().copied().unwrap_or(0)
    }

    /// Texts of the records `from..from + n`, fewer at the end.
    pub fn read(&self, from: u64, n: usize) -> Result<Vec<String>> {
        let to = (from.saturating_add(n as u64)).min(self.records());
        let mut out = Vec::with_capacity(to.saturating_sub(from) as usize);
        let mut file = self.firsts.partition_point(|&first| first <= from).saturating_sub(1);
        let mut next = from;
        while next < to {
            let (indexed, first) = (&self.files[file], self.firsts[file]);
            let last = to.min(self.firsts[file + 1]);
            if next < last {
                let open = File::open(&indexed.path).map_err(|e| Error::io(&indexed.path, e))?;
                for r in next..last {
                    out.push(indexed.read(&open, (r - first) as usize, &self.field)?);
                }
            }
            (next, file) = (last.max(next), file + 1);
        }
        Ok(out)
    }
}

impl Indexed {
    fn read(&self, file: &File, i: usize, field: &str) -> Result<String> {
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
        match self.kind {
            Kind::Jsonl => record::text_field(&text, field).map_err(|what| self.bad(start, what)),
            Kind::Text(SampleBy::Paragraph) => Ok(text.trim_end().into()),
            Kind::Text(_) => Ok(text),
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

fn kind_of(path: &Path, sample_by: SampleBy) -> Option<Kind> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => Some(Kind::Jsonl),
        "txt" => Some(Kind::Text(sample_by)),
        _ => None,
    }
}

/// Files of known kinds, subfolders included. Linked folders are left alone, so a link upwards cannot loop.
fn collect(folder: &Path, sample_by: SampleBy, out: &mut Vec<(PathBuf, Kind)>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let path = entry.path();
        if entry.file_type().map_err(|e| Error::io(&path, e))?.is_dir() {
            collect(&path, sample_by, out)?;
        } else if path.is_file()
            && let Some(kind) = kind_of(&path, sample_by)
        {
            out.push((path, kind));
        }
    }
    Ok(())
}

fn index(path: PathBuf, kind: Kind) -> Result<Indexed> {
    let scanned = File::open(&path).and_then(|mut file| scan(&mut file, kind));
    let (starts, size) = scanned.map_err(|e| Error::io(&path, e))?;
    Ok(Indexed { path, kind, size, starts })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn records(files: &[(&str, &[u8])], options: &TextOptions) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let source = TextSource::open(dir.path(), options)?;
        let all = source.read(0, usize::MAX)?;
        assert_eq!(all.len() as u64, source.records());
        for (i, text) in all.iter().enumerate() {
            assert_eq!(&source.read(i as u64, 1)?[0], text);
        }
        let before: Vec<u64> = (0..=source.records()).map(|r| source.bytes_before(r)).collect();
        assert!(before.is_sorted_by(|a, b| a < b) && before.last() == Some(&source.bytes()), "{before:?}");
        Ok(all)
    }

    fn by(sample_by: SampleBy) -> TextOptions {
        TextOptions { sample_by, ..TextOptions::default() }
    }

    #[test]
    fn lines_are_records_and_blank_ones_do_not_count() {
        let all = records(&[("a.txt", b"one\n\n  \r\n two \r\nthree")], &by(SampleBy::Line)).unwrap();
        assert_eq!(all, ["one", " two ", "three"]);
    }

    #[test]
    fn paragraphs_end_at_blank_lines() {
        let text = b"\n\na\nb\n \n\n  c\r\nd\n\n\n";
        assert_eq!(records(&[("a.txt", text)], &by(SampleBy::Paragraph)).unwrap(), ["a\nb", "  c\r\nd"]);
    }

    #[test]
    fn a_document_is_the_file_as_it_is() {
        let files: &[(&str, &[u8])] = &[("a.txt", b"\n a\n\nb\n"), ("empty.txt", b" \n")];
        assert_eq!(records(files, &by(SampleBy::Document)).unwrap(), ["\n a\n\nb\n"]);
    }

    #[test]
    fn folders_are_read_in_sorted_order_with_their_subfolders() {
        let files: &[(&str, &[u8])] = &[
            ("b/2.txt", b"four"),
            ("b/10.TXT", b"three"),
            ("a.jsonl", b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n"),
            ("c.md", b"not read"),
        ];
        assert_eq!(records(files, &TextOptions::default()).unwrap(), ["one", "two", "three", "four"]);
    }

    #[test]
    fn a_byte_order_mark_is_not_text() {
        let files: &[(&str, &[u8])] =
            &[("a.jsonl", b"\xEF\xBB\xBF{\"text\": \"a\"}"), ("b.txt", b"\xEF\xBB\xBFb\nc")];
        assert_eq!(records(files, &TextOptions::default()).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn records_are_found_across_scan_blocks() {
        let mut text = String::new();
        let lines: Vec<String> = (0..40_000).map(|i| format!("line {i} {}", "x".repeat(i % 90))).collect();
        for line in &lines {
            writeln!(text, "{line}").unwrap();
        }
        assert!(text.len() > 2 * SCAN);
        assert!(records(&[("a.txt", text.as_bytes())], &by(SampleBy::Line)).unwrap() == lines);
    }

    #[test]
    fn errors_name_file_and_line() {
        let message = |name, content: &[u8]| {
            records(&[(name, content)], &TextOptions::default()).unwrap_err().to_string()
        };
        let e = message("a.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \"b}\n");
        assert!(e.contains("a.jsonl: line 3"), "{e}");
        let e = message("a.txt", b"fine\nb\xff\n");
        assert!(e.contains("a.txt: line 2: not UTF-8"), "{e}");
        let e = message("a.parquet", b"");
        assert!(e.contains(".jsonl"), "{e}");
        let e = message("a.txt", b"\n");
        assert!(e.contains("no text"), "{e}");
        let e =
            TextSource::open(Path::new("/none/x.txt"), &TextOptions::default()).err().unwrap().to_string();
        assert!(e.contains("/none/x.txt"), "{e}");
    }
}
