//! Device back ends behind the runtime's traits, and the conformance table that accepts them.

#[cfg(feature = "ascend")]
pub mod ascend;
pub mod comm;
pub mod conformance;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(all(feature = "ascend", feature = "cuda")))]
mod left_out;
pub mod reference;
pub mod shadow;
pub mod traced;

use lm_saes_runtime::Registry;

/// Every built-in back end, most capable first. The scalar `reference` comes last: it is what the others are tested
/// against, never what `auto` picks.
pub fn registry() -> Registry {
    let mut r = Registry::default();
    #[cfg(feature = "cuda")]
    r.register(Box::new(cuda::Cuda));
    #[cfg(not(feature = "cuda"))]
    r.register(Box::new(left_out::LeftOut { name: "cuda", feature: "cuda" }));
    #[cfg(feature = "ascend")]
    r.register(Box::new(ascend::Ascend));
    #[cfg(not(feature = "ascend"))]
    r.register(Box::new(left_out::LeftOut { name: "npu", feature: "ascend" }));
    r.register(Box::new(cpu::Cpu));
    r.register(Box::new(reference::Reference));
    r
}
