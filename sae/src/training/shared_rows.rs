//! One batch for several readers that scale it differently: each way of scaling is made once, in place where it can be.

use super::source::{Scaler, needed};
use crate::{
    Result,
    activations::Batch,
    dictionary::{Dictionary, normalise::Scaling},
};
use lm_saes_runtime::{Arena, DType, Queue, Tensor, View};

/// The rows of a batch as members read them: raw or scaled, each way of scaling once.
pub(super) struct SharedRows {
    scaler: Scaler,
    hooks: Vec<Hook>,
    /// For each member and hook point the variant it reads.
    choices: Vec<Vec<usize>>,
    _memory: Arena,
}

/// One hook point's rows in all the ways members read them.
struct Hook {
    variants: Vec<Variant>,
}

struct Variant {
    /// None for raw rows.
    scaling: Option<Scaling>,
    /// Where scaled rows go; the batch itself when none.
    rows: Option<Tensor>,
}

impl SharedRows {
    /// For dictionaries, by member, with their norms known; members that are over read nothing.
    pub(super) fn new(
        q: &mut Queue,
        members: &[Option<&dyn Dictionary>],
        hook_points: &[String],
        rows: usize,
    ) -> Result<Self> {
        let mut kinds: Vec<Vec<Option<Scaling>>> = vec![Vec::new(); hook_points.len()];
        let mut widths = vec![0; hook_points.len()];
        let mut choices = Vec::new();
        for m in members {
            let mut choice = vec![0; hook_points.len()];
            if let Some(dictionary) = *m {
                for hook in needed(dictionary) {
                    let Some(i) = hook_points.iter().position(|h| *h == hook) else { continue };
                    let scaling = Some(Scaling::of(dictionary, &hook)?).filter(|s| s.constant() != Some(1.0));
                    let read = dictionary.hook_points_in().contains(&hook);
                    let settings = dictionary.settings();
                    widths[i] = if read { settings.d_model() } else { settings.d_out() };
                    choice[i] = kinds[i].iter().position(|k| *k == scaling).unwrap_or_else(|| {
                        kinds[i].push(scaling);
                        kinds[i].len() - 1
                    });
                }
            }
            choices.push(choice);
        }
        let take = |arena: &mut Arena| -> Result<(Scaler, Vec<Hook>)> {
            let scaler = Scaler::plan(arena, rows)?;
            let hook = |(kinds, width): (&Vec<Option<Scaling>>, &usize)| -> Result<Hook> {
                // The last scaling takes the place of the raw rows, unless somebody wants those.
                let in_place = kinds.len().checked_sub(1).filter(|_| kinds.iter().all(Option::is_some));
                let variant = |(i, scaling): (usize, &Option<Scaling>)| -> Result<Variant> {
                    let copied = scaling.is_some() && in_place != Some(i);
                    let rows = copied
                        .then(|| arena.tensor("rows scaled otherwise", rows, *width, DType::F32))
                        .transpose()?;
                    Ok(Variant { scaling: *scaling, rows })
                };
                Ok(Hook { variants: kinds.iter().enumerate().map(variant).collect::<Result<_>>()? })
            };
            let hooks = kinds.iter().zip(&widths).map(hook).collect::<Result<_>>()?;
            Ok((scaler, hooks))
        };
        let mut plan = Arena::planning("shared rows");
        take(&mut plan)?;
        let mut memory = Arena::build(&plan, q.device())?;
        let (scaler, hooks) = take(&mut memory)?;
        Ok(Self { scaler, hooks, choices, _memory: memory })
    }

    /// Scales a batch. Copies first, so that they are made from raw rows.
    pub(super) fn scale(&mut self, q: &mut Queue, batch: &mut Batch) -> Result<()> {
        let context = batch.contexts.map(|(_, len)| len);
        for (hook, acts) in self.hooks.iter_mut().zip(&mut batch.acts) {
            for v in &mut hook.variants {
                if let (Some(scaling), Some(rows)) = (&v.scaling, &mut v.rows) {
                    self.scaler.copy(q, scaling, context, acts, rows)?;
                }
            }
            for v in &hook.variants {
                if let (Some(scaling), None) = (&v.scaling, &v.rows) {
                    self.scaler.in_place(q, scaling, context, acts)?;
                }
            }
        }
        Ok(())
    }

    /// What a member reads, in the order of the hook points.
    pub(super) fn views<'a>(&'a self, member: usize, batch: &'a Batch) -> Vec<View<'a>> {
        let view = |((hook, acts), &choice): ((&'a Hook, &'a Tensor), &usize)| match hook.variants.get(choice)
        {
            Some(Variant { rows: Some(rows), .. }) => rows.rows_view(0..acts.rows()),
            _ => acts.view(),
        };
        self.hooks.iter().zip(&batch.acts).zip(&self.choices[member]).map(view).collect()
    }
}
