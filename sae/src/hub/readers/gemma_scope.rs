//! Gemma Scope. The first series is `params.npz` in folders that say layer and width; the second `params.safetensors` with a
//! `config.json`, and cross-layer transcoders of one file a layer.

use crate::{
    Error, Result, files,
    hub::{
        place::Place,
        reading::{Order, Part, Reading, THRESHOLD, plain_sae, shaped, transpose},
        tensors::Tensors,
    },
};
use serde_json::{Value, json};
use std::rc::Rc;

/// `params.npz` of the first series.
pub fn read_npz(place: &Place) -> Result<Reading> {
    let file = Rc::new(Tensors::open(place.folder.need("params.npz")?)?);
    let names = file.names();
    let named = |key: &str| -> Result<String> {
        let found = names.iter().find(|n| n.to_lowercase() == key.to_lowercase());
        found.cloned().ok_or_else(|| file.error(key, "missing"))
    };
    let (w_enc, w_dec) = (named("W_enc")?, named("W_dec")?);
    let (d, s) = two(&file, &w_enc)?;
    let text = &place.text;
    let embedding = text.contains("embedding");
    let (hook_in, hook_out) = hooks_npz(place)?;
    let d_out = two(&file, &w_dec)?.1;
    let mut settings = plain_sae(d, s, "jumprelu", &hook_in, &hook_out);
    if d_out != d {
        settings["d_out"] = json!(d_out);
    }
    // The dictionary of embeddings was trained on embeddings times √d.
    let scale = if embedding { 1.0 / (d as f32).sqrt() } else { 1.0 };
    let parts = vec![
        Part::scaled(&file, &w_enc, "W_E", &[d, s], scale),
        Part::plain(&file, &named("b_enc")?, "b_E", &[s]),
        Part::scaled(&file, &w_dec, "W_D", &[s, d_out], 1.0 / scale),
        Part::plain(&file, &named("b_dec")?, "b_D", &[d_out]),
        Part::mapped(&file, &named("threshold")?, THRESHOLD, Order::Stored, &[s], clamped),
    ];
    let mut reading = Reading::new("gemma-scope", settings, parts);
    let model =
        ["2b-it", "9b-it", "27b-it", "2b", "9b", "27b"].iter().find(|m| text.contains(&format!("-{m}")));
    reading.about.model_name =
        place.facts.model_name.clone().or(model.map(|m| format!("google/gemma-2-{m}")));
    reading.about.l0 = place.number_after("average_l0_").map(|n| n as f64).or(place.facts.l0);
    Ok(reading)
}

/// Hook points of the first series: read and reconstructed.
pub fn hooks_npz(place: &Place) -> Result<(String, String)> {
    let text = &place.text;
    let layer = place.number_after("layer_");
    let hook = |name: &str| layer.map(|l| format!("blocks.{l}.{name}"));
    let found = match () {
        () if text.contains("embedding") => Some("hook_embed".into()),
        () if text.contains("transcoder") => {
            let made = place.hook_out(hook("hook_mlp_out"))?;
            return Ok((place.hook_in(hook("ln2.hook_normalized"))?, made));
        }
        () if text.contains("-res") => hook("hook_resid_post"),
        () if text.contains("-mlp") => hook("hook_mlp_out"),
        () if text.contains("-att") => hook("attn.hook_z"),
        () => None,
    };
    let hook = place.hook_in(found)?;
    Ok((hook.clone(), hook))
}

/// Hook points of the second series: read and reconstructed.
pub fn hooks_safetensors(place: &Place) -> Result<(String, String)> {
    let text = place.last(3);
    let layer =
        place.number_after("layer_").ok_or_else(|| place.error("no layer_N in the name of the folder"))?;
    let hook = |name: &str| Some(format!("blocks.{layer}.{name}"));
    let found = match () {
        () if text.contains("resid_post") => hook("hook_resid_post"),
        () if text.contains("attn_out") => hook("attn.hook_z"),
        () if text.contains("mlp_out") => hook("hook_mlp_out"),
        () if text.contains("transcoder") => {
            return Ok((place.hook_in(hook("mlp.hook_in"))?, place.hook_out(hook("hook_mlp_out"))?));
        }
        () => None,
    };
    let hook = place.hook_in(found)?;
    Ok((hook.clone(), hook))
}

