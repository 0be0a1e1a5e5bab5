//! Rows waiting to be emitted: activations in device memory, their tokens on the host. Shuffling permutes row numbers only;
//! a row is moved when it is emitted, and once more when room is made for new ones.

use super::Batch;
use crate::{Error, Result, data::TokenBatch, data::random};
use lm_saes_runtime::{DType, Queue, Tensor, View, ViewMut};

/// Rows moved at a time when room is made.
const MOVED_ROWS: usize = 1024;

/// A queue of rows. A row is one token, or one whole context of `unit` tokens.
pub(super) struct RowBuffer {
    /// Tokens of a row.
    pub(super) unit: usize,
    /// Rows to have room for when storage is first made.
    reserve: usize,
    /// One `[capacity, unit·d]` for each hook point; none before the first row.
    stores: Vec<Tensor>,
    capacity: usize,
    /// Slots ever filled since room was made; new rows go here.
    used: usize,
    /// Slots of the waiting rows in order of emission, after the first `head`.
    order: Vec<u32>,
    head: usize,
    /// `[used, unit]`.
    tokens: Vec<u32>,
    /// `[used, unit]`.
    mask: Vec<u8>,
    /// Waiting tokens that count.
    valid: usize,
}

impl RowBuffer {
    pub(super) fn new(unit: usize, reserve: usize) -> Self {
        Self {
            unit,
            reserve,
            stores: Vec::new(),
            capacity: 0,
            used: 0,
            order: Vec::new(),
            head: 0,
            tokens: Vec::new(),
            mask: Vec::new(),
            valid: 0,
        }
    }

    /// Rows waiting.
    pub(super) fn len(&self) -> usize {
        self.order.len() - self.head
    }

    /// Width of a row at each hook point; empty before the first row.
    pub(super) fn widths(&self) -> Vec<usize> {
        self.stores.iter().map(Tensor::cols).collect()
    }

    /// Device memory held.
    pub(super) fn bytes(&self) -> usize {
        self.stores.iter().map(Tensor::bytes).sum()
    }

