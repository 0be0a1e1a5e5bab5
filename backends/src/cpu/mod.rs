//! Skeleton; replaced by its owner.
use lm_saes_runtime::{Backend, Device, Error, Result};
use std::sync::Arc;

pub struct Cpu;
impl Backend for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }
    fn count(&self) -> usize {
        0
    }
    fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
        Err(Error::NoDevice { name: "cpu".into(), available: String::new() })
    }
}
