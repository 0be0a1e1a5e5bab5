//! Making sure that all ranks do the same job: settings compared key by key before anything starts, and what one rank does for all.

use super::Axis;
use crate::{Error, Result, training::difference};
use lm_saes_runtime::Queue;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Compares `settings` over all ranks, whose names they have in `world`.
///
/// # Errors
/// The first key in which a rank differs from rank 0, with both values; the same error on every rank.
pub fn agree(q: &mut Queue, world: &Axis, settings: &Value) -> Result<()> {
    if world.is_solo() {
        return Ok(());
    }
    let all = world.gather_bytes(q, settings.to_string().as_bytes())?;
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
    let first = parse(&all[0]);
    if let Some((rank, other)) = all.iter().enumerate().find(|(_, other)| **other != all[0]) {
        let (key, ours, theirs) = difference("", &first, &parse(other))
            .unwrap_or_else(|| ("order of the settings".into(), Value::Null, Value::Null));
        let what =
            format!("is {theirs} on rank {rank}, but {ours} on rank 0; all ranks need the same settings");
        return Err(Error::setting(key.trim_start_matches('.'), what));
    }
    Ok(())
}

/// What `job` gives on the primary rank, on every rank; work on files that only one may do. Where it fails, it fails everywhere.
///
/// # Errors
/// Those of `job`; on other ranks with the same text.
pub fn on_primary<T: Serialize + DeserializeOwned>(
    q: &mut Queue,
    world: &Axis,
    job: impl FnOnce(&mut Queue) -> Result<T>,
) -> Result<T> {
    if world.is_solo() {
        return job(q);
    }
    if world.rank() > 0 {
        let told = world.gather_bytes(q, &[])?;
        let told: Result<T, String> = serde_json::from_slice(&told[0])
            .unwrap_or_else(|e| Err(format!("what rank 0 said could not be read: {e}")));
        return told.map_err(|what| Error::Data { what: format!("rank 0: {what}") });
    }
    let done = job(q);
    let told = done.as_ref().map_err(ToString::to_string);
    let told = serde_json::to_vec(&told).map_err(|e| Error::Data { what: e.to_string() })?;
    // What failed may be the device; that is the better error.
    match world.gather_bytes(q, &told) {
        Err(e) if done.is_ok() => Err(e),
        _ => done,
    }
}

/// Goes on when all ranks have come and none has failed.
///
/// # Errors
/// This rank's own failure, or that another failed.
pub fn together(q: &mut Queue, ranks: &Axis, own: Result<()>) -> Result<()> {
    let mut failed = [f64::from(u8::from(own.is_err()))];
    let told = ranks.sum_f64(q, &mut failed);
    own?;
    told?;
    match failed[0] > 0.0 {
        true => Err(Error::Data { what: "another rank failed here; its own message says why".into() }),
        false => Ok(()),
    }
}
