//! Settings of the training and evaluation jobs (TRAINING §10): upstream's `TrainSAESettings` and `EvaluateSAESettings`.

use super::{
    ActFn, ActivationFactorySettings, DatasetSettings, DictionaryChoice, DictionarySettings,
    InitializerSettings, LanguageModelSettings, PretrainedSettings, TrainerSettings,
};
use crate::{Error, Result, activations::Target, parallel::MeshSize};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// A new dictionary, or a saved one to train on.
    pub sae: DictionaryChoice,
    /// Name to register the dictionary under.
    pub sae_name: String,
    /// Series to register it in.
    pub sae_series: String,
    /// Starting values. Absent, the defaults are used (upstream leaves parameters uninitialised then).
    #[serde(default, deserialize_with = "or_default")]
    pub initializer: InitializerSettings,
    /// The training itself.
    #[serde(default)]
    pub trainer: TrainerSettings,
    /// Where activations come from. A crosscoder's list of factories, equal but for their hook points, is one with all of those.
    #[serde(alias = "activation_factories", deserialize_with = "one_or_many")]
    pub activation_factory: ActivationFactorySettings,
    /// Weights & Biases: a run file beside the result, sent at once where `WANDB_API_KEY` is set.
    #[serde(default)]
    pub wandb: Option<WandbSettings>,
    /// Evaluate on the language model every `trainer.eval_frequency` steps and at the end.
    #[serde(default)]
    pub eval: bool,
    /// Ranks among which the rows of every batch are divided; the job is started with as many (times `model_parallel_size`).
    #[serde(default = "one")]
    pub data_parallel_size: usize,
    /// Ranks among which the features are divided; the job is started with data × head × model ranks.
    #[serde(default = "one")]
    pub model_parallel_size: usize,
    /// Ours: ranks among which a crosscoder's hook points are divided.
    #[serde(default = "one")]
    pub head_parallel_size: usize,
    /// Database to register in. Parsed; nothing is registered yet.
    #[serde(default)]
    pub mongo: Option<MongoSettings>,
    /// The language model.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Name of the language model, recorded with the dictionary.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Data sets by the names the sources use.
    #[serde(default, deserialize_with = "or_default")]
    pub datasets: BTreeMap<String, DatasetSettings>,
    /// Device of the whole run: `cpu`, `cuda:1`, `npu:0`, or `auto`, the most capable there is.
    #[serde(default = "auto")]
    pub device_type: String,
    /// Rewrite the final weights to take and give raw activations, where the scale is dataset-wise; other modes have no constant
    /// scale and stay as they are.
    #[serde(default = "yes")]
    pub fold_activation_scale: bool,
}

/// Settings of an evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSettings {
    /// The dictionary.
    pub sae: PretrainedSettings,
    /// Name it is registered under.
    #[serde(default)]
    pub sae_name: String,
    /// Series it is registered in.
    #[serde(default)]
    pub sae_series: String,
    /// Where activations come from. A crosscoder's list of factories, equal but for their hook points, is one with all of those.
    #[serde(alias = "activation_factories", deserialize_with = "one_or_many")]
    pub activation_factory: ActivationFactorySettings,
    /// The language model.
    #[serde(default)]
    pub model: Option<LanguageModelSettings>,
    /// Name of the language model.
    #[serde(default)]
    pub model_name: Option<String>,
    /// Ours: data sets by the names the sources use.
    #[serde(default, deserialize_with = "or_default")]
    pub datasets: BTreeMap<String, DatasetSettings>,
    /// How much to evaluate on.
    #[serde(default)]
    pub eval: EvalSettings,
    /// Ours: ranks among which rows are divided; absent, as many as the job was started with.
    #[serde(default)]
    pub data_parallel_size: Option<usize>,
    /// Ranks among which the features are divided; the job is started with data × model ranks.
    #[serde(default = "one")]
    pub model_parallel_size: usize,
    /// Fold before evaluating; the figures do not depend on it.
    #[serde(default)]
    pub fold_activation_scale: bool,
    /// Weights & Biases. Parsed; results go to the caller.
    #[serde(default)]
    pub wandb: Option<WandbSettings>,
    /// Device of the whole run.
    #[serde(default = "auto")]
    pub device_type: String,
}

