//! circuit-tracer: a `config.yaml` with `layer_N.safetensors`, one transcoder a layer, or with `W_enc_N.safetensors` and
//! `W_dec_N.safetensors`, one cross-layer transcoder.

use super::gemma_scope::two;
use crate::{
    Error, Result, files,
    hub::{
        place::Place,
        reading::{Order, Part, Reading, THRESHOLD, expansion, plain_sae, shaped},
        tensors::Tensors,
    },
};
use serde_json::{Value, json};
use std::rc::Rc;

/// The set's settings; repositories without one are transcoders of the MLP.
fn config(place: &Place) -> Result<Value> {
    let Some(path) = place.folder.get("config.yaml")? else { return Ok(json!({})) };
    serde_yaml_ng::from_str(&files::read_text(&path)?).map_err(|e| Error::format(&path, e.to_string()))
}

fn hook(config: &Value, key: &str, default: &str, layer: usize) -> Option<String> {
    let name = config[key].as_str().unwrap_or(default);
    Some(format!("blocks.{layer}.{name}"))
}

/// One layer of a set, the place being its file.
pub fn read_layer(place: &Place) -> Result<Reading> {
    let config = config(place)?;
    let name = place.file.clone().unwrap_or_default();
    let layer =
        name.trim_end_matches(".safetensors").rsplit('_').next().and_then(|l| l.parse::<usize>().ok());
    let layer =
        layer.ok_or_else(|| place.error("no layer in the name of the file, expected layer_N.safetensors"))?;
    let file = Rc::new(Tensors::open(place.folder.need(&name)?)?);
    let (s, d) = two(&file, "W_enc")?;
    let d_out = two(&file, "W_dec")?.1;
    let hook_in = place.hook_in(hook(&config, "feature_input_hook", "mlp.hook_in", layer))?;
    let hook_out = place.hook_out(hook(&config, "feature_output_hook", "hook_mlp_out", layer))?;
    let theta = ["activation_function.threshold", "threshold"].into_iter().find(|t| file.has(t));
    let act_fn = if theta.is_some() { "jumprelu" } else { "relu" };
    let mut settings = plain_sae(d, s, act_fn, &hook_in, &hook_out);
    if d_out != d {
        settings["d_out"] = json!(d_out);
    }
    let mut parts = vec![
        Part::mapped(&file, "W_enc", "W_E", Order::Held, &[s, d], |v| v),
        Part::plain(&file, "b_enc", "b_E", &[s]),
        Part::plain(&file, "W_dec", "W_D", &[s, d_out]),
        Part::plain(&file, "b_dec", "b_D", &[d_out]),
    ];
    if let Some(theta) = theta {
        let values = not_negative(&file, theta, shaped(&file, theta, &[s])?)?;
        parts.push(Part::new(THRESHOLD, Order::Stored, theta, move || Ok(values)));
    }
    if file.has("W_skip") {
        settings["use_skip_connection"] = json!(true);
        parts.push(Part::turned(&file, "W_skip", "W_skip", [d_out, d], 1.0));
    }
    let mut reading = Reading::new("circuit-tracer", settings, parts);
    reading.about.model_name =
        place.facts.model_name.clone().or(config["model_name"].as_str().map(String::from));
    Ok(reading)
}

