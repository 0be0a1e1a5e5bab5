//! Adam and the reference system's sparse Adam over a dictionary's parameters, the gradient norm, and clipping
//! (TRAINING §4). Where several ranks divide a batch, each updates its rows of every parameter and has moments of those alone:
//! gradients are added up where their rows belong and parameters gathered again, piece by piece, beside the computing.

mod gradients;
mod measure;

use self::{
    gradients::{Coming, Gradients, lost},
    measure::Measure,
};
use super::pieces::{Piece, Run, by_rows};
use crate::{
    Error, Result,
    dictionary::{Dictionary, ParamGroup},
    parallel::{Axis, Mesh},
    settings::{OptimizerKind, TrainerSettings},
    tensorfile::{PIECE, Put, in_pieces},
};
use lm_saes_runtime::{AdamArgs, Arena, DType, Exchange, MapKind, Queue, Tensor, View};
use std::{collections::VecDeque, ops::Range};

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
    measure: Option<Measure>,
    gradients: Gradients,
    /// All ranks that have some of the parameters or of their moments.
    mesh: Mesh,
}

/// Optimiser state of one parameter: of the rows that this rank updates.
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

/// Whether the gradients are measured before they are used: the fused update measures them in passing, only these two need the
/// figures first.
pub(crate) fn measures(s: &TrainerSettings) -> bool {
    s.clip_grad_norm > 0.0 || s.optimizer_class == OptimizerKind::SparseAdam
}

