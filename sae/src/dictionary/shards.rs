//! Weights of one dictionary in one file, or in one for each rank that holds a part of it. A part's file has its tensors in the
//! usual form and says in its metadata which part of the whole each is, so any rank of any mesh finds what it needs in any such
//! set, and a plain file is the set of one part that is everything.

use crate::{
    Error, Result,
    parallel::placement::{Cut, part_shape, runs},
    tensorfile::{PIECE, Precision, Put, Slot, TensorFile},
};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// Where a part's metadata say what it is.
pub(crate) const PARTS: &str = "lm_saes.parts";

/// Which part of the whole a stored tensor is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub whole: Vec<usize>,
    pub cuts: Vec<Cut>,
}

impl Placed {
    /// Makes sure that the part says of itself what the file holds.
    fn check(&self, file: &TensorFile, name: &str) -> Result<()> {
        let within = |c: &Cut| {
            let n = self.whole.get(c.axis).copied().unwrap_or(0);
            let ascending = c.ranges.windows(2).all(|w| w[0].end <= w[1].start);
            ascending && c.ranges.iter().all(|r| r.start <= r.end && r.end <= n)
        };
        if self.cuts.iter().all(within) && part_shape(&self.whole, &self.cuts) == file.info(name)?.shape {
            return Ok(());
        }
        let what = format!("its place in the whole, {self:?}, does not fit its shape");
        Err(Error::Tensor { path: file.path().into(), name: name.into(), what })
    }
}

/// One or more files with the tensors of one save.
pub(crate) struct Weights {
    files: Vec<(TensorFile, BTreeMap<String, Placed>)>,
}

/// Name of part `index` of `count` of the weights `file`.
pub(crate) fn part_file(file: &Path, index: usize, count: usize) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{stem}-{:05}-of-{count:05}.safetensors", index + 1))
}

/// Removes the parts of the weights `file`, once they are in the file itself.
pub(super) fn remove_parts(file: &Path) -> Result<()> {
    parts_of(file).iter().try_for_each(|part| fs::remove_file(part).map_err(|e| Error::io(part, e)))
}

/// The parts of the weights `file` that are there.
fn parts_of(file: &Path) -> Vec<PathBuf> {
    let stem = format!("{}-", file.file_stem().unwrap_or_default().to_string_lossy());
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
    let is_part =
        |name: &String| name.starts_with(&stem) && name.ends_with(".safetensors") && name.contains("-of-");
    let mut all: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).filter(is_part).collect();
    all.sort();
    all.into_iter().map(|name| file.with_file_name(name)).collect()
}

impl Weights {
    /// Whether there is such a file, or parts of one.
    pub fn exists(file: &Path) -> bool {
        file.is_file() || !parts_of(file).is_empty()
    }

    /// Opens a file, or where it is not there its parts.
    ///
    /// # Errors
    /// No such file, parts that are missing, or parts of different saves.
    pub fn open(file: &Path) -> Result<Self> {
        let parts = if file.is_file() { Vec::new() } else { parts_of(file) };
        if parts.is_empty() {
            return Ok(Self { files: vec![(TensorFile::open(file)?, BTreeMap::new())] });
        }
        let mut files = Vec::with_capacity(parts.len());
        for path in &parts {
            let part = TensorFile::open(path)?;
            let placed = part.metadata().remove(PARTS).unwrap_or_default();
            let placed: BTreeMap<String, Placed> = serde_json::from_str(&placed)
                .map_err(|e| Error::format(path, format!("{PARTS} in the metadata: {e}")))?;
            placed.iter().try_for_each(|(name, p)| p.check(&part, name))?;
            files.push((part, placed));
        }
        let all = Self { files };
        all.check_set(file)?;
        Ok(all)
    }

    fn check_set(&self, file: &Path) -> Result<()> {
        let count = self.files.len();
        let expected: BTreeSet<PathBuf> = (0..count).map(|i| part_file(file, i, count)).collect();
        if let Some((other, _)) = self.files.iter().find(|(f, _)| !expected.contains(f.path())) {
            let what = format!(
                "is one of another number of parts than the {count} that are here; bring the missing ones, or remove what an earlier save left"
            );
            return Err(Error::format(other.path(), what));
        }
        let mark = |f: &TensorFile| f.metadata().remove("lm_saes.save");
        let first = self.files.first().map(|(f, _)| mark(f));
        match self.files.iter().find(|(f, _)| Some(mark(f)) != first) {
            Some((other, _)) => {
                let what =
                    "is of another save than the parts before it; save again, or bring parts of one save";
                Err(Error::format(other.path(), what))
            }
            None => Ok(()),
        }
    }

