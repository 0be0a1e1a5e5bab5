//! Selections over a batch whose rows and columns several ranks hold: the entries a single rank would choose, exactly. No rank needs to see more
//! of the others than the few values between which the limit must lie.

use super::Axis;
use crate::{Error, Result};
use lm_saes_runtime::{CompactArgs, Queue, Select, View, ViewMut};

/// Where a selection over a batch goes: values and columns `[1, capacity]`, row offsets `[1, rows + 1]`, limit `[1, 2]`.
pub struct Selected<'a> {
    /// Values as they are in `h`.
    pub vals: ViewMut<'a>,
    /// Their columns.
    pub idx: ViewMut<'a>,
    /// Where rows begin.
    pub ptr: ViewMut<'a>,
    /// As [`Queue::threshold`] leaves it: the smallest value chosen on any rank, and how many of those equal to it are this rank's.
    pub limit: ViewMut<'a>,
}

/// Who holds what of the matrix that a selection is over.
pub struct Pool<'a> {
    /// All of them.
    pub ranks: &'a Axis,
    /// This rank's place among those that divide the rows, in their order.
    pub rows: usize,
    /// Row, among those of the same ranks, and column of the whole matrix of a row and a column here.
    pub place: &'a dyn Fn(usize, usize) -> (usize, usize),
}

/// The `budget` largest `h·scale` above 0 over all ranks; of equal ones at the limit those of lower rows and then of lower columns
/// of the whole matrix come first. `h [rows, F]` is this rank's part; the room for entries must do for the whole budget.
///
/// # Errors
/// Whatever the device refuses, or a rank that does not take part.
pub fn select_over_batch(
    q: &mut Queue,
    pool: Pool<'_>,
    h: View<'_>,
    select: Select<'_>,
    budget: usize,
    mut out: Selected<'_>,
) -> Result<()> {
    // Without the others nobody can have more than these.
    q.threshold(h, select, budget, out.limit.reborrow())?;
    if !pool.ranks.is_solo() && budget > 0 {
        compact(q, h, select, &mut out)?;
        let own = compared(q, select, &out)?;
        let (limit, equal, found) = agree_on_limit(q, pool.ranks, own.clone(), budget)?;
        // Who comes first matters only where there are more of the same than places.
        let mine = own.iter().filter(|&&v| v == limit).count();
        let equal = if found > equal { first_equal(q, &pool, &own, &out, limit, equal)? } else { mine };
        let equal = u32::try_from(equal).unwrap_or(u32::MAX);
        q.upload(&[limit.to_bits(), equal], out.limit.reborrow())?;
    }
    compact(q, h, select, &mut out)
}

fn compact(q: &mut Queue, h: View<'_>, select: Select<'_>, out: &mut Selected<'_>) -> Result<()> {
    let rule = CompactArgs { select, theta: None, thr: Some(out.limit.as_view()) };
    Ok(q.compact(h, rule, out.vals.reborrow(), out.idx.reborrow(), out.ptr.reborrow())?)
}

/// What is compared, of the entries chosen so far.
fn compared(q: &mut Queue, select: Select<'_>, out: &Selected<'_>) -> Result<Vec<f32>> {
    let ptr: Vec<u32> = q.download(out.ptr.as_view())?;
    let n = ptr.last().map_or(0, |&n| n as usize);
    let mut values: Vec<f32> = q.download(out.vals.as_view().slice_cols(0..n))?;
    if let Some(scale) = select.scale {
        let scale: Vec<f32> = q.download(scale)?;
        let columns: Vec<u32> = q.download(out.idx.as_view().slice_cols(0..n))?;
        values.iter_mut().zip(columns).for_each(|(v, c)| *v *= scale[c as usize]);
    }
    Ok(values)
}

/// How many of this rank's entries equal to the limit are among the first `places` of all ranks' ones.
fn first_equal(
    q: &mut Queue,
    pool: &Pool<'_>,
    own: &[f32],
    out: &Selected<'_>,
    limit: f32,
    places: usize,
) -> Result<usize> {
    let ptr: Vec<u32> = q.download(out.ptr.as_view())?;
    let columns: Vec<u32> = q.download(out.idx.as_view().slice_cols(0..own.len()))?;
    let mut mine = Vec::new();
    for (row, entries) in ptr.windows(2).enumerate() {
        let equal = (entries[0] as usize..entries[1] as usize).filter(|&e| own[e] == limit);
        mine.extend(equal.map(|e| {
            let (row, column) = (pool.place)(row, columns[e] as usize);
            [pool.rows, row, column]
        }));
    }
    let bytes: Vec<u8> = mine.iter().flatten().flat_map(|n| (*n as u64).to_le_bytes()).collect();
    let words = pool.ranks.gather_bytes(q, &bytes)?.concat();
    let words: Vec<usize> =
        words.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w) as usize).collect();
    let mut all: Vec<&[usize]> = words.chunks_exact(3).collect();
    all.sort_unstable();
    let last = places.checked_sub(1).and_then(|i| all.get(i));
    Ok(mine.iter().filter(|place| last.is_some_and(|last| &place[..] <= *last)).count())
}

/// The limit of all ranks' candidates together, how many entries equal to it belong to the budget, and how many there are.
fn agree_on_limit(
    q: &mut Queue,
    ranks: &Axis,
    mut own: Vec<f32>,
    budget: usize,
) -> Result<(f32, usize, usize)> {
    // If every rank had its share of the budget, its limit would be this; the limit of all lies between the extremes.
    let share = ranks.balanced(budget).len();
    let mine = match share {
        0 => f32::INFINITY,
        n if n > own.len() => 0.0,
        n => *own.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1,
    };
    let limits = floats(&ranks.gather_bytes(q, &mine.to_le_bytes())?.concat());
    let lowest = limits.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = limits.iter().copied().fold(0.0, f32::max);
    let above = own.iter().filter(|&&v| v > highest).count();
    let mut message = (above as u64).to_le_bytes().to_vec();
    let between = own.iter().filter(|v| (lowest..=highest).contains(*v));
    message.extend(between.flat_map(|v| v.to_le_bytes()));
    let all = ranks.gather_bytes(q, &message)?;
    let (mut above, mut parts) = (0, Vec::with_capacity(all.len()));
    for bytes in &all {
        let (count, values) = bytes.split_first_chunk::<8>().ok_or_else(|| Error::Data {
            what: "a rank sent no candidates for a selection over the batch".into(),
        })?;
        above += u64::from_le_bytes(*count) as usize;
        parts.push(floats(values));
    }
    // Fewer than the budget are above the highest limit, since no rank has its whole share above its own.
    let wanted = budget.saturating_sub(above).max(1);
    let mut union: Vec<f32> = parts.concat();
    if wanted > union.len() {
        return Ok((0.0, 0, 0));
    }
    let limit = *union.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a)).1;
    let equal = wanted - union.iter().filter(|&&v| v > limit).count();
    Ok((limit, equal, union.iter().filter(|&&v| v == limit).count()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect()
}
