//! Numbers of all features as tensors, beside the rows of the decoder where the dictionary's folder is at hand.

use super::Selection;
use crate::{
    Error, Result,
    dictionary::checkpoint,
    files,
    store::{Feature, Related},
    tensorfile::TensorFile,
};
use safetensors::{Dtype, tensor::TensorView};
use std::{collections::HashMap, path::Path};

/// Decoder rows of the features of a dictionary's folder: `[S, d]`, or `[H, S, d]` for heads, as its weights have them; `None`
/// for a variant without (cross-layer transcoders keep one matrix for each target, transforms have none).
///
/// # Errors
/// A folder that is not there or holds no dictionary.
pub fn decoder_rows(path: &Path) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
    checkpoint::load_settings(path)?;
    let file = TensorFile::open(path.join(checkpoint::WEIGHTS))?;
    match ["W_D", "W_O"].into_iter().find(|name| file.contains(name)) {
        Some(name) => file.f32(name).map(Some),
        None => Ok(None),
    }
}

/// Bytes and shapes by name.
#[derive(Default)]
struct Tensors(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.into(), Dtype::F32, shape.into(), bytes));
    }
    fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.0.push((name.into(), Dtype::I64, shape.into(), bytes));
    }
}

/// Columns of one number a feature, and of lists.
#[derive(Default)]
struct Columns {
    act_times: Vec<i64>,
    n_contexts: Vec<i64>,
    density: Vec<f32>,
    max_act: Vec<f32>,
    mean_act: Vec<f32>,
    norms: Vec<Vec<f32>>,
    neighbours: Vec<Vec<Related>>,
    partners: Vec<Vec<Related>>,
}

/// Writes `path`: `index`, `act_times`, `n_contexts` i64 `[n]`; `density`, `max_act`, `mean_act` f32 `[n]`; `decoder_norms`
/// `[n, parts]`; `neighbours` and `coactivations` i64 `[n, k]`, −1 where there are fewer, with their `_values` f32; `W_D`,
/// rows of the chosen features, from the dictionary's folder unless `decoder` is `None`.
///
/// # Errors
/// What the store refuses, a decoder of another size, or a disk that does not take the file.
pub fn tensors(
    from: &Selection<'_>,
    decoder: Option<(Vec<usize>, Vec<f32>)>,
    path: &Path,
    mut progress: impl FnMut(usize),
) -> Result<()> {
    let mut c = Columns::default();
    from.each(|n, Feature { analysis: f, .. }| {
        c.act_times.push(f.act_times as i64);
        c.n_contexts.push(f.n_contexts as i64);
        c.density.push(f.density(&from.analysis) as f32);
        c.max_act.push(f.max_act);
        c.mean_act.push(f.mean_act);
        c.norms.push(f.decoder_norms);
        c.neighbours.push(f.neighbours);
        c.partners.push(f.coactivations);
        progress(n + 1);
        Ok(())
    })?;
    let mut all = Tensors::default();
    let n = from.features.len();
    let index: Vec<i64> = from.features.iter().map(|&f| f.into()).collect();
    for (name, values) in [("index", &index), ("act_times", &c.act_times), ("n_contexts", &c.n_contexts)] {
        all.integers(name, &[n], values);
    }
    for (name, values) in [("density", &c.density), ("max_act", &c.max_act), ("mean_act", &c.mean_act)] {
        all.floats(name, &[n], values);
    }
    let parts = c.norms.iter().map(Vec::len).max().unwrap_or(0);
    let padded =
        |row: &Vec<f32>| (0..parts).map(|i| row.get(i).copied().unwrap_or(f32::NAN)).collect::<Vec<_>>();
    all.floats("decoder_norms", &[n, parts], &c.norms.iter().flat_map(padded).collect::<Vec<_>>());
    for (name, rows) in [("neighbours", &c.neighbours), ("coactivations", &c.partners)] {
        let k = rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells: Vec<Option<&Related>> = rows.iter().flat_map(|row| (0..k).map(|i| row.get(i))).collect();
        let features: Vec<i64> = cells.iter().map(|r| r.map_or(-1, |r| r.feature.into())).collect();
        let values: Vec<f32> = cells.iter().map(|r| r.map_or(0.0, |r| r.value)).collect();
        all.integers(name, &[n, k], &features);
        all.floats(&format!("{name}_values"), &[n, k], &values);
    }
    if let Some(decoder) = decoder {
        add_decoder(from, decoder, &mut all)?;
    }
    save(from, &all, path)
}

fn add_decoder(
    from: &Selection<'_>,
    (shape, values): (Vec<usize>, Vec<f32>),
    all: &mut Tensors,
) -> Result<()> {
    let s = from.dictionary.d_sae as usize;
    let [heads @ .., rows, d] = &shape[..] else {
        return Err(Error::Data { what: format!("a decoder of shape {shape:?}") });
    };
    if *rows != s {
        let what = format!("the decoder in {} has {rows} rows, the analysis {s}", from.dictionary.path);
        return Err(Error::Data { what });
    }
    let heads: usize = heads.iter().product();
    let row = |h: usize, f: u32| &values[(h * s + f as usize) * d..][..*d];
    let chosen: Vec<f32> =
        (0..heads).flat_map(|h| from.features.iter().flat_map(move |&f| row(h, f).iter().copied())).collect();
    let mut shape = shape.clone();
    let axis = shape.len() - 2;
    shape[axis] = from.features.len();
    all.floats("W_D", &shape, &chosen);
    Ok(())
}

fn save(from: &Selection<'_>, all: &Tensors, path: &Path) -> Result<()> {
    let bad = |e: safetensors::SafeTensorError| Error::format(path, e.to_string());
    let views = all
        .0
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes).map_err(bad)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let text = |v: serde_json::Result<String>| v.map_err(|e| Error::format(path, e.to_string()));
    let about: HashMap<String, String> = [
        ("dictionary".to_string(), text(serde_json::to_string(&from.dictionary))?),
        ("analysis".to_string(), text(serde_json::to_string(&from.analysis))?),
    ]
    .into();
    let bytes = safetensors::serialize(views, Some(about)).map_err(bad)?;
    files::write_atomic(path, |w| w.write_all(&bytes))
}
