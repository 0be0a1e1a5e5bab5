//! What connects the ranks of a job: collectives as plain data, in the spirit of [`Op`](crate::Op), and the trait that an engine (MPI, NCCL,
//! threads of one process) implements. The safe face is [`Group`](crate::Group).

use crate::{Addr, DType, Result, Stream};

/// How values of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The sum, added in the order of the ranks: `((x₀ + x₁) + x₂) + …`, in f32 for all float types and modulo 2³² for integers.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// One operation of all ranks of a group. Every rank states the same one, but for its addresses; they are matched by the order in
/// which a rank states them. `n` counts elements of `dtype`; memory is contiguous.
///
/// Reductions give the same bits on every rank and at every repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// `x = reduction of x over the ranks`.
    AllReduce {
        /// `[n]`, read and written.
        x: Addr,
        /// Elements.
        n: u64,
        /// Their type; sums exist for floats, u32 and i32.
        dtype: DType,
        /// How.
        how: Reduction,
    },
    /// `dst[r·n..] = src of rank r`. `src` is this rank's place in `dst`, or apart from it.
    AllGather {
        /// `[n]`, read.
        src: Addr,
        /// `[size·n]`, written.
        dst: Addr,
        /// Elements of one rank.
        n: u64,
        /// Their type.
        dtype: DType,
    },
    /// `dst = reduction of src[rank·n..] over the ranks`. `dst` is this rank's place in `src`, whose other places are undefined then,
    /// or apart from it.
    ReduceScatter {
        /// `[size·n]`, read.
        src: Addr,
        /// `[n]`, written.
        dst: Addr,
        /// Elements of one rank.
        n: u64,
        /// Their type, as in `AllReduce`.
        dtype: DType,
        /// How.
        how: Reduction,
    },
    /// `x = x of rank root`.
    Broadcast {
        /// `[n]`, read on `root`, written elsewhere.
        x: Addr,
        /// Elements.
        n: u64,
        /// Their type.
        dtype: DType,
        /// Whose values.
        root: u32,
    },
    /// Nobody goes on before all have come.
    Barrier,
}

impl Collective {
    /// Name for errors and counts.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AllReduce { .. } => "all_reduce",
            Self::AllGather { .. } => "all_gather",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::Broadcast { .. } => "broadcast",
            Self::Barrier => "barrier",
        }
    }

    /// The same without addresses: equal on all ranks that state the same collective.
    pub const fn shape(mut self) -> Self {
        match &mut self {
            Self::AllReduce { x, .. } | Self::Broadcast { x, .. } => *x = Addr::NONE,
            Self::AllGather { src, dst, .. } | Self::ReduceScatter { src, dst, .. } => {
                *src = Addr::NONE;
                *dst = Addr::NONE;
            }
            Self::Barrier => {}
        }
        self
    }
}

/// One rank's end of a group of ranks.
///
/// # Safety
/// A collective reads and writes exactly the memory its contract names, on the device of the stream it is given, and nothing after
/// the stream's next `sync` has returned.
pub unsafe trait Comm: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn size(&self) -> usize;
    /// States a collective: it takes place after everything queued on `stream` and before everything queued later. May return before
    /// it is done. A rank that does not take part in time is an error that names it, here or in the stream's `sync`.
    ///
    /// # Safety
    /// All addresses are live on the stream's device, with as many elements as the contract says.
    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()>;
    /// Smaller groups: ranks that state the same `color` are together, in the order of `key`. All ranks of this group take part.
    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>>;
}
