//! Helpers shared by the test binaries in `tests/tests`.

#![forbid(unsafe_code)]

pub mod gguf;
pub mod golden;
