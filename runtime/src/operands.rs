//! What an op reads and writes, as a list: for tools that treat ops uniformly (traces, shadow runs, conformance, plans).

use crate::{Addr, Op, op::Mat};

/// How an op uses an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Written without being read.
    Write,
    /// Read and written.
    Update,
}

/// One present operand of an op.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Field name in the op's struct, such as `codes.vals`.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
    /// Where and what it is; of the first product for a batched Gemm.
    pub mat: Mat,
    /// Bytes from its first to just past its last element, all products of a batched Gemm included.
    pub bytes: u64,
}

macro_rules! visit {
    ($f:ident, $o:ident; $($access:ident: $($($field:ident).+),*;)*) => {{
        $($($f(stringify!($($field).+), Access::$access, &mut $o.$($field).+);)*)*
    }};
}

impl Op {
    /// Every operand that is present, in the order of the op's fields.
    pub fn operands(&self) -> Vec<Operand> {
        let (mut list, mut op) = (Vec::new(), *self);
        op.visit(&mut |name, access, mat| {
            if mat.is_some() {
                list.push(Operand { name, access, mat: *mat, bytes: mat.span_bytes() });
            }
        });
        if let Op::Gemm(o) = self {
            for operand in &mut list {
                let stride = match operand.name {
                    "a" => o.stride_a,
                    "b" => o.stride_b,
                    "c" => o.stride_c,
                    _ => 0,
                };
                if operand.bytes > 0 {
                    operand.bytes += o.batch.saturating_sub(1) * stride * operand.mat.dtype.bytes() as u64;
                }
            }
        }
        list
    }

    /// The same op with every present operand's address replaced.
    pub fn relocated(mut self, mut to: impl FnMut(Addr) -> Addr) -> Self {
        self.visit(&mut |_, _, mat| {
            if mat.is_some() {
                mat.addr = to(mat.addr);
            }
        });
        self
    }

    fn visit(&mut self, f: &mut dyn FnMut(&'static str, Access, &mut Mat)) {
        match self {
            Op::Gemm(o) if o.beta == 0.0 => visit!(f, o; Read: a, b, bias; Write: c;),
            Op::Gemm(o) => visit!(f, o; Read: a, b, bias; Update: c;),
            Op::Fill(o) => visit!(f, o; Write: y;),
            Op::Copy(o) => visit!(f, o; Read: x; Write: y;),
            Op::Gather(o) => visit!(f, o; Read: table, idx; Write: y;),
            Op::Map(o) => visit!(f, o; Read: x, z; Write: y;),
            Op::Reduce(o) if o.beta == 0.0 => visit!(f, o; Read: x, weight; Write: y;),
            Op::Reduce(o) => visit!(f, o; Read: x, weight; Update: y;),
            Op::Norm(o) => visit!(f, o; Read: x, gain, bias; Write: y, scale;),
            Op::CrossEntropy(o) => visit!(f, o; Read: logits, target; Write: loss;),
            Op::Rope(o) => visit!(f, o; Update: x; Read: pos, cos, sin;),
            Op::Attention(o) => visit!(f, o; Read: q, k, v; Write: z, pattern;),
            Op::AttentionGrad(o) => visit!(f, o; Read: q, k, v, dz; Write: dq, dk, dv;),
            Op::TopK(o) => visit!(f, o; Read: x, scale, mask; Write: vals, idx;),
            Op::Threshold(o) => visit!(f, o; Read: x, scale, mask; Write: out;),
            Op::Compact(o) => {
                visit!(f, o; Read: x, scale, mask, theta, thr; Write: y.vals, y.idx, y.ptr;)
            }
            Op::Gate(o) => visit!(f, o; Read: x, scale, theta, thr; Write: y;),
            Op::GateGrad(o) => visit!(f, o; Read: x, scale, theta, df; Write: dx; Update: dtheta;),
            Op::Penalty(o) => visit!(f, o;
                Read: codes.vals, codes.idx, codes.ptr, scale, weight, colgain; Write: out, du;),
            Op::ThresholdPenalty(o) => visit!(f, o;
                Read: x, scale, theta, weight; Write: out; Update: dx, dtheta, dn;),
            Op::SparseMul(o) if o.beta == 0.0 => {
                visit!(f, o; Read: s.vals, s.idx, s.ptr, w, bias; Write: y;)
            }
            Op::SparseMul(o) => visit!(f, o; Read: s.vals, s.idx, s.ptr, w, bias; Update: y;),
            Op::Confine(o) => visit!(f, o; Read: s.vals, s.idx, s.ptr; Write: out;),
            Op::Scatter(o) if o.beta == 0.0 => visit!(f, o; Read: s.vals, s.idx, s.ptr; Write: y;),
            Op::Scatter(o) => visit!(f, o; Read: s.vals, s.idx, s.ptr; Update: y;),
            Op::SparseDot(o) => visit!(f, o; Read: s.vals, s.idx, s.ptr, w, x; Write: out;),
            Op::SortByColumn(o) => {
                visit!(f, o; Read: s.vals, s.idx, s.ptr; Write: out.col_ptr, out.row, out.slot;)
            }
            Op::SparseOuter(o) if o.beta == 0.0 => {
                visit!(f, o; Read: by.col_ptr, by.row, by.slot, vals, x; Write: y;)
            }
            Op::SparseOuter(o) => visit!(f, o; Read: by.col_ptr, by.row, by.slot, vals, x; Update: y;),
            Op::Activity(o) => visit!(f, o; Read: codes.vals, codes.idx, codes.ptr, mask; Update: fired;),
            Op::Age(o) => visit!(f, o; Read: fired; Update: since; Write: dead;),
            Op::Adam(o) => visit!(f, o; Update: p, m, v; Read: g; Write: low, stats;),
            Op::Random(o) => visit!(f, o; Write: y;),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Act, DType, op::Gemm};

    fn mat(addr: u64, rows: u64, cols: u64) -> Mat {
        Mat { addr: Addr(addr), rows, cols, ld: cols, dtype: DType::F32 }
    }

    fn gemm(beta: f32) -> Op {
        Op::Gemm(Gemm {
            a: mat(4096, 2, 3),
            b: mat(8192, 3, 5),
            c: mat(12288, 2, 5),
            bias: Mat::NONE,
            alpha: 1.0,
            beta,
            ta: 0,
            tb: 0,
            act: Act::None,
            batch: 4,
            stride_a: 6,
            stride_b: 0,
            stride_c: 10,
        })
    }

    #[test]
    fn absent_operands_are_not_listed_and_batches_count_all_products() {
        let list: Vec<_> = gemm(0.0).operands().iter().map(|o| (o.name, o.access, o.bytes)).collect();
        let expected = [("a", Access::Read, 4 * 24), ("b", Access::Read, 60), ("c", Access::Write, 4 * 40)];
        assert_eq!(list, expected);
    }

    #[test]
    fn an_output_that_is_added_to_is_an_update() {
        assert_eq!(gemm(1.0).operands()[2].access, Access::Update);
    }

    #[test]
    fn relocation_moves_present_operands_only() {
        let moved = gemm(0.0).relocated(|a| Addr(a.0 + 1));
        let Op::Gemm(o) = moved else { unreachable!("relocation keeps the op") };
        assert_eq!((o.a.addr.0, o.c.addr.0, o.bias.addr), (4097, 12289, Addr::NONE));
    }
}
