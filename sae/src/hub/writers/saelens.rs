//! SAELens 6, inference form.

use super::Out;
use crate::{
    Error, Result,
    dictionary::variants::Variant,
    files,
    hub::readers::saelens::{CONFIG, WEIGHTS},
    settings::{ActFn, NormActivation},
    tensorfile::{self, Slot},
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The version whose form this is; files without one are taken for older than 6.
const VERSION: &str = "6.54.12";

pub(super) fn write(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    let f = out.features()?;
    let [d, s, o] = out.sizes();
    let mode = out.settings().norm_activation();
    let norm = match mode {
        NormActivation::Inference => "none",
        NormActivation::TokenWise => "constant_norm_rescale",
        NormActivation::LayerNorm => "layer_norm",
        _ => return Err(out.cannot("norm_activation batch-wise", "it scales each token by itself")),
    };
    if f.transcoder && norm != "none" {
        let why =
            "it scales a transcoder's output by figures of its input, this program by those of its label";
        return Err(out.cannot(format!("a transcoder with norm_activation {norm}"), why));
    }
    let gated_sae = out.is_gated_sae();
    let mut own = Map::new();
    let architecture = match (f.act_fn, f.transcoder) {
        (ActFn::Relu, false) if gated_sae => "gated",
        (_, true) if gated_sae => {
            return Err(out.cannot("a gated transcoder", "its transcoders are ReLU or JumpReLU"));
        }
        (ActFn::Relu, false) => "standard",
        (ActFn::JumpRelu, false) => "jumprelu",
        (ActFn::TopK | ActFn::AbsTopK, false) => {
            own.insert("k".into(), json!(out.settings().top_k()));
            own.insert("rescale_acts_by_decoder_norm".into(), json!(f.gated));
            if f.gated {
                // It would give activations times the norms.
                out.unit_norms()?;
            }
            if f.act_fn == ActFn::TopK { "topk" } else { "abstopk" }
        }
        (ActFn::Relu, true) => {
            if f.skip {
                "skip_transcoder"
            } else {
                "transcoder"
            }
        }
        (ActFn::JumpRelu, true) => {
            if f.skip {
                "jumprelu_skip_transcoder"
            } else {
                "jumprelu_transcoder"
            }
        }
        (ActFn::BatchTopK, _) => {
            return Err(out.cannot("act_fn batchtopk", "a selection over the batch is saved there as JumpReLU with a threshold, which this dictionary has none of"));
        }
        (_, true) => return Err(out.cannot_act("its transcoders are ReLU or JumpReLU")),
        _ => return Err(out.cannot_act("it has no such dictionary")),
    };
    if f.transcoder {
        own.insert("d_out".into(), json!(o));
    }
    let mut slots = vec![Slot::new("W_enc", [d, s]), Slot::new("W_dec", [s, o]), Slot::new("b_dec", [o])];
    let names: &[&str] = if gated_sae { &["b_gate", "r_mag", "b_mag"] } else { &["b_enc"] };
    slots.extend(names.iter().map(|n| Slot::new(*n, [s])));
    if f.act_fn == ActFn::JumpRelu {
        slots.push(Slot::new("threshold", [s]));
    }
    if f.skip {
        slots.push(Slot::new("W_skip", [o, d]));
    }
    let dtype = out.dtype.to_string();
    let metadata = metadata(&out);
    let mut cfg = json!({
        "d_in": d,
        "d_sae": s,
        "dtype": dtype.trim_start_matches("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": f.centred,
        "normalize_activations": norm,
        "reshape_activations": if out.hooks().0.ends_with("hook_z") { "hook_z" } else { "none" },
        "metadata": metadata,
    });
    if let Some(map) = cfg.as_object_mut() {
        map.extend(own);
        map.insert("architecture".into(), json!(architecture));
    }
    let precision = out.dtype.precision();
    tensorfile::write_with(&dir.join(WEIGHTS), &slots, precision, &[("format", "pt".into())], |i, put| {
        put(&match slots[i].name.as_str() {
            "W_enc" => out.stored("W_E")?,
            "b_enc" => out.stored("b_E")?,
            "W_dec" => out.stored("W_D")?,
            "b_dec" => out.decoder_bias()?,
            "threshold" => out.thresholds()?,
            "W_skip" => crate::hub::reading::transpose(&out.stored("W_skip")?, d, o),
            name => out.stored(name)?,
        })
    })?;
    let text =
        serde_json::to_string_pretty(&cfg).map_err(|e| Error::format(dir.join(CONFIG), e.to_string()))?;
    files::write_atomic(&dir.join(CONFIG), |w| w.write_all(text.as_bytes()))?;
    Ok(dir.into())
}

/// Theirs where the dictionary came from there, else what is known.
fn metadata(out: &Out<'_>) -> Map<String, Value> {
    let from = out.extras.get("source").and_then(|s| s["format"].as_str());
    let kept = out.extras.get("metadata").and_then(Value::as_object).filter(|_| from == Some("saelens"));
    let mut map = kept.cloned().unwrap_or_default();
    map.insert("sae_lens_version".into(), json!(VERSION));
    let (hook_in, hook_out) = out.hooks();
    map.insert("model_name".into(), json!(out.model_name()));
    map.insert("hook_name".into(), json!(hook_in));
    if hook_out != hook_in {
        map.insert("hook_name_out".into(), json!(hook_out));
    }
    let policy = out.extras.get("token_policy");
    for (theirs, ours) in [("context_size", "context_size"), ("prepend_bos", "prepend_bos")] {
        if let Some(value) = policy.and_then(|p| p.get(ours)).filter(|v| !v.is_null()) {
            map.insert(theirs.into(), value.clone());
        }
    }
    if let Variant::Matryoshka(own) = &out.settings().variant {
        let widths = own.levels(out.settings().d_sae()).unwrap_or_default();
        map.insert("training_architecture_details".into(), json!({ "matryoshka_widths": widths }));
    }
    map
}
