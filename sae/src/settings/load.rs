//! Settings files of three formats read into one tree, overrides on it, and errors that name the dotted key and suggest
//! the nearest known one.

use crate::{Error, Result, files};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// Reads settings from a `.toml`, `.yaml`, `.yml` or `.json` file and applies overrides of the form `a.b=value`.
///
/// # Errors
/// [`Error::Format`] for text that does not parse, [`Error::Setting`] for an unknown key (with the nearest known one), a
/// missing key or a value of the wrong type.
pub fn load<T: DeserializeOwned>(path: &Path, overrides: &[String]) -> Result<T> {
    let mut tree = read_tree(path)?;
    for o in overrides {
        apply_override(&mut tree, o)?;
    }
    from_tree(&tree)
}

/// Reads a settings file into a tree, by extension.
pub fn read_tree(path: &Path) -> Result<Value> {
    let text = files::read_text(path)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let tree: Value = match extension.as_str() {
        "toml" => toml::from_str(&text).map_err(|e| Error::format(path, e.to_string().trim_end()))?,
        "yaml" | "yml" => serde_yaml_ng::from_str(&text).map_err(|e| Error::format(path, e.to_string()))?,
        "json" => serde_json::from_str(&text).map_err(|e| Error::format(path, e.to_string()))?,
        "py" => {
            return Err(Error::format(
                path,
                "python settings files are not run; write the same keys as .toml",
            ));
        }
        _ => return Err(Error::format(path, "settings files end in .toml, .yaml, .yml or .json")),
    };
    match tree {
        Value::Object(_) => Ok(tree),
        Value::Null => Ok(Value::Object(Map::new())),
        _ => Err(Error::format(path, "settings must be a table of keys at the top level")),
    }
}

/// Applies one override `a.b.0.c=value`. Tables on the way are created, a number after a list is an index (its length appends),
/// keys with dots go in double quotes. The value is read as TOML, then JSON, then taken as a bare string.
pub fn apply_override(tree: &mut Value, text: &str) -> Result<()> {
    let (path, value) = text.split_once('=').ok_or_else(|| {
        Error::setting(text, "an override has the form key=value, for example trainer.lr=1e-4")
    })?;
    let path = path.trim();
    let mut at = tree;
    for key in split_key(path) {
        at = step_into(at, &key).map_err(|what| Error::setting(path, what))?;
    }
    *at = parse_value(value.trim());
    Ok(())
}

pub(super) fn split_key(path: &str) -> Vec<String> {
    let (mut keys, mut key, mut quoted) = (Vec::new(), String::new(), false);
    for c in path.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => keys.push(std::mem::take(&mut key)),
            c => key.push(c),
        }
    }
    keys.push(key);
    keys
}

fn step_into<'a>(at: &'a mut Value, key: &str) -> Result<&'a mut Value, String> {
    if at.is_null() {
        *at = Value::Object(Map::new());
    }
    match at {
        Value::Object(map) => Ok(map.entry(key).or_insert(Value::Null)),
        Value::Array(list) => {
            let n = list.len();
            let i: usize = key.parse().map_err(|_| format!("{key:?} is not an index into a list of {n}"))?;
            if i == n {
                list.push(Value::Null);
            }
            list.get_mut(i).ok_or_else(|| format!("index {i} is past the end of a list of {n}"))
        }
        other => Err(format!("{key:?} cannot be set inside {other}")),
    }
}

fn parse_value(text: &str) -> Value {
    if matches!(text, "null" | "none" | "None") {
        return Value::Null;
    }
    let toml = toml::from_str::<Map<String, Value>>(&format!("v = {text}")).ok();
    toml.and_then(|mut t| if t.len() == 1 { t.remove("v") } else { None })
        .or_else(|| serde_json::from_str(text).ok())
        .unwrap_or_else(|| Value::String(text.into()))
}

