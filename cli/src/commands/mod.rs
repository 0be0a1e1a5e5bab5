//! One file per command.

pub mod analyze;
pub mod autointerp;
pub mod convert;
pub mod create;
pub mod devices;
pub mod dla;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod list;
mod named;
pub mod quickstart;
pub mod registry;
pub mod remove;
pub mod rename;
pub mod serve;
pub mod show;
pub mod sweep;
pub mod to_jumprelu;
pub mod train;
pub mod upload;
