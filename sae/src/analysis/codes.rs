//! Feature activations on the host, whatever form the dictionary keeps them in.

use crate::{Result, dictionary::Codes};
use lm_saes_runtime::Queue;

/// The non-zero feature activations of a batch: `(column, value)` by row.
#[derive(Debug)]
pub struct HostCodes {
    /// Offsets of each row's entries, `rows + 1`.
    ptr: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl HostCodes {
    /// Downloads the codes of the last forward.
    pub fn download(q: &mut Queue, codes: Codes<'_>) -> Result<Self> {
        match codes {
            Codes::Dense(f) => {
                let (rows, cols) = (f.rows(), f.cols());
                let values: Vec<f32> = q.download(f)?;
                Ok(Self::collect(
                    (0..rows).map(|r| (0..cols as u32).zip(values[r * cols..(r + 1) * cols].iter().copied())),
                ))
            }
            Codes::Sparse(s) => {
                let rows = s.rows();
                let vals: Vec<f32> = q.download(s.vals)?;
                let idx: Vec<u32> = q.download(s.idx)?;
                let ptr: Option<Vec<u32>> = s.ptr.map(|p| q.download(p)).transpose()?;
                let k = s.vals.cols();
                let range = |r: usize| match &ptr {
                    Some(p) => p[r] as usize..p[r + 1] as usize,
                    None => r * k..(r + 1) * k,
                };
                Ok(Self::collect((0..rows).map(|r| {
                    let at = range(r);
                    idx[at.clone()].iter().copied().zip(vals[at].iter().copied())
                })))
            }
        }
    }

    /// Of each entry the strongest of several codes of the same rows, as one feature has in every head of a crosscoder.
    pub fn strongest(codes: &[Self]) -> Self {
        let rows = codes.first().map_or(0, Self::rows);
        Self::collect((0..rows).map(|r| {
            let mut all: Vec<(u32, f32)> = codes.iter().flat_map(|c| c.row(r).iter().copied()).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.abs().total_cmp(&a.1.abs())));
            all.dedup_by_key(|e| e.0);
            all
        }))
    }

    /// From rows of entries; those of value 0 are left out.
    pub fn collect<R: IntoIterator<Item = (u32, f32)>>(rows: impl Iterator<Item = R>) -> Self {
        let mut all = Self { ptr: vec![0], entries: Vec::new() };
        for row in rows {
            all.entries.extend(row.into_iter().filter(|&(_, v)| v != 0.0));
            all.ptr.push(all.entries.len());
        }
        all
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.ptr.len() - 1
    }

    /// The non-zero entries of a row, `(column, value)`.
    pub fn row(&self, r: usize) -> &[(u32, f32)] {
        &self.entries[self.ptr[r]..self.ptr[r + 1]]
    }
}
