//! Which of a repository's files belong to a configuration and a split, as the Python library `datasets` decides it. In this order:
//! the `configs` in the head of the repository's README.md; names of files and folders that hold a word for a split; and, where
//! the files themselves are of a kind that is not read, their conversion to parquet, which the hub keeps in a branch.

use crate::{
    Error, Result,
    hub::{
        Hub,
        client::{DATASETS, Listing},
    },
};
use serde_json::Value;
use std::{collections::HashSet, sync::Arc};

/// Where the hub keeps data sets converted to parquet.
pub(super) const CONVERTED: &str = "refs/convert/parquet";
/// Words for splits in names of files, by the split they mean.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Longest pattern of names that is looked at.
const LONGEST: usize = 1000;

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub repo: &'a str,
    pub config: Option<&'a str>,
    pub split: &'a str,
}

/// A configuration as the page states it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Config {
    name: String,
    default: bool,
    dir: Option<String>,
    /// Splits with patterns of names.
    files: Vec<(String, Vec<String>)>,
}

impl Wanted<'_> {
    pub fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Data { what: format!("data set {} on the hub: {what}", &self.repo[DATASETS.len()..]) }
    }

    /// Names of the files of the configuration and split, readable or not.
    pub fn choose(&self, names: &[&str], configs: &[Config]) -> Result<Vec<String>> {
        if configs.is_empty() {
            let inside: Vec<&str> = match self.config {
                None | Some("default") => names.to_vec(),
                Some(config) => {
                    names.iter().copied().filter(|n| n.split('/').any(|part| part == config)).collect()
                }
            };
            // One of the conversion's configurations may have this name; no folder has it.
            return Ok(self.by_name(&inside, ""));
        }
        let config = self.config_of(configs)?;
        let dir = config.dir.clone().unwrap_or_default();
        if config.files.is_empty() {
            let inside = names.iter().copied().filter(|n| in_folder(n, &dir)).collect::<Vec<_>>();
            return Ok(self.by_name(&inside, &dir));
        }
        let Some((_, patterns)) = config.files.iter().find(|(split, _)| split == self.split) else {
            let splits = config.files.iter().map(|(split, _)| split.as_str()).collect::<Vec<_>>().join(", ");
            return Err(self.error(format!("has no split {:?}; it has {splits} (split = …)", self.split)));
        };
        let matches = |name: &&str| patterns.iter().any(|p| fits(&joined(&dir, p), name));
        Ok(names.iter().copied().filter(matches).map(String::from).collect())
    }

    fn config_of<'c>(&self, configs: &'c [Config]) -> Result<&'c Config> {
        let names = || configs.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(wanted) = self.config {
            let found = configs.iter().find(|c| c.name == wanted);
            return found
                .ok_or_else(|| self.error(format!("has no configuration {wanted:?}; it has {}", names())));
        }
        let default = configs.iter().find(|c| c.default).or(configs.iter().find(|c| c.name == "default"));
        match (default, configs) {
            (Some(config), _) | (None, [config]) => Ok(config),
            _ => Err(self.error(format!("has several configurations: set config to one of {}", names()))),
        }
    }

    /// By the split names speak of; where they speak of none, everything is for training.
    fn by_name(&self, names: &[&str], dir: &str) -> Vec<String> {
        let data = names.iter().copied().filter(|n| !is_beside(n));
        let split = |n: &str| {
            let n = n.strip_prefix(dir).unwrap_or(n).trim_start_matches('/');
            numbered(n).or(split_of(n).map(String::from))
        };
        let (marked, plain): (Vec<&str>, Vec<&str>) = data.partition(|n| split(n).is_some());
        let all = marked.is_empty() && self.split == "train";
        let wanted = if all { plain } else { marked };
        let fits = |n: &&str| all || split(n).as_deref() == Some(self.split);
        wanted.into_iter().filter(fits).map(String::from).collect()
    }

    /// The files of the hub's own conversion.
    pub fn converted(
        &self,
        hub: &Hub,
        chosen: &[String],
        reads: &dyn Fn(&str) -> bool,
    ) -> Result<(Arc<Listing>, Vec<String>)> {
        let why = match chosen.first() {
            Some(file) => format!("its files, such as {file}, are not read here"),
            None => format!("has no files of split {:?} that can be told by their names", self.split),
        };
        if !reads("x.parquet") {
            let build = "parquet and Arrow files are read by builds with `--features parquet`";
            return Err(self.error(format!("{why}; {build}")));
        }
        let listing = hub
            .listing(self.repo, CONVERTED)
            .map_err(|e| self.error(format!("{why}, and there is no conversion to parquet ({e})")))?;
        let mut configs: Vec<&str> =
            listing.files.iter().filter_map(|(n, _)| n.split_once('/')).map(|(c, _)| c).collect();
        configs.dedup();
        let config = match (self.config, &configs[..]) {
            (Some(config), _) => config,
            (None, [only]) => only,
            (None, all) if all.contains(&"default") => "default",
            (None, all) => {
                let what = format!("has several configurations: set config to one of {}", all.join(", "));
                return Err(self.error(what));
            }
        };
        // Of large data sets only the beginning is converted, which the folder's name says.
        let inside = |n: &&String| {
            let split =
                n.strip_prefix(config).and_then(|n| n.strip_prefix('/')).and_then(|n| n.split_once('/'));
            split.is_some_and(|(s, _)| s == self.split || s.strip_prefix("partial-") == Some(self.split))
        };
        let names: Vec<String> = listing.files.iter().map(|(n, _)| n).filter(inside).cloned().collect();
        if names.is_empty() {
            let what = format!(
                "has no configuration {config:?} with split {:?}; its conversion to parquet has {}",
                self.split,
                configs.join(", ")
            );
            return Err(self.error(what));
        }
        Ok((listing, names))
    }
}

