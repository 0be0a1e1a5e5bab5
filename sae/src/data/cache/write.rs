//! Writing cached activations: whole chunks, each there completely or not at all, and what rounding costs.

use super::{ACTIVATION, SCALE, file_name, position};
use crate::{Error, Result, activations::Target, files};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// How activations are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// 32 bits: nothing is lost.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// Half.
    F16,
    /// 8-bit integers with one scale a row. Ours; the reference system does not read it.
    Int8,
}

impl Storage {
    /// Bytes of a row of this width.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::Bf16 | Self::F16 => 2 * width,
            Self::Int8 => width + 4,
        }
    }
}

/// One chunk of all hook points.
pub struct Chunk<'a> {
    /// Leading axes: contexts and tokens, or tokens, with batches in front where there are several.
    pub lead: &'a [usize],
    /// Token ids.
    pub tokens: &'a [u32],
    /// Tokens that count.
    pub mask: &'a [u8],
    /// Tokens that are no padding.
    pub real: &'a [u8],
    /// Activations of each hook point, row by row.
    pub acts: &'a [Vec<f32>],
    /// Where each context came from.
    pub meta: Option<&'a Value>,
}

/// What storing one hook point's activations lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    rows: f64,
    sum: Vec<f64>,
    squares: f64,
    errors: f64,
}

impl Loss {
    /// Squared rounding errors as a share of the activations' variance: what explained variance is measured in.
    pub fn unexplained(&self) -> f64 {
        let mean: f64 = self.sum.iter().map(|s| s * s).sum::<f64>() / self.rows.max(1.0);
        let variance = self.squares - mean;
        if variance > 0.0 { self.errors / variance } else { 0.0 }
    }

    /// What another process needs to count this one's too, see [`Loss::add`].
    pub fn numbers(&self) -> Vec<f64> {
        [self.rows, self.squares, self.errors].into_iter().chain(self.sum.iter().copied()).collect()
    }

    /// Counts the losses of another process.
    pub fn add(&mut self, numbers: &[f64]) {
        let [rows, squares, errors, sum @ ..] = numbers else { return };
        (self.rows, self.squares, self.errors) =
            (self.rows + rows, self.squares + squares, self.errors + errors);
        self.sum.resize(self.sum.len().max(sum.len()), 0.0);
        self.sum.iter_mut().zip(sum).for_each(|(all, more)| *all += more);
    }

    fn see(&mut self, row: &[f32], stored: impl Iterator<Item = f32>) {
        self.sum.resize(row.len(), 0.0);
        self.rows += 1.0;
        for ((x, y), sum) in row.iter().zip(stored).zip(&mut self.sum) {
            let x = f64::from(*x);
            *sum += x;
            self.squares += x * x;
            self.errors += (x - f64::from(y)).powi(2);
        }
    }
}

/// Writes the chunks of a cache.
pub struct ChunkWriter {
    folders: Vec<PathBuf>,
    storage: Storage,
    target: Target,
    /// Number of the next chunk.
    pub next: u64,
    /// What was lost so far, by hook point; of this process.
    pub losses: Vec<Loss>,
}

impl ChunkWriter {
    /// A writer of these hook points below `root`.
    pub fn new(root: &Path, hook_points: &[String], storage: Storage, target: Target) -> Self {
        let folders = hook_points.iter().map(|h| root.join(h)).collect();
        Self { folders, storage, target, next: 0, losses: vec![Loss::default(); hook_points.len()] }
    }

    /// Writes one chunk.
    pub fn write(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let ids: Vec<u8> = chunk.tokens.iter().flat_map(|&t| i64::from(t).to_le_bytes()).collect();
        for (i, folder) in self.folders.iter().enumerate() {
            let path = folder.join(file_name(self.next));
            let rows = chunk.tokens.len();
            let stored = self.storage.encode(&chunk.acts[i], rows, &mut self.losses[i]);
            let with = |last: usize| -> Vec<usize> { chunk.lead.iter().copied().chain([last]).collect() };
            let width = chunk.acts[i].len() / rows.max(1);
            let mut tensors = vec![
                (ACTIVATION, stored.dtype, with(width), stored.bytes.as_slice()),
                ("tokens", Dtype::I64, chunk.lead.to_vec(), ids.as_slice()),
                ("mask", Dtype::BOOL, chunk.lead.to_vec(), chunk.mask),
                ("attention_mask", Dtype::BOOL, chunk.lead.to_vec(), chunk.real),
            ];
            if !stored.scales.is_empty() {
                tensors.push((SCALE, Dtype::F32, chunk.lead.to_vec(), stored.scales.as_slice()));
            }
            let bad = |e: safetensors::SafeTensorError| Error::format(&path, e.to_string());
            let views = tensors
                .into_iter()
                .map(|(name, dtype, shape, data)| {
                    Ok((name, TensorView::new(dtype, shape, data).map_err(bad)?))
                })
                .collect::<Result<Vec<_>>>()?;
            let target = serde_json::to_value(self.target).unwrap_or_default();
            let about =
                HashMap::from([("target".to_owned(), target.as_str().unwrap_or_default().to_owned())]);
            let bytes = safetensors::serialize(views, Some(about)).map_err(bad)?;
            files::write_atomic(&path, |w| w.write_all(&bytes))?;
            if let Some(meta) = chunk.meta {
                let text = meta.to_string();
                files::write_atomic(&path.with_extension("meta.json"), |w| w.write_all(text.as_bytes()))?;
            }
        }
        self.next += 1;
        Ok(())
    }
}

struct Stored {
    dtype: Dtype,
    bytes: Vec<u8>,
    scales: Vec<u8>,
}

impl Storage {
    fn encode(self, acts: &[f32], rows: usize, loss: &mut Loss) -> Stored {
        let width = acts.len() / rows.max(1);
        let mut out = Stored { dtype: Dtype::F32, bytes: Vec::new(), scales: Vec::new() };
        for row in acts.chunks_exact(width.max(1)) {
            match self {
                Self::F32 => out.bytes.extend(row.iter().flat_map(|v| v.to_le_bytes())),
                Self::Bf16 => {
                    out.bytes.extend(row.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
                    loss.see(row, row.iter().map(|&v| bf16::from_f32(v).to_f32()));
                }
                Self::F16 => {
                    out.bytes.extend(row.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
                    loss.see(row, row.iter().map(|&v| f16::from_f32(v).to_f32()));
                }
                Self::Int8 => {
                    let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let scale = most / 127.0;
                    let of =
                        |v: f32| if scale > 0.0 { (v / scale).round().clamp(-127.0, 127.0) } else { 0.0 };
                    out.bytes.extend(row.iter().map(|&v| (of(v) as i8).to_le_bytes()[0]));
                    out.scales.extend(scale.to_le_bytes());
                    loss.see(row, row.iter().map(|&v| of(v) * scale));
                }
            }
        }
        out.dtype = match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
            Self::Int8 => Dtype::I8,
        };
        out
    }
}

/// Makes sure that no chunk is lost by accident; with `clear` those there are removed.
///
/// # Errors
/// There are chunks, and they are not to be removed.
pub fn check_empty(root: &Path, hook_points: &[String], clear: bool) -> Result<()> {
    for hook in hook_points {
        let folder = root.join(hook);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|e| e.path()) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if position(name.split('.').next().unwrap_or_default()).is_none() {
                continue;
            }
            if !clear {
                let what = format!(
                    "{} holds chunks already; continue them (--resume), replace them (--overwrite), or choose another folder",
                    folder.display()
                );
                return Err(Error::setting("output_dir", what));
            }
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}
