//! Helpers shared by the test binaries in `tests/tests`.

#![forbid(unsafe_code)]

pub mod damage;
pub mod gguf;
pub mod golden;

use lm_saes_runtime::Queue;

/// A queue on the device named by `LM_SAES_DEVICE`, by default the fast CPU.
pub fn queue() -> Queue {
    let name = std::env::var("LM_SAES_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = lm_saes_backends::registry().open(&name).unwrap_or_else(|e| panic!("{e}"));
    Queue::new(&device).unwrap_or_else(|e| panic!("{e}"))
}