/// The configurations in the head of a page.
pub(super) fn configs(page: &str) -> Vec<Config> {
    let head = page.strip_prefix("---").and_then(|rest| Some(rest.split_once("\n---")?.0)).unwrap_or("");
    let head: Value = serde_yaml_ng::from_str(head).unwrap_or(Value::Null);
    let one = |c: &Value| {
        Some(Config {
            name: c["config_name"].as_str()?.to_string(),
            default: c["default"] == true,
            dir: c["data_dir"].as_str().map(String::from),
            files: data_files(&c["data_files"]),
        })
    };
    head["configs"].as_array().into_iter().flatten().filter_map(one).collect()
}

/// A pattern, several, or splits with theirs.
fn data_files(value: &Value) -> Vec<(String, Vec<String>)> {
    let patterns = |v: &Value| -> Vec<String> {
        let several = v.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from);
        v.as_str().map(String::from).into_iter().chain(several).collect()
    };
    if let Some(map) = value.as_object() {
        return map.iter().map(|(split, v)| (split.clone(), patterns(v))).collect();
    }
    let with_splits = value.as_array().into_iter().flatten().filter(|v| v.is_object());
    let with_splits: Vec<_> = with_splits
        .map(|v| (v["split"].as_str().unwrap_or("train").to_string(), patterns(&v["path"])))
        .collect();
    match (with_splits.is_empty(), patterns(value)) {
        (false, _) => with_splits,
        (true, plain) if plain.is_empty() => Vec::new(),
        (true, plain) => vec![("train".into(), plain)],
    }
}

/// Files that are never data.
fn is_beside(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.starts_with('.')
        || ["README.md", "LICENSE", "dataset_infos.json", "dataset_info.json"].contains(&last)
        || last.ends_with(".py")
        || last.ends_with(".md")
}

/// `data/SPLIT-00000-of-00004.parquet`, as the hub names files; the split can have any name.
fn numbered(name: &str) -> Option<String> {
    let (split, rest) = name.strip_prefix("data/")?.split_once('-')?;
    let (number, rest) = rest.split_once("-of-")?;
    let digits = |s: &str| s.len() >= 5 && s.bytes().take(5).all(|b| b.is_ascii_digit());
    (digits(number) && digits(rest)).then(|| split.into())
}

/// The split a name speaks of: by a word of it that stands alone.
fn split_of(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphabetic()).collect();
    WORDS.iter().find(|(_, all)| words.iter().any(|w| all.contains(w))).map(|(split, _)| *split)
}

