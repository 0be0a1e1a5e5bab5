//! The kinds an op chooses among, as numbers with names so that they cross the plugin table unchanged.

macro_rules! modes {
    ($(#[$doc:meta])* $name:ident { $($(#[$d:meta])* $v:ident = $n:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u32);
        #[allow(non_upper_case_globals)]
        impl $name {
            $($(#[$d])* pub const $v: Self = Self($n);)*
            /// Every defined value with its name.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$v, stringify!($v))),*];
        }
    };
}

modes!(
    /// Activation applied by a Gemm epilogue.
    Act {
        /// Identity.
        None = 0,
        /// max(x, 0); NaN stays NaN.
        Relu = 1,
        /// x·Φ(x), with the error function.
        GeluErf = 2,
        /// The tanh approximation of GELU.
        GeluTanh = 3,
        /// x·sigmoid(x).
        Silu = 4,
    }
);

modes!(
    /// Elementwise forms. `x`, `z` inputs, `a`, `b` scalars.
    MapKind {
        /// a·x + b
        Affine = 0,
        /// max(x, 0); NaN stays NaN
        Relu = 1,
        /// x·Φ(x)
        GeluErf = 2,
        /// tanh GELU
        GeluTanh = 3,
        /// x·sigmoid(x)
        Silu = 4,
        /// tanh(a·x)
        Tanh = 5,
        /// exp(x)
        Exp = 6,
        /// sqrt(x)
        Sqrt = 7,
        /// a·x + b·z
        Add = 8,
        /// a·x·z
        Mul = 9,
        /// a·x / z
        Div = 10,
        /// silu(x)·z
        SiluMul = 11,
        /// gelu_tanh(x)·z
        GeluTanhMul = 12,
        /// gelu_erf(x)·z
        GeluErfMul = 13,
        /// a·min(1, b / x): shrink factor, 1 where x <= b
        Shrink = 14,
        /// a·tanh(x / a): soft cap
        SoftCap = 15,
    }
);

modes!(
    /// Reductions.
    ReduceKind {
        /// Σ x
        Sum = 0,
        /// Σ x²
        SumSq = 1,
        /// max x (−inf when empty; NaN is ignored)
        Max = 2,
        /// number of x ≠ 0
        NonZero = 3,
    }
);

modes!(
    /// Sparsity penalties on gated values `u`.
    PenaltyKind {
        /// ‖u‖_p per row
        Power = 0,
        /// Σ tanh(c·u) per row
        Tanh = 1,
        /// no penalty (`out` is 0); `du` receives tanh(c·u) itself, without factors (first pass of the tanh-quad penalty)
        TanhValue = 2,
        /// Σ |u|^p per row, any p > 0
        PowerSum = 3,
    }
);

modes!(
    /// Random distributions.
    RandomKind {
        /// uniform in [a, b)
        Uniform = 0,
        /// normal with mean a and standard deviation b
        Normal = 1,
    }
);
