//! Parses what precedes the tensor data of a GGUF file: metadata and tensor descriptions. Every count, length and offset
//! is compared with the size of the file before anything is allocated for it.

use super::{Format, Tensor};
use crate::{Error, Result};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// A metadata value. Arrays of numbers are widened and kept flat.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any integer.
    Int(i128),
    /// f32 or f64.
    Float(f64),
    /// Boolean.
    Bool(bool),
    /// String; bytes that are not UTF-8 become U+FFFD.
    Text(String),
    /// Array of integers or booleans.
    Ints(Vec<i64>),
    /// Array of floats.
    Floats(Vec<f64>),
    /// Array of strings.
    Texts(Vec<String>),
    /// Array of arrays.
    Lists(Vec<Value>),
}

/// Metadata, tensors and where their data starts.
pub(super) struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: Vec<Tensor>,
    pub data_start: u64,
}

/// Arrays in arrays deeper than this are refused (no known writer nests at all).
const MAX_DEPTH: usize = 4;
/// ggml has at most four dimensions.
const MAX_DIMS: u32 = 4;
/// Longest key or tensor name accepted; the format allows keys of 2^16 − 1 bytes.
const MAX_NAME: u64 = 65_535;
/// Alignment of tensor data when `general.alignment` is absent.
const ALIGNMENT: u64 = 32;

/// Reads and checks the header of an open file of `size` bytes.
pub(super) fn read(path: &Path, file: &File, size: u64) -> Result<Header> {
    let mut c = Cursor { path, input: BufReader::with_capacity(1 << 16, file), size, at: 0 };
    if size < 24 || c.bytes::<4>()? != *b"GGUF" {
        return Err(Error::format(path, "not a GGUF file: it does not start with GGUF and a header"));
    }
    let version = c.u32()?;
    if version != 2 && version != 3 {
        let why = if matches!(version.swap_bytes(), 1..=3) {
            "big-endian GGUF files are not supported".into()
        } else {
            format!("GGUF version {version} is not supported, versions 2 and 3 are")
        };
        return Err(Error::format(path, why));
    }
    let n_tensors = c.u64()?;
    let n_values = c.u64()?;
    // The shortest metadata entry has 13 bytes (empty key, one-byte value), the shortest tensor description 24.
    c.claim(n_values, 13, "metadata entries")?;
    c.claim(n_tensors, 24, "tensors")?;
    let mut metadata = HashMap::new();
    for _ in 0..n_values {
        let key = c.name("metadata key")?;
        let kind = c.u32()?;
        let value = c.value(kind, 0).map_err(|e| in_key(e, path, &key))?;
        if metadata.contains_key(&key) {
            return Err(Error::format(path, format!("metadata key {key} occurs twice")));
        }
        metadata.insert(key, value);
    }
    let alignment = alignment(path, &metadata)?;
    let mut tensors = Vec::new();
    for _ in 0..n_tensors {
        tensors.push(c.tensor(alignment)?);
    }
    let data_start = c.at.next_multiple_of(alignment);
    check_layout(path, &tensors, data_start, size)?;
    Ok(Header { metadata, tensors, data_start })
}

/// Puts the key in front of what went wrong inside its value.
fn in_key(e: Error, path: &Path, key: &str) -> Error {
    match e {
        Error::Format { what, .. } => Error::format(path, format!("metadata key {key}: {what}")),
        other => other,
    }
}

fn alignment(path: &Path, metadata: &HashMap<String, Value>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(&Value::Int(n)) if n > 0 && n <= 1 << 20 && (n & (n - 1)) == 0 => Ok(n as u64),
        Some(other) => Err(Error::format(
            path,
            format!("metadata key general.alignment is {other:?}, expected a power of two up to 2^20"),
        )),
    }
}

/// Every tensor lies inside the file, no two share bytes, no two share a name.
fn check_layout(path: &Path, tensors: &[Tensor], data_start: u64, size: u64) -> Result<()> {
    let bad = |t: &Tensor, what: String| Err(Error::Tensor { path: path.into(), name: t.name.clone(), what });
    let mut names = HashSet::new();
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    let mut end = 0;
    for t in order {
        if !names.insert(&t.name) {
            return bad(t, "occurs twice".into());
        }
        if t.offset < end {
            return bad(t, format!("its data at offset {} overlaps the tensor before it", t.offset));
        }
        end = t.offset.saturating_add(t.bytes);
        if data_start.checked_add(end).is_none_or(|last| last > size) {
            let what = format!(
                "its {} bytes at offset {} end after the file ({size} bytes); the file is cut short or damaged",
                t.bytes, t.offset
            );
            return bad(t, what);
        }
    }
    Ok(())
}

struct Cursor<'a> {
    path: &'a Path,
    input: BufReader<&'a File>,
    size: u64,
    at: u64,
}

