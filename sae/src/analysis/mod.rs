//! From a trained dictionary to understanding: what every feature does, in one pass over sparse codes.
//!
//! ```text
//! Batch of contexts -> Encoder (normalised as the dictionary says) -> HostCodes -> Analyzer (one small state per feature)
//!                   -> FeatureAnalysis for each feature -> store
//! directions: output tokens and neighbours, from the decoder alone
//! ```
//!
//! * [`Analyzer`] counts and keeps samples by [`Rules`]; its result does not depend on the number of threads, and its whole state is saved and taken up again exactly.
//! * Signed activations count and rank by their magnitude; samples keep the sign.

mod analyzer;
mod bands;
mod codes;
mod directions;
mod encode;
mod feature;
mod histogram;
mod partners;
mod rules;
mod transforms;

pub use analyzer::{Analyzer, Seen};
pub use codes::{CODES_BLOCK, HostCodes, rows_at_once};
pub use directions::{DIRECTIONS_BLOCK, Decoders, HeadRelations, output_tokens, writes_to_residual};
pub use encode::{Encoder, layers_of};
pub use rules::{NON_ACTIVATING, Rules, Sampler};
pub use transforms::Transforms;