/// Settings from a tree.
///
/// # Errors
/// [`Error::Setting`] with the dotted key.
pub fn from_tree<T: DeserializeOwned>(tree: &Value) -> Result<T> {
    serde_path_to_error::deserialize(tree).map_err(|e| {
        let path = e.path().to_string();
        explain::<T>(tree, if path == "." { "" } else { &path }, &e.inner().to_string())
    })
}

/// Turns serde's message into one with the full key. Below a table whose type depends on a tag, serde does not know the key of a
/// wrong value; it is the one whose absence makes the message go away.
fn explain<T: DeserializeOwned>(tree: &Value, path: &str, message: &str) -> Error {
    let named: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let join = |key: &str| match path {
        "" => key.to_string(),
        p if p == key || p.ends_with(&format!(".{key}")) => p.to_string(),
        p => format!("{p}.{key}"),
    };
    if message.starts_with("unknown field") {
        let (key, known) = named.split_first().map_or(("", &[][..]), |(k, rest)| (*k, rest));
        return Error::setting(join(key), unknown("setting", key, known));
    }
    if message.starts_with("unknown variant") {
        let (name, known) = named.split_first().map_or(("", &[][..]), |(k, rest)| (*k, rest));
        let written =
            |table: &Map<String, Value>| table.iter().find(|(_, v)| *v == name).map(|(k, _)| k.clone());
        let at = locate(tree, path).and_then(Value::as_object).and_then(written);
        let at = at.or_else(|| culprit::<T>(tree, path, message)).map_or_else(|| join(""), |key| join(&key));
        return Error::setting(
            at.trim_end_matches('.'),
            format!("{name:?}: {}", unknown("value", name, known)),
        );
    }
    if let (true, Some(key)) = (message.starts_with("missing field"), named.first()) {
        return Error::setting(join(key), "is required and missing");
    }
    let what = plain(message);
    match culprit::<T>(tree, path, message) {
        Some(key) => Error::setting(join(&key), what),
        None => Error::setting(if path.is_empty() { "(top level)" } else { path }, what),
    }
}

/// A message about a wrong type in the words of settings files.
fn plain(message: &str) -> String {
    let Some((what, wanted)) = message.rsplit_once(", expected ") else { return message.into() };
    let wanted = match wanted {
        "f64" | "f32" => "a number",
        "usize" | "u64" | "u32" => "a whole number that is not negative",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{what}, expected {wanted}")
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|k| (distance(name, k), *k)).min();
    let near = match nearest {
        Some((d, k)) if d <= 2 + name.len() / 3 => format!("; did you mean {k:?}?"),
        _ => String::new(),
    };
    format!("no such {what}{near} (known: {})", known.join(", "))
}

/// The key under `path` without which the message changes.
fn culprit<T: DeserializeOwned>(tree: &Value, path: &str, message: &str) -> Option<String> {
    let table = locate(tree, path)?.as_object()?;
    let mut second = None;
    for key in table.keys() {
        let mut without = tree.clone();
        locate_mut(&mut without, path)?.as_object_mut()?.shift_remove(key);
        match serde_path_to_error::deserialize::<_, T>(&without) {
            Err(e) if e.inner().to_string() == message => {}
            // A required key, or the tag on which everything depends.
            Err(e) if e.inner().to_string().starts_with("missing field") => {
                if !key.ends_with("type") {
                    second.get_or_insert_with(|| key.clone());
                }
            }
            _ => return Some(key.clone()),
        }
    }
    second
}

