//! A minimal tensor runtime: three object-safe traits ([`Backend`], [`Device`], [`Stream`]), one enum of plain-data
//! operations ([`Op`]), and the safe face every program uses ([`Queue`] over [`Tensor`]s).
//!
//! Every op writes into memory its caller owns; nothing allocates inside a planned step. `Queue` checks shapes, types,
//! device and aliasing once, asks the device whether it supports exactly this op, then launches; back ends trust it.

pub mod abi;
mod arena;
mod background;
mod comm;
mod device;
mod dtype;
mod error;
mod group;
pub mod op;
mod operands;
mod queue;
mod registry;
mod tensor;

pub use arena::{Arena, Planned};
pub use background::{Background, Exchange, Ticket, Times};
pub use comm::{Collective, Comm, Reduction};
pub use device::{Addr, Backend, Device, DeviceInfo, Graph, Stream, Unsupported};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use group::{Group, Traffic};
pub use op::{Act, MapKind, Op, PenaltyKind, RandomKind, ReduceKind};
pub use operands::{Access, Operand};
pub use queue::{
    AdamArgs, AttentionArgs, AttentionGradArgs, CompactArgs, GemmOpts, HeadsArgs, NormArgs, PenaltyArgs,
    Queue, Rank, Select, ThresholdPenaltyArgs,
};
pub use registry::Registry;
pub use tensor::{ByColumnView, SparseView, Tensor, View, ViewMut};
