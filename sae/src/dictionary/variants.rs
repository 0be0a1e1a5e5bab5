//! The variants there are: one line each. A new one is a room of its own and a line here.

use super::{clt, crosscoder, foreign, gated, lorsa, matryoshka, molt, sae, settings::VariantSettings};
use crate::settings::field_names;
use serde::Serialize;
use serde_json::Value;

macro_rules! variants {
    ($($tag:literal => $name:ident($settings:ty)),* $(,)?) => {
        /// Settings that belong to one variant only.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Variant {
            $(#[allow(missing_docs)] $name($settings)),*
        }

        impl Variant {
            /// Every `sae_type`.
            pub const TAGS: &[&str] = &[$($tag),*];

            /// The value of `sae_type`.
            pub fn sae_type(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $tag),*
                }
            }

            /// Keys of a variant beside the common ones; `None` for an unknown tag.
            pub(super) fn fields(tag: &str) -> Option<&'static [&'static str]> {
                match tag {
                    $($tag => Some(field_names::<$settings>()),)*
                    _ => None,
                }
            }

            /// Reads the variant's own keys.
            pub(super) fn parse(tag: &str, own: Value) -> serde_json::Result<Self> {
                match tag {
                    $($tag => serde_json::from_value(own).map(Self::$name),)*
                    _ => Err(serde::de::Error::custom(format!("no variant {tag:?}"))),
                }
            }

            /// What the settings say.
            pub fn facts(&self) -> &dyn VariantSettings {
                match self {
                    $(Self::$name(s) => s),*
                }
            }
        }
    };
}

variants! {
    "sae" => Sae(sae::SaeSettings),
    "gated" => Gated(gated::GatedSettings),
    "matryoshka" => Matryoshka(matryoshka::MatryoshkaSettings),
    "lorsa" => Lorsa(lorsa::LorsaSettings),
    "clt" => Clt(clt::CltSettings),
    "crosscoder" => CrossCoder(crosscoder::CrossCoderSettings),
    "molt" => Molt(molt::MoltSettings),
    "matching_pursuit" => MatchingPursuit(foreign::MatchingPursuitSettings),
    "temporal" => Temporal(foreign::TemporalSettings),
}