impl Cursor<'_> {
    fn bad<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(Error::format(self.path, what))
    }

    /// Refuses `count` items of at least `each` bytes when the rest of the file cannot hold them.
    fn claim(&self, count: u64, each: u64, what: &str) -> Result<()> {
        let left = self.size - self.at;
        if count.checked_mul(each).is_none_or(|need| need > left) {
            return self.bad(format!(
                "{count} {what} announced at byte {}, but only {left} bytes follow; the file is cut short or damaged",
                self.at
            ));
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.claim(N as u64, 1, "bytes")?;
        let mut out = [0; N];
        self.input.read_exact(&mut out).map_err(|e| Error::io(self.path, e))?;
        self.at += N as u64;
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self) -> Result<Vec<u8>> {
        let length = self.u64()?;
        self.claim(length, 1, "bytes of text")?;
        let mut out = vec![0; length as usize];
        self.input.read_exact(&mut out).map_err(|e| Error::io(self.path, e))?;
        self.at += length;
        Ok(out)
    }

    fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.string()?)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let at = self.at;
        let bytes = self.string()?;
        if bytes.len() as u64 > MAX_NAME {
            return self.bad(format!("{what} of {} bytes at byte {at}", bytes.len()));
        }
        String::from_utf8(bytes).or_else(|_| self.bad(format!("{what} at byte {at} is not UTF-8")))
    }

    /// An integer or boolean of this kind, or `None` for another kind.
    fn int(&mut self, kind: u32) -> Result<Option<i128>> {
        Ok(Some(match kind {
            0 | 7 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            _ => return Ok(None),
        }))
    }

    fn float(&mut self, kind: u32) -> Result<Option<f64>> {
        Ok(Some(match kind {
            6 => f32::from_le_bytes(self.bytes()?).into(),
            12 => f64::from_le_bytes(self.bytes()?),
            _ => return Ok(None),
        }))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        match kind {
            8 => return Ok(Value::Text(self.text()?)),
            9 => return self.array(depth),
            _ => {}
        }
        if let Some(n) = self.int(kind)? {
            return Ok(if kind == 7 { Value::Bool(n != 0) } else { Value::Int(n) });
        }
        match self.float(kind)? {
            Some(x) => Ok(Value::Float(x)),
            None => self.bad(format!("unknown value type {kind} at byte {}", self.at)),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let each = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 if depth < MAX_DEPTH => 12,
            9 => return self.bad(format!("arrays nested deeper than {MAX_DEPTH}")),
            _ => return self.bad(format!("unknown array element type {kind} at byte {}", self.at)),
        };
        self.claim(count, each, "array elements")?;
        let n = 0..count;
        Ok(match kind {
            8 => Value::Texts(n.map(|_| self.text()).collect::<Result<_>>()?),
            9 => Value::Lists(n.map(|_| self.array(depth + 1)).collect::<Result<_>>()?),
            6 | 12 => Value::Floats(
                n.map(|_| Ok(self.float(kind)?.expect("kinds 6 and 12 are floats")))
                    .collect::<Result<_>>()?,
            ),
            _ => Value::Ints(n.map(|_| self.small_int(kind)).collect::<Result<_>>()?),
        })
    }

    /// An array element; unsigned 64-bit values above the signed range have no use in any known key.
    fn small_int(&mut self, kind: u32) -> Result<i64> {
        let n = self.int(kind)?.expect("the caller handles strings, arrays and floats");
        n.try_into().or_else(|_| self.bad(format!("array element {n} is out of range")))
    }

    fn tensor(&mut self, alignment: u64) -> Result<Tensor> {
        let path = self.path;
        let name = self.name("tensor name")?;
        let bad = |what: String| Err(Error::Tensor { path: path.into(), name: name.clone(), what });
        let n_dims = self.u32()?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return bad(format!("has {n_dims} dimensions, expected 1 to {MAX_DIMS}"));
        }
        let dims = (0..n_dims).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        let (id, offset) = (self.u32()?, self.u64()?);
        let Some(format) = Format::from_id(id) else {
            return bad(format!("is stored in ggml type {id}, readable are {}", Format::list()));
        };
        let (values, bytes) = format.block();
        let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = match count {
            Some(n) if n > 0 && dims[0] % values as u64 == 0 => (n / values as u64).checked_mul(bytes as u64),
            _ => None,
        };
        let Some(bytes) = bytes else {
            return bad(format!("shape {dims:?} of {format:?} is not possible"));
        };
        if offset % alignment != 0 {
            return bad(format!("offset {offset} is not a multiple of the alignment {alignment}"));
        }
        // The file lists the fastest dimension first, everything here lists it last.
        let shape = dims.iter().rev().map(|&d| d as usize).collect();
        Ok(Tensor { name, format, shape, offset, bytes })
    }
}
