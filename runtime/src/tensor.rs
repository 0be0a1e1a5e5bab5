//! Owned device memory with a shape, and borrowed views of it. Shapes are always `[rows, cols]`; vectors are `[1, n]`
//! (one value a column) or `[n, 1]` (one value a row). Views are the only way into a [`crate::Queue`] method, so Rust's
//! borrow rules give most of the aliasing guarantees.

use crate::{Addr, DType, Device, Error, Result, op::Mat};
use std::{
    collections::HashMap,
    marker::PhantomData,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Size-class cache of device memory for everything that is not planned in an arena. A block may be reused as soon as it is
/// dropped: its next user is queued on the same stream, so device order protects it.
pub(crate) struct Pool {
    device: Arc<dyn Device>,
    free: Mutex<HashMap<usize, Vec<Addr>>>,
}

impl Pool {
    pub(crate) fn new(device: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self { device, free: Mutex::default() })
    }

    /// Powers of two up to 1 MiB, then multiples of 1 MiB: bounded waste for small blocks, little for large ones.
    fn class(bytes: usize) -> usize {
        const MIB: usize = 1 << 20;
        if bytes <= MIB { bytes.max(64).next_power_of_two() } else { bytes.next_multiple_of(MIB) }
    }

    fn take(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Block> {
        let class = Self::class(bytes);
        let cached =
            self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&class).and_then(Vec::pop);
        let addr = match cached {
            Some(addr) => addr,
            None => self.device.alloc(class).map_err(|e| name_allocation(e, what))?,
        };
        Ok(Block { addr, bytes: class, home: Home::Pool(self.clone()) })
    }

    /// Returns all cached memory to the device.
    pub(crate) fn trim(&self) {
        for (bytes, addrs) in self.free.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            for addr in addrs {
                // SAFETY: the address came from `alloc(bytes)`, and the queue synchronises before it trims or drops the pool.
                unsafe { self.device.free(addr, bytes) }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

fn name_allocation(e: Error, label: &str) -> Error {
    match e {
        Error::OutOfMemory { device, asked, .. } => Error::OutOfMemory { device, asked, what: label.into() },
        e => e,
    }
}

enum Home {
    Pool(Arc<Pool>),
    Device(Arc<dyn Device>),
}

/// One stretch of device memory, returned where it came from on drop.
pub(crate) struct Block {
    addr: Addr,
    bytes: usize,
    home: Home,
}

impl Block {
    pub(crate) fn direct(device: &Arc<dyn Device>, bytes: usize, what: &str) -> Result<Self> {
        let addr = device.alloc(bytes).map_err(|e| name_allocation(e, what))?;
        Ok(Self { addr, bytes, home: Home::Device(device.clone()) })
    }
    pub(crate) fn addr(&self) -> Addr {
        self.addr
    }
    fn device(&self) -> &Arc<dyn Device> {
        match &self.home {
            Home::Pool(p) => &p.device,
            Home::Device(d) => d,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        match &self.home {
            Home::Pool(p) => p
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(self.bytes)
                .or_default()
                .push(self.addr),
            // SAFETY: the address came from `alloc(self.bytes)`; arenas outlive the work queued on them because the trainer
            // owns both and synchronises before it is dropped.
            Home::Device(d) => unsafe { d.free(self.addr, self.bytes) },
        }
    }
}

/// A number that tells devices apart; 0 for a planned tensor without memory.
pub(crate) type DeviceId = usize;
pub(crate) fn device_id(device: &Arc<dyn Device>) -> DeviceId {
    Arc::as_ptr(device).cast::<()>() as usize
}

/// A contiguous row-major `[rows, cols]` matrix in device memory. A tensor made by a planning arena has a shape but no memory.
pub struct Tensor {
    block: Option<Arc<Block>>,
    addr: Addr,
    rows: usize,
    cols: usize,
    dtype: DType,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor[{}, {}] {}", self.rows, self.cols, self.dtype)
    }
}

impl Tensor {
    pub(crate) fn pooled(pool: &Arc<Pool>, rows: usize, cols: usize, dtype: DType) -> Result<Self> {
        let bytes = checked_bytes(rows, cols, dtype)?;
        let block = pool.take(bytes, "a temporary tensor")?;
        Ok(Self { addr: block.addr(), block: Some(Arc::new(block)), rows, cols, dtype })
    }

    pub(crate) fn placed(
        block: Option<Arc<Block>>,
        offset: usize,
        rows: usize,
        cols: usize,
        dtype: DType,
    ) -> Self {
        let addr = block.as_ref().map_or(Addr::NONE, |b| Addr(b.addr().0 + offset as u64));
        Self { block, addr, rows, cols, dtype }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// The same memory under another shape with as many elements.
    pub fn reshaped(mut self, rows: usize, cols: usize) -> Result<Self> {
        if rows * cols != self.len() {
            return Err(Error::Shape {
                op: "reshape",
                what: format!("[{}, {}] cannot become [{rows}, {cols}]", self.rows, self.cols),
            });
        }
        (self.rows, self.cols) = (rows, cols);
        Ok(self)
    }

    /// The tensor cut between its rows into tensors of so many rows each. They share its memory, so that each can be handed on;
    /// [`Tensor::joined`] puts them together again.
    pub fn split(self, rows: &[usize]) -> Result<Vec<Self>> {
        if rows.iter().sum::<usize>() != self.rows {
            let what = format!("{} rows cannot be cut into {rows:?}", self.rows);
            return Err(Error::Shape { op: "split", what });
        }
        let (width, mut at) = (self.cols * self.dtype.bytes(), self.addr.0);
        let part = |rows: &usize| {
            let addr = if self.block.is_some() { Addr(at) } else { Addr::NONE };
            at += (rows * width) as u64;
            Self { block: self.block.clone(), addr, rows: *rows, cols: self.cols, dtype: self.dtype }
        };
        Ok(rows.iter().map(part).collect())
    }

    /// Tensors that lie one behind the other in the same memory, as one.
    pub fn joined(parts: Vec<Self>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().unwrap_or_default();
        for part in parts {
            let same = match (&whole.block, &part.block) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) && whole.addr.0 + whole.bytes() as u64 == part.addr.0,
                (None, None) => true,
                _ => false,
            };
            if !same || (whole.cols, whole.dtype) != (part.cols, part.dtype) {
                let what = format!("{part:?} does not lie behind {whole:?}");
                return Err(Error::Shape { op: "joined", what });
            }
            whole.rows += part.rows;
        }
        Ok(whole)
    }

    fn raw(&self) -> Raw {
        Raw {
            mat: Mat {
                addr: self.addr,
                rows: self.rows as u64,
                cols: self.cols as u64,
                ld: self.cols as u64,
                dtype: self.dtype,
            },
            device: self.block.as_ref().map_or(0, |b| device_id(b.device())),
        }
    }
    /// The whole tensor, to read.
    pub fn view(&self) -> View<'_> {
        View { raw: self.raw(), life: PhantomData }
    }
    /// The whole tensor, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { raw: self.raw(), life: PhantomData }
    }
    /// Rows `r`, to read. Panics when out of range.
    pub fn rows_view(&self, r: Range<usize>) -> View<'_> {
        self.view().slice_rows(r)
    }
    /// Rows `r`, to write. Panics when out of range.
    pub fn rows_mut(&mut self, r: Range<usize>) -> ViewMut<'_> {
        self.view_mut().slice_rows(r)
    }
}

