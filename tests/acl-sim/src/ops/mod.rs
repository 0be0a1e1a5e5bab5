//! The operators: their arguments, element types and chips as CANN's operator pages list them, and simple code for each.

pub mod elementwise;
pub mod indexing;
pub mod making;
pub mod normalise;
pub mod ordering;
pub mod product;
pub mod reduce;
pub mod table;
pub mod value;

use crate::{
    config::Chip,
    executor::{Arg, Refusal, Role, refuse},
    objects::Scalar,
};
use value::View;

/// One argument of an operator.
pub struct Param {
    pub role: Role,
    pub name: &'static str,
    /// Element types a tensor may have; empty where the page lists none.
    pub types: &'static [i64],
}

/// One operator.
pub struct Spec {
    pub name: &'static str,
    pub params: &'static [Param],
    /// Chips that have it, as a sum of [`Chip`].
    pub chips: u8,
    /// Whether its results are computed, and so differ in the last places between machines.
    pub noisy: bool,
    pub build: fn(&Call) -> Result<Plan, Refusal>,
}

/// Work that phase 1 agreed to.
pub struct Plan {
    pub run: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Bytes of workspace without which the operator cannot run.
    pub workspace: u64,
}

impl Plan {
    pub fn nothing() -> Self {
        Self::of(|| Ok(()))
    }
    pub fn of(run: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { run: Box::new(run), workspace: 0 }
    }
    pub fn always(run: impl Fn() + Send + Sync + 'static) -> Self {
        Self::of(move || {
            run();
            Ok(())
        })
    }
    pub fn with_workspace(mut self, bytes: u64) -> Self {
        self.workspace = bytes;
        self
    }
}

/// The arguments of one call.
pub struct Call {
    pub args: Vec<Arg>,
    pub chip: Chip,
    pub deterministic: bool,
    /// For everything the documents leave open.
    pub seed: u64,
}

impl Call {
    pub fn maybe(&self, i: usize) -> Option<&View> {
        match &self.args[i] {
            Arg::Tensor(v) => Some(v),
            _ => None,
        }
    }
    pub fn tensor(&self, i: usize) -> Result<&View, Refusal> {
        self.maybe(i).map_or_else(|| refuse(format!("argument {i} is no tensor")), Ok)
    }
    pub fn maybe_scalar(&self, i: usize) -> Option<Scalar> {
        match &self.args[i] {
            Arg::Scalar(s) => Some(*s),
            _ => None,
        }
    }
    pub fn scalar(&self, i: usize) -> Result<Scalar, Refusal> {
        self.maybe_scalar(i).map_or_else(|| refuse(format!("argument {i} is no scalar")), Ok)
    }
    pub fn ints(&self, i: usize) -> &[i64] {
        match &self.args[i] {
            Arg::Ints(v) => v,
            _ => &[],
        }
    }
    pub fn int(&self, i: usize) -> i64 {
        match &self.args[i] {
            Arg::Int(v) => *v,
            _ => 0,
        }
    }
    pub fn flag(&self, i: usize) -> bool {
        self.int(i) != 0
    }
    pub fn float(&self, i: usize) -> f64 {
        match &self.args[i] {
            Arg::Float(v) => *v,
            _ => 0.0,
        }
    }
}

/// That a tensor has the shape it must have.
pub fn check_shape(name: &str, v: &View, shape: &[i64]) -> Result<(), Refusal> {
    if v.shape == shape {
        return Ok(());
    }
    refuse(format!("{name} has shape {:?}, expected {shape:?}", v.shape))
}

/// The shape two shapes broadcast to.
pub fn broadcast_shape(a: &[i64], b: &[i64]) -> Result<Vec<i64>, Refusal> {
    let rank = a.len().max(b.len());
    let at = |s: &[i64], i: usize| if i + s.len() >= rank { s[i + s.len() - rank] } else { 1 };
    let mut out = Vec::with_capacity(rank);
    for i in 0..rank {
        out.push(match (at(a, i), at(b, i)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => return refuse(format!("shapes {a:?} and {b:?} do not broadcast")),
        });
    }
    Ok(out)
}

/// A view repeated to a shape, or the refusal.
pub fn expand(name: &str, v: &View, shape: &[i64]) -> Result<View, Refusal> {
    v.broadcast(shape)
        .map_or_else(|| refuse(format!("{name} of shape {:?} does not broadcast to {shape:?}", v.shape)), Ok)
}

/// A dim, or the refusal.
pub fn dim_of(v: &View, dim: i64) -> Result<usize, Refusal> {
    v.dim(dim).map_or_else(|| refuse(format!("dim {dim} of a tensor of {} dims", v.rank())), Ok)
}
