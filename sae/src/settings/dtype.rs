//! Element types as users write them: `torch.float16`, `bfloat16`, `fp32`, … Saved in upstream's form `torch.float32`.

use crate::tensorfile::Precision;
use half::{bf16, f16};
use lm_saes_runtime::DType;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// A floating-point type named in a settings file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DTypeName {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl DTypeName {
    /// The runtime's element type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// A value as this type holds it.
    pub fn narrowed(self, v: f32) -> f32 {
        match self {
            Self::F32 => v,
            Self::Bf16 => bf16::from_f32(v).to_f32(),
            Self::F16 => f16::from_f32(v).to_f32(),
        }
    }

    /// The type of tensors written to files.
    pub fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::F16 => Precision::F16,
        }
    }
}

impl FromStr for DTypeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("torch.").unwrap_or(text) {
            "float32" | "float" | "fp32" | "f32" => Ok(Self::F32),
            "bfloat16" | "bf16" => Ok(Self::Bf16),
            "float16" | "half" | "fp16" | "f16" => Ok(Self::F16),
            _ => Err(format!(
                "unknown dtype {text:?}; use torch.float32, torch.bfloat16 or torch.float16 (or float32, fp32, bf16, fp16, …)"
            )),
        }
    }
}

impl fmt::Display for DTypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "torch.float32",
            Self::Bf16 => "torch.bfloat16",
            Self::F16 => "torch.float16",
        })
    }
}

impl Serialize for DTypeName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DTypeName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_upstream_accepts_is_read_and_written_back_in_its_form() {
        for (text, want) in [
            ("torch.float16", DTypeName::F16),
            ("fp16", DTypeName::F16),
            ("bf16", DTypeName::Bf16),
            ("bfloat16", DTypeName::Bf16),
            ("float32", DTypeName::F32),
        ] {
            assert_eq!(text.parse(), Ok(want));
            assert_eq!(want.to_string().parse(), Ok(want));
        }
        assert!("torch.int8".parse::<DTypeName>().unwrap_err().contains("torch.int8"));
    }
}
