//! Elementwise forms of one or two operands.

use super::{Rows, split, vmath};

/// The forms; `x`, `z` operands, `a`, `b` scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Affine,
    Relu,
    GeluErf,
    GeluTanh,
    Silu,
    Tanh,
    Exp,
    Sqrt,
    Add,
    Mul,
    Div,
    SiluMul,
    GeluTanhMul,
    GeluErfMul,
    Shrink,
    SoftCap,
}

/// `y = form(x, z; a, b)`. `z` is absent (for forms of one operand), `[B, N]`, `[1, N]` or `[B, 1]`.
///
/// # Safety
/// Operands are live; `y` has the shape of `x` and is `x` itself or overlaps neither `x` nor `z`; nobody else uses `y`.
pub unsafe fn map(form: Form, x: Rows<f32>, z: Option<Rows<f32>>, y: Rows<f32>, a: f32, b: f32) {
    let weight = match form {
        Form::Affine | Form::Relu | Form::Sqrt | Form::Add | Form::Mul | Form::Div | Form::Shrink => 1,
        _ => 8,
    };
    split::by_tiles(x.rows, x.cols, weight, |rows, cols| {
        for i in rows {
            let (n, at) = (cols.len(), cols.start);
            // SAFETY: rectangles are disjoint and lie inside the operands.
            unsafe {
                let (px, py) = (x.row_ptr(i).add(at), y.row_ptr(i).add(at));
                match z {
                    None => unary(form, px, py, n, a, b),
                    Some(z) => {
                        let row = z.row_ptr(if z.rows == 1 { 0 } else { i });
                        if z.cols == 1 {
                            binary(form, px, Second::Same(*row), py, n, a, b);
                        } else {
                            binary(form, px, Second::Each(row.add(at)), py, n, a, b);
                        }
                    }
                }
            }
        }
    });
}

/// `y = f(x)`; in place and apart are separate loops, because a possible overlap would stop vectorisation.
#[inline(always)]
unsafe fn each(x: *const f32, y: *mut f32, n: usize, f: impl Fn(f32) -> f32) {
    // SAFETY: n elements each; either the same memory, seen once, or distinct.
    unsafe {
        let out = std::slice::from_raw_parts_mut(y, n);
        if std::ptr::eq(x, y) {
            out.iter_mut().for_each(|v| *v = f(*v));
        } else {
            let x = std::slice::from_raw_parts(x, n);
            out.iter_mut().zip(x).for_each(|(v, &x)| *v = f(x));
        }
    }
}

/// Second operand of a stretch of a row.
#[derive(Clone, Copy)]
enum Second {
    Same(f32),
    Each(*const f32),
}

#[inline(always)]
unsafe fn each2(x: *const f32, z: Second, y: *mut f32, n: usize, f: impl Fn(f32, f32) -> f32) {
    // SAFETY: n elements each; z overlaps nothing that is written.
    unsafe {
        match z {
            Second::Same(z) => each(x, y, n, |x| f(x, z)),
            Second::Each(z) => {
                let (out, z) = (std::slice::from_raw_parts_mut(y, n), std::slice::from_raw_parts(z, n));
                if std::ptr::eq(x, y) {
                    out.iter_mut().zip(z).for_each(|(v, &z)| *v = f(*v, z));
                } else {
                    let x = std::slice::from_raw_parts(x, n);
                    for i in 0..n {
                        out[i] = f(x[i], z[i]);
                    }
                }
            }
        }
    }
}

multiversion! {
    fn unary(form: Form, x: *const f32, y: *mut f32, n: usize, a: f32, b: f32) {
        // SAFETY: the caller's stretch of a row.
        unsafe {
            match form {
                Form::Affine => each(x, y, n, |x| a * x + b),
                Form::Relu => each(x, y, n, |x| if x < 0.0 { 0.0 } else { x }),
                Form::GeluErf => each(x, y, n, vmath::gelu_erf::<FMA>),
                Form::GeluTanh => each(x, y, n, vmath::gelu_tanh::<FMA>),
                Form::Silu => each(x, y, n, vmath::silu::<FMA>),
                Form::Tanh => each(x, y, n, |x| vmath::tanh::<FMA>(a * x)),
                Form::Exp => each(x, y, n, vmath::exp::<FMA>),
                Form::Sqrt => each(x, y, n, f32::sqrt),
                Form::Shrink => each(x, y, n, |x| a * if x <= b { 1.0 } else { b / x }),
                Form::SoftCap => each(x, y, n, |x| a * vmath::tanh::<FMA>(x / a)),
                Form::Add | Form::Mul | Form::Div | Form::SiluMul | Form::GeluTanhMul | Form::GeluErfMul => {
                    binary(form, x, Second::Same(1.0), y, n, a, b)
                }
            }
        }
    }
}

