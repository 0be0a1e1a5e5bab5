//! Temporal SAEs: SAELens' own form, and that of canrager/temporalSAEs (`conf.yaml`, `latest_ckpt.safetensors`).

use super::{gemma_scope::two, saelens::Cfg};
use crate::{
    Error, Result, files,
    hub::{
        place::Place,
        reading::{Part, Reading, expansion},
        tensors::Tensors,
    },
};
use serde_json::{Value, json};
use std::rc::Rc;

/// SAELens' architecture `temporal`.
pub fn read(cfg: &Cfg<'_>) -> Result<Reading> {
    let value = |key: &str| cfg.map.get(key).cloned().unwrap_or(Value::Null);
    if cfg.norm != "inference" {
        return Err(cfg.error(
            "normalize_activations",
            "is read for temporal SAEs only as none or constant_scalar_rescale",
        ));
    }
    let tied = value("tied_weights").as_bool().unwrap_or(true);
    let k = match value("sae_diff_type").as_str().unwrap_or("topk") {
        "relu" => None,
        "topk" => value("kval_topk").as_u64(),
        other => {
            return Err(
                cfg.error("sae_diff_type", format!("{other:?} is not known; known are relu and topk"))
            );
        }
    };
    let number = |key: &str, default: u64| value(key).as_u64().unwrap_or(default);
    let layout = Layout {
        heads: number("n_heads", 8),
        layers: number("n_attn_layers", 1),
        bottleneck: number("bottleneck_factor", 64),
        tied,
        k,
        scale: cfg.scale,
        centred: cfg.centred,
    };
    Ok(reading(&cfg.weights, (cfg.d_in, cfg.d_sae), &cfg.hook, &layout, ["W_enc", "W_dec", "b_dec"]))
}

struct Layout {
    heads: u64,
    layers: u64,
    bottleneck: u64,
    tied: bool,
    k: Option<u64>,
    scale: f32,
    centred: bool,
}

fn reading(file: &Rc<Tensors>, (d, s): (usize, usize), hook: &str, l: &Layout, names: [&str; 3]) -> Reading {
    let settings = json!({
        "sae_type": "temporal",
        "d_model": d,
        "expansion_factor": expansion(d, s),
        "act_fn": if l.k.is_some() { "topk" } else { "relu" },
        "top_k": l.k.unwrap_or(1),
        "norm_activation": "inference",
        "sparsity_include_decoder_norm": false,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "n_heads": l.heads,
        "n_attn_layers": l.layers,
        "bottleneck_factor": l.bottleneck,
        "tied_weights": l.tied,
        "apply_b_dec_to_input": l.centred,
        "input_scale": l.scale,
    });
    let [w_enc, w_dec, b_dec] = names;
    let mut parts = vec![Part::plain(file, w_dec, "W_D", &[s, d]), Part::plain(file, b_dec, "b_D", &[d])];
    if !l.tied {
        parts.push(Part::plain(file, w_enc, "W_E", &[d, s]));
    }
    let narrow = s / (l.bottleneck.max(1) as usize);
    for i in 0..l.layers {
        for (name, out) in [("k_ctx", narrow), ("q_target", narrow), ("v_ctx", s), ("c_proj", s)] {
            let name = format!("attn_layers.{i}.{name}");
            let (w, b) = (format!("{name}.weight"), format!("{name}.bias"));
            parts.push(Part::plain(file, &w, &w, &[out, s]));
            parts.push(Part::plain(file, &b, &b, &[out]));
        }
    }
    Reading::new("temporal", settings, parts)
}

/// canrager/temporalSAEs.
pub fn read_conf(place: &Place) -> Result<Reading> {
    let path = place.folder.need("conf.yaml")?;
    let conf: Value = serde_yaml_ng::from_str(&files::read_text(&path)?)
        .map_err(|e| Error::format(&path, e.to_string()))?;
    let file = Rc::new(Tensors::open(place.folder.need("latest_ckpt.safetensors")?)?);
    let (s, d) = two(&file, "D")?;
    let sae = &conf["sae"];
    let number = |key: &str| {
        sae[key].as_u64().ok_or_else(|| Error::format(&path, format!("sae.{key}: missing or no number")))
    };
    let scale = sae["scaling_factor"].as_f64();
    let layout = Layout {
        heads: number("n_heads")?,
        layers: number("n_attn_layers")?,
        bottleneck: number("bottleneck_factor")?,
        tied: sae["tied_weights"].as_bool().unwrap_or(true),
        k: (sae["sae_diff_type"] == "topk").then(|| number("kval_topk")).transpose()?,
        scale: scale.ok_or_else(|| Error::format(&path, "sae.scaling_factor: missing or no number"))? as f32,
        centred: true,
    };
    let layer = place.number_after("layer_");
    let hook = place.hook_in(layer.map(|l| format!("blocks.{l}.hook_resid_post")))?;
    let mut reading = reading(&file, (d, s), &hook, &layout, ["E", "D", "b"]);
    reading.about.model_name = place.facts.model_name.clone();
    Ok(reading)
}
