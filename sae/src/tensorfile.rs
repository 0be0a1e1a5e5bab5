//! safetensors files: tensors are read one at a time by position, converted to f32; writing is atomic. The header is
//! checked against the file's size on opening, so truncated and hostile files are refused with file and tensor named.

use crate::{Error, Result, files};
use half::{bf16, f16};
use lm_saes_runtime::{Queue, Tensor};
use safetensors::{Dtype, tensor::Metadata};
use serde_json::json;
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// An open safetensors file.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where tensor data starts in the file.
    start: u64,
}

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Stored type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
}

/// Longest header accepted, as in the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;

impl TensorFile {
    /// Opens and checks the header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let mut file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        let size = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        let bad = |what: String| Error::format(&path, format!("not a complete safetensors file: {what}"));
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|_| bad(format!("{size} bytes are too few")))?;
        let length = u64::from_le_bytes(prefix);
        if length > MAX_HEADER || length > size - 8 {
            return Err(bad(format!("header of {length} bytes in a file of {size}")));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(|e| Error::io(&path, e))?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|e| bad(format!("header: {e}")))?;
        let start = 8 + length;
        let data = size - start;
        if header.data_len() as u64 != data {
            return Err(bad(format!("{data} bytes of data, the header says {}", header.data_len())));
        }
        Ok(Self { path, file, header, start })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The free-form metadata of the header.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.header.metadata().clone().unwrap_or_default()
    }

    /// All tensors, by name.
    pub fn list(&self) -> Vec<TensorInfo> {
        let mut all: Vec<TensorInfo> = self
            .header
            .tensors()
            .into_iter()
            .map(|(name, t)| TensorInfo { name, dtype: t.dtype, shape: t.shape.clone() })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All tensors, as they lie in the file.
    pub fn in_order(&self) -> Vec<TensorInfo> {
        let mut all = self.list();
        all.sort_by_key(|t| self.header.info(&t.name).map(|i| i.data_offsets));
        all
    }

    /// Whether the tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Shape and stored type of a tensor.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        let t = self.header.info(name).ok_or_else(|| self.tensor_error(name, "missing".into()))?;
        Ok(TensorInfo { name: name.into(), dtype: t.dtype, shape: t.shape.clone() })
    }

    /// A tensor as stored.
    pub(crate) fn bytes(&self, name: &str) -> Result<(Dtype, Vec<usize>, Vec<u8>)> {
        let t = self.header.info(name).ok_or_else(|| self.tensor_error(name, "missing".into()))?;
        let (from, to) = t.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file
            .read_exact_at(&mut bytes, self.start + from as u64)
            .map_err(|e| Error::io(&self.path, e))?;
        Ok((t.dtype, t.shape.clone(), bytes))
    }

    /// A floating-point tensor's values as f32, whatever float type is stored, with its shape.
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (dtype, shape, bytes) = self.bytes(name)?;
        let values = to_f32(dtype, &bytes)
            .ok_or_else(|| self.tensor_error(name, format!("stored as {dtype:?}, expected a float")))?;
        Ok((shape, values))
    }

    /// Like [`TensorFile::f32`], requiring this shape.
    pub fn f32_shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (found, values) = self.f32(name)?;
        if found != shape {
            return Err(self.tensor_error(name, format!("has shape {found:?}, expected {shape:?}")));
        }
        Ok(values)
    }

    /// Stretches of a floating-point tensor's elements, one after the other, as f32; only they are read.
    pub fn f32_runs(&self, name: &str, runs: impl IntoIterator<Item = Range<usize>>) -> Result<Vec<f32>> {
        let t = self.header.info(name).ok_or_else(|| self.tensor_error(name, "missing".into()))?;
        let elements: usize = t.shape.iter().product();
        let width = (t.data_offsets.1 - t.data_offsets.0) / elements.max(1);
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for run in runs {
            if run.end > elements {
                let what = format!("has {elements} elements, {} are needed", run.end);
                return Err(self.tensor_error(name, what));
            }
            bytes.resize(run.len() * width, 0);
            let at = self.start + (t.data_offsets.0 + run.start * width) as u64;
            self.file.read_exact_at(&mut bytes, at).map_err(|e| Error::io(&self.path, e))?;
            let read = to_f32(t.dtype, &bytes);
            let not_float = || self.tensor_error(name, format!("stored as {:?}, expected a float", t.dtype));
            values.extend(read.ok_or_else(not_float)?);
        }
        Ok(values)
    }

    /// An integer or boolean tensor's values.
    pub fn i64(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let (dtype, shape, d) = self.bytes(name)?;
        let values = match dtype {
            Dtype::I64 => {
                d.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap_or_default())).collect()
            }
            Dtype::I32 => d
                .chunks_exact(4)
                .map(|c| i32::from_le_bytes(c.try_into().unwrap_or_default()).into())
                .collect(),
            Dtype::U32 => d
                .chunks_exact(4)
                .map(|c| u32::from_le_bytes(c.try_into().unwrap_or_default()).into())
                .collect(),
            Dtype::I8 => d.iter().map(|&b| i8::from_le_bytes([b]).into()).collect(),
            Dtype::U8 | Dtype::BOOL => d.iter().map(|&b| b.into()).collect(),
            other => return Err(self.tensor_error(name, format!("stored as {other:?}, expected integers"))),
        };
        Ok((shape, values))
    }

    fn tensor_error(&self, name: &str, what: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: name.into(), what }
    }
}

/// Floats of any stored type as f32; `None` for other types.
pub(crate) fn to_f32(dtype: Dtype, d: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => d.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect(),
        Dtype::BF16 => d.chunks_exact(2).map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
        Dtype::F16 => d.chunks_exact(2).map(|c| f16::from_le_bytes([c[0], c[1]]).to_f32()).collect(),
        Dtype::F64 => {
            d.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap_or_default()) as f32).collect()
        }
        _ => return None,
    })
}