/// A tensor without rows, columns or memory, to stand where another one has been taken away.
impl Default for Tensor {
    fn default() -> Self {
        Self::placed(None, 0, 0, 0, DType::F32)
    }
}

fn checked_bytes(rows: usize, cols: usize, dtype: DType) -> Result<usize> {
    rows.checked_mul(cols)
        .and_then(|n| n.checked_mul(dtype.bytes()))
        .filter(|&b| b <= isize::MAX as usize)
        .ok_or_else(|| Error::Shape {
            op: "tensor",
            what: format!("[{rows}, {cols}] {dtype} is larger than memory"),
        })
}

#[derive(Clone, Copy)]
pub(crate) struct Raw {
    pub(crate) mat: Mat,
    pub(crate) device: DeviceId,
}

impl Raw {
    fn slice_rows(mut self, r: Range<usize>) -> Self {
        assert!(
            r.start <= r.end && r.end as u64 <= self.mat.rows,
            "rows {r:?} of a matrix with {}",
            self.mat.rows
        );
        self.mat.addr.0 += r.start as u64 * self.mat.ld * self.mat.dtype.bytes() as u64;
        self.mat.rows = r.len() as u64;
        self
    }
    fn slice_cols(mut self, c: Range<usize>) -> Self {
        assert!(
            c.start <= c.end && c.end as u64 <= self.mat.cols,
            "columns {c:?} of a matrix with {}",
            self.mat.cols
        );
        self.mat.addr.0 += (c.start * self.mat.dtype.bytes()) as u64;
        self.mat.cols = c.len() as u64;
        self
    }
    fn reshaped(mut self, rows: usize, cols: usize) -> Self {
        assert!(self.mat.ld == self.mat.cols || self.mat.rows <= 1, "only contiguous views can be reshaped");
        assert_eq!((rows * cols) as u64, self.mat.len(), "reshape keeps the number of elements");
        (self.mat.rows, self.mat.cols, self.mat.ld) = (rows as u64, cols as u64, cols as u64);
        self
    }
}

