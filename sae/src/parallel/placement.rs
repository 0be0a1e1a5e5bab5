//! Which part of a tensor a rank holds, as data: cuts along axes. A part keeps the order of the whole, so what a file or a random
//! stream gives the whole in one stretch, a part takes in [`runs`].

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Which ranks of a mesh divide an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// Those that divide the features.
    #[default]
    Model,
    /// Those that divide a crosscoder's hook points.
    Head,
}

/// The entries of one axis that a rank holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Axis of the whole tensor.
    pub axis: usize,
    /// Entries held, ascending and apart.
    pub ranges: Vec<Range<usize>>,
    /// Who holds the others; files do not say.
    #[serde(skip)]
    pub over: Over,
}

/// Share `index` of `n` entries among `parts`, all as large: DISTRIBUTED §3 has no other. `parts` divides `n`.
pub fn even(n: usize, parts: usize, index: usize) -> Range<usize> {
    let each = n / parts;
    index * each..(index + 1) * each
}

/// Shape of a part of a tensor of this shape.
pub fn part_shape(whole: &[usize], cuts: &[Cut]) -> Vec<usize> {
    let mut shape = whole.to_vec();
    for cut in cuts {
        shape[cut.axis] = cut.ranges.iter().map(Range::len).sum();
    }
    shape
}

/// Where the elements of a part are in the whole, both row-major: stretches in the order of the part, neighbours joined.
pub fn runs(whole: &[usize], cuts: &[Cut]) -> Vec<Range<usize>> {
    let Some(last) = cuts.iter().map(|c| c.axis).max() else {
        return std::iter::once(0..whole.iter().product()).collect();
    };
    let held = |axis: usize| match cuts.iter().find(|c| c.axis == axis) {
        Some(cut) => cut.ranges.clone(),
        None => std::iter::once(0..whole[axis]).collect(),
    };
    let mut starts = vec![0];
    for (axis, n) in whole.iter().enumerate().take(last) {
        let indices: Vec<usize> = held(axis).into_iter().flatten().collect();
        starts = starts.iter().flat_map(|s| indices.iter().map(move |i| s * n + i)).collect();
    }
    let (n, inner) = (whole[last], whole[last + 1..].iter().product::<usize>());
    let mut all: Vec<Range<usize>> = Vec::new();
    for (start, r) in starts.iter().flat_map(|s| held(last).into_iter().map(move |r| (s, r))) {
        let run = (start * n + r.start) * inner..(start * n + r.end) * inner;
        match all.last_mut() {
            Some(before) if before.end == run.start => before.end = run.end,
            _ => all.push(run),
        }
    }
    all.retain(|r| !r.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(axis: usize, ranges: &[Range<usize>]) -> Cut {
        Cut { axis, ranges: ranges.to_vec(), over: Over::Model }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn a_part_of_rows_is_one_run_and_a_part_of_columns_one_for_each_row() {
        assert_eq!(runs(&[4, 3], &[]), [0..12]);
        assert_eq!(runs(&[4, 3], &[cut(0, &[1..3])]), [3..9]);
        assert_eq!(runs(&[2, 6], &[cut(1, &[2..4])]), [2..4, 8..10]);
        assert_eq!(runs(&[2, 6], &[cut(1, &[0..1, 4..6])]), [0..1, 4..7, 10..12]);
        assert_eq!(part_shape(&[2, 6], &[cut(1, &[0..1, 4..6])]), [2, 3]);
    }

    #[test]
    fn every_element_is_in_one_part_and_keeps_its_order() {
        let whole = [3, 2, 8, 5];
        let mut seen = vec![0; whole.iter().product()];
        for head in 0..3 {
            for feature in 0..4 {
                let cuts = [cut(0, &[even(3, 3, head)]), cut(2, &[even(8, 4, feature)])];
                let runs = runs(&whole, &cuts);
                assert!(runs.windows(2).all(|w| w[0].end < w[1].start));
                let n: usize = runs.iter().map(Range::len).sum();
                assert_eq!(n, part_shape(&whole, &cuts).iter().product::<usize>());
                runs.into_iter().flatten().for_each(|i| seen[i] += 1);
            }
        }
        assert!(seen.iter().all(|&n| n == 1));
    }
}
