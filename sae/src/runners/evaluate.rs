//! The evaluation job: a saved dictionary on text, with the language model's loss.

use super::{
    train::assess,
    workbench::{Workbench, load_pretrained},
};
use crate::{
    Result,
    settings::{EvaluateSettings, required_model},
    training::{
        Observer,
        evaluate::{Downstream, Quality},
    },
};
use lm_saes_runtime::Registry;

/// Evaluates as the settings say.
///
/// # Errors
/// Whatever the settings, checkpoint, data or device refuse.
pub fn evaluate(
    settings: &EvaluateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
) -> Result<(Quality, Downstream)> {
    settings.check()?;
    let model = required_model(&settings.model, &settings.model_name)?;
    let factory = &settings.activation_factory;
    let mut bench =
        Workbench::open(registry, &settings.device_type, model, factory, &settings.datasets, observer)?;
    let fold = settings.fold_activation_scale && settings.sae.fold_activation_scale;
    let mut dictionary = load_pretrained(&mut bench.q, &settings.sae, fold)?.dictionary;
    observer.phase("evaluating");
    let eval = settings.eval;
    assess(&mut bench, &mut *dictionary, eval.total_eval_tokens, eval.downstream_tokens)
}
