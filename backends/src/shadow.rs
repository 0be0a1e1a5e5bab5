//! A stream that runs every op on the reference as well, from the same inputs, and stops at the first disagreement, naming
//! op, operand and element. Slow by design: for finding which op of a step a device gets wrong.

use crate::{conformance::compare_operand, reference};
use lm_saes_runtime::{Access, Addr, Device, Error, Op, Operand, Queue, Result, Stream, op::Mat};
use std::sync::Arc;

/// Bound on floats, relative to each value plus the root mean square of its operand.
pub const TOLERANCE: f64 = 1e-4;

/// A queue on `device` whose every op is compared with the reference.
///
/// # Errors
/// When the device gives no stream.
pub fn shadowed(device: &Arc<dyn Device>) -> Result<Queue> {
    let stream = Shadow::new(device, device.stream()?)?;
    Ok(Queue::with_stream(device, Box::new(stream)))
}

/// The decorator.
pub struct Shadow {
    inner: Box<dyn Stream>,
    name: String,
    truth: Arc<dyn Device>,
    truth_stream: Box<dyn Stream>,
}

impl Shadow {
    /// Compares what `inner`, a stream of `device`, computes.
    ///
    /// # Errors
    /// When the reference gives no stream.
    pub fn new(device: &Arc<dyn Device>, inner: Box<dyn Stream>) -> Result<Self> {
        let truth = reference::device();
        let truth_stream = truth.stream()?;
        Ok(Self { inner, name: device.info().name.clone(), truth, truth_stream })
    }

    /// The bytes of an operand on the device.
    ///
    /// # Safety
    /// The operand is live on the device of `stream`.
    unsafe fn read(stream: &mut dyn Stream, addr: Addr, bytes: u64) -> Result<Vec<u8>> {
        let mut host = vec![0; bytes as usize];
        if bytes > 0 {
            // SAFETY: the operand spans this many bytes, and `host` lives until after the sync.
            unsafe { stream.download(addr, &mut host)? };
            stream.sync()?;
        }
        Ok(host)
    }

    fn disagreement(&self, op: &Op, what: String) -> Error {
        let what = format!("it disagrees with the reference: {what}");
        Error::Failed { device: self.name.clone(), op: op.name(), what }
    }

    /// Compares every output on both sides.
    ///
    /// # Safety
    /// `op` has run on the device and `copy`, the same op on the copies, on the reference; all operands are live.
    unsafe fn compare(&mut self, op: &Op, copy: &Op) -> Result<()> {
        let pairs: Vec<(Operand, Operand)> = op.operands().into_iter().zip(copy.operands()).collect();
        for (ours, theirs) in pairs.iter().filter(|(o, _)| o.access != Access::Read) {
            // SAFETY: as the caller promises.
            let (mut got, mut want) = unsafe {
                (
                    Self::read(&mut *self.inner, ours.mat.addr, ours.bytes)?,
                    Self::read(&mut *self.truth_stream, theirs.mat.addr, theirs.bytes)?,
                )
            };
            let mut mat = whole(op, ours);
            if let Some((counts, i)) = defined_by(copy, ours.name)
                && mat.rows == 1
            {
                // SAFETY: `counts` is an operand of the op, `[1, > i]` of u32.
                let mut count = |i: u64| unsafe {
                    let bytes = Self::read(&mut *self.truth_stream, Addr(counts.addr.0 + 4 * i), 4)?;
                    Ok::<_, Error>(bytemuck::pod_read_unaligned::<u32>(&bytes).into())
                };
                let last = mat.cols.min(count(i)?);
                let first = last.min(count(0)?);
                mat.cols = last - first;
                for bytes in [&mut got, &mut want] {
                    bytes.drain(..first as usize * mat.dtype.bytes());
                }
            }
            compare_operand(&mat, &want, &got, TOLERANCE)
                .map_err(|what| self.disagreement(op, format!("{}: {what}", ours.name)))?;
        }
        Ok(())
    }
}

/// All products of a batched Gemm's output as one matrix, where they follow each other.
fn whole(op: &Op, operand: &Operand) -> Mat {
    match op {
        Op::Gemm(o) if operand.name == "c" && o.stride_c == o.c.rows * o.c.ld => {
            Mat { rows: o.c.rows * o.batch, ..operand.mat }
        }
        _ => operand.mat,
    }
}

/// Where the offsets of an output's first defined element and (at this place) past its last are, if an op does not define all.
fn defined_by(op: &Op, output: &str) -> Option<(Mat, u64)> {
    let (counts, i) = match (op, output) {
        (Op::Compact(o), "y.vals" | "y.idx") => (o.y.ptr, o.y.rows),
        (Op::Confine(o), "out") => (o.s.ptr, o.s.rows),
        (Op::SparseDot(o), "out") => (o.s.ptr, o.s.rows),
        (Op::Penalty(o), "du") => (o.codes.ptr, o.codes.rows),
        (Op::SortByColumn(o), "out.row" | "out.slot") => (o.out.col_ptr, o.s.n),
        _ => return None,
    };
    counts.is_some().then_some((counts, i))
}

