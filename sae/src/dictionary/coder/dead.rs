//! Which features are dead (VARIANTS §5, dead features); the auxiliary loss itself is part of each path.

use crate::{Result, dictionary::DeadFeatures, parallel::Axis};
use lm_saes_runtime::{Queue, Reduction};

/// Ages features by this step's tokens, those of all ranks that share the batch, after `dead.fired` has been counted here. Returns 1 for each dead feature and 0 for the
/// others, or nothing, without asking the device, when nobody needs it.
pub(super) fn age(
    q: &mut Queue,
    data: &Axis,
    dead: &mut DeadFeatures,
    n_tokens: usize,
    needed: bool,
) -> Result<Vec<u8>> {
    data.all_reduce(q, &mut dead.fired, Reduction::Sum)?;
    let tokens = u32::try_from(n_tokens).unwrap_or(u32::MAX);
    q.age(&dead.fired, &mut dead.since, &mut dead.dead, tokens, dead.threshold)?;
    if needed { Ok(q.download(&dead.dead)?) } else { Ok(Vec::new()) }
}

/// How many are dead.
pub(super) fn count(dead: &[u8]) -> usize {
    dead.iter().filter(|&&d| d != 0).count()
}
