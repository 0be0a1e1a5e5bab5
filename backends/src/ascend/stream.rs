//! An ordered queue of operators and copies on one NPU, with its scratch memory, the record of what ops found outside their
//! contracts, the names of the latest operators for errors that surface late, and recording into a graph.

use super::{
    device::{Card, acl},
    ops,
    scratch::{Memory, Scratch},
    stage::Stage,
    sys::{self, aclDataType, aclmdlRI, aclmdlRICaptureMode, aclrtStream},
    view::View,
};
use lm_saes_runtime::{Addr, Error, Graph, Op, Result, Stream, Unsupported};
use std::{
    any::Any,
    collections::VecDeque,
    ffi::c_void,
    ptr::null_mut,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

/// Operators an error names.
const REMEMBERED: usize = 12;
/// Places for the findings of ops between two synchronisations.
const FINDINGS: usize = 256;

/// A stream of the runtime, until it is destroyed. It belongs to the card's context, not to a thread.
pub(super) struct Handle {
    raw: AtomicPtr<c_void>,
    card: Arc<Card>,
}

impl Handle {
    /// The stream. After it was destroyed this is an error: null would mean the default stream.
    pub(super) fn raw(&self) -> Result<aclrtStream> {
        let raw = self.raw.load(Ordering::Acquire);
        let gone =
            || self.card.error_text("aclrtDestroyStream", "the stream ended with its first failure".into());
        if raw.is_null() { Err(gone()) } else { Ok(raw) }
    }

    /// Ends the stream and what is left of its work. After a failure of the device nothing else ends it, and memory that its
    /// work uses cannot be freed before.
    fn destroy(&self) {
        let raw = self.raw.swap(null_mut(), Ordering::AcqRel);
        if !raw.is_null() {
            // A failure here was reported by the call that met it.
            let _ = self.card.bind();
            // SAFETY: created by the stream that owned it, and taken out just now. The call waits for its work.
            let _ = unsafe { acl!(self.card, aclrtDestroyStream(raw)) };
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// The queue.
pub(super) struct AscendStream {
    // Declared first: the stream ends before the memory that its work may use is freed.
    pub(super) handle: Arc<Handle>,
    stage: Stage,
    /// Flags on the device, f32: not 0 where an op found something.
    flags: Arc<Memory>,
    /// The op of each flag in use, and what it found when its flag is set; recorded graphs keep the first `kept`.
    findings: Vec<(&'static str, String)>,
    kept: usize,
    pub(super) scratch: Scratch,
    pub(super) card: Arc<Card>,
    pub(super) recording: bool,
    op: &'static str,
    latest: VecDeque<(&'static str, &'static str)>,
}

impl AscendStream {
    pub(super) fn new(card: &Arc<Card>) -> Result<Self> {
        card.bind()?;
        let mut raw = null_mut();
        let flag = sys::ACL_STREAM_FAST_LAUNCH | sys::ACL_STREAM_FAST_SYNC;
        // SAFETY: the place is written before the call returns.
        unsafe { acl!(card, aclrtCreateStreamWithConfig(&mut raw, 0, flag)) }?;
        let handle = Arc::new(Handle { raw: AtomicPtr::new(raw), card: card.clone() });
        // SAFETY: the stream was just created. After a failure what follows is dropped, not run on wrong data.
        unsafe { acl!(card, aclrtSetStreamFailureMode(raw, u64::from(sys::ACL_STOP_ON_FAILURE))) }?;
        let new = Self {
            stage: Stage::new(card),
            flags: Memory::new(card, 4 * FINDINGS as u64)?,
            findings: Vec::new(),
            kept: 0,
            scratch: Scratch::new(card),
            handle,
            card: card.clone(),
            recording: false,
            op: "",
            latest: VecDeque::new(),
        };
        new.clear_flags()?;
        Ok(new)
    }

    fn clear_flags(&self) -> Result<()> {
        let (bytes, flags, raw) = (4 * FINDINGS, self.flags.addr as *mut c_void, self.handle.raw()?);
        // SAFETY: the flags have this many bytes and live as long as the stream.
        unsafe { acl!(self.card, aclrtMemsetAsync(flags, bytes, 0, bytes, raw)) }
    }

    /// Packed scratch memory until the end of the op.
    pub(super) fn temp(&mut self, dtype: aclDataType, dims: &[i64]) -> Result<View> {
        let view = View::packed(0, dtype, dims);
        let addr = self.scratch.take((view.len().max(1) as u64) * view.size(), self.recording)?;
        Ok(view.at(addr))
    }

    /// Packed f32 scratch memory until the end of the op.
    pub(super) fn floats(&mut self, dims: &[i64]) -> Result<View> {
        self.temp(aclDataType::ACL_FLOAT, dims)
    }

    /// Packed i32 scratch memory until the end of the op.
    pub(super) fn ints(&mut self, dims: &[i64]) -> Result<View> {
        self.temp(aclDataType::ACL_INT32, dims)
    }

    /// Packed scratch memory for conditions until the end of the op.
    pub(super) fn bools(&mut self, dims: &[i64]) -> Result<View> {
        self.temp(aclDataType::ACL_BOOL, dims)
    }

    /// A flag `[1]` of zero: when the op being queued adds something to it, the next synchronisation fails with `what`.
    pub(super) fn finding(&mut self, what: String) -> Result<View> {
        if self.findings.len() == FINDINGS {
            if self.recording {
                let text =
                    format!("more than {FINDINGS} ops that check their data are recorded into one graph");
                return Err(self.card.error_text("aclmdlRICaptureBegin", text));
            }
            self.examine()?;
        }
        let addr = self.flags.addr + 4 * self.findings.len() as u64;
        self.findings.push((self.op, what));
        Ok(View::packed(addr, aclDataType::ACL_FLOAT, &[1]))
    }

    /// Reads the flags, waiting for the work before, and reports the first that is set.
    fn examine(&mut self) -> Result<()> {
        if self.findings.is_empty() {
            return Ok(());
        }
        let mut flags = [0f32; FINDINGS];
        let (read, raw) = (&mut flags[..self.findings.len()], self.handle.raw()?);
        // SAFETY: there are as many flags; the context is current.
        let done = unsafe { self.stage.download(raw, self.flags.addr, bytemuck::cast_slice_mut(read)) };
        done.map_err(|e| self.with_latest(e))?;
        let found = read.iter().position(|&f| f != 0.0).map(|i| self.findings[i].clone());
        self.findings.truncate(self.kept);
        let Some((op, what)) = found else { return Ok(()) };
        self.clear_flags()?;
        Err(Error::Failed { device: self.card.info.name.clone(), op, what })
    }

    /// Queues a copy from the host; only where nothing is recorded.
    ///
    /// # Safety
    /// `dst` has `src.len()` bytes.
    pub(super) unsafe fn send(&mut self, src: &[u8], dst: u64) -> Result<()> {
        self.not_while_recording("aclrtMemcpyAsync")?;
        let raw = self.handle.raw()?;
        // SAFETY: as the caller promises; the context is current.
        unsafe { self.stage.upload(raw, src, dst) }.map_err(|e| self.with_latest(e))
    }

    /// Remembers an operator for the errors that follow, and refuses one that the op's row of the table does not name: its
    /// presence was not asked for.
    pub(super) fn note(&mut self, operator: &'static str) -> Result<()> {
        if !ops::operators(self.op).contains(&operator) {
            return Err(self
                .card
                .error_text(operator, format!("{} is not written with this operator", self.op)));
        }
        self.remember(operator);
        Ok(())
    }

    /// Starts the queueing of an op or a collective.
    pub(super) fn begin(&mut self, op: &'static str) -> Result<()> {
        self.card.bind()?;
        self.op = op;
        self.scratch.release(Default::default());
        Ok(())
    }

    /// Remembers a call for the errors that follow.
    pub(super) fn remember(&mut self, call: &'static str) {
        if self.latest.len() == REMEMBERED {
            self.latest.pop_front();
        }
        self.latest.push_back((self.op, call));
    }

    /// A failed call, with the operators queued before it: the device reports failures of work late.
    pub(super) fn failed(&self, call: &'static str, code: i32) -> Error {
        self.with_latest(self.card.error(call, code))
    }

    fn with_latest(&self, e: Error) -> Error {
        match e {
            Error::Driver { device, call, code, mut text } if !self.latest.is_empty() => {
                let latest: Vec<_> =
                    self.latest.iter().map(|(op, operator)| format!("{op}/{operator}")).collect();
                text.push_str("; queued last: ");
                text.push_str(&latest.join(", "));
                Error::Driver { device, call, code, text }
            }
            e => e,
        }
    }

    /// Waits for all work. A stream that fails is ended at once: its owner frees memory next.
    fn drain(&mut self) -> Result<()> {
        let raw = self.handle.raw()?;
        // SAFETY: the stream is live.
        let done = unsafe { acl!(self.card, aclrtSynchronizeStream(raw)) }.map_err(|e| self.with_latest(e));
        if done.is_err() {
            self.handle.destroy();
        }
        self.stage.settled();
        done
    }

    /// After a failure, when nothing queued before is on its way any more: its memory may be given back next.
    fn settled(&mut self, done: Result<()>) -> Result<()> {
        if done.is_err() && !self.recording {
            // The first failure is the one that is told.
            let _ = self.drain();
        }
        done
    }

    fn not_while_recording(&self, call: &'static str) -> Result<()> {
        if self.recording { Err(self.card.error_text(call, "not while recording".into())) } else { Ok(()) }
    }

    /// Which function of recording is missing, or why the chip does not record.
    fn cannot_record(&self) -> Option<String> {
        let api = self.card.api;
        if self.card.soc.is_some_and(|s| !s.graphs) {
            return Some(format!("{} does not record streams", self.card.chip));
        }
        let there = api.runtime(|f| &f.aclmdlRICaptureBegin).is_some()
            && api.runtime(|f| &f.aclmdlRICaptureEnd).is_some()
            && api.runtime(|f| &f.aclmdlRIExecuteAsync).is_some()
            && api.runtime(|f| &f.aclmdlRIDestroy).is_some();
        (!there).then(|| api.missing("aclmdlRICaptureBegin"))
    }
}

// SAFETY: `upload` copies `src` into pinned memory before it returns, `download` waits for its copies.
unsafe impl Stream for AscendStream {
    unsafe fn launch(&mut self, op: &Op) -> Result<()> {
        self.begin(op.name())?;
        let done = ops::launch(self, op);
        self.settled(done)
    }

    unsafe fn upload(&mut self, src: &[u8], dst: Addr) -> Result<()> {
        self.card.bind()?;
        // SAFETY: as the caller promises.
        let done = unsafe { self.send(src, dst.0) };
        self.settled(done)
    }

    unsafe fn download(&mut self, src: Addr, dst: &mut [u8]) -> Result<()> {
        self.not_while_recording("aclrtMemcpyAsync")?;
        self.card.bind()?;
        let raw = self.handle.raw()?;
        // SAFETY: as the caller promises.
        let done = unsafe { self.stage.download(raw, src.0, dst) }.map_err(|e| self.with_latest(e));
        self.settled(done)
    }

    fn sync(&mut self) -> Result<()> {
        self.not_while_recording("aclrtSynchronizeStream")?;
        self.card.bind()?;
        let found = self.examine();
        let done = self.drain();
        // What the device found comes first: work after it may have failed for that reason.
        found.and(done)
    }

    fn as_any(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }

    fn begin_capture(&mut self) -> Result<(), Unsupported> {
        if let Some(why) = self.cannot_record() {
            return Err(Unsupported(why));
        }
        let refuse = |e: Error| Unsupported::because(e.to_string());
        self.card.bind().map_err(refuse)?;
        let raw = self.handle.raw().map_err(refuse)?;
        let mode = aclmdlRICaptureMode::ACL_MODEL_RI_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is live and not the default one.
        unsafe { acl!(self.card, aclmdlRICaptureBegin(raw, mode)) }.map_err(refuse)?;
        self.recording = true;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Box<dyn Graph>, Unsupported> {
        self.recording = false;
        let refuse = |e: Error| Unsupported::because(e.to_string());
        self.card.bind().map_err(refuse)?;
        let raw = self.handle.raw().map_err(refuse)?;
        let mut graph = null_mut();
        // SAFETY: the place is written before the call returns.
        unsafe { acl!(self.card, aclmdlRICaptureEnd(raw, &mut graph)) }.map_err(refuse)?;
        if graph.is_null() {
            return Err(Unsupported::because("nothing was recorded"));
        }
        // A replay sets the flags of the ops in the graph again.
        self.kept = self.findings.len();
        let mut memory = self.scratch.chunks();
        memory.push(self.flags.clone());
        Ok(Box::new(Recorded { graph, handle: self.handle.clone(), _memory: memory }))
    }
}

impl Drop for AscendStream {
    fn drop(&mut self) {
        // A failure here was reported by the call that met it.
        let _ = self.card.bind();
        let _ = self.drain();
    }
}

/// A recorded graph; it runs on the stream that recorded it, and keeps that and the memory it names alive.
struct Recorded {
    graph: aclmdlRI,
    handle: Arc<Handle>,
    _memory: Vec<Arc<Memory>>,
}

// SAFETY: the graph is used by its owner only, from one thread at a time.
unsafe impl Send for Recorded {}

impl Graph for Recorded {
    fn replay(&self, _: &mut dyn Stream) -> Result<()> {
        let card = &self.handle.card;
        card.bind()?;
        let raw = self.handle.raw()?;
        // SAFETY: graph and stream are live.
        unsafe { acl!(card, aclmdlRIExecuteAsync(self.graph, raw)) }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let card = &self.handle.card;
        // Failures here were reported by the calls that met them.
        let _ = card.bind();
        if let Ok(raw) = self.handle.raw() {
            // SAFETY: the stream is live.
            let _ = unsafe { acl!(card, aclrtSynchronizeStream(raw)) };
        }
        // SAFETY: recorded by `end_capture`, no replay is under way.
        let _ = unsafe { acl!(card, aclmdlRIDestroy(self.graph)) };
    }
}
