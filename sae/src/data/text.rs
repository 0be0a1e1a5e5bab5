//! Texts as numbered records, out of files of lines and of columns, single or in folders. Files are indexed on opening; after
//! that a record is found without the way to it.

#[cfg(feature = "parquet")]
use super::columns::Columns;
use super::{
    folder,
    lines::{Kind, Lines},
};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    ops::Range,
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
    /// Field of a `.jsonl` record, or column of a parquet or Arrow file, that holds the text.
    pub text_field: String,
    /// What one record of a `.txt` file is.
    pub sample_by: SampleBy,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { text_field: "text".into(), sample_by: SampleBy::Line }
    }
}

/// Indexed text. Records are numbered through all files, sorted by path; blank ones of files of lines do not count.
pub struct TextSource {
    path: PathBuf,
    field: String,
    files: Vec<Indexed>,
    /// Number of the first record of each file, then the number of records.
    firsts: Vec<u64>,
}

/// One file.
enum Indexed {
    Lines(Lines),
    #[cfg(feature = "parquet")]
    Columns(Columns),
}

impl TextSource {
    /// Finds and indexes the files under `path`: one file, or a folder with all its subfolders. Of a data set saved by the
    /// Python library `datasets`, and of a folder as the hub names its files, the split `train` is taken.
    pub fn open(path: &Path, options: &TextOptions) -> Result<Self> {
        let found = if path.is_dir() {
            folder::files(path, &|file| Indexed::reads(file, options))?
        } else {
            fs::metadata(path).map_err(|e| Error::io(path, e))?;
            Vec::from_iter(Indexed::reads(path, options).then(|| path.to_path_buf()))
        };
        if found.is_empty() {
            return Err(Error::format(path, nothing_to_read(path)?));
        }
        let files = found.into_par_iter().map(|p| Indexed::open(p, options)).collect::<Result<Vec<_>>>()?;
        let mut firsts = vec![0];
        for f in &files {
            firsts.push(firsts[firsts.len() - 1] + f.records());
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
        self.files.iter().map(Indexed::size).sum()
    }

    /// Bytes of text before a record.
    pub fn bytes_before(&self, record: u64) -> u64 {
        let file = self.firsts.partition_point(|&first| first <= record).saturating_sub(1);
        let earlier: u64 = self.files.iter().take(file).map(Indexed::size).sum();
        let inside = self.files.get(file).map(|f| f.bytes_before(record - self.firsts[file]));
        earlier + inside.unwrap_or(0)
    }

    /// Texts of the records `from..from + n`, fewer at the end.
    pub fn read(&self, from: u64, n: usize) -> Result<Vec<String>> {
        let to = (from.saturating_add(n as u64)).min(self.records());
        let mut out = Vec::with_capacity(to.saturating_sub(from) as usize);
        let mut file = self.firsts.partition_point(|&first| first <= from).saturating_sub(1);
        let mut next = from;
        while next < to {
            let (first, last) = (self.firsts[file], to.min(self.firsts[file + 1]));
            if next < last {
                self.files[file].read(next - first..last - first, &self.field, &mut out)?;
            }
            (next, file) = (last.max(next), file + 1);
        }
        Ok(out)
    }
}

impl Indexed {
    fn reads(path: &Path, options: &TextOptions) -> bool {
        #[cfg(feature = "parquet")]
        if Columns::reads(path) {
            return true;
        }
        Kind::of(path, options.sample_by).is_some()
    }

    fn open(path: PathBuf, options: &TextOptions) -> Result<Self> {
        #[cfg(feature = "parquet")]
        if Columns::reads(&path) {
            return Ok(Self::Columns(Columns::open(path, &options.text_field)?));
        }
        let kind = Kind::of(&path, options.sample_by).unwrap_or(Kind::Text(options.sample_by));
        Ok(Self::Lines(Lines::open(path, kind)?))
    }

