//! Settings of a sweep: several dictionaries trained side by side on one stream of activations. Two forms: a training file
//! with overrides (`[[sweep]]` tables, a `[grid]`, or both), and the reference system's list of `items` (TRAINING §10).

use super::{
    TrainSettings, from_tree,
    load::{apply_override, read_tree, split_key},
};
use crate::{Error, Result, training::difference};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

/// Keys at the top level that only sweeps have.
const OWN: [&str; 4] = ["sweep", "grid", "items", "sweep_result_path"];
/// Keys that replace the whole table they are in: under another tag, other keys make sense.
const TAGS: [&str; 2] = ["sae_type", "pretrained_name_or_path"];

/// Settings of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepSettings {
    /// The dictionaries, in order; at least one, and all with the same stream.
    pub members: Vec<SweepMember>,
    /// Where the sweep's own snapshots go.
    pub root: PathBuf,
}

/// One dictionary of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepMember {
    /// Told apart by this, on the screen and in folders.
    pub name: String,
    /// What training it alone would be given.
    pub settings: TrainSettings,
}

/// One member before it is read.
struct Draft {
    name: String,
    /// Whether the name was made up from what differs.
    generated: bool,
    /// Whether its folder was chosen for it alone.
    placed: bool,
    tree: Value,
}

impl SweepSettings {
    /// Reads a file, with overrides of what members share.
    ///
    /// # Errors
    /// As [`super::load`]; the message names the member.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let mut tree = read_tree(path)?;
        for o in overrides {
            apply_override(&mut tree, o)?;
        }
        Self::from_tree(tree)
    }

    /// Whether a settings file describes a sweep.
    pub fn is_sweep(tree: &Value) -> bool {
        OWN.iter().any(|key| tree.get(key).is_some())
    }

    /// From a tree.
    pub fn from_tree(mut tree: Value) -> Result<Self> {
        let mut take = |key: &str| tree.as_object_mut().and_then(|t| t.shift_remove(key));
        let [sweep, grid, items, root] = OWN.map(&mut take);
        let root = match root {
            None => None,
            Some(Value::String(s)) => Some(PathBuf::from(s)),
            Some(_) => return Err(Error::setting("sweep_result_path", "must be a folder")),
        };
        let base = tree.pointer("/trainer/exp_result_path").and_then(Value::as_str).map(PathBuf::from);
        let drafts = match (items, sweep, grid) {
            (Some(items), None, None) => from_items(&tree, &items)?,
            (Some(_), ..) => {
                return Err(Error::setting(
                    "items",
                    "is one form of a sweep, sweep and grid the other; use one",
                ));
            }
            (None, None, None) => {
                let what = "is missing: say what differs, in tables [[sweep]] (sae.top_k = 50), in a table [grid] \
                            (\"sae.top_k\" = [25, 50]), or in a list of items";
                return Err(Error::setting("sweep", what));
            }
            (None, sweep, grid) => from_overrides(&tree, sweep, grid)?,
        };
        unique_names(&drafts)?;
        let mut members = Vec::new();
        for draft in &drafts {
            members.push(draft.read()?);
        }
        place(&drafts, &mut members);
        check_shared(&members)?;
        let root = root.or(base).unwrap_or_else(|| common_folder(&members));
        Ok(Self { members, root })
    }
}

impl Draft {
    fn read(&self) -> Result<SweepMember> {
        let about = |e: Error| match e {
            Error::Setting { key, what } => {
                Error::setting(key, format!("{what} (in member {:?} of the sweep)", self.name))
            }
            e => e,
        };
        let settings: TrainSettings = from_tree(&self.tree).map_err(about)?;
        settings.check().map_err(about)?;
        for (key, ranks) in [
            ("data_parallel_size", settings.data_parallel_size),
            ("model_parallel_size", settings.model_parallel_size),
            ("head_parallel_size", settings.head_parallel_size),
        ] {
            if ranks != 1 {
                let what = "members of a sweep are trained by one rank each; leave it out and start as many ranks as are to share the \
                            members (mpirun -n N lm-saes sweep …)";
                return Err(about(Error::setting(key, what)));
            }
        }
        if settings.trainer.from_pretrained_path.is_some() {
            let what = "continues one run; a sweep continues as a whole, with --resume";
            return Err(about(Error::setting("trainer.from_pretrained_path", what)));
        }
        Ok(SweepMember { name: self.name.clone(), settings })
    }
}

