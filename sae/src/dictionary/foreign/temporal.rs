//! Temporal SAE (arXiv 2511.01836, SAELens): attention over the codes of earlier positions predicts the code of this one, and what
//! the prediction leaves of the input is encoded sparsely. With λ = 1/(4d) and residual r, for each layer of attention
//!   z = relu(λ·r·W_E)   p = relu(attention(queries z, keys and values z one position earlier))
//!   c = ⟨p·W_D, r⟩/(‖p·W_D‖ + 1e-6)²   r −= c·p·W_D   prediction += c·p
//! then novel codes f = relu(λ·r·W_E), the k largest, and ŷ = (f + prediction)·W_D + b_D. Codes are the novel ones.

use super::{Applied, ReadOnly, refuse_parts};
use crate::{
    Error, Result,
    dictionary::{
        Dictionary, Param, Share,
        settings::{CommonSettings, DictionarySettings, VariantSettings},
    },
    settings::ActFn,
};
use lm_saes_runtime::{
    Arena, AttentionArgs, DType, GemmOpts, MapKind, Queue, ReduceKind, Select, SparseView, Tensor, View,
};
use serde::{Deserialize, Serialize};

const F32: DType = DType::F32;

/// What a temporal SAE has beside the common settings; `act_fn` is relu or topk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemporalSettings {
    /// Hook point read.
    pub hook_point_in: String,
    /// The same.
    pub hook_point_out: String,
    /// Heads of each attention.
    pub n_heads: usize,
    /// Layers of attention.
    pub n_attn_layers: usize,
    /// Queries and keys are this many times narrower than codes.
    pub bottleneck_factor: usize,
    /// The encoder is the decoder's transpose.
    pub tied_weights: bool,
    /// The encoder sees `x − b_D`.
    pub apply_b_dec_to_input: bool,
    /// What multiplies inputs, and divides reconstructions.
    pub input_scale: f32,
    /// Longest context that can be read at once.
    #[serde(default = "longest")]
    pub n_ctx: usize,
}

fn longest() -> usize {
    2048
}

impl VariantSettings for TemporalSettings {
    fn hook_points_in(&self) -> Vec<String> {
        vec![self.hook_point_in.clone()]
    }
    fn hook_points_out(&self) -> Vec<String> {
        vec![self.hook_point_out.clone()]
    }
    fn longest_context(&self) -> Option<usize> {
        Some(self.n_ctx)
    }
    fn validate(&self, common: &CommonSettings) -> Result<()> {
        common.act_fn.among(&[ActFn::Relu, ActFn::TopK], "temporal")?;
        let s = common.features();
        let part = self.bottleneck_factor.checked_mul(self.n_heads).filter(|p| *p > 0);
        if part.is_none_or(|p| !s.is_multiple_of(p)) {
            let what = format!("times n_heads has to divide the {s} features");
            return Err(Error::setting("bottleneck_factor", what));
        }
        if self.hook_point_in != self.hook_point_out {
            return Err(Error::setting("hook_point_out", "has to be hook_point_in"));
        }
        if !(self.input_scale.is_finite() && self.input_scale > 0.0) {
            return Err(Error::setting("input_scale", "has to be positive"));
        }
        Ok(())
    }
    fn build(
        &self,
        q: &mut Queue,
        settings: &DictionarySettings,
        share: Share,
    ) -> Result<Box<dyn Dictionary>> {
        refuse_parts(settings, &share)?;
        let (s, d) = (settings.d_sae(), settings.d_model());
        let narrow = s / self.bottleneck_factor;
        let mut layers = Vec::new();
        for i in 0..self.n_attn_layers {
            let mut linear = |name: &str, out: usize| -> Result<Linear> {
                let name = format!("attn_layers.{i}.{name}");
                let w = Param::zeros(q, &format!("{name}.weight"), &[out, s], Vec::new())?;
                Ok(Linear { w, b: Param::zeros(q, &format!("{name}.bias"), &[out], Vec::new())? })
            };
            layers.push([
                linear("k_ctx", narrow)?,
                linear("q_target", narrow)?,
                linear("v_ctx", s)?,
                linear("c_proj", s)?,
            ]);
        }
        let w_e = match self.tied_weights {
            true => None,
            false => Some(Param::transposed(q, "W_E", &[d, s], Vec::new())?),
        };
        let w_d = Param::zeros(q, "W_D", &[s, d], Vec::new())?;
        let b_d = Param::zeros(q, "b_D", &[d], Vec::new())?;
        let k = (settings.act_fn() == ActFn::TopK).then(|| settings.top_k().min(s));
        let temporal = Temporal { rules: self.clone(), k, w_e, w_d, b_d, layers, work: None };
        Ok(Box::new(ReadOnly::new(settings, share, temporal)))
    }
}

