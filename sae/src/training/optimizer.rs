//! Adam and the reference system's sparse Adam over a dictionary's parameters, the gradient norm, and clipping
//! (TRAINING §4).

use crate::{
    Error, Result,
    dictionary::{Dictionary, GradientPart, ParamGroup},
    parallel::Axis,
    settings::{OptimizerKind, TrainerSettings},
};
use lm_saes_runtime::{AdamArgs, Arena, DType, MapKind, Queue, ReduceKind, Reduction, Tensor};

const EPS: f32 = 1e-8;

/// Moments and step counts of every parameter.
pub struct Optimizer {
    kind: OptimizerKind,
    betas: (f64, f64),
    clip: f64,
    moments: Vec<Moments>,
    /// Σg² and the number of non-zero g of each parameter, `[n, 2]`.
    stats: Tensor,
    /// The same of one part, `[1, 2]`.
    part_stats: Tensor,
    /// Who has the other parts of the parameters.
    shards: Axis,
    /// `[1, widest parameter]`, column sums on the way to `stats`.
    columns: Tensor,
}

/// Optimiser state of one parameter, shaped like the parameter on the device.
pub struct Moments {
    /// Name of the parameter.
    pub name: String,
    /// First moment.
    pub m: Tensor,
    /// Second moment.
    pub v: Tensor,
    /// Updates made.
    pub t: u64,
    group: ParamGroup,
    /// Whether this rank counts its part of the parameter.
    counts: bool,
}

/// Root mean squares over the non-zero entries of the gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientNorms {
    /// As computed, thresholds left out.
    pub before_clipping: f64,
    /// As applied, all parameters.
    pub applied: f64,
}

impl Optimizer {
    /// Takes the state of all parameters of `dictionary` from `arena`.
    pub fn plan(arena: &mut Arena, dictionary: &dyn Dictionary, s: &TrainerSettings) -> Result<Self> {
        let params = dictionary.params();
        let mut moments = Vec::with_capacity(params.len());
        for p in &params {
            let (rows, cols) = (p.value.rows(), p.value.cols());
            moments.push(Moments {
                name: p.name.clone(),
                m: arena.tensor(&format!("{} first moment", p.name), rows, cols, DType::F32)?,
                v: arena.tensor(&format!("{} second moment", p.name), rows, cols, DType::F32)?,
                t: 0,
                group: p.group,
                counts: dictionary.share().counts(p),
            });
        }
        let widest = params.iter().map(|p| p.value.cols()).max().unwrap_or(0);
        Ok(Self {
            kind: s.optimizer_class,
            betas: s.betas,
            clip: s.clip_grad_norm,
            moments,
            shards: dictionary.base().mesh.shards.clone(),
            stats: arena.tensor("gradient statistics", params.len(), 2, DType::F32)?,
            part_stats: arena.tensor("statistics of a part", 1, 2, DType::F32)?,
            columns: arena.tensor("gradient column sums", 1, widest, DType::F32)?,
        })
    }

    /// Zero moments, no updates made.
    pub fn reset(&mut self, q: &mut Queue) -> Result<()> {
        for s in &mut self.moments {
            q.fill(&mut s.m, 0.0)?;
            q.fill(&mut s.v, 0.0)?;
            s.t = 0;
        }
        Ok(())
    }

    /// Forgets the moments of row i, or of entry i of a vector, of the parameters with these names.
    pub fn forget(&mut self, q: &mut Queue, names: &[String], i: usize) -> Result<()> {
        for s in self.moments.iter_mut().filter(|s| names.contains(&s.name)) {
            for t in [&mut s.m, &mut s.v] {
                let part = match t.rows() {
                    1 => t.view_mut().slice_cols(i..i + 1),
                    _ => t.rows_mut(i..i + 1),
                };
                q.fill(part, 0.0)?;
            }
        }
        Ok(())
    }

    /// The state of every parameter, in their order.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// The state of every parameter, to restore.
    pub fn moments_mut(&mut self) -> &mut [Moments] {
        &mut self.moments
    }

    /// One update of all parameters from their gradients, those that are kept being added up over the ranks first. `lr` is that of the others and of the thresholds.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a gradient is not finite; with clipping or sparse Adam no parameter has changed then.
    pub fn step(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        lr: (f64, f64),
        step: u64,
    ) -> Result<GradientNorms> {
        let sparse = self.kind == OptimizerKind::SparseAdam;
        let data = dictionary.base().mesh.data.clone();
        for grad in dictionary.params_mut().into_iter().filter_map(|p| p.grad.as_mut()) {
            data.all_reduce(q, grad, Reduction::Sum)?;
        }
        // The fused update measures the gradient in passing; only these two need the figures first.
        let first = if sparse || self.clip > 0.0 {
            self.measure(q, dictionary)?;
            Some(self.read(q, step)?)
        } else {
            None
        };
        let before = first.as_ref().map(|f| self.rms(f, false));
        let scale = match before {
            Some(norm) if self.clip > 0.0 && norm > self.clip => self.clip / (norm + 1e-6),
            _ => 1.0,
        };
        self.update(q, dictionary, lr, scale, first.as_deref())?;
        match (first, before) {
            (Some(mut stats), Some(before)) => {
                for (s, m) in stats.iter_mut().zip(&self.moments) {
                    if m.group == ParamGroup::Others {
                        s.0 *= scale * scale;
                    }
                }
                Ok(GradientNorms { before_clipping: before, applied: self.rms(&stats, true) })
            }
            _ => {
                let stats = self.read(q, step)?;
                Ok(GradientNorms {
                    before_clipping: self.rms(&stats, false),
                    applied: self.rms(&stats, true),
                })
            }
        }
    }

