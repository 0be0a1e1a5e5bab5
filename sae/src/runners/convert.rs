//! The conversion job: a dictionary by name, of any form that is read, written in another.

use super::workbench::open_queue;
use crate::{
    Error, Result,
    hub::{self, Format, Hub, OpenOptions, writers},
    settings::DTypeName,
};
use lm_saes_runtime::Registry;
use std::{path::PathBuf, rc::Rc};

/// What to convert.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// A path, `owner/repository:path` or `release:name`.
    pub from: String,
    /// Folder to write into.
    pub to: PathBuf,
    /// Form to write.
    pub format: Format,
    /// Precision to write; that of what was read if `None`.
    pub dtype: Option<DTypeName>,
    /// Make decoder rows unit vectors first: the same reconstructions, activations times the norms.
    pub unit_decoder_norm: bool,
    /// How to read.
    pub options: OpenOptions,
}

/// What was converted.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// Where it is now.
    pub path: PathBuf,
    /// The form it was in.
    pub from_format: String,
    /// Its type here.
    pub sae_type: String,
    /// Features.
    pub d_sae: usize,
    /// Hook points read and reconstructed.
    pub hooks: (Vec<String>, Vec<String>),
}

/// Converts.
///
/// # Errors
/// What cannot be read, or cannot be said in the other form, by the property's name; a folder that holds something else.
pub fn convert(c: &Conversion, hub: &Rc<Hub>, registry: &Registry) -> Result<Converted> {
    if c.to.exists() && c.to.read_dir().map_err(|e| Error::io(&c.to, e))?.next().is_some() {
        let what =
            "is there and not empty; name a new folder, so that nothing of another dictionary is mixed in";
        return Err(Error::format(&c.to, what));
    }
    let q = &mut open_queue(registry, "cpu")?;
    let mut loaded = hub::open(q, hub, &c.from, &c.options)?;
    if c.unit_decoder_norm {
        loaded.dictionary.to_unit_decoder_norm(q)?;
    }
    let stored = loaded.extras.get("dtype").and_then(|d| d.as_str()).and_then(|d| d.parse().ok());
    let dtype = c.dtype.or(stored).unwrap_or_default();
    let path = writers::write(q, &mut loaded, &c.to, c.format, dtype)?;
    let format = loaded.extras.get("source").and_then(|s| s["format"].as_str()).unwrap_or("lm-saes");
    let d = &*loaded.dictionary;
    Ok(Converted {
        path,
        from_format: format.into(),
        sae_type: d.settings().sae_type().into(),
        d_sae: d.d_sae(),
        hooks: (d.hook_points_in(), d.hook_points_out()),
    })
}
