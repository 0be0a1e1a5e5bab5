//! Metrics of training and evaluation (TRAINING §6), accumulated over a window of steps in the normalised space. Whatever is
//! as large as a batch is reduced on the device; what comes to the host is one number a row or a feature.

use crate::{
    Result,
    dictionary::{Codes, Coefficients, Dictionary, LossTerms, ParamGroup, Share, StepInput},
    parallel::{Axis, Mesh},
    training::optimizer::GradientNorms,
};
use lm_saes_runtime::{Arena, DType, MapKind, Queue, ReduceKind, Reduction, Tensor, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rows whose difference is held at once.
const BLOCK: usize = 1024;

/// Running sums since the last record.
pub struct MetricWindow {
    sums: Sums,
    /// Active features per token that counts, and explained variance, of the last step.
    last: (f64, f64),
    /// Rows that count in which each feature was active, one row of `[heads, S]` u32 for each code.
    fired: Tensor,
    /// Over how many heads L0 is averaged.
    averaged_heads: usize,
    /// Where metrics of each layer go, for a dictionary of layers.
    layers: Option<&'static str>,
    /// Sums of metrics only the variant has.
    own: BTreeMap<String, f64>,
    /// Reconstruction or label minus something, `[BLOCK, d]`.
    difference: Tensor,
    /// Mean label, `[1, d]`.
    mean: Tensor,
    /// Squared error, squared deviation and squared norm of each row, `[3, B]`.
    rows: Tensor,
    /// Σf and the number of active features over the batch, `[1, 2]`.
    total: Tensor,
    /// Who has the other rows of each batch, and which part of the dictionary is here.
    mesh: Mesh,
    share: Share,
}

/// Sums over steps. Serialised bit by bit, so that a resumed run records the same numbers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sums {
    steps: u64,
    tokens: u64,
    values: [f64; N],
}

const LOSS: usize = 0;
const L_REC: usize = 1;
const L_S: usize = 2;
const L_P: usize = 3;
const L_AUX: usize = 4;
const FEATURE_ACT: usize = 5;
const EV: usize = 6;
const EV_LEGACY: usize = 7;
const ERROR: usize = 8;
const ERROR_RATIO: usize = 9;
const GRAD_APPLIED: usize = 10;
const GRAD_BEFORE: usize = 11;
const N: usize = 12;

/// Saved form of a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedWindow {
    steps: u64,
    tokens: u64,
    /// f64 bits.
    values: Vec<u64>,
    /// f64 bits.
    own: BTreeMap<String, u64>,
    fired: Vec<u32>,
}

/// What the trainer knows beside the window.
#[derive(Clone, Copy, Debug)]
pub struct StepFacts {
    /// Learning rate of the first group.
    pub lr: f64,
    /// Tokens trained on before this step.
    pub tokens_before: u64,
    /// Coefficients in force.
    pub coefficients: Coefficients,
    /// Whether each of the three optional losses is on: sparsity, threshold penalty, auxiliary.
    pub losses: [bool; 3],
    /// Whether the activation has a k.
    pub has_k: bool,
}

impl MetricWindow {
    /// Takes what it needs from `arena`, for batches of up to `rows` rows of `dictionary`.
    pub fn plan(arena: &mut Arena, dictionary: &dyn Dictionary, rows: usize) -> Result<Self> {
        let d = dictionary.settings().d_out();
        let mut f32s = |label, r, c| arena.tensor(label, r, c, DType::F32);
        Ok(Self {
            sums: Sums::default(),
            last: (0.0, 0.0),
            difference: f32s("metrics: difference", rows.min(BLOCK), d)?,
            mean: f32s("metrics: mean label", 1, d)?,
            rows: f32s("metrics: row sums", 3, rows)?,
            total: f32s("metrics: totals", 1, 2)?,
            fired: arena.tensor(
                "metrics: fired",
                dictionary.codes().len(),
                dictionary.share().len(),
                DType::U32,
            )?,
            averaged_heads: dictionary.averaged_heads(),
            layers: dictionary.layer_metrics(),
            own: BTreeMap::new(),
            mesh: dictionary.base().mesh.clone(),
            share: dictionary.share().clone(),
        })
    }

