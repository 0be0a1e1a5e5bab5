//! The mesh of ranks: axes data, head and model, in this order; the last changes fastest from rank to rank.

use super::Exchanges;
use crate::{Error, Result};
use lm_saes_runtime::{Group, Queue, Reduction, Traffic, View, ViewMut};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Ranks along each axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshSize {
    /// Shares of a batch.
    pub data: usize,
    /// Shares of a crosscoder's hook points.
    pub head: usize,
    /// Shares of the features.
    pub model: usize,
}

impl MeshSize {
    /// One rank.
    pub const SOLO: Self = Self { data: 1, head: 1, model: 1 };

    /// Ranks in all.
    pub const fn ranks(&self) -> usize {
        self.data * self.head * self.model
    }

    /// Coordinates (data, head, model) of a rank.
    pub const fn place(&self, rank: usize) -> (usize, usize, usize) {
        (rank / self.model / self.head, rank / self.model % self.head, rank % self.model)
    }
}

impl Default for MeshSize {
    fn default() -> Self {
        Self::SOLO
    }
}

/// A group of ranks that several parts of a job share. Clones are the same group.
#[derive(Clone, Default)]
pub struct Axis {
    rank: usize,
    /// Other ranks.
    others: usize,
    group: Option<Arc<Mutex<Group>>>,
}

impl Axis {
    /// Of a group.
    pub fn new(group: Group) -> Self {
        let (rank, others) = (group.rank(), group.size() - 1);
        Self { rank, others, group: (others > 0).then(|| Arc::new(Mutex::new(group))) }
    }

    /// This rank's coordinate.
    pub const fn rank(&self) -> usize {
        self.rank
    }
    /// Number of ranks.
    pub const fn size(&self) -> usize {
        self.others + 1
    }
    /// Whether there is nobody else.
    pub const fn is_solo(&self) -> bool {
        self.others == 0
    }

    /// The group, to state several collectives in a row; `None` when there is nobody else.
    pub fn group(&self) -> Option<MutexGuard<'_, Group>> {
        self.group.as_ref().map(|g| g.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This rank's equal share of `n` things.
    ///
    /// # Errors
    /// `n` is not divisible; `what` names the things, and `key` the setting that says how many ranks there are.
    pub fn share(&self, n: usize, what: &str, key: &str) -> Result<Range<usize>> {
        if !n.is_multiple_of(self.size()) {
            let text = format!("{n} {what} cannot be divided among {} ranks", self.size());
            return Err(Error::setting(key, text));
        }
        let each = n / self.size();
        Ok(self.rank * each..(self.rank + 1) * each)
    }

    /// This rank's share of `n` things, one more for the first ranks where they do not divide.
    pub fn balanced(&self, n: usize) -> Range<usize> {
        balanced(n, self.rank, self.size())
    }

    /// [`Group::all_reduce`].
    ///
    /// # Errors
    /// As there.
    pub fn all_reduce<'a>(&self, q: &mut Queue, x: impl Into<ViewMut<'a>>, how: Reduction) -> Result<()> {
        self.group().map_or(Ok(()), |mut g| Ok(g.all_reduce(q, x, how)?))
    }

    /// [`Group::all_gather`]; a copy when there is nobody else.
    ///
    /// # Errors
    /// As there.
    pub fn all_gather<'s, 'd>(
        &self,
        q: &mut Queue,
        src: impl Into<View<'s>>,
        dst: impl Into<ViewMut<'d>>,
    ) -> Result<()> {
        match self.group() {
            Some(mut g) => Ok(g.all_gather(q, src, dst)?),
            None => Ok(Group::solo().all_gather(q, src, dst)?),
        }
    }

    /// [`Group::reduce_scatter`]; a copy when there is nobody else.
    ///
    /// # Errors
    /// As there.
    pub fn reduce_scatter<'s, 'd>(
        &self,
        q: &mut Queue,
        src: impl Into<View<'s>>,
        dst: impl Into<ViewMut<'d>>,
        how: Reduction,
    ) -> Result<()> {
        match self.group() {
            Some(mut g) => Ok(g.reduce_scatter(q, src, dst, how)?),
            None => Ok(Group::solo().reduce_scatter(q, src, dst, how)?),
        }
    }

