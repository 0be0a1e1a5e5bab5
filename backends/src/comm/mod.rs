//! Engines that connect the ranks of a job. Those here pass data through host memory, so they serve every device; a device's own is
//! chosen on top of one of them.

pub mod launch;
pub mod mpi;
mod reduce;
pub mod tcp;
pub mod threads;
mod wire;

use lm_saes_runtime::{Addr, Comm, Device, Result, Stream};
use std::{sync::Arc, time::Duration};

/// The engine for ranks whose tensors are on `device`, from one that connects them through host memory, and what it is: NCCL between
/// GPUs where all ranks have it, HCCL between NPUs, otherwise `base`.
///
/// # Errors
/// A rank that is not there, or an engine that does not start.
pub fn on_device(
    device: &Arc<dyn Device>,
    base: Box<dyn Comm>,
    patience: Duration,
) -> Result<(Box<dyn Comm>, String)> {
    #[cfg(feature = "cuda")]
    if device.info().name.starts_with("cuda") {
        use crate::cuda::nccl::{Found, Nccl};
        return Ok(match Nccl::join(device, base, patience)? {
            Found::Nccl(nccl) => {
                let what = nccl.describe();
                (nccl, what)
            }
            Found::Missing(base, why) => (base, format!("host memory ({why})")),
        });
    }
    #[cfg(feature = "ascend")]
    if device.info().name.starts_with("npu") {
        return crate::ascend::collectives_over(base);
    }
    let _ = (device, patience);
    Ok((base, "host memory".into()))
}

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
