//! SAEs kept as PyTorch's linear layers, `encoder.weight [F, D]` and `decoder.weight [D, F]`: Llama Scope and what its authors
//! published after it, sparsify, OpenAI's, Goodfire's, qresearch's, Qwen Scope, and Connor's and Rob's of attention.

use super::gemma_scope::two;
use crate::{
    Error, Result, files,
    hub::{
        place::Place,
        reading::{Order, Part, Reading, THRESHOLD, plain_sae, times},
        tensors::{Scalar, Tensors},
    },
};
use serde_json::{Value, json};
use std::rc::Rc;

/// A JSON file.
pub fn read_json(place: &Place, name: &str) -> Result<Value> {
    let path = place.folder.need(name)?;
    serde_json::from_str(&files::read_text(&path)?).map_err(|e| Error::format(&path, e.to_string()))
}

/// Encoder and decoder of two linear layers, activations to be multiplied by `scale` first.
fn layers(file: &Rc<Tensors>, prefix: [&str; 2], (d, s): (usize, usize), scale: f32) -> Vec<Part> {
    let name = |part: &str, what: &str| format!("{part}.{what}");
    let [e, dec] = prefix;
    vec![
        Part::mapped(file, &name(e, "weight"), "W_E", Order::Held, &[s, d], move |v| times(v, scale)),
        Part::plain(file, &name(e, "bias"), "b_E", &[s]),
        Part::turned(file, &name(dec, "weight"), "W_D", [d, s], 1.0 / scale),
        Part::scaled(file, &name(dec, "bias"), "b_D", &[d], 1.0 / scale),
    ]
}

/// Llama Scope, first version: `hyperparams.json` and `checkpoints/final.safetensors`; trained as TopK, published as JumpReLU
/// with one threshold in units of raw activations.
pub fn llama_scope(place: &Place) -> Result<Reading> {
    let config = read_json(place, "hyperparams.json")?;
    let bad = |key: &str| place.error(format!("hyperparams.json: {key}: missing or no number"));
    let number = |key: &str, v: &Value| v.as_f64().filter(|v| v.is_finite()).ok_or_else(|| bad(key));
    let norm_in =
        number("dataset_average_activation_norm.in", &config["dataset_average_activation_norm"]["in"])?;
    let theta = number("jump_relu_threshold", &config["jump_relu_threshold"])?;
    let file = Rc::new(Tensors::open(place.folder.need("checkpoints/final.safetensors")?)?);
    let (s, d) = two(&file, "encoder.weight")?;
    let text = |key: &str| config[key].as_str().map(String::from);
    let (hook_in, hook_out) = (place.hook_in(text("hook_point_in"))?, text("hook_point_out"));
    if hook_out.is_some_and(|out| out != hook_in) {
        return Err(place.error("hook_point_out: transcoders of this version are not read"));
    }
    let scale = (d as f64).sqrt() / norm_in;
    let mut parts = layers(&file, ["encoder", "decoder"], (d, s), scale as f32);
    let theta = (theta * scale).max(0.0) as f32;
    parts.push(Part::new(THRESHOLD, Order::Stored, "jump_relu_threshold", move || Ok(vec![theta; s])));
    let mut reading = Reading::new("llama-scope", plain_sae(d, s, "jumprelu", &hook_in, &hook_in), parts);
    reading.about.model_name =
        Some(place.facts.model_name.clone().unwrap_or_else(|| "meta-llama/Llama-3.1-8B".into()));
    Ok(reading)
}

/// Llama Scope on a distilled model: `config.json` and `sae_weights.safetensors`, the norms not in the files.
pub fn llama_scope_later(place: &Place) -> Result<Reading> {
    let config = read_json(place, "config.json")?;
    let file = Rc::new(Tensors::open(place.folder.need("sae_weights.safetensors")?)?);
    let (s, d) = two(&file, "encoder.weight")?;
    let scale = match place.facts.norm_scaling_factor {
        Some(factor) if factor.is_finite() && factor > 0.0 => factor as f32,
        _ if place.facts.lenient => 1.0,
        _ => {
            return Err(place.error(
                "activations were scaled to norm √d, but the files hold no average norm; name the dictionary as the registry \
                 does (llama_scope_r1_distill:…) or give the factor (lm-saes convert --norm-factor)",
            ));
        }
    };
    let hook = place.hook_in(config["hook_point_in"].as_str().map(String::from))?;
    let mut parts = layers(&file, ["encoder", "decoder"], (d, s), scale);
    let exp = |v: Vec<f32>| v.into_iter().map(f32::exp).collect();
    parts.push(Part::mapped(&file, "log_jumprelu_threshold", THRESHOLD, Order::Stored, &[s], exp));
    let mut reading = Reading::new("llama-scope", plain_sae(d, s, "jumprelu", &hook, &hook), parts);
    reading.about.model_name = place.facts.model_name.clone();
    Ok(reading)
}

