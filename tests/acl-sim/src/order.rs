//! Which work is known to come before which: a clock for each stream, advanced by events and by what the host waits for.
//! From it follows, whatever the timing of this run, whether two uses of memory can collide.

use crate::{memory::Memory, world::violation};
use std::collections::{HashMap, HashSet};

/// For each stream the number of its last task that is known to be done.
pub type Clock = HashMap<usize, u64>;

fn merge(into: &mut Clock, from: &Clock) {
    for (stream, n) in from {
        let known = into.entry(*stream).or_default();
        *known = (*known).max(*n);
    }
}

/// A range a task reads or writes.
#[derive(Clone, Debug)]
pub struct Access {
    pub start: u64,
    pub end: u64,
    pub write: bool,
    pub what: String,
}

/// Uses of one block that the host has not waited for: for each stream, the last task of each range.
#[derive(Default)]
pub struct Tracks {
    uses: HashMap<usize, Uses>,
}

/// From a range and whether it is written to the last task's number and name.
type Uses = HashMap<(u64, u64, bool), (u64, String)>;

#[derive(Default)]
pub struct Order {
    host: Clock,
    streams: HashMap<usize, Clock>,
    /// Destroyed streams: the host has waited for all their tasks.
    ended: HashSet<usize>,
}

impl Order {
    /// The number of a new task on a stream, after everything the host and the stream have waited for.
    pub fn enqueue(&mut self, stream: usize) -> u64 {
        let clock = self.streams.entry(stream).or_default();
        merge(clock, &self.host);
        let n = clock.entry(stream).or_default();
        *n += 1;
        *n
    }

    /// A stream is gone and its work done. Clocks forget it, or they would grow with every stream there ever was.
    pub fn end(&mut self, stream: usize) {
        self.streams.remove(&stream);
        self.host.remove(&stream);
        self.streams.values_mut().for_each(|clock| {
            clock.remove(&stream);
        });
        self.ended.insert(stream);
    }

    /// What is done once everything queued on a stream so far is.
    pub fn of_stream(&self, stream: usize) -> Clock {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Work queued on the stream from now on comes after this.
    pub fn stream_waits(&mut self, stream: usize, clock: &Clock) {
        merge(self.streams.entry(stream).or_default(), clock);
    }

    /// The host knows this to be done.
    pub fn host_waits(&mut self, clock: &Clock) {
        merge(&mut self.host, clock);
    }

    /// Records what task `n` of a stream uses.
    pub fn touch(&self, memory: &mut Memory, stream: usize, n: u64, task: &str, access: &Access) {
        let Some(block) = memory.find_mut(access.start) else { return };
        let clock = self.streams.get(&stream);
        let known = |other: usize| clock.and_then(|c| c.get(&other)).copied().unwrap_or(0);
        let live = |s: &usize| *s != stream && !self.ended.contains(s);
        for (other, uses) in block.tracks.uses.iter().filter(|(s, _)| live(s)) {
            for ((start, end, write), (when, who)) in uses {
                if *start < access.end
                    && access.start < *end
                    && (*write || access.write)
                    && *when > known(*other)
                {
                    violation(&format!(
                        "{task} {} {} bytes at {:#x} that {who}, queued on another stream, {}; no event orders the two",
                        if access.write { "writes" } else { "reads" },
                        access.end - access.start,
                        access.start,
                        if *write { "writes" } else { "reads" },
                    ));
                }
            }
        }
        let uses = block.tracks.uses.entry(stream).or_default();
        if uses.len() > 4096 {
            let done = self.host.get(&stream).copied().unwrap_or(0);
            uses.retain(|_, (when, _)| *when > done);
        }
        uses.insert((access.start, access.end, access.write), (n, task.to_owned()));
    }

    /// A task the host has not waited for that uses a range in a way that excludes the host's use.
    pub fn pending(&self, memory: &Memory, start: u64, end: u64, host_writes: bool) -> Option<String> {
        let block = memory.find(start)?;
        for (stream, uses) in block.tracks.uses.iter().filter(|(s, _)| !self.ended.contains(s)) {
            let done = self.host.get(stream).copied().unwrap_or(0);
            for ((a, b, write), (when, who)) in uses {
                if *a < end && start < *b && (*write || host_writes) && *when > done {
                    return Some(format!("{who} {} it", if *write { "writes" } else { "reads" }));
                }
            }
        }
        None
    }
}
