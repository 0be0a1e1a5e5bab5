//! Filling a matrix with Philox draws, four to a block.

use super::Rows;
use crate::philox;
use rayon::prelude::*;

/// The shape of a draw.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// Uniform on [a, b).
    Uniform(f32, f32),
    /// Normal with this mean and standard deviation.
    Normal(f32, f32),
}

const CHUNK: usize = 1 << 12;

/// Row-major element i of `y` becomes draw `offset + i` of stream `seed`, as [`philox::uniform`] and [`philox::normal`] give it.
///
/// # Safety
/// `y` is live and nobody else touches it.
pub unsafe fn random(y: Rows<f32>, draw: Draw, seed: u64, offset: u64) {
    let total = y.rows * y.cols;
    (0..total.div_ceil(CHUNK)).into_par_iter().for_each(|task| {
        let (mut i, end) = (task * CHUNK, ((task + 1) * CHUNK).min(total));
        while i < end {
            let index = offset + i as u64;
            let values = quad(draw, seed, index / 4);
            for &v in &values[(index % 4) as usize..] {
                if i == end {
                    break;
                }
                // SAFETY: i is below rows·cols, and each element belongs to one task.
                unsafe { *y.row_ptr(i / y.cols).add(i % y.cols) = v };
                i += 1;
            }
        }
    });
}

/// The four draws of one block.
fn quad(draw: Draw, seed: u64, block: u64) -> [f32; 4] {
    match draw {
        Draw::Uniform(a, b) => philox::block(seed, block).map(|w| a + (b - a) * philox::unit(w)),
        Draw::Normal(mean, std) => {
            std::array::from_fn(|i| philox::normal(seed, 4 * block + i as u64, mean, std))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::*;

    #[test]
    fn every_element_is_its_own_draw_whatever_the_offset() {
        for (rows, cols, offset) in [(0, 3, 0), (1, 1, 2), (7, 13, 5), (3, 2 * CHUNK + 1, 1)] {
            let mut y = vec![0.0; rows * cols];
            for draw in [Draw::Uniform(-1.0, 2.0), Draw::Normal(1.0, 0.5)] {
                // SAFETY: a fresh array of this shape.
                unsafe { random(rows_mut(&mut y, rows, cols), draw, 9, offset) };
                for (i, &v) in y.iter().enumerate() {
                    let index = offset + i as u64;
                    let want = match draw {
                        Draw::Uniform(a, b) => philox::uniform(9, index, a, b),
                        Draw::Normal(a, b) => philox::normal(9, index, a, b),
                    };
                    assert_eq!(v.to_bits(), want.to_bits());
                }
            }
        }
    }
}
