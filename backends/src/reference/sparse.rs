//! Reference forms of the products with sparse codes.

use super::{Outcome, host::Live};
use lm_saes_runtime::op;

pub(super) fn mul(m: Live, o: &op::SparseMul) -> Outcome {
    for r in 0..o.y.rows {
        let entries = m.entries(&o.s, r)?;
        for c in 0..o.y.cols {
            let sum: f64 =
                entries.iter().map(|&(slot, f)| m.at(o.s.vals).flat(slot) * m.at(o.w).get(f, c)).sum();
            let old = if o.beta == 0.0 { 0.0 } else { f64::from(o.beta) * m.at(o.y).get(r, c) };
            m.at(o.y).set(r, c, old + sum + m.or(o.bias, 0, c, 0.0));
        }
    }
    Ok(())
}

pub(super) fn scatter(m: Live, o: &op::Scatter) -> Outcome {
    for r in 0..o.y.rows {
        for c in 0..o.y.cols {
            let old = if o.beta == 0.0 { 0.0 } else { f64::from(o.beta) * m.at(o.y).get(r, c) };
            m.at(o.y).set(r, c, old);
        }
        for (slot, c) in m.entries(&o.s, r)? {
            m.at(o.y).set(r, c, m.at(o.y).get(r, c) + m.at(o.s.vals).flat(slot));
        }
    }
    Ok(())
}

pub(super) fn confine(m: Live, o: &op::Confine) -> Outcome {
    for r in 0..o.s.rows {
        for (slot, c) in m.slots(&o.s, r)? {
            let c = c.filter(|c| (o.first..o.last).contains(c)).map_or(u32::MAX, |c| (c - o.first) as u32);
            m.at(o.out).set_u32(slot / o.out.cols.max(1), slot % o.out.cols.max(1), c);
        }
    }
    Ok(())
}

pub(super) fn dot(m: Live, o: &op::SparseDot) -> Outcome {
    for r in 0..o.s.rows {
        for (slot, f) in m.slots(&o.s, r)? {
            let product = |f| (0..o.x.cols).map(|c| m.at(o.w).get(f, c) * m.at(o.x).get(r, c)).sum();
            m.at(o.out).set_flat(slot, f.map_or(0.0, product));
        }
    }
    Ok(())
}

pub(super) fn sort_by_column(m: Live, o: &op::SortByColumn) -> Outcome {
    let mut columns: Vec<Vec<(u64, u64)>> = vec![Vec::new(); o.s.n as usize];
    for r in 0..o.s.rows {
        for (slot, f) in m.entries(&o.s, r)? {
            columns[f as usize].push((r, slot));
        }
    }
    let mut n = 0;
    m.at(o.out.col_ptr).set_u32(0, 0, 0);
    for (f, column) in columns.iter().enumerate() {
        for &(row, slot) in column {
            m.at(o.out.row).set_u32(0, n, row as u32);
            m.at(o.out.slot).set_u32(0, n, slot as u32);
            n += 1;
        }
        m.at(o.out.col_ptr).set_u32(0, f as u64 + 1, n as u32);
    }
    Ok(())
}

pub(super) fn outer(m: Live, o: &op::SparseOuter) -> Outcome {
    let by = |mat, i| u64::from(m.at(mat).u32(0, i));
    for f in 0..o.y.rows {
        let entries = by(o.by.col_ptr, f)..by(o.by.col_ptr, f + 1);
        for c in 0..o.y.cols {
            let product = |e| m.at(o.vals).flat(by(o.by.slot, e)) * m.at(o.x).get(by(o.by.row, e), c);
            let sum: f64 = entries.clone().map(product).sum();
            let old = if o.beta == 0.0 { 0.0 } else { f64::from(o.beta) * m.at(o.y).get(f, c) };
            m.at(o.y).set(f, c, old + sum);
        }
    }
    Ok(())
}
