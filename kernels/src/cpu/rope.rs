//! Rotary position embedding, in place.

use super::{Rows, split};

/// Which coordinates turn, and how they pair.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Heads in a row.
    pub heads: usize,
    /// Coordinates of a head.
    pub d_head: usize,
    /// Coordinates that turn, the first ones of each head.
    pub rotary_dim: usize,
    /// Pairs are neighbours (2j, 2j+1) instead of halves (j, j + rotary_dim/2).
    pub adjacent: bool,
    /// Turns back instead.
    pub inverse: bool,
}

/// Turns the rows of `x [N, heads·d_head]` by row `pos[i]` of the tables `cos, sin [n_ctx, rotary_dim/2]`.
///
/// # Errors
/// The first position beyond the tables.
///
/// # Safety
/// Operands are live, `pos` has N entries, and nobody else uses `x`.
pub unsafe fn rope(
    x: Rows<f32>,
    pos: &[u32],
    cos: Rows<f32>,
    sin: Rows<f32>,
    layout: Layout,
) -> Result<(), String> {
    if let Some(i) = pos.iter().position(|&p| p as usize >= cos.rows) {
        return Err(format!("position {} of row {i} is not below the context length {}", pos[i], cos.rows));
    }
    split::by_rows(x.rows, 2 * x.cols, |rows| {
        for i in rows {
            let at = pos[i] as usize;
            // SAFETY: positions were checked; each row of x belongs to one piece.
            unsafe { turn(x.row_mut(i), cos.row(at), sin.row(at), layout) }
        }
    });
    Ok(())
}

multiversion! {
    fn turn(x: &mut [f32], cos: &[f32], sin: &[f32], layout: Layout) {
        let half = layout.rotary_dim / 2;
        let sign = if layout.inverse { -1.0 } else { 1.0 };
        for head in x.chunks_exact_mut(layout.d_head).take(layout.heads) {
            let head = &mut head[..2 * half];
            if layout.adjacent {
                for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (u, w, s) = (pair[0], pair[1], sign * s);
                    pair[0] = u * c - w * s;
                    pair[1] = w * c + u * s;
                }
            } else {
                let (first, second) = head.split_at_mut(half);
                for (((u, w), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let s = sign * s;
                    (*u, *w) = (*u * c - *w * s, *w * c + *u * s);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::*;

    #[test]
    fn pairs_turn_and_the_rest_passes_through() {
        let layout = Layout { heads: 2, d_head: 7, rotary_dim: 6, adjacent: false, inverse: false };
        let table = |f: fn(f32) -> f32| (0..4 * 3).map(|i| f(i as f32 * 0.3)).collect::<Vec<_>>();
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let x: Vec<f32> = (0..3 * 14).map(|i| crate::philox::uniform(1, i, -1.0, 1.0)).collect();
        let pos = [3, 0, 2];
        for adjacent in [false, true] {
            let mut y = x.clone();
            // SAFETY: shapes match.
            unsafe {
                let tables = (rows_of(&cos, 4, 3), rows_of(&sin, 4, 3));
                rope(rows_mut(&mut y, 3, 14), &pos, tables.0, tables.1, Layout { adjacent, ..layout })
                    .expect("in range");
            }
            for i in 0..3 {
                for h in 0..2 {
                    let base = i * 14 + h * 7;
                    for j in 0..3 {
                        let (a, b) = if adjacent { (2 * j, 2 * j + 1) } else { (j, j + 3) };
                        let (u, w) = (x[base + a], x[base + b]);
                        let (c, s) = (cos[pos[i] as usize * 3 + j], sin[pos[i] as usize * 3 + j]);
                        assert!((y[base + a] - (u * c - w * s)).abs() < 1e-6);
                        assert!((y[base + b] - (w * c + u * s)).abs() < 1e-6);
                    }
                    assert_eq!(y[base + 6], x[base + 6]);
                }
            }
            // SAFETY: shapes match.
            unsafe {
                let tables = (rows_of(&cos, 4, 3), rows_of(&sin, 4, 3));
                let back = Layout { adjacent, inverse: true, ..layout };
                rope(rows_mut(&mut y, 3, 14), &pos, tables.0, tables.1, back).expect("in range");
            }
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-6), "turned back: {x:?} {y:?}");
        }
    }

    #[test]
    fn a_position_beyond_the_tables_is_named() {
        let (mut x, t) = ([1f32; 2], [1f32; 3]);
        let layout = Layout { heads: 1, d_head: 2, rotary_dim: 2, adjacent: true, inverse: false };
        // SAFETY: shapes match.
        let done =
            unsafe { rope(rows_mut(&mut x, 1, 2), &[3], rows_of(&t, 3, 1), rows_of(&t, 3, 1), layout) };
        assert_eq!(done, Err("position 3 of row 0 is not below the context length 3".into()));
    }
}
