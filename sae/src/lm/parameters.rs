//! The parameters of a model: first as host matrices read from a source and brought to one neutral form (every map `[out,
//! in]`, queries, keys and values apart, gains complete), then on the device.

use super::{
    architecture::{Architecture, NormKind, QkNorm},
    families::{Layout, Qkv},
    weights::WeightSource,
};
use crate::{Error, Result};
use std::collections::HashSet;

/// A linear map `y = x·Wᵀ + b`: `w [out, in]`, `b [1, out]`.
pub struct Linear<T> {
    pub w: T,
    pub b: Option<T>,
}

/// Gain and bias `[1, D]` of a norm; both absent once they are folded into the maps that follow.
pub struct NormWeights<T> {
    pub gain: Option<T>,
    pub bias: Option<T>,
}

/// One block. Parts the architecture does not have are `None`.
pub struct Block<T> {
    pub ln1: Option<NormWeights<T>>,
    pub q: Linear<T>,
    pub k: Linear<T>,
    pub v: Linear<T>,
    pub q_norm: Option<T>,
    pub k_norm: Option<T>,
    pub o: Linear<T>,
    pub ln1_post: Option<NormWeights<T>>,
    /// `None` also where a parallel block has one norm for both sublayers: that is `ln1`.
    pub ln2: Option<NormWeights<T>>,
    /// The branch that goes through the activation, of a gated MLP.
    pub mlp_gate: Option<Linear<T>>,
    pub mlp_in: Linear<T>,
    pub mlp_out: Linear<T>,
    pub ln2_post: Option<NormWeights<T>>,
}

/// Everything outside the blocks.
pub struct Outer<T> {
    /// `[vocab, d_model]`.
    pub embed: T,
    /// `[n_ctx, d_model]`.
    pub pos_embed: Option<T>,
    pub ln_final: NormWeights<T>,
    /// `None` when tied to the embedding.
    pub unembed: Option<T>,
    pub unembed_bias: Option<T>,
}

/// A host matrix; vectors have one row.
#[derive(Clone)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    pub fn row(values: Vec<f32>) -> Self {
        Self { rows: 1, cols: values.len(), values }
    }

    fn transposed(self) -> Self {
        let (rows, cols) = (self.cols, self.rows);
        let mut values = Vec::with_capacity(self.values.len());
        for r in 0..rows {
            values.extend((0..cols).map(|c| self.values[c * rows + r]));
        }
        Self { rows, cols, values }
    }

    /// The rows `pick(0), pick(1), …`, `count` of them.
    fn rows_picked(&self, count: usize, pick: impl Fn(usize) -> usize) -> Self {
        let mut values = Vec::with_capacity(count * self.cols);
        for r in (0..count).map(pick) {
            values.extend_from_slice(&self.values[r * self.cols..(r + 1) * self.cols]);
        }
        Self { rows: count, cols: self.cols, values }
    }
}

