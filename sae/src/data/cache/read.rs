//! Reading cached activations, one chunk at a time, in safetensors or in pickles that are read without running them: first what its
//! tokens are, then, if asked for, the activations.

use super::{ACTIVATION, EXTENSION, SCALE, position};
use crate::{
    Error, Result,
    data::{Place, TokenBatch, TokenPolicy},
    hub::tensors::{Kind, Tensors},
};
use lm_saes_runtime::{Queue, Tensor};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The chunks of one cache, in order.
pub struct ChunkReader {
    root: PathBuf,
    hook_points: Vec<String>,
    /// Each hook point's files, by shard and number.
    files: Vec<Vec<PathBuf>>,
    bytes: u64,
    policy: TokenPolicy,
    next: u64,
    open: Vec<Tensors>,
    /// Whether the first chunk holds single tokens.
    singles: bool,
}

impl ChunkReader {
    /// The chunks below `folders`, the folder of each hook point. `root` stands for all of them in messages; `policy` is that of
    /// the stream.
    ///
    /// # Errors
    /// A folder that is missing or holds no chunk, and hook points with different chunks.
    pub fn open(root: &Path, folders: &[(String, PathBuf)], policy: TokenPolicy) -> Result<Self> {
        let mut files = Vec::new();
        let mut numbers = None;
        for (hook, folder) in folders {
            let chunks = chunks(folder)?;
            let found: Vec<(u64, u64)> = chunks.iter().map(|c| c.0).collect();
            let first = numbers.get_or_insert_with(|| found.clone());
            if *first != found {
                let what = format!(
                    "has {} chunks for {hook}, {} for {}; generate the cache again for all hook points together",
                    found.len(),
                    first.len(),
                    folders[0].0
                );
                return Err(Error::format(folder, what));
            }
            files.push(chunks.into_iter().map(|c| c.1).collect::<Vec<PathBuf>>());
        }
        let size = |p: &PathBuf| fs::metadata(p).map(|m| m.len()).map_err(|e| Error::io(p, e));
        let bytes = files.iter().flatten().map(size).sum::<Result<u64>>()?;
        let hook_points = folders.iter().map(|f| f.0.clone()).collect();
        let singles = match files.first().and_then(|f| f.first()) {
            Some(first) => {
                let file = Tensors::open(first)?;
                is_single(&file, &file.info("tokens")?.0)
            }
            None => false,
        };
        Ok(Self { root: root.into(), hook_points, files, bytes, policy, next: 0, open: Vec::new(), singles })
    }

    /// The tokens of the next chunk, or none at the end.
    ///
    /// # Errors
    /// Hook points whose chunks have different tokens, and whatever a file lacks.
    pub fn next_batch(&mut self) -> Result<Option<TokenBatch>> {
        let at = self.next as usize;
        let Some(first) = self.files.first().and_then(|f| f.get(at)) else { return Ok(None) };
        let first = first.clone();
        self.open = self.files.iter().map(|f| Tensors::open(&f[at])).collect::<Result<_>>()?;
        let (shape, ids) = self.open[0].i64("tokens")?;
        for file in &self.open[1..] {
            if file.i64("tokens")?.1 != ids {
                let what = format!("was made from other tokens than {}", first.display());
                return Err(Error::format(file.path(), what));
            }
        }
        let [mask, real] = [self.open[0].i64("mask")?.1, self.open[0].i64("attention_mask")?.1];
        if mask.len() != ids.len() || real.len() != ids.len() {
            return Err(Error::format(&first, "tokens, mask and attention_mask have different sizes"));
        }
        // Axes before the last are batches and contexts.
        let len = if is_single(&self.open[0], &shape) { 1 } else { shape[shape.len() - 1] };
        let batch = ids.len() / len.max(1);
        let ids: Vec<u32> = ids
            .into_iter()
            .map(|id| u32::try_from(id).map_err(|_| Error::format(&first, format!("token id {id}"))))
            .collect::<Result<_>>()?;
        let counts = |(id, m): (&u32, i64)| u8::from(m != 0 && !self.policy.ignore_token_ids.contains(id));
        let mask = ids.iter().zip(mask).map(counts).collect();
        let lengths = real.chunks(len.max(1)).map(|c| c.iter().filter(|&&r| r != 0).count()).collect();
        self.next += 1;
        Ok(Some(TokenBatch { ids, mask, lengths, batch, len }))
    }