    /// Starts a new window.
    pub fn reset(&mut self, q: &mut Queue) -> Result<()> {
        self.sums = Sums::default();
        self.own.clear();
        Ok(q.fill(&mut self.fired, 0.0)?)
    }

    /// Adds the last forward or step of `dictionary` on `input`; `weight` is `input.weight` on the host. Returns Σ w·‖ŷ−y‖²,
    /// the reconstruction loss.
    pub fn observe(
        &mut self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        input: &StepInput<'_>,
        weight: &[f32],
    ) -> Result<f64> {
        let before = if input.mask.is_some() { self.count_fired(q)? } else { 0 };
        let (mut total, mut active) = (0.0, 0.0);
        for (head, codes) in dictionary.codes().into_iter().enumerate() {
            let fired = self.fired.rows_mut(head..head + 1);
            match codes {
                Codes::Dense(f) => q.activity_dense(f, input.mask, fired)?,
                Codes::Sparse(s) => q.activity_sparse(s, input.mask, fired)?,
            }
            let (sum, n) = self.totals(q, codes)?;
            total += sum;
            active += n;
        }
        // Without a mask the total is that of the rows that count; with one, the counters know.
        let counted = if input.mask.is_some() { (self.count_fired(q)? - before) as f64 } else { active };
        let mut sums = [total, active, counted];
        self.mesh.data.sum_f64(q, &mut sums)?;
        self.share.sum(q, &mut sums)?;
        let [total, active, counted] = sums;
        self.sums.values[FEATURE_ACT] += if active > 0.0 { total / active } else { 0.0 };
        self.last = (counted / (input.n_tokens.max(1) * self.averaged_heads) as f64, 0.0);
        let reconstructions = dictionary.reconstruction();
        let heads = (input.labels.len() * self.mesh.head.size()) as f64;
        let mut fits = [0.0; 5];
        for (l, (y, yhat)) in input.labels.iter().zip(reconstructions).enumerate() {
            let r = self.row_sums(q, *y, yhat, input.weight)?;
            let mut sums = fit_sums(&r, y.rows(), weight);
            self.mesh.data.sum_f64(q, &mut sums)?;
            let f = fit(sums);
            let each = [f.ev, f.ev_legacy, f.error, f.error_ratio, f.l_rec];
            fits.iter_mut().zip(each).for_each(|(sum, value)| *sum += value / heads);
            if let Some(prefix) = self.layers {
                *self.own.entry(format!("{prefix}/layer{l}/explained_variance")).or_default() += f.ev;
            }
        }
        self.mesh.head.sum_f64(q, &mut fits)?;
        for (slot, value) in [EV, EV_LEGACY, ERROR, ERROR_RATIO].into_iter().zip(fits) {
            self.sums.values[slot] += value;
        }
        self.last.1 = fits[0];
        for (name, value) in dictionary.own_metrics(q, input, weight)? {
            *self.own.entry(name).or_default() += value;
        }
        self.sums.steps += 1;
        self.sums.tokens += input.n_tokens as u64;
        Ok(fits[4])
    }

    /// Adds the losses of a step.
    pub fn losses(&mut self, q: &mut Queue, dictionary: &dyn Dictionary, terms: &LossTerms) -> Result<()> {
        // The reference system logs the sparsity loss without the mask.
        let l_s = match dictionary.row_penalty() {
            Some(rows) => {
                let rows: Vec<f32> = q.download(rows)?;
                // What features add to a row is here in part, the row counts once.
                let counted = if self.share.leads() { rows.len() as f64 } else { 0.0 };
                let mut sums = [rows.iter().map(|&v| f64::from(v)).sum::<f64>(), counted];
                self.mesh.data.sum_f64(q, &mut sums)?;
                self.share.sum(q, &mut sums)?;
                sums[0] / sums[1].max(1.0)
            }
            None => terms.l_s.map_or(0.0, f64::from),
        };
        let part = |v: Option<f32>| v.map_or(0.0, f64::from);
        let values = &mut self.sums.values;
        values[LOSS] += f64::from(terms.loss);
        values[L_REC] += f64::from(terms.l_rec);
        values[L_S] += l_s;
        values[L_P] += part(terms.l_p);
        values[L_AUX] += part(terms.l_aux);
        Ok(())
    }

