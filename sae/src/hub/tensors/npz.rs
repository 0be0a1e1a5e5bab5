//! NumPy's `.npz`: a zip archive of `.npy` members, each a header in the form of a Python literal and raw elements. Only plain
//! little-endian numbers in C order; arrays of objects, which NumPy would unpickle, are refused.

use super::{Kind, elements};
use crate::{Error, Result};
use std::{
    cell::RefCell,
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};
use zip::ZipArchive;

/// Longest header of a member; real ones have about 120 bytes.
const MOST_HEADER: usize = 1 << 16;

/// An open archive.
pub struct Npz {
    path: PathBuf,
    archive: RefCell<ZipArchive<BufReader<File>>>,
}

impl Npz {
    /// Opens and reads the directory.
    ///
    /// # Errors
    /// No zip archive, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let archive =
            ZipArchive::new(BufReader::new(file)).map_err(|e| Error::format(path, format!("zip: {e}")))?;
        Ok(Self { path: path.into(), archive: RefCell::new(archive) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the arrays, sorted.
    pub fn names(&self) -> Vec<String> {
        let archive = self.archive.borrow();
        let mut all: Vec<String> =
            archive.file_names().flatten().filter_map(|n| n.strip_suffix(".npy").map(String::from)).collect();
        all.sort();
        all
    }

    /// Whether there is such an array.
    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|n| n == name)
    }

    /// Shape and type.
    pub fn info(&self, name: &str) -> Result<(Vec<usize>, Kind)> {
        self.member(name, |_, shape, kind, _| Ok((shape, kind)))
    }

    /// Type, shape and elements.
    pub fn bytes(&self, name: &str) -> Result<(Kind, Vec<usize>, Vec<u8>)> {
        self.member(name, |reader, shape, kind, wanted| {
            let mut bytes = Vec::new();
            reader.take(wanted as u64 + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            if bytes.len() != wanted {
                return Err(format!(
                    "holds another number of bytes than its shape {shape:?} needs, {wanted}"
                ));
            }
            Ok((kind, shape, bytes))
        })
    }

    /// Reads the header of a member and gives `then` what follows, with shape, type and the bytes there must be.
    fn member<T>(
        &self,
        name: &str,
        then: impl FnOnce(&mut dyn Read, Vec<usize>, Kind, usize) -> Result<T, String>,
    ) -> Result<T> {
        let error = |what: String| Error::Tensor { path: self.path.clone(), name: name.into(), what };
        let mut archive = self.archive.borrow_mut();
        let mut member = archive.by_name(&format!("{name}.npy")).map_err(|e| error(e.to_string()))?;
        let size = member.size();
        let (header, used) = header(&mut member).map_err(&error)?;
        let (shape, kind) = parse(&header).map_err(&error)?;
        let wanted = elements(&shape).and_then(|n| n.checked_mul(kind.size()));
        let wanted = wanted.filter(|w| *w as u64 == size.saturating_sub(used)).ok_or_else(|| {
            error(format!("{} bytes of elements do not make the shape {shape:?}", size.saturating_sub(used)))
        })?;
        then(&mut member, shape, kind, wanted).map_err(&error)
    }
}

/// The header's text and how many bytes it took with what comes before it.
fn header(reader: &mut dyn Read) -> Result<(String, u64), String> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|e| e.to_string())?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("is no NumPy array".into());
    }
    let wide = start[6] >= 2;
    let mut length = [0; 4];
    let part = if wide { &mut length[..] } else { &mut length[..2] };
    let taken = part.len() as u64;
    reader.read_exact(part).map_err(|e| e.to_string())?;
    let n = u32::from_le_bytes(length) as usize;
    if n > MOST_HEADER {
        return Err(format!("has a header of {n} bytes"));
    }
    let mut text = vec![0; n];
    reader.read_exact(&mut text).map_err(|e| e.to_string())?;
    let text = String::from_utf8(text).map_err(|_| "has a header that is no text".to_string())?;
    Ok((text, 8 + taken + n as u64))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (16, 48), }`.
fn parse(header: &str) -> Result<(Vec<usize>, Kind), String> {
    let bad = |what: &str| format!("{what} in its header {header:?}");
    let after = |key: &str| {
        let at = header.find(&format!("'{key}':")).ok_or_else(|| bad(&format!("no {key}")))?;
        Ok::<_, String>(header[at + key.len() + 3..].trim_start())
    };
    let descr = after("descr")?;
    let descr = descr.strip_prefix('\'').and_then(|d| d.split('\'').next()).unwrap_or(descr);
    let kind = match descr {
        "<f8" => Kind::F64,
        "<f4" => Kind::F32,
        "<f2" => Kind::F16,
        "<i8" => Kind::I64,
        "<i4" => Kind::I32,
        "<i2" => Kind::I16,
        "|i1" => Kind::I8,
        "|u1" => Kind::U8,
        "|b1" => Kind::Bool,
        _ => return Err(bad("an element type that is not read here")),
    };
    let shape = after("shape")?;
    let inside = shape.strip_prefix('(').and_then(|s| s.split_once(')')).ok_or_else(|| bad("no shape"))?.0;
    let shape: Vec<usize> = inside
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.trim_end_matches('L').parse().map_err(|_| bad("a size that is no number")))
        .collect::<Result<_, _>>()?;
    match after("fortran_order")? {
        order if order.starts_with("False") => Ok((shape, kind)),
        _ if shape.len() < 2 => Ok((shape, kind)),
        _ => Err(bad("columns before rows (fortran_order)")),
    }
}
