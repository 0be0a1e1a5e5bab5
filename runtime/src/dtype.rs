//! Element types. A newtype over `u32` rather than an enum, because values arrive across the plugin table and a
//! hostile number must not be undefined behaviour.

use std::fmt;

/// Element type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DType(pub u32);

impl DType {
    /// IEEE single precision; the type of master weights and of every accumulation.
    pub const F32: Self = Self(1);
    /// bfloat16.
    pub const BF16: Self = Self(2);
    /// IEEE half precision.
    pub const F16: Self = Self(3);
    /// Signed 32-bit integers.
    pub const I32: Self = Self(4);
    /// Unsigned 32-bit integers: indices, counts.
    pub const U32: Self = Self(5);
    /// Bytes: masks.
    pub const U8: Self = Self(6);

    /// Bytes per element; 0 for a value that names no type.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::U8 => 1,
            _ => 0,
        }
    }

    /// Whether the type is one of the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::BF16 | Self::F16)
    }

    /// Lower-case name, as printed in plans and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::U8 => "u8",
            _ => "invalid",
        }
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Host types that can be uploaded to and downloaded from a tensor.
pub trait Element: bytemuck::Pod {
    /// The tensor type with the same bytes.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::BF16;
}
