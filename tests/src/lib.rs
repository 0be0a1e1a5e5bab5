//! Helpers shared by the test binaries in `tests/tests`.

#![forbid(unsafe_code)]

pub mod damage;
pub mod gguf;
pub mod golden;
pub mod tiny;

use lm_saes::dictionary::Codes;
use lm_saes_runtime::Queue;

/// A queue on the device named by `LM_SAES_DEVICE`, by default the fast CPU.
pub fn queue() -> Queue {
    let name = std::env::var("LM_SAES_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = lm_saes_backends::registry().open(&name).unwrap_or_else(|e| panic!("{e}"));
    Queue::new(&device).unwrap_or_else(|e| panic!("{e}"))
}

/// Codes of every head as a dense row-major `[rows, heads, n]` on the host.
pub fn dense_codes(q: &mut Queue, codes: Vec<Codes<'_>>) -> Vec<f32> {
    let rows = match codes.first() {
        Some(Codes::Dense(f)) => f.rows(),
        Some(Codes::Sparse(s)) => s.rows(),
        None => 0,
    };
    let heads: Vec<Vec<f32>> = codes.into_iter().map(|c| dense_head(q, c)).collect();
    interleave(&heads, rows)
}

/// From `[rows, n]` of each head to `[rows, heads, n]`.
pub fn interleave(heads: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let row = |h: &Vec<f32>, r: usize| h[r * h.len() / rows..(r + 1) * h.len() / rows].to_vec();
    (0..rows).flat_map(|r| heads.iter().flat_map(move |h| row(h, r))).collect()
}

fn dense_head(q: &mut Queue, codes: Codes<'_>) -> Vec<f32> {
    let read = "downloading codes";
    let s = match codes {
        Codes::Dense(f) => return q.download(f).expect(read),
        Codes::Sparse(s) => s,
    };
    let (vals, idx): (Vec<f32>, Vec<u32>) = (q.download(s.vals).expect(read), q.download(s.idx).expect(read));
    let k = vals.len() / s.rows().max(1);
    let ptr: Vec<u32> = match s.ptr {
        Some(ptr) => q.download(ptr).expect(read),
        None => (0..=s.rows()).map(|r| (r * k) as u32).collect(),
    };
    let mut dense = vec![0.0; s.rows() * s.n];
    for row in 0..s.rows() {
        for e in ptr[row] as usize..ptr[row + 1] as usize {
            if idx[e] != u32::MAX {
                dense[row * s.n + idx[e] as usize] = vals[e];
            }
        }
    }
    dense
}
