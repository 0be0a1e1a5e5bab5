//! The reference system's form, which is also ours but for a few settings. Thresholds that are kept themselves become logarithms,
//! and a bias that is taken off the input goes into the encoder's.

use super::Out;
use crate::{
    Result,
    dictionary::{Dictionary, build, checkpoint, variants::Variant},
    hub::reading::THRESHOLD,
    settings::{DictionarySettings, NormActivation},
};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// With every setting this program knows.
pub(super) fn write_own(out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    checkpoint::save(out.q, &*out.d, dir, out.dtype, &extras(&out))?;
    Ok(dir.into())
}

/// With those the reference system knows.
pub(super) fn write(mut out: Out<'_>, dir: &Path) -> Result<PathBuf> {
    check(&out)?;
    let centred = matches!(&out.settings().variant, Variant::Sae(own) if own.apply_b_dec_to_input);
    let copy = (centred || out.has(THRESHOLD)).then(|| rewritten(&mut out, centred)).transpose()?;
    let dictionary = copy.as_deref().unwrap_or(&*out.d);
    checkpoint::save(out.q, dictionary, dir, out.dtype, &extras(&out))?;
    Ok(dir.into())
}

/// The record but for the mark of an earlier save.
fn extras(out: &Out<'_>) -> Map<String, Value> {
    out.extras.iter().filter(|(key, _)| *key != "save").map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Refuses what only this program reads.
fn check(out: &Out<'_>) -> Result<()> {
    let s = out.settings();
    if s.norm_activation() == NormActivation::LayerNorm {
        return Err(out.cannot("norm_activation layer-norm", "it scales by norms only"));
    }
    let act = serde_json::to_value(s.act_fn()).unwrap_or_default();
    if let Some(act @ ("abstopk" | "groupmax")) = act.as_str() {
        return Err(out.cannot(format!("act_fn {act}"), "it has relu, jumprelu, topk and batchtopk"));
    }
    match &s.variant {
        Variant::Sae(own) => {
            let refused = [(own.use_skip_connection, "use_skip_connection"), (own.d_out.is_some(), "d_out")];
            match refused.into_iter().find(|(on, _)| *on) {
                Some((_, name)) => Err(out.cannot(name, "it has no such setting")),
                None if own.apply_b_dec_to_input && own.use_glu_encoder => Err(out.cannot(
                    "apply_b_dec_to_input with use_glu_encoder",
                    "its encoders see the activation itself",
                )),
                None => Ok(()),
            }
        }
        Variant::Lorsa(_) | Variant::Clt(_) | Variant::CrossCoder(_) | Variant::Molt(_) => Ok(()),
        _ => {
            Err(out
                .cannot(format!("sae_type {}", s.sae_type()), "it has sae, crosscoder, clt, lorsa and molt"))
        }
    }
}

/// The same function in its settings: logarithms of thresholds, the encoder's bias less `b_D·W_E`.
fn rewritten(out: &mut Out<'_>, centred: bool) -> Result<Box<dyn Dictionary>> {
    let mut settings = serde_json::to_value(out.settings()).unwrap_or_default();
    if let Value::Object(map) = &mut settings {
        map.remove("use_direct_jumprelu_threshold");
        map.remove("apply_b_dec_to_input");
    }
    let settings: DictionarySettings = DictionarySettings::from_checkpoint(settings)?;
    let mut copy = build(out.q, &settings)?;
    for p in copy.params_mut() {
        let log = p.is_log_threshold() && out.has(THRESHOLD);
        let mut values = out.held(if log { THRESHOLD } else { &p.name })?;
        if log {
            values.iter_mut().for_each(|v| *v = v.max(0.0).ln());
        }
        if centred && p.name == "b_E" {
            values.iter_mut().zip(out.bias_through_encoder()?).for_each(|(v, shift)| *v -= shift);
        }
        out.q.upload(&values, &mut p.value)?;
    }
    copy.set_norms(out.d.norms().clone());
    let running = out.d.running_thresholds().values().map(<[f32]>::to_vec);
    copy.running_thresholds_mut().set(running);
    Ok(copy)
}