    /// Adds the gradient norms of a step; records have their maxima.
    pub fn gradients(&mut self, norms: GradientNorms) {
        let values = &mut self.sums.values;
        values[GRAD_APPLIED] = values[GRAD_APPLIED].max(norms.applied);
        values[GRAD_BEFORE] = values[GRAD_BEFORE].max(norms.before_clipping);
    }

    /// Active features per token that counts, and explained variance, of the last step.
    pub fn last(&self) -> (f64, f64) {
        self.last
    }

    /// Share of features that were never active in the window.
    pub fn silent_share(&self, q: &mut Queue) -> Result<f64> {
        let fired = self.fired(q)?;
        Ok(fired.iter().filter(|&&n| n == 0).count() as f64 / fired.len().max(1) as f64)
    }

    /// Rows of all ranks in which each feature of the whole dictionary was active.
    fn fired(&self, q: &mut Queue) -> Result<Vec<u32>> {
        let mut own: Vec<u32> = q.download(&self.fired)?;
        if !self.mesh.data.is_solo() {
            let mut all = q.tensor(1, own.len(), &own)?;
            self.mesh.data.all_reduce(q, &mut all, Reduction::Sum)?;
            own = q.download(&all)?;
        }
        self.share.whole(q, &own)
    }

    fn count_fired(&self, q: &mut Queue) -> Result<u64> {
        Ok(q.download::<u32>(&self.fired)?.into_iter().map(u64::from).sum())
    }

    fn per_token(&self, fired: &[u32]) -> f64 {
        let rows = (self.sums.tokens.max(1) * self.averaged_heads as u64) as f64;
        fired.iter().map(|&n| u64::from(n)).sum::<u64>() as f64 / rows
    }

    /// The metrics every dictionary has, training or not: frequencies, reconstruction, L0.
    pub fn quality(&self, q: &mut Queue) -> Result<Vec<(String, f64)>> {
        let fired = self.fired(q)?;
        let mut all = self.frequencies(&fired, "");
        all.extend(named([
            ("metrics/mean_feature_act", self.mean(FEATURE_ACT)),
            ("metrics/explained_variance", self.mean(EV)),
            ("metrics/explained_variance_legacy", self.mean(EV_LEGACY)),
            ("metrics/l0", self.per_token(&fired)),
            ("metrics/l2_norm_error", self.mean(ERROR)),
            ("metrics/l2_norm_error_ratio", self.mean(ERROR_RATIO)),
        ]));
        if let Some(prefix) = self.layers {
            for (l, fired) in fired.chunks((fired.len() / self.fired.rows().max(1)).max(1)).enumerate() {
                all.extend(self.frequencies(fired, &format!("_layer{l}")));
                all.push((format!("{prefix}/layer{l}/l0"), self.per_token(fired)));
            }
        }
        let steps = self.sums.steps.max(1) as f64;
        all.extend(self.own.iter().map(|(name, sum)| (name.clone(), sum / steps)));
        Ok(all)
    }

    /// How many features fire how often.
    fn frequencies(&self, fired: &[u32], suffix: &str) -> Vec<(String, f64)> {
        let tokens = self.sums.tokens.max(1) as f64;
        let share = |n: &u32| f64::from(*n) / tokens;
        let above = |bar: f64| fired.iter().filter(|n| share(n) > bar).count() as f64;
        let below = |bar: f64| fired.iter().filter(|n| share(n) < bar).count() as f64;
        let counts = [
            ("above_1e-1", above(1e-1)),
            ("above_1e-2", above(1e-2)),
            ("below_1e-5", below(1e-5)),
            ("below_1e-6", below(1e-6)),
            ("below_1e-7", below(1e-7)),
        ];
        counts.into_iter().map(|(name, n)| (format!("sparsity/{name}{suffix}"), n)).collect()
    }

