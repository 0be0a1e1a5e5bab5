//! A source that first gives back batches taken from it before, so that what the initialiser looked at is trained on too.

use super::source::BatchSource;
use crate::{
    Error, Result,
    activations::Batch,
    tensorfile::{self, Precision, Slot, TensorFile, in_pieces},
};
use lm_saes_runtime::Queue;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};

const CONTEXTS: &str = "contexts";

/// Held batches, then those of the source.
pub struct Replay<'a> {
    held: VecDeque<Batch>,
    /// Whether memory of given batches may lie in the queue's pool.
    cached: bool,
    source: &'a mut dyn BatchSource,
}

impl<'a> Replay<'a> {
    /// `held` were taken from `source`, in order.
    pub fn new(held: Vec<Batch>, source: &'a mut dyn BatchSource) -> Self {
        Self { held: held.into(), cached: false, source }
    }

    /// The batches not given back yet.
    pub fn into_held(self) -> Vec<Batch> {
        self.held.into()
    }
}

impl BatchSource for Replay<'_> {
    fn hook_points(&self) -> &[String] {
        self.source.hook_points()
    }

    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        if let Some(batch) = self.held.pop_front() {
            self.cached = true;
            return Ok(Some(batch));
        }
        if std::mem::take(&mut self.cached) {
            // The memory of all held batches together is never needed again.
            q.trim()?;
        }
        self.source.next(q)
    }

    fn save_state(&self, q: &mut Queue, path: &Path) -> Result<()> {
        self.source.save_state(q, path)?;
        if self.held.is_empty() {
            return Ok(());
        }
        let mut tensors = Vec::new();
        let mut metadata = Vec::new();
        for (i, b) in self.held.iter().enumerate() {
            for (j, t) in b.acts.iter().enumerate() {
                tensors.push(Slot::new(format!("{i}.acts.{j}"), [t.rows(), t.cols()]));
            }
            tensors.push(Slot::new(format!("{i}.tokens"), [b.rows(), 2]));
            tensors.push(Slot::new(format!("{i}.mask"), [b.rows()]));
            metadata.push(b.contexts);
        }
        let per = 2 + self.source.hook_points().len();
        let contexts = serde_json::to_string(&metadata).map_err(|e| Error::format(path, e.to_string()))?;
        tensorfile::write_with(&beside(path), &tensors, Precision::F32, &[(CONTEXTS, contexts)], |n, put| {
            let (b, part) = (&self.held[n / per], n % per);
            match b.acts.get(part) {
                Some(acts) => in_pieces(q, acts, put),
                // Both halves of an id are exact in f32.
                None if part == b.acts.len() => {
                    let halves = b.tokens.iter().flat_map(|t| [(t >> 16) as f32, (t & 0xFFFF) as f32]);
                    put(&halves.collect::<Vec<_>>())
                }
                None => put(&b.mask.iter().map(|&m| f32::from(m)).collect::<Vec<_>>()),
            }
        })
    }

    fn load_state(&mut self, q: &mut Queue, path: &Path) -> Result<()> {
        self.source.load_state(q, path)?;
        self.held.clear();
        let path = beside(path);
        if !path.exists() {
            return Ok(());
        }
        let file = TensorFile::open(&path)?;
        let bad = |what: &str| Error::format(&path, what.to_string());
        let metadata = file.metadata().remove(CONTEXTS).ok_or_else(|| bad("no list of batches"))?;
        let contexts: Vec<Option<(usize, usize)>> =
            serde_json::from_str(&metadata).map_err(|e| bad(&e.to_string()))?;
        for (i, contexts) in contexts.into_iter().enumerate() {
            let mut acts = Vec::new();
            for j in 0..self.source.hook_points().len() {
                let (shape, values) = file.f32(&format!("{i}.acts.{j}"))?;
                let [rows, cols] = shape[..] else { return Err(bad("an activation is not a matrix")) };
                acts.push(q.tensor(rows, cols, &values)?);
            }
            let halves = file.f32(&format!("{i}.tokens"))?.1;
            let tokens = halves.chunks_exact(2).map(|h| (h[0] as u32) << 16 | h[1] as u32).collect();
            let mask: Vec<u8> = file.f32(&format!("{i}.mask"))?.1.iter().map(|&m| m as u8).collect();
            let n_valid = mask.iter().filter(|&&m| m != 0).count();
            self.held.push_back(Batch { acts, tokens, mask, contexts, n_valid });
        }
        Ok(())
    }
}

/// The file of held batches beside the source's own.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("held.safetensors")
}
