//! Qwen 2, 2.5 and 3: Llama with biases on queries, keys and values (2), or a norm on each head of queries and keys (3).

use super::{Family, llama};
use crate::{
    Result,
    lm::{
        architecture::{Architecture, QkNorm},
        config::Config,
    },
};

pub(super) const QWEN2: Family = Family { model_types: &["qwen2"], layout: llama::LAYOUT, read: qwen2 };
pub(super) const QWEN3: Family = Family { model_types: &["qwen3"], layout: llama::LAYOUT, read: qwen3 };

fn qwen2(c: &Config<'_>) -> Result<Architecture> {
    let mut a = windowed(c)?;
    a.biases.qkv = true;
    Ok(a)
}

fn qwen3(c: &Config<'_>) -> Result<Architecture> {
    let mut a = windowed(c)?;
    a.qk_norm = QkNorm::Head;
    Ok(a)
}

fn windowed(c: &Config<'_>) -> Result<Architecture> {
    let mut a = llama::read(c)?;
    if c.flag_or("use_sliding_window", false)?
        && let Some(window) = c.size_or_none("sliding_window")?
    {
        let first = c.number_or("max_window_layers", 28.0)? as usize;
        c.windows(&mut a, window, |i| i >= first)?;
    }
    Ok(a)
}