multiversion! {
    fn binary(form: Form, x: *const f32, z: Second, y: *mut f32, n: usize, a: f32, b: f32) {
        // SAFETY: the caller's stretch of a row.
        unsafe {
            match form {
                Form::Add => each2(x, z, y, n, |x, z| a * x + b * z),
                Form::Mul => each2(x, z, y, n, |x, z| a * x * z),
                Form::Div => each2(x, z, y, n, |x, z| a * x / z),
                Form::SiluMul => each2(x, z, y, n, |x, z| vmath::silu::<FMA>(x) * z),
                Form::GeluTanhMul => each2(x, z, y, n, |x, z| vmath::gelu_tanh::<FMA>(x) * z),
                Form::GeluErfMul => each2(x, z, y, n, |x, z| vmath::gelu_erf::<FMA>(x) * z),
                _ => unary(form, x, y, n, a, b),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{rows_mut, rows_of};
    use super::super::vmath::tests::erfc;
    use super::*;

    fn exact(form: Form, x: f64, z: f64, a: f64, b: f64) -> f64 {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh());
        let gelu_erf = |x: f64| 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        match form {
            Form::Affine => a * x + b,
            Form::Relu => x.max(0.0),
            Form::GeluErf => gelu_erf(x),
            Form::GeluTanh => gelu_tanh(x),
            Form::Silu => silu(x),
            Form::Tanh => (a * x).tanh(),
            Form::Exp => x.exp(),
            Form::Sqrt => x.sqrt(),
            Form::Add => a * x + b * z,
            Form::Mul => a * x * z,
            Form::Div => a * x / z,
            Form::SiluMul => silu(x) * z,
            Form::GeluTanhMul => gelu_tanh(x) * z,
            Form::GeluErfMul => gelu_erf(x) * z,
            Form::Shrink => a * if x <= b { 1.0 } else { b / x },
            Form::SoftCap => a * (x / a).tanh(),
        }
    }

    const ONE: [Form; 9] = [
        Form::Affine,
        Form::Relu,
        Form::GeluErf,
        Form::GeluTanh,
        Form::Silu,
        Form::Tanh,
        Form::Exp,
        Form::Shrink,
        Form::SoftCap,
    ];
    const TWO: [Form; 6] =
        [Form::Add, Form::Mul, Form::Div, Form::SiluMul, Form::GeluTanhMul, Form::GeluErfMul];

    fn close(got: f32, want: f64) -> bool {
        (f64::from(got) - want).abs() <= 1e-6 * (1.0 + want.abs())
    }

    #[test]
    fn every_form_agrees_with_f64_apart_and_in_place() {
        let (a, b) = (1.5f32, -0.25f32);
        for form in ONE.into_iter().chain(TWO) {
            for (rows, cols) in [(1, 1), (5, 63), (40, 65), (3, 70_000)] {
                let x: Vec<f32> =
                    (0..rows * cols).map(|i| crate::philox::uniform(1, i as u64, -6.0, 6.0)).collect();
                let shapes =
                    if TWO.contains(&form) { vec![(rows, cols), (1, cols), (rows, 1)] } else { vec![(0, 0)] };
                for (zr, zc) in shapes {
                    let z: Vec<f32> =
                        (0..zr * zc).map(|i| crate::philox::uniform(2, i as u64, 0.5, 2.0)).collect();
                    let zs = (zr > 0).then(|| rows_of(&z, zr, zc));
                    let mut y = vec![0f32; x.len()];
                    let mut same = x.clone();
                    // SAFETY: shapes match; y is apart, `same` is x itself.
                    unsafe {
                        map(form, rows_of(&x, rows, cols), zs, rows_mut(&mut y, rows, cols), a, b);
                        let s = rows_mut(&mut same, rows, cols);
                        map(form, s, zs, s, a, b);
                    }
                    assert!(
                        y.iter().zip(&same).all(|(y, s)| y.to_bits() == s.to_bits()),
                        "{form:?} in place"
                    );
                    for i in 0..x.len() {
                        let at = (i / cols % zr.max(1)) * zc + i % cols % zc.max(1);
                        let want = exact(
                            form,
                            x[i].into(),
                            z.get(at).map_or(0.0, |&z| z.into()),
                            a.into(),
                            b.into(),
                        );
                        assert!(close(y[i], want), "{form:?}({}) = {} instead of {want}", x[i], y[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn sqrt_and_shrink_at_zero() {
        let x = [0.0f32, 4.0];
        let mut y = [9.0f32; 2];
        // SAFETY: shapes match.
        unsafe {
            map(Form::Sqrt, rows_of(&x, 1, 2), None, rows_mut(&mut y, 1, 2), 0.0, 0.0);
            assert_eq!(y, [0.0, 2.0]);
            map(Form::Shrink, rows_of(&x, 1, 2), None, rows_mut(&mut y, 1, 2), 1.0, 0.0);
        }
        assert_eq!(y, [1.0, 0.0]);
    }
}