/// sparsify: `cfg.json` and `sae.safetensors` in a folder named after the module.
pub fn sparsify(place: &Place) -> Result<Reading> {
    let config = read_json(place, "cfg.json")?;
    let bad = |key: &str, what: &str| place.error(format!("cfg.json: {key}: {what}"));
    const KNOWN: &[&str] = &[
        "activation",
        "expansion_factor",
        "normalize_decoder",
        "num_latents",
        "k",
        "multi_topk",
        "skip_connection",
        "transcode",
        "d_in",
        "signed",
    ];
    let mut keys = config.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    if let Some(key) = keys.find(|k| !KNOWN.contains(k) && !place.facts.lenient) {
        return Err(bad(
            key,
            "is not known and may change what the dictionary computes; ignore unknown keys with --lenient",
        ));
    }
    let flag = |key: &str| config[key].as_bool().unwrap_or(false);
    if flag("signed") {
        return Err(bad("signed", "ranking by magnitude without ReLU is not read in this format"));
    }
    let act_fn = match config["activation"].as_str().unwrap_or("topk") {
        known @ ("topk" | "groupmax") => known,
        _ => return Err(bad("activation", "is not known; known are topk and groupmax")),
    };
    let k = config["k"].as_u64().filter(|k| *k > 0).ok_or_else(|| bad("k", "has to be a positive number"))?;
    let file = Rc::new(Tensors::open(place.folder.need("sae.safetensors")?)?);
    let (s, d) = two(&file, "encoder.weight")?;
    let transcode = flag("transcode");
    let module = place.last(1);
    let (read, made) = module_hooks(&module, transcode);
    let hook_in = place.hook_in(read)?;
    let hook_out = if transcode { place.hook_out(made)? } else { hook_in.clone() };
    let mut settings = plain_sae(d, s, act_fn, &hook_in, &hook_out);
    settings["top_k"] = json!(k);
    if !transcode {
        settings["apply_b_dec_to_input"] = json!(true);
    }
    let mut parts = vec![
        Part::mapped(&file, "encoder.weight", "W_E", Order::Held, &[s, d], |v| v),
        Part::plain(&file, "encoder.bias", "b_E", &[s]),
        Part::plain(&file, "W_dec", "W_D", &[s, d]),
        Part::plain(&file, "b_dec", "b_D", &[d]),
    ];
    if file.has("W_skip") {
        settings["use_skip_connection"] = json!(true);
        parts.push(Part::turned(&file, "W_skip", "W_skip", [d, d], 1.0));
    }
    let mut reading = Reading::new("sparsify", settings, parts);
    let run = place.folder.parent().get("config.json")?.map(|p| files::read_text(&p)).transpose()?;
    let run: Option<Value> = run.and_then(|text| serde_json::from_str(&text).ok());
    let model = run.as_ref().and_then(|r| r["model"].as_str()).map(String::from);
    reading.about.model_name = place.facts.model_name.clone().or(model);
    if let Value::Object(map) = config {
        reading.about.metadata = map;
    }
    Ok(reading)
}

/// Our names of what a module reads and gives: `layers.10`, `h.3.mlp`, `embed_tokens`; or the name of a hook point itself, as we
/// write where no module gives it.
pub fn module_hooks(module: &str, transcode: bool) -> (Option<String>, Option<String>) {
    if module.contains("hook_") && !transcode {
        return (Some(module.into()), None);
    }
    if module.ends_with("embed_tokens") || module.ends_with("wte") {
        return (Some("hook_embed".into()), None);
    }
    let parts: Vec<&str> = module.split('.').collect();
    let Some(at) = parts.iter().position(|p| *p == "layers" || *p == "h") else { return (None, None) };
    let Some(Ok(layer)) = parts.get(at + 1).map(|l| l.parse::<usize>()) else { return (None, None) };
    let hook = |name: &str| Some(format!("blocks.{layer}.{name}"));
    let (before, after) = match parts.get(at + 2).copied() {
        None => ("hook_resid_pre", "hook_resid_post"),
        Some("mlp") => ("mlp.hook_in", "hook_mlp_out"),
        Some("attn" | "self_attn") => ("ln1.hook_normalized", "hook_attn_out"),
        Some(_) => return (None, None),
    };
    if transcode { (hook(before), hook(after)) } else { (hook(after), None) }
}