    /// Everything a training record has. The window goes on; see [`MetricWindow::reset`].
    pub fn record(
        &self,
        q: &mut Queue,
        dictionary: &mut dyn Dictionary,
        facts: &StepFacts,
    ) -> Result<Vec<(String, f64)>> {
        let c = facts.coefficients;
        let mut all = self.quality(q)?;
        all.extend(named([("losses/overall_loss", self.mean(LOSS)), ("losses/mse_loss", self.mean(L_REC))]));
        let optional = [
            ("sparsity_loss", L_S, "l1_coefficient", c.l1),
            ("lp_loss", L_P, "lp_coefficient", c.lp),
            ("aux_loss", L_AUX, "auxk_coefficient", c.auxk),
        ];
        for ((name, slot, coefficient, value), on) in optional.into_iter().zip(facts.losses) {
            if on {
                all.push((format!("losses/{name}"), self.mean(slot)));
                all.push((format!("details/{coefficient}"), f64::from(value)));
            }
        }
        all.extend(named([
            ("metrics/gradient_norm_per_param", self.sums.values[GRAD_APPLIED]),
            ("metrics/gradient_norm_before_clipping", self.sums.values[GRAD_BEFORE]),
            ("details/current_learning_rate", facts.lr),
            ("details/n_training_tokens", facts.tokens_before as f64),
        ]));
        for (name, norms) in
            [("encoder", dictionary.encoder_norms(q)?), ("decoder", dictionary.decoder_norms(q)?)]
        {
            all.push((format!("metrics/{name}_norm"), self.mean_over_parts(q, mean(&norms))?));
        }
        if let Some(norm) = decoder_bias_norm(q, dictionary)? {
            let norm = self.mean_over_parts(q, norm)?;
            all.push(("metrics/decoder_bias_norm".into(), norm));
        }
        if facts.has_k {
            all.push(("sparsity/k".into(), c.k as f64));
        }
        if let Some(threshold) = mean_threshold(q, dictionary)? {
            let threshold = self.mean_over_parts(q, threshold)?;
            all.push(("metrics/mean_jumprelu_threshold".into(), threshold));
        }
        Ok(all)
    }

    /// Parts of a dictionary are equally large.
    fn mean_over_parts(&self, q: &mut Queue, own: f64) -> Result<f64> {
        let mut sum = [own];
        self.share.sum(q, &mut sum)?;
        Ok(sum[0] / self.share.part().1 as f64)
    }

    /// The window as saved in a snapshot.
    pub fn save(&self, q: &mut Queue) -> Result<SavedWindow> {
        Ok(SavedWindow {
            steps: self.sums.steps,
            tokens: self.sums.tokens,
            values: self.sums.values.iter().map(|v| v.to_bits()).collect(),
            own: self.own.iter().map(|(name, v)| (name.clone(), v.to_bits())).collect(),
            fired: self.fired(q)?,
        })
    }

    /// Takes up a saved window.
    pub fn restore(&mut self, q: &mut Queue, saved: &SavedWindow) -> Result<()> {
        self.sums = Sums { steps: saved.steps, tokens: saved.tokens, values: [0.0; N] };
        for (to, from) in self.sums.values.iter_mut().zip(&saved.values) {
            *to = f64::from_bits(*from);
        }
        self.own = saved.own.iter().map(|(name, &v)| (name.clone(), f64::from_bits(v))).collect();
        // The counters of the ranks are added up: one of them goes on with what was saved.
        match self.mesh.data.rank() {
            0 => Ok(q.upload(&self.share.own(&saved.fired), &mut self.fired)?),
            _ => Ok(q.fill(&mut self.fired, 0.0)?),
        }
    }

