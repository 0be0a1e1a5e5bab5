//! The upload job: a dictionary by name, written in the form asked for, with its page, and sent to the hub as one commit.

use super::{
    convert::{Conversion, open_for},
    workbench::open_queue,
};
use crate::{
    Error, Result, files,
    hub::{
        Hub, card,
        place::Folder,
        upload::{Outgoing, Upload, Uploaded},
        writers,
    },
};
use lm_saes_runtime::Registry;
use serde_json::{Map, Value};
use std::{path::Path, rc::Rc};
use tempfile::TempDir;

/// The page.
const README: &str = "README.md";
/// Settings of the language model that the reference system keeps beside a dictionary.
const LM_CONFIG: &str = "lm_config.json";
/// Those of them.
const LM_KEYS: [&str; 10] = [
    "model_name",
    "model_from_pretrained_path",
    "cache_dir",
    "local_files_only",
    "max_length",
    "backend",
    "prepend_bos",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
];

/// What to send.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadJob {
    /// What, and in which form; its `to` is not used.
    pub conversion: Conversion,
    /// Where to, and what the page says beside the dictionary's record.
    pub about: card::About,
    /// Branch.
    pub revision: String,
    /// Visible to its owner only, if the repository has to be made.
    pub private: bool,
    /// The commit's message.
    pub message: Option<String>,
}

/// Everything ready to be sent.
pub struct Prepared {
    /// The commit.
    pub upload: Upload,
    /// The page.
    pub card: String,
    // Holds the files until they are sent.
    _dir: TempDir,
}

impl Prepared {
    /// Sends it.
    ///
    /// # Errors
    /// As [`Hub::upload`].
    pub fn send(&self, hub: &Hub) -> Result<Uploaded> {
        hub.upload(&self.upload)
    }
}

/// Reads, converts and writes the page, without asking the hub about the repository.
///
/// # Errors
/// As a conversion; a name that is none of a repository.
pub fn prepare_upload(job: &UploadJob, hub: &Rc<Hub>, registry: &Registry) -> Result<Prepared> {
    let UploadJob { conversion, about, .. } = job;
    let made = || tempfile::Builder::new().prefix("lm-saes-upload-").tempdir();
    let dir = made().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    let q = &mut open_queue(registry, "cpu")?;
    let (mut loaded, dtype) = open_for(q, conversion, hub)?;
    if let Some(Value::Object(record)) = loaded.extras.get_mut("model") {
        // Where things are on this machine is nobody else's business.
        record.remove("model_from_pretrained_path");
        record.remove("cache_dir");
    }
    writers::write(q, &mut loaded, dir.path(), conversion.format, dtype)?;
    let card = card::text(&loaded, conversion.format, about);
    write(&dir.path().join(README), &card)?;
    if let Some(Value::Object(model)) = loaded.extras.get("model") {
        let model: Map<String, Value> = model
            .iter()
            .filter(|(k, _)| LM_KEYS.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let text = serde_json::to_string_pretty(&model).unwrap_or_default();
        write(&dir.path().join(LM_CONFIG), &text)?;
    }
    let mut outgoing = Vec::new();
    for name in Folder::Local(dir.path().into()).list()? {
        let to = if about.folder.is_empty() { name.clone() } else { format!("{}/{name}", about.folder) };
        outgoing.push(Outgoing::new(to, &dir.path().join(&name))?);
    }
    let message = job.message.clone().unwrap_or_else(|| {
        let name = if about.folder.is_empty() { &about.repo } else { &about.folder };
        format!("Upload pretrained sparse dictionary {name}")
    });
    let upload = Upload {
        repo: about.repo.clone(),
        revision: job.revision.clone(),
        private: job.private,
        message,
        files: outgoing,
    };
    Ok(Prepared { upload, card, _dir: dir })
}

fn write(path: &Path, text: &str) -> Result<()> {
    files::write_atomic(path, |w| w.write_all(text.as_bytes()))
}