    /// The file, or the first part.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |(f, _)| f.path())
    }

    /// Free-form metadata, of the first part.
    pub fn metadata(&self) -> HashMap<String, String> {
        self.files.first().map(|(f, _)| f.metadata()).unwrap_or_default()
    }

    /// Names of all tensors.
    pub fn names(&self) -> BTreeSet<String> {
        self.files.iter().flat_map(|(f, _)| f.list()).map(|t| t.name).collect()
    }

    fn having<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = &'a (TensorFile, BTreeMap<String, Placed>)> {
        self.files.iter().filter(move |(f, _)| f.contains(name))
    }

    fn missing(&self, name: &str, what: &str) -> Error {
        Error::Tensor { path: self.path().into(), name: name.into(), what: what.into() }
    }

    /// Shape of the whole tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let (file, placed) = self.having(name).next().ok_or_else(|| self.missing(name, "missing"))?;
        match placed.get(name) {
            Some(p) => Ok(p.whole.clone()),
            None => Ok(file.info(name)?.shape),
        }
    }

    /// The whole tensor with its shape.
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let shape = self.shape(name)?;
        let all = 0..shape.iter().product();
        Ok((shape, self.f32_runs(name, &[all])?))
    }

    /// Stretches of the whole tensor's elements, one after the other.
    pub fn f32_runs(&self, name: &str, wanted: &[Range<usize>]) -> Result<Vec<f32>> {
        let pieces = self.pieces(name)?;
        let mut values = Vec::with_capacity(wanted.iter().map(Range::len).sum());
        for run in wanted {
            let mut at = run.start;
            while at < run.end {
                // The last piece that begins at or before `at`; ranks that hold the same have the same values.
                let i = pieces.partition_point(|p| p.global.start <= at);
                let piece = i.checked_sub(1).map(|i| &pieces[i]).filter(|p| at < p.global.end);
                let piece = piece.ok_or_else(|| self.missing(name, "some of it is in none of the parts"))?;
                // A piece at a time, so that the host does not hold all of it twice.
                let end = run.end.min(piece.global.end).min(at + PIECE);
                let from = piece.local + at - piece.global.start;
                values
                    .extend(self.files[piece.file].0.f32_runs(name, std::iter::once(from..from + end - at))?);
                at = end;
            }
        }
        Ok(values)
    }

    /// Every tensor with its whole shape, in the order of the files, and how floats are stored.
    pub fn slots(&self) -> Result<(Vec<Slot>, Precision)> {
        let mut precision = Precision::F32;
        let Some((file, _)) = self.files.first() else { return Ok((Vec::new(), precision)) };
        let mut slots = Vec::new();
        for t in file.in_order() {
            let boolean = t.dtype == Dtype::BOOL;
            match t.dtype {
                Dtype::BF16 => precision = Precision::Bf16,
                Dtype::F16 => precision = Precision::F16,
                _ => {}
            }
            slots.push(Slot { boolean, ..Slot::new(&*t.name, self.shape(&t.name)?) });
        }
        Ok((slots, precision))
    }

    /// The whole tensor in pieces that take little memory.
    pub fn in_pieces(&self, slot: &Slot, put: &mut Put<'_>) -> Result<()> {
        if slot.boolean {
            let (file, _) =
                self.having(&slot.name).next().ok_or_else(|| self.missing(&slot.name, "missing"))?;
            let values: Vec<f32> = file.i64(&slot.name)?.1.into_iter().map(|v| v as f32).collect();
            return put(&values);
        }
        let n: usize = slot.shape.iter().product();
        for start in (0..n).step_by(PIECE) {
            put(&self.f32_runs(&slot.name, std::slice::from_ref(&(start..n.min(start + PIECE))))?)?;
        }
        Ok(())
    }

    /// Where the elements of a tensor are, ascending.
    fn pieces(&self, name: &str) -> Result<Vec<Piece>> {
        let mut all: Vec<Piece> = Vec::new();
        for (file, (f, placed)) in self.files.iter().enumerate().filter(|(_, (f, _))| f.contains(name)) {
            let shape = f.info(name)?.shape;
            let (whole, cuts) = placed.get(name).map_or((&shape, &[][..]), |p| (&p.whole, &p.cuts[..]));
            let mut local = 0;
            for global in runs(whole, cuts) {
                let length = global.len();
                all.push(Piece { global, file, local });
                local += length;
            }
        }
        all.sort_by_key(|p| (p.global.start, p.file));
        all.dedup_by_key(|p| p.global.start);
        Ok(all)
    }
}

/// A stretch of a tensor's elements in one of the files.
struct Piece {
    global: Range<usize>,
    file: usize,
    local: usize,
}
