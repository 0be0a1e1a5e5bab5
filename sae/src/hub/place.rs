//! Where a dictionary's files are: a folder on disk or one of a repository on the hub, seen alike by the readers; and what is
//! known about it from elsewhere.

use super::client::Hub;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// A folder of files.
#[derive(Clone)]
pub enum Folder {
    /// On disk.
    Local(PathBuf),
    /// In a repository; `path` is empty or ends without a slash.
    Remote {
        /// The connection.
        hub: Rc<Hub>,
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
        /// Inside the repository.
        path: String,
    },
}

impl Folder {
    /// A file on disk, fetched if need be; `None` if there is none of this name.
    pub fn get(&self, name: &str) -> Result<Option<PathBuf>> {
        match self {
            Self::Local(dir) => Ok(Some(dir.join(name)).filter(|p| p.is_file())),
            Self::Remote { hub, repo, revision, path } => hub.find(repo, revision, &join(path, name)),
        }
    }

    /// A file that has to be there.
    pub fn need(&self, name: &str) -> Result<PathBuf> {
        self.get(name)?.ok_or_else(|| Error::format(self.shown(), format!("has no {name}")))
    }

    /// Names of all files in it and below.
    pub fn list(&self) -> Result<Vec<String>> {
        match self {
            Self::Local(dir) => {
                let mut names = Vec::new();
                walk(dir, "", &mut names)?;
                names.sort();
                Ok(names)
            }
            Self::Remote { hub, repo, revision, path } => {
                let all = hub.list(repo, revision)?;
                let inside = |name: &String| match path.as_str() {
                    "" => Some(name.clone()),
                    path => name.strip_prefix(path)?.strip_prefix('/').map(String::from),
                };
                Ok(all.iter().filter_map(inside).collect())
            }
        }
    }

    /// The folder around it.
    pub fn parent(&self) -> Self {
        match self {
            Self::Local(dir) => Self::Local(dir.parent().unwrap_or(Path::new(".")).into()),
            Self::Remote { hub, repo, revision, path } => {
                let path = path.rsplit_once('/').map_or("", |(up, _)| up).into();
                Self::Remote { hub: hub.clone(), repo: repo.clone(), revision: revision.clone(), path }
            }
        }
    }

    /// A folder inside.
    pub fn inside(&self, name: &str) -> Self {
        match self {
            Self::Local(dir) => Self::Local(dir.join(name)),
            Self::Remote { hub, repo, revision, path } => Self::Remote {
                hub: hub.clone(),
                repo: repo.clone(),
                revision: revision.clone(),
                path: join(path, name),
            },
        }
    }

    /// For messages.
    pub fn shown(&self) -> PathBuf {
        match self {
            Self::Local(dir) => dir.clone(),
            Self::Remote { repo, path, .. } => format!("{repo}:{path}").into(),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}/{name}") }
}

fn walk(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let name = join(prefix, &entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_file() {
            names.push(name);
        } else if path.is_dir() && prefix.matches('/').count() < 4 {
            walk(&path, &name, names)?;
        }
    }
    Ok(())
}

/// What to read, and what is known beside the files.
#[derive(Clone)]
pub struct Place {
    /// The folder.
    pub folder: Folder,
    /// The file meant, where the name was that of a file.
    pub file: Option<String>,
    /// Repository and path, or the path on disk, as text: some formats say layer, width or kind only there.
    pub text: String,
    /// From the registry or from the user.
    pub facts: Facts,
}

/// What registry or user say about a dictionary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The reader to use.
    pub loader: Option<String>,
    /// The language model.
    pub model_name: Option<String>,
    /// Hook point read.
    pub hook_in: Option<String>,
    /// Hook point reconstructed.
    pub hook_out: Option<String>,
    /// What multiplies activations before the dictionary (SAELens' `expected_average_only_in`).
    pub norm_scaling_factor: Option<f64>,
    /// SAELens' `normalize_activations`, where the file's own is wrong.
    pub normalize_activations: Option<String>,
    /// Stated L0.
    pub l0: Option<f64>,
    /// Stated explained variance.
    pub explained_variance: Option<f64>,
    /// Take what is unknown or missing as the other tools do, in silence.
    pub lenient: bool,
}

impl Place {
    /// A folder or file on disk.
    pub fn local(path: &Path, facts: Facts) -> Self {
        let (dir, file) = match path.is_file() {
            true => {
                let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                (dir, path.file_name().map(|f| f.to_string_lossy().into_owned()))
            }
            false => (path, None),
        };
        Self { folder: Folder::Local(dir.into()), file, text: path.to_string_lossy().into_owned(), facts }
    }

    /// The path as text with nothing but its last `n` components.
    pub fn last(&self, n: usize) -> String {
        let parts: Vec<&str> = self.text.trim_end_matches('/').split(['/', ':']).collect();
        parts[parts.len().saturating_sub(n)..].join("/")
    }

    /// The number after `key` in the path, the last one.
    pub fn number_after(&self, key: &str) -> Option<usize> {
        let at = self.text.rfind(key)? + key.len();
        let digits: String = self.text[at..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    /// Where this is, for records.
    pub fn source(&self) -> Map<String, Value> {
        let mut map = Map::new();
        match &self.folder {
            Folder::Local(_) => drop(map.insert("path".into(), json!(self.text))),
            Folder::Remote { repo, revision, path, .. } => {
                map.insert("repo".into(), json!(repo));
                map.insert("revision".into(), json!(revision));
                map.insert("folder".into(), json!(path));
            }
        }
        map
    }

    /// The file or folder, for messages.
    pub fn shown(&self) -> PathBuf {
        match &self.file {
            Some(file) => self.folder.shown().join(file),
            None => self.folder.shown(),
        }
    }

    /// An error about this dictionary.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::format(self.shown(), what)
    }

    /// The hook point read: what the user says, or what the files say.
    pub fn hook_in(&self, found: Option<String>) -> Result<String> {
        self.facts.hook_in.clone().or(found).ok_or_else(|| {
            self.error("says nowhere which hook point it reads; name it (lm-saes convert --hook-in blocks.5.hook_resid_post)")
        })
    }

    /// The hook point reconstructed by a transcoder.
    pub fn hook_out(&self, found: Option<String>) -> Result<String> {
        self.facts.hook_out.clone().or(found).ok_or_else(|| {
            self.error(
                "says nowhere which hook point it reconstructs; name it (lm-saes convert --hook-out blocks.5.hook_mlp_out)",
            )
        })
    }
}
