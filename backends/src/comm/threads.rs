//! Ranks that are threads of one process: for tests, and for several devices of one process. Each rank lays its bytes on a table, the
//! last one turns the table, and everybody takes what it needs.

use super::{fetch, reduce::reduce, store};
use lm_saes_runtime::{Addr, Collective, Comm, DType, Error, Reduction, Result, Stream};
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a rank is waited for when nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One end for each of `size` ranks; each goes to its own thread. A rank that does not take part in a collective within `patience`,
/// or whose end was dropped, ends it with an error on all others.
pub fn threads(size: usize, patience: Duration) -> Vec<Box<dyn Comm>> {
    let table = Arc::new(Table::new((0..size).collect(), patience));
    (0..size).map(|rank| Box::new(Seat { rank, table: table.clone() }) as Box<dyn Comm>).collect()
}

/// What is exchanged: for collectives their shape, for a split the wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deal {
    Collective(Collective),
    Split,
}

impl Deal {
    const fn name(&self) -> &'static str {
        match self {
            Self::Collective(c) => c.name(),
            Self::Split => "split",
        }
    }
}

struct Table {
    /// Ranks of the job, for messages.
    names: Vec<usize>,
    patience: Duration,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    laid: Vec<Option<(Deal, Vec<u8>)>>,
    /// What everybody laid, until the last has taken it.
    ready: Option<Arc<Vec<Vec<u8>>>>,
    taken: usize,
    left: Vec<bool>,
    failed: Option<String>,
    /// Smaller tables by colour, with the number of ranks still to sit down.
    smaller: HashMap<u32, (Arc<Table>, usize)>,
}