fn in_folder(name: &str, dir: &str) -> bool {
    let dir = dir.trim_matches('/');
    dir.is_empty() || name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn joined(dir: &str, pattern: &str) -> String {
    match dir.trim_matches('/') {
        "" => pattern.trim_start_matches("./").to_string(),
        dir => format!("{dir}/{}", pattern.trim_start_matches("./")),
    }
}

/// Whether a name fits a pattern of `*` (within a folder), `**` (through folders), `?` and `[…]`.
fn fits(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    p.len() <= LONGEST && fits_from(&p, &n, &mut HashSet::new())
}

/// `failed` are the lengths of rests that were tried in vain: patterns come with downloaded pages.
fn fits_from(p: &[char], n: &[char], failed: &mut HashSet<(usize, usize)>) -> bool {
    if failed.contains(&(p.len(), n.len())) {
        return false;
    }
    let fit = match p {
        [] => n.is_empty(),
        // Any folders, none too.
        ['*', '*', '/', rest @ ..] => {
            fits_from(rest, n, failed)
                || (0..n.len()).any(|i| n[i] == '/' && fits_from(rest, &n[i + 1..], failed))
        }
        ['*', '*', rest @ ..] => (0..=n.len()).any(|i| fits_from(rest, &n[i..], failed)),
        ['*', rest @ ..] => {
            let end = n.iter().position(|c| *c == '/').unwrap_or(n.len());
            (0..=end).any(|i| fits_from(rest, &n[i..], failed))
        }
        ['?', rest @ ..] => n.first().is_some_and(|c| *c != '/') && fits_from(rest, &n[1..], failed),
        ['[', rest @ ..] => match (rest.iter().position(|c| *c == ']'), n.split_first()) {
            (Some(end), Some((c, after))) => {
                in_set(&rest[..end], *c) && fits_from(&rest[end + 1..], after, failed)
            }
            _ => false,
        },
        [c, rest @ ..] => n.first() == Some(c) && fits_from(rest, &n[1..], failed),
    };
    if !fit {
        failed.insert((p.len(), n.len()));
    }
    fit
}

/// `abc`, `0-9`, and with `!` in front everything else.
fn in_set(set: &[char], c: char) -> bool {
    let (set, not) = match set.split_first() {
        Some(('!', set)) => (set, true),
        _ => (set, false),
    };
    let ranged = |w: &[char]| w[1] == '-' && (w[0]..=w[2]).contains(&c);
    (set.contains(&c) || set.windows(3).any(ranged)) != not
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(config: Option<&'a str>, split: &'a str) -> Wanted<'a> {
        Wanted { repo: "datasets/org/data", config, split }
    }

    #[test]
    fn names_of_files_say_their_split() {
        let names = [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test.parquet",
            "README.md",
        ];
        assert_eq!(wanted(None, "train").choose(&names, &[]).unwrap(), names[..2]);
        assert_eq!(wanted(None, "test").choose(&names, &[]).unwrap(), names[2..3]);
        assert!(wanted(None, "validation").choose(&names, &[]).unwrap().is_empty());
        let own = ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"];
        assert_eq!(wanted(None, "train_sft").choose(&own, &[]).unwrap(), own[..1]);
        let folders = ["training/a.jsonl", "dev/a.jsonl", "contest/b.jsonl"];
        assert_eq!(wanted(None, "train").choose(&folders, &[]).unwrap(), folders[..1]);
        assert_eq!(wanted(None, "validation").choose(&folders, &[]).unwrap(), folders[1..2]);
        let plain = ["a.jsonl", "contest/b.jsonl", ".gitattributes", "load.py"];
        assert_eq!(wanted(None, "train").choose(&plain, &[]).unwrap(), plain[..2]);
        let configs = ["en/train.jsonl", "de/train.jsonl"];
        assert_eq!(wanted(Some("de"), "train").choose(&configs, &[]).unwrap(), configs[1..]);
    }

    #[test]
    fn the_page_states_configurations() {
        let page = "---\nlicense: mit\nconfigs:\n- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/*.parquet\n  - split: test\n    path:\n    - en/x/t?.parquet\n- config_name: de\n  data_dir: de\n  data_files: '**/part-[0-9].parquet'\n- config_name: fr\n  data_dir: fr\n---\n# Text\n";
        let all = configs(page);
        assert_eq!(all.len(), 3);
        let names = [
            "en/a.parquet",
            "en/x/t1.parquet",
            "de/part-1.parquet",
            "de/q/part-2.parquet",
            "de/part-a.parquet",
            "fr/train.parquet",
            "fr/test.parquet",
        ];
        let choose = |config, split| wanted(config, split).choose(&names, &all);
        assert_eq!(choose(None, "train").unwrap(), names[..1]);
        assert_eq!(choose(None, "test").unwrap(), names[1..2]);
        assert_eq!(choose(Some("de"), "train").unwrap(), names[2..4]);
        assert_eq!(choose(Some("fr"), "train").unwrap(), names[5..6]);
        let e = choose(Some("it"), "train").unwrap_err().to_string();
        assert!(e.contains("org/data") && e.contains("en, de, fr"), "{e}");
        let e = choose(None, "dev").unwrap_err().to_string();
        assert!(e.contains("train, test"), "{e}");
        let several = [
            Config { name: "a".into(), ..Config::default() },
            Config { name: "b".into(), ..Config::default() },
        ];
        assert!(wanted(None, "train").choose(&names, &several).unwrap_err().to_string().contains("a, b"));
    }

    #[test]
    fn patterns_stay_within_folders_unless_they_say_otherwise() {
        for (pattern, name, fit) in [
            ("a/*.txt", "a/b.txt", true),
            ("a/*.txt", "a/b/c.txt", false),
            ("**/c.txt", "c.txt", true),
            ("**/c.txt", "a/b/c.txt", true),
            ("a/**", "a/b/c.txt", true),
            ("x-[!0-4].txt", "x-5.txt", true),
            ("x-[!0-4].txt", "x-3.txt", false),
            ("train*", "train", true),
            ("t?st", "t/st", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