/// How much to evaluate on (upstream's `EvalConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSettings {
    /// Tokens that count.
    pub total_eval_tokens: u64,
    /// Ours: tokens on which the language model's own loss is measured three times over.
    pub downstream_tokens: u64,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self { total_eval_tokens: 1_000_000, downstream_tokens: 100_000 }
    }
}

/// Weights & Biases (upstream's `WandbConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WandbSettings {
    /// Project.
    pub wandb_project: String,
    /// Run name.
    pub exp_name: Option<String>,
    /// Entity.
    pub wandb_entity: Option<String>,
    /// Run id.
    pub wandb_run_id: Option<String>,
    /// Resume mode.
    pub wandb_resume: WandbResume,
}

impl Default for WandbSettings {
    fn default() -> Self {
        Self {
            wandb_project: "gpt2-sae-training".into(),
            exp_name: None,
            wandb_entity: None,
            wandb_run_id: None,
            wandb_resume: WandbResume::Never,
        }
    }
}

/// When to continue a Weights & Biases run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WandbResume {
    /// Continue it if it exists.
    Allow,
    /// It must exist.
    Must,
    /// Start a new one.
    Never,
    /// Decide by what the last run left.
    Auto,
}

/// A database (upstream's `MongoDBConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MongoSettings {
    /// Address.
    pub mongo_uri: String,
    /// Database name.
    pub mongo_db: String,
}

impl Default for MongoSettings {
    fn default() -> Self {
        Self { mongo_uri: "mongodb://localhost:27017/".into(), mongo_db: "mechinterp".into() }
    }
}

impl MongoSettings {
    /// Server and database as one address.
    pub fn address(&self) -> String {
        let (server, options) = match self.mongo_uri.split_once('?') {
            Some((server, options)) => (server, format!("?{options}")),
            None => (self.mongo_uri.as_str(), String::new()),
        };
        format!("{}/{}{options}", server.trim_end_matches('/'), self.mongo_db)
    }
}

/// `null` is the default too, as in settings the reference system wrote itself.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// One stream, written as one factory or as a list with a share of the hook points each.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(d: D) -> Result<ActivationFactorySettings, D::Error> {
    struct Form;
    impl<'de> de::Visitor<'de> for Form {
        type Value = ActivationFactorySettings;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or a list of tables that differ in hook_points only")
        }
        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Deserialize::deserialize(de::value::MapAccessDeserializer::new(map))
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let empty = || de::Error::custom("the list of factories is empty");
            let mut all: ActivationFactorySettings = seq.next_element()?.ok_or_else(empty)?;
            while let Some(next) = seq.next_element::<ActivationFactorySettings>()? {
                let hook_points = all.hook_points.clone();
                if (ActivationFactorySettings { hook_points, ..next.clone() }) != all {
                    let what = "the factories must be equal but for their hook_points: all activations of a row come \
                                from the same token";
                    return Err(de::Error::custom(what));
                }
                all.hook_points.extend(next.hook_points);
            }
            Ok(all)
        }
    }
    d.deserialize_any(Form)
}

pub(super) fn one() -> usize {
    1
}
pub(super) fn yes() -> bool {
    true
}
pub(super) fn auto() -> String {
    "auto".into()
}

impl TrainSettings {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key.
    pub fn check(&self) -> Result<()> {
        ranks("model_parallel_size", self.model_parallel_size)?;
        ranks("head_parallel_size", self.head_parallel_size)?;
        if self.eval && self.head_parallel_size > 1 {
            let what = "replaces all hook points at once, which ranks that divide them cannot; leave it out and evaluate afterwards";
            return Err(Error::setting("eval", what));
        }
        let (ranks, batch) = (self.data_parallel_size, self.activation_factory.batch_size);
        if ranks == 0 || !batch.is_multiple_of(ranks) {
            let what =
                format!("is {ranks}, but activation_factory.batch_size = {batch} must be divisible by it");
            return Err(Error::setting("data_parallel_size", what));
        }
        if let DictionaryChoice::Settings(sae) = &self.sae {
            if sae.pretrained().is_none() {
                check_dictionary(sae)?;
            }
            contexts_fit(sae, &self.activation_factory)?;
        }
        self.trainer.check()
    }