/// Copies of an op's operands on the reference, freed on drop.
struct Copies {
    truth: Arc<dyn Device>,
    /// Device address, reference address, bytes.
    blocks: Vec<(Addr, Addr, usize)>,
}

impl Copies {
    fn find(&self, device: Addr) -> Option<Addr> {
        self.blocks.iter().find(|(from, ..)| *from == device).map(|(_, to, _)| *to)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for &(_, addr, bytes) in &self.blocks {
            // SAFETY: from `alloc(bytes)` of this device, whose stream is inline.
            unsafe { self.truth.free(addr, bytes) }
        }
    }
}

// SAFETY: transfers are the inner stream's; ops only see operands the caller vouches for and copies of them.
unsafe impl Stream for Shadow {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        self.inner.sync()?;
        let operands = op.operands();
        let mut copies = Copies { truth: self.truth.clone(), blocks: Vec::new() };
        for o in &operands {
            // An operand that is input and output at once has one copy.
            if copies.find(o.mat.addr).is_none() {
                let same = operands.iter().filter(|p| p.mat.addr == o.mat.addr);
                let bytes = same.map(|p| p.bytes).max().unwrap_or(0);
                // SAFETY: the caller vouches for the operand; the copy is allocated with as many bytes.
                unsafe {
                    let host = Self::read(&mut *self.inner, o.mat.addr, bytes)?;
                    let copy = self.truth.alloc(host.len())?;
                    copies.blocks.push((o.mat.addr, copy, host.len()));
                    self.truth_stream.upload(&host, copy)?;
                }
            }
        }
        let copy = op.relocated(|addr| copies.find(addr).unwrap_or(Addr::NONE));
        // SAFETY: the caller's promises hold for the op, and for its copy, whose operands are the same bytes.
        let (done, expected) = unsafe {
            (self.inner.launch(op).and_then(|()| self.inner.sync()), self.truth_stream.launch(&copy))
        };
        match (done, expected) {
            // SAFETY: both have run and `copies` is still alive.
            (Ok(()), Ok(())) => unsafe { self.compare(op, &copy) },
            (Ok(()), Err(e)) => Err(self.disagreement(op, format!("it accepts what must fail ({e})"))),
            (Err(e), _) => Err(e),
        }
    }
    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.upload(src, dst) }
    }
    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        // SAFETY: passed on.
        unsafe { self.inner.download(src, dst) }
    }
    fn sync(&mut self) -> Result<()> {
        self.inner.sync()
    }
    fn native(&self) -> u64 {
        self.inner.native()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use lm_saes_runtime::{CompactArgs, DType, MapKind, ReduceKind, Select, op};

    /// A stream that computes `Reduce` with a wrong factor and everything else right.
    struct Wrong(Box<dyn Stream>);

    // SAFETY: everything is the inner stream's; the changed op has the same operands.
    unsafe impl Stream for Wrong {
        unsafe fn launch(&mut self, op: &Op) -> Result<()> {
            let op = match *op {
                Op::Reduce(o) => Op::Reduce(op::Reduce { kind: ReduceKind::SumSq, ..o }),
                op => op,
            };
            // SAFETY: passed on.
            unsafe { self.0.launch(&op) }
        }
        unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
            // SAFETY: passed on.
            unsafe { self.0.upload(src, dst) }
        }
        unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
            // SAFETY: passed on.
            unsafe { self.0.download(src, dst) }
        }
        fn sync(&mut self) -> Result<()> {
            self.0.sync()
        }
    }

    /// A few ops as a step has them: in place, optional operands, undefined tails, a sum.
    fn step(q: &mut Queue) -> Result<Vec<f32>> {
        let mut x = q.tensor(2, 3, &[1.0f32, -2.0, 3.0, 0.5, 0.0, -1.0])?;
        q.map_in_place(MapKind::Affine, 2.0, 1.0, &mut x)?;
        let (mut vals, mut idx) = (q.empty(1, 6, DType::F32)?, q.empty(1, 6, DType::U32)?);
        let mut ptr = q.empty(1, 3, DType::U32)?;
        let args = CompactArgs { select: Select::default(), theta: None, thr: None };
        q.compact(&x, args, &mut vals, &mut idx, &mut ptr)?;
        let mut y = q.empty(1, 3, DType::F32)?;
        q.reduce_rows(ReduceKind::Sum, &x, None, &mut y, 0.0)?;
        q.download(&y)
    }

    #[test]
    fn a_correct_device_runs_unhindered() -> Result<()> {
        let mut q = shadowed(&registry().open("cpu")?)?;
        assert_eq!(step(&mut q)?, [5.0, -2.0, 6.0]);
        Ok(())
    }

    #[test]
    fn the_first_wrong_op_is_named_with_operand_and_element() -> Result<()> {
        let device = registry().open("cpu")?;
        let stream = Shadow::new(&device, Box::new(Wrong(device.stream()?)))?;
        let mut q = Queue::with_stream(&device, Box::new(stream));
        let error = step(&mut q).expect_err("the sum is wrong").to_string();
        assert!(error.contains("Reduce") && error.contains("y: element (0, 0) is 13"), "{error}");
        assert!(q.sync().is_err(), "the queue stays stopped");
        Ok(())
    }
}