/// The reference system's form: tables of each member, beside what they share.
fn from_items(shared: &Value, items: &Value) -> Result<Vec<Draft>> {
    let list = items.as_array().filter(|l| !l.is_empty());
    let list = list.ok_or_else(|| Error::setting("items", "must be a list of at least one member"))?;
    let draft = |(i, item): (usize, &Value)| {
        let item = item.as_object().ok_or_else(|| {
            Error::setting(format!("items[{i}]"), "must be a table with sae, sae_name, sae_series, trainer")
        })?;
        let mut tree = shared.clone();
        if let Some(t) = tree.as_object_mut() {
            t.extend(item.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let name = item.get("sae_name").and_then(Value::as_str);
        let name = name.map_or_else(|| format!("item_{i}"), folder_name);
        Ok(Draft { name, generated: false, placed: item.contains_key("trainer"), tree })
    };
    list.iter().enumerate().map(draft).collect()
}

/// A training file and what each member has otherwise: every table of `sweep` with every point of `grid`.
fn from_overrides(base: &Value, sweep: Option<Value>, grid: Option<Value>) -> Result<Vec<Draft>> {
    let tables = match sweep {
        None => vec![Map::new()],
        Some(Value::Array(list)) if !list.is_empty() => {
            let table = |(i, v): (usize, Value)| match v {
                Value::Object(t) => Ok(t),
                _ => Err(Error::setting(format!("sweep[{i}]"), "must be a table of overrides")),
            };
            list.into_iter().enumerate().map(table).collect::<Result<_>>()?
        }
        Some(_) => return Err(Error::setting("sweep", "must be a list of tables: write [[sweep]]")),
    };
    let points = points(grid)?;
    let mut drafts = Vec::new();
    for mut table in tables {
        let name = match table.shift_remove("name") {
            None => None,
            Some(Value::String(name)) => Some(folder_name(&name)),
            Some(other) => return Err(Error::setting("sweep.name", format!("{other} is not a text"))),
        };
        let own = leaves(&table);
        for point in &points {
            let generated = if name.is_some() { point.clone() } else { [&own[..], point].concat() };
            let suffix = describe(&generated);
            let name = match &name {
                Some(name) if suffix.is_empty() => name.clone(),
                Some(name) => format!("{name}-{suffix}"),
                None => suffix,
            };
            drafts.push(override_base(base, name, generated, &[&own[..], point].concat())?);
        }
    }
    Ok(drafts)
}

type Leaf = (Vec<String>, Value);

fn override_base(base: &Value, name: String, generated: Vec<Leaf>, all: &[Leaf]) -> Result<Draft> {
    let mut tree = base.clone();
    let at = |path: &[String]| path.join(".");
    for (path, value) in all {
        if let Some((tag, table)) = path.split_last().filter(|(last, _)| TAGS.contains(&last.as_str()))
            && tree.pointer(&pointer(path)) != Some(value)
            && let Some(table) = tree.pointer_mut(&pointer(table))
        {
            *table = json!({ tag: value });
        }
    }
    for (path, value) in all {
        let mut slot = &mut tree;
        for key in path {
            if slot.is_null() {
                *slot = Value::Object(Map::new());
            }
            slot = match slot {
                Value::Object(t) => t.entry(key).or_insert(Value::Null),
                other => {
                    return Err(Error::setting(at(path), format!("{key:?} cannot be set inside {other}")));
                }
            };
        }
        *slot = value.clone();
    }
    let given = |key: &str| all.iter().any(|(path, _)| at(path) == key);
    if let Some(base) = tree.get("sae_name").and_then(Value::as_str).filter(|_| !given("sae_name")) {
        tree["sae_name"] = format!("{base}-{name}").into();
    }
    let placed = given("trainer.exp_result_path");
    Ok(Draft { name, generated: !generated.is_empty(), placed, tree })
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|k| format!("/{}", k.replace('~', "~0").replace('/', "~1"))).collect()
}

/// Dotted keys and values of a table; quoted keys with dots count as nested tables.
fn leaves(table: &Map<String, Value>) -> Vec<Leaf> {
    let mut out = Vec::new();
    for (key, value) in table {
        let path = split_key(key);
        match value {
            Value::Object(inner) => {
                out.extend(leaves(inner).into_iter().map(|(rest, v)| ([&path[..], &rest].concat(), v)));
            }
            v => out.push((path, v.clone())),
        }
    }
    out
}

/// The cartesian product of the grid; its last key changes fastest.
fn points(grid: Option<Value>) -> Result<Vec<Vec<Leaf>>> {
    let axes = match grid {
        None => Vec::new(),
        Some(Value::Object(table)) => leaves(&table),
        Some(_) => return Err(Error::setting("grid", "must be a table of lists")),
    };
    let mut all = vec![Vec::new()];
    for (path, values) in axes {
        let values = values.as_array().filter(|v| !v.is_empty()).ok_or_else(|| {
            let example = format!("\"{}\" = [{values}]", path.join("."));
            Error::setting(format!("grid.{}", path.join(".")), format!("must be a list of values: {example}"))
        })?;
        let extended = |point: &Vec<Leaf>| {
            let point = point.clone();
            let with = |v: &Value| [point.clone(), vec![(path.clone(), v.clone())]].concat();
            values.iter().map(with).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(extended).collect();
    }
    Ok(all)
}

/// `top_k_50-lr_0.001`: last parts of the keys with their values, each value once.
fn describe(leaves: &[Leaf]) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (path, value) in leaves {
        let value = match value {
            Value::String(s) => s.clone(),
            Value::Array(list) => list
                .iter()
                .map(|v| v.as_str().map_or(v.to_string(), String::from))
                .collect::<Vec<_>>()
                .join("+"),
            other => match other.as_f64().filter(|v| v.abs() < 1e-3 && *v != 0.0) {
                Some(small) => format!("{small:e}"),
                None => other.to_string(),
            },
        };
        let value = folder_name(&value);
        if value.parse::<f64>().is_err() && parts.iter().any(|(_, v)| *v == value) {
            continue;
        }
        parts.push((path.last().cloned().unwrap_or_default(), value));
    }
    let text: Vec<String> = parts.into_iter().map(|(k, v)| format!("{}_{v}", folder_name(&k))).collect();
    text.join("-")
}

/// As it may stand in a folder's name.
fn folder_name(text: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-+".contains(c) { c } else { '_' };
    text.chars().map(plain).collect::<String>().trim_start_matches('.').to_string()
}

fn unique_names(drafts: &[Draft]) -> Result<()> {
    for (i, draft) in drafts.iter().enumerate() {
        let twice = drafts[..i].iter().any(|d| d.name == draft.name);
        if draft.name.is_empty() || draft.name == "checkpoints" || twice {
            let hint = if draft.generated {
                "give the members names: name = \"…\" in their tables"
            } else {
                "choose another"
            };
            let why = if twice { "is the name of two members" } else { "cannot be a member's name" };
            return Err(Error::setting("sweep", format!("{:?} {why}; {hint}", draft.name)));
        }
    }
    Ok(())
}

/// Gives a folder of its own to every member that was not given one, or shares it with another.
fn place(drafts: &[Draft], members: &mut [SweepMember]) {
    let paths: Vec<PathBuf> = members.iter().map(|m| m.settings.trainer.exp_result_path.clone()).collect();
    for (i, member) in members.iter_mut().enumerate() {
        let shared = paths.iter().filter(|p| **p == paths[i]).count() > 1;
        if shared || !drafts[i].placed {
            member.settings.trainer.exp_result_path = paths[i].join(&member.name);
        }
    }
}

/// Members share text, model and device; only the hook points they look at may differ.
fn check_shared(members: &[SweepMember]) -> Result<()> {
    let shared = |s: &TrainSettings| {
        let mut factory = json!(s.activation_factory);
        factory["hook_points"] = Value::Null;
        BTreeMap::from([
            ("activation_factory", factory),
            ("model", json!(s.model)),
            ("datasets", json!(s.datasets)),
            ("device_type", json!(s.device_type)),
        ])
    };
    let Some((first, rest)) = members.split_first() else { return Ok(()) };
    let all = shared(&first.settings);
    for member in rest {
        for (key, value) in shared(&member.settings) {
            if let Some((key, one, other)) = difference(key, &all[key], &value) {
                let what = format!(
                    "is {one} for {:?} and {other} for {:?}; the members of a sweep read one stream, so only its \
                     hook_points may differ. Train the others in a sweep of their own",
                    first.name, member.name
                );
                return Err(Error::setting(key, what));
            }
        }
    }
    Ok(())
}

/// The innermost folder that holds every member's.
fn common_folder(members: &[SweepMember]) -> PathBuf {
    let parent =
        |m: &SweepMember| m.settings.trainer.exp_result_path.parent().map(PathBuf::from).unwrap_or_default();
    let mut common: Option<PathBuf> = None;
    for folder in members.iter().map(parent) {
        common = Some(match common {
            None => folder,
            Some(c) => {
                let same = c.components().zip(folder.components()).take_while(|(a, b)| a == b);
                same.map(|(a, _): (Component<'_>, _)| a).collect()
            }
        });
    }
    common.filter(|c| c.file_name().is_some()).unwrap_or_else(|| "results".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        json!({
            "sae": {"sae_type": "sae", "d_model": 8, "expansion_factor": 4, "hook_point_in": "a", "hook_point_out": "a",
                    "act_fn": "topk", "top_k": 4},
            "sae_name": "n", "sae_series": "s",
            "trainer": {"exp_result_path": "out", "initial_k": 8},
            "activation_factory": {"sources": [], "target": "activations-1d", "hook_points": ["a"], "batch_size": 64},
        })
    }

    fn with(more: Value) -> Result<SweepSettings> {
        let mut tree = base();
        tree.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        SweepSettings::from_tree(tree)
    }

    fn names(s: &SweepSettings) -> Vec<&str> {
        s.members.iter().map(|m| m.name.as_str()).collect()
    }

    fn refusal(more: Value) -> String {
        with(more).unwrap_err().to_string()
    }

    #[test]
    fn a_grid_gives_every_combination_a_readable_name_and_a_folder() {
        let s = with(json!({"grid": {"sae.top_k": [2, 4], "trainer": {"lr": [1e-3, 5e-5]}}})).unwrap();
        assert_eq!(names(&s), ["top_k_2-lr_0.001", "top_k_2-lr_5e-5", "top_k_4-lr_0.001", "top_k_4-lr_5e-5"]);
        let last = &s.members[3].settings;
        assert_eq!(last.trainer.lr, 5e-5);
        assert_eq!(last.result_path(), Path::new("out/top_k_4-lr_5e-5"));
        assert_eq!(last.sae_name, "n-top_k_4-lr_5e-5");
        assert_eq!(s.root, Path::new("out"));
    }

    #[test]
    fn tables_of_overrides_multiply_with_the_grid_and_may_be_named() {
        let s = with(json!({
            "sweep": [{"sae": {"hook_point_in": "b/c", "hook_point_out": "b/c"}}, {"name": "wide", "sae.expansion_factor": 8}],
            "grid": {"initializer.seed": [1, 2]},
        }))
        .unwrap();
        assert_eq!(
            names(&s),
            ["hook_point_in_b_c-seed_1", "hook_point_in_b_c-seed_2", "wide-seed_1", "wide-seed_2"]
        );
        assert_eq!(s.members[3].settings.initializer.seed, 2);
    }

    #[test]
    fn another_kind_of_dictionary_replaces_the_whole_table() {
        let s =
            with(json!({"sweep": [{"name": "new"}, {"name": "old", "sae.pretrained_name_or_path": "here"}]}));
        let s = s.unwrap();
        assert!(matches!(s.members[1].settings.sae, crate::settings::DictionaryChoice::Pretrained(_)));
    }

    #[test]
    fn the_reference_systems_items_are_accepted() {
        let mut tree = base();
        let t = tree.as_object_mut().unwrap();
        let (sae, trainer) = (t.shift_remove("sae").unwrap(), t.shift_remove("trainer").unwrap());
        t.shift_remove("sae_name");
        t.shift_remove("sae_series");
        let item = |name: &str| json!({"sae": sae, "sae_name": name, "sae_series": "s", "trainer": trainer, "wandb": null});
        t.insert("items".into(), json!([item("one"), item("two")]));
        let s = SweepSettings::from_tree(tree.clone()).unwrap();
        assert_eq!(names(&s), ["one", "two"]);
        // Both wrote to one folder.
        assert_eq!(s.members[1].settings.result_path(), Path::new("out/two"));
        tree["items"][0]["trainer"]["exp_result_path"] = json!("results/x");
        tree["items"][1]["trainer"]["exp_result_path"] = json!("results/y");
        let s = SweepSettings::from_tree(tree).unwrap();
        assert_eq!(s.members[1].settings.result_path(), Path::new("results/y"));
        assert_eq!(s.root, Path::new("results"));
    }

    #[test]
    fn what_does_not_make_a_sweep_is_refused_by_key() {
        assert!(SweepSettings::from_tree(base()).unwrap_err().to_string().contains("[grid]"));
        let e = refusal(json!({"grid": {"sae.top_k": 3}}));
        assert!(e.starts_with("setting grid.sae.top_k: ") && e.contains("\"sae.top_k\" = [3]"), "{e}");
        let e = refusal(json!({"grid": {"sae.topk": [1, 2]}}));
        assert!(
            e.contains("sae.topk") && e.contains("did you mean \"top_k\"") && e.contains("topk_1"),
            "{e}"
        );
        let e = refusal(json!({"grid": {"activation_factory.batch_size": [32, 64]}}));
        assert!(e.starts_with("setting activation_factory.batch_size: ") && e.contains("one stream"), "{e}");
        assert!(refusal(json!({"sweep": [{"name": "a"}, {"name": "a"}]})).contains("two members"));
        assert!(refusal(json!({"sweep": {"sae.top_k": 3}})).contains("[[sweep]]"));
        assert!(refusal(json!({"items": [], "grid": {}})).contains("use one"));
    }
}
