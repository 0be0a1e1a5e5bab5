//! From a trained dictionary to understanding: where features fire.

mod codes;
mod top_contexts;

pub use codes::HostCodes;
pub use top_contexts::{FeatureSummary, Hit, TopContexts};
