//! Activations kept on disk, in the reference system's form (TRAINING §7.5): a folder for each hook point, numbered chunks in each,
//! all hook points' chunks of one number from the same tokens.
//!
//! ```text
//! <root>/<hook point>/chunk-00000000.safetensors     activation [.., d], tokens, mask, attention_mask [..]
//! <root>/<hook point>/chunk-00000000.meta.json       where each context came from, where that is known
//! ```
//!
//! Leading axes are contexts and tokens, or tokens alone; a chunk of several batches has one axis more in front. Ours: with a tensor
//! `activation_scale` the activations are 8-bit integers, to be multiplied by the scale of their row.

mod read;
mod write;

pub use read::ChunkReader;
pub use write::{Chunk, ChunkWriter, Loss, Storage, check_empty};

const ACTIVATION: &str = "activation";
const SCALE: &str = "activation_scale";
const EXTENSION: &str = "safetensors";

/// File name of a chunk.
fn file_name(number: u64) -> String {
    format!("chunk-{number:08}.{EXTENSION}")
}

/// Shard and number of a chunk, by its file name without extension.
fn position(stem: &str) -> Option<(u64, u64)> {
    let number = |text: &str| text.parse().ok();
    if let Some(n) = stem.strip_prefix("chunk-") {
        return Some((0, number(n)?));
    }
    let (shard, n) = stem.strip_prefix("shard-")?.split_once("-chunk-")?;
    Some((number(shard)?, number(n)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_names_are_known_and_others_are_not() {
        assert_eq!(position(file_name(7).strip_suffix(".safetensors").unwrap()), Some((0, 7)));
        assert_eq!(position("shard-3-chunk-00000012"), Some((3, 12)));
        for other in ["chunk-", "chunk-x", "shard-1", "stream", "chunk-00000000.meta"] {
            assert_eq!(position(other), None, "{other}");
        }
    }
}