    fn size(&self) -> u64 {
        match self {
            Self::Lines(f) => f.size(),
            #[cfg(feature = "parquet")]
            Self::Columns(f) => f.size(),
        }
    }

    fn records(&self) -> u64 {
        match self {
            Self::Lines(f) => f.records(),
            #[cfg(feature = "parquet")]
            Self::Columns(f) => f.records(),
        }
    }

    fn bytes_before(&self, record: u64) -> u64 {
        match self {
            Self::Lines(f) => f.bytes_before(record),
            #[cfg(feature = "parquet")]
            Self::Columns(f) => f.bytes_before(record),
        }
    }

    fn read(&self, records: Range<u64>, field: &str, out: &mut Vec<String>) -> Result<()> {
        match self {
            Self::Lines(f) => f.read(records, field, out),
            #[cfg(feature = "parquet")]
            Self::Columns(f) => f.read(records, out),
        }
    }
}

/// Why nothing under `path` can be read.
fn nothing_to_read(path: &Path) -> Result<String> {
    let columns = |p: &Path| p.extension().is_some_and(|e| e == "parquet" || e == "arrow");
    let has_columns = if path.is_dir() { !folder::files(path, &columns)?.is_empty() } else { columns(path) };
    Ok(if has_columns {
        "parquet and Arrow files are read by builds with `--features parquet`".into()
    } else {
        let what = if path.is_dir() { "no such file in this folder" } else { "not such a file" };
        format!("{what}: text is read from .txt, .jsonl, .parquet and .arrow files")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::lines::SCAN;
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
        let e = message("a.md", b"");
        assert!(e.contains(".jsonl"), "{e}");
        let e = message("a.txt", b"\n");
        assert!(e.contains("no text"), "{e}");
        let e =
            TextSource::open(Path::new("/none/x.txt"), &TextOptions::default()).err().unwrap().to_string();
        assert!(e.contains("/none/x.txt"), "{e}");
    }

    #[cfg(not(feature = "parquet"))]
    #[test]
    fn files_of_columns_say_which_build_reads_them() {
        let e = records(&[("data/a.parquet", b"PAR1")], &TextOptions::default()).unwrap_err().to_string();
        assert!(e.contains("--features parquet"), "{e}");
    }

    #[test]
    fn only_the_split_train_is_read_of_a_data_set() {
        let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
        let (a, b, c) = (line("a"), line("b"), line("c"));
        let hub: &[(&str, &[u8])] = &[
            ("data/train-00001-of-00002.jsonl", &b),
            ("data/test-00000-of-00001.jsonl", &c),
            ("data/train-00000-of-00002.jsonl", &a),
        ];
        assert_eq!(records(hub, &TextOptions::default()).unwrap(), ["a", "b"]);
        let splits = br#"{"splits": ["train", "test"]}"#;
        let saved: &[(&str, &[u8])] =
            &[("dataset_dict.json", splits), ("train/1.jsonl", &a), ("test/1.jsonl", &c)];
        assert_eq!(records(saved, &TextOptions::default()).unwrap(), ["a"]);
        let other: &[(&str, &[u8])] = &[("dataset_dict.json", splits), ("test/1.jsonl", &c)];
        let e = records(other, &TextOptions::default()).unwrap_err().to_string();
        assert!(e.contains("train") && e.contains("test"), "{e}");
    }

    #[test]
    fn a_saved_data_set_names_its_files() {
        let (a, b) = (b"{\"text\": \"a\"}\n", b"{\"text\": \"left by a filter\"}\n");
        let state = br#"{"_data_files": [{"filename": "data-00000-of-00001.jsonl"}]}"#;
        let files: &[(&str, &[u8])] =
            &[("state.json", state), ("data-00000-of-00001.jsonl", a), ("cache-1.jsonl", b)];
        assert_eq!(records(files, &TextOptions::default()).unwrap(), ["a"]);
    }
}
