//! Which weights a model has: a hash of samples of every tensor, taken while they are loaded. It tells apart models of the same
//! shape (a base model and what was finetuned from it, another revision, another quantisation) and costs nothing beside loading.

use super::weights::WeightSource;
use crate::Result;
use serde_json::Value;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Values of a tensor that are looked at, evenly spaced.
const SAMPLES: usize = 4096;

/// A source that notes what is read from it.
pub(super) struct Noted<'a> {
    source: &'a dyn WeightSource,
    seen: RefCell<BTreeMap<String, u64>>,
}

impl<'a> Noted<'a> {
    pub fn new(source: &'a dyn WeightSource) -> Self {
        Self { source, seen: RefCell::default() }
    }

    /// The hash of what was read so far, whatever the order.
    pub fn hash(&self) -> String {
        let mut hash = Fnv::default();
        for (name, tensor) in self.seen.borrow().iter() {
            hash.eat(name.as_bytes());
            hash.eat(&tensor.to_le_bytes());
        }
        format!("{:016x}", hash.0)
    }
}

impl WeightSource for Noted<'_> {
    fn path(&self) -> &Path {
        self.source.path()
    }
    fn config(&self) -> Result<Value> {
        self.source.config()
    }
    fn names(&self) -> Vec<String> {
        self.source.names()
    }
    fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = self.source.f32(name)?;
        let mut hash = Fnv::default();
        shape.iter().for_each(|d| hash.eat(&(*d as u64).to_le_bytes()));
        let step = values.len().div_ceil(SAMPLES).max(1);
        values.iter().step_by(step).for_each(|v| hash.eat(&v.to_bits().to_le_bytes()));
        self.seen.borrow_mut().insert(name.into(), hash.0);
        Ok((shape, values))
    }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn eat(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
    }
}

/// Whether two names may mean one model: owners, case and punctuation aside, and the few models that TransformerLens calls
/// otherwise than the hub.
pub fn same_model(a: &str, b: &str) -> bool {
    let plain = |name: &str| {
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
        let last = last.replace(['_', '.'], "-");
        let last = last.strip_prefix("meta-").unwrap_or(&last);
        match last {
            "gpt2-small" => "gpt2".into(),
            "mistral-7b" => "mistral-7b-v0-1".into(),
            other => other.to_string(),
        }
    };
    plain(a) == plain(b)
}

/// The commit a folder of the hub's cache is of.
pub fn commit_of(path: &Path) -> Option<String> {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    let at = parts.iter().rposition(|p| p == "snapshots")?;
    parts.get(at + 1).filter(|c| c.len() == 40).map(|c| c.to_string())
}

/// Memory a model would take and memory there is, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes.
    pub free: u64,
    /// What they are of.
    pub of: &'static str,
}

impl Room {
    /// What this process may still take: what the machine has free, and less where its control group allows less.
    pub fn on_host() -> Option<Self> {
        let read = |path: PathBuf| std::fs::read_to_string(path).ok();
        let info = read("/proc/meminfo".into())?;
        let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
        let free = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
        let group = Path::new("/sys/fs/cgroup");
        let number = |name: &str| read(group.join(name))?.trim().parse::<u64>().ok();
        let limited =
            number("memory.max").zip(number("memory.current")).map(|(max, now)| max.saturating_sub(now));
        Some(match limited.filter(|n| *n < free) {
            Some(free) => Self { free, of: "this control group's limit" },
            None => Self { free, of: "this machine" },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_model_are_known_as_such() {
        for (a, b) in [
            ("gpt2-small", "openai-community/gpt2"),
            ("gemma-2-2b", "google/gemma-2-2b"),
            ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
            ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
            ("models/pythia-70m-deduped/", "EleutherAI/pythia-70m-deduped"),
        ] {
            assert!(same_model(a, b) && same_model(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("gpt2-small", "gpt2-medium"),
            ("google/gemma-2-2b", "google/gemma-2-2b-it"),
            ("pythia-70m-deduped", "EleutherAI/pythia-70m"),
        ] {
            assert!(!same_model(a, b), "{a} {b}");
        }
    }
}
