//! Texts as numbered records, out of files of lines and of columns: single, in folders, or fetched one after the other from
//! elsewhere. A file is indexed when it is opened; after that a record is found without the way to it.

#[cfg(feature = "parquet")]
use super::columns::{Columns, Recent};
use super::{
    content::{Content, SampleBy, TextOptions},
    folder,
    lines::{Kind, Lines},
};
use crate::{Error, Result};
use rayon::prelude::*;
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Files that are elsewhere until they are needed.
pub trait Shards: Send + Sync {
    /// Bytes of each.
    fn sizes(&self) -> &[u64];
    /// Where one is, after it was fetched.
    ///
    /// # Errors
    /// It cannot be had.
    fn fetch(&self, shard: usize) -> Result<PathBuf>;
    /// What names this version of all of them.
    fn revision(&self) -> &str;
}

/// Indexed text. Records are numbered through all files, in order; blank ones of files of lines do not count.
pub struct TextSource {
    path: PathBuf,
    options: TextOptions,
    sizes: Vec<u64>,
    shards: Option<Box<dyn Shards>>,
    opened: Mutex<Arc<Opened>>,
    #[cfg(feature = "parquet")]
    recent: Recent,
}

/// Files opened so far, from the first on.
#[derive(Clone, Default)]
struct Opened {
    files: Vec<Arc<Indexed>>,
    /// Number of the first record of each, then the number of records.
    firsts: Vec<u64>,
}

impl Opened {
    fn push(&mut self, file: Indexed) {
        if self.firsts.is_empty() {
            self.firsts.push(0);
        }
        self.firsts.push(self.records() + file.records());
        self.files.push(Arc::new(file));
    }

    fn records(&self) -> u64 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// The file a record is in.
    fn file_of(&self, record: u64) -> usize {
        self.firsts.partition_point(|&first| first <= record).saturating_sub(1)
    }
}

/// One file.
enum Indexed {
    Lines(Lines),
    #[cfg(feature = "parquet")]
    Columns(Columns),
}

impl TextSource {
    /// Finds and indexes the files under `path`: one file, or a folder with all its subfolders. Of a data set saved by the
    /// Python library `datasets`, and of a folder as the hub names its files, the split asked for is taken.
    pub fn open(path: &Path, options: &TextOptions) -> Result<Self> {
        let found = if path.is_dir() {
            folder::files(path, &options.split, &|file| Self::reads(file, options.sample_by))?
        } else {
            fs::metadata(path).map_err(|e| Error::io(path, e))?;
            Vec::from_iter(Self::reads(path, options.sample_by).then(|| path.to_path_buf()))
        };
        if found.is_empty() {
            return Err(Error::format(path, nothing_to_read(path, &options.split)?));
        }
        let files = found.into_par_iter().map(|p| Indexed::open(p, options)).collect::<Result<Vec<_>>>()?;
        let sizes = files.iter().map(Indexed::size).collect();
        let mut opened = Opened::default();
        files.into_iter().for_each(|file| opened.push(file));
        if opened.records() == 0 {
            return Err(Error::format(path, "holds no text"));
        }
        Ok(Self::new(path, options, sizes, None, opened))
    }

    /// Text in files that are fetched one after the other; `path` stands for all of them in messages.
    pub fn stream(path: &Path, options: &TextOptions, shards: Box<dyn Shards>) -> Self {
        let sizes = shards.sizes().to_vec();
        Self::new(path, options, sizes, Some(shards), Opened::default())
    }

    fn new(
        path: &Path,
        options: &TextOptions,
        sizes: Vec<u64>,
        shards: Option<Box<dyn Shards>>,
        opened: Opened,
    ) -> Self {
        Self {
            path: path.into(),
            options: options.clone(),
            sizes,
            shards,
            opened: Mutex::new(Arc::new(opened)),
            #[cfg(feature = "parquet")]
            recent: Recent::default(),
        }
    }