/// `x·Wᵀ + b`, `w [out, in]`.
struct Linear {
    w: Param,
    b: Param,
}

struct Temporal {
    rules: TemporalSettings,
    /// Of the selection, if there is one.
    k: Option<usize>,
    /// `[S, d]`, unless it is the decoder.
    w_e: Option<Param>,
    /// `[S, d]`.
    w_d: Param,
    b_d: Param,
    /// Keys, queries, values, output.
    layers: Vec<[Linear; 4]>,
    work: Option<Work>,
}

/// `[rows, S]` where not said otherwise.
struct Work {
    /// `[rows, d]`.
    residual: Tensor,
    z: Tensor,
    /// z one position earlier.
    earlier: Tensor,
    /// `[rows, S/bottleneck]`.
    keys: Tensor,
    queries: Tensor,
    values: Tensor,
    mixed: Tensor,
    prediction: Tensor,
    /// Part of the prediction in the input's space, `[rows, d]`.
    part: Tensor,
    product: Tensor,
    /// `[rows, 1]`.
    length: Tensor,
    coefficient: Tensor,
    /// 0 at the first position of a context, `[rows, 1]`.
    not_first: Tensor,
    /// `[1, rows]` u32.
    before: Tensor,
    /// `[rows, k]`.
    picked: Option<(Tensor, Tensor)>,
}

impl Applied for Temporal {
    fn params(&self) -> Vec<&Param> {
        let layers = self.layers.iter().flatten().flat_map(|l| [&l.w, &l.b]);
        self.w_e.iter().chain([&self.w_d, &self.b_d]).chain(layers).collect()
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        let layers = self.layers.iter_mut().flatten().flat_map(|l| [&mut l.w, &mut l.b]);
        self.w_e.iter_mut().chain([&mut self.w_d, &mut self.b_d]).chain(layers).collect()
    }

    fn plan(&mut self, arena: &mut Arena, rows: usize) -> Result<()> {
        let (s, d) = (self.w_d.value.rows(), self.w_d.value.cols());
        let narrow = s / self.rules.bottleneck_factor;
        let picked = match self.k {
            Some(k) => Some((
                arena.tensor("picked values", rows, k, F32)?,
                arena.tensor("picked indices", rows, k, DType::U32)?,
            )),
            None => None,
        };
        let before = arena.tensor("position before", 1, rows, DType::U32)?;
        let mut part = |label, cols| arena.tensor(label, rows, cols, F32);
        self.work = Some(Work {
            residual: part("residual", d)?,
            z: part("codes of the input", s)?,
            earlier: part("codes one position earlier", s)?,
            keys: part("keys", narrow)?,
            queries: part("queries", narrow)?,
            values: part("values", s)?,
            mixed: part("mixed values", s)?,
            prediction: part("prediction", s)?,
            part: part("predicted part", d)?,
            product: part("product", d)?,
            length: part("length", 1)?,
            coefficient: part("coefficient", 1)?,
            not_first: part("not the first position", 1)?,
            before,
            picked,
        });
        Ok(())
    }

