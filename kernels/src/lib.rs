//! The inner loops: slices and sizes in, slices out. No knowledge of tensors, devices or ops. Instruction sets are chosen
//! once at run time; rayon is the only thread pool.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod philox;

#[cfg(test)]
mod cuda_tests;