    /// [`Group::broadcast`].
    ///
    /// # Errors
    /// As there.
    pub fn broadcast<'a>(&self, q: &mut Queue, x: impl Into<ViewMut<'a>>, root: usize) -> Result<()> {
        self.group().map_or(Ok(()), |mut g| Ok(g.broadcast(q, x, root)?))
    }

    /// [`Group::sum_f64`].
    ///
    /// # Errors
    /// As there.
    pub fn sum_f64(&self, q: &mut Queue, values: &mut [f64]) -> Result<()> {
        self.group().map_or(Ok(()), |mut g| Ok(g.sum_f64(q, values)?))
    }

    /// The sum of a count over the ranks.
    ///
    /// # Errors
    /// As [`Group::sum_f64`].
    pub fn total(&self, q: &mut Queue, n: usize) -> Result<usize> {
        let mut sum = [n as f64];
        self.sum_f64(q, &mut sum)?;
        Ok(sum[0] as usize)
    }

    /// Adds up numbers of which every rank has a part, in f64; those at `known` are the same on all ranks and stay.
    ///
    /// # Errors
    /// As [`Group::sum_f64`].
    pub fn sum_parts(&self, q: &mut Queue, values: &mut [f32], known: &[usize]) -> Result<()> {
        if self.is_solo() {
            return Ok(());
        }
        let mut wide: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        if self.rank > 0 {
            known.iter().for_each(|&i| wide[i] = 0.0);
        }
        self.sum_f64(q, &mut wide)?;
        values.iter_mut().zip(wide).for_each(|(v, w)| *v = w as f32);
        Ok(())
    }

    /// [`Group::gather_bytes`].
    ///
    /// # Errors
    /// As there.
    pub fn gather_bytes(&self, q: &mut Queue, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.group().map_or_else(|| Ok(vec![bytes.to_vec()]), |mut g| Ok(g.gather_bytes(q, bytes)?))
    }

    /// [`Group::barrier`].
    ///
    /// # Errors
    /// As there.
    pub fn barrier(&self, q: &mut Queue) -> Result<()> {
        self.group().map_or(Ok(()), |mut g| Ok(g.barrier(q)?))
    }

    /// What was moved so far.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.group().map_or_else(BTreeMap::new, |g| g.traffic().clone())
    }
}

/// Rank `rank`'s share of `n` things among `size`, one more for the first ranks where they do not divide.
pub fn balanced(n: usize, rank: usize, size: usize) -> Range<usize> {
    let (each, more) = (n / size, n % size);
    let start = |r: usize| r * each + r.min(more);
    start(rank)..start(rank + 1)
}

/// The ranks of a job, seen from one of them.
#[derive(Clone, Default)]
pub struct Mesh {
    /// All ranks.
    pub world: Axis,
    /// Ranks with the same share of the dictionary.
    pub data: Axis,
    /// Ranks that differ in their hook points only.
    pub head: Axis,
    /// Ranks that differ in their features only.
    pub model: Axis,
    /// head × model: ranks with the same rows, which together hold one dictionary.
    pub shards: Axis,
    /// The ranks of `data` once more, to exchange gradients and parameters while other things are done.
    pub exchanges: Exchanges,
}

impl Mesh {
    /// One rank.
    pub fn solo() -> Self {
        Self::default()
    }

    /// Of all ranks of a job. Every rank takes part.
    ///
    /// # Errors
    /// Another number of ranks than `size` needs, or a rank that does not take part in time.
    pub fn new(mut world: Group, size: MeshSize) -> Result<Self> {
        if size.ranks() != world.size() {
            let MeshSize { data, head, model } = size;
            let n = size.ranks();
            let what = format!(
                "{data} data × {head} head × {model} model ranks are {n}, the job was started with {}; start it with \
                 `mpirun -n {n} lm-saes …`, or change data_parallel_size, head_parallel_size and model_parallel_size",
                world.size()
            );
            return Err(Error::setting("data_parallel_size", what));
        }
        if size == MeshSize::SOLO {
            return Ok(Self::solo());
        }
        let (data, head, model) = size.place(world.rank());
        // An axis of one needs no group, and one along which all ranks lie is another name for the world, which is counted apart.
        let mut axis = |ranks: usize, color: usize, key: usize| -> Result<Axis> {
            match ranks {
                1 => Ok(Axis::default()),
                _ => Ok(Axis::new(world.split(color as u32, key as u32)?)),
            }
        };
        let (of_data, key) = (head * size.model + model, data);
        Ok(Self {
            data: axis(size.data, of_data, key)?,
            head: axis(size.head, data * size.model + model, head)?,
            model: axis(size.model, data * size.head + head, model)?,
            shards: axis(size.head * size.model, data, head * size.model + model)?,
            exchanges: match size.data {
                1 => Exchanges::default(),
                _ => Exchanges::new(world.split(of_data as u32, key as u32)?),
            },
            world: Axis::new(world),
        })
    }

