//! Data sets of the hub by name: the files that belong to what is asked for, one after the other, the next being fetched while one
//! is read.

mod choice;

use self::choice::{CONVERTED, Wanted, configs};
use super::{
    content::TextOptions,
    text::{Shards, TextSource},
};
use crate::{
    Error, Result, files,
    hub::{
        Hub,
        client::{DATASETS, Listing},
    },
};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
};

/// A data set on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `owner/name`, or `name` alone for the oldest ones.
    pub name: String,
    /// Configuration, where there are several.
    pub config: Option<String>,
    /// Branch, tag or commit.
    pub revision: String,
}

/// Opens a data set, fetching nothing but its list of files and its page.
///
/// # Errors
/// A data set that does not exist or may not be read, a configuration or split it does not have, files of no kind that is read.
pub fn open_remote(hub: &Hub, remote: &Remote, options: &TextOptions) -> Result<TextSource> {
    let repo = format!("{DATASETS}{}", remote.name);
    let reads = |name: &str| TextSource::reads(Path::new(name), options.sample_by);
    let listing = hub.listing(&repo, &remote.revision)?;
    let wanted = Wanted { repo: &repo, config: remote.config.as_deref(), split: &options.split };
    let has_page = listing.files.iter().any(|(name, _)| name == "README.md");
    let page = match has_page.then(|| hub.find(&repo, &remote.revision, "README.md")).transpose()?.flatten() {
        Some(path) => files::read_text(&path)?,
        None => String::new(),
    };
    let names: Vec<&str> = listing.files.iter().map(|(name, _)| name.as_str()).collect();
    let chosen = wanted.choose(&names, &configs(&page))?;
    let readable: Vec<String> = chosen.iter().filter(|name| reads(name)).cloned().collect();
    let (revision, listing, readable) = match readable.is_empty() {
        false => (remote.revision.clone(), listing, readable),
        true => {
            let (listing, readable) = wanted.converted(hub, &chosen, &reads)?;
            (CONVERTED.to_string(), listing, readable)
        }
    };
    whole(&wanted, hub, &readable)?;
    let path = PathBuf::from(&remote.name);
    Ok(TextSource::stream(&path, options, Box::new(Files::new(hub, &repo, &revision, &listing, readable))))
}

/// Without the network the list is of what was fetched; names that count their parts show whether some are missing.
fn whole(wanted: &Wanted<'_>, hub: &Hub, names: &[String]) -> Result<()> {
    let counted = names.first().and_then(|n| {
        let total = n.rsplit_once("-of-")?.1;
        total.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().ok()
    });
    match counted {
        Some(total) if hub.is_offline() && names.len() < total => Err(wanted.error(format!(
            "has {total} files in this split, of which {} are in the local cache, and HF_HUB_OFFLINE forbids to fetch the others",
            names.len()
        ))),
        _ => Ok(()),
    }
}

/// Files of one repository, in order.
struct Files {
    hub: Hub,
    repo: String,
    revision: String,
    /// The commit all of them are of, where it is known.
    commit: Option<String>,
    names: Vec<String>,
    sizes: Vec<u64>,
    /// The one being fetched in the background.
    next: Mutex<Option<(usize, JoinHandle<Result<PathBuf>>)>>,
}

impl Files {
    fn new(hub: &Hub, repo: &str, revision: &str, listing: &Listing, names: Vec<String>) -> Self {
        let size =
            |name: &String| listing.files.iter().find(|(n, _)| n == name).and_then(|(_, s)| *s).unwrap_or(0);
        let sizes = names.iter().map(size).collect();
        Self {
            hub: hub.clone(),
            repo: repo.into(),
            revision: revision.into(),
            commit: listing.commit.clone(),
            names,
            sizes,
            next: Mutex::new(None),
        }
    }

    fn begin(&self, shard: usize) -> Option<(usize, JoinHandle<Result<PathBuf>>)> {
        let name = self.names.get(shard)?.clone();
        let (hub, repo) = (self.hub.clone().quiet(), self.repo.clone());
        let (revision, commit) = (self.revision.clone(), self.commit.clone());
        Some((shard, thread::spawn(move || get(&hub, &repo, &revision, commit.as_deref(), &name))))
    }
}

impl Shards for Files {
    fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    fn fetch(&self, shard: usize) -> Result<PathBuf> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let early = match next.take() {
            Some((at, handle)) if at == shard => handle.join().ok().and_then(Result::ok),
            other => {
                *next = other;
                None
            }
        };
        // What failed in the background is tried again here, where it is seen.
        let path = match early {
            Some(path) => path,
            None => get(&self.hub, &self.repo, &self.revision, self.commit.as_deref(), &self.names[shard])?,
        };
        if next.is_none() {
            *next = self.begin(shard + 1);
        }
        Ok(path)
    }

    fn revision(&self) -> &str {
        self.commit.as_deref().unwrap_or(&self.revision)
    }
}

/// A file at the commit the list was of, so that all are of one version.
fn get(hub: &Hub, repo: &str, revision: &str, commit: Option<&str>, name: &str) -> Result<PathBuf> {
    let path = hub.find(repo, commit.unwrap_or(revision), name)?;
    if let Some(commit) = commit {
        hub.remember(repo, revision, commit)?;
    }
    path.ok_or_else(|| Error::Data {
        what: format!("{repo}/{name} on the hub: is gone since it was listed; try again"),
    })
}
