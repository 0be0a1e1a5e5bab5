//! `lm-saes serve` as its readers, its scripts and its enemies meet it: over a socket, and in a real browser. What pages show is
//! compared with the store they are made from.

mod browser;
mod http;
mod pages;
mod safety;
mod shown;
mod site;
