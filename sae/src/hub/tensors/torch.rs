//! PyTorch's `.pt`: a zip archive with a pickle that describes tensors and one member of raw elements for each storage. Read
//! through [`super::pickle`], which runs nothing; written so that `torch.load(weights_only=True)` takes it.

use super::{
    Kind, elements,
    pickle::{Node, Pickled},
};
use crate::{
    Error, Result, files,
    tensorfile::{OutTensor, Precision, encode},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek, Write},
    path::{Path, PathBuf},
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Longest pickle; the tensors themselves are not in it.
const MOST_PICKLE: u64 = 64 << 20;
/// How deep dictionaries in dictionaries are looked into.
const MOST_DEPTH: usize = 8;

/// An open file.
pub struct Torch {
    path: PathBuf,
    archive: RefCell<ZipArchive<BufReader<File>>>,
    /// Folder inside the archive.
    prefix: String,
    tensors: BTreeMap<String, Place>,
    scalars: BTreeMap<String, Scalar>,
}

/// A plain value beside the tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// Text.
    Text(String),
}

/// Where a tensor's elements are.
struct Place {
    member: String,
    kind: Kind,
    stored: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Torch {
    /// Opens and reads the description. Names of tensors in dictionaries of dictionaries are joined with dots.
    ///
    /// # Errors
    /// No zip archive, a damaged one, or a pickle that wants more than tensors in plain containers.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::format(path, what);
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| bad(format!("zip: {e}")))?;
        let name = archive.file_names().flatten().find(|n| n.ends_with("data.pkl")).map(String::from);
        let name = name.ok_or_else(|| bad("has no data.pkl: no file of PyTorch's".into()))?;
        let prefix = name.trim_end_matches("data.pkl").to_string();
        let order =
            read_member(&mut archive, &format!("{prefix}byteorder"), 16).unwrap_or(b"little".to_vec());
        if order != b"little" {
            return Err(bad(
                "was written on a big-endian machine; save it again on a little-endian one".into()
            ));
        }
        let pickle =
            read_member(&mut archive, &name, MOST_PICKLE).map_err(|e| bad(format!("{name}: {e}")))?;
        let pickled = Pickled::parse(&pickle).map_err(|e| bad(format!("{name}: {e}")))?;
        let mut found = Self {
            path: path.into(),
            archive: RefCell::new(archive),
            prefix,
            tensors: BTreeMap::new(),
            scalars: BTreeMap::new(),
        };
        let mut left = pickled.nodes.len() + 1;
        found.collect(&pickled, pickled.root, "", 0, &mut left).map_err(bad)?;
        Ok(found)
    }

    fn collect(
        &mut self,
        p: &Pickled,
        id: usize,
        name: &str,
        depth: usize,
        left: &mut usize,
    ) -> Result<(), String> {
        *left = left.checked_sub(1).ok_or("the same values are named over and over")?;
        match &p.nodes[id] {
            Node::Dict(entries) if depth < MOST_DEPTH => {
                for (key, value) in entries {
                    let key = match &p.nodes[*key] {
                        Node::Text(key) => key.clone(),
                        Node::Int(key) => key.to_string(),
                        _ => continue,
                    };
                    let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                    self.collect(p, *value, &name, depth + 1, left)?;
                }
            }
            Node::Tensor { storage, offset, shape, strides } => {
                let Node::Storage { member, kind, elements } = &p.nodes[*storage] else {
                    return Err(format!("{name} has no storage"));
                };
                let kind = match kind.trim_start_matches("torch.") {
                    "FloatStorage" => Kind::F32,
                    "DoubleStorage" => Kind::F64,
                    "HalfStorage" => Kind::F16,
                    "BFloat16Storage" => Kind::Bf16,
                    "LongStorage" => Kind::I64,
                    "IntStorage" => Kind::I32,
                    "ShortStorage" => Kind::I16,
                    "CharStorage" => Kind::I8,
                    "ByteStorage" => Kind::U8,
                    "BoolStorage" => Kind::Bool,
                    _ => Kind::Other,
                };
                let (member, offset, stored) = (member.clone(), *offset, *elements);
                let place =
                    Place { member, kind, stored, offset, shape: shape.clone(), strides: strides.clone() };
                self.tensors.insert(name.into(), place);
            }
            Node::Int(v) => drop(self.scalars.insert(name.into(), Scalar::Number(*v as f64))),
            Node::Float(v) => drop(self.scalars.insert(name.into(), Scalar::Number(*v))),
            Node::Text(v) => drop(self.scalars.insert(name.into(), Scalar::Text(v.clone()))),
            _ => {}
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A number or text beside the tensors.
    pub fn plain(&self, name: &str) -> Option<&Scalar> {
        self.scalars.get(name)
    }

    /// Shape and type.
    pub fn info(&self, name: &str) -> Result<(Vec<usize>, Kind)> {
        let place = self.tensors.get(name).ok_or_else(|| self.error(name, "missing"))?;
        Ok((place.shape.clone(), place.kind))
    }

    /// Type, shape and elements in row-major order.
    pub fn bytes(&self, name: &str) -> Result<(Kind, Vec<usize>, Vec<u8>)> {
        let place = self.tensors.get(name).ok_or_else(|| self.error(name, "missing"))?;
        let size = place.kind.size();
        let wanted = place.stored.saturating_mul(size);
        let member = format!("{}data/{}", self.prefix, place.member);
        let raw = read_member(&mut self.archive.borrow_mut(), &member, wanted as u64)
            .map_err(|e| self.error(name, format!("{member}: {e}")))?;
        if raw.len() != wanted {
            return Err(self.error(name, format!("{member} has {} bytes, expected {wanted}", raw.len())));
        }
        let n = elements(&place.shape).unwrap_or(0);
        if is_row_major(&place.shape, &place.strides) {
            let from = place.offset * size;
            return Ok((place.kind, place.shape.clone(), raw[from..from + n * size].to_vec()));
        }
        let mut bytes = Vec::with_capacity(n * size);
        let mut index = vec![0; place.shape.len()];
        for _ in 0..n {
            let at = place.offset + index.iter().zip(&place.strides).map(|(i, s)| i * s).sum::<usize>();
            bytes.extend_from_slice(&raw[at * size..(at + 1) * size]);
            for (i, d) in index.iter_mut().zip(&place.shape).rev() {
                *i += 1;
                if *i < *d {
                    break;
                }
                *i = 0;
            }
        }
        Ok((place.kind, place.shape.clone(), bytes))
    }

    fn error(&self, name: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.into(), what: what.into() }
    }
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1;
    for (d, s) in shape.iter().zip(strides).rev() {
        if *d != 1 && *s != step {
            return false;
        }
        step *= d;
    }
    true
}

