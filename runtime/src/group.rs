//! The safe face of a group of ranks: checked collectives on views, small conveniences on host values, and counts of what was moved.
//! A group of one does nothing and costs nothing.

use crate::{Collective, Comm, DType, Error, Queue, Reduction, Result, Tensor, View, ViewMut, tensor::Raw};
use std::{collections::BTreeMap, ops::AddAssign};

/// Ranks that state collectives together. Every rank calls the same methods with the same shapes in the same order.
pub struct Group {
    comm: Option<Box<dyn Comm>>,
    traffic: BTreeMap<&'static str, Traffic>,
}

/// What a kind of collective moved. For groups of one nothing is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Times it was stated.
    pub calls: u64,
    /// Bytes that left each rank when segments go the shortest way round: `2(P−1)/P·n` for an all-reduce of n bytes among P ranks,
    /// `(P−1)/P·n` for gathering to or scattering from n bytes in all and for a broadcast, added up per collective and rounded up.
    pub sent: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.calls += more.calls;
        self.sent += more.sent;
    }
}

impl Traffic {
    /// What one collective on `n` elements (those of all ranks for gather and scatter) moves among `size` ranks.
    pub fn of(kind: &str, n: u64, dtype: DType, size: usize) -> Self {
        let (bytes, size) = (n * dtype.bytes() as u64, size.max(1) as u64);
        let times = match kind {
            "all_reduce" => 2,
            "barrier" => 0,
            _ => 1,
        };
        Self { calls: u64::from(size > 1), sent: (times * bytes * (size - 1)).div_ceil(size) }
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::solo()
    }
}

impl Group {
    /// A group of one.
    pub const fn solo() -> Self {
        Self { comm: None, traffic: BTreeMap::new() }
    }

    /// Ranks connected by an engine.
    pub fn new(comm: Box<dyn Comm>) -> Self {
        Self { comm: Some(comm).filter(|c| c.size() > 1), traffic: BTreeMap::new() }
    }

    /// The engine; `None` for a group of one.
    pub fn into_comm(self) -> Option<Box<dyn Comm>> {
        self.comm
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.comm.as_ref().map_or(0, |c| c.rank())
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.comm.as_ref().map_or(1, |c| c.size())
    }