    fn forward(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        context: Option<usize>,
        (codes, y): (&mut Tensor, &mut Tensor),
    ) -> Result<()> {
        let n = x.rows();
        let len = context.filter(|len| *len > 0 && n.is_multiple_of(*len)).ok_or_else(|| Error::Data {
            what: "a temporal SAE reads whole contexts; use target activations-2d with a context_size".into(),
        })?;
        let Some(w) = &mut self.work else {
            return Err(Error::Data { what: "the dictionary was not planned".into() });
        };
        let rules = &self.rules;
        let lambda = 1.0 / (4.0 * x.cols() as f32);
        let w_e = &self.w_e.as_ref().unwrap_or(&self.w_d).value;
        w.start(q, x, len, rules.input_scale, rules.apply_b_dec_to_input.then(|| self.b_d.value.view()))?;
        let encode = GemmOpts { alpha: lambda, tb: true, ..Default::default() };
        for layer in &self.layers {
            let mut z = w.z.rows_mut(0..n);
            q.gemm(w.residual.rows_view(0..n), w_e, z.reborrow(), encode)?;
            q.map_in_place(MapKind::Relu, 0.0, 0.0, z)?;
            w.attend(q, layer, rules.n_heads, (n, len))?;
            w.take_off(q, &self.w_d.value, n)?;
        }
        let mut f = codes.rows_mut(0..n);
        q.gemm(w.residual.rows_view(0..n), w_e, f.reborrow(), encode)?;
        q.map_in_place(MapKind::Relu, 0.0, 0.0, f.reborrow())?;
        if let Some((vals, idx)) = &mut w.picked {
            q.topk(f.as_view(), Select::default(), vals.rows_mut(0..n), idx.rows_mut(0..n))?;
            let (vals, idx) = (vals.rows_view(0..n), idx.rows_view(0..n));
            q.scatter(SparseView { vals, idx, ptr: None, n: f.cols() }, f.reborrow(), 0.0)?;
        }
        q.zip(MapKind::Add, f.as_view(), w.prediction.rows_view(0..n), 1.0, 1.0, w.z.rows_mut(0..n))?;
        let bias = !rules.tied_weights || rules.apply_b_dec_to_input;
        let opts = GemmOpts { bias: bias.then(|| self.b_d.value.view()), ..Default::default() };
        let mut y = y.rows_mut(0..n);
        q.gemm(w.z.rows_view(0..n), &self.w_d.value, y.reborrow(), opts)?;
        Ok(q.map_in_place(MapKind::Affine, 1.0 / rules.input_scale, 0.0, y)?)
    }

    fn decoder(&self) -> &Param {
        &self.w_d
    }
    fn encoder(&self) -> &Param {
        self.w_e.as_ref().unwrap_or(&self.w_d)
    }
}

impl Work {
    /// The residual before any prediction, and which rows have one before them.
    fn start(
        &mut self,
        q: &mut Queue,
        x: View<'_>,
        len: usize,
        scale: f32,
        bias: Option<View<'_>>,
    ) -> Result<()> {
        let n = x.rows();
        let mut residual = self.residual.rows_mut(0..n);
        q.map(MapKind::Affine, x, scale, 0.0, residual.reborrow())?;
        if let Some(bias) = bias {
            q.zip_in_place(MapKind::Add, bias, 1.0, -1.0, residual)?;
        }
        q.fill(self.prediction.rows_mut(0..n), 0.0)?;
        let before: Vec<u32> = (0..n).map(|i| i.saturating_sub(1) as u32).collect();
        let not_first: Vec<f32> = (0..n).map(|i| f32::from(u8::from(!i.is_multiple_of(len)))).collect();
        q.upload(&before, self.before.view_mut().slice_cols(0..n))?;
        Ok(q.upload(&not_first, self.not_first.rows_mut(0..n))?)
    }

