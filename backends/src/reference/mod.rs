//! Skeleton; replaced by its owner.
use lm_saes_runtime::{Backend, Device, Error, Result};
use std::sync::Arc;

pub struct Reference;
impl Backend for Reference {
    fn name(&self) -> &str {
        "reference"
    }
    fn count(&self) -> usize {
        0
    }
    fn open(&self, _: usize) -> Result<Arc<dyn Device>> {
        Err(Error::NoDevice { name: "reference".into(), available: String::new() })
    }
}