    /// The ranks the job needs.
    pub fn mesh_size(&self) -> MeshSize {
        MeshSize {
            data: self.data_parallel_size,
            head: self.head_parallel_size,
            model: self.model_parallel_size,
        }
    }

    /// Puts the whole run on another device than the file names.
    pub fn set_device(&mut self, device: &str) {
        self.device_type = device.into();
    }

    /// Where everything is written.
    pub fn result_path(&self) -> &PathBuf {
        &self.trainer.exp_result_path
    }
}

impl EvaluateSettings {
    /// Checks what types cannot say.
    pub fn check(&self) -> Result<()> {
        for (key, tokens) in [
            ("total_eval_tokens", self.eval.total_eval_tokens),
            ("downstream_tokens", self.eval.downstream_tokens),
        ] {
            if tokens == 0 {
                return Err(Error::setting(format!("eval.{key}"), "must be at least 1"));
            }
        }
        ranks("data_parallel_size", self.data_parallel_size.unwrap_or(1))?;
        ranks("model_parallel_size", self.model_parallel_size)
    }

    /// The ranks of the job, of which `started` were started.
    pub fn mesh_size(&self, started: usize) -> MeshSize {
        MeshSize {
            data: self.data_parallel_size.unwrap_or((started / self.model_parallel_size).max(1)),
            head: 1,
            model: self.model_parallel_size,
        }
    }
}

/// Checks that a dictionary that reads whole contexts gets them, and none too long.
fn contexts_fit(sae: &DictionarySettings, factory: &ActivationFactorySettings) -> Result<()> {
    let Some(longest) = sae.variant.facts().longest_context() else { return Ok(()) };
    if factory.target != Target::Activations2d {
        let what =
            format!("must be activations-2d for sae_type = {}, which reads whole contexts", sae.sae_type());
        return Err(Error::setting("activation_factory.target", what));
    }
    match factory.context_size {
        Some(len) if len > longest => {
            let what = format!("is {longest}, less than activation_factory.context_size = {len}");
            Err(Error::setting("sae.n_ctx", what))
        }
        _ => Ok(()),
    }
}

/// What would be refused when the dictionary is built, by its key in this file; and a k that no row can have.
fn check_dictionary(s: &DictionarySettings) -> Result<()> {
    s.validate().map_err(|e| match e {
        Error::Setting { key, what } if !key.starts_with("sae.") => {
            Error::setting(format!("sae.{key}"), what)
        }
        e => e,
    })?;
    let layers = match s.act_fn() {
        ActFn::LayerTopK | ActFn::BatchLayerTopK => s.hook_points_in().len(),
        _ => 1,
    };
    if s.act_fn().has_k() && s.top_k() > layers * s.d_sae() {
        let what = format!("is {}, but a row has only {} features", s.top_k(), layers * s.d_sae());
        return Err(Error::setting("sae.top_k", what));
    }
    Ok(())
}

fn ranks(key: &str, value: usize) -> Result<()> {
    if value > 0 { Ok(()) } else { Err(Error::setting(key, "must be at least 1")) }
}

pub(super) fn single(key: &str, value: usize) -> Result<()> {
    if value == 1 {
        return Ok(());
    }
    Err(Error::setting(key, format!("{value} ranks cannot divide this job in that way; set it to 1")))
}

