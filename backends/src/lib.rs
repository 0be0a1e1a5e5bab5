//! Device back ends behind the runtime's traits, and the conformance table that accepts them.

pub mod comm;
pub mod conformance;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
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
    r.register(Box::new(cpu::Cpu));
    r.register(Box::new(reference::Reference));
    r
}
