//! A strict simulator of Ascend's runtime (ACL) and of its operators (aclnn) on host memory, for tests without hardware.
//! It exports the C names of CANN's libraries, behaves as their documents say where they say it, and stops the process
//! with `acl-sim: violation` where a client does what real hardware would punish late or silently. `README.md` next to
//! this crate lists the rules with their sources, and the settings read from `ACL_SIM`.
#![allow(non_camel_case_types, non_snake_case)]

mod abi;
mod config;
mod copies;
mod executor;
mod hccl;
mod memory;
mod objects;
mod ops;
mod order;
mod runtime;
mod streams;
mod world;
