//! Operators that read or write where an index says. An index outside its range is an exception of a core on hardware, or
//! silent corruption; here it ends the process.

use super::{
    Call, Plan, check_shape, dim_of,
    value::{Data, View},
};
use crate::executor::{Refusal, refuse};

fn checked(index: &[i64], bound: usize, what: &str) -> Result<(), String> {
    match index.iter().position(|i| *i < 0 || *i as usize >= bound) {
        Some(at) => Err(format!("{what} {} at position {at} is outside 0..{bound}", index[at])),
        None => Ok(()),
    }
}

fn same_type(a: &View, b: &View, names: &str) -> Result<(), Refusal> {
    if a.dtype == b.dtype { Ok(()) } else { refuse(format!("{names} have different types")) }
}

/// Applies one move of elements to either kind of values.
macro_rules! either {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            Data::F($v) => Data::F($body),
            Data::I($v) => Data::I($body),
        }
    };
}

pub fn index_select(c: &Call) -> Result<Plan, Refusal> {
    let (x, index, y) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.tensor(3)?.clone());
    same_type(&x, &y, "self and out")?;
    if index.rank() != 1 {
        return refuse("index must have 1 dim");
    }
    let dim = dim_of(&x, c.int(1))?;
    let mut shape = x.shape.clone();
    shape[dim] = index.shape[0];
    check_shape("out", &y, &shape)?;
    let (outer, n, inner) = x.around(dim);
    Ok(Plan::of(move || {
        let index = index.load_i();
        checked(&index, n, "index")?;
        let out = either!(x.load(), v => {
            let mut out = Vec::with_capacity(y.len());
            for o in 0..outer {
                for i in &index {
                    out.extend_from_slice(&v[(o * n + *i as usize) * inner..][..inner]);
                }
            }
            out
        });
        y.store(&out);
        Ok(())
    }))
}

/// Position in `self` of every element of an index of the same number of dims.
fn positions(x: &View, dim: usize, index: &View) -> Result<Vec<usize>, String> {
    let values = index.load_i();
    checked(&values, x.shape[dim] as usize, "index")?;
    let mut steps = vec![1usize; x.rank()];
    for d in (1..x.rank()).rev() {
        steps[d - 1] = steps[d] * x.shape[d] as usize;
    }
    let mut at = vec![0usize; x.rank()];
    let mut out = Vec::with_capacity(values.len());
    for v in values {
        let place = (0..x.rank()).map(|d| steps[d] * if d == dim { v as usize } else { at[d] });
        out.push(place.sum());
        for d in (0..x.rank()).rev() {
            at[d] += 1;
            if at[d] < index.shape[d] as usize {
                break;
            }
            at[d] = 0;
        }
    }
    Ok(out)
}

fn check_index(x: &View, dim: i64, index: &View, other: &View) -> Result<usize, Refusal> {
    let dim = dim_of(x, dim)?;
    if x.rank() != index.rank() || x.rank() != other.rank() || x.rank() == 0 {
        return refuse("self, index and src need the same number of dims");
    }
    for d in 0..x.rank() {
        if index.shape[d] > other.shape[d] || (d != dim && index.shape[d] > x.shape[d]) {
            return refuse(format!("index of shape {:?} is larger than self or src in dim {d}", index.shape));
        }
    }
    Ok(dim)
}

pub fn gather(c: &Call) -> Result<Plan, Refusal> {
    let (x, index, y) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.tensor(3)?.clone());
    same_type(&x, &y, "self and out")?;
    check_shape("out", &y, &index.shape)?;
    let dim = check_index(&x, c.int(1), &index, &y)?;
    Ok(Plan::of(move || {
        let places = positions(&x, dim, &index)?;
        let out = either!(x.load(), v => places.iter().map(|p| v[*p]).collect());
        y.store(&out);
        Ok(())
    }))
}

/// The elements of `src` that an index of a smaller shape covers, in its order.
fn covered(src: &View, index: &View) -> View {
    View { shape: index.shape.clone(), ..src.clone() }
}

/// The order in which equal places are written, which the documents leave open.
fn order(n: usize, backwards: bool) -> Box<dyn Iterator<Item = usize>> {
    if backwards { Box::new((0..n).rev()) } else { Box::new(0..n) }
}

pub fn scatter_add(c: &Call) -> Result<Plan, Refusal> {
    let (x, index, src) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.tensor(3)?.clone());
    let y = c.tensor(4)?.clone();
    same_type(&x, &src, "self and src")?;
    same_type(&x, &y, "self and out")?;
    check_shape("out", &y, &x.shape)?;
    let dim = check_index(&x, c.int(1), &index, &src)?;
    let backwards = !c.deterministic && c.seed % 2 == 1;
    Ok(Plan::of(move || {
        let places = positions(&x, dim, &index)?;
        let out = match (x.load(), covered(&src, &index).load()) {
            (Data::F(mut v), Data::F(s)) => {
                order(s.len(), backwards).for_each(|i| v[places[i]] += s[i]);
                Data::F(v)
            }
            (v, s) => {
                let (mut v, s) = (v.ints(), s.ints());
                places.iter().zip(s).for_each(|(p, s)| v[*p] = v[*p].wrapping_add(s));
                Data::I(v)
            }
        };
        y.store(&out);
        Ok(())
    }))
}

