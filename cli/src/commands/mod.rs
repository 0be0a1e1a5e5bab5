//! One file per command.

pub mod analyze;
pub mod autointerp;
pub mod convert;
pub mod devices;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod list;
pub mod quickstart;
pub mod registry;
pub mod serve;
pub mod show;
pub mod sweep;
pub mod to_jumprelu;
pub mod train;
