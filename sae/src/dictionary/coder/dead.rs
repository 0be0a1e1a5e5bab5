//! Which features are dead (VARIANTS §5, dead features); the auxiliary loss itself is part of each path.

use crate::{Result, dictionary::DeadFeatures, parallel::Mesh};
use lm_saes_runtime::{Queue, Reduction};

/// Ages features by this step's tokens, those of all ranks that share the batch, after `dead.fired` has been counted here. Returns
/// how many are dead on all ranks, and 1 for each dead feature here and 0 for the others; nothing, without asking the device, when
/// nobody needs it.
pub(super) fn age(
    q: &mut Queue,
    mesh: &Mesh,
    dead: &mut DeadFeatures,
    n_tokens: usize,
    needed: bool,
) -> Result<(usize, Vec<u8>)> {
    mesh.data.all_reduce(q, &mut dead.fired, Reduction::Sum)?;
    let tokens = u32::try_from(n_tokens).unwrap_or(u32::MAX);
    q.age(&dead.fired, &mut dead.since, &mut dead.dead, tokens, dead.threshold)?;
    if !needed {
        return Ok((0, Vec::new()));
    }
    let flags: Vec<u8> = q.download(&dead.dead)?;
    let here = flags.iter().filter(|&&d| d != 0).count();
    Ok((mesh.model.total(q, here)?, flags))
}
