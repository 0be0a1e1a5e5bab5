//! `lm-saes convert`: a dictionary of any known form, written in another.

use crate::args::Convert;
use anyhow::{Result, anyhow};
use lm_saes::{
    hub::{Facts, Format, Hub, OpenOptions},
    runners::{Conversion, convert},
};
use lm_saes_runtime::Registry;
use serde_json::json;
use std::rc::Rc;

pub fn run(args: &Convert, registry: &Registry) -> Result<()> {
    let facts = Facts {
        hook_in: args.hook_in.clone(),
        hook_out: args.hook_out.clone(),
        norm_scaling_factor: args.norm_factor,
        lenient: args.lenient,
        ..Facts::default()
    };
    let dtype = args.dtype.as_deref().map(|d| d.parse().map_err(|e| anyhow!("--dtype: {e}"))).transpose()?;
    let conversion = Conversion {
        from: args.from.clone(),
        to: args.to.clone(),
        format: Format::named(&args.to_format)?,
        dtype,
        unit_decoder_norm: args.unit_decoder_norm,
        options: OpenOptions { strict: !args.lenient, fold: false, facts, revision: args.revision.clone() },
    };
    let done = convert(&conversion, &Rc::new(Hub::from_env()), registry)?;
    if args.json {
        let (read, made) = &done.hooks;
        let value = json!({
            "path": done.path, "from_format": done.from_format, "to_format": args.to_format, "sae_type": done.sae_type,
            "d_sae": done.d_sae, "hook_points_in": read, "hook_points_out": made,
        });
        println!("{value:#}");
        return Ok(());
    }
    println!(
        "{} → {} ({}): {} of {} features on {}",
        done.from_format,
        args.to_format,
        done.path.display(),
        done.sae_type,
        crate::print::count(done.d_sae as u64),
        done.hooks.0.first().map_or("", String::as_str),
    );
    Ok(())
}