/// The language model's settings; a job on text needs them.
pub fn required_model<'a>(
    model: &'a Option<LanguageModelSettings>,
    model_name: &Option<String>,
) -> Result<&'a LanguageModelSettings> {
    model.as_ref().ok_or_else(|| {
        let name = model_name.as_deref().unwrap_or("the model's name or path");
        Error::setting("model", format!("is needed; add a table [model] with model_name = {name:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{KSchedule, Steps, from_tree};
    use serde_json::{Value, json};

    fn minimal() -> Value {
        json!({
            "sae": {"sae_type": "sae", "d_model": 8, "expansion_factor": 4, "hook_point_in": "a", "hook_point_out": "a"},
            "sae_name": "n",
            "sae_series": "s",
            "activation_factory": {"sources": [], "target": "activations-1d", "hook_points": ["a"], "batch_size": 64},
        })
    }

    #[test]
    fn the_published_training_example_parses_unchanged() {
        let text = include_str!("fixtures/pythia_topk.toml");
        let tree: Value = toml::from_str(text).unwrap();
        let s: TrainSettings = from_tree(&tree).unwrap();
        s.check().unwrap();
        assert_eq!(s.device_type, "cuda");
        assert_eq!(s.trainer.total_training_tokens, 800_000_000);
        assert_eq!((s.trainer.initial_k, s.trainer.k_schedule_type), (Some(50.0), KSchedule::Linear));
        assert_eq!(s.trainer.k_warmup_steps, Steps::Fraction(0.1));
        assert!(s.initializer.grid_search_init_norm && s.fold_activation_scale && !s.eval);
        assert_eq!(s.datasets["SlimPajama-3B"].dataset_name_or_path, "Hzfinfdu/SlimPajama-3B");
        assert_eq!(s.wandb.unwrap().exp_name.as_deref(), Some("pythia-160m-sae"));
    }

    #[test]
    fn a_wrong_key_inside_the_dictionary_is_named_in_full() {
        let mut tree = minimal();
        tree["sae"]["topk"] = json!(3);
        let e = from_tree::<TrainSettings>(&tree).unwrap_err().to_string();
        assert!(e.starts_with("setting sae.topk: ") && e.contains("did you mean \"top_k\"?"), "{e}");
        let mut tree = minimal();
        tree["sae"]["top_k"] = json!("many");
        let e = from_tree::<TrainSettings>(&tree).unwrap_err().to_string();
        assert!(e.starts_with("setting sae.top_k: invalid type"), "{e}");
    }

    #[test]
    fn a_list_of_factories_is_one_stream_with_all_hook_points() {
        let mut tree = minimal();
        let table = tree.as_object_mut().unwrap();
        let one = table.shift_remove("activation_factory").unwrap();
        let mut other = one.clone();
        other["hook_points"] = json!(["b", "c"]);
        table.insert("activation_factories".into(), json!([one, other]));
        let s: TrainSettings = from_tree(&tree).unwrap();
        assert_eq!(s.activation_factory.hook_points, ["a", "b", "c"]);
        tree["activation_factories"][1]["batch_size"] = json!(32);
        let e = from_tree::<TrainSettings>(&tree).unwrap_err().to_string();
        assert!(e.starts_with("setting activation_factories: ") && e.contains("hook_points"), "{e}");
        tree["activation_factories"][1]["batchsize"] = json!(32);
        let e = from_tree::<TrainSettings>(&tree).unwrap_err().to_string();
        assert!(
            e.starts_with("setting activation_factories[1].batchsize: ") && e.contains("batch_size"),
            "{e}"
        );
    }

    #[test]
    fn a_dictionary_that_cannot_be_built_is_refused_with_its_key() {
        let refusal = |key: &str, value: Value| {
            let mut tree = minimal();
            tree["sae"]["act_fn"] = json!("topk");
            tree["sae"][key] = value;
            from_tree::<TrainSettings>(&tree).unwrap().check().unwrap_err().to_string()
        };
        assert!(refusal("top_k", json!(0)).starts_with("setting sae.top_k: "));
        let e = refusal("top_k", json!(50));
        assert!(e.starts_with("setting sae.top_k: ") && e.contains("32 features"), "{e}");
        assert!(refusal("expansion_factor", json!(0.01)).starts_with("setting sae.expansion_factor: "));
        let mut tree = minimal();
        tree["sae"]["sae_type"] = json!("sea");
        let e = from_tree::<TrainSettings>(&tree).unwrap_err().to_string();
        assert!(e.starts_with("setting sae.sae_type: ") && e.contains("did you mean \"sae\"?"), "{e}");
    }

    #[test]
    fn no_ranks_at_all_are_refused_by_key() {
        for key in ["model_parallel_size", "head_parallel_size", "data_parallel_size"] {
            let mut tree = minimal();
            tree[key] = json!(0);
            let e = from_tree::<TrainSettings>(&tree).unwrap().check().unwrap_err().to_string();
            assert!(e.starts_with(&format!("setting {key}: ")), "{e}");
        }
    }

    #[test]
    fn a_missing_model_is_asked_for_by_name() {
        let e = required_model(&None, &Some("pythia-160m".into())).unwrap_err().to_string();
        assert!(e.contains("[model]") && e.contains("pythia-160m"), "{e}");
    }
}
