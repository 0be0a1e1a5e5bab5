//! Collectives made of messages between pairs of ranks, for engines that can send bytes. Segments go straight from rank to rank:
//! a reduction scatters them, each rank reduces its own in the order of the ranks, and a gathering brings the results together.

use super::{fetch, reduce::reduce, store};
use lm_saes_runtime::{Addr, Collective, Comm, DType, Error, Result, Stream};
use std::{ops::Range, sync::Arc};

/// Bytes to and from other ranks of the job.
pub(super) trait Wire: Send + Sync {
    /// Sends every `outgoing` and fills every `incoming`, each with the rank it goes to or comes from; messages of one `tag` between
    /// two ranks keep their order.
    ///
    /// # Errors
    /// Which ranks did not take part in time.
    fn exchange(
        &self,
        tag: u32,
        outgoing: &[(usize, &[u8])],
        incoming: &mut [(usize, &mut [u8])],
        what: &'static str,
    ) -> Result<(), String>;
}

/// One rank's end of a group whose ranks can reach each other.
pub(super) struct Wired<W> {
    wire: Arc<W>,
    /// Ranks of the job, in the order of this group.
    members: Vec<usize>,
    /// This rank among them.
    rank: usize,
    /// Tells this group's messages from those of others with the same ranks.
    tag: u32,
    /// Groups split off so far.
    splits: u32,
}

/// Groups one group may split off, and tags there are: MPI promises no more.
const SPLITS: u32 = 8;
const TAGS: u32 = 32_767;

impl<W: Wire + 'static> Wired<W> {
    /// All ranks of the job.
    pub fn world(wire: Arc<W>, rank: usize, size: usize) -> Self {
        Self { wire, members: (0..size).collect(), rank, tag: 1, splits: 0 }
    }

    fn exchange(
        &self,
        outgoing: &[(usize, &[u8])],
        incoming: &mut [(usize, &mut [u8])],
        what: &'static str,
    ) -> Result<()> {
        let named = |r: usize| self.members[r];
        let outgoing: Vec<_> = outgoing.iter().map(|(r, bytes)| (named(*r), *bytes)).collect();
        incoming.iter_mut().for_each(|(r, _)| *r = named(*r));
        let done = self.wire.exchange(self.tag, &outgoing, incoming, what);
        done.map_err(|text| Error::Comm { rank: self.members[self.rank], op: what, what: text })
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.rank;
        (0..self.members.len()).filter(move |&r| r != rank)
    }

    /// Where rank r's segment of `n` elements lies, in bytes.
    fn segment(&self, n: usize, r: usize, width: usize) -> Range<usize> {
        let (each, more) = (n / self.members.len(), n % self.members.len());
        let start = |r: usize| (r * each + r.min(more)) * width;
        start(r)..start(r + 1)
    }

    /// This rank's segment of the reduction of everybody's `x`, where segments lie as `place` says.
    fn reduced(
        &self,
        x: &[u8],
        place: impl Fn(usize) -> Range<usize>,
        (dtype, how): (DType, lm_saes_runtime::Reduction),
        what: &'static str,
    ) -> Result<Vec<u8>> {
        let own = place(self.rank);
        let mut theirs: Vec<Vec<u8>> = self.others().map(|_| vec![0; own.len()]).collect();
        let outgoing: Vec<(usize, &[u8])> = self.others().map(|r| (r, &x[place(r)])).collect();
        let mut incoming: Vec<(usize, &mut [u8])> =
            self.others().zip(&mut theirs).map(|(r, t)| (r, t.as_mut_slice())).collect();
        self.exchange(&outgoing, &mut incoming, what)?;
        let mut parts: Vec<&[u8]> = theirs.iter().map(Vec::as_slice).collect();
        parts.insert(self.rank, &x[own.clone()]);
        let mut out = vec![0; own.len()];
        reduce(&parts, dtype, how, &mut out);
        Ok(out)
    }

    /// Everybody's segment into `all`, this rank's own being `mine`.
    fn gathered(
        &self,
        mine: &[u8],
        all: &mut [u8],
        place: impl Fn(usize) -> Range<usize>,
        what: &'static str,
    ) -> Result<()> {
        all[place(self.rank)].copy_from_slice(mine);
        let outgoing: Vec<(usize, &[u8])> = self.others().map(|r| (r, mine)).collect();
        let mut incoming = Vec::with_capacity(outgoing.len());
        let mut rest = all;
        for r in 0..self.members.len() {
            let (segment, after) = rest.split_at_mut(place(r).len());
            if r != self.rank {
                incoming.push((r, segment));
            }
            rest = after;
        }
        self.exchange(&outgoing, &mut incoming, what)
    }

    /// Root's bytes everywhere: its segments to one rank each, which pass them on, so that nobody sends much more than they have.
    fn broadcast(&self, bytes: &mut [u8], root: usize) -> Result<()> {
        let n = bytes.len();
        let place = |r: usize| self.segment(n, r, 1);
        let mut own = vec![0; place(self.rank).len()];
        if self.rank == root {
            own.copy_from_slice(&bytes[place(root)]);
            let outgoing: Vec<(usize, &[u8])> = self.others().map(|r| (r, &bytes[place(r)])).collect();
            self.exchange(&outgoing, &mut [], "broadcast")?;
        } else {
            self.exchange(&[], &mut [(root, &mut own)], "broadcast")?;
        }
        self.gathered(&own, bytes, place, "broadcast")
    }
}

