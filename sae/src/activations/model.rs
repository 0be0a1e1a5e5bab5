//! The language model as what gives activations: one pass, captured at the hook points, stopped after the last of them.

use super::Producer;
use crate::{
    Error, Result,
    data::TokenBatch,
    lm::{Lm, Run, Tokens},
};
use lm_saes_runtime::{Queue, Tensor};

impl Producer for Lm {
    fn activations(&self, q: &mut Queue, hook_points: &[String], t: &TokenBatch) -> Result<Vec<Tensor>> {
        let capture: Vec<&str> = hook_points.iter().map(String::as_str).collect();
        let tokens = Tokens { ids: &t.ids, batch: t.batch, len: t.len, mask: None };
        let mut out = self.run(q, &tokens, Run { capture: &capture, ..Run::default() })?;
        let take = |name: &&str| {
            out.captured
                .remove(*name)
                .ok_or_else(|| Error::Data { what: format!("{} gave no activations at {name}", self.name()) })
        };
        capture.iter().map(take).collect()
    }
}
