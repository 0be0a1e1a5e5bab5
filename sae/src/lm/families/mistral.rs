//! Mistral: Llama with a sliding window in every layer.

use super::{Family, llama};
use crate::{
    Result,
    lm::{architecture::Architecture, config::Config},
};

pub(super) const FAMILY: Family = Family { model_types: &["mistral"], layout: llama::LAYOUT, read };

fn read(c: &Config<'_>) -> Result<Architecture> {
    let mut a = llama::read(c)?;
    if let Some(window) = c.size_or_none("sliding_window")? {
        c.windows(&mut a, window, |_| true)?;
    }
    Ok(a)
}
