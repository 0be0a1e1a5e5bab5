//! CPU kernels: one file a family, rayon over rows, loops that the compiler vectorises for the instruction set found at
//! run time. Pointers and sizes come in through [`Rows`]; callers vouch for them.

#[macro_use]
mod isa;
mod rows;

pub use isa::Isa;
pub use rows::Rows;