impl Table {
    fn new(names: Vec<usize>, patience: Duration) -> Self {
        let size = names.len();
        let state =
            State { laid: (0..size).map(|_| None).collect(), left: vec![false; size], ..State::default() };
        Self { names, patience, state: Mutex::new(state), turned: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays `bytes` for `rank` and waits for what all have laid.
    fn exchange(&self, rank: usize, deal: Deal, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>, String> {
        let until = Instant::now() + self.patience;
        let mut state = self.lock();
        if let Some(what) = &state.failed {
            return Err(what.clone());
        }
        while state.ready.is_some() {
            state = self.wait(state, until, deal)?;
        }
        state.laid[rank] = Some((deal, bytes));
        if state.laid.iter().all(Option::is_some) {
            self.turn(&mut state)?;
        }
        while state.ready.is_none() {
            state = self.wait(state, until, deal)?;
        }
        let all = state.ready.clone().unwrap_or_default();
        state.taken += 1;
        if state.taken == self.names.len() {
            (state.ready, state.taken) = (None, 0);
            self.turned.notify_all();
        }
        Ok(all)
    }

    /// Everybody has laid something: if it is the same deal, it can be taken.
    fn turn(&self, state: &mut State) -> Result<(), String> {
        let (deals, bytes): (Vec<Deal>, Vec<Vec<u8>>) = state.laid.iter_mut().filter_map(mem::take).unzip();
        self.turned.notify_all();
        if let Some(r) = deals.iter().position(|d| *d != deals[0]) {
            let (a, b) = (self.names[0], self.names[r]);
            return Err(self.fail(
                state,
                format!("rank {a} states {:?} while rank {b} states {:?}", deals[0], deals[r]),
            ));
        }
        state.ready = Some(Arc::new(bytes));
        Ok(())
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: Instant,
        deal: Deal,
    ) -> Result<MutexGuard<'a, State>, String> {
        if let Some(what) = &state.failed {
            return Err(what.clone());
        }
        let missing = |state: &State, gone: bool| {
            let away =
                |r: &usize| state.ready.is_none() && state.laid[*r].is_none() && (!gone || state.left[*r]);
            let away = (0..self.names.len()).filter(away).map(|r| self.names[r].to_string());
            away.collect::<Vec<_>>().join(", ")
        };
        let gone = missing(&state, true);
        if !gone.is_empty() {
            return Err(self.fail(&mut state, format!("rank {gone} has left the job")));
        }
        let now = Instant::now();
        if now >= until {
            let seconds = self.patience.as_secs_f64();
            let what = format!(
                "rank {} did not take part in {} within {seconds} s",
                missing(&state, false),
                deal.name()
            );
            return Err(self.fail(&mut state, what));
        }
        Ok(self.turned.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn fail(&self, state: &mut State, what: String) -> String {
        self.turned.notify_all();
        state.failed.get_or_insert(what).clone()
    }

    /// The table of those who chose `color`.
    fn smaller(&self, color: u32, members: &[usize]) -> Arc<Self> {
        let names = || members.iter().map(|&r| self.names[r]).collect();
        let mut state = self.lock();
        let entry = state
            .smaller
            .entry(color)
            .or_insert_with(|| (Arc::new(Self::new(names(), self.patience)), members.len()));
        entry.1 -= 1;
        let (table, done) = (entry.0.clone(), entry.1 == 0);
        if done {
            state.smaller.remove(&color);
        }
        table
    }
}

/// One rank's place.
struct Seat {
    rank: usize,
    table: Arc<Table>,
}

impl Seat {
    fn exchange(&self, deal: Deal, bytes: Vec<u8>) -> Result<Arc<Vec<Vec<u8>>>> {
        self.table.exchange(self.rank, deal, bytes).map_err(|what| Error::Comm {
            rank: self.table.names[self.rank],
            op: deal.name(),
            what,
        })
    }
}

// SAFETY: memory is read with `fetch` and written with `store` during the call, in the sizes of the contract.
unsafe impl Comm for Seat {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.names.len()
    }

    unsafe fn collective(&mut self, stream: &mut dyn Stream, c: &Collective) -> Result<()> {
        let bytes = |n: u64, dtype: DType| n as usize * dtype.bytes();
        let deal = Deal::Collective(c.shape());
        match *c {
            Collective::AllReduce { x, n, dtype, how } => {
                let all = self.exchange(deal, fetch(stream, x, bytes(n, dtype))?)?;
                store(stream, &reduced(&all, 0..bytes(n, dtype), dtype, how), x)
            }
            Collective::AllGather { src, dst, n, dtype } => {
                let size = bytes(n, dtype);
                let all = self.exchange(deal, fetch(stream, src, size)?)?;
                let places = (0..).map(|r| Addr(dst.0 + (r * size) as u64));
                all.iter().zip(places).try_for_each(|(part, place)| store(stream, part, place))
            }
            Collective::ReduceScatter { src, dst, n, dtype, how } => {
                let size = bytes(n, dtype);
                let all = self.exchange(deal, fetch(stream, src, size * self.size())?)?;
                store(stream, &reduced(&all, self.rank * size..(self.rank + 1) * size, dtype, how), dst)
            }
            Collective::Broadcast { x, n, dtype, root } => {
                let root = root as usize;
                let mine = if root == self.rank { bytes(n, dtype) } else { 0 };
                let all = self.exchange(deal, fetch(stream, x, mine)?)?;
                if root == self.rank { Ok(()) } else { store(stream, &all[root], x) }
            }
            Collective::Barrier => {
                stream.sync()?;
                self.exchange(deal, Vec::new()).map(|_| ())
            }
        }
    }

    fn split(&mut self, color: u32, key: u32) -> Result<Box<dyn Comm>> {
        let wish = [color.to_ne_bytes(), key.to_ne_bytes()].concat();
        let all = self.exchange(Deal::Split, wish.clone())?;
        let mut members: Vec<usize> = (0..self.size()).filter(|&r| all[r][..4] == wish[..4]).collect();
        members.sort_by_key(|&r| <[u8; 4]>::try_from(&all[r][4..]).map_or(0, u32::from_ne_bytes));
        let table = self.table.smaller(color, &members);
        let rank = members.iter().position(|&r| r == self.rank).unwrap_or(0);
        // Nobody may ask for the same colour again before all members have sat down.
        self.exchange(Deal::Split, Vec::new())?;
        Ok(Box::new(Self { rank, table }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.lock().left[self.rank] = true;
        self.table.turned.notify_all();
    }
}

fn reduced(all: &[Vec<u8>], range: std::ops::Range<usize>, dtype: DType, how: Reduction) -> Vec<u8> {
    let parts: Vec<&[u8]> = all.iter().map(|part| &part[range.clone()]).collect();
    let mut out = vec![0; range.len()];
    reduce(&parts, dtype, how, &mut out);
    out
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