    /// Activations `[batch·len, d]` of the last batch at these hook points.
    ///
    /// # Errors
    /// A hook point that is not cached, and whatever a file lacks.
    pub fn activations(&self, q: &mut Queue, hook_points: &[String], rows: usize) -> Result<Vec<Tensor>> {
        hook_points
            .iter()
            .map(|hook| {
                let at = self.hook_points.iter().position(|h| h == hook);
                let file = at.and_then(|i| self.open.get(i)).ok_or_else(|| Error::Data {
                    what: format!("{} holds no activations of {hook}", self.root.display()),
                })?;
                let (width, values) = values(file, rows)?;
                Ok(q.tensor(rows, width, &values)?)
            })
            .collect()
    }

    /// Whether it holds single tokens, which are no text a model could run on.
    pub fn singles(&self) -> bool {
        self.singles
    }
    /// Chunks.
    pub fn records(&self) -> u64 {
        self.files.first().map_or(0, |f| f.len() as u64)
    }
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// The root.
    pub fn path(&self) -> &Path {
        &self.root
    }
    /// The stream's policy.
    pub fn policy(&self) -> &TokenPolicy {
        &self.policy
    }
    /// Whether all chunks were read.
    pub fn at_end(&self) -> bool {
        self.next >= self.records()
    }
    /// The next chunk, as a place.
    pub fn place(&self) -> Place {
        Place { record: self.next, ..Place::default() }
    }
    /// Goes there.
    pub fn seek(&mut self, place: Place) {
        self.next = place.record;
        self.open.clear();
    }
}

/// Whether tokens of this shape are single ones: no axis for contexts, or batches of them on top of each other, which only our
/// own files say.
fn is_single(file: &Tensors, shape: &[usize]) -> bool {
    let says = || match file {
        Tensors::Safe(f) => f.metadata().get("target").is_some_and(|t| t == "activations-1d"),
        _ => false,
    };
    shape.len() < 2 || shape.len() == 2 && says()
}

/// Width and values of a chunk's activations in 32 bits.
fn values(file: &Tensors, rows: usize) -> Result<(usize, Vec<f32>)> {
    let (shape, kind) = file.info(ACTIVATION)?;
    let wrong = |what: String| file.error(ACTIVATION, what);
    let width = shape.last().copied().unwrap_or(0);
    if shape.iter().product::<usize>() != rows * width || width == 0 {
        return Err(wrong(format!("has shape {shape:?} for {rows} tokens")));
    }
    if kind != Kind::I8 {
        return Ok((width, file.f32(ACTIVATION)?.1));
    }
    let (_, scales) = file.f32(SCALE)?;
    if scales.len() != rows {
        return Err(wrong(format!("has {} scales for {rows} rows", scales.len())));
    }
    let (_, whole) = file.i64(ACTIVATION)?;
    let rows = whole.chunks_exact(width).zip(&scales);
    Ok((width, rows.flat_map(|(row, scale)| row.iter().map(move |&v| v as f32 * scale)).collect()))
}

/// Chunks of a folder by shard and number.
fn chunks(folder: &Path) -> Result<Vec<((u64, u64), PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        if let (Some(at), EXTENSION | "pt") = (position(&stem), extension.as_str()) {
            all.push((at, path));
        }
    }
    if all.is_empty() {
        return Err(Error::format(folder, "holds no chunks (chunk-00000000.safetensors, …)"));
    }
    all.sort();
    if let Some(twice) = all.windows(2).find(|w| w[0].0 == w[1].0) {
        let what = format!("is the same chunk as {}; remove one of them", twice[1].1.display());
        return Err(Error::format(&twice[0].1, what));
    }
    Ok(all)
}
