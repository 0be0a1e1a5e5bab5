//! circuit-tracer: one transcoder of a set, or a cross-layer transcoder, with the `config.yaml` that names their hook points.

use super::{Out, layer_of};
use crate::{
    Result,
    dictionary::variants::Variant,
    files,
    settings::ActFn,
    tensorfile::{self, OutTensor, Slot},
};
use std::path::{Path, PathBuf};

pub(super) fn write(out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    out.raw_only()?;
    match out.settings().variant {
        Variant::Clt(_) => write_clt(out, dir),
        _ => write_layer(out, dir),
    }
}

fn check_act(out: &Out<'_>) -> Result<()> {
    match out.settings().act_fn() {
        ActFn::Relu | ActFn::JumpRelu => Ok(()),
        _ => Err(out.cannot_act("its transcoders are ReLU or JumpReLU")),
    }
}

/// Hook points without their layer, which must be `layer`.
fn part<'a>(out: &Out<'_>, hook: &'a str, layer: usize) -> Result<&'a str> {
    match layer_of(hook) {
        Some((l, rest)) if l == layer => Ok(rest),
        _ => Err(out.cannot(format!("hook point {hook}"), &format!("it should be one of layer {layer}"))),
    }
}

fn config(out: &Out<'_>, dir: &Path, kind: &str, hooks: (&str, &str)) -> Result<()> {
    let map = std::collections::BTreeMap::from([
        ("model_name", out.model_name()),
        ("model_kind", kind.to_string()),
        ("feature_input_hook", hooks.0.to_string()),
        ("feature_output_hook", hooks.1.to_string()),
    ]);
    let path = dir.join("config.yaml");
    let text = serde_yaml_ng::to_string(&map).map_err(|e| crate::Error::format(&path, e.to_string()))?;
    files::write_atomic(&path, |w| w.write_all(text.as_bytes()))
}

fn write_layer(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    let f = out.features()?;
    check_act(&out)?;
    if !f.transcoder {
        return Err(out.cannot("an SAE (hook_point_in = hook_point_out)", "it has transcoders only"));
    }
    if out.is_gated_sae() {
        return Err(out.cannot("sae_type gated", "its transcoders are ReLU or JumpReLU"));
    }
    if out.sizes()[0] != out.sizes()[2] {
        return Err(out.cannot("d_out", "its library gives both sides of a transcoder one width"));
    }
    let (hook_in, hook_out) = out.hooks();
    let (layer, read) =
        layer_of(&hook_in).ok_or_else(|| out.cannot(&hook_in, "hook points are blocks.L.…"))?;
    let made = part(&out, &hook_out, layer)?;
    let [d, s, o] = out.sizes();
    let mut slots = vec![
        Slot::new("W_enc", [s, d]),
        Slot::new("W_dec", [s, o]),
        Slot::new("b_enc", [s]),
        Slot::new("b_dec", [o]),
    ];
    if f.act_fn == ActFn::JumpRelu {
        slots.push(Slot::new("activation_function.threshold", [s]));
    }
    if f.skip {
        slots.push(Slot::new("W_skip", [o, d]));
    }
    let path = dir.join(format!("layer_{layer}.safetensors"));
    let precision = out.dtype.precision();
    tensorfile::write_with(&path, &slots, precision, &[("format", "pt".into())], |i, put| {
        put(&match slots[i].name.as_str() {
            "W_enc" => out.held("W_E")?,
            "W_dec" => out.stored("W_D")?,
            "b_enc" => out.stored("b_E")?,
            "b_dec" => out.decoder_bias()?,
            "W_skip" => crate::hub::reading::transpose(&out.stored("W_skip")?, d, o),
            _ => out.thresholds()?,
        })
    })?;
    config(&out, dir, "transcoder_set", (read, made))?;
    Ok(path)
}

fn write_clt(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    check_act(&out)?;
    let jump = out.settings().act_fn() == ActFn::JumpRelu;
    if jump && out.settings().gated() {
        return Err(out.cannot(
            "act_fn jumprelu with sparsity_include_decoder_norm",
            "its thresholds are compared with the pre-activation itself",
        ));
    }
    let (read, made) = (out.d.hook_points_in(), out.d.hook_points_out());
    let n = read.len();
    let [d, s, _] = out.sizes();
    let (first_in, first_out) = (part(&out, &read[0], 0)?.to_string(), part(&out, &made[0], 0)?.to_string());
    for l in 0..n {
        if part(&out, &read[l], l)? != first_in || part(&out, &made[l], l)? != first_out {
            return Err(
                out.cannot(format!("hook point {}", read[l]), "all layers have the hook point of the first")
            );
        }
    }
    let precision = out.dtype.precision();
    let (w_e, b_e) = (out.held("W_E")?, out.stored("b_E")?);
    let theta = match jump {
        true => Some(out.stored("activation_function.log_jumprelu_threshold")?),
        false => None,
    };
    let decoders: Vec<Vec<f32>> = (0..n).map(|t| out.stored(&format!("W_D.{t}"))).collect::<Result<_>>()?;
    for l in 0..n {
        let tensor = |name: &str, shape: &[usize], values: Vec<f32>| OutTensor {
            name: format!("{name}_{l}"),
            shape: shape.into(),
            values,
        };
        let bias = if out.has(&format!("b_D.{l}")) { out.stored(&format!("b_D.{l}"))? } else { vec![0.0; d] };
        let mut tensors = vec![
            tensor("W_enc", &[s, d], w_e[l * s * d..(l + 1) * s * d].to_vec()),
            tensor("b_enc", &[s], b_e[l * s..(l + 1) * s].to_vec()),
            tensor("b_dec", &[d], bias),
        ];
        if let Some(theta) = &theta {
            let values = theta[l * s..(l + 1) * s].iter().map(|v| v.exp()).collect();
            tensors.push(tensor("threshold", &[s], values));
        }
        let format = [("format", "pt".to_string())];
        tensorfile::write(&dir.join(format!("W_enc_{l}.safetensors")), &tensors, precision, &format)?;
        // Ours: for each target the rows of every layer up to it; theirs: for each feature all its targets.
        let row = |f: usize, t: usize| decoders[t][(l * s + f) * d..][..d].iter().copied();
        let values = (0..s).flat_map(|f| (l..n).flat_map(move |t| row(f, t))).collect();
        let w_dec = tensor("W_dec", &[s, n - l, d], values);
        tensorfile::write(&dir.join(format!("W_dec_{l}.safetensors")), &[w_dec], precision, &format)?;
    }
    config(&out, dir, "cross_layer_transcoder", (&first_in, &first_out))?;
    Ok(dir.into())
}
