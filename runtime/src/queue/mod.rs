//! The safe face of a device: checks every op once, asks the device whether it can run it, then launches. Methods are in
//! `dense`, `model`, `select`, `sparse` and `train`; this file owns the checks they share, memory, and transfers.

mod dense;
mod model;
mod select;
mod sparse;
mod train;

pub use dense::GemmOpts;
pub use model::{AttentionArgs, AttentionGradArgs, HeadsArgs, NormArgs};
pub use select::{CompactArgs, Rank, Select};
pub use train::{AdamArgs, PenaltyArgs, ThresholdPenaltyArgs};

use crate::{
    Collective, Comm, DType, Device, Element, Error, Op, Result, Stream, Tensor, View, ViewMut,
    device::refused,
    op::Mat,
    tensor::{DeviceId, Pool, Raw, device_id},
};
use std::sync::Arc;

/// An ordered queue of checked operations on one device, with a pool for temporary tensors.
///
/// A device error stops the queue: every later call returns [`Error::Poisoned`] with the first failure, so no result computed after
/// an error can be mistaken for a good one.
pub struct Queue {
    // Declared first: the stream ends its work before the pool returns memory.
    stream: Box<dyn Stream>,
    device: Arc<dyn Device>,
    pool: Arc<Pool>,
    poisoned: Option<String>,
    launches: u64,
}