/// A set whose settings only list where its transcoders are: their names here.
///
/// # Errors
/// Always: it is no dictionary itself.
pub fn read_listed(place: &Place) -> Result<Reading> {
    let config = config(place)?;
    let listed = config["transcoders"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names: Vec<String> = listed.map(named_here).collect();
    let Some(first) = names.first() else {
        return Err(place.error("has a config.yaml and neither layers nor a list of transcoders"));
    };
    let what = format!(
        "is a set of {} transcoders kept elsewhere, one for each layer; read one by its own name, such as {first}, with the hook \
         points config.yaml says where its files do not",
        names.len()
    );
    Err(place.error(what))
}

/// `hf://owner/name/path?revision=…` or `owner/name/path@revision` as `owner/name:path`.
fn named_here(reference: &str) -> String {
    let plain = reference.strip_prefix("hf://").unwrap_or(reference);
    let plain = plain.split(['?', '@']).next().unwrap_or(plain);
    match plain.match_indices('/').nth(1) {
        Some((at, _)) => format!("{}:{}", &plain[..at], &plain[at + 1..]),
        None => format!("{plain}:."),
    }
}

/// This library's JumpReLU has no ReLU: below 0 its thresholds pass what ours do not.
fn not_negative(file: &Tensors, name: &str, values: Vec<f32>) -> Result<Vec<f32>> {
    match values.iter().position(|v| *v < 0.0) {
        Some(at) => {
            let what = format!(
                "element {at} is {}: thresholds below 0 pass negative activations, which has no form here",
                values[at]
            );
            Err(file.error(name, what))
        }
        None => Ok(values),
    }
}

/// A cross-layer transcoder, the place being its folder.
pub fn read_clt(place: &Place) -> Result<Reading> {
    let config = config(place)?;
    let list = place.folder.list()?;
    let n = (0..).take_while(|l| list.contains(&format!("W_enc_{l}.safetensors"))).count();
    let encoders = list.iter().filter(|f| f.starts_with("W_enc_")).count();
    if n == 0 || n != encoders {
        return Err(
            place.error(format!("has W_enc files of {encoders} layers, of which 0 to {n} follow each other"))
        );
    }
    let open =
        |name: String| -> Result<Rc<Tensors>> { Ok(Rc::new(Tensors::open(place.folder.need(&name)?)?)) };
    let (s, d) = two(&*open("W_enc_0.safetensors".into())?, "W_enc_0")?;
    let mut parts = Vec::new();
    let mut jump = false;
    for l in 0..n {
        let (enc, dec) = (open(format!("W_enc_{l}.safetensors"))?, open(format!("W_dec_{l}.safetensors"))?);
        let theta = format!("threshold_{l}");
        jump = enc.has(&theta);
        let mut rows = |theirs: String, ours: String, first: usize, shape: Vec<usize>, log: bool| {
            let file = enc.clone();
            parts.push(Part::rows(vec![(ours, first)], format!("layer {l}: {theirs}"), move || {
                let v = shaped(&file, &theirs, &shape)?;
                Ok(if log { not_negative(&file, &theirs, v)?.into_iter().map(f32::ln).collect() } else { v })
            }));
        };
        rows(format!("W_enc_{l}"), "W_E".into(), l * s, vec![s, d], false);
        rows(format!("b_enc_{l}"), "b_E".into(), l, vec![s], false);
        rows(format!("b_dec_{l}"), format!("b_D.{l}"), 0, vec![d], false);
        if jump {
            rows(theta, "activation_function.log_jumprelu_threshold".into(), l, vec![s], true);
        }
        let into = (l..n).map(|t| (format!("W_D.{t}"), l * s)).collect();
        parts.push(Part::rows(into, format!("layer {l}: W_dec_{l}"), move || {
            let w = shaped(&dec, &format!("W_dec_{l}"), &[s, n - l, d])?;
            let row = |t: usize, f: usize| w[(f * (n - l) + t) * d..][..d].iter().copied();
            Ok((0..n - l).flat_map(|t| (0..s).flat_map(move |f| row(t, f))).collect())
        }));
    }
    let hooks =
        |key: &str, default: &str| (0..n).filter_map(|l| hook(&config, key, default, l)).collect::<Vec<_>>();
    let (read, made) =
        (hooks("feature_input_hook", "mlp.hook_in"), hooks("feature_output_hook", "hook_mlp_out"));
    let settings = clt_settings(d, s, if jump { "jumprelu" } else { "relu" }, &read, &made);
    let mut reading = Reading::new("circuit-tracer", settings, parts);
    reading.about.model_name =
        place.facts.model_name.clone().or(config["model_name"].as_str().map(String::from));
    Ok(reading)
}

/// Settings of a cross-layer transcoder on raw activations.
pub fn clt_settings(d: usize, s: usize, act_fn: &str, read: &[String], made: &[String]) -> Value {
    json!({
        "sae_type": "clt",
        "d_model": d,
        "expansion_factor": expansion(d, s),
        "act_fn": act_fn,
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": false,
        "hook_points_in": read,
        "hook_points_out": made,
    })
}
