//! Files of named tensors, whoever wrote them: safetensors, NumPy's `.npz`, PyTorch's `.pt`. One interface for the readers of
//! other tools' dictionaries; nothing in a file is ever executed.

mod npz;
mod pickle;
mod torch;

pub use npz::Npz;
pub use torch::{Scalar, Torch, write as write_torch};

use crate::{
    Error, Result,
    tensorfile::{TensorFile, to_f32},
};
use half::{bf16, f16};
use safetensors::Dtype;
use std::{fs, io::Read, path::Path};

/// An open file of tensors.
pub enum Tensors {
    /// safetensors.
    Safe(TensorFile),
    /// NumPy.
    Npz(Npz),
    /// PyTorch.
    Torch(Torch),
}

impl Tensors {
    /// Opens by what the file begins with.
    ///
    /// # Errors
    /// Another kind of file, or a damaged one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut magic = [0; 4];
        let mut file = fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let n = file.read(&mut magic).map_err(|e| Error::io(path, e))?;
        let by_name = |end: &str| path.extension().is_some_and(|e| e == end);
        match (&magic[..n], by_name("npz")) {
            (b"PK\x03\x04", true) => Ok(Self::Npz(Npz::open(path)?)),
            (b"PK\x03\x04", false) => Ok(Self::Torch(Torch::open(path)?)),
            _ if by_name("pt") || by_name("pth") || by_name("npz") => Err(Error::format(
                path,
                "is no zip archive; files of PyTorch before 1.6 have to be loaded and saved again with a newer one",
            )),
            _ => Ok(Self::Safe(TensorFile::open(path)?)),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Safe(f) => f.path(),
            Self::Npz(f) => f.path(),
            Self::Torch(f) => f.path(),
        }
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Safe(f) => f.list().into_iter().map(|t| t.name).collect(),
            Self::Npz(f) => f.names(),
            Self::Torch(f) => f.names(),
        }
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Safe(f) => f.contains(name),
            Self::Npz(f) => f.has(name),
            Self::Torch(f) => f.has(name),
        }
    }

    /// Shape and stored type.
    pub fn info(&self, name: &str) -> Result<(Vec<usize>, Kind)> {
        match self {
            Self::Safe(f) => f.info(name).map(|i| (i.shape, Kind::of(i.dtype))),
            Self::Npz(f) => f.info(name),
            Self::Torch(f) => f.info(name),
        }
    }

    /// Shape and values as f32. Numbers of 64 bits are taken only where f32 holds them exactly.
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (kind, shape, bytes) = match self {
            Self::Safe(f) => {
                let (dtype, shape, bytes) = f.bytes(name)?;
                (Kind::of(dtype), shape, bytes)
            }
            Self::Npz(f) => f.bytes(name)?,
            Self::Torch(f) => f.bytes(name)?,
        };
        let values = kind.to_f32(&bytes, true).map_err(|what| self.error(name, what))?;
        Ok((shape, values))
    }

    /// Shape and values of a tensor of integers or truth values.
    pub fn i64(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let (kind, shape, bytes) = match self {
            Self::Safe(f) => return f.i64(name),
            Self::Npz(f) => f.bytes(name)?,
            Self::Torch(f) => f.bytes(name)?,
        };
        match kind {
            Kind::I64 | Kind::I32 | Kind::I16 | Kind::I8 | Kind::U8 | Kind::Bool => {
                Ok((shape, bytes.chunks_exact(kind.size()).map(|c| kind.integer(c)).collect()))
            }
            other => Err(self.error(name, format!("stored as {other:?}, expected integers"))),
        }
    }

    /// The only value of a tensor of one element, rounded to f64 where it is an integer.
    pub fn scalar(&self, name: &str) -> Result<f64> {
        let (kind, _, bytes) = match self {
            Self::Safe(f) => {
                let (dtype, shape, bytes) = f.bytes(name)?;
                (Kind::of(dtype), shape, bytes)
            }
            Self::Npz(f) => f.bytes(name)?,
            Self::Torch(f) => f.bytes(name)?,
        };
        match kind.to_f64(&bytes) {
            Some(v) => Ok(v),
            None => {
                Err(self.error(name, format!("should be one number, is {} bytes of {kind:?}", bytes.len())))
            }
        }
    }

    /// An error about one tensor.
    pub fn error(&self, name: &str, what: impl Into<String>) -> Error {
        Error::Tensor { path: self.path().into(), name: name.into(), what: what.into() }
    }
}

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Anything else.
    Other,
}

impl Kind {
    fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::I16 => Self::I16,
            Dtype::I8 => Self::I8,
            Dtype::U8 => Self::U8,
            Dtype::BOOL => Self::Bool,
            _ => Self::Other,
        }
    }

    /// Bytes of an element; 0 for [`Kind::Other`].
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Other => 0,
        }
    }

    /// Values as f32; with `exact`, numbers of 64 bits that f32 does not hold are refused.
    fn to_f32(self, bytes: &[u8], exact: bool) -> Result<Vec<f32>, String> {
        let narrowed = |v: f64| -> Result<f32, String> {
            let short = v as f32;
            if exact && !v.is_nan() && f64::from(short) != v {
                return Err(format!(
                    "is stored in 64 bits and {v} is not exact in the 32 this program computes in; save it as float32"
                ));
            }
            Ok(short)
        };
        let floats = |dtype| to_f32(dtype, bytes).unwrap_or_default();
        Ok(match self {
            Self::F32 => floats(Dtype::F32),
            Self::Bf16 => floats(Dtype::BF16),
            Self::F16 => floats(Dtype::F16),
            Self::F64 => bytes.chunks_exact(8).map(|c| narrowed(f64_of(c))).collect::<Result<_, _>>()?,
            Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::U8 | Self::Bool => bytes
                .chunks_exact(self.size())
                .map(|c| narrowed(self.integer(c) as f64))
                .collect::<Result<_, _>>()?,
            Self::Other => return Err("is stored in a type that is neither a float nor an integer".into()),
        })
    }

    fn to_f64(self, bytes: &[u8]) -> Option<f64> {
        if self == Self::Other || bytes.len() != self.size() {
            return None;
        }
        Some(match self {
            Self::F64 => f64_of(bytes),
            Self::F32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::F16 => f16::from_le_bytes(bytes.try_into().ok()?).into(),
            Self::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).into(),
            _ => self.integer(bytes) as f64,
        })
    }

    fn integer(self, c: &[u8]) -> i64 {
        match self {
            Self::I64 => i64::from_le_bytes(c.try_into().unwrap_or_default()),
            Self::I32 => i32::from_le_bytes(c.try_into().unwrap_or_default()).into(),
            Self::I16 => i16::from_le_bytes(c.try_into().unwrap_or_default()).into(),
            Self::I8 => i8::from_le_bytes([c[0]]).into(),
            _ => c[0].into(),
        }
    }
}

fn f64_of(c: &[u8]) -> f64 {
    f64::from_le_bytes(c.try_into().unwrap_or_default())
}

/// Elements of a shape, unless they overflow.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}