    /// Whether this build reads files of this name.
    pub fn reads(path: &Path, sample_by: SampleBy) -> bool {
        #[cfg(feature = "parquet")]
        if Columns::reads(path) {
            return true;
        }
        Kind::of(path, sample_by).is_some()
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What records give.
    pub fn content(&self) -> &Content {
        &self.options.content
    }

    /// What names the version of text that is elsewhere.
    pub fn revision(&self) -> Option<&str> {
        self.shards.as_ref().map(|s| s.revision())
    }

    /// Whether there is a record of this number. Files are fetched as far as that needs.
    ///
    /// # Errors
    /// A file that cannot be had or read.
    pub fn has(&self, record: u64) -> Result<bool> {
        Ok(self.opened_to(record)?.records() > record)
    }

    /// Number of all records; everything is fetched.
    ///
    /// # Errors
    /// As [`TextSource::has`].
    pub fn records(&self) -> Result<u64> {
        Ok(self.opened_to(u64::MAX)?.records())
    }

    /// Number of records of the files opened so far.
    pub fn known(&self) -> u64 {
        self.opened().records()
    }

    /// What tells this text from another: number of records, or of files where they are fetched one after the other; and bytes.
    pub fn extent(&self) -> (u64, u64) {
        let n = match self.shards {
            Some(_) => self.sizes.len() as u64,
            None => self.opened().records(),
        };
        (n, self.bytes())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// Bytes of text before a record, as far as files are known.
    pub fn bytes_before(&self, record: u64) -> u64 {
        let opened = self.opened();
        let file = opened.file_of(record);
        let earlier: u64 = self.sizes.iter().take(file).sum();
        let inside = opened.files.get(file).map(|f| f.bytes_before(record - opened.firsts[file]));
        earlier + inside.unwrap_or(0)
    }

    /// Texts of the records `from..from + n`; fewer at the end, and where the next file would have to be fetched for the rest.
    ///
    /// # Errors
    /// A file that cannot be had or read.
    pub fn read(&self, from: u64, n: usize) -> Result<Vec<String>> {
        let opened = self.opened_to(from)?;
        let to = from.saturating_add(n as u64).min(opened.records());
        let mut out = Vec::with_capacity(to.saturating_sub(from) as usize);
        let mut file = opened.file_of(from);
        let mut next = from;
        while next < to {
            let (first, last) = (opened.firsts[file], to.min(opened.firsts[file + 1]));
            if next < last {
                self.read_file(&opened.files[file], next - first..last - first, &mut out)?;
            }
            (next, file) = (last.max(next), file + 1);
        }
        Ok(out)
    }

    fn opened(&self) -> Arc<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files from the first to that of a record, opened.
    fn opened_to(&self, record: u64) -> Result<Arc<Opened>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shards) = &self.shards {
            while opened.files.len() < self.sizes.len() && opened.records() <= record {
                let file = Indexed::open(shards.fetch(opened.files.len())?, &self.options)?;
                Arc::make_mut(&mut opened).push(file);
            }
            if opened.files.len() == self.sizes.len() && opened.records() == 0 {
                return Err(Error::format(&self.path, "holds no text"));
            }
        }
        Ok(opened.clone())
    }

    fn read_file(&self, file: &Indexed, records: Range<u64>, out: &mut Vec<String>) -> Result<()> {
        match file {
            Indexed::Lines(f) => f.read(records, &self.options.content, out),
            #[cfg(feature = "parquet")]
            Indexed::Columns(f) => f.read(records, &self.recent, out),
        }
    }
}