/// A matrix borrowed for reading.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(crate) raw: Raw,
    life: PhantomData<&'a Tensor>,
}

/// A matrix borrowed for writing.
pub struct ViewMut<'a> {
    pub(crate) raw: Raw,
    life: PhantomData<&'a mut Tensor>,
}

macro_rules! view_methods {
    ($name:ident) => {
        impl<'a> $name<'a> {
            /// Rows.
            pub fn rows(&self) -> usize {
                self.raw.mat.rows as usize
            }
            /// Columns.
            pub fn cols(&self) -> usize {
                self.raw.mat.cols as usize
            }
            /// Element type.
            pub fn dtype(&self) -> DType {
                self.raw.mat.dtype
            }
            /// A range of rows. Panics when out of range.
            pub fn slice_rows(self, r: Range<usize>) -> Self {
                Self { raw: self.raw.slice_rows(r), life: PhantomData }
            }
            /// A range of columns (the leading dimension stays). Panics when out of range.
            pub fn slice_cols(self, c: Range<usize>) -> Self {
                Self { raw: self.raw.slice_cols(c), life: PhantomData }
            }
            /// The same elements under another shape. Panics unless contiguous and equally large.
            pub fn reshaped(self, rows: usize, cols: usize) -> Self {
                Self { raw: self.raw.reshaped(rows, cols), life: PhantomData }
            }
        }
        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "[{}, {}] {}"), self.rows(), self.cols(), self.dtype())
            }
        }
    };
}
view_methods!(View);
view_methods!(ViewMut);

impl ViewMut<'_> {
    /// A shorter mutable borrow of the same view.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { raw: self.raw, life: PhantomData }
    }
    /// The same view, to read.
    pub fn as_view(&self) -> View<'_> {
        View { raw: self.raw, life: PhantomData }
    }
}

impl<'a> From<&'a Tensor> for View<'a> {
    fn from(t: &'a Tensor) -> Self {
        t.view()
    }
}
impl<'a> From<&'a mut Tensor> for ViewMut<'a> {
    fn from(t: &'a mut Tensor) -> Self {
        t.view_mut()
    }
}

/// Sparse rows over `n` columns, borrowed for reading; the layout is [`crate::op::Sparse`].
#[derive(Clone, Copy, Debug)]
pub struct SparseView<'a> {
    /// Values f32, `[rows, k]`, or `[1, capacity]` with `ptr`.
    pub vals: View<'a>,
    /// Column indices u32, shaped like `vals`.
    pub idx: View<'a>,
    /// Row offsets u32 `[1, rows + 1]` when rows have different counts.
    pub ptr: Option<View<'a>>,
    /// Columns of the matrix represented.
    pub n: usize,
}

impl SparseView<'_> {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.ptr.map_or(self.vals.rows(), |p| p.cols().saturating_sub(1))
    }
}

/// Entries grouped by column, borrowed for reading; see [`crate::op::ByColumn`].
#[derive(Clone, Copy, Debug)]
pub struct ByColumnView<'a> {
    /// `[1, n + 1]` u32.
    pub col_ptr: View<'a>,
    /// `[1, capacity]` u32.
    pub row: View<'a>,
    /// `[1, capacity]` u32.
    pub slot: View<'a>,
}