    /// Adam over all parts. `measured` are the figures of each parameter where they are known; otherwise they are taken.
    fn update(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        lr: (f64, f64),
        scale: f64,
        measured: Option<&[(f64, f64)]>,
    ) -> Result<()> {
        let (sparse, betas) = (self.kind == OptimizerKind::SparseAdam, self.betas);
        // Sparse Adam leaves a parameter without any gradient as it is.
        let idle = |i: usize| sparse && measured.is_some_and(|f| f[i].1 == 0.0);
        for (i, s) in self.moments.iter_mut().enumerate() {
            s.t += u64::from(!idle(i));
        }
        if measured.is_none() {
            q.fill(&mut self.stats, 0.0)?;
        }
        let Self { moments, stats, part_stats, .. } = self;
        dictionary.gradients(q, &mut |q, part| {
            let GradientPart { param, rows, value, grad } = part;
            if idle(param) {
                return Ok(());
            }
            let s = &mut moments[param];
            let thresholds = s.group == ParamGroup::Thresholds;
            let args = AdamArgs {
                lr: if thresholds { lr.1 } else { lr.0 } as f32,
                beta1: betas.0 as f32,
                beta2: betas.1 as f32,
                eps: EPS,
                t: s.t,
                grad_scale: if thresholds { 1.0 } else { scale as f32 },
                sparse,
            };
            let (m, v) = (s.m.rows_mut(rows.clone()), s.v.rows_mut(rows));
            let own = measured.is_none().then(|| part_stats.view_mut());
            q.adam(value, m, v, grad, args, own, None)?;
            if measured.is_none() {
                q.zip_in_place(MapKind::Add, &*part_stats, 1.0, 1.0, stats.rows_mut(param..param + 1))?;
            }
            Ok(())
        })
    }

    /// Fills `stats` from gradients nothing was done with yet.
    fn measure(&mut self, q: &mut Queue, dictionary: &mut dyn Dictionary) -> Result<()> {
        q.fill(&mut self.stats, 0.0)?;
        let Self { stats, columns, .. } = self;
        dictionary.gradients(q, &mut |q, part| {
            for (j, kind) in [ReduceKind::SumSq, ReduceKind::NonZero].into_iter().enumerate() {
                let mut columns = columns.view_mut().slice_cols(0..part.grad.cols());
                q.reduce_rows(kind, part.grad, None, columns.reborrow(), 0.0)?;
                let sum = stats.rows_mut(part.param..part.param + 1).slice_cols(j..j + 1);
                q.reduce_cols(ReduceKind::Sum, columns.as_view(), sum, 1.0)?;
            }
            Ok(())
        })
    }

    /// (Σg², non-zero entries) of each parameter, over all its parts.
    fn read(&self, q: &mut Queue, step: u64) -> Result<Vec<(f64, f64)>> {
        let flat: Vec<f32> = q.download(&self.stats)?;
        let mut flat: Vec<f64> = flat.into_iter().map(f64::from).collect();
        if !self.shards.is_solo() {
            for (stats, _) in flat.chunks_exact_mut(2).zip(&self.moments).filter(|(_, m)| !m.counts) {
                stats.fill(0.0);
            }
            self.shards.sum_f64(q, &mut flat)?;
        }
        let stats: Vec<(f64, f64)> = flat.chunks_exact(2).map(|c| (c[0], c[1])).collect();
        match stats.iter().zip(&self.moments).find(|(s, _)| !s.0.is_finite()) {
            Some((_, m)) => Err(Error::NonFinite {
                step,
                what: format!("the gradient of {}", m.name),
                hint: String::new(),
            }),
            None => Ok(stats),
        }
    }

    fn rms(&self, stats: &[(f64, f64)], thresholds: bool) -> f64 {
        let counted = stats
            .iter()
            .zip(&self.moments)
            .filter(|(_, m)| thresholds || m.group == ParamGroup::Others)
            .fold((0.0, 0.0), |a, (s, _)| (a.0 + s.0, a.1 + s.1));
        if counted.1 == 0.0 { 0.0 } else { (counted.0 / counted.1).sqrt() }
    }
}
