//! Engines that connect the ranks of a job. All of them pass data through host memory, so they serve every device.

pub mod launch;
pub mod mpi;
mod reduce;
pub mod threads;
mod wire;

use lm_saes_runtime::{Addr, Result, Stream};

/// `bytes` bytes of device memory, with everything queued before it done.
fn fetch(stream: &mut dyn Stream, addr: Addr, bytes: usize) -> Result<Vec<u8>> {
    let mut host = vec![0; bytes];
    if bytes > 0 {
        // SAFETY: callers pass on the contract of `Comm::collective`: the memory is live and that large. `host` outlives the sync.
        unsafe { stream.download(addr, &mut host)? };
    }
    stream.sync()?;
    Ok(host)
}

/// Host bytes into device memory.
fn store(stream: &mut dyn Stream, host: &[u8], addr: Addr) -> Result<()> {
    if host.is_empty() {
        return Ok(());
    }
    // SAFETY: as in `fetch`.
    unsafe { stream.upload(host, addr) }
}
