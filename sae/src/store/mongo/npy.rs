//! Arrays as `.npy` bytes, the form in which the reference system keeps them in GridFS.

/// A little-endian array of numbers, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

fn header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(length as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.resize(10 + length - 1, b' ');
    out.push(b'\n');
    out
}

pub(super) fn of_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut out = header("<f4", shape);
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    out
}

pub(super) fn of_i64(values: &[i64]) -> Vec<u8> {
    let mut out = header("<i8", &[values.len()]);
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    out
}

/// `None` for what is no array of numbers in the order of C.
pub(super) fn read(bytes: &[u8]) -> Option<Array> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (start, length) = match rest.first()? {
        1 => (10, u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?) as usize),
        _ => (12, u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?) as usize),
    };
    let text = std::str::from_utf8(bytes.get(start..start + length)?).ok()?;
    let after = |key: &str| text.split_once(key).map(|(_, t)| t.trim_start_matches([':', ' ']));
    let descr = after("'descr'")?.strip_prefix('\'')?.split('\'').next()?;
    let fortran = after("'fortran_order'")?.starts_with("True");
    let dims = after("'shape'")?.strip_prefix('(')?.split(')').next()?;
    let shape: Vec<usize> = dims
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse().ok())
        .collect::<Option<_>>()?;
    let data = bytes.get(start + length..)?;
    macro_rules! numbers {
        ($t:ty) => {
            data.as_chunks().0.iter().map(|b| <$t>::from_le_bytes(*b) as f64).collect()
        };
    }
    let values: Vec<f64> = match descr {
        "<f2" => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        "<f4" => numbers!(f32),
        "<f8" => numbers!(f64),
        "<i8" => numbers!(i64),
        "<i4" => numbers!(i32),
        "<i2" => numbers!(i16),
        "|u1" | "|b1" => numbers!(u8),
        _ => return None,
    };
    let n = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis))?;
    if values.len() < n {
        return None;
    }
    let values = if fortran { by_row(&shape, &values[..n]) } else { values };
    Some(Array { shape, values })
}

/// From the order in which the first axis runs fastest (a transposed array is written so) to that in which the last one does.
fn by_row(shape: &[usize], values: &[f64]) -> Vec<f64> {
    let place = |mut at: usize| {
        // `at` counts with the last axis fastest; its indices weigh by the sizes of the axes before them.
        let mut index = vec![0; shape.len()];
        for (i, &size) in index.iter_mut().zip(shape).rev() {
            (*i, at) = (at % size, at / size);
        }
        index.iter().zip(shape).rev().fold(0, |sum, (i, size)| sum * size + i)
    };
    (0..values.len()).map(|at| values[place(at)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_and_damaged_ones_are_none() {
        let a = of_f32(&[2, 3], &[1.0, 2.5, -3.0, 0.0, 7.0, 8.0]);
        assert!((a.len() - 24).is_multiple_of(64));
        assert_eq!(read(&a), Some(Array { shape: vec![2, 3], values: vec![1.0, 2.5, -3.0, 0.0, 7.0, 8.0] }));
        assert_eq!(read(&of_i64(&[-5, 1 << 40])).unwrap().values, [-5.0, (1u64 << 40) as f64]);
        assert_eq!(read(&of_f32(&[2, 0], &[])).unwrap().values, [0.0; 0]);
        assert_eq!(read(&a[..a.len() - 1]), None);
        assert_eq!(read(b"\x93NUMPY"), None);
        assert_eq!(read(b"hello"), None);
    }

    #[test]
    fn columns_first_becomes_rows_first() {
        let mut a = of_f32(&[2, 3], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let at = a.windows(5).position(|w| w == b"False").unwrap();
        a.splice(at..at + 5, *b"True ");
        assert_eq!(read(&a).unwrap().values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(
            by_row(&[2, 2, 2], &[0.0, 4.0, 2.0, 6.0, 1.0, 5.0, 3.0, 7.0]),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        );
        assert_eq!(by_row(&[2, 0], &[]), [0.0; 0]);
    }
}