    /// Adds the given rows of `acts`, or all of them. `acts` are `[rows, unit·d]`; tokens and mask of a batch are cut into
    /// rows in the same way.
    pub(super) fn append(
        &mut self,
        q: &mut Queue,
        acts: &[View<'_>],
        batch: &TokenBatch,
        only: Option<&[u32]>,
    ) -> Result<()> {
        let rows = only.map_or(batch.ids.len() / self.unit, <[u32]>::len);
        if rows == 0 {
            return Ok(());
        }
        self.make_room(q, rows, &acts.iter().map(View::cols).collect::<Vec<_>>())?;
        let place = self.used..self.used + rows;
        for (store, act) in self.stores.iter_mut().zip(acts) {
            let to = store.rows_mut(place.clone());
            match only {
                Some(only) => {
                    let idx = q.tensor(1, rows, only)?;
                    q.gather(*act, &idx, to)?;
                }
                None => q.copy(*act, to)?,
            }
        }
        let before = self.mask.len();
        match only {
            Some(only) => {
                for &row in only {
                    let tokens = row as usize * self.unit..(row as usize + 1) * self.unit;
                    self.tokens.extend_from_slice(&batch.ids[tokens.clone()]);
                    self.mask.extend_from_slice(&batch.mask[tokens]);
                }
            }
            None => {
                self.tokens.extend_from_slice(&batch.ids);
                self.mask.extend_from_slice(&batch.mask);
            }
        }
        self.valid += count(&self.mask[before..]);
        self.order.extend(place.map(|slot| slot as u32));
        self.used += rows;
        Ok(())
    }

    /// Makes `rows` free slots after the used ones, moving the waiting rows to the front when the end is reached.
    fn make_room(&mut self, q: &mut Queue, rows: usize, widths: &[usize]) -> Result<()> {
        if self.stores.len() == widths.len() && self.used + rows <= self.capacity {
            return Ok(());
        }
        let waiting = self.len();
        let needed = self.capacity.max(self.reserve).max(waiting + rows);
        if needed > u32::MAX as usize {
            let what = format!("{needed} rows are too many; the most is 2^32 − 1");
            return Err(Error::setting("activation_factory.buffer_size", what));
        }
        self.close_up(q)?;
        if needed > self.capacity || self.stores.len() != widths.len() {
            let mut stores = Vec::with_capacity(widths.len());
            for (i, &width) in widths.iter().enumerate() {
                let mut to = q.empty(needed, width, DType::F32)?;
                if let Some(from) = self.stores.get(i).filter(|_| waiting > 0) {
                    q.copy(from.rows_view(0..waiting), to.rows_mut(0..waiting))?;
                }
                stores.push(to);
            }
            (self.stores, self.capacity) = (stores, needed);
        }
        Ok(())
    }

    /// Moves the waiting rows to the front, where they lie in the order of their slots. Slot i of the waiting ones is never
    /// before place i, so rows move a few at a time within the same memory.
    fn close_up(&mut self, q: &mut Queue) -> Result<()> {
        let mut slots = self.order[self.head..].to_vec();
        slots.sort_unstable();
        for store in &mut self.stores {
            for (i, part) in slots.chunks(MOVED_ROWS).enumerate() {
                let at = i * MOVED_ROWS..i * MOVED_ROWS + part.len();
                if part[part.len() - 1] as usize == at.end - 1 {
                    continue;
                }
                let mut rows = q.empty(part.len(), store.cols(), DType::F32)?;
                pick(q, store, part, rows.view_mut())?;
                q.copy(&rows, store.rows_mut(at))?;
            }
        }
        let mut place = vec![0; self.used];
        (0..).zip(&slots).for_each(|(i, &slot)| place[slot as usize] = i);
        self.tokens = slots.iter().flat_map(|&s| self.row(s, &self.tokens)).copied().collect();
        self.mask = slots.iter().flat_map(|&s| self.row(s, &self.mask)).copied().collect();
        self.order = self.order[self.head..].iter().map(|&slot| place[slot as usize]).collect();
        (self.used, self.head) = (slots.len(), 0);
        Ok(())
    }

    fn row<'a, T>(&self, slot: u32, of: &'a [T]) -> &'a [T] {
        &of[slot as usize * self.unit..(slot as usize + 1) * self.unit]
    }

    /// Permutes all waiting rows.
    pub(super) fn shuffle(&mut self, seed: u64, stream: u64) {
        let waiting = self.order.split_off(self.head);
        let permutation = random::permutation(seed, stream, waiting.len());
        self.order = permutation.into_iter().map(|i| waiting[i as usize]).collect();
        self.head = 0;
    }

    /// Removes the first `n` rows. The batch's `acts` are `[n, unit·d]`.
    pub(super) fn take(&mut self, q: &mut Queue, n: usize) -> Result<Batch> {
        let acts = (0..self.stores.len()).map(|i| self.rows_of(q, i, 0, n)).collect::<Result<_>>()?;
        let (tokens, mask) = self.host_rows(n);
        let n_valid = count(&mask);
        self.head += n;
        self.valid -= n_valid;
        if self.len() == 0 {
            self.clear();
        }
        Ok(Batch { acts, tokens, mask, contexts: None, n_valid })
    }

    /// Forgets all rows; the storage stays.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.tokens.clear();
        self.mask.clear();
        (self.head, self.used, self.valid) = (0, 0, 0);
    }

    /// Copies `n` rows of one hook point, `[n, unit·d]`, `from` counted from the next row to be emitted.
    pub(super) fn rows_of(&self, q: &mut Queue, hook: usize, from: usize, n: usize) -> Result<Tensor> {
        let store = &self.stores[hook];
        let mut out = q.empty(n, store.cols(), DType::F32)?;
        let slots = &self.order[self.head + from..self.head + from + n];
        pick(q, store, slots, out.view_mut())?;
        Ok(out)
    }

    /// Tokens and mask of the next `n` rows.
    pub(super) fn host_rows(&self, n: usize) -> (Vec<u32>, Vec<u8>) {
        let slots = &self.order[self.head..self.head + n];
        (
            slots.iter().flat_map(|&s| self.row(s, &self.tokens)).copied().collect(),
            slots.iter().flat_map(|&s| self.row(s, &self.mask)).copied().collect(),
        )
    }

    /// Waiting tokens that count.
    pub(super) fn valid_tokens(&self) -> usize {
        self.valid
    }
}

fn count(mask: &[u8]) -> usize {
    mask.iter().filter(|&&m| m != 0).count()
}

/// `out = from[slots]`, as one plain copy where the slots follow each other.
fn pick(q: &mut Queue, from: &Tensor, slots: &[u32], out: ViewMut<'_>) -> Result<()> {
    let Some(&first) = slots.first() else { return Ok(()) };
    let first = first as usize;
    if slots.iter().enumerate().all(|(i, &s)| s as usize == first + i) {
        return Ok(q.copy(from.rows_view(first..first + slots.len()), out)?);
    }
    let idx = q.tensor(1, slots.len(), slots)?;
    Ok(q.gather(from, &idx, out)?)
}