impl Optimizer {
    /// Takes the state of all parameters of `dictionary`, which was planned for training, from `arena`, and room for gradients that it
    /// does not keep from `step`.
    pub fn plan(
        step: &mut Arena,
        arena: &mut Arena,
        dictionary: &dyn Dictionary,
        s: &TrainerSettings,
    ) -> Result<Self> {
        let (params, mesh) = (dictionary.params(), dictionary.base().mesh.clone());
        let gradients = Gradients::plan(step, dictionary)?;
        let mut moments = Vec::with_capacity(params.len());
        for (i, p) in params.iter().enumerate() {
            let (rows, cols) = (gradients.rows_here(i), p.value.cols());
            moments.push(Moments {
                name: p.name.clone(),
                m: arena.tensor(&format!("{} first moment", p.name), rows, cols, DType::F32)?,
                v: arena.tensor(&format!("{} second moment", p.name), rows, cols, DType::F32)?,
                t: 0,
                group: p.group,
                counts: dictionary.share().counts(p),
            });
        }
        Ok(Self {
            kind: s.optimizer_class,
            betas: s.betas,
            clip: s.clip_grad_norm,
            moments,
            stats: arena.tensor("gradient statistics", params.len(), 2, DType::F32)?,
            part_stats: arena.tensor("statistics of a part", 1, 2, DType::F32)?,
            measure: measures(s).then(|| Measure::plan(arena, &gradients)).transpose()?,
            gradients,
            mesh,
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
        let Gradients { pieces, rank, size, .. } = &self.gradients;
        let named = self.moments.iter_mut().enumerate().filter(|(_, s)| names.contains(&s.name));
        for (param, s) in named {
            let mut own = pieces.iter().filter(|p| p.param == param);
            let vector = own.clone().all(|p| p.rows == (0..1));
            let row = if vector { Some(0) } else { own.find_map(|p| p.place(i, *rank, *size)) };
            for t in [&mut s.m, &mut s.v] {
                match row {
                    Some(_) if vector => q.fill(t.view_mut().slice_cols(i..i + 1), 0.0)?,
                    Some(row) => q.fill(t.rows_mut(row..row + 1), 0.0)?,
                    None => {}
                }
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

    /// Which rows of parameter `param` the moments here are of, in their order.
    pub(super) fn rows_here(&self, param: usize) -> Vec<Range<usize>> {
        let Gradients { pieces, rank, size, .. } = &self.gradients;
        let of = |i: usize| {
            let first = pieces[i].rows.start;
            pieces[i].runs(*rank, *size).map(move |r| first + r.rows.start..first + r.rows.end)
        };
        by_rows(pieces, param).into_iter().flat_map(of).collect()
    }

    /// First or second moments of all rows of parameter `param`, in pieces that take little memory. All ranks that divide the batch
    /// take part; the first one puts.
    pub(super) fn put_moments(
        &self,
        q: &mut Queue,
        param: usize,
        second: bool,
        put: &mut Put<'_>,
    ) -> Result<()> {
        let s = &self.moments[param];
        let (t, Gradients { pieces, rank, size, .. }) = (if second { &s.v } else { &s.m }, &self.gradients);
        if *size == 1 {
            return in_pieces(q, t, put);
        }
        let step = (PIECE / t.cols().max(1)).max(1);
        for i in by_rows(pieces, param) {
            let (Piece { moments, .. }, (each, left)) = (&pieces[i], pieces[i].divided(*size));
            for (whose, first) in (0..*size).flat_map(|r| (0..each).step_by(step).map(move |at| (r, at))) {
                let rows = first..each.min(first + step);
                let mut part = q.empty(rows.len(), t.cols(), DType::F32)?;
                if whose == *rank {
                    q.copy(t.rows_view(moments + rows.start..moments + rows.end), &mut part)?;
                }
                self.mesh.data.broadcast(q, &mut part, whose)?;
                if *rank == 0 {
                    put(&q.download(&part)?)?;
                }
            }
            if *rank == 0 && left > 0 {
                put(&q.download(t.rows_view(moments + each..moments + each + left))?)?;
            }
        }
        Ok(())
    }

    /// Starts adding up the gradients of the step just made over the ranks that divide the batch, where there are several: what is
    /// done before [`Optimizer::step`] hides some of it. The dictionary has none of them until then.
    ///
    /// # Errors
    /// A dictionary that was planned for inference, or what failed on the queue.
    pub fn begin(&mut self, q: &mut Queue, dictionary: &mut dyn Dictionary) -> Result<()> {
        match self.gradients.exchanges.is_solo() {
            true => Ok(()),
            false => self.gradients.begin(q, dictionary),
        }
    }

    /// One update of all parameters from their gradients, which are added up over the ranks first. `lr` is that of the others and of
    /// the thresholds.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a gradient is not finite; with clipping or sparse Adam no parameter has changed then. After a rank
    /// has failed the dictionary is not to be used any more.
    pub fn step(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        lr: (f64, f64),
        step: u64,
    ) -> Result<GradientNorms> {
        let mut coming = self.gradients.kept(q, dictionary)?;
        let mut first = None;
        if let Some(measure) = &mut self.measure {
            let take = &mut |q: &mut Queue, i: usize, _: &Piece, runs: &[Run], grad: View<'_>| {
                measure.take(q, i, runs, grad)
            };
            let kept = self.gradients.each(q, dictionary, coming, take)?;
            let sums = measure.sums(q, &self.gradients, self.moments.len())?;
            let sums = self.over(q, &self.mesh.shards, sums)?;
            if let Err(e) = self.finite(&sums, step) {
                self.gradients.keep(dictionary, kept)?;
                return Err(e);
            }
            coming = kept.into_iter().map(Coming::Here).enumerate().collect();
            first = Some(sums);
        }
        let before = first.as_ref().map(|f| self.rms(f, false));
        let scale = match before {
            Some(norm) if self.clip > 0.0 && norm > self.clip => self.clip / (norm + 1e-6),
            _ => 1.0,
        };
        self.update(q, dictionary, coming, lr, scale, first.as_deref())?;
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
                let flat: Vec<f32> = q.download(&self.stats)?;
                let sums = flat.chunks_exact(2).map(|c| (f64::from(c[0]), f64::from(c[1]))).collect();
                let stats = self.over(q, self.everybody(), sums)?;
                self.finite(&stats, step)?;
                Ok(GradientNorms {
                    before_clipping: self.rms(&stats, false),
                    applied: self.rms(&stats, true),
                })
            }
        }
    }

    /// Adam over all pieces. `measured` are the figures of each parameter where they are known; otherwise they are taken.
    fn update(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        coming: VecDeque<(usize, Coming)>,
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
        let Self { moments, stats, part_stats, gradients, .. } = self;
        let (mut values, exchanges) = (gradients.values(dictionary)?, gradients.exchanges.clone());
        let (rank, size) = (gradients.rank, gradients.size);
        let kept = gradients.each(q, dictionary, coming, &mut |q, i, piece, runs, grad| {
            let param = piece.param;
            let Some(Coming::Here(mut value)) = values[i].take() else { return Err(lost()) };
            if idle(param) {
                values[i] = Some(Coming::Here(value));
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
            for run in runs {
                let (m, v) = (s.m.rows_mut(run.moments.clone()), s.v.rows_mut(run.moments.clone()));
                let own = measured.is_none().then(|| part_stats.view_mut());
                let grad = grad.slice_rows(run.rows.clone());
                q.adam(value.rows_mut(run.rows.clone()), m, v, grad, args, own, None)?;
                if measured.is_none() && (rank == 0 || run.rank.is_some()) {
                    let sum = stats.rows_mut(param..param + 1);
                    q.zip_in_place(MapKind::Add, &*part_stats, 1.0, 1.0, sum)?;
                }
            }
            let rows = piece.rows.len();
            values[i] = Some(match piece.divided(size) {
                (1.., _) if size > 1 => Coming::Sent(exchanges.start(q, Exchange::Gather, value, rows)?),
                _ => Coming::Here(value),
            });
            Ok(())
        })?;
        gradients.keep(dictionary, kept)?;
        gradients.return_values(dictionary, values)
    }

    /// Sums over parameters of all of the dictionary and its moments, from those that this rank has.
    fn over(&self, q: &mut Queue, ranks: &Axis, mut sums: Vec<(f64, f64)>) -> Result<Vec<(f64, f64)>> {
        if ranks.is_solo() {
            return Ok(sums);
        }
        for (sum, _) in sums.iter_mut().zip(&self.moments).filter(|(_, m)| !m.counts) {
            *sum = (0.0, 0.0);
        }
        let mut flat: Vec<f64> = sums.into_iter().flat_map(|(a, b)| [a, b]).collect();
        ranks.sum_f64(q, &mut flat)?;
        Ok(flat.chunks_exact(2).map(|c| (c[0], c[1])).collect())
    }

    /// The ranks that have different rows of parameters or moments.
    fn everybody(&self) -> &Axis {
        let Mesh { data, shards, world, .. } = &self.mesh;
        match (data.is_solo(), shards.is_solo()) {
            (_, true) => data,
            (true, _) => shards,
            _ => world,
        }
    }

    fn finite(&self, sums: &[(f64, f64)], step: u64) -> Result<()> {
        match sums.iter().zip(&self.moments).find(|(s, _)| !s.0.is_finite()) {
            Some((_, m)) => Err(Error::NonFinite {
                step,
                what: format!("the gradient of {}", m.name),
                hint: String::new(),
            }),
            None => Ok(()),
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
