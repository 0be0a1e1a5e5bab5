//! The compiled CUDA kernels: sources in `kernels/cuda`, PTX beside them, written by `kernels/cuda/compile`. The driver turns
//! PTX into machine code for its card when a module is loaded.

macro_rules! images {
    ($($name:literal),* $(,)?) => {
        /// Name and PTX text of every module.
        pub const IMAGES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../cuda/ptx/", $name, ".ptx")))),*];
    };
}

images!(
    "attention",
    "attention_grad",
    "columns",
    "dense",
    "gemm",
    "layers",
    "penalty",
    "reduce",
    "select",
    "sparse",
    "topk",
    "train",
);