fn read_member<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    most: u64,
) -> Result<Vec<u8>, String> {
    let member = archive.by_name(name).map_err(|e| e.to_string())?;
    if member.size() > most {
        return Err(format!("has {} bytes, expected no more than {most}", member.size()));
    }
    let mut bytes = Vec::new();
    member.take(most + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Writes a state dictionary of float tensors, and whole numbers as tensors of `int32` without axes, atomically.
pub fn write(
    path: &Path,
    tensors: &[OutTensor],
    integers: &[(&str, i32)],
    precision: Precision,
) -> Result<()> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    files::write_atomic(path, |out| {
        // The archive's directory needs positions, which an atomic file's writer does not know.
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut zip = ZipWriter::new(&mut bytes);
        let stored = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true)
            .with_alignment(64);
        let mut member = |what: &str, content: &[u8]| -> std::io::Result<()> {
            zip.start_file(format!("{name}/{what}"), stored).map_err(std::io::Error::other)?;
            zip.write_all(content)
        };
        member("data.pkl", &describe(tensors, integers, precision))?;
        member("byteorder", b"little")?;
        for (i, t) in tensors.iter().enumerate() {
            member(&format!("data/{i}"), &encode(&t.values, precision))?;
        }
        for (i, (_, value)) in integers.iter().enumerate() {
            member(&format!("data/{}", tensors.len() + i), &value.to_le_bytes())?;
        }
        member("version", b"3\n")?;
        zip.finish().map_err(std::io::Error::other)?;
        out.write_all(&bytes.into_inner())
    })
}

/// The pickle, protocol 2: `OrderedDict` of `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
fn describe(tensors: &[OutTensor], integers: &[(&str, i32)], precision: Precision) -> Vec<u8> {
    let mut p = vec![0x80, 2];
    p.extend(b"ccollections\nOrderedDict\n)R(");
    let float = match precision {
        Precision::F32 => "FloatStorage",
        Precision::Bf16 => "BFloat16Storage",
        Precision::F16 => "HalfStorage",
    };
    let all = tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), float));
    let all = all.chain(integers.iter().map(|(name, _)| (*name, &[][..], "IntStorage")));
    for (i, (name, shape, storage)) in all.enumerate() {
        text(&mut p, name);
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut p, "storage");
        p.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut p, &i.to_string());
        text(&mut p, "cpu");
        int(&mut p, shape.iter().product());
        p.extend(b"tQ");
        int(&mut p, 0);
        let mut strides = vec![1; shape.len()];
        (1..shape.len()).rev().for_each(|d| strides[d - 1] = strides[d] * shape[d]);
        for numbers in [shape, &strides] {
            p.push(b'(');
            numbers.iter().for_each(|n| int(&mut p, *n));
            p.push(b't');
        }
        p.push(0x89);
        p.extend(b"ccollections\nOrderedDict\n)RtR");
    }
    p.extend(b"u.");
    p
}

fn text(p: &mut Vec<u8>, value: &str) {
    p.push(b'X');
    p.extend((value.len() as u32).to_le_bytes());
    p.extend(value.bytes());
}

/// An integer as LONG1, which holds any size.
fn int(p: &mut Vec<u8>, value: usize) {
    p.extend([0x8a, 8]);
    p.extend((value as i64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ae.pt");
        let tensors = [
            OutTensor {
                name: "encoder.weight".into(),
                shape: vec![2, 3],
                values: vec![1.0, 2.0, 3.0, -4.0, 5.5, 0.0],
            },
            OutTensor { name: "b".into(), shape: vec![0], values: vec![] },
            OutTensor { name: "threshold".into(), shape: vec![], values: vec![0.25] },
        ];
        write(&path, &tensors, &[("k", 6)], Precision::F32).unwrap();
        let file = Torch::open(&path).unwrap();
        assert_eq!(file.names(), ["b", "encoder.weight", "k", "threshold"]);
        let tensors_of = crate::hub::tensors::Tensors::Torch(file);
        for t in tensors {
            assert_eq!(tensors_of.f32(&t.name).unwrap(), (t.shape, t.values));
        }
        assert_eq!(tensors_of.scalar("k").unwrap(), 6.0);
    }

    #[test]
    fn a_call_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.pt");
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut zip = ZipWriter::new(&mut bytes);
        zip.start_file(
            "bad/data.pkl",
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored),
        )
        .unwrap();
        zip.write_all(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        zip.finish().unwrap();
        std::fs::write(&path, bytes.into_inner()).unwrap();
        let e = Torch::open(&path).err().unwrap().to_string();
        assert!(e.contains("bad.pt") && e.contains("posix.system") && e.contains("nothing was run"), "{e}");
    }
}