/// `params.safetensors` of the second series.
pub fn read_safetensors(place: &Place) -> Result<Reading> {
    let config = config(place)?;
    let file = Rc::new(Tensors::open(place.folder.need("params.safetensors")?)?);
    let (hook_in, hook_out) = hooks_safetensors(place)?;
    let (d, s) = two(&file, "w_enc")?;
    let d_out = two(&file, "w_dec")?.1;
    let mut settings = plain_sae(d, s, "jumprelu", &hook_in, &hook_out);
    if d_out != d {
        settings["d_out"] = json!(d_out);
    }
    let mut parts = vec![
        Part::plain(&file, "w_enc", "W_E", &[d, s]),
        Part::plain(&file, "b_enc", "b_E", &[s]),
        Part::plain(&file, "w_dec", "W_D", &[s, d_out]),
        Part::plain(&file, "b_dec", "b_D", &[d_out]),
        Part::mapped(&file, "threshold", THRESHOLD, Order::Stored, &[s], clamped),
    ];
    if file.has("affine_skip_connection") {
        settings["use_skip_connection"] = json!(true);
        // Theirs and ours both take a row on the left.
        parts.push(Part::plain(&file, "affine_skip_connection", "W_skip", &[d, d_out]));
    }
    let mut reading = Reading::new("gemma-scope-2", settings, parts);
    reading.about.model_name =
        place.facts.model_name.clone().or(config["model_name"].as_str().map(String::from));
    reading.about.l0 = place.facts.l0;
    if let Value::Object(map) = config {
        reading.about.metadata = map;
    }
    Ok(reading)
}

/// A cross-layer transcoder or weakly causal crosscoder of the second series: in one folder a file for each layer, whose decoder has
/// an axis of layers. A crosscoder reads and reconstructs the residual stream after some layers, which the folder's name lists; as its
/// features write to their own layer and later ones, it is a cross-layer transcoder from these hook points to themselves.
pub fn read_clt(place: &Place) -> Result<Reading> {
    let config = config(place)?;
    let list = place.folder.list()?;
    let mut layers: Vec<(usize, String)> = list
        .into_iter()
        .filter(|n| n.ends_with(".safetensors"))
        .filter_map(|n| Some((layer_of(&n)?, n)))
        .collect();
    layers.sort();
    let n = layers.len();
    if n == 0 || layers.iter().enumerate().any(|(i, (l, _))| i != *l) {
        return Err(place.error("has no file for every layer from 0 on"));
    }
    let open =
        |name: &String| -> Result<Rc<Tensors>> { Ok(Rc::new(Tensors::open(place.folder.need(name)?)?)) };
    let (d, s) = two(&*open(&layers[0].1)?, "w_enc")?;
    let mut parts = Vec::new();
    for (l, name) in &layers {
        let (l, file) = (*l, open(name)?);
        if file.has("affine_skip_connection") {
            return Err(
                file.error("affine_skip_connection", "cross-layer transcoders have no skip connection here")
            );
        }
        let from = |what: &str| format!("{name}: tensor {what}");
        let f = file.clone();
        parts.push(Part::rows(vec![("W_E".into(), l * s)], from("w_enc"), move || {
            Ok(transpose(&shaped(&f, "w_enc", &[d, s])?, d, s))
        }));
        for (theirs, ours, log) in
            [("b_enc", "b_E", false), ("threshold", "activation_function.log_jumprelu_threshold", true)]
        {
            let f = file.clone();
            parts.push(Part::rows(vec![(ours.into(), l)], from(theirs), move || {
                let v = shaped(&f, theirs, &[s])?;
                Ok(if log { v.into_iter().map(|t| t.max(0.0).ln()).collect() } else { v })
            }));
        }
        let f = file.clone();
        parts.push(Part::rows(vec![(format!("b_D.{l}"), 0)], from("b_dec"), move || {
            shaped(&f, "b_dec", &[d])
        }));
        let into = (l..n).map(|t| (format!("W_D.{t}"), l * s)).collect();
        parts.push(Part::rows(into, from("w_dec"), move || {
            by_target(&shaped(&file, "w_dec", &[s, n, d])?, [s, n, d], l)
        }));
    }
    let (read, made) = multi_layer_hooks(place, n)?;
    let settings = super::circuit_tracer::clt_settings(d, s, "jumprelu", &read, &made);
    let mut reading = Reading::new("gemma-scope-2", settings, parts);
    let stated = config["model_name"].as_str().map(String::from);
    reading.about.model_name = place.facts.model_name.clone().or(stated).or(model_of(&place.text));
    Ok(reading)
}