    /// What attention predicts of the codes, into `mixed`'s place in `values`.
    fn attend(
        &mut self,
        q: &mut Queue,
        [k, query, v, out]: &[Linear; 4],
        heads: usize,
        (n, len): (usize, usize),
    ) -> Result<()> {
        let mut earlier = self.earlier.rows_mut(0..n);
        q.gather(self.z.rows_view(0..n), self.before.view().slice_cols(0..n), earlier.reborrow())?;
        q.zip_in_place(MapKind::Mul, self.not_first.rows_view(0..n), 1.0, 0.0, earlier)?;
        let mut linear = |x: &Tensor, l: &Linear, y: &mut Tensor| {
            let opts = GemmOpts { tb: true, bias: Some(l.b.value.view()), ..Default::default() };
            q.gemm(x.rows_view(0..n), &l.w.value, y.rows_mut(0..n), opts)
        };
        linear(&self.earlier, k, &mut self.keys)?;
        linear(&self.z, query, &mut self.queries)?;
        linear(&self.earlier, v, &mut self.values)?;
        let (d_head, d_value) = (self.keys.cols() / heads, self.values.cols() / heads);
        let args = AttentionArgs {
            batch: n / len,
            len,
            heads,
            kv_heads: heads,
            d_head,
            d_value,
            window: 0,
            scale: 1.0 / (d_head as f32).sqrt(),
            soft_cap: 0.0,
        };
        let parts = (self.queries.rows_view(0..n), self.keys.rows_view(0..n), self.values.rows_view(0..n));
        q.attention(parts.0, parts.1, parts.2, self.mixed.rows_mut(0..n), None, args)?;
        let mut p = self.values.rows_mut(0..n);
        let opts = GemmOpts { tb: true, bias: Some(out.b.value.view()), ..Default::default() };
        q.gemm(self.mixed.rows_view(0..n), &out.w.value, p.reborrow(), opts)?;
        Ok(q.map_in_place(MapKind::Relu, 0.0, 0.0, p)?)
    }

    /// Takes the predicted part, as far as the input has it, off the residual.
    fn take_off(&mut self, q: &mut Queue, w_d: &Tensor, n: usize) -> Result<()> {
        let mut part = self.part.rows_mut(0..n);
        q.gemm(self.values.rows_view(0..n), w_d, part.reborrow(), GemmOpts::default())?;
        let (mut length, mut c) = (self.length.rows_mut(0..n), self.coefficient.rows_mut(0..n));
        q.reduce_cols(ReduceKind::SumSq, part.as_view(), length.reborrow(), 0.0)?;
        q.map_in_place(MapKind::Sqrt, 0.0, 0.0, length.reborrow())?;
        q.map_in_place(MapKind::Affine, 1.0, 1e-6, length.reborrow())?;
        let mut product = self.product.rows_mut(0..n);
        q.zip(MapKind::Mul, part.as_view(), self.residual.rows_view(0..n), 1.0, 0.0, product.reborrow())?;
        q.reduce_cols(ReduceKind::Sum, product.as_view(), c.reborrow(), 0.0)?;
        // Twice, so that the square of a small length cannot become 0.
        q.zip_in_place(MapKind::Div, length.as_view(), 1.0, 0.0, c.reborrow())?;
        q.zip_in_place(MapKind::Div, length.as_view(), 1.0, 0.0, c.reborrow())?;
        let mut p = self.values.rows_mut(0..n);
        q.zip_in_place(MapKind::Mul, c.as_view(), 1.0, 0.0, p.reborrow())?;
        q.zip_in_place(MapKind::Add, p.as_view(), 1.0, 1.0, self.prediction.rows_mut(0..n))?;
        q.zip_in_place(MapKind::Mul, c.as_view(), 1.0, 0.0, part.reborrow())?;
        Ok(q.zip_in_place(MapKind::Add, part.as_view(), 1.0, -1.0, self.residual.rows_mut(0..n))?)
    }
}
