//! The conversion job: a dictionary by name, of any form that is read, written in another.

use super::workbench::open_queue;
use crate::{
    Error, Result,
    dictionary::{
        Place,
        checkpoint::{self, Loaded},
    },
    hub::{self, Format, Hub, OpenOptions, writers},
    settings::{DTypeName, NormActivation},
};
use lm_saes_runtime::{Queue, Registry};
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
    /// Files to divide the features among, for as many ranks to read; 1 is the plain form, which parts are joined into.
    pub parts: usize,
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
    if c.parts > 1 {
        return divide(q, c, hub);
    }
    let (mut loaded, dtype) = open_for(q, c, hub)?;
    let path = writers::write(q, &mut loaded, &c.to, c.format, dtype)?;
    Ok(converted(path, &loaded))
}

/// Writes one part after the other, so that no more than one is in memory.
fn divide(q: &mut Queue, c: &Conversion, hub: &Rc<Hub>) -> Result<Converted> {
    if c.format != Format::Own {
        return Err(Error::setting("parts", "exist in this project's own form only; leave out --to-format"));
    }
    let mut last = None;
    for rank in 0..c.parts {
        let loaded = hub::open_part(q, hub, &c.from, &c.options, Place::new(c.parts, rank));
        let loaded = loaded.map_err(|e| match e {
            // What does not divide is told of ranks.
            Error::Setting { key, what } if key == "model_parallel_size" => Error::setting("parts", what),
            e => e,
        })?;
        let (loaded, dtype) = prepared(q, c, loaded)?;
        checkpoint::save(q, &*loaded.dictionary, &c.to, dtype, &loaded.extras)?;
        last = Some(converted(c.to.clone(), &loaded));
    }
    last.ok_or_else(|| Error::setting("parts", "must be at least 1"))
}

fn converted(path: PathBuf, loaded: &Loaded) -> Converted {
    let format = loaded.extras.get("source").and_then(|s| s["format"].as_str()).unwrap_or("lm-saes");
    let d = &*loaded.dictionary;
    Converted {
        path,
        from_format: format.into(),
        sae_type: d.settings().sae_type().into(),
        d_sae: d.d_sae(),
        hooks: (d.hook_points_in(), d.hook_points_out()),
    }
}

/// What is converted, and the precision to write it in.
///
/// # Errors
/// Numbers that the precision of what was read does not hold any more, where no other was asked for.
pub(super) fn open_for(q: &mut Queue, c: &Conversion, hub: &Rc<Hub>) -> Result<(Loaded, DTypeName)> {
    let loaded = hub::open(q, hub, &c.from, &c.options)?;
    prepared(q, c, loaded)
}

fn prepared(q: &mut Queue, c: &Conversion, mut loaded: Loaded) -> Result<(Loaded, DTypeName)> {
    if c.unit_decoder_norm {
        loaded.dictionary.to_unit_decoder_norm(q)?;
    }
    let own = matches!(c.format, Format::Own | Format::Upstream);
    if !own && loaded.dictionary.settings().norm_activation() == NormActivation::DatasetWise {
        // What the writer would do, so that what it does to the numbers is seen here.
        loaded.dictionary.fold(q)?;
    }
    let stored = loaded.extras.get("dtype").and_then(|d| d.as_str()).and_then(|d| d.parse().ok());
    let dtype = c.dtype.or(stored).unwrap_or_default();
    if c.dtype.is_none() {
        for p in loaded.dictionary.params() {
            let narrowed = |v: &f32| dtype.narrowed(*v) != *v && !v.is_nan();
            if let Some(v) = q.download::<f32>(&p.value)?.into_iter().find(narrowed) {
                let what = format!(
                    "{}: {} holds {v}, which {dtype} (as what was read is stored) would round; choose what to write: --dtype float32, or \
                     --dtype {} to round",
                    c.from,
                    p.name,
                    dtype.to_string().trim_start_matches("torch.")
                );
                return Err(Error::Data { what });
            }
        }
    }
    Ok((loaded, dtype))
}
