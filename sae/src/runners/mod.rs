//! One function per job; what the command line and embedders call.

mod contexts;

pub use contexts::{ContextLook, FeatureLook, Look, LookArgs, strongest_contexts};
