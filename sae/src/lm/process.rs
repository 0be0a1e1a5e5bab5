//! Weight processing as TransformerLens does by default: the same function of the tokens up to a constant per position in the
//! logits, with other activations on the way. Norm gains and biases move into the maps that read the norm's output, value biases
//! into the output bias; in LayerNorm models writing weights are centred; the unembedding is centred over the vocabulary.
//! Norms on sublayers' outputs, and on queries and keys, stay as they are.

use super::{
    architecture::{Architecture, NormKind},
    parameters::{Block, Linear, Matrix, NormWeights, Outer},
};

/// Processes one block.
pub fn block(a: &Architecture, b: &mut Block<Matrix>) {
    let layer_norm = a.norm == NormKind::Layer;
    if let Some(ln1) = &mut b.ln1 {
        let mut readers = vec![&mut b.q, &mut b.k, &mut b.v];
        if a.shared_norm {
            readers.extend(b.mlp_gate.as_mut());
            readers.push(&mut b.mlp_in);
        }
        fold(ln1, layer_norm, readers);
    }
    if let Some(ln2) = &mut b.ln2 {
        let readers = b.mlp_gate.as_mut().into_iter().chain([&mut b.mlp_in]).collect();
        fold(ln2, layer_norm, readers);
    }
    fold_value_bias(a, b);
    if layer_norm {
        for out in [&mut b.o, &mut b.mlp_out] {
            centre_columns(&mut out.w);
            if let Some(bias) = &mut out.b {
                centre_rows(bias);
            }
        }
    }
}

/// Processes what is outside the blocks; the unembedding is no longer the embedding afterwards.
pub fn outer(a: &Architecture, o: &mut Outer<Matrix>) {
    let layer_norm = a.norm == NormKind::Layer;
    let w = o.unembed.take().unwrap_or_else(|| o.embed.clone());
    let mut unembed = Linear { w, b: o.unembed_bias.take() };
    fold(&mut o.ln_final, layer_norm, vec![&mut unembed]);
    // Under a soft cap a constant added to all logits would not cancel.
    if a.logit_cap == 0.0 {
        centre_columns(&mut unembed.w);
        if let Some(b) = &mut unembed.b {
            centre_rows(b);
        }
    }
    (o.unembed, o.unembed_bias) = (Some(unembed.w), unembed.b);
    if layer_norm {
        centre_rows(&mut o.embed);
        if let Some(pos) = &mut o.pos_embed {
            centre_rows(pos);
        }
    }
}

/// `W·(gain ⊙ x + bias) + b = (W ⊙ gain)·x + (b + W·bias)`. What LayerNorm gives has mean 0, so its readers lose nothing when
/// their rows are centred.
fn fold(norm: &mut NormWeights<Matrix>, layer_norm: bool, readers: Vec<&mut Linear<Matrix>>) {
    let (gain, bias) = (norm.gain.take(), norm.bias.take());
    for reader in readers {
        if let Some(bias) = &bias {
            let shift: Vec<f32> = rows(&reader.w).map(|w| dot(w, &bias.values)).collect();
            add_bias(reader, &shift);
        }
        if let Some(gain) = &gain {
            for w in reader.w.values.chunks_exact_mut(reader.w.cols) {
                w.iter_mut().zip(&gain.values).for_each(|(w, g)| *w *= g);
            }
        }
        if layer_norm {
            centre_rows(&mut reader.w);
        }
    }
}

/// Attention weights sum to 1, so a bias of the values reaches the output unchanged by them.
fn fold_value_bias(a: &Architecture, b: &mut Block<Matrix>) {
    let Some(bias) = b.v.b.take() else { return };
    let group = a.n_heads / a.n_kv_heads;
    let per_head: Vec<f32> = (0..a.n_heads)
        .flat_map(|h| bias.values[h / group * a.d_head..][..a.d_head].iter().copied())
        .collect();
    let shift: Vec<f32> = rows(&b.o.w).map(|w| dot(w, &per_head)).collect();
    add_bias(&mut b.o, &shift);
}

fn add_bias(to: &mut Linear<Matrix>, shift: &[f32]) {
    match &mut to.b {
        Some(b) => b.values.iter_mut().zip(shift).for_each(|(b, s)| *b += s),
        None => to.b = Some(Matrix::row(shift.to_vec())),
    }
}

fn rows(m: &Matrix) -> std::slice::ChunksExact<'_, f32> {
    m.values.chunks_exact(m.cols)
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>() as f32
}

/// Each row less its mean.
fn centre_rows(m: &mut Matrix) {
    for row in m.values.chunks_exact_mut(m.cols) {
        let mean = (row.iter().map(|&v| f64::from(v)).sum::<f64>() / row.len() as f64) as f32;
        row.iter_mut().for_each(|v| *v -= mean);
    }
}

/// Each column less its mean.
fn centre_columns(m: &mut Matrix) {
    let mut mean = vec![0.0_f64; m.cols];
    for row in rows(m) {
        mean.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v));
    }
    mean.iter_mut().for_each(|s| *s /= m.rows as f64);
    for row in m.values.chunks_exact_mut(m.cols) {
        row.iter_mut().zip(&mean).for_each(|(v, &s)| *v -= s as f32);
    }
}