/// `reduce`: 0 replaces, 1 adds, 2 multiplies. Which of several values for one place stays is open.
pub fn inplace_scatter(c: &Call) -> Result<Plan, Refusal> {
    let (x, index, src) = (c.tensor(0)?.clone(), c.tensor(2)?.clone(), c.tensor(3)?.clone());
    same_type(&x, &src, "selfRef and src")?;
    let dim = check_index(&x, c.int(1), &index, &src)?;
    let reduce = c.int(4);
    if !(0..=2).contains(&reduce) {
        return refuse(format!("reduce is {reduce}, expected 0, 1 or 2"));
    }
    let backwards = c.seed % 2 == 1;
    Ok(Plan::of(move || {
        let places = positions(&x, dim, &index)?;
        let out = match (x.load(), covered(&src, &index).load()) {
            (Data::F(mut v), Data::F(s)) => {
                for i in order(s.len(), backwards) {
                    let o = &mut v[places[i]];
                    *o = [s[i], *o + s[i], *o * s[i]][reduce as usize];
                }
                Data::F(v)
            }
            (v, s) => {
                let (mut v, s) = (v.ints(), s.ints());
                for i in order(s.len(), backwards) {
                    let o = &mut v[places[i]];
                    *o = [s[i], o.wrapping_add(s[i]), o.wrapping_mul(s[i])][reduce as usize];
                }
                Data::I(v)
            }
        };
        x.store(&out);
        Ok(())
    }))
}

/// Rows of `weight` summed bag by bag (`mode` 0), each times its sample's weight.
pub fn embedding_bag(c: &Call) -> Result<Plan, Refusal> {
    let (weight, indices, offsets) = (c.tensor(0)?.clone(), c.tensor(1)?.clone(), c.tensor(2)?.clone());
    let samples = c.maybe(6).cloned();
    let (y, bag_of, bag_size, max) =
        (c.tensor(9)?.clone(), c.tensor(10)?.clone(), c.tensor(11)?.clone(), c.tensor(12)?.clone());
    if weight.rank() != 2 || indices.rank() != 1 || offsets.rank() != 1 {
        return refuse("weight needs 2 dims, indices and offsets 1");
    }
    if c.flag(3) || c.flag(5) {
        return refuse("the simulator has neither scaleGradByFreq nor sparse gradients");
    }
    if c.int(4) != 0 {
        return refuse(format!("the simulator has mode 0 (sum), not {}", c.int(4)));
    }
    let n = indices.shape[0];
    if let Some(s) = &samples {
        same_type(s, &weight, "perSampleWeights and weight")?;
        check_shape("perSampleWeights", s, &[n])?;
    }
    same_type(&y, &weight, "output and weight")?;
    let last = c.flag(7);
    let bags = offsets.shape[0] - i64::from(last);
    check_shape("output", &y, &[bags, weight.shape[1]])?;
    check_shape("offset2bag", &bag_of, &[n])?;
    check_shape("bagSize", &bag_size, &[bags])?;
    check_shape("maxIndices", &max, &[bags])?;
    let (padding, width, rows) = (c.int(8), weight.shape[1] as usize, weight.shape[0] as usize);
    Ok(Plan::of(move || {
        let index = indices.load_i();
        let mut starts = offsets.load_i();
        checked(&index, rows, "index")?;
        if !last {
            starts.push(n);
        }
        let ordered = starts.windows(2).all(|w| w[0] <= w[1]);
        if !ordered || starts[0] != 0 || starts[starts.len() - 1] > n {
            return Err(format!("offsets do not rise from 0 to at most {n}"));
        }
        let samples = samples.as_ref().map(View::load_f);
        let mut out = vec![0.0; y.len()];
        let (mut owner, mut sizes) = (vec![0; n as usize], Vec::new());
        let row = |i: i64| View {
            shape: vec![width as i64],
            strides: vec![weight.strides[1]],
            addr: weight.addr + (i * weight.strides[0]) as u64 * crate::abi::size_of(weight.dtype) as u64,
            dtype: weight.dtype,
        };
        for (bag, w) in starts.windows(2).enumerate() {
            let mut size = 0;
            for e in w[0] as usize..w[1] as usize {
                owner[e] = bag as i64;
                if index[e] == padding {
                    continue;
                }
                size += 1;
                let factor = samples.as_ref().map_or(1.0, |s| s[e]);
                let out = &mut out[bag * width..][..width];
                out.iter_mut().zip(row(index[e]).load_f()).for_each(|(o, v)| *o += factor * v);
            }
            sizes.push(size);
        }
        y.store_f(&out);
        bag_of.store_i(&owner);
        bag_size.store_i(&sizes);
        max.store_i(&vec![0; sizes.len()]);
        Ok(())
    })
    .with_workspace(64))
}
