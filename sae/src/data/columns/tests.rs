//! Against files that pyarrow and `datasets` wrote (`fixtures/make.py`).

use super::*;
use crate::data::{TextOptions, TextSource};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data/columns/fixtures").join(name)
}

/// The text of row `i` in most of the files.
fn row(i: usize) -> String {
    if i.is_multiple_of(5) { String::new() } else { format!("row {i} é{}", "x".repeat(i % 7)) }
}

fn rows(columns: &Columns, rows: Range<u64>) -> Vec<String> {
    let mut out = Vec::new();
    columns.read(rows, &Recent::default(), &mut out).unwrap();
    out
}

fn text(field: &str) -> Content {
    Content::Text(field.into())
}

#[test]
fn every_form_of_file_gives_the_same_rows() {
    let files = [
        "none.parquet",
        "snappy.parquet",
        "zstd.parquet",
        "lz4.parquet",
        "large_v2.parquet",
        "file_form.arrow",
        "stream.arrow",
    ];
    let expected: Vec<String> = (0..23).map(row).collect();
    for name in files {
        let columns = Columns::open(file(name), &text("text")).unwrap();
        assert_eq!(columns.records(), 23, "{name}");
        assert_eq!(rows(&columns, 0..23), expected, "{name}");
        for (from, to) in [(0, 1), (9, 11), (19, 23), (22, 23), (3, 3)] {
            assert_eq!(rows(&columns, from..to), expected[from as usize..to as usize], "{name} {from}..{to}");
        }
        let places: Vec<u64> = (0..=23).map(|r| columns.bytes_before(r)).collect();
        assert!(places.is_sorted_by(|a, b| a < b) && places.last() == Some(&columns.size()), "{name}");
    }
}

#[test]
fn a_long_row_group_is_read_in_chunks() {
    let columns = Columns::open(file("long_group.parquet"), &text("text")).unwrap();
    assert_eq!(rows(&columns, 4090..4100), (4090..4100).map(|i| format!("r{i}")).collect::<Vec<_>>());
    assert_eq!(rows(&columns, 4999..5000), ["r4999"]);
}

#[test]
fn a_saved_data_set_is_read_from_its_folder() {
    let source = TextSource::open(&file("saved"), &TextOptions::default()).unwrap();
    assert_eq!(source.records().unwrap(), 23);
    assert_eq!(source.read(20, 9).unwrap(), [row(20), row(21), row(22)]);
}

#[test]
fn chats_in_columns_are_lists_of_messages() {
    for name in ["chats.parquet", "chats.arrow"] {
        let columns = Columns::open(file(name), &Content::Messages("messages".into())).unwrap();
        let found = rows(&columns, 0..columns.records());
        assert_eq!(found.len(), 7, "{name}");
        assert_eq!(rows(&columns, 5..6), found[5..6], "{name}");
        let expected =
            r#"[{"role":"user","content":"question 1 é"},{"role":"assistant","content":"answer 1"}]"#;
        assert_eq!((found[1].as_str(), found[3].as_str()), (expected, ""), "{name}");
        let e = Columns::open(file(name), &Content::Messages("chat".into())).err().unwrap().to_string();
        assert!(e.contains("messages_field") && e.contains("one of messages"), "{e}");
    }
}

#[test]
fn a_missing_column_is_answered_with_those_there_are() {
    let e = Columns::open(file("no_text.parquet"), &text("text")).err().unwrap().to_string();
    assert!(e.contains("no column \"text\"") && e.ends_with("one of title"), "{e}");
    let e = Columns::open(file("stream.arrow"), &text("id")).err().unwrap().to_string();
    assert!(e.contains("\"id\"") && e.contains("text, other"), "{e}");
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["zstd.parquet", "stream.arrow", "file_form.arrow"] {
        let whole = std::fs::read(file(name)).unwrap();
        let path = dir.path().join(name);
        // What an error says is the libraries' affair; that there is one, or the rows, is ours.
        for i in (0..whole.len()).step_by(whole.len() / 97 + 1) {
            let cut = &whole[..i];
            let mut flipped = whole.clone();
            flipped[i] ^= 0x55;
            for bytes in [cut, &flipped] {
                std::fs::write(&path, bytes).unwrap();
                let read = Columns::open(path.clone(), &text("text")).and_then(|c| {
                    let mut out = Vec::new();
                    c.read(0..c.records(), &Recent::default(), &mut out).map(|()| out)
                });
                if let Err(e) = read {
                    assert!(e.to_string().contains(name), "{e}");
                }
            }
        }
    }
}
