//! eai-sparsify: TopK and GroupMax on raw activations, an SAE's encoder seeing `x − b_dec`.

use super::{Out, layer_of};
use crate::{
    Error, Result, files,
    hub::readers::linear::module_hooks,
    settings::ActFn,
    tensorfile::{self, Slot},
};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) fn write(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    let f = out.features()?;
    let [d, s, o] = out.sizes();
    out.raw_only()?;
    if out.is_gated_sae() {
        return Err(out.cannot("sae_type gated", "it has topk and groupmax"));
    }
    let activation = match f.act_fn {
        ActFn::TopK => "topk",
        ActFn::GroupMax => "groupmax",
        _ => return Err(out.cannot_act("it has topk and groupmax")),
    };
    if o != d {
        return Err(out.cannot("d_out", "it reads and gives activations of one width"));
    }
    if f.gated {
        out.unit_norms()?;
    }
    let unit = out.d.decoder_norms(out.q)?.iter().all(|n| (n - 1.0).abs() <= 1e-5);
    let cfg = json!({
        "activation": activation,
        "expansion_factor": if s % d == 0 { s / d } else { 32 },
        "normalize_decoder": unit,
        "num_latents": s,
        "k": out.settings().top_k(),
        "multi_topk": false,
        "skip_connection": f.skip,
        "transcode": f.transcoder,
        "d_in": d,
    });
    // Its SAEs always take the bias off.
    let shift = match f.transcoder || f.centred {
        true => vec![0.0; s],
        false => out.bias_through_encoder()?,
    };
    // The settings of a run lie around the folders of its modules.
    let run = json!({ "model": out.model_name() });
    let (root, dir) = (dir, dir.join(folder(&out, f.transcoder)?));
    let mut slots = vec![
        Slot::new("encoder.weight", [s, d]),
        Slot::new("encoder.bias", [s]),
        Slot::new("W_dec", [s, d]),
        Slot::new("b_dec", [d]),
    ];
    if f.skip {
        slots.push(Slot::new("W_skip", [d, d]));
    }
    let precision = out.dtype.precision();
    tensorfile::write_with(
        &dir.join("sae.safetensors"),
        &slots,
        precision,
        &[("format", "pt".into())],
        |i, put| {
            put(&match slots[i].name.as_str() {
                "encoder.weight" => out.held("W_E")?,
                "encoder.bias" => out.stored("b_E")?.iter().zip(&shift).map(|(b, s)| b + s).collect(),
                "W_dec" => out.stored("W_D")?,
                "W_skip" => crate::hub::reading::transpose(&out.stored("W_skip")?, d, d),
                _ => out.decoder_bias()?,
            })
        },
    )?;
    for (path, value) in [(dir.join("cfg.json"), cfg), (root.join("config.json"), run)] {
        let text = serde_json::to_string(&value).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    }
    Ok(dir)
}

/// The folder, which alone says the hook points: named after the module where that gives them back, else after the hook point.
fn folder(out: &Out<'_>, transcoder: bool) -> Result<String> {
    let (hook_in, hook_out) = out.hooks();
    let module = match layer_of(&hook_out) {
        Some((layer, "hook_resid_post")) => format!("layers.{layer}"),
        Some((layer, "hook_mlp_out")) => format!("layers.{layer}.mlp"),
        Some((layer, "hook_attn_out")) => format!("layers.{layer}.self_attn"),
        _ => hook_out.clone(),
    };
    let (read, made) = module_hooks(&module, transcoder);
    if read.as_ref() == Some(&hook_in) && (!transcoder || made.as_ref() == Some(&hook_out)) {
        return Ok(module);
    }
    Err(out.cannot(
        format!("a transcoder from {hook_in} to {hook_out}"),
        "it has those of a whole module: mlp.hook_in to hook_mlp_out, ln1.hook_normalized to hook_attn_out, hook_resid_pre to \
         hook_resid_post, all of one block",
    ))
}
