//! Products with sparse rows. Each output element is summed in entry order by one thread, so results do not depend on the
//! number of threads. Narrow column blocks keep the gathered block of the dense operand in the second-level cache.

mod blocks;
mod columns;
mod confine;
mod dot;
mod mul;
mod scatter;

pub use columns::{sort_by_column, sparse_outer};
pub use confine::confine;
pub use dot::sparse_dot;
pub use mul::sparse_mul;
pub use scatter::scatter;

#[cfg(test)]
mod tests;
