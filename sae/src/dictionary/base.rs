//! What every dictionary holds: its settings, the part of it that is this rank's, the average norms of the activations it was made
//! for, and what selections over the batch let through.

use super::{RunningThresholds, Share, settings::DictionarySettings};
use crate::{
    Error, Result,
    parallel::Mesh,
    settings::{ActFn, NormActivation},
};
use lm_saes_runtime::{Queue, Reduction, View, ViewMut};
use std::collections::BTreeMap;

/// Settings and average norms of a dictionary.
pub struct Base {
    /// Settings as they will be saved, of the whole dictionary.
    pub settings: DictionarySettings,
    /// What of it is here.
    pub share: Share,
    /// Average activation norm by hook point, for dataset-wise normalisation.
    pub norms: BTreeMap<String, f32>,
    /// What selections over the batch let through in training.
    pub running: RunningThresholds,
    /// The ranks this one works with; alone until told otherwise, before anything is planned.
    pub mesh: Mesh,
}

impl Base {
    /// No norms are known yet. `layers` select on their own.
    pub(super) fn new(settings: &DictionarySettings, layers: usize, share: Share) -> Self {
        let running = RunningThresholds::of(settings, layers);
        Self { settings: settings.clone(), share, norms: BTreeMap::new(), running, mesh: Mesh::solo() }
    }

    /// Reduces sums over features that are partial, such as reconstructions.
    pub(super) fn sum_over_features(&self, q: &mut Queue, x: ViewMut<'_>) -> Result<()> {
        self.mesh.model.all_reduce(q, x, Reduction::Sum)
    }

    /// Features here, of each layer.
    pub(super) fn features(&self) -> usize {
        self.share.len()
    }

    /// What a plan is made for: the settings, but at inference with running thresholds those of a JumpReLU.
    pub(super) fn planned(&mut self, training: bool) -> DictionarySettings {
        self.running.plan(&self.settings, training)
    }

    /// The activation function of the present plan.
    pub(super) fn planned_act_fn(&self) -> ActFn {
        self.running.act_fn(&self.settings)
    }

    /// The one input, of width d_model, of a dictionary of one hook point.
    pub(super) fn input<'a>(&self, views: &[View<'a>]) -> Result<View<'a>> {
        only(views, "input", self.settings.d_model())
    }

    /// Its one label.
    pub(super) fn label<'a>(&self, views: &[View<'a>]) -> Result<View<'a>> {
        only(views, "label", self.settings.d_out())
    }

    /// What multiplies raw activations of every input and every output hook point, for folding (VARIANTS §4).
    ///
    /// # Errors
    /// Another normalisation than dataset-wise, or an average norm that is not known.
    pub(super) fn folding_factors(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let mode = self.settings.norm_activation();
        if mode != NormActivation::DatasetWise {
            let what = format!("folding needs dataset-wise normalisation, this dictionary has {mode:?}");
            return Err(Error::setting("fold_activation_scale", what));
        }
        let factor = |hook_point: &String| {
            let norm = self.norms.get(hook_point).copied().filter(|n| n.is_finite() && *n > 0.0);
            let norm = norm.ok_or_else(|| Error::Data {
                what: format!("cannot fold: no average activation norm of {hook_point} is known"),
            })?;
            Ok((self.settings.d_model() as f32).sqrt() / norm)
        };
        let all = |hooks: Vec<String>| hooks.iter().map(factor).collect::<Result<Vec<f32>>>();
        Ok((all(self.settings.hook_points_in())?, all(self.settings.hook_points_out())?))
    }

    /// Refuses decoder rows of norm 1 where scaling pre-activations to make up for them would change what is selected.
    pub(super) fn check_unit_norms(&self) -> Result<()> {
        if self.settings.gated() || !self.settings.act_fn().has_k() {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "decoder rows of norm 1".into(),
            why: "without sparsity_include_decoder_norm this dictionary ranks pre-activations, whose order would \
                  change"
                .into(),
        })
    }

    /// Raw activations map to raw activations from now on.
    pub(super) fn folded(&mut self) {
        self.settings.common.norm_activation = NormActivation::Inference;
    }
}

fn only<'a>(views: &[View<'a>], what: &str, width: usize) -> Result<View<'a>> {
    match views {
        [one] if one.cols() == width => Ok(*one),
        _ => Err(Error::Data { what: format!("expected one {what} of width {width}, got {views:?}") }),
    }
}