    /// Takes out what was added since the last time, but for which features fired.
    pub fn take(&mut self) -> SavedWindow {
        let sums = std::mem::take(&mut self.sums);
        SavedWindow {
            steps: sums.steps,
            tokens: sums.tokens,
            values: sums.values.map(f64::to_bits).to_vec(),
            own: std::mem::take(&mut self.own).into_iter().map(|(name, v)| (name, v.to_bits())).collect(),
            fired: Vec::new(),
        }
    }

    /// Adds what [`MetricWindow::take`] gave here or on another rank. Gradient norms, whose maxima count, are not among it.
    pub fn add(&mut self, taken: &SavedWindow) {
        self.sums.steps += taken.steps;
        self.sums.tokens += taken.tokens;
        self.sums.values.iter_mut().zip(&taken.values).for_each(|(sum, v)| *sum += f64::from_bits(*v));
        for (name, v) in &taken.own {
            *self.own.entry(name.clone()).or_default() += f64::from_bits(*v);
        }
    }

    /// Adds how often features fired on the other ranks.
    pub fn add_fired(&mut self, q: &mut Queue, ranks: &Axis) -> Result<()> {
        ranks.all_reduce(q, self.fired.view_mut(), Reduction::Sum)
    }

    fn mean(&self, slot: usize) -> f64 {
        self.sums.values[slot] / self.sums.steps.max(1) as f64
    }

    /// Σf and #(f > 0) over the whole batch.
    fn totals(&mut self, q: &mut Queue, codes: Codes<'_>) -> Result<(f64, f64)> {
        let values = match codes {
            Codes::Dense(f) => f,
            Codes::Sparse(s) => match s.ptr {
                // Entries past the last offset are undefined.
                Some(ptr) => {
                    let last = ptr.cols().saturating_sub(1);
                    let n: Vec<u32> = q.download(ptr.slice_cols(last..ptr.cols()))?;
                    s.vals.slice_cols(0..n.first().map_or(0, |&n| n as usize))
                }
                None => s.vals,
            },
        };
        let b = values.rows();
        for (i, kind) in [ReduceKind::Sum, ReduceKind::NonZero].into_iter().enumerate() {
            q.reduce_cols(kind, values, lane(&mut self.rows, 0, b).reshaped(b, 1), 0.0)?;
            let sums = self.rows.rows_view(0..1).slice_cols(0..b);
            q.reduce_cols(ReduceKind::Sum, sums, self.total.view_mut().slice_cols(i..i + 1), 0.0)?;
        }
        let total: Vec<f32> = q.download(&self.total)?;
        Ok((f64::from(total[0]), f64::from(total[1])))
    }

    /// ‖ŷ−y‖², ‖y−ȳ‖² and ‖y‖² of every row, one after the other.
    fn row_sums(&mut self, q: &mut Queue, y: View<'_>, yhat: View<'_>, weight: View<'_>) -> Result<Vec<f32>> {
        let b = y.rows();
        let mut mean = self.mean.view_mut().slice_cols(0..y.cols());
        q.reduce_rows(ReduceKind::Sum, y, Some(weight), mean.reborrow(), 0.0)?;
        self.mesh.data.all_reduce(q, mean.reborrow(), Reduction::Sum)?;
        let mut at = 0;
        while at < b {
            let n = BLOCK.min(b - at);
            let (y, yhat) = (y.slice_rows(at..at + n), yhat.slice_rows(at..at + n));
            let mut difference = self.difference.rows_mut(0..n).slice_cols(0..y.cols());
            let (narrow, whole) = (y.cols(), yhat.cols());
            for (i, minus) in [yhat.slice_cols(0..narrow), mean.as_view()].into_iter().enumerate() {
                q.zip(MapKind::Add, y, minus, 1.0, -1.0, difference.reborrow())?;
                let out = lane(&mut self.rows, i, b).slice_cols(at..at + n).reshaped(n, 1);
                q.reduce_cols(ReduceKind::SumSq, difference.as_view(), out, 0.0)?;
            }
            // A label narrower than its reconstruction counts as padded with zeros.
            if narrow < whole {
                let out = lane(&mut self.rows, 0, b).slice_cols(at..at + n).reshaped(n, 1);
                q.reduce_cols(ReduceKind::SumSq, yhat.slice_cols(narrow..whole), out, 1.0)?;
            }
            at += n;
        }
        q.reduce_cols(ReduceKind::SumSq, y, lane(&mut self.rows, 2, b).reshaped(b, 1), 0.0)?;
        let mut all = Vec::with_capacity(3 * b);
        for i in 0..3 {
            all.extend(q.download::<f32>(self.rows.rows_view(i..i + 1).slice_cols(0..b))?);
        }
        Ok(all)
    }
}

