//! A back end of one's own as a plugin: the runtime's three traits, host memory, two ops, one line that exports it. Build
//! with `cargo build --release -p lm-saes-plugin-example`; what it supports and whether it is right is what the conformance
//! table says.

use lm_saes_runtime::{
    Addr, Backend, DType, Device, DeviceInfo, Error, MapKind, Op, Result, Stream, Unsupported, op::Mat,
};
use std::{
    alloc::{Layout, alloc, dealloc},
    sync::Arc,
};

lm_saes_runtime::export_backend!(Example, c"example");

struct Example;

impl Backend for Example {
    fn name(&self) -> &str {
        "example"
    }
    fn count(&self) -> usize {
        1
    }
    fn open(&self, index: usize) -> Result<Arc<dyn Device>> {
        Ok(Arc::new(Host {
            info: DeviceInfo {
                name: format!("example:{index}"),
                model: "host memory, two ops".into(),
                memory: 0,
                alignment: 64,
                deterministic: true,
            },
        }))
    }
}

struct Host {
    info: DeviceInfo,
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), 64).ok()
}

// SAFETY: memory is the global allocator's, of the size and alignment asked for.
unsafe impl Device for Host {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn supports(&self, op: &Op) -> Result<(), Unsupported> {
        match op {
            Op::Fill(o) if o.y.dtype == DType::F32 => Ok(()),
            Op::Fill(o) => Err(Unsupported::because(format!("fill of {}", o.y.dtype))),
            Op::Map(o) if o.kind == MapKind::Affine => Ok(()),
            Op::Map(_) => Err(Unsupported::because("a form other than a·x + b")),
            _ => Err(Unsupported::because("the example has Fill and Map only")),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Addr> {
        // SAFETY: the size is not zero.
        let p = layout(bytes).map_or(std::ptr::null_mut(), |l| unsafe { alloc(l) });
        if p.is_null() {
            return Err(Error::OutOfMemory {
                device: self.info.name.clone(),
                asked: bytes,
                what: "an allocation".into(),
            });
        }
        Ok(Addr(p as u64))
    }

    unsafe fn free(&self, addr: Addr, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: from `alloc(bytes)`, which used this layout.
            unsafe { dealloc(addr.0 as *mut u8, layout) }
        }
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Inline { name: self.info.name.clone() }))
    }
}

struct Inline {
    name: String,
}

/// Calls `f` with a pointer to every element of `y` and the same element of `x`.
fn each(x: &Mat, y: &Mat, mut f: impl FnMut(*const f32, *mut f32)) {
    let place = |m: &Mat, r: u64, c: u64| (m.addr.0 + 4 * (r * m.ld + c)) as *mut f32;
    for r in 0..y.rows {
        for c in 0..y.cols {
            f(place(x, r, c), place(y, r, c));
        }
    }
}

// SAFETY: copies are complete when the calls return.
unsafe impl Stream for Inline {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        match op {
            // SAFETY: the caller vouches for the operands, and `supports` let only f32 through.
            Op::Fill(o) => each(&o.y, &o.y, |_, y| unsafe { y.write(o.value) }),
            // SAFETY: as above.
            Op::Map(o) => each(&o.x, &o.y, |x, y| unsafe { y.write(o.a * x.read() + o.b) }),
            _ => {
                let (device, why) = (self.name.clone(), "the example has Fill and Map only".into());
                return Err(Error::Unsupported { device, op: op.name(), why });
            }
        }
        Ok(())
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: the caller gives as many bytes at `dst`.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.0 as *mut u8, src.len()) }
        Ok(())
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: the caller gives as many bytes at `src`.
        unsafe { std::ptr::copy_nonoverlapping(src.0 as *const u8, dst.as_mut_ptr(), dst.len()) }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}
