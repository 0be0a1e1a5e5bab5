//! The evaluation job: a saved dictionary on text, with the language model's loss.

use super::{
    train::assess,
    workbench::{Workbench, load_pretrained_on, open_queue},
};
use crate::{
    Result,
    parallel::{Mesh, agree},
    settings::{EvaluateSettings, required_model},
    training::{
        Observer,
        evaluate::{Downstream, Quality},
    },
};
use lm_saes_runtime::{Group, Registry};
use serde_json::{Map, Value, json};

/// Evaluates as the settings say.
///
/// # Errors
/// Whatever the settings, checkpoint, data or device refuse.
pub fn evaluate(
    settings: &EvaluateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
) -> Result<(Quality, Downstream)> {
    Ok(evaluate_recorded(settings, registry, observer)?.0)
}

/// [`evaluate`], and the figures the dictionary's own record states, if it does.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_recorded(
    settings: &EvaluateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
) -> Result<((Quality, Downstream), Stated)> {
    evaluate_with(settings, registry, observer, Group::solo())
}

/// [`evaluate_recorded`] as one of the ranks of `world`, which divide the rows and the dictionary's features; all call this with the
/// same settings and get the same figures.
///
/// # Errors
/// As [`evaluate`]; settings that do not fit the number of ranks, or a rank that is missing.
pub fn evaluate_with(
    settings: &EvaluateSettings,
    registry: &Registry,
    observer: &mut dyn Observer,
    world: Group,
) -> Result<((Quality, Downstream), Stated)> {
    settings.check()?;
    let size = settings.mesh_size(world.size());
    let mesh = Mesh::new(world, size)?;
    if !mesh.is_solo() {
        observer.phase(&format!("{} ranks", mesh.world.size()));
        let all = json!({
            "sae": { "pretrained_name_or_path": settings.sae.pretrained_name_or_path },
            "activation_factory": settings.activation_factory,
            "datasets": settings.datasets,
            "model": settings.model,
            "eval": settings.eval,
            "fold_activation_scale": settings.fold_activation_scale,
        });
        agree(&mut open_queue(registry, &settings.device_type)?, &mesh.world, &all)?;
    }
    let model = required_model(&settings.model, &settings.model_name)?;
    let factory = &settings.activation_factory;
    let mut bench =
        Workbench::open(registry, &settings.device_type, model, factory, &settings.datasets, observer)?;
    let fold = settings.fold_activation_scale && settings.sae.fold_activation_scale;
    bench.mesh = mesh.clone();
    let mut loaded = load_pretrained_on(&mut bench.q, &settings.sae, fold, &mesh)?;
    bench.check_model(&loaded.extras, &settings.sae)?;
    let stated = Stated::of(&loaded.extras);
    observer.phase("evaluating");
    let eval = settings.eval;
    let found = assess(&mut bench, &mut *loaded.dictionary, eval.total_eval_tokens, eval.downstream_tokens)?;
    Ok((found, stated))
}

/// Figures of a dictionary stated where it was trained or published.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stated {
    /// L0.
    pub l0: Option<f64>,
    /// Explained variance.
    pub explained_variance: Option<f64>,
}

impl Stated {
    pub(super) fn of(extras: &Map<String, Value>) -> Self {
        let figure = |key: &str| extras.get("stated").and_then(|s| s[key].as_f64());
        Self { l0: figure("l0"), explained_variance: figure("explained_variance") }
    }

    /// What is further from the stated figures than other text explains, in words; `None` if no figure is stated.
    pub fn compare(&self, quality: &Quality) -> Option<Vec<String>> {
        let rows = [
            ("L0", self.l0, quality.get("metrics/l0"), 0.25, 1.0),
            (
                "explained variance",
                self.explained_variance,
                quality.get("metrics/explained_variance"),
                0.0,
                0.05,
            ),
        ];
        let mut compared = false;
        let mut off = Vec::new();
        for (name, stated, found, relative, absolute) in rows {
            let (Some(stated), Some(found)) = (stated, found) else { continue };
            compared = true;
            let far = (stated - found).abs() > absolute + relative * stated.abs();
            if far || found.is_nan() {
                off.push(format!("{name} is {found:.4}, its record states {stated:.4}"));
            }
        }
        compared.then_some(off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_far_from_the_stated_ones_are_named() {
        let record = serde_json::json!({"stated": {"l0": 50.0, "explained_variance": 0.8}});
        let stated = Stated::of(record.as_object().unwrap());
        let quality = |l0: f64, explained: f64| {
            let values = [("metrics/l0", l0), ("metrics/explained_variance", explained)];
            Quality { tokens: 1, values: values.map(|(k, v)| (k.into(), v)).into(), dead_share: 0.0 }
        };
        assert_eq!(stated.compare(&quality(52.0, 0.78)), Some(vec![]));
        let off = stated.compare(&quality(3.0, f64::NAN)).unwrap();
        assert!(off.len() == 2 && off[0].contains("L0 is 3.0000") && off[0].contains("50.0000"), "{off:?}");
        assert_eq!(Stated::of(&Map::new()).compare(&quality(1.0, 1.0)), None);
    }
}
