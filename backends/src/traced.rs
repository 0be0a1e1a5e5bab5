//! A stream that writes down every op it passes on: name, operands, bytes, floating-point operations, time. For finding out
//! where a step spends its time; it waits for each op, so a device's own overlap is not measured.

use lm_saes_runtime::{Addr, Device, Op, Operand, Queue, Result, Stream, op::Sparse};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// One op that ran.
#[derive(Clone, Debug)]
pub struct Record {
    /// Op name.
    pub op: &'static str,
    /// Operands with shapes and types, such as `x [4096, 768] f32, y [1, 768] f32`.
    pub operands: String,
    /// Bytes its operands span, each counted once.
    pub bytes: u64,
    /// Floating-point operations of products and attention; 0 for everything bound by memory.
    pub flops: u64,
    /// From launch until the device was idle again.
    pub time: Duration,
}

/// The shared list of a traced queue's ops.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<Record>>>);

impl Trace {
    /// Everything recorded so far, in order.
    pub fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets everything recorded so far.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Totals by op and operands, slowest first.
    pub fn totals(&self) -> Vec<(usize, Record)> {
        let mut totals: Vec<(usize, Record)> = Vec::new();
        for r in self.records() {
            match totals.iter_mut().find(|(_, t)| t.op == r.op && t.operands == r.operands) {
                Some((n, t)) => {
                    *n += 1;
                    t.bytes += r.bytes;
                    t.flops += r.flops;
                    t.time += r.time;
                }
                None => totals.push((1, r)),
            }
        }
        totals.sort_by_key(|(_, t)| std::cmp::Reverse(t.time));
        totals
    }
}

/// A table of the totals: calls, time, rates.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>6}{:>12}{:>10}{:>10}  op", "calls", "ms", "GB/s", "GFLOP/s")?;
        for (calls, t) in self.totals() {
            let seconds = t.time.as_secs_f64().max(1e-9);
            let (gb, gflop) = (t.bytes as f64 / seconds / 1e9, t.flops as f64 / seconds / 1e9);
            writeln!(f, "{calls:>6}{:>12.3}{gb:>10.1}{gflop:>10.1}  {} {}", seconds * 1e3, t.op, t.operands)?;
        }
        Ok(())
    }
}

/// A queue on `device` whose ops are recorded in the trace.
///
/// # Errors
/// When the device gives no stream.
pub fn traced(device: &Arc<dyn Device>) -> Result<(Queue, Trace)> {
    let trace = Trace::default();
    let stream = Traced { inner: device.stream()?, trace: trace.clone() };
    Ok((Queue::with_stream(device, Box::new(stream)), trace))
}

/// The decorator: passes everything on and records ops that succeeded.
pub struct Traced {
    inner: Box<dyn Stream>,
    trace: Trace,
}

impl Traced {
    /// Records the ops of `inner` in `trace`.
    pub fn new(inner: Box<dyn Stream>, trace: Trace) -> Self {
        Self { inner, trace }
    }
}

// SAFETY: every promise is kept by the inner stream, to which every call is passed on unchanged.
unsafe impl Stream for Traced {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        self.inner.sync()?;
        let start = Instant::now();
        // SAFETY: the caller's promises are passed on.
        unsafe { self.inner.launch(op)? };
        self.inner.sync()?;
        let time = start.elapsed();
        let list = op.operands();
        let record = Record {
            op: op.name(),
            operands: describe(&list),
            bytes: list.iter().map(|o| o.bytes).sum(),
            flops: flops(op),
            time,
        };
        self.trace.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        Ok(())
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

fn describe(list: &[Operand]) -> String {
    let text = |o: &Operand| format!("{} [{}, {}] {}", o.name, o.mat.rows, o.mat.cols, o.mat.dtype);
    list.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Floating-point operations of the ops that are bound by arithmetic: products, attention; 0 for the others.
/// Sparse products count every slot, also empty ones.
pub fn flops(op: &Op) -> u64 {
    let slots = |s: &Sparse| s.vals.len();
    match op {
        Op::Gemm(o) => {
            let k = if o.ta == 1 { o.a.rows } else { o.a.cols };
            2 * o.batch * o.c.len() * k
        }
        // Half of the keys are masked; q·k and p·v each take two per coordinate.
        Op::Attention(o) => o.batch * o.heads * o.len * (o.len + 1) * (o.d_head + o.d_value),
        // q·k again, then dq and dk; dz·v, then dv.
        Op::AttentionGrad(o) => o.batch * o.heads * o.len * (o.len + 1) * (3 * o.d_head + 2 * o.d_value),
        Op::SparseMul(o) => 2 * slots(&o.s) * o.y.cols,
        Op::SparseDot(o) => 2 * slots(&o.s) * o.x.cols,
        Op::SparseOuter(o) => 2 * o.by.slot.len() * o.y.cols,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lm_saes_runtime::{DType, GemmOpts};

    #[test]
    fn ops_are_recorded_with_shapes_bytes_and_operations() -> Result<()> {
        let (mut q, trace) = traced(&crate::reference::device())?;
        let a = q.zeros(3, 4, DType::F32)?;
        let b = q.zeros(4, 5, DType::F32)?;
        let mut c = q.empty(3, 5, DType::F32)?;
        trace.clear();
        q.gemm(&a, &b, &mut c, GemmOpts::default())?;
        q.gemm(&a, &b, &mut c, GemmOpts::default())?;
        q.fill(&mut c, 1.0)?;
        let records = trace.records();
        assert_eq!(records.iter().map(|r| r.op).collect::<Vec<_>>(), ["Gemm", "Gemm", "Fill"]);
        assert_eq!(records[0].operands, "a [3, 4] f32, b [4, 5] f32, c [3, 5] f32");
        assert_eq!((records[0].bytes, records[0].flops), (4 * (12 + 20 + 15), 2 * 3 * 4 * 5));
        let totals = trace.totals();
        assert_eq!(totals.iter().map(|(n, _)| n).sum::<usize>(), 3);
        assert!(trace.to_string().contains("Fill y [3, 5]"), "{trace}");
        Ok(())
    }

    #[test]
    fn a_failing_op_is_not_recorded() -> Result<()> {
        let (mut q, trace) = traced(&crate::reference::device())?;
        let table = q.zeros(2, 3, DType::F32)?;
        let idx = q.tensor(1, 1, &[7u32])?;
        let mut y = q.empty(1, 3, DType::F32)?;
        trace.clear();
        assert!(q.gather(&table, &idx, &mut y).is_err());
        assert!(trace.records().is_empty());
        Ok(())
    }
}