impl Queue {
    /// A queue on a new stream of `device`.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self::with_stream(device, device.stream()?))
    }

    /// A queue on a given stream; used to put decorators between queue and device.
    pub fn with_stream(device: &Arc<dyn Device>, stream: Box<dyn Stream>) -> Self {
        Self { stream, device: device.clone(), pool: Pool::new(device.clone()), poisoned: None, launches: 0 }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Operations queued so far: what a pass costs in launches.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// A temporary tensor, contents undefined. Its memory goes back to the pool on drop.
    pub fn empty(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        Tensor::pooled(&self.pool, rows, cols, dtype)
    }

    /// A tensor of zeros.
    pub fn zeros(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let mut t = self.empty(rows, cols, dtype)?;
        self.fill(&mut t, 0.0)?;
        Ok(t)
    }

    /// A tensor with these values.
    pub fn tensor<T: Element>(&mut self, rows: usize, cols: usize, values: &[T]) -> Result<Tensor> {
        let mut t = self.empty(rows, cols, T::DTYPE)?;
        self.upload(values, &mut t)?;
        Ok(t)
    }

    /// Copies host values into a contiguous view.
    pub fn upload<'a, T: Element>(&mut self, values: &[T], dst: impl Into<ViewMut<'a>>) -> Result<()> {
        let dst = dst.into();
        let raw = self.input("upload", "dst", dst.raw, T::DTYPE)?;
        check(raw.ld == raw.cols || raw.rows <= 1, "upload", || {
            format!("the destination is not contiguous (ld {})", raw.ld)
        })?;
        check(values.len() as u64 == raw.len(), "upload", || {
            format!("{} values for [{}, {}]", values.len(), raw.rows, raw.cols)
        })?;
        self.alive()?;
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the view is live and contiguous, and has exactly as many elements of the same type.
        let done = unsafe { self.stream.upload(bytemuck::cast_slice(values), raw.addr) };
        self.remember(done)
    }

    /// Copies a contiguous view to the host and waits for it.
    pub fn download<'a, T: Element>(&mut self, src: impl Into<View<'a>>) -> Result<Vec<T>> {
        let src = src.into();
        let mut out = vec![T::zeroed(); src.rows() * src.cols()];
        self.download_into(src, &mut out)?;
        Ok(out)
    }

    /// Like [`Queue::download`], into memory the caller has.
    pub fn download_into<'a, T: Element>(&mut self, src: impl Into<View<'a>>, out: &mut [T]) -> Result<()> {
        let raw = self.input("download", "src", src.into().raw, T::DTYPE)?;
        check(raw.ld == raw.cols || raw.rows <= 1, "download", || {
            format!("the source is not contiguous (ld {})", raw.ld)
        })?;
        check(out.len() as u64 == raw.len(), "download", || {
            format!("{} places for [{}, {}]", out.len(), raw.rows, raw.cols)
        })?;
        self.alive()?;
        if out.is_empty() {
            return Ok(());
        }
        // SAFETY: the view is live and contiguous with as many bytes as `out`, which outlives the sync below.
        let done = unsafe { self.stream.download(raw.addr, bytemuck::cast_slice_mut(out)) };
        self.remember(done)?;
        self.sync()
    }

    /// Waits for all queued work; reports the first failure.
    pub fn sync(&mut self) -> Result<()> {
        self.alive()?;
        let done = self.stream.sync();
        self.remember(done)
    }

    /// Gives cached temporary memory back to the device.
    pub fn trim(&mut self) -> Result<()> {
        self.sync()?;
        self.pool.trim();
        Ok(())
    }

    /// Asks the device, then launches. Callers have checked shapes, types and aliasing.
    fn launch(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        self.alive()?;
        self.device.supports(&op).map_err(|why| refused(&*self.device, &op, why))?;
        // SAFETY: every operand came from a live view of this device (`input`), and the calling method checked the op's contract.
        let done = unsafe { self.stream.launch(&op) };
        self.launches += 1;
        self.remember(done)
    }

    /// States a collective whose operands came from [`Queue::whole`].
    pub(crate) fn collective(&mut self, comm: &mut dyn Comm, c: &Collective) -> Result<()> {
        self.alive()?;
        // SAFETY: the operands are live contiguous views of this device, of the sizes the collective's contract asks for; `Group`
        // checked that.
        let done = unsafe { comm.collective(&mut *self.stream, c) };
        self.remember(done)
    }

    /// Checks device and that the view is one piece.
    pub(crate) fn whole(&self, op: &'static str, operand: &'static str, raw: Raw) -> Result<Mat> {
        let mat = self.located(op, raw)?;
        check(mat.ld == mat.cols || mat.rows <= 1, op, || {
            format!("{operand} is not contiguous (ld {})", mat.ld)
        })?;
        Ok(mat)
    }

    fn alive(&self) -> Result<()> {
        match &self.poisoned {
            Some(first) => {
                Err(Error::Poisoned { device: self.device.info().name.clone(), first: first.clone() })
            }
            None => Ok(()),
        }
    }

    fn remember<T>(&mut self, done: Result<T>) -> Result<T> {
        if let Err(e) = &done {
            self.poisoned = Some(e.to_string());
        }
        done
    }

    fn id(&self) -> DeviceId {
        device_id(&self.device)
    }

    /// Checks device and exact type.
    fn input(&self, op: &'static str, operand: &'static str, raw: Raw, want: DType) -> Result<Mat> {
        let mat = self.located(op, raw)?;
        if mat.dtype != want {
            return Err(Error::DType { op, operand, got: mat.dtype, want: want.name() });
        }
        Ok(mat)
    }

    /// Checks device and that the type is a float.
    fn float(&self, op: &'static str, operand: &'static str, raw: Raw) -> Result<Mat> {
        let mat = self.located(op, raw)?;
        if !mat.dtype.is_float() {
            return Err(Error::DType { op, operand, got: mat.dtype, want: "a float type" });
        }
        Ok(mat)
    }

    fn located(&self, op: &'static str, raw: Raw) -> Result<Mat> {
        if raw.device != self.id() {
            return Err(Error::WrongDevice { op, queue: self.device.info().name.clone() });
        }
        Ok(raw.mat)
    }

    fn optional(
        &self,
        op: &'static str,
        operand: &'static str,
        view: Option<View<'_>>,
        want: DType,
    ) -> Result<Mat> {
        view.map_or(Ok(Mat::NONE), |v| self.input(op, operand, v.raw, want))
    }

    fn optional_out(
        &self,
        op: &'static str,
        operand: &'static str,
        view: &Option<ViewMut<'_>>,
        want: DType,
    ) -> Result<Mat> {
        view.as_ref().map_or(Ok(Mat::NONE), |v| self.input(op, operand, v.raw, want))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // A stream may still be using pooled memory; a failure here was reported to whoever used its results.
        let _ = self.stream.sync();
    }
}

fn check(ok: bool, op: &'static str, what: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Shape { op, what: what() }) }
}

/// `mat` is `[rows, cols]`, or absent.
fn shaped(op: &'static str, operand: &'static str, mat: &Mat, rows: u64, cols: u64) -> Result<()> {
    check(!mat.is_some() || (mat.rows == rows && mat.cols == cols), op, || {
        format!("{operand} is [{}, {}], expected [{rows}, {cols}]", mat.rows, mat.cols)
    })
}

/// `out` shares no memory with any of `inputs`.
fn disjoint(op: &'static str, out: &Mat, inputs: &[(&'static str, Mat)]) -> Result<()> {
    let (a0, a1) = (out.addr.0, out.addr.0 + out.span_bytes());
    for (operand, m) in inputs {
        let (b0, b1) = (m.addr.0, m.addr.0 + m.span_bytes());
        if m.is_some() && a0 < b1 && b0 < a1 {
            return Err(Error::Alias { op, operand });
        }
    }
    Ok(())
}
