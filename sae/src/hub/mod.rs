//! Dictionaries wherever they are and whoever made them: names become places, on disk or on the hub; readers turn other tools'
//! files into dictionaries of ours, writers the reverse. README.

pub mod cache;
pub mod card;
pub mod client;
mod download;
mod open;
pub mod place;
pub mod readers;
pub mod reading;
pub mod registry;
pub mod tensors;
pub mod upload;
mod wire;
pub mod writers;

pub use client::Hub;
pub use open::{OpenOptions, open, open_on, open_part, open_settings, resolve};
pub use place::{Facts, Place};
pub use registry::Registry;
pub use writers::Format;