    /// The first rank of a mesh of this size whose other ranks are not there: for working out what a job needs. Its collectives do
    /// nothing.
    pub fn planned(size: MeshSize) -> Self {
        let axis = |ranks: usize| Axis { rank: 0, others: ranks.saturating_sub(1), group: None };
        Self {
            world: axis(size.ranks()),
            data: axis(size.data),
            head: axis(size.head),
            model: axis(size.model),
            shards: axis(size.head * size.model),
            exchanges: Exchanges::default(),
        }
    }

    /// What this rank moved so far, by axis and kind of collective: `data all_reduce`.
    pub fn traffic(&self) -> BTreeMap<String, Traffic> {
        let axes = [
            ("world", &self.world),
            ("data", &self.data),
            ("head", &self.head),
            ("model", &self.model),
            ("shards", &self.shards),
        ];
        let named = |(name, axis): (&str, &Axis)| {
            let all = axis.traffic().into_iter();
            all.map(|(kind, t)| (format!("{name} {kind}"), t)).collect::<Vec<_>>()
        };
        let beside = self.exchanges.traffic().into_iter().map(|(kind, t)| (format!("exchanges {kind}"), t));
        axes.into_iter().flat_map(named).chain(beside).collect()
    }

    /// Ranks along each axis.
    pub const fn size(&self) -> MeshSize {
        MeshSize { data: self.data.size(), head: self.head.size(), model: self.model.size() }
    }

    /// The same for work in which all ranks have all rows.
    pub fn without_data(&self) -> Self {
        Self { data: Axis::default(), exchanges: Exchanges::default(), ..self.clone() }
    }

    /// Whether there is one rank.
    pub const fn is_solo(&self) -> bool {
        self.world.is_solo()
    }

    /// Whether this rank writes files and prints.
    pub const fn is_primary(&self) -> bool {
        self.world.rank() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lm_saes_backends::comm::threads::threads;
    use std::{thread, time::Duration};

    /// What each rank of a mesh sees.
    fn on_mesh<T: Send>(size: MeshSize, job: impl Fn(&Mesh, &mut Queue) -> Result<T> + Sync) -> Vec<T> {
        thread::scope(|s| {
            let start = |comm| {
                let job = &job;
                s.spawn(move || {
                    let mut q = Queue::new(&lm_saes_backends::registry().open("cpu")?)?;
                    job(&Mesh::new(Group::new(comm), size)?, &mut q)
                })
            };
            let ranks: Vec<_> =
                threads(size.ranks(), Duration::from_secs(60)).into_iter().map(start).collect();
            ranks.into_iter().map(|r| r.join().unwrap().unwrap()).collect()
        })
    }

    #[test]
    fn every_axis_holds_the_ranks_that_differ_in_it_alone() {
        let size = MeshSize { data: 2, head: 3, model: 2 };
        let seen = on_mesh(size, |mesh, q| {
            let me = [mesh.world.rank() as u8];
            let axes = [&mesh.data, &mesh.head, &mesh.model, &mesh.shards];
            axes.into_iter().map(|a| Ok(a.gather_bytes(q, &me)?.concat())).collect::<Result<Vec<_>>>()
        });
        // Rank 9 = data 1, head 1, model 1.
        assert_eq!(size.place(9), (1, 1, 1));
        assert_eq!(seen[9], [vec![3, 9], vec![7, 9, 11], vec![8, 9], vec![6, 7, 8, 9, 10, 11]]);
        assert_eq!(seen[0], [vec![0, 6], vec![0, 2, 4], vec![0, 1], vec![0, 1, 2, 3, 4, 5]]);
    }

    #[test]
    fn a_mesh_of_another_size_than_the_job_is_refused_with_both_numbers() {
        let e = Mesh::new(Group::solo(), MeshSize { data: 2, head: 1, model: 3 }).err().unwrap().to_string();
        assert!(e.contains("2 data × 1 head × 3 model ranks are 6, the job was started with 1"), "{e}");
        assert!(e.contains("mpirun -n 6"), "{e}");
    }

    #[test]
    fn shares_cover_everything_once_and_say_when_they_cannot_be_equal() {
        for (n, size) in [(10, 4), (3, 5), (0, 2), (8, 1)] {
            let all: Vec<usize> = (0..size).flat_map(|r| balanced(n, r, size)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
        let axis = Axis { rank: 1, others: 2, group: None };
        assert_eq!(axis.share(9, "rows", "k").unwrap(), 3..6);
        let e = axis.share(10, "features", "model_parallel_size").unwrap_err().to_string();
        assert_eq!(e, "setting model_parallel_size: 10 features cannot be divided among 3 ranks");
    }
}