fn pointer(path: &str) -> String {
    split_key(&path.replace('[', ".").replace(']', ""))
        .iter()
        .filter(|k| !k.is_empty())
        .map(|k| format!("/{}", k.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn locate<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    tree.pointer(&pointer(path))
}

fn locate_mut<'a>(tree: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    tree.pointer_mut(&pointer(path))
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Steps, TrainerSettings};
    use serde_json::json;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        #[serde(default)]
        trainer: TrainerSettings,
        #[serde(default)]
        sources: Vec<Source>,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(tag = "type", rename_all = "lowercase")]
    enum Source {
        Dataset(Dataset),
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Dataset {
        name: String,
        #[serde(default)]
        sample_weights: f64,
    }

    fn error(tree: Value) -> String {
        from_tree::<Whole>(&tree).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_in_full_with_the_nearest_known_one() {
        let e = error(json!({"trainer": {"lr_warmup_steps": 3}}));
        assert!(e.starts_with("setting trainer.lr_warmup_steps: "), "{e}");
        assert!(e.contains("did you mean \"lr_warm_up_steps\"?"), "{e}");
        let e = error(json!({"sources": [{"type": "dataset", "name": "a", "sample_weight": 1}]}));
        assert!(e.starts_with("setting sources[0].sample_weight: "), "{e}");
        assert!(e.contains("did you mean \"sample_weights\"?"), "{e}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_even_below_a_tagged_table() {
        let e = error(json!({"trainer": {"lr": "fast"}}));
        assert!(e.starts_with("setting trainer.lr: invalid type") && e.ends_with("expected a number"), "{e}");
        let e = error(json!({"trainer": 3}));
        assert!(e.starts_with("setting trainer: ") && e.ends_with("expected a table"), "{e}");
        let e = error(json!({"sources": [{"type": "dataset", "name": "a", "sample_weights": "b"}]}));
        assert!(e.starts_with("setting sources[0].sample_weights: invalid type"), "{e}");
        let e = error(json!({"sources": [{"type": "dataset", "name": 7}]}));
        assert!(e.starts_with("setting sources[0].name: invalid type"), "{e}");
    }

    #[test]
    fn missing_keys_and_unknown_variants_are_named() {
        let e = error(json!({"sources": [{"type": "dataset"}]}));
        assert!(e.starts_with("setting sources[0].name: is required"), "{e}");
        let e = error(json!({"trainer": {"lr_scheduler_name": "constantwithwarmp"}}));
        assert!(e.starts_with("setting trainer.lr_scheduler_name: "), "{e}");
        assert!(e.contains("did you mean \"constantwithwarmup\"?"), "{e}");
    }

    #[test]
    fn overrides_reach_into_tables_and_lists_and_keep_integer_and_float_apart() {
        let mut t = json!({"sources": [{"type": "dataset", "name": "a"}]});
        for o in [
            "trainer.lr=1e-4",
            "trainer.k_warmup_steps=1",
            "trainer.lr_warm_up_steps = 1.0",
            "trainer.lr_scheduler_name=constant",
            "sources.0.name=b",
            "sources.1={\"type\": \"dataset\", \"name\": \"c\"}",
        ] {
            apply_override(&mut t, o).unwrap();
        }
        let s: Whole = from_tree(&t).unwrap();
        assert_eq!(s.trainer.lr, 1e-4);
        assert_eq!(s.trainer.k_warmup_steps, Steps::Count(1));
        assert_eq!(s.trainer.lr_warm_up_steps, Steps::Fraction(1.0));
        let Source::Dataset(second) = &s.sources[1];
        assert_eq!(second.name, "c");
        assert!(apply_override(&mut t, "sources.7.name=x").unwrap_err().to_string().contains("past the end"));
        assert!(apply_override(&mut t, "trainer.lr").is_err());
    }

    #[test]
    fn the_three_formats_give_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let texts = [
            ("a.toml", "[trainer]\nlr = 1e-4\np = 2\n[[sources]]\nname = \"x\"\n"),
            ("a.yaml", "trainer:\n  lr: 1.0e-4\n  p: 2\nsources:\n- name: x\n"),
            ("a.json", r#"{"trainer": {"lr": 1e-4, "p": 2}, "sources": [{"name": "x"}]}"#),
        ];
        for (name, text) in texts {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let want = json!({"trainer": {"lr": 1e-4, "p": 2}, "sources": [{"name": "x"}]});
            assert_eq!(read_tree(&path).unwrap(), want, "{name}");
        }
        let broken = dir.path().join("b.json");
        std::fs::write(&broken, "{\"trainer\": ").unwrap();
        assert!(read_tree(&broken).unwrap_err().to_string().contains("b.json"));
    }
}
