//! Helpers shared by the test binaries in `tests/tests`.

#![forbid(unsafe_code)]

pub mod golden;