/// Hook points read and written by the `n` files of a folder.
fn multi_layer_hooks(place: &Place, n: usize) -> Result<(Vec<String>, Vec<String>)> {
    let all = |layers: &[usize], name: &str| {
        layers.iter().map(|l| format!("blocks.{l}.{name}")).collect::<Vec<_>>()
    };
    if !place.text.contains("crosscoder") {
        let layers: Vec<usize> = (0..n).collect();
        return Ok((all(&layers, "mlp.hook_in"), all(&layers, "hook_mlp_out")));
    }
    let listed = place.text.rsplit_once("layer_").map_or("", |(_, rest)| rest);
    let layers: Vec<usize> = listed.split('_').map_while(|part| part.parse().ok()).collect();
    if layers.len() != n || !layers.is_sorted_by(|a, b| a < b) {
        let what = format!(
            "holds {n} layers, its name lists {layers:?}; a crosscoder's folder is named after its layers (layer_7_13_17_22_width_…)"
        );
        return Err(place.error(what));
    }
    let hooks = all(&layers, "hook_resid_post");
    Ok((hooks.clone(), hooks))
}

/// The language model a repository of the second series is named after.
fn model_of(text: &str) -> Option<String> {
    let rest = text.split_once("gemma-scope-2-")?.1;
    let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    Some(format!("google/gemma-3-{name}"))
}

/// `[S, L, d]` of source layer `from` to one `[S, d]` for each target from `from` on; what comes before must be zero.
fn by_target(w: &[f32], [s, n, d]: [usize; 3], from: usize) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(s * (n - from) * d);
    for t in 0..n {
        for f in 0..s {
            let row = &w[(f * n + t) * d..][..d];
            if t >= from {
                out.extend_from_slice(row);
            } else if row.iter().any(|v| *v != 0.0) {
                return Err(Error::Data {
                    what: format!("features of layer {from} write to layer {t} before it"),
                });
            }
        }
    }
    Ok(out)
}

fn layer_of(name: &str) -> Option<usize> {
    let at = name.rfind("layer")? + 5;
    let digits: String =
        name[at..].chars().skip_while(|c| *c == '_').take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Axes of a matrix.
pub fn two(file: &Tensors, name: &str) -> Result<(usize, usize)> {
    match file.info(name)?.0[..] {
        [a, b] if a > 0 && b > 0 => Ok((a, b)),
        ref shape => Err(file.error(name, format!("has shape {shape:?}, expected a matrix"))),
    }
}

/// A threshold below 0 lets pass what a ReLU does.
pub fn clamped(v: Vec<f32>) -> Vec<f32> {
    v.into_iter().map(|t| t.max(0.0)).collect()
}

fn config(place: &Place) -> Result<Value> {
    let Some(path) = place.folder.get("config.json")? else { return Ok(json!({})) };
    let config: Value =
        serde_json::from_str(&files::read_text(&path)?).map_err(|e| Error::format(&path, e.to_string()))?;
    match config["architecture"].as_str() {
        Some("jump_relu") => Ok(config),
        other => {
            Err(Error::format(&path, format!("architecture: {other:?} is not known; known is jump_relu")))
        }
    }
}