impl Indexed {
    fn open(path: PathBuf, options: &TextOptions) -> Result<Self> {
        #[cfg(feature = "parquet")]
        if Columns::reads(&path) {
            return Ok(Self::Columns(Columns::open(path, &options.content)?));
        }
        let kind = Kind::of(&path, options.sample_by).unwrap_or(Kind::Text(options.sample_by));
        if let (Kind::Text(_), Content::Messages(_) | Content::Tokens(_)) = (kind, &options.content) {
            let what =
                "is plain text; messages and token ids are read from .jsonl, .parquet and .arrow files";
            return Err(Error::format(path, what));
        }
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
}

/// Why nothing under `path` can be read.
fn nothing_to_read(path: &Path, split: &str) -> Result<String> {
    let columns = |p: &Path| p.extension().is_some_and(|e| e == "parquet" || e == "arrow");
    let has_columns =
        if path.is_dir() { !folder::files(path, split, &columns)?.is_empty() } else { columns(path) };
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
        let n = source.records().unwrap();
        assert_eq!(all.len() as u64, n);
        assert!(source.has(n - 1).unwrap() && !source.has(n).unwrap());
        for (i, text) in all.iter().enumerate() {
            assert_eq!(&source.read(i as u64, 1)?[0], text);
        }
        let before: Vec<u64> = (0..=n).map(|r| source.bytes_before(r)).collect();
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
    fn another_split_is_read_when_it_is_asked_for() {
        let (a, b) = (b"{\"text\": \"a\"}\n", b"{\"text\": \"b\"}\n");
        let test = TextOptions { split: "test".into(), ..TextOptions::default() };
        let hub: &[(&str, &[u8])] =
            &[("data/train-00000-of-00001.jsonl", a), ("data/test-00000-of-00001.jsonl", b)];
        assert_eq!(records(hub, &test).unwrap(), ["b"]);
        let saved: &[(&str, &[u8])] = &[
            ("dataset_dict.json", br#"{"splits": ["train", "test"]}"#),
            ("train/1.jsonl", a),
            ("test/1.jsonl", b),
        ];
        assert_eq!(records(saved, &test).unwrap(), ["b"]);
    }

    #[test]
    fn chats_are_records_of_json() {
        let chat = TextOptions { content: Content::Messages("messages".into()), ..TextOptions::default() };
        let line = br#"{"id": 1, "messages": [{"role": "user", "content": "hi"}]}"#;
        assert_eq!(records(&[("a.jsonl", line)], &chat).unwrap(), [r#"[{"role":"user","content":"hi"}]"#]);
        let e = records(&[("a.jsonl", br#"{"conversations": []}"#)], &chat).unwrap_err().to_string();
        assert!(e.contains("messages_field") && e.contains("conversations"), "{e}");
        let e = records(&[("a.txt", b"hi")], &chat).unwrap_err().to_string();
        assert!(e.contains("plain text"), "{e}");
    }

    /// Three files that count how often they were fetched.
    struct Three(tempfile::TempDir, Vec<u64>, Arc<Mutex<Vec<usize>>>);

    impl Shards for Three {
        fn sizes(&self) -> &[u64] {
            &self.1
        }
        fn fetch(&self, shard: usize) -> Result<PathBuf> {
            self.2.lock().unwrap().push(shard);
            Ok(self.0.path().join(format!("{shard}.txt")))
        }
        fn revision(&self) -> &str {
            "abc"
        }
    }

    #[test]
    fn files_elsewhere_are_fetched_when_their_records_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let texts = ["one\ntwo\n", "\n", "three\n"];
        for (i, text) in texts.iter().enumerate() {
            fs::write(dir.path().join(format!("{i}.txt")), text).unwrap();
        }
        let fetched = Arc::new(Mutex::new(Vec::new()));
        let sizes = texts.iter().map(|t| t.len() as u64).collect();
        let shards = Three(dir, sizes, fetched.clone());
        let source = TextSource::stream(Path::new("there"), &TextOptions::default(), Box::new(shards));
        assert_eq!((source.extent(), source.bytes_before(0)), ((3, 15), 0));
        assert_eq!(source.read(0, 9).unwrap(), ["one", "two"]);
        assert!(source.has(1).unwrap());
        assert_eq!(*fetched.lock().unwrap(), [0]);
        assert_eq!(source.bytes_before(1), 4);
        assert!(source.has(2).unwrap(), "an empty file is passed over");
        assert_eq!(source.read(2, 9).unwrap(), ["three"]);
        assert!(!source.has(3).unwrap());
        assert_eq!((source.records().unwrap(), source.bytes_before(3)), (3, 15));
        assert_eq!(*fetched.lock().unwrap(), [0, 1, 2]);
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
