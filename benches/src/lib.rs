//! Helpers shared by the benches: medians, clocks, the measured peak of the processor, and OpenBLAS where it is installed.

pub mod openblas;
pub mod peak;

use std::time::Instant;

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Wall seconds and this process's processor seconds (user and system, all threads) of some work. On a shared machine the
/// second is the steadier one; it is NaN where the system does not tell.
pub fn timed(work: impl FnOnce()) -> (f64, f64) {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work();
    (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

/// Processor seconds from the scheduler's nanosecond counters of all threads, live and ended ones by ticks.
fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let nanoseconds = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    let all: Vec<f64> = threads.filter_map(nanoseconds).collect();
    if all.is_empty() { f64::NAN } else { all.iter().sum::<f64>() / 1e9 }
}
