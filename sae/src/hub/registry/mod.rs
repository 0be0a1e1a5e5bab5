//! The registry of published dictionaries: release and name to repository, path, loader and what the files do not say. The facts
//! are SAELens' (`pretrained_saes.yaml`, MIT, © its authors), kept as a compressed table, see `table.md`; a newer list takes its
//! place with `lm-saes registry --refresh`.

use super::{client::hub_cache, place::Facts};
use crate::{Error, Result, files};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

/// The table the program comes with.
const BUILT_IN: &[u8] = include_bytes!("table.tsv.gz");
/// Largest table unpacked.
const MOST_BYTES: u64 = 64 << 20;

/// All releases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registry {
    releases: BTreeMap<String, Release>,
}

/// Dictionaries published together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Release {
    /// `owner/name`.
    pub repo: String,
    /// The language model.
    pub model: String,
    /// The reader.
    pub loader: String,
    /// What the files say wrongly, by SAELens' keys.
    pub overrides: BTreeMap<String, String>,
    /// By name.
    pub entries: BTreeMap<String, Entry>,
}

/// One dictionary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Folder or file in the repository.
    pub path: String,
    /// Stated L0.
    pub l0: Option<f64>,
    /// Stated explained variance.
    pub explained_variance: Option<f64>,
    /// What multiplies activations before the dictionary.
    pub norm_scaling_factor: Option<f64>,
}

impl Registry {
    /// The table this user refreshed, else the one the program comes with. `LM_SAES_REGISTRY` names another file.
    pub fn load() -> Result<Self> {
        match Self::own_table().filter(|p| p.is_file()) {
            Some(path) => Self::open(&path),
            None => Self::built_in(),
        }
    }

    /// The table the program comes with.
    pub fn built_in() -> Result<Self> {
        Self::parse_table(BUILT_IN)
            .map_err(|what| Error::Data { what: format!("the built-in registry: {what}") })
    }

    /// Where a refreshed table is kept.
    pub fn own_table() -> Option<PathBuf> {
        let named = env::var_os("LM_SAES_REGISTRY").filter(|v| !v.is_empty()).map(PathBuf::from);
        named.or_else(|| Some(hub_cache()?.parent()?.join("lm-saes/registry.tsv.gz")))
    }

    /// Reads a table, SAELens' `pretrained_saes.yaml`, or a wheel of SAELens, which holds that.
    ///
    /// # Errors
    /// None of the three, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::format(path, what);
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(|e| Error::io(path, e))?;
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Self::parse_table(&bytes).map_err(bad);
        }
        let text = match bytes.starts_with(b"PK") {
            true => {
                let mut wheel =
                    zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|e| bad(e.to_string()))?;
                let member =
                    wheel.by_name("sae_lens/pretrained_saes.yaml").map_err(|e| bad(e.to_string()))?;
                let mut text = String::new();
                member.take(MOST_BYTES).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
                text
            }
            false => {
                String::from_utf8(bytes).map_err(|_| bad("is neither a table, a wheel nor YAML".into()))?
            }
        };
        Self::parse_yaml(&text).map_err(bad)
    }

    /// Writes the compressed table.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(self.table().as_bytes()).map_err(|e| Error::io(path, e))?;
        let bytes = packed.finish().map_err(|e| Error::io(path, e))?;
        files::write_atomic(path, |w| w.write_all(&bytes))
    }

    /// Releases by name.
    pub fn releases(&self) -> &BTreeMap<String, Release> {
        &self.releases
    }

    /// Release and dictionary of a name; `None` if there is no such release.
    ///
    /// # Errors
    /// A release without this dictionary, with the nearest names it has.
    pub fn find(&self, release: &str, id: &str) -> Result<Option<(&Release, &Entry)>> {
        let Some(found) = self.releases.get(release) else { return Ok(None) };
        let Some(entry) = found.entries.get(id) else {
            let near = nearest(found.entries.keys(), id);
            let what = format!("release {release} has no dictionary {id:?}; near it are {near}");
            return Err(Error::Data { what });
        };
        Ok(Some((found, entry)))
    }

    /// Names of releases most like this one.
    pub fn like(&self, release: &str) -> String {
        nearest(self.releases.keys(), release)
    }

    fn parse_table(bytes: &[u8]) -> Result<Self, String> {
        let mut text = String::new();
        GzDecoder::new(bytes).take(MOST_BYTES).read_to_string(&mut text).map_err(|e| e.to_string())?;
        let mut releases: BTreeMap<String, Release> = BTreeMap::new();
        let mut current: Option<(String, Release)> = None;
        for (n, line) in text.lines().enumerate() {
            let cells: Vec<&str> = line.split('\t').collect();
            match cells[..] {
                [comment, ..] if comment.starts_with('#') => {}
                ["R", name, repo, model, loader, overrides] => {
                    releases.extend(current.take());
                    let pairs = overrides.split(';').filter_map(|p| p.split_once('='));
                    let release = Release {
                        repo: repo.into(),
                        model: model.into(),
                        loader: loader.into(),
                        overrides: pairs.map(|(k, v)| (k.into(), v.into())).collect(),
                        entries: BTreeMap::new(),
                    };
                    current = Some((name.into(), release));
                }
                [id, path, l0, explained, factor] => {
                    let number = |cell: &str| (!cell.is_empty()).then(|| cell.parse()).transpose();
                    let numbers = (number(l0), number(explained), number(factor));
                    let (Some((_, release)), (Ok(l0), Ok(explained_variance), Ok(norm_scaling_factor))) =
                        (&mut current, numbers)
                    else {
                        return Err(format!("line {}: {line:?}", n + 1));
                    };
                    let path = if path.is_empty() { id } else { path }.to_string();
                    release
                        .entries
                        .insert(id.into(), Entry { path, l0, explained_variance, norm_scaling_factor });
                }
                _ => return Err(format!("line {}: {line:?}", n + 1)),
            }
        }
        releases.extend(current);
        Ok(Self { releases })
    }

    fn table(&self) -> String {
        let mut text = String::from(
            "# Published dictionaries; facts of SAELens' pretrained_saes.yaml (MIT, https://github.com/decoderesearch/SAELens)\n",
        );
        for (name, r) in &self.releases {
            let overrides: Vec<String> = r.overrides.iter().map(|(k, v)| format!("{k}={v}")).collect();
            text += &format!("R\t{name}\t{}\t{}\t{}\t{}\n", r.repo, r.model, r.loader, overrides.join(";"));
            for (id, e) in &r.entries {
                let path = if e.path == *id { "" } else { &e.path };
                let number = |n: Option<f64>| n.map_or(String::new(), |n| n.to_string());
                let (l0, ev, factor) =
                    (number(e.l0), number(e.explained_variance), number(e.norm_scaling_factor));
                text += &format!("{id}\t{path}\t{l0}\t{ev}\t{factor}\n");
            }
        }
        text
    }

    fn parse_yaml(text: &str) -> Result<Self, String> {
        let tree: BTreeMap<String, Value> = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        let mut releases = BTreeMap::new();
        for (name, value) in tree {
            let text = |key: &str| value[key].as_str().map(String::from);
            let (Some(repo), Some(saes)) = (text("repo_id"), value["saes"].as_array()) else {
                return Err(format!("release {name} has no repo_id or no saes"));
            };
            let plain = |v: &Value| v.as_str().map(String::from).or(v.as_u64().map(|n| n.to_string()));
            let overrides = value["config_overrides"].as_object();
            let overrides = overrides.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), plain(v)?)));
            let mut entries = BTreeMap::new();
            for sae in saes {
                let (Some(id), Some(path)) = (plain(&sae["id"]), plain(&sae["path"])) else {
                    return Err(format!("release {name} has an entry without id or path"));
                };
                if [&id, &path].iter().any(|s| s.contains(['\t', '\n'])) {
                    return Err(format!("release {name} has an entry with a tab in its name"));
                }
                let entry = Entry {
                    path,
                    l0: sae["l0"].as_f64(),
                    explained_variance: sae["variance_explained"].as_f64(),
                    norm_scaling_factor: sae["norm_scaling_factor"].as_f64(),
                };
                entries.insert(id, entry);
            }
            let release = Release {
                repo,
                model: text("model").unwrap_or_default(),
                loader: text("conversion_func").unwrap_or_else(|| "sae_lens".into()),
                overrides: overrides.collect(),
                entries,
            };
            releases.insert(name, release);
        }
        if releases.is_empty() { Err("no release is in it".into()) } else { Ok(Self { releases }) }
    }
}