/// One tensor to write, f32, row-major.
pub struct OutTensor {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Vec<f32>,
}

/// Floating-point type of a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// half, rounded to nearest even.
    F16,
}

/// Values brought to the host at a time.
pub(crate) const PIECE: usize = 1 << 20;

/// Brings the values of `t` to the host a few rows at a time.
pub(crate) fn in_pieces(q: &mut Queue, t: &Tensor, put: &mut Put<'_>) -> Result<()> {
    let step = (PIECE / t.cols().max(1)).max(1);
    for from in (0..t.rows()).step_by(step) {
        put(&q.download::<f32>(t.rows_view(from..t.rows().min(from + step)))?)?;
    }
    Ok(())
}

/// What a tensor to write is called and shaped.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Stored as booleans, true where the value is not 0.
    pub boolean: bool,
}

impl Slot {
    /// A tensor of floats.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into(), boolean: false }
    }
}

/// Writes a safetensors file atomically.
pub fn write(
    path: &Path,
    tensors: &[OutTensor],
    precision: Precision,
    metadata: &[(&str, String)],
) -> Result<()> {
    let shapes: Vec<_> = tensors.iter().map(|t| Slot::new(&*t.name, &*t.shape)).collect();
    write_with(path, &shapes, precision, metadata, |i, put| put(&tensors[i].values))
}

/// Takes the values of a tensor, in as many pieces as come.
pub type Put<'a> = dyn FnMut(&[f32]) -> Result<()> + 'a;

/// Like [`write`], asking for the values of one tensor after the other, in order, so that the host never holds all of them.
pub fn write_with(
    path: &Path,
    tensors: &[Slot],
    precision: Precision,
    metadata: &[(&str, String)],
    mut values: impl FnMut(usize, &mut Put<'_>) -> Result<()>,
) -> Result<()> {
    let header = header(tensors, precision, metadata);
    // `write_atomic` knows I/O errors only; any other one is kept here.
    let mut failed = None;
    let mut one = |i: usize, w: &mut dyn Write| {
        let Slot { name, shape, boolean } = &tensors[i];
        let mut written = 0;
        let mut put = |v: &[f32]| {
            written += v.len();
            let done = v.chunks(1 << 16).try_for_each(|c| match boolean {
                true => w.write_all(&c.iter().map(|v| u8::from(*v != 0.0)).collect::<Vec<_>>()),
                false => w.write_all(&encode(c, precision)),
            });
            done.map_err(|e| Error::io(path, e))
        };
        values(i, &mut put).map_err(|e| {
            failed = Some(e);
            io::Error::other("the values could not be written")
        })?;
        if written != shape.iter().product::<usize>() {
            let what = format!("{written} values for shape {shape:?}");
            failed = Some(Error::Tensor { path: path.into(), name: name.clone(), what });
            return Err(io::Error::other("wrong number of values"));
        }
        Ok(())
    };
    let done = files::write_atomic(path, |w| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(header.as_bytes())?;
        (0..tensors.len()).try_for_each(|i| one(i, w))
    });
    match failed {
        Some(e) => Err(e),
        None => done,
    }
}

fn header(tensors: &[Slot], precision: Precision, metadata: &[(&str, String)]) -> String {
    let float = match precision {
        Precision::F32 => ("F32", 4),
        Precision::Bf16 => ("BF16", 2),
        Precision::F16 => ("F16", 2),
    };
    let mut map = serde_json::Map::new();
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_string(), json!(v))).collect();
    map.insert("__metadata__".into(), serde_json::Value::Object(metadata));
    let mut at = 0;
    for Slot { name, shape, boolean } in tensors {
        let (dtype, bytes) = if *boolean { ("BOOL", 1) } else { float };
        let end = at + shape.iter().product::<usize>() * bytes;
        map.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = serde_json::Value::Object(map).to_string();
    // The format wants the data aligned to 8 bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

/// Values as they come back from a file of this precision.
pub(crate) fn rounded(v: f32, precision: Precision) -> f32 {
    match precision {
        Precision::F32 => v,
        Precision::Bf16 => bf16::from_f32(v).to_f32(),
        Precision::F16 => f16::from_f32(v).to_f32(),
    }
}

/// Values in the bytes of a file.
pub(crate) fn encode(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Precision::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Precision::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_the_reference_reader_accepts_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensors = [
            OutTensor {
                name: "w".into(),
                shape: vec![2, 3],
                values: vec![1.0, -0.5, 3.0, 4.0, f32::MIN, 0.0],
            },
            OutTensor { name: "s".into(), shape: vec![], values: vec![7.25] },
            OutTensor { name: "empty".into(), shape: vec![0, 4], values: vec![] },
        ];
        write(&path, &tensors, Precision::F32, &[("version", "1".into())]).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.metadata()["version"], "1");
        for t in &tensors {
            assert_eq!(file.f32(&t.name).unwrap(), (t.shape.clone(), t.values.clone()));
        }
        let bytes = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.tensor("w").unwrap().shape(), [2, 3]);
    }

    #[test]
    fn a_failing_source_of_values_leaves_the_old_file_and_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        std::fs::write(&path, "old").unwrap();
        let shapes = [Slot::new("w", [2])];
        let short = write_with(&path, &shapes, Precision::F32, &[], |_, put| put(&[1.0]));
        assert!(short.unwrap_err().to_string().contains("tensor w: 1 values"));
        let broken = write_with(&path, &shapes, Precision::F32, &[], |_, _| {
            Err(Error::Data { what: "the device is gone".into() })
        });
        assert_eq!(broken.unwrap_err().to_string(), "the device is gone");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
