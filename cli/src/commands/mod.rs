//! One file per command.

pub mod devices;
pub mod evaluate;
pub mod quickstart;
pub mod sweep;
pub mod train;
