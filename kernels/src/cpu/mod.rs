//! CPU kernels: one file a family, rayon over rows, loops that the compiler vectorises for the instruction set found at
//! run time. Pointers and sizes come in through [`Rows`]; callers vouch for them.

#[macro_use]
mod isa;
pub mod activity;
pub mod adam;
pub mod attention;
mod codes;
mod convert;
pub mod copy;
pub mod gate;
pub mod gemm;
pub mod map;
pub mod norm;
pub mod penalty;
pub mod random;
pub mod reduce;
pub mod rope;
mod rows;
mod scratch;
mod simd;
pub mod sparse;
mod split;
pub mod threshold;
pub mod topk;
mod vmath;

pub use codes::Codes;
pub use isa::Isa;
pub use rows::Rows;

#[cfg(test)]
mod testing {
    use super::Rows;

    /// A contiguous matrix over a slice, to read.
    pub fn rows_of<T>(data: &[T], rows: usize, cols: usize) -> Rows<T> {
        assert_eq!(data.len(), rows * cols);
        // SAFETY: the length was checked.
        unsafe { Rows::new(data.as_ptr().cast_mut(), rows, cols, cols) }
    }

    /// A contiguous matrix over a slice, to write.
    pub fn rows_mut<T>(data: &mut [T], rows: usize, cols: usize) -> Rows<T> {
        assert_eq!(data.len(), rows * cols);
        // SAFETY: the length was checked.
        unsafe { Rows::new(data.as_mut_ptr(), rows, cols, cols) }
    }
}
