//! dictionary_learning: `ae.pt` and `config.json`.

use super::{Out, layer_of};
use crate::{
    Error, Result, files,
    hub::{reading::transpose, tensors::write_torch},
    settings::ActFn,
    tensorfile::OutTensor,
};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) fn write(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    let f = out.features()?;
    let [d, s, _] = out.sizes();
    out.raw_only()?;
    if f.transcoder {
        return Err(out.cannot("a transcoder", "its dictionaries reconstruct what they read"));
    }
    if f.gated && f.act_fn.has_k() {
        out.unit_norms()?;
    }
    let class = match f.act_fn {
        ActFn::Relu if out.is_gated_sae() => "GatedAutoEncoder",
        ActFn::Relu if f.centred => "AutoEncoder",
        ActFn::Relu => "AutoEncoderNew",
        ActFn::JumpRelu => "JumpReluAutoEncoder",
        ActFn::TopK => "AutoEncoderTopK",
        ActFn::BatchTopK => {
            return Err(out.cannot(
                "act_fn batchtopk",
                "its BatchTopKSAE encodes by a threshold, which this dictionary has none of",
            ));
        }
        _ => return Err(out.cannot_act("it has no such dictionary")),
    };
    // What the class takes off the input against what ours does, in the encoder's bias.
    let takes_off = !matches!(class, "AutoEncoderNew" | "JumpReluAutoEncoder");
    let shift: Vec<f32> = match (takes_off, f.centred) {
        (true, false) => out.bias_through_encoder()?,
        (false, true) => out.bias_through_encoder()?.into_iter().map(|v| -v).collect(),
        _ => vec![0.0; s],
    };
    let plus = |v: Vec<f32>, shift: &[f32]| -> Vec<f32> { v.iter().zip(shift).map(|(a, b)| a + b).collect() };
    let tensor = |name: &str, shape: &[usize], values: Vec<f32>| OutTensor {
        name: name.into(),
        shape: shape.into(),
        values,
    };
    let b_d = out.decoder_bias()?;
    let mut tensors = Vec::new();
    let mut integers = Vec::new();
    if class == "JumpReluAutoEncoder" {
        tensors.push(tensor("W_enc", &[d, s], out.stored("W_E")?));
        tensors.push(tensor("b_enc", &[s], plus(out.stored("b_E")?, &shift)));
        tensors.push(tensor("W_dec", &[s, d], out.stored("W_D")?));
        tensors.push(tensor("b_dec", &[d], b_d));
        tensors.push(tensor("threshold", &[s], out.thresholds()?));
    } else {
        tensors.push(tensor("encoder.weight", &[s, d], out.held("W_E")?));
        tensors.push(tensor("decoder.weight", &[d, s], transpose(&out.stored("W_D")?, s, d)));
        let bias = match class {
            "GatedAutoEncoder" => "decoder_bias",
            "AutoEncoder" => "bias",
            "AutoEncoderNew" => "decoder.bias",
            _ => "b_dec",
        };
        tensors.push(tensor(bias, &[d], b_d));
        if class == "GatedAutoEncoder" {
            let r_mag = out.stored("r_mag")?;
            let scaled: Vec<f32> = shift.iter().zip(&r_mag).map(|(s, r)| s * r.exp()).collect();
            tensors.push(tensor("gate_bias", &[s], plus(out.stored("b_gate")?, &shift)));
            tensors.push(tensor("mag_bias", &[s], plus(out.stored("b_mag")?, &scaled)));
            tensors.push(tensor("r_mag", &[s], r_mag));
        } else {
            tensors.push(tensor("encoder.bias", &[s], plus(out.stored("b_E")?, &shift)));
        }
    }
    if class == "AutoEncoderTopK" {
        let k =
            i32::try_from(out.settings().top_k()).map_err(|_| out.cannot("top_k", "its k has 32 bits"))?;
        integers.push(("k", k));
        // Below 0: no threshold was learned.
        tensors.push(tensor("threshold", &[], vec![-1.0]));
    }
    let config = config(&out, class);
    write_torch(&dir.join("ae.pt"), &tensors, &integers, out.dtype.precision())?;
    let path = dir.join("config.json");
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::format(&path, e.to_string()))?;
    files::write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    Ok(dir.into())
}

fn config(out: &Out<'_>, class: &str) -> serde_json::Value {
    let [d, s, _] = out.sizes();
    let hook = out.hooks().0;
    let (layer, module) = match layer_of(&hook) {
        Some((layer, name)) => {
            let kind = match name {
                "hook_mlp_out" => "mlp_out",
                "hook_attn_out" => "attention_out",
                "hook_resid_pre" => "resid_pre",
                "hook_resid_post" => "resid_post",
                other => other,
            };
            (layer, format!("{kind}_layer_{layer}"))
        }
        None => (0, hook.clone()),
    };
    let context = out.extras.get("token_policy").and_then(|p| p["context_size"].as_u64());
    let mut trainer = json!({
        "dict_class": class,
        "trainer_class": "unknown",
        "activation_dim": d,
        "dict_size": s,
        "layer": layer,
        "lm_name": out.model_name(),
        "submodule_name": module,
        "device": "cpu",
    });
    if out.settings().act_fn() == ActFn::TopK {
        trainer["k"] = json!(out.settings().top_k());
    }
    json!({ "trainer": trainer, "buffer": { "d_submodule": d, "io": "out", "ctx_len": context } })
}
