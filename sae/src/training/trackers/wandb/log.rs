//! The file `wandb sync` reads: a short header, then records in the blocks of a LevelDB log, each a protobuf `Record`. Only what
//! runs with numbers need.

use super::super::wire::{IEEE, bytes, crc, varint};
use std::io::{self, Write};

const BLOCK: usize = 32 * 1024;
/// Checksum, length and kind before every piece.
const HEAD: usize = 7;
/// What a file begins with: a name, a number, a version.
const MAGIC: [u8; 7] = [b':', b'W', b'&', b'B', 0xE1, 0xBE, 0];

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

// Fields of `Record`.
const HISTORY: u64 = 2;
const SUMMARY: u64 = 3;
const RUN: u64 = 17;
const EXIT: u64 = 18;
const HEADER: u64 = 21;

/// What is said of a run once.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Entity; empty is the account's default.
    pub entity: String,
    /// Project.
    pub project: String,
    /// Display name; empty lets the server choose.
    pub name: String,
    /// Settings: key and JSON text.
    pub config: Vec<(String, String)>,
    /// Seconds since 1970.
    pub started: u64,
}

/// Writes one file.
pub struct Log<W> {
    out: W,
    /// Bytes written.
    at: usize,
    /// Records written.
    n: u64,
}

impl<W: Write> Log<W> {
    /// Begins a file about `run`.
    pub fn new(out: W, run: &Run) -> io::Result<Self> {
        let mut log = Self { out, at: 0, n: 0 };
        log.put(&MAGIC)?;
        let (mut version, mut header) = (Vec::new(), Vec::new());
        // The client that wrote the same form, and the oldest that reads it.
        bytes(&mut version, 1, b"0.19.0");
        bytes(&mut version, 2, b"0.13.0");
        bytes(&mut header, 1, &version);
        log.record(HEADER, &header)?;
        log.record(RUN, &run.encode())?;
        Ok(log)
    }

    /// Values of one step: key and JSON text.
    pub fn history(&mut self, step: u64, values: &[(String, String)]) -> io::Result<()> {
        let mut summary = Vec::new();
        values.iter().for_each(|v| item(&mut summary, 2, v));
        self.record(SUMMARY, &summary)?;
        let mut history = Vec::new();
        values.iter().for_each(|v| item(&mut history, 2, v));
        let mut number = Vec::new();
        varint(&mut number, 1, step);
        bytes(&mut history, 2, &number);
        self.record(HISTORY, &history)
    }

    /// The end of the run.
    pub fn exit(&mut self, code: u64, seconds: u64) -> io::Result<()> {
        let mut exit = Vec::new();
        varint(&mut exit, 1, code);
        varint(&mut exit, 2, seconds);
        self.record(EXIT, &exit)
    }

    /// `Record { num = 1, <field> = body }` over as many blocks as it takes, then on disk as far as other programs see.
    fn record(&mut self, field: u64, body: &[u8]) -> io::Result<()> {
        self.n += 1;
        let mut record = Vec::with_capacity(body.len() + 16);
        varint(&mut record, 1, self.n);
        bytes(&mut record, field, body);
        let left = BLOCK - self.at % BLOCK;
        if left < HEAD {
            self.put(&[0; HEAD][..left])?;
        }
        let (mut rest, mut begun) = (&record[..], false);
        loop {
            let room = BLOCK - self.at % BLOCK - HEAD;
            let (piece, after) = rest.split_at(room.min(rest.len()));
            let kind = match (begun, after.is_empty()) {
                (false, true) => WHOLE,
                (false, false) => FIRST,
                (true, false) => MIDDLE,
                (true, true) => LAST,
            };
            self.piece(kind, piece)?;
            if after.is_empty() {
                return self.out.flush();
            }
            (rest, begun) = (after, true);
        }
    }

    fn piece(&mut self, kind: u8, data: &[u8]) -> io::Result<()> {
        let mut summed = vec![kind];
        summed.extend(data);
        let mut out = crc(IEEE, &summed).to_le_bytes().to_vec();
        out.extend((data.len() as u16).to_le_bytes());
        out.extend(summed);
        self.put(&out)
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        self.at += data.len();
        self.out.write_all(data)
    }
}

impl Run {
    fn encode(&self) -> Vec<u8> {
        let (mut run, mut config, mut started) = (Vec::new(), Vec::new(), Vec::new());
        for (field, text) in [(1, &self.id), (2, &self.entity), (3, &self.project)] {
            if !text.is_empty() {
                bytes(&mut run, field, text.as_bytes());
            }
        }
        self.config.iter().for_each(|v| item(&mut config, 1, v));
        bytes(&mut run, 4, &config);
        if !self.name.is_empty() {
            bytes(&mut run, 8, self.name.as_bytes());
        }
        varint(&mut started, 1, self.started);
        bytes(&mut run, 17, &started);
        run
    }
}

/// `{ key, value_json = 16 }` in field 1 of a message. Metrics carry their key as a path of one part (`key` = 2), so that a dot or
/// slash in it separates nothing.
fn item(out: &mut Vec<u8>, key: u64, (name, json): &(String, String)) {
    let mut item = Vec::new();
    bytes(&mut item, key, name.as_bytes());
    bytes(&mut item, 16, json.as_bytes());
    bytes(out, 1, &item);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a file, put together again.
    fn records(file: &[u8]) -> Vec<Vec<u8>> {
        assert_eq!(file[..7], MAGIC);
        let (mut at, mut all, mut open) = (7, Vec::new(), Vec::new());
        while at < file.len() {
            if BLOCK - at % BLOCK < HEAD {
                let pad = BLOCK - at % BLOCK;
                assert!(file[at..(at + pad).min(file.len())].iter().all(|&b| b == 0));
                at += pad;
                continue;
            }
            let sum = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let len = usize::from(u16::from_le_bytes(file[at + 4..at + 6].try_into().unwrap()));
            let (kind, data) = (file[at + 6], &file[at + 7..at + 7 + len]);
            assert_eq!(sum, crc(IEEE, &file[at + 6..at + 7 + len]));
            assert!(at % BLOCK + HEAD + len <= BLOCK, "a piece crosses a block");
            assert_eq!(open.is_empty(), matches!(kind, WHOLE | FIRST));
            open.extend(data);
            if matches!(kind, WHOLE | LAST) {
                all.push(std::mem::take(&mut open));
            }
            at += HEAD + len;
        }
        assert!(open.is_empty());
        all
    }

    #[test]
    fn records_of_any_length_come_back_whole_across_blocks() {
        let value = |n: usize| vec![("a/b".to_owned(), "7".repeat(n))];
        for first in [1, BLOCK - 200, BLOCK - 90, BLOCK, 3 * BLOCK + 5] {
            let mut file = Vec::new();
            let run = Run { id: "abc".into(), project: "p".into(), config: value(first), ..Run::default() };
            let mut log = Log::new(&mut file, &run).unwrap();
            for n in 0..40 {
                log.history(n, &value(1 + n as usize * 97)).unwrap();
            }
            log.exit(0, 3).unwrap();
            let all = records(&file);
            assert_eq!(all.len(), 2 + 2 * 40 + 1);
            for (n, record) in (1..).zip(&all) {
                let mut number = Vec::new();
                varint(&mut number, 1, n);
                assert!(record.starts_with(&number), "record {n}");
            }
            let config = "7".repeat(first);
            assert!(all[1].windows(first).any(|w| w == config.as_bytes()));
        }
    }
}
