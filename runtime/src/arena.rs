//! Memory planned before the first step. The same constructor code runs twice: once on a planning arena, which only adds
//! up sizes, then on a real one of exactly that size. So the printed plan is true by construction.

use crate::{DType, Device, Error, Result, Tensor, tensor::Block};
use std::sync::Arc;

/// One planned tensor.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it is for.
    pub label: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Element type.
    pub dtype: DType,
    /// Bytes including alignment.
    pub bytes: usize,
}

/// A bump allocator over one block of device memory, or, while planning, over nothing.
pub struct Arena {
    name: String,
    block: Option<Arc<Block>>,
    device: String,
    alignment: usize,
    total: usize,
    used: usize,
    planned: Vec<Planned>,
}

impl Arena {
    /// An arena without memory that records what is asked of it.
    pub fn planning(name: &str) -> Self {
        Self {
            name: name.into(),
            block: None,
            device: String::new(),
            alignment: 256,
            total: usize::MAX,
            used: 0,
            planned: Vec::new(),
        }
    }

    /// An arena with the memory `plan` added up to.
    pub fn build(plan: &Arena, device: &Arc<dyn Device>) -> Result<Self> {
        let total = plan.used.max(plan.alignment);
        let block =
            Block::direct(device, total, &format!("the {} arena ({})", plan.name, plan.largest_text()))?;
        Ok(Self {
            name: plan.name.clone(),
            block: Some(Arc::new(block)),
            device: device.info().name.clone(),
            alignment: plan.alignment.max(device.info().alignment),
            total,
            used: 0,
            planned: Vec::new(),
        })
    }

    /// Whether this arena only plans: its tensors have no memory.
    pub fn is_planning(&self) -> bool {
        self.block.is_none()
    }

    /// The next tensor. Contents are undefined.
    pub fn tensor(&mut self, label: &str, rows: usize, cols: usize, dtype: DType) -> Result<Tensor> {
        let bytes = rows
            .checked_mul(cols)
            .and_then(|n| n.checked_mul(dtype.bytes()))
            .filter(|&b| b <= isize::MAX as usize)
            .ok_or_else(|| Error::Shape {
                op: "arena",
                what: format!("{label} [{rows}, {cols}] is larger than memory"),
            })?
            .max(1)
            .next_multiple_of(self.alignment);
        let free = self.total - self.used;
        if bytes > free {
            return Err(Error::ArenaFull {
                arena: format!("{} on {}", self.name, self.device),
                label: label.into(),
                asked: bytes,
                free,
                total: self.total,
            });
        }
        let t = Tensor::placed(self.block.clone(), self.used, rows, cols, dtype);
        self.used += bytes;
        self.planned.push(Planned { label: label.into(), rows, cols, dtype, bytes });
        Ok(t)
    }

    /// Arena name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Bytes handed out.
    pub fn used(&self) -> usize {
        self.used
    }
    /// Everything handed out, in order.
    pub fn planned(&self) -> &[Planned] {
        &self.planned
    }

    fn largest_text(&self) -> String {
        let mut by_size: Vec<&Planned> = self.planned.iter().collect();
        by_size.sort_by_key(|p| std::cmp::Reverse(p.bytes));
        let top: Vec<String> = by_size
            .iter()
            .take(3)
            .map(|p| format!("{} [{}, {}] {} B", p.label, p.rows, p.cols, p.bytes))
            .collect();
        format!("largest: {}", top.join(", "))
    }
}