    /// What was moved so far, by kind of collective.
    pub const fn traffic(&self) -> &BTreeMap<&'static str, Traffic> {
        &self.traffic
    }

    /// Smaller groups: ranks that give the same `color` are together, in the order of `key`.
    ///
    /// # Errors
    /// A rank that does not take part in time.
    pub fn split(&mut self, color: u32, key: u32) -> Result<Self> {
        match &mut self.comm {
            Some(comm) => Ok(Self::new(comm.split(color, key)?)),
            None => Ok(Self::solo()),
        }
    }

    /// `x = reduction of x over the ranks`; sums are added in the order of the ranks, in f32, and are the same bits on all ranks.
    ///
    /// # Errors
    /// A view that is not contiguous, a type without such a reduction, or a rank that does not take part.
    pub fn all_reduce<'a>(&mut self, q: &mut Queue, x: impl Into<ViewMut<'a>>, how: Reduction) -> Result<()> {
        let (n, x, dtype) = whole(q, "all_reduce", "x", x.into().raw)?;
        reducible("all_reduce", dtype, how)?;
        self.state(q, Collective::AllReduce { x, n, dtype, how })
    }

    /// The ranks' `src [r, c]` one below the other into `dst [size·r, c]`.
    ///
    /// # Errors
    /// Views that are not contiguous or do not fit each other, or a rank that does not take part.
    pub fn all_gather<'s, 'd>(
        &mut self,
        q: &mut Queue,
        src: impl Into<View<'s>>,
        dst: impl Into<ViewMut<'d>>,
    ) -> Result<()> {
        let (src, dst) = (src.into(), dst.into());
        let (n, from, dtype) = whole(q, "all_gather", "src", src.raw)?;
        let (all, to, _) = whole(q, "all_gather", "dst", dst.raw)?;
        self.fit("all_gather", (n, dtype), (all, dst.dtype()))?;
        if self.size() == 1 {
            return q.copy(src, dst);
        }
        self.state(q, Collective::AllGather { src: from, dst: to, n, dtype })
    }

    /// Block `rank` of the reduction of the ranks' `src [size·r, c]` into `dst [r, c]`; sums as in [`Group::all_reduce`].
    ///
    /// # Errors
    /// As [`Group::all_reduce`] and [`Group::all_gather`].
    pub fn reduce_scatter<'s, 'd>(
        &mut self,
        q: &mut Queue,
        src: impl Into<View<'s>>,
        dst: impl Into<ViewMut<'d>>,
        how: Reduction,
    ) -> Result<()> {
        let (src, dst) = (src.into(), dst.into());
        let (all, from, _) = whole(q, "reduce_scatter", "src", src.raw)?;
        let (n, to, dtype) = whole(q, "reduce_scatter", "dst", dst.raw)?;
        self.fit("reduce_scatter", (n, dtype), (all, src.dtype()))?;
        reducible("reduce_scatter", dtype, how)?;
        if self.size() == 1 {
            return q.copy(src, dst);
        }
        self.state(q, Collective::ReduceScatter { src: from, dst: to, n, dtype, how })
    }

    /// `x = x of rank root`.
    ///
    /// # Errors
    /// A root that does not exist, a view that is not contiguous, or a rank that does not take part.
    pub fn broadcast<'a>(&mut self, q: &mut Queue, x: impl Into<ViewMut<'a>>, root: usize) -> Result<()> {
        let (n, x, dtype) = whole(q, "broadcast", "x", x.into().raw)?;
        if root >= self.size() {
            let what = format!("root {root} of {} ranks", self.size());
            return Err(Error::Shape { op: "broadcast", what });
        }
        self.state(q, Collective::Broadcast { x, n, dtype, root: root as u32 })
    }

    /// Nobody goes on before all have come.
    ///
    /// # Errors
    /// A rank that does not come.
    pub fn barrier(&mut self, q: &mut Queue) -> Result<()> {
        self.state(q, Collective::Barrier)?;
        q.sync()
    }

    /// The bytes of every rank, in the order of the ranks; their lengths may differ.
    ///
    /// # Errors
    /// A rank that does not take part, or no memory for `size` times the longest.
    pub fn gather_bytes(&mut self, q: &mut Queue, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        if self.size() == 1 {
            return Ok(vec![bytes.to_vec()]);
        }
        let length = [bytes.len() as u32];
        let lengths = self.gather_host::<u32>(q, &length)?;
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let all = self.gather_host::<u8>(q, &padded)?;
        Ok(all.chunks(longest).zip(lengths).map(|(c, n)| c[..n as usize].to_vec()).collect())
    }

    /// Adds up the numbers of all ranks in f64, in the order of the ranks: the same bits everywhere.
    ///
    /// # Errors
    /// As [`Group::gather_bytes`].
    pub fn sum_f64(&mut self, q: &mut Queue, values: &mut [f64]) -> Result<()> {
        if self.size() == 1 || values.is_empty() {
            return Ok(());
        }
        let parts = self.gather_host::<u8>(q, bytemuck::cast_slice(values))?;
        let n = values.len();
        values.fill(0.0);
        for (i, eight) in parts.chunks_exact(8).enumerate() {
            values[i % n] += bytemuck::pod_read_unaligned::<f64>(eight);
        }
        Ok(())
    }

    fn gather_host<T: crate::Element>(&mut self, q: &mut Queue, mine: &[T]) -> Result<Vec<T>> {
        let src: Tensor = q.tensor(1, mine.len(), mine)?;
        let mut dst = q.empty(self.size(), mine.len(), T::DTYPE)?;
        self.all_gather(q, &src, &mut dst)?;
        q.download(&dst)
    }

    fn fit(&self, op: &'static str, (n, dtype): (u64, DType), (all, of): (u64, DType)) -> Result<()> {
        if dtype != of {
            return Err(Error::DType { op, operand: "dst", got: of, want: dtype.name() });
        }
        if all != n * self.size() as u64 {
            let what = format!("{all} elements for {} ranks with {n} each", self.size());
            return Err(Error::Shape { op, what });
        }
        Ok(())
    }

    fn state(&mut self, q: &mut Queue, c: Collective) -> Result<()> {
        let Some(comm) = &mut self.comm else { return Ok(()) };
        let size = comm.size();
        let (n, dtype) = match c {
            Collective::AllReduce { n, dtype, .. } | Collective::Broadcast { n, dtype, .. } => (n, dtype),
            Collective::AllGather { n, dtype, .. } | Collective::ReduceScatter { n, dtype, .. } => {
                (n * size as u64, dtype)
            }
            Collective::Barrier => (0, DType::U8),
        };
        if n == 0 && c != Collective::Barrier {
            return Ok(());
        }
        *self.traffic.entry(c.name()).or_default() += Traffic::of(c.name(), n, dtype, size);
        q.collective(&mut **comm, &c)
    }
}

/// Number of elements, address and type of a contiguous operand on this queue's device.
fn whole(q: &Queue, op: &'static str, operand: &'static str, raw: Raw) -> Result<(u64, crate::Addr, DType)> {
    let mat = q.whole(op, operand, raw)?;
    Ok((mat.len(), mat.addr, mat.dtype))
}

fn reducible(op: &'static str, dtype: DType, how: Reduction) -> Result<()> {
    if how == Reduction::Sum && dtype == DType::U8 {
        return Err(Error::DType {
            op,
            operand: "x",
            got: dtype,
            want: "a type whose sums do not overflow at 255",
        });
    }
    Ok(())
}
