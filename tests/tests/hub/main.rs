//! The Hugging Face hub, played by servers on this machine: fetching files, data sets by name, uploads.

mod data;
mod environment;
mod fetch;
mod registry;
mod upload;