impl Release {
    /// What is known of one of its dictionaries.
    pub fn facts(&self, entry: &Entry) -> Facts {
        let named = |key: &str| self.overrides.get(key).cloned();
        Facts {
            loader: Some(self.loader.clone()),
            model_name: named("model_name").or(Some(self.model.clone()).filter(|m| !m.is_empty())),
            hook_in: named("hook_name"),
            hook_out: None,
            norm_scaling_factor: entry.norm_scaling_factor,
            normalize_activations: named("normalize_activations"),
            l0: entry.l0,
            explained_variance: entry.explained_variance,
            lenient: false,
        }
    }
}

/// The names that share most pairs of letters with `wanted`.
fn nearest<'a>(names: impl Iterator<Item = &'a String>, wanted: &str) -> String {
    let pairs = |s: &str| -> Vec<[u8; 2]> { s.as_bytes().windows(2).map(|w| [w[0], w[1]]).collect() };
    let wanted = pairs(wanted);
    let mut scored: Vec<(usize, &String)> = names
        .map(|name| {
            let own = pairs(name);
            let shared = wanted.iter().filter(|p| own.contains(p)).count();
            (2 * shared * 1000 / (own.len() + wanted.len()).max(1), name)
        })
        .collect();
    scored.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    scored.iter().take(4).map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_an_unknown_name_gets_its_neighbours() {
        let yaml = "some-release:\n  repo_id: org/repo\n  model: org/model\n  conversion_func: gemma_2\n  config_overrides:\n    \
                    normalize_activations: layer_norm\n  saes:\n  - {id: layer_1, path: 1, l0: 12.5, norm_scaling_factor: 0.1}\n  - \
                    {id: layer_2, path: layer_2, extra: {a: b}}\n";
        let registry = Registry::parse_yaml(yaml).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.gz");
        registry.save(&path).unwrap();
        assert_eq!(Registry::open(&path).unwrap(), registry);
        let (release, entry) = registry.find("some-release", "layer_1").unwrap().unwrap();
        let facts = release.facts(entry);
        assert_eq!((entry.path.as_str(), facts.norm_scaling_factor), ("1", Some(0.1)));
        assert_eq!(facts.normalize_activations.as_deref(), Some("layer_norm"));
        assert!(registry.find("other", "x").unwrap().is_none());
        let e = registry.find("some-release", "layer_3").unwrap_err().to_string();
        assert!(e.contains("\"layer_3\"") && e.contains("layer_1, layer_2"), "{e}");
    }
}
