//! `lm-saes convert`: a dictionary of any known form, written in another.

use crate::args::{Convert, Form};
use anyhow::{Result, anyhow};
use lm_saes::{
    hub::{Facts, Format, Hub, OpenOptions},
    runners::{Conversion, convert},
};
use lm_saes_runtime::Registry;
use serde_json::json;
use std::{path::Path, rc::Rc};

pub fn run(args: &Convert, registry: &Registry) -> Result<()> {
    let conversion =
        Conversion { parts: args.parts as usize, ..conversion(&args.from, &args.to, &args.form)? };
    let done = convert(&conversion, &Rc::new(Hub::from_env()), registry)?;
    let to_format = &args.form.to_format;
    if args.json {
        let (read, made) = &done.hooks;
        let value = json!({
            "path": done.path, "from_format": done.from_format, "to_format": to_format, "sae_type": done.sae_type,
            "d_sae": done.d_sae, "hook_points_in": read, "hook_points_out": made,
        });
        println!("{value:#}");
        return Ok(());
    }
    println!(
        "{} → {} ({}): {} of {} features on {}",
        done.from_format,
        to_format,
        done.path.display(),
        done.sae_type,
        crate::print::count(done.d_sae as u64),
        done.hooks.0.first().map_or("", String::as_str),
    );
    Ok(())
}

/// A conversion as the options say.
pub(super) fn conversion(from: &str, to: &Path, form: &Form) -> Result<Conversion> {
    let facts = Facts {
        hook_in: form.hook_in.clone(),
        hook_out: form.hook_out.clone(),
        norm_scaling_factor: form.norm_factor,
        lenient: form.lenient,
        ..Facts::default()
    };
    let dtype = form.dtype.as_deref().map(|d| d.parse().map_err(|e| anyhow!("--dtype: {e}"))).transpose()?;
    Ok(Conversion {
        from: from.into(),
        to: to.into(),
        format: Format::named(&form.to_format)?,
        dtype,
        unit_decoder_norm: form.unit_decoder_norm,
        parts: 1,
        options: OpenOptions { strict: !form.lenient, fold: false, facts, revision: form.revision.clone() },
    })
}
