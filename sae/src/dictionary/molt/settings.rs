//! Settings of a mixture of linear transforms. VARIANTS §10.

use super::Molt;
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Share,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    parallel::placement::even,
    settings::ActFn,
};
use lm_saes_runtime::Queue;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::Range};

/// What a MoLT has beside the common settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoltSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// Hook point reconstructed.
    pub hook_point_out: String,
    /// Number of transforms of each rank. Features are in the order of ascending ranks.
    pub rank_counts: BTreeMap<Rank, usize>,
}

/// A rank; in files the keys of a table are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rank(pub usize);

impl TryFrom<String> for Rank {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("the rank {text:?} is no whole number"))
    }
}

impl From<Rank> for String {
    fn from(rank: Rank) -> Self {
        rank.0.to_string()
    }
}

impl VariantSettings for MoltSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn d_sae(&self, _common: &CommonSettings) -> usize {
        self.rank_counts.values().sum()
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu, ActFn::JumpRelu, ActFn::TopK, ActFn::BatchTopK], "molt")?;
        if self.rank_counts.is_empty() || self.rank_counts.iter().any(|(r, n)| r.0 == 0 || *n == 0) {
            return Err(Error::setting("rank_counts", "needs ranks and numbers of transforms of at least 1"));
        }
        let ratio = self.d_sae(common) as f64 / common.d_model as f64;
        if (common.expansion_factor - ratio).abs() >= 0.1 {
            let what = format!(
                "is {}, but rank_counts gives {} transforms, {ratio:.3} times d_model",
                common.expansion_factor,
                self.d_sae(common)
            );
            return Err(Error::setting("expansion_factor", what));
        }
        Ok(())
    }
    /// Every rank group is divided, so that features and their transforms stay together.
    fn divided(&self, _common: &CommonSettings) -> Vec<(usize, &'static str)> {
        self.rank_counts.values().map(|n| (*n, "a number of transforms of rank_counts")).collect()
    }
    fn features(&self, _common: &CommonSettings, parts: usize, index: usize) -> Vec<Range<usize>> {
        let mut first = 0;
        let group = |n: &usize| {
            let own = even(*n, parts, index);
            first += n;
            first - n + own.start..first - n + own.end
        };
        self.rank_counts.values().map(group).collect()
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        Ok(Box::new(Molt::zeros(q, settings, self, share)?))
    }
}
