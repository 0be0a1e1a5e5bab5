//! Helpers shared by the test binaries in `tests/tests`.