/// OpenAI's on GPT-2: a `.pt` with `pre_bias` and `latent_bias`.
pub fn openai(place: &Place, file: Rc<Tensors>) -> Result<Reading> {
    let (s, d) = two(&file, "encoder.weight")?;
    let Tensors::Torch(torch) = &*file else { return Err(place.error("is no file of PyTorch's")) };
    let act = match torch.plain("activation") {
        Some(Scalar::Text(name)) => name.clone(),
        _ => return Err(place.error("activation: missing; expected TopK or ReLU")),
    };
    let layer = place.last(1).trim_end_matches(".pt").parse::<usize>().ok();
    let kinds = [
        ("resid_post_mlp", "hook_resid_post"),
        ("resid_post_attn", "hook_resid_mid"),
        ("resid_delta_mlp", "hook_mlp_out"),
        ("resid_delta_attn", "hook_attn_out"),
        ("mlp_post_act", "mlp.hook_post"),
    ];
    let kind = kinds.iter().find(|(theirs, _)| place.text.contains(theirs));
    let hook = place.hook_in(layer.zip(kind).map(|(l, (_, ours))| format!("blocks.{l}.{ours}")))?;
    let mut settings = match act.as_str() {
        "TopK" => plain_sae(d, s, "topk", &hook, &hook),
        "ReLU" => plain_sae(d, s, "relu", &hook, &hook),
        other => {
            return Err(place.error(format!("activation: {other:?} is not known; known are TopK and ReLU")));
        }
    };
    settings["apply_b_dec_to_input"] = json!(true);
    if act == "TopK" {
        let k = match torch.plain("activation_state_dict.k") {
            Some(Scalar::Number(k)) if *k >= 1.0 => *k as usize,
            _ => return Err(place.error("activation_state_dict.k: missing")),
        };
        settings["top_k"] = json!(k);
        settings["norm_activation"] = json!("layer-norm");
    }
    let parts = vec![
        Part::mapped(&file, "encoder.weight", "W_E", Order::Held, &[s, d], |v| v),
        Part::plain(&file, "latent_bias", "b_E", &[s]),
        Part::turned(&file, "decoder.weight", "W_D", [d, s], 1.0),
        Part::plain(&file, "pre_bias", "b_D", &[d]),
    ];
    let mut reading = Reading::new("openai", settings, parts);
    reading.about.model_name =
        Some(place.facts.model_name.clone().unwrap_or_else(|| "openai-community/gpt2".into()));
    Ok(reading)
}

/// ReLU SAEs of two linear layers: Goodfire's and qresearch's.
pub fn two_layers(place: &Place, file: Rc<Tensors>, prefix: [&str; 2]) -> Result<Reading> {
    let (s, d) = two(&file, &format!("{}.weight", prefix[0]))?;
    let layer = place.number_after("-l").or(place.number_after("-L"));
    let hook = place.hook_in(layer.map(|l| format!("blocks.{l}.hook_resid_post")))?;
    let parts = layers(&file, prefix, (d, s), 1.0);
    let mut reading = Reading::new("linear-layers", plain_sae(d, s, "relu", &hook, &hook), parts);
    reading.about.model_name = place.facts.model_name.clone();
    Ok(reading)
}

/// Qwen Scope: `W_enc [F, D]`, `W_dec [D, F]`, k in the name of the repository.
pub fn qwen_scope(place: &Place, file: Rc<Tensors>) -> Result<Reading> {
    let (s, d) = two(&file, "W_enc")?;
    let k = place.number_after("-L0_").ok_or_else(|| place.error("k is nowhere: no -L0_N in the path"))?;
    let layer = place.number_after("layer");
    let hook = place.hook_in(layer.map(|l| format!("blocks.{l}.hook_resid_post")))?;
    let mut settings = plain_sae(d, s, "topk", &hook, &hook);
    settings["top_k"] = json!(k);
    let parts = vec![
        Part::mapped(&file, "W_enc", "W_E", Order::Held, &[s, d], |v| v),
        Part::plain(&file, "b_enc", "b_E", &[s]),
        Part::turned(&file, "W_dec", "W_D", [d, s], 1.0),
        Part::plain(&file, "b_dec", "b_D", &[d]),
    ];
    let mut reading = Reading::new("qwen-scope", settings, parts);
    reading.about.model_name = place.facts.model_name.clone();
    Ok(reading)
}

/// Connor's and Rob's: a `.pt` with `W_enc [D, F]` and a `…_cfg.json` beside it.
pub fn connor_rob(place: &Place, file: Rc<Tensors>, config: &str) -> Result<Reading> {
    let config = read_json(place, config)?;
    let (d, s) = two(&file, "W_enc")?;
    let hook = place.hook_in(config["act_name"].as_str().map(String::from))?;
    let mut settings = plain_sae(d, s, "relu", &hook, &hook);
    settings["apply_b_dec_to_input"] = json!(true);
    let parts = vec![
        Part::plain(&file, "W_enc", "W_E", &[d, s]),
        Part::plain(&file, "b_enc", "b_E", &[s]),
        Part::plain(&file, "W_dec", "W_D", &[s, d]),
        Part::plain(&file, "b_dec", "b_D", &[d]),
    ];
    let mut reading = Reading::new("connor-rob", settings, parts);
    reading.about.model_name =
        Some(place.facts.model_name.clone().unwrap_or_else(|| "openai-community/gpt2".into()));
    Ok(reading)
}
