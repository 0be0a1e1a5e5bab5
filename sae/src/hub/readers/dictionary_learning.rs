//! dictionary_learning: `ae.pt`, a state dictionary saved by PyTorch, and `config.json` that names its class.

use super::{
    gemma_scope::{clamped, two},
    linear::read_json,
};
use crate::{
    Result,
    hub::{
        place::Place,
        reading::{Order, Part, Reading, THRESHOLD, plain_sae},
        tensors::Tensors,
    },
};
use serde_json::{Value, json};
use std::rc::Rc;

/// Reads a folder, or one `.pt` of it.
pub fn read(place: &Place) -> Result<Reading> {
    let config = match place.folder.get("config.json")? {
        Some(_) => read_json(place, "config.json")?,
        // Checkpoints of a run lie one folder below.
        None => read_json(&Place { folder: place.folder.parent(), ..place.clone() }, "config.json")?,
    };
    let trainer = &config["trainer"];
    let file = Rc::new(Tensors::open(place.folder.need(place.file.as_deref().unwrap_or("ae.pt"))?)?);
    if file.names().iter().any(|n| n.starts_with("ae.")) {
        return Err(
            place.error("is the state of an unfinished run; read the ae.pt that the run wrote at its end")
        );
    }
    let class = trainer["dict_class"].as_str().unwrap_or_default();
    let hook = place.hook_in(hook(trainer))?;
    let linear = |name: &str| two(&file, name);
    let mut reading = match class {
        "AutoEncoder" | "AutoEncoderNew" => {
            let (s, d) = linear("encoder.weight")?;
            let centred = !file.has("decoder.bias");
            let mut settings = plain_sae(d, s, "relu", &hook, &hook);
            if centred {
                settings["apply_b_dec_to_input"] = json!(true);
            }
            Reading::new(
                "dictionary_learning",
                settings,
                layers(&file, (d, s), if centred { "bias" } else { "decoder.bias" }),
            )
        }
        "GatedAutoEncoder" => {
            let (s, d) = linear("encoder.weight")?;
            let mut settings = plain_sae(d, s, "relu", &hook, &hook);
            settings["sae_type"] = json!("gated");
            let parts = vec![
                Part::mapped(&file, "encoder.weight", "W_E", Order::Held, &[s, d], |v| v),
                Part::plain(&file, "gate_bias", "b_gate", &[s]),
                Part::plain(&file, "r_mag", "r_mag", &[s]),
                Part::plain(&file, "mag_bias", "b_mag", &[s]),
                Part::turned(&file, "decoder.weight", "W_D", [d, s], 1.0),
                Part::plain(&file, "decoder_bias", "b_D", &[d]),
            ];
            Reading::new("dictionary_learning", settings, parts)
        }
        "AutoEncoderTopK" => {
            let (s, d) = linear("encoder.weight")?;
            let mut settings = plain_sae(d, s, "topk", &hook, &hook);
            settings["apply_b_dec_to_input"] = json!(true);
            settings["top_k"] = json!(k(place, &file, trainer)?);
            Reading::new("dictionary_learning", settings, layers(&file, (d, s), "b_dec"))
        }
        "BatchTopKSAE" => {
            let (s, d) = linear("encoder.weight")?;
            with_threshold(place, &file, trainer, (d, s), &hook, layers(&file, (d, s), "b_dec"), None)?
        }
        "MatryoshkaBatchTopKSAE" => {
            let (d, s) = linear("W_enc")?;
            let widths = widths(trainer);
            with_threshold(place, &file, trainer, (d, s), &hook, matrices(&file, (d, s)), Some(widths))?
        }
        "JumpReluAutoEncoder" => {
            let (d, s) = linear("W_enc")?;
            let mut parts = matrices(&file, (d, s));
            parts.push(Part::mapped(&file, "threshold", THRESHOLD, Order::Stored, &[s], clamped));
            Reading::new("dictionary_learning", plain_sae(d, s, "jumprelu", &hook, &hook), parts)
        }
        other => {
            return Err(place.error(format!(
                "config.json: trainer.dict_class: {other:?} is not known; known are AutoEncoder, AutoEncoderNew, \
                 GatedAutoEncoder, AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE and JumpReluAutoEncoder"
            )));
        }
    };
    let model = trainer["lm_name"].as_str().map(String::from);
    reading.about.model_name = place.facts.model_name.clone().or(model);
    if let Value::Object(map) = config {
        reading.about.metadata = map;
    }
    Ok(reading)
}