/// Reads parameters by the names of a family's layout.
pub struct Reader<'a> {
    arch: &'a Architecture,
    layout: &'a Layout,
    source: &'a dyn WeightSource,
    names: HashSet<String>,
    base: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(arch: &'a Architecture, layout: &'a Layout, source: &'a dyn WeightSource) -> Self {
        let names: HashSet<String> = source.names().into_iter().collect();
        let written = |base: &&str| !base.is_empty() && names.iter().any(|n| n.starts_with(*base));
        let base = [layout.base, layout.later_base].into_iter().find(written).unwrap_or("");
        Self { arch, layout, source, names, base }
    }

    /// Everything outside the blocks.
    pub fn outer(&self) -> Result<Outer<Matrix>> {
        let (a, l) = (self.arch, self.layout);
        let table = |stem: &str, rows| self.matrix(&format!("{}{stem}.weight", self.base), rows, a.d_model);
        let unembed = format!("{}.weight", l.unembed);
        let learned = a.positions == super::architecture::Positions::Learned;
        Ok(Outer {
            embed: table(l.embed, a.d_vocab)?,
            pos_embed: learned.then(|| table(l.pos_embed, a.n_ctx)).transpose()?,
            ln_final: self.norm(&format!("{}{}", self.base, l.ln_final))?,
            unembed: (!a.tied).then(|| self.matrix(&unembed, a.d_vocab, a.d_model)).transpose()?,
            unembed_bias: a
                .biases
                .unembed
                .then(|| self.vector(&format!("{}.bias", l.unembed), a.d_vocab))
                .transpose()?,
        })
    }

    /// Block `i`.
    pub fn block(&self, i: usize) -> Result<Block<Matrix>> {
        let (a, l) = (self.arch, self.layout);
        let prefix = format!("{}{}", self.base, l.block.replace("{}", &i.to_string()));
        let at = |stem: &str| format!("{prefix}{stem}");
        let norm = |when: bool, stem: &str| when.then(|| self.norm(&at(stem))).transpose();
        let (wide, narrow) = (a.n_heads * a.d_head, a.n_kv_heads * a.d_head);
        let [q, k, v] = self.qkv(&prefix)?;
        let (q_gain, k_gain) = match a.qk_norm {
            QkNorm::None => (None, None),
            QkNorm::Head => (Some(a.d_head), Some(a.d_head)),
            QkNorm::Whole => (Some(wide), Some(narrow)),
        };
        let gain = |stem: &str, n: Option<usize>| n.map(|n| self.gain(&at(stem), n)).transpose();
        Ok(Block {
            ln1: norm(a.pre_norm, l.ln1)?,
            q,
            k,
            v,
            q_norm: gain(l.q_norm, q_gain)?,
            k_norm: gain(l.k_norm, k_gain)?,
            o: self.linear(&at(l.o), a.d_model, wide, a.biases.o)?,
            ln1_post: norm(a.post_norm, l.ln1_post)?,
            ln2: norm(a.pre_norm && !a.shared_norm, l.ln2)?,
            mlp_gate: a
                .gated
                .then(|| self.linear(&at(l.mlp_gate), a.d_mlp, a.d_model, a.biases.mlp))
                .transpose()?,
            mlp_in: self.linear(&at(l.mlp_in), a.d_mlp, a.d_model, a.biases.mlp)?,
            mlp_out: self.linear(&at(l.mlp_out), a.d_model, a.d_mlp, a.biases.mlp)?,
            ln2_post: norm(a.post_norm, l.ln2_post)?,
        })
    }

    /// The maps to queries, keys and values, taken apart where the file has them fused.
    fn qkv(&self, prefix: &str) -> Result<[Linear<Matrix>; 3]> {
        let a = self.arch;
        let d = a.d_head;
        let sizes = [a.n_heads * d, a.n_kv_heads * d, a.n_kv_heads * d];
        let read = |stem: &str, out| self.linear(&format!("{prefix}{stem}"), out, a.d_model, a.biases.qkv);
        let split = |stem: &str, pick: &dyn Fn(usize, usize) -> usize| -> Result<_> {
            let all = read(stem, sizes.iter().sum())?;
            Ok([0, 1, 2].map(|part| {
                let take = |m: &Matrix| m.rows_picked(sizes[part], |r| pick(part, r));
                let b = all.b.as_ref().map(|b| {
                    let column = Matrix { rows: b.cols, cols: 1, values: b.values.clone() };
                    Matrix::row(take(&column).values)
                });
                Linear { w: take(&all.w), b }
            }))
        };
        match self.layout.qkv {
            Qkv::Separate([q, k, v]) => Ok([read(q, sizes[0])?, read(k, sizes[1])?, read(v, sizes[2])?]),
            Qkv::Blocks(stem) => split(stem, &|part, r| sizes[..part].iter().sum::<usize>() + r),
            Qkv::PerHead(stem) => split(stem, &|part, r| (r / d * 3 + part) * d + r % d),
        }
    }

    fn linear(&self, stem: &str, out: usize, input: usize, bias: bool) -> Result<Linear<Matrix>> {
        let name = format!("{stem}.weight");
        let w = if self.layout.conv1d {
            self.matrix(&name, input, out)?.transposed()
        } else {
            self.matrix(&name, out, input)?
        };
        let bias_name = format!("{stem}.bias");
        if !bias && self.names.contains(&bias_name) {
            return Err(self.error(&bias_name, "is in the file, but config.json says this map has no bias"));
        }
        Ok(Linear { w, b: bias.then(|| self.vector(&bias_name, out)).transpose()? })
    }

    fn norm(&self, stem: &str) -> Result<NormWeights<Matrix>> {
        let d = self.arch.d_model;
        let bias = (self.arch.norm == NormKind::Layer)
            .then(|| self.vector(&format!("{stem}.bias"), d))
            .transpose()?;
        Ok(NormWeights { gain: Some(self.gain(stem, d)?), bias })
    }

    /// A norm's gain, complete: the family's offset is added here, once.
    fn gain(&self, stem: &str, n: usize) -> Result<Matrix> {
        let mut gain = self.vector(&format!("{stem}.weight"), n)?;
        gain.values.iter_mut().for_each(|g| *g += self.arch.gain_offset);
        Ok(gain)
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        Ok(Matrix { rows, cols, values: self.shaped(name, &[rows, cols])? })
    }

    fn vector(&self, name: &str, n: usize) -> Result<Matrix> {
        Ok(Matrix::row(self.shaped(name, &[n])?))
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (found, values) = self.source.f32(name)?;
        if found != shape || values.len() != shape.iter().product::<usize>() {
            return Err(self.error(name, &format!("has shape {found:?}, the configuration needs {shape:?}")));
        }
        Ok(values)
    }

    fn error(&self, name: &str, what: &str) -> Error {
        Error::Tensor { path: self.source.path().into(), name: name.into(), what: what.into() }
    }
}
