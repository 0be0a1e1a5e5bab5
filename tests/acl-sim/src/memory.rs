//! Device and pinned host memory. Device addresses lie in a range that no access of the host survives; the simulator works
//! through a second range. No address is ever given twice, so that stale ones are recognised.

use crate::{order::Tracks, world::violation};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

/// Bytes of addresses for all allocations of a process together.
const ARENA: u64 = 1 << 43;
const PAGE: u64 = 4096;
/// Bytes at the start of a new block that are spoiled; the rest of a larger one is zero, which saves the time to touch it.
const SPOILED: u64 = 8 << 20;

static ARENA_START: AtomicU64 = AtomicU64::new(0);
static ARENA_SHADOW: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Device(i32),
    Pinned,
}

pub struct Alloc {
    pub start: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes that kernels may touch: with the 32 more that aclrtMalloc adds.
    pub usable: u64,
    pub place: Place,
    pub tracks: Tracks,
}

#[derive(Default)]
pub struct Memory {
    live: BTreeMap<u64, Alloc>,
    freed: VecDeque<(u64, u64)>,
    next: u64,
    used: HashMap<i32, u64>,
}

impl Memory {
    /// Device memory whose address is aligned to 64 bytes and to no more.
    pub fn allocate(&mut self, device: i32, size: u64, padded: bool) -> u64 {
        if ARENA_START.load(Ordering::Relaxed) == 0 {
            let start = map(ARENA, libc::PROT_NONE);
            ARENA_SHADOW.store(map(ARENA, libc::PROT_READ | libc::PROT_WRITE), Ordering::Relaxed);
            ARENA_START.store(start, Ordering::Release);
        }
        let usable = size.next_multiple_of(32) + if padded { 32 } else { 0 };
        // A page on each side that belongs to nobody; the 64 makes more than the promised alignment an accident.
        let start = ARENA_START.load(Ordering::Relaxed) + self.next + PAGE + 64;
        self.next += (usable + 64).next_multiple_of(PAGE) + 2 * PAGE;
        if self.next > ARENA {
            violation("the simulator's range of addresses is used up: it never gives one twice");
        }
        // SAFETY: the range was reserved above and is in nobody's hands.
        unsafe { std::ptr::write_bytes(translate(start), 0xFF, usable.min(SPOILED) as usize) };
        *self.used.entry(device).or_default() += size;
        self.live.insert(
            start,
            Alloc { start, size, usable, place: Place::Device(device), tracks: Tracks::default() },
        );
        start
    }

    /// Pinned host memory.
    pub fn allocate_host(&mut self, size: u64) -> u64 {
        let start = map(size, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: just mapped.
        unsafe { std::ptr::write_bytes(start as *mut u8, 0xFF, size.min(SPOILED / 16) as usize) };
        self.live.insert(
            start,
            Alloc { start, size, usable: size, place: Place::Pinned, tracks: Tracks::default() },
        );
        start
    }

    /// Takes a block out, by its start.
    pub fn release(&mut self, start: u64) -> Alloc {
        let Some(block) = self.live.remove(&start) else { violation(&self.not_a_block(start)) };
        match block.place {
            Place::Device(device) => {
                *self.used.entry(device).or_default() -= block.size;
                let from = (start - 64) & !(PAGE - 1);
                let bytes = (start + block.usable - from).next_multiple_of(PAGE);
                // SAFETY: whole pages that hold only this block.
                unsafe { libc::madvise(translate(from).cast(), bytes as usize, libc::MADV_DONTNEED) };
            }
            // SAFETY: mapped by `allocate_host` with this size.
            Place::Pinned => unsafe {
                libc::munmap(start as *mut _, block.size as usize);
            },
        }
        if self.freed.len() == 1 << 16 {
            self.freed.pop_front();
        }
        self.freed.push_back((start, start + block.usable));
        block
    }

    /// What to say of an address that does not start a live block.
    pub fn not_a_block(&self, addr: u64) -> String {
        if let Some(b) = self.find(addr) {
            return format!(
                "{addr:#x} lies inside the block of {} bytes at {:#x}, it does not start one",
                b.size, b.start
            );
        }
        match self.freed.iter().rev().find(|(a, b)| (*a..*b).contains(&addr)) {
            Some((start, _)) => format!("{addr:#x} lies in the block at {start:#x}, which was freed before"),
            None => format!("{addr:#x} is no address of this device's memory or of pinned memory"),
        }
    }

    /// The live block that holds an address.
    pub fn find(&self, addr: u64) -> Option<&Alloc> {
        self.live.range(..=addr).next_back().map(|(_, b)| b).filter(|b| addr < b.start + b.usable)
    }
    pub fn find_mut(&mut self, addr: u64) -> Option<&mut Alloc> {
        self.live.range_mut(..=addr).next_back().map(|(_, b)| b).filter(|b| addr < b.start + b.usable)
    }

    pub fn used(&self, device: i32) -> u64 {
        self.used.get(&device).copied().unwrap_or(0)
    }

    pub fn alive(&self, out: &mut Vec<String>) {
        let count = |device: bool| {
            let of = self.live.values().filter(|b| (b.place != Place::Pinned) == device);
            of.fold((0, 0), |(n, bytes), b| (n + 1, bytes + b.size))
        };
        for (device, name) in [(true, "device"), (false, "pinned host")] {
            let (n, bytes) = count(device);
            if n > 0 {
                out.push(format!("{n} blocks of {name} memory ({bytes} bytes)"));
            }
        }
    }
}

/// Reserves addresses; pages come with the first touch.
fn map(bytes: u64, protection: i32) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the system's choice.
    let p = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, protection, flags, -1, 0) };
    if p == libc::MAP_FAILED {
        violation("the simulator cannot reserve addresses (mmap failed)");
    }
    p as u64
}

/// Whether an address belongs to the devices, whatever its state.
pub fn is_device(addr: u64) -> bool {
    let start = ARENA_START.load(Ordering::Acquire);
    start != 0 && (start..start + ARENA).contains(&addr)
}

/// Where the simulator reads and writes what the client knows as `addr`.
pub fn translate(addr: u64) -> *mut u8 {
    let start = ARENA_START.load(Ordering::Relaxed);
    let at = if start != 0 && (start..start + ARENA).contains(&addr) {
        ARENA_SHADOW.load(Ordering::Relaxed) + (addr - start)
    } else {
        addr
    };
    std::ptr::with_exposed_provenance_mut(at as usize)
}

/// Copies between any two places.
///
/// # Safety
/// Both ranges are mapped (through [`translate`] where they are the device's).
pub unsafe fn copy(dst: u64, src: u64, bytes: u64) {
    // SAFETY: as the caller promises.
    unsafe { std::ptr::copy(translate(src), translate(dst), bytes as usize) }
}