/// A selection over the batch, as the library uses it later: by the threshold it learned for that. Without one, as in training.
fn with_threshold(
    place: &Place,
    file: &Rc<Tensors>,
    trainer: &Value,
    (d, s): (usize, usize),
    hook: &str,
    mut parts: Vec<Part>,
    widths: Option<Vec<u64>>,
) -> Result<Reading> {
    let theta = if file.has("threshold") { file.scalar("threshold")? } else { -1.0 };
    let mut settings = plain_sae(d, s, if theta >= 0.0 { "jumprelu" } else { "batchtopk" }, hook, hook);
    settings["apply_b_dec_to_input"] = json!(true);
    if theta >= 0.0 {
        let theta = theta as f32;
        parts.push(Part::new(THRESHOLD, Order::Stored, "threshold", move || Ok(vec![theta; s])));
    } else {
        settings["top_k"] = json!(k(place, file, trainer)?);
        if let Some(widths) = widths {
            settings["sae_type"] = json!("matryoshka");
            settings["widths"] = json!(widths);
        }
    }
    Ok(Reading::new("dictionary_learning", settings, parts))
}

/// Two linear layers without a bias of the decoder's own.
fn layers(file: &Rc<Tensors>, (d, s): (usize, usize), bias: &str) -> Vec<Part> {
    vec![
        Part::mapped(file, "encoder.weight", "W_E", Order::Held, &[s, d], |v| v),
        Part::plain(file, "encoder.bias", "b_E", &[s]),
        Part::turned(file, "decoder.weight", "W_D", [d, s], 1.0),
        Part::plain(file, bias, "b_D", &[d]),
    ]
}

fn matrices(file: &Rc<Tensors>, (d, s): (usize, usize)) -> Vec<Part> {
    vec![
        Part::plain(file, "W_enc", "W_E", &[d, s]),
        Part::plain(file, "b_enc", "b_E", &[s]),
        Part::plain(file, "W_dec", "W_D", &[s, d]),
        Part::plain(file, "b_dec", "b_D", &[d]),
    ]
}

fn k(place: &Place, file: &Tensors, trainer: &Value) -> Result<u64> {
    let k = if file.has("k") { file.scalar("k")? as u64 } else { trainer["k"].as_u64().unwrap_or(0) };
    if k > 0 { Ok(k) } else { Err(place.error("k is neither in the weights nor in config.json")) }
}

/// Group sizes, added up.
fn widths(trainer: &Value) -> Vec<u64> {
    let sizes = trainer["group_sizes"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    sizes
        .scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        })
        .collect()
}

/// `resid_post_layer_12` of layer 12; a hook point's own name, as we write where the library has none.
fn hook(trainer: &Value) -> Option<String> {
    let (layer, module) = (trainer["layer"].as_u64()?, trainer["submodule_name"].as_str()?);
    if module.contains("hook_") {
        let inside = module.strip_suffix(&format!("_layer_{layer}"));
        return Some(inside.map_or(module.into(), |name| format!("blocks.{layer}.{name}")));
    }
    let kinds = [
        ("resid_post", "hook_resid_post"),
        ("resid_pre", "hook_resid_pre"),
        ("mlp", "hook_mlp_out"),
        ("att", "hook_attn_out"),
    ];
    let (_, name) = kinds.iter().find(|(theirs, _)| module.starts_with(theirs))?;
    Some(format!("blocks.{layer}.{name}"))
}
