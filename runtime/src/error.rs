//! The runtime's one error type.

use crate::DType;

/// Result with the runtime's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a tensor program and a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot run this op in this form.
    #[error("{device}: {op} is not supported: {why}")]
    Unsupported {
        /// Device name such as `cuda:0`.
        device: String,
        /// Op name.
        op: &'static str,
        /// The device's own reason.
        why: String,
    },
    /// An allocation failed.
    #[error("{device}: out of memory: asked for {asked} bytes for {what}")]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for.
        asked: usize,
        /// What the memory was for.
        what: String,
    },
    /// Operand shapes do not fit together.
    #[error("{op}: {what}")]
    Shape {
        /// Op name.
        op: &'static str,
        /// The shapes and the rule they break.
        what: String,
    },
    /// An operand has the wrong element type.
    #[error("{op}: {operand} is {got}, expected {want}")]
    DType {
        /// Op name.
        op: &'static str,
        /// Which operand.
        operand: &'static str,
        /// Its type.
        got: DType,
        /// The types the op takes.
        want: &'static str,
    },
    /// Output memory overlaps an input that the op may not overwrite.
    #[error("{op}: output overlaps {operand}")]
    Alias {
        /// Op name.
        op: &'static str,
        /// The input that overlaps.
        operand: &'static str,
    },
    /// A tensor of one device was given to the queue of another.
    #[error("{op}: a tensor lives on another device than the queue ({queue})")]
    WrongDevice {
        /// Op name.
        op: &'static str,
        /// The queue's device.
        queue: String,
    },
    /// An op found its data outside its contract while running (for example sparse capacity exceeded).
    #[error("{device}: {op} failed: {what}")]
    Failed {
        /// Device name.
        device: String,
        /// Op name.
        op: &'static str,
        /// What was found.
        what: String,
    },
    /// A driver call failed.
    #[error("{device}: {call} failed with code {code}: {text}")]
    Driver {
        /// Device name.
        device: String,
        /// The driver function.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The driver's own text.
        text: String,
    },
    /// The stream failed before and accepts no further work.
    #[error("{device}: the stream is stopped by an earlier failure: {first}")]
    Poisoned {
        /// Device name.
        device: String,
        /// Text of the first failure.
        first: String,
    },
    /// A rank of the job did not do its part.
    #[error("rank {rank}: {op}: {what}")]
    Comm {
        /// The rank that noticed, of all ranks of the job.
        rank: usize,
        /// The collective.
        op: &'static str,
        /// Which rank is missing or differs, and how.
        what: String,
    },
    /// No device answers to this name.
    #[error("no device named {name:?}; available: {available}")]
    NoDevice {
        /// The name asked for.
        name: String,
        /// What there is, with reasons for what there is not.
        available: String,
    },
    /// A plugin could not be loaded.
    #[error("plugin {path}: {what}")]
    Plugin {
        /// The library's path.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A memory arena turned out smaller than what was asked of it.
    #[error(
        "arena {arena}: {label} needs {asked} bytes, {free} left of {total}; the plan and the program disagree"
    )]
    ArenaFull {
        /// Arena name.
        arena: String,
        /// Tensor label.
        label: String,
        /// Bytes asked for.
        asked: usize,
        /// Bytes left.
        free: usize,
        /// Arena size.
        total: usize,
    },
}