fn lane(rows: &mut Tensor, i: usize, b: usize) -> lm_saes_runtime::ViewMut<'_> {
    rows.rows_mut(i..i + 1).slice_cols(0..b)
}

/// How well a batch is reconstructed.
struct Fit {
    l_rec: f64,
    ev: f64,
    ev_legacy: f64,
    error: f64,
    error_ratio: f64,
}

/// Weighted sums of squared errors, squared deviations, shares explained, errors and norms, from the three sums of every row.
fn fit_sums(rows: &[f32], b: usize, weight: &[f32]) -> [f64; 5] {
    let [mut e2, mut c2, mut legacy, mut error, mut norm] = [0.0; 5];
    for t in (0..b).filter(|&t| weight[t] > 0.0) {
        let w = f64::from(weight[t]);
        let [e, c, y] = [rows[t], rows[b + t], rows[2 * b + t]].map(f64::from);
        e2 += w * e;
        c2 += w * c;
        legacy += w * (1.0 - e / c);
        error += w * e.sqrt();
        norm += w * y.sqrt();
    }
    [e2, c2, legacy, error, norm]
}

/// From those sums over all rows, whose weights add up to 1.
fn fit([e2, c2, legacy, error, norm]: [f64; 5]) -> Fit {
    Fit { l_rec: e2, ev: 1.0 - e2 / c2, ev_legacy: legacy, error, error_ratio: error / norm }
}

fn named<const K: usize>(values: [(&str, f64); K]) -> Vec<(String, f64)> {
    values.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64
}

/// Mean norm of the decoder biases, one for each output.
fn decoder_bias_norm(q: &mut Queue, dictionary: &dyn Dictionary) -> Result<Option<f64>> {
    let mut norms = Vec::new();
    for p in dictionary.params().into_iter().filter(|p| p.name == "b_D" || p.name.starts_with("b_D.")) {
        let values: Vec<f32> = q.download(&p.value)?;
        let d = p.shape.last().copied().unwrap_or(1).max(1);
        norms.extend(
            values.chunks(d).map(|b| b.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt() as f32),
        );
    }
    Ok((!norms.is_empty()).then(|| mean(&norms)))
}

fn mean_threshold(q: &mut Queue, dictionary: &dyn Dictionary) -> Result<Option<f64>> {
    let mut thetas = Vec::new();
    for p in dictionary.params().into_iter().filter(|p| p.group == ParamGroup::Thresholds) {
        let log = p.is_log_threshold();
        let value = |v: f32| if log { v.exp() } else { v };
        thetas.extend(q.download::<f32>(&p.value)?.into_iter().map(value));
    }
    Ok((!thetas.is_empty()).then(|| mean(&thetas)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_rows_do_not_count_and_both_definitions_of_explained_variance_differ() {
        // Rows: squared error, squared deviation, squared norm; the last row is masked.
        let rows = [1.0, 4.0, 99.0, 10.0, 8.0, 99.0, 4.0, 16.0, 99.0];
        let f = fit(fit_sums(&rows, 3, &[0.5, 0.5, 0.0]));
        assert!((f.l_rec - 2.5).abs() < 1e-12);
        assert!((f.ev - (1.0 - 2.5 / 9.0)).abs() < 1e-12);
        assert!((f.ev_legacy - (0.9 + 0.5) / 2.0).abs() < 1e-12);
        assert!((f.error - 1.5).abs() < 1e-12);
        assert!((f.error_ratio - 0.5).abs() < 1e-12);
    }
}
