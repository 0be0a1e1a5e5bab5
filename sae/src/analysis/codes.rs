//! Feature activations on the host, whatever form the dictionary keeps them in.

use crate::{Error, Result, dictionary::Codes};
use lm_saes_runtime::{Queue, SparseView};
use std::ops::Range;

/// Bytes of codes brought to the host at a time, unless one context has more: however many features are active, and in however many
/// layers, what waits there is a small multiple of this.
pub const CODES_BLOCK: usize = 8 << 20;

/// Rows of whole contexts of `len` that are brought to the host at a time, where the codes of a row take so many bytes.
pub fn rows_at_once(row_bytes: usize, len: usize) -> usize {
    (CODES_BLOCK / (row_bytes * len).max(1)).max(1) * len
}

/// Bytes of a row of codes as the device has it, on average where rows differ.
pub(super) fn row_bytes(codes: &Codes<'_>) -> usize {
    match codes {
        Codes::Dense(f) => f.cols() * 4,
        Codes::Sparse(s) => s.vals.rows() * s.vals.cols() * 8 / s.rows().max(1),
    }
}

/// Some rows of codes.
pub(super) fn rows_of(codes: Codes<'_>, r: Range<usize>) -> Codes<'_> {
    match codes {
        Codes::Dense(f) => Codes::Dense(f.slice_rows(r)),
        Codes::Sparse(s @ SparseView { ptr: Some(ptr), .. }) => {
            Codes::Sparse(SparseView { ptr: Some(ptr.slice_cols(r.start..r.end + 1)), ..s })
        }
        Codes::Sparse(s) => {
            Codes::Sparse(SparseView { vals: s.vals.slice_rows(r.clone()), idx: s.idx.slice_rows(r), ..s })
        }
    }
}

/// Values that are not 0.
fn active(values: &[f32]) -> usize {
    values.iter().filter(|&&v| v != 0.0).count()
}

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
                Ok(Self::of_rows(
                    active(&values),
                    (0..rows).map(|r| (0..cols as u32).zip(values[r * cols..(r + 1) * cols].iter().copied())),
                ))
            }
            Codes::Sparse(s) => {
                let (rows, k) = (s.rows(), s.vals.cols());
                let ptr: Option<Vec<u32>> = s.ptr.map(|p| q.download(p)).transpose()?;
                // Of some rows' entries among those of all.
                let first = ptr.as_ref().map_or(0, |p| p[0] as usize);
                let (vals, idx) = match &ptr {
                    Some(p) if p[rows] as usize == first => (Vec::new(), Vec::new()),
                    Some(p) => {
                        let at = first..p[rows] as usize;
                        (q.download(s.vals.slice_cols(at.clone()))?, q.download(s.idx.slice_cols(at))?)
                    }
                    None => (q.download(s.vals)?, q.download(s.idx)?),
                };
                let (vals, idx): (Vec<f32>, Vec<u32>) = (vals, idx);
                let range = |r: usize| match &ptr {
                    Some(p) => p[r] as usize - first..p[r + 1] as usize - first,
                    None => r * k..(r + 1) * k,
                };
                Ok(Self::of_rows(
                    active(&vals),
                    (0..rows).map(|r| {
                        let at = range(r);
                        idx[at.clone()].iter().copied().zip(vals[at].iter().copied())
                    }),
                ))
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
        Self::of_rows(0, rows)
    }

    /// The same where it is known how many entries there will be: a list that grows takes up to three times its memory.
    fn of_rows<R: IntoIterator<Item = (u32, f32)>>(n: usize, rows: impl Iterator<Item = R>) -> Self {
        let mut all = Self { ptr: vec![0], entries: Vec::with_capacity(n) };
        for row in rows {
            all.entries.extend(row.into_iter().filter(|&(_, v)| v != 0.0));
            all.ptr.push(all.entries.len());
        }
        all
    }

    /// As bytes, for another process.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (self.rows() as u64).to_le_bytes().to_vec();
        bytes.extend(self.ptr.iter().flat_map(|p| (*p as u64).to_le_bytes()));
        bytes.extend(self.entries.iter().flat_map(|(c, v)| [c.to_le_bytes(), v.to_le_bytes()]).flatten());
        bytes
    }

    /// What [`HostCodes::to_bytes`] gave.
    ///
    /// # Errors
    /// Bytes that are not of codes, or of no rows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::Data { what: "codes of another rank are cut off".into() };
        let (rows, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let ends = usize::try_from(u64::from_le_bytes(*rows))
            .ok()
            .and_then(|rows| rows.checked_add(1)?.checked_mul(8));
        let (ptr, entries) = ends.and_then(|n| rest.split_at_checked(n)).ok_or_else(bad)?;
        let ptr: Vec<usize> =
            ptr.as_chunks::<8>().0.iter().map(|p| u64::from_le_bytes(*p) as usize).collect();
        let pair = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| {
            (u32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]))
        };
        let entries: Vec<(u32, f32)> = entries.as_chunks::<8>().0.iter().map(pair).collect();
        match ptr.len() > 1 && ptr.is_sorted() && ptr.last() == Some(&entries.len()) {
            true => Ok(Self { ptr, entries }),
            false => Err(bad()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use lm_saes_runtime::Tensor;

    fn queue() -> Queue {
        Queue::new(&lm_saes_backends::registry().open("cpu").unwrap()).unwrap()
    }

    /// All rows at once, and rows 0, 1 to 2 and 3 on their own.
    fn assert_some_rows_are_those_of_all(q: &mut Queue, codes: Codes<'_>, known: [&[(u32, f32)]; 4]) {
        let all = HostCodes::download(q, codes).unwrap();
        for part in [0..1, 1..3, 3..4] {
            let some = HostCodes::download(q, rows_of(codes, part.clone())).unwrap();
            assert_eq!(some.rows(), part.len());
            for (i, r) in part.enumerate() {
                assert_eq!((all.row(r), some.row(i)), (known[r], known[r]), "row {r}");
            }
        }
    }

    #[test]
    fn rows_in_pieces_are_those_of_the_whole_in_every_form() {
        let q = &mut queue();
        let known: [&[(u32, f32)]; 4] = [&[(1, 1.0), (2, 2.0)], &[], &[(0, 3.0)], &[(2, 4.0)]];
        let dense = [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 4.0];
        let dense = q.tensor(4, 3, &dense).unwrap();
        assert_some_rows_are_those_of_all(q, Codes::Dense(dense.view()), known);
        assert_eq!(row_bytes(&Codes::Dense(dense.view())), 12);
        let (none, ptr) = (u32::MAX, q.tensor(1, 5, &[0u32, 2, 2, 3, 4]).unwrap());
        let mut sparse = |vals: &[f32], idx: &[u32], rows: usize, ptr: Option<&Tensor>| {
            let vals = q.tensor(rows, vals.len() / rows, vals).unwrap();
            let idx = q.tensor(rows, idx.len() / rows, idx).unwrap();
            let (vals, idx, ptr) = (vals.view(), idx.view(), ptr.map(Tensor::view));
            let codes = Codes::Sparse(SparseView { vals, idx, ptr, n: 3 });
            assert_some_rows_are_those_of_all(q, codes, known);
            assert_eq!(row_bytes(&codes), 16);
        };
        sparse(&[1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 4.0, 0.0], &[1, 2, none, none, 0, none, 2, none], 4, None);
        // Rows of their own lengths, with room for more.
        let vals = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0];
        sparse(&vals, &[1, 2, 0, 2, none, none, none, none], 1, Some(&ptr));
    }

    #[test]
    fn codes_go_to_another_process_as_they_are_and_cut_off_ones_are_refused() {
        let q = &mut queue();
        let dense = q.tensor(3, 2, &[0.0f32, -1.5, 0.0, 0.0, 2.0, 1e-40]).unwrap();
        let codes = HostCodes::download(q, Codes::Dense(dense.view())).unwrap();
        let bytes = codes.to_bytes();
        let read = HostCodes::from_bytes(&bytes).unwrap();
        assert_eq!(read.rows(), 3);
        (0..3).for_each(|r| assert_eq!(read.row(r), codes.row(r)));
        for cut in [0, 7, 8, 20, bytes.len() - 8] {
            let e = HostCodes::from_bytes(&bytes[..cut]).err().unwrap().to_string();
            assert!(e.contains("another rank"), "{cut}: {e}");
        }
    }

    #[test]
    fn codes_are_brought_in_whole_contexts_and_at_least_one() {
        assert_eq!(rows_at_once(CODES_BLOCK / 1000, 100), 1000);
        assert_eq!(rows_at_once(CODES_BLOCK / 1000, 300), 900);
        assert_eq!(rows_at_once(CODES_BLOCK / 1000, 3000), 3000);
        assert_eq!(rows_at_once(0, 8), CODES_BLOCK * 8);
    }
}