// SAFETY: memory is read with `fetch` and written with `store` during the call, in the sizes of the contract.
unsafe impl<W: Wire + 'static> Comm for Wired<W> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.members.len()
    }

    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let what = c.name();
        match *c {
            Collective::AllReduce { x, n, dtype, how } => {
                let (n, width) = (n as usize, dtype.bytes());
                let mut host = fetch(stream, x, n * width)?;
                let place = |r: usize| self.segment(n, r, width);
                let own = self.reduced(&host, place, (dtype, how), what)?;
                self.gathered(&own, &mut host, place, what)?;
                store(stream, &host, x)
            }
            Collective::AllGather { src, dst, n, dtype } => {
                let bytes = n as usize * dtype.bytes();
                let own = fetch(stream, src, bytes)?;
                let mut all = vec![0; bytes * self.members.len()];
                self.gathered(&own, &mut all, |r| r * bytes..(r + 1) * bytes, what)?;
                store(stream, &all, dst)
            }
            Collective::ReduceScatter { src, dst, n, dtype, how } => {
                let bytes = n as usize * dtype.bytes();
                let host = fetch(stream, src, bytes * self.members.len())?;
                let own = self.reduced(&host, |r| r * bytes..(r + 1) * bytes, (dtype, how), what)?;
                store(stream, &own, dst)
            }
            Collective::Broadcast { x, n, dtype, root } => {
                let (root, bytes) = (root as usize, n as usize * dtype.bytes());
                let mut host =
                    if root == self.rank { fetch(stream, x, bytes)? } else { fetch(stream, Addr::NONE, 0)? };
                host.resize(bytes, 0);
                self.broadcast(&mut host, root)?;
                if root == self.rank { Ok(()) } else { store(stream, &host, x) }
            }
            Collective::Barrier => {
                stream.sync()?;
                let mut all = vec![0; self.members.len()];
                self.gathered(&[1], &mut all, |r| r..r + 1, what)
            }
        }
    }

    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        let wish = [color.to_ne_bytes(), key.to_ne_bytes()].concat();
        let mut all = vec![0; 8 * self.members.len()];
        self.gathered(&wish, &mut all, |r| 8 * r..8 * (r + 1), "split")?;
        self.splits += 1;
        let tag = self.tag * SPLITS + self.splits;
        if self.splits >= SPLITS || tag > TAGS {
            let what = format!("a group can be split {} times, and its parts four levels deep", SPLITS - 1);
            return Err(Error::Comm { rank: self.members[self.rank], op: "split", what });
        }
        let wishes: Vec<&[u8]> = all.chunks_exact(8).collect();
        let mut chosen: Vec<usize> =
            (0..self.members.len()).filter(|&r| wishes[r][..4] == wish[..4]).collect();
        chosen.sort_by_key(|&r| <[u8; 4]>::try_from(&wishes[r][4..]).map_or(0, u32::from_ne_bytes));
        let rank = chosen.iter().position(|&r| r == self.rank).unwrap_or(0);
        let members = chosen.into_iter().map(|r| self.members[r]).collect();
        Ok(Box::new(Self { wire: self.wire.clone(), members, rank, tag, splits: 0 }))
    }
}
