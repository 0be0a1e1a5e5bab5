//! TensorBoard event files, written by hand: records framed by length and masked CRC-32C, each a small protobuf `Event`.
//! Only what scalars need.

use super::{
    Record, Tracker,
    wire::{CASTAGNOLI, bytes, crc, double, float, varint},
};
use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes scalars to an event file of its own below a folder.
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<(PathBuf, File)>,
}

impl TensorBoard {
    /// A writer below `folder`; nothing is touched before [`Tracker::start`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), file: None }
    }

    fn put(&mut self, event: &[u8]) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Err(Error::io(&self.folder, std::io::Error::other("records arrived before start")));
        };
        file.write_all(&frame(event)).map_err(|e| Error::io(path, e))
    }
}

impl Tracker for TensorBoard {
    fn start(&mut self, step: u64) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        if step == 0 {
            remove_old(&self.folder)?;
        }
        let now = now();
        // A later file shadows overlapping steps of an earlier one; the process id keeps names of one second apart.
        let name = format!("events.out.tfevents.{:010}.lm-saes.{}.{step}", now as u64, std::process::id());
        let path = self.folder.join(name);
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        self.file = Some((path, file));
        let mut event = Vec::new();
        double(&mut event, 1, now);
        bytes(&mut event, 3, b"brain.Event:2");
        self.put(&event)?;
        if step > 0 {
            self.put(&restart(now, step))?;
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        self.put(&scalars(now(), record))
    }
}

fn remove_old(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("events.out.tfevents.") {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        }
    }
    Ok(())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } … } }`
fn scalars(now: f64, record: &Record) -> Vec<u8> {
    let mut summary = Vec::new();
    for (key, number) in &record.values {
        let mut value = Vec::new();
        bytes(&mut value, 1, key.as_bytes());
        float(&mut value, 2, *number as f32);
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, now);
    varint(&mut event, 2, record.step);
    bytes(&mut event, 5, &summary);
    event
}

/// `Event { wall_time = 1, step = 2, session_log = 7 { status = 1: START } }`: readers drop what they had from this step on.
fn restart(now: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    varint(&mut log, 1, 1);
    let mut event = Vec::new();
    double(&mut event, 1, now);
    varint(&mut event, 2, step + 1);
    bytes(&mut event, 7, &log);
    event
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(crc(CASTAGNOLI, &length)).to_le_bytes());
    out.extend(data);
    out.extend(masked(crc(CASTAGNOLI, data)).to_le_bytes());
    out
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Field {
        Varint(u64),
        Double(f64),
        Bytes(Vec<u8>),
        Float(f32),
    }

    fn take_varint(at: &mut &[u8]) -> u64 {
        let mut v = 0;
        for shift in (0..).step_by(7) {
            let byte = at[0];
            *at = &at[1..];
            v |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                break;
            }
        }
        v
    }

    fn take<'a>(at: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, rest) = at.split_at(n);
        *at = rest;
        head
    }

    fn parse(mut at: &[u8]) -> Vec<(u64, Field)> {
        let mut fields = Vec::new();
        while !at.is_empty() {
            let key = take_varint(&mut at);
            let field = match key & 7 {
                0 => Field::Varint(take_varint(&mut at)),
                1 => Field::Double(f64::from_le_bytes(take(&mut at, 8).try_into().unwrap())),
                2 => {
                    let n = take_varint(&mut at) as usize;
                    Field::Bytes(take(&mut at, n).to_vec())
                }
                5 => Field::Float(f32::from_le_bytes(take(&mut at, 4).try_into().unwrap())),
                wire => panic!("wire type {wire}"),
            };
            fields.push((key >> 3, field));
        }
        fields
    }

    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !file.is_empty() {
            let length = take(&mut file, 8);
            let sum = u32::from_le_bytes(take(&mut file, 4).try_into().unwrap());
            assert_eq!(sum, masked(crc(CASTAGNOLI, length)));
            let data = take(&mut file, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let sum = u32::from_le_bytes(take(&mut file, 4).try_into().unwrap());
            assert_eq!(sum, masked(crc(CASTAGNOLI, data)));
            all.push(data.to_vec());
        }
        all
    }

    #[test]
    fn scalars_read_back_with_step_tag_and_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut t = TensorBoard::new(dir.path());
        t.start(0).unwrap();
        let values = vec![("metrics/l0".to_string(), 50.0), ("losses/mse_loss".to_string(), 0.25)];
        t.record(&Record { step: 300, tokens: 9, values }).unwrap();
        let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let events = records(&fs::read(path).unwrap());
        assert_eq!(parse(&events[0])[1], (3, Field::Bytes(b"brain.Event:2".to_vec())));
        let event = parse(&events[1]);
        assert!(matches!(event[0], (1, Field::Double(t)) if t > 1e9));
        assert_eq!(event[1], (2, Field::Varint(300)));
        let (5, Field::Bytes(summary)) = &event[2] else { panic!("{event:?}") };
        let read: Vec<_> = parse(summary)
            .into_iter()
            .map(|(_, v)| match v {
                Field::Bytes(b) => parse(&b),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(read[0], [(1, Field::Bytes(b"metrics/l0".to_vec())), (2, Field::Float(50.0))]);
        assert_eq!(read[1], [(1, Field::Bytes(b"losses/mse_loss".to_vec())), (2, Field::Float(0.25))]);
    }

    #[test]
    fn a_new_run_removes_old_files_and_a_resumed_one_says_where_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("events.out.tfevents.1.old"), "x").unwrap();
        TensorBoard::new(dir.path()).start(0).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        TensorBoard::new(dir.path()).start(7).unwrap();
        let mut files = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.path());
        let resumed = files.find(|p| p.to_string_lossy().ends_with(".7")).unwrap();
        let event = parse(&records(&fs::read(resumed).unwrap())[1]);
        assert_eq!(event[1], (2, Field::Varint(8)));
        assert_eq!(event[2], (7, Field::Bytes(vec![8, 1])));
    }
}
