//! Back ends by name. Devices are named by strings: `cpu`, `cuda:1`, `npu:0`, `auto`.

use crate::{Backend, Device, Error, Result};
use std::sync::Arc;

/// The back ends of a program, most capable first.
#[derive(Default)]
pub struct Registry {
    backends: Vec<Box<dyn Backend>>,
}

impl Registry {
    /// Adds a back end; earlier ones are preferred by `auto`.
    pub fn register(&mut self, backend: Box<dyn Backend>) {
        self.backends.push(backend);
    }

    /// Loads a back end from a shared library; see [`crate::abi::load`].
    ///
    /// # Errors
    /// [`Error::Plugin`] when the library cannot be loaded, or another back end has the plugin's name.
    pub fn load_plugin(&mut self, path: &std::path::Path) -> Result<()> {
        let plugin = crate::abi::load(path)?;
        if self.backends.iter().any(|b| b.name() == plugin.name()) {
            let what = format!("a back end named {:?} is already there", plugin.name());
            return Err(Error::Plugin { path: path.display().to_string(), what });
        }
        self.register(plugin);
        Ok(())
    }

    /// All back ends.
    pub fn backends(&self) -> impl Iterator<Item = &dyn Backend> {
        self.backends.iter().map(AsRef::as_ref)
    }

    /// Every device there is, by name.
    pub fn devices(&self) -> Vec<String> {
        self.backends.iter().flat_map(|b| (0..b.count()).map(move |i| format!("{}:{i}", b.name()))).collect()
    }

    /// Opens a device by name; `auto` takes the first back end that has one.
    ///
    /// # Errors
    /// [`Error::NoDevice`] lists what is available and why the rest is not.
    pub fn open(&self, name: &str) -> Result<Arc<dyn Device>> {
        if name == "auto" {
            let found = self.backends.iter().find(|b| b.count() > 0);
            return found.ok_or_else(|| self.no_device(name))?.open(0);
        }
        let (family, index) = name.split_once(':').unwrap_or((name, "0"));
        let backend =
            self.backends.iter().find(|b| b.name() == family).ok_or_else(|| self.no_device(name))?;
        match index.parse::<usize>() {
            Ok(i) if i < backend.count() => backend.open(i),
            _ => Err(self.no_device(name)),
        }
    }

    fn no_device(&self, name: &str) -> Error {
        let mut parts = self.devices();
        for b in self.backends.iter().filter(|b| b.count() == 0) {
            parts.push(format!("no {} ({})", b.name(), b.absence().unwrap_or_else(|| "none found".into())));
        }
        Error::NoDevice { name: name.into(), available: parts.join(", ") }
    }
}
