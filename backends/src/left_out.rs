//! A back end this build was made without: it has no device and says how to get one, where a user who asks for it would
//! otherwise read only that there is no such thing.

use lm_saes_runtime::{Backend, Device, Error, Result};
use std::sync::Arc;

/// Stands under the name of a back end behind a feature that is off.
pub struct LeftOut {
    /// The name of the back end's devices.
    pub name: &'static str,
    /// The feature that brings it.
    pub feature: &'static str,
}

impl Backend for LeftOut {
    fn name(&self) -> &str {
        self.name
    }

    fn count(&self) -> usize {
        0
    }

    fn absence(&self) -> Option<String> {
        Some(format!("not in this build; build with --features {}", self.feature))
    }

    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        Err(Error::NoDevice { name: format!("{}:{index}", self.name), available: "nothing".into() })
    }
}
