//! Parts of a model as starting values for dictionaries that replace them.

use super::{
    architecture::{NormKind, QkNorm},
    forward::{Pass, Tokens},
    hooks::Halt,
    model::Lm,
    parameters::Linear,
};
use crate::{
    Error, Result,
    dictionary::{ModelAttention, ModelParts},
};
use lm_saes_runtime::{DType, Queue, Tensor, View};

impl ModelParts for Lm {
    fn attention(&self, q: &mut Queue, layer: usize) -> Result<ModelAttention> {
        let a = &self.arch;
        let block = self.blocks.get(layer).ok_or_else(|| {
            let what = format!("is {layer}, {} has layers 0 to {}", self.name(), a.n_layers - 1);
            Error::setting("initializer.model_layer", what)
        })?;
        if a.qk_norm == QkNorm::Whole {
            return Err(Error::Unsupported {
                what: "starting values from this model's attention".into(),
                why: "it normalises queries and keys across heads, a Lorsa dictionary normalises each head"
                    .into(),
            });
        }
        // RMS norms are observed before their gain, so the gain, where it is not folded already, belongs to the maps.
        let gain = match &block.ln1 {
            Some(ln1) if a.norm == NormKind::Rms => ln1.gain.as_ref().map(|g| host(q, g)).transpose()?,
            _ => None,
        };
        let shared = a.n_heads / a.n_kv_heads;
        let mut input = |map: &Linear<Tensor>, heads_of_one: usize| -> Result<(Tensor, Option<Tensor>)> {
            let mut w = host(q, &map.w)?;
            if let Some(gain) = &gain {
                w.chunks_exact_mut(a.d_model)
                    .for_each(|row| row.iter_mut().zip(gain).for_each(|(w, g)| *w *= g));
            }
            let w = repeated(&w, a.d_head * a.d_model, heads_of_one);
            let width = a.n_heads * a.d_head;
            let b = match &map.b {
                Some(b) => Some(repeated(&host(q, b)?, a.d_head, heads_of_one)),
                None => None,
            };
            Ok((q.tensor(width, a.d_model, &w)?, b.map(|b| q.tensor(1, width, &b)).transpose()?))
        };
        let (w_q, b_q) = input(&block.q, 1)?;
        let (w_k, b_k) = input(&block.k, shared)?;
        let (w_v, _) = input(&block.v, shared)?;
        let out = host(q, &block.o.w)?;
        let width = a.n_heads * a.d_head;
        let across: Vec<f32> = (0..width)
            .flat_map(|c| (0..a.d_model).map(move |r| (r, c)))
            .map(|(r, c)| out[r * width + c])
            .collect();
        let mut gain_of = |t: &Option<Tensor>| -> Result<Option<Tensor>> {
            t.as_ref()
                .map(|t| {
                    let v = host(q, t)?;
                    Ok(q.tensor(1, a.d_head, &v)?)
                })
                .transpose()
        };
        let (q_gain, k_gain) = (gain_of(&block.q_norm)?, gain_of(&block.k_norm)?);
        Ok(ModelAttention {
            n_heads: a.n_heads,
            d_head: a.d_head,
            scale: a.layers[layer].scale,
            w_q,
            b_q,
            q_gain,
            w_k,
            b_k,
            k_gain,
            w_v,
            w_o: q.tensor(width, a.d_model, &across)?,
        })
    }

    fn mlp(&self, q: &mut Queue, layer: usize, hook_point: &str, x: View<'_>) -> Result<Tensor> {
        if layer >= self.blocks.len() {
            let what = format!("is {layer}, {} has layers 0 to {}", self.name(), self.blocks.len() - 1);
            return Err(Error::setting("initializer.model_layer", what));
        }
        let of_stream = match hook_point.strip_prefix(&format!("blocks.{layer}.")) {
            Some("ln2.hook_normalized") => false,
            // The stream as the MLP's norm sees it.
            Some("hook_resid_mid") if !self.arch.parallel => true,
            Some("hook_resid_pre") if self.arch.parallel => true,
            _ => {
                let what = format!(
                    "the MLP of layer {layer} does not read {hook_point}; let the dictionary read \
                     blocks.{layer}.ln2.hook_normalized, or set model_layer to the layer it reads"
                );
                return Err(Error::setting("initializer.initialize_tc_with_mlp", what));
            }
        };
        // Tokens do not matter to an MLP.
        let nobody = Tokens { ids: &[0], batch: 1, len: 1, mask: None };
        let mut pass = Pass::new(self, q, &nobody, &[], None, true)?;
        pass.mlp_of(layer, x, of_stream).map_err(Halt::into_error)
    }
}

/// Values of a tensor of any float type.
fn host(q: &mut Queue, t: &Tensor) -> Result<Vec<f32>> {
    if t.dtype() == DType::F32 {
        return Ok(q.download(t)?);
    }
    let mut wide = q.empty(t.rows(), t.cols(), DType::F32)?;
    q.copy(t, &mut wide)?;
    Ok(q.download(&wide)?)
}

/// Every stretch of `size`, `each` times over.
fn repeated(x: &[f32], size: usize, each: usize) -> Vec<f32> {
    x.chunks_exact(size).flat_map(|part| std::iter::repeat_n(part, each).flatten()).copied().collect()
}
