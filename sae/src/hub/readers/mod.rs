//! Readers, one file for each family of formats, and the choice among them: by the registry's word where there is one, else by
//! the files that are there.

pub mod circuit_tracer;
pub mod dictionary_learning;
pub mod gemma_scope;
pub mod linear;
pub mod saelens;
pub mod temporal;

use super::{place::Place, reading::Reading, tensors::Tensors};
use crate::Result;
use std::rc::Rc;

/// Reads whatever is there.
///
/// # Errors
/// No format that is known, or what the reader refuses.
pub fn read(place: &Place) -> Result<Reading> {
    match place.facts.loader.as_deref() {
        None => {}
        Some("sae_lens") => return saelens::read(place),
        Some("gemma_2" | "gemma_2_transcoder") => return gemma_scope::read_npz(place),
        Some("gemma_3") => return gemma_scope::read_safetensors(place),
        Some("llama_scope") => return linear::llama_scope(place),
        Some("llama_scope_r1_distill") => return linear::llama_scope_later(place),
        Some("dictionary_learning_1") => return dictionary_learning::read(place),
        Some("sparsify") => return linear::sparsify(place),
        Some("mwhanna_transcoder") => return circuit_tracer::read_layer(place),
        Some("temporal") => return temporal::read_conf(place),
        Some("goodfire" | "deepseek_r1" | "qwen_scope" | "connor_rob_hook_z") => return torch_file(place),
        Some("mntss_clt_layer_transcoder") => {
            return Err(place.error(
                "is one layer of a cross-layer transcoder, whose other layers write to it too; read all of it as REPOSITORY:.",
            ));
        }
        Some(other) => {
            return Err(
                place.error(format!("the registry names a loader {other:?}, which is not known here"))
            );
        }
    }
    match place.file.as_deref() {
        Some(f) if f.ends_with(".pt") || f.ends_with(".pth") => torch_file(place),
        Some(f) if f.starts_with("layer_") && f.ends_with(".safetensors") => {
            circuit_tracer::read_layer(place)
        }
        Some("params.npz") => gemma_scope::read_npz(place),
        Some("params.safetensors") => gemma_scope::read_safetensors(place),
        Some("sae.safetensors") => linear::sparsify(place),
        Some(saelens::WEIGHTS | saelens::CONFIG) => saelens::read(place),
        Some(_) => Err(place.error("is no file of a dictionary that is known here")),
        None => folder(place),
    }
}

/// Hook points read and reconstructed, where the name alone says them.
pub fn hooks(place: &Place) -> Option<(String, String)> {
    match place.facts.loader.as_deref()? {
        "gemma_2" | "gemma_2_transcoder" => gemma_scope::hooks_npz(place).ok(),
        "gemma_3" => gemma_scope::hooks_safetensors(place).ok(),
        "qwen_scope" | "temporal" | "deepseek_r1" | "goodfire" => {
            let key = ["layer_", "layer", "-l"].into_iter().find(|key| place.number_after(key).is_some())?;
            let hook = format!("blocks.{}.hook_resid_post", place.number_after(key)?);
            Some((hook.clone(), hook))
        }
        _ => None,
    }
}

fn folder(place: &Place) -> Result<Reading> {
    let list = place.folder.list()?;
    let has = |name: &str| list.iter().any(|f| f == name);
    let clt = |f: &String| f.starts_with("W_enc_") && f.ends_with(".safetensors");
    let layer = |f: &String| f.starts_with("layer_") && f.ends_with(".safetensors");
    if has(saelens::CONFIG) && has(saelens::WEIGHTS) {
        saelens::read(place)
    } else if has("cfg.json") && has("sae.safetensors") {
        linear::sparsify(place)
    } else if has("ae.pt") {
        dictionary_learning::read(place)
    } else if has("params.npz") {
        gemma_scope::read_npz(place)
    } else if has("params.safetensors") {
        gemma_scope::read_safetensors(place)
    } else if has("hyperparams.json") && has("checkpoints/final.safetensors") {
        linear::llama_scope(place)
    } else if has("config.json") && has("sae_weights.safetensors") {
        linear::llama_scope_later(place)
    } else if has("conf.yaml") && has("latest_ckpt.safetensors") {
        temporal::read_conf(place)
    } else if list.iter().any(clt) {
        circuit_tracer::read_clt(place)
    } else if (place.text.contains("clt") || place.text.contains("crosscoder"))
        && list.iter().any(|f| f.ends_with(".safetensors"))
    {
        gemma_scope::read_clt(place)
    } else if list.iter().any(layer) {
        Err(place
            .error("holds transcoders of several layers; name the file of one, such as layer_0.safetensors"))
    } else if has("config.yaml") {
        circuit_tracer::read_listed(place)
    } else {
        let some = list.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        Err(place.error(format!(
            "no dictionary of a known form is here (found {})",
            if some.is_empty() { "no files" } else { &some }
        )))
    }
}

/// A `.pt`, told by the tensors in it.
fn torch_file(place: &Place) -> Result<Reading> {
    let name = place.file.clone().unwrap_or_default();
    let file = Rc::new(Tensors::open(place.folder.need(&name)?)?);
    let beside = format!("{}_cfg.json", name.trim_end_matches(".pt"));
    if file.has("pre_bias") && file.has("latent_bias") {
        linear::openai(place, file)
    } else if file.has("encoder_linear.weight") {
        linear::two_layers(place, file, ["encoder_linear", "decoder_linear"])
    } else if place.folder.get(&beside)?.is_some() {
        linear::connor_rob(place, file, &beside)
    } else if place.text.contains("SAE-Res-") {
        linear::qwen_scope(place, file)
    } else if place.folder.get("config.json")?.is_some()
        || place.folder.parent().get("config.json")?.is_some()
    {
        dictionary_learning::read(place)
    } else if file.has("encoder.weight") && file.has("decoder.bias") {
        linear::two_layers(place, file, ["encoder", "decoder"])
    } else {
        Err(place
            .error(format!("no dictionary of a known form: its tensors are {}", file.names().join(", "))))
    }
}
