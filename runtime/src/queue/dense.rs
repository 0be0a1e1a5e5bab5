//! Checked dense operations: products, elementwise forms, reductions, random numbers.

use super::{Queue, check, disjoint, shaped};
use crate::{
    Act, DType, MapKind, RandomKind, ReduceKind, Result, View, ViewMut,
    op::{self, Mat},
};

/// Optional parts of a product: `c = act(alpha·a·b + beta·c + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct GemmOpts<'a> {
    /// Use aᵀ.
    pub ta: bool,
    /// Use bᵀ.
    pub tb: bool,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old c; 0 means c is not read.
    pub beta: f32,
    /// Added to every row, `[1, n]`.
    pub bias: Option<View<'a>>,
    /// Applied last.
    pub act: Act,
}

impl Default for GemmOpts<'_> {
    fn default() -> Self {
        Self { ta: false, tb: false, alpha: 1.0, beta: 0.0, bias: None, act: Act::None }
    }
}

const F32: DType = DType::F32;

impl Queue {
    /// `c = act(alpha·op(a)·op(b) + beta·c + bias)`; `a, b` any float type, `c` f32.
    pub fn gemm<'a, 'b, 'c>(
        &mut self,
        a: impl Into<View<'a>>,
        b: impl Into<View<'b>>,
        c: impl Into<ViewMut<'c>>,
        opts: GemmOpts<'_>,
    ) -> Result<()> {
        const OP: &str = "Gemm";
        let (a, b) = (self.float(OP, "a", a.into().raw)?, self.float(OP, "b", b.into().raw)?);
        let c = self.input(OP, "c", c.into().raw, F32)?;
        let bias = self.optional(OP, "bias", opts.bias, F32)?;
        let (m, k) = if opts.ta { (a.cols, a.rows) } else { (a.rows, a.cols) };
        let (kb, n) = if opts.tb { (b.cols, b.rows) } else { (b.rows, b.cols) };
        check(k == kb && c.rows == m && c.cols == n, OP, || {
            format!("[{m}, {k}] · [{kb}, {n}] (after transposition) into [{}, {}]", c.rows, c.cols)
        })?;
        shaped(OP, "bias", &bias, 1, n)?;
        disjoint(OP, &c, &[("a", a), ("b", b), ("bias", bias)])?;
        self.launch(op::Gemm {
            a,
            b,
            c,
            bias,
            alpha: opts.alpha,
            beta: opts.beta,
            ta: opts.ta.into(),
            tb: opts.tb.into(),
            act: opts.act,
            batch: 1,
            stride_a: 0,
            stride_b: 0,
            stride_c: 0,
        })
    }

    /// Sets every element.
    pub fn fill<'y>(&mut self, y: impl Into<ViewMut<'y>>, value: f32) -> Result<()> {
        let y = self.located("Fill", y.into().raw)?;
        self.launch(op::Fill { y, value })
    }

    /// Copies, converting between float types.
    pub fn copy<'x, 'y>(&mut self, x: impl Into<View<'x>>, y: impl Into<ViewMut<'y>>) -> Result<()> {
        let (x, y) = (self.located("Copy", x.into().raw)?, self.located("Copy", y.into().raw)?);
        check(x.dtype == y.dtype || (x.dtype.is_float() && y.dtype.is_float()), "Copy", || {
            format!("{} cannot become {}", x.dtype, y.dtype)
        })?;
        shaped("Copy", "y", &y, x.rows, x.cols)?;
        disjoint("Copy", &y, &[("x", x)])?;
        self.launch(op::Copy { x, y })
    }

    /// `y[i] = table[idx[i]]`.
    pub fn gather<'t, 'i, 'y>(
        &mut self,
        table: impl Into<View<'t>>,
        idx: impl Into<View<'i>>,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        const OP: &str = "Gather";
        let table = self.float(OP, "table", table.into().raw)?;
        let idx = self.input(OP, "idx", idx.into().raw, DType::U32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "idx", &idx, 1, y.rows)?;
        shaped(OP, "y", &y, idx.cols, table.cols)?;
        disjoint(OP, &y, &[("table", table), ("idx", idx)])?;
        self.launch(op::Gather { table, idx, y })
    }

    /// `y = kind(x; a, b)`.
    pub fn map<'x, 'y>(
        &mut self,
        kind: MapKind,
        x: impl Into<View<'x>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let x = self.input("Map", "x", x.into().raw, F32)?;
        self.launch_map(kind, x, Mat::NONE, a, b, y.into())
    }

    /// `y = kind(y; a, b)`.
    pub fn map_in_place<'y>(
        &mut self,
        kind: MapKind,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = y.into();
        let x = self.input("Map", "x", y.raw, F32)?;
        self.launch_map(kind, x, Mat::NONE, a, b, y)
    }

    /// `y = kind(x, z; a, b)`; z is full, a row `[1, N]` or a column `[B, 1]`.
    pub fn zip<'x, 'z, 'y>(
        &mut self,
        kind: MapKind,
        x: impl Into<View<'x>>,
        z: impl Into<View<'z>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let x = self.input("Map", "x", x.into().raw, F32)?;
        let z = self.input("Map", "z", z.into().raw, F32)?;
        self.launch_map(kind, x, z, a, b, y.into())
    }

    /// `y = kind(y, z; a, b)`.
    pub fn zip_in_place<'z, 'y>(
        &mut self,
        kind: MapKind,
        z: impl Into<View<'z>>,
        a: f32,
        b: f32,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = y.into();
        let x = self.input("Map", "x", y.raw, F32)?;
        let z = self.input("Map", "z", z.into().raw, F32)?;
        self.launch_map(kind, x, z, a, b, y)
    }

    fn launch_map(&mut self, kind: MapKind, x: Mat, z: Mat, a: f32, b: f32, y: ViewMut<'_>) -> Result<()> {
        const OP: &str = "Map";
        let y = self.input(OP, "y", y.raw, F32)?;
        shaped(OP, "y", &y, x.rows, x.cols)?;
        let binary = matches!(
            kind,
            MapKind::Add
                | MapKind::Mul
                | MapKind::Div
                | MapKind::SiluMul
                | MapKind::GeluTanhMul
                | MapKind::GeluErfMul
        );
        check(binary == z.is_some(), OP, || format!("{kind:?} takes {} operands", 1 + u32::from(binary)))?;
        let fits = |n, full| n == full || n == 1;
        check(!z.is_some() || (fits(z.rows, x.rows) && fits(z.cols, x.cols)), OP, || {
            format!("z is [{}, {}] beside x [{}, {}]", z.rows, z.cols, x.rows, x.cols)
        })?;
        disjoint(OP, &y, &[("z", z)])?;
        if y.addr != x.addr || y.ld != x.ld {
            disjoint(OP, &y, &[("x", x)])?;
        }
        self.launch(op::Map { kind, x, z, y, a, b })
    }

    /// Reduces over rows into `[1, N]`, each row's contribution times `weight [B, 1]`; `y = beta·y + …`.
    pub fn reduce_rows<'x, 'y>(
        &mut self,
        kind: ReduceKind,
        x: impl Into<View<'x>>,
        weight: Option<View<'_>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "Reduce";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let weight = self.optional(OP, "weight", weight, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "weight", &weight, x.rows, 1)?;
        shaped(OP, "y", &y, 1, x.cols)?;
        disjoint(OP, &y, &[("x", x), ("weight", weight)])?;
        self.launch(op::Reduce { kind, by_row: 0, x, weight, y, beta })
    }

    /// Reduces over columns into `[B, 1]`.
    pub fn reduce_cols<'x, 'y>(
        &mut self,
        kind: ReduceKind,
        x: impl Into<View<'x>>,
        y: impl Into<ViewMut<'y>>,
        beta: f32,
    ) -> Result<()> {
        const OP: &str = "Reduce";
        let x = self.input(OP, "x", x.into().raw, F32)?;
        let y = self.input(OP, "y", y.into().raw, F32)?;
        shaped(OP, "y", &y, x.rows, 1)?;
        disjoint(OP, &y, &[("x", x)])?;
        self.launch(op::Reduce { kind, by_row: 1, x, weight: Mat::NONE, y, beta })
    }

    /// Random numbers: element i is draw `offset + i` of stream `seed`, the same on every device.
    pub fn random<'y>(
        &mut self,
        kind: RandomKind,
        (a, b): (f32, f32),
        seed: u64,
        offset: u64,
        y: impl Into<ViewMut<'y>>,
    ) -> Result<()> {
        let y = self.input("Random", "y", y.into().raw, F32)?;
        self.launch(op::Random { kind, y, a, b, seed, offset })
    }
}
