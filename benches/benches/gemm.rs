//! The products of a dictionary's training step and of a language model's layers. First a table in which this crate,
//! OpenBLAS and the processor's peak take turns inside every round, so that the ratios hold on a busy machine; then
//! criterion rows. `GEMM_ROUNDS` sets the rounds of the table (5), `RAYON_NUM_THREADS` the threads.

use criterion::{Criterion, Throughput};
use lm_saes_benches::{median, openblas::OpenBlas, peak, timed};
use lm_saes_kernels::cpu::gemm::{Activation, Float, Operand, Product, gemm};
use std::hint::black_box;

struct Shape {
    name: &'static str,
    size: (usize, usize, usize),
    transposed: (bool, bool),
}

const fn shape(name: &'static str, size: (usize, usize, usize), transposed: (bool, bool)) -> Shape {
    Shape { name, size, transposed }
}

/// m, n, k.
const SHAPES: &[Shape] = &[
    shape("encode NN", (4096, 6144, 768), (false, false)),
    shape("encode NT", (4096, 6144, 768), (false, true)),
    shape("encode TN", (4096, 6144, 768), (true, false)),
    shape("encode TT", (4096, 6144, 768), (true, true)),
    shape("decode NN", (4096, 768, 6144), (false, false)),
    shape("decode NT", (4096, 768, 6144), (false, true)),
    shape("gradient TN", (768, 6144, 4096), (true, false)),
    shape("qkv NT", (4096, 2304, 768), (false, true)),
    shape("mlp in NT", (4096, 3072, 768), (false, true)),
    shape("mlp out NT", (4096, 768, 3072), (false, true)),
    shape("one row NN", (1, 6144, 768), (false, false)),
    shape("16 rows NT", (16, 6144, 768), (false, true)),
];

impl Shape {
    fn flops(&self) -> f64 {
        let (m, n, k) = self.size;
        2.0 * m as f64 * n as f64 * k as f64
    }
}

/// Operands large enough for every shape.
struct Data {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

fn own(s: &Shape, data: &mut Data) {
    let ((m, n, k), (ta, tb)) = (s.size, s.transposed);
    let operand =
        |v: &[f32], transposed, ld| Operand { ptr: v.as_ptr().cast(), ld, transposed, float: Float::F32 };
    let product = Product {
        m,
        n,
        k,
        a: operand(&data.a, ta, if ta { m } else { k }),
        b: operand(&data.b, tb, if tb { k } else { n }),
        c: data.c.as_mut_ptr(),
        ldc: n,
        bias: std::ptr::null(),
        alpha: 1.0,
        beta: 0.0,
        act: Activation::None,
    };
    // SAFETY: the vectors hold the largest shape.
    unsafe { gemm(black_box(&product)) }
}

/// Takes turns; prints medians of GFLOP/s and of the ratio inside each round, by processor time (and wall time).
fn table(data: &mut Data, blas: Option<&OpenBlas>, threads: usize) {
    let rounds = std::env::var("GEMM_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(5);
    let t = threads as f64;
    println!(
        "GFLOP/s, median of {rounds} rounds, {threads} threads; by processor time (wall time in brackets)"
    );
    println!("{:12} {:>14} {:>14} {:>16} {:>12}", "product", "this crate", "of peak", "OpenBLAS", "ratio");
    for s in SHAPES {
        let repeats = (2e9 / s.flops()).ceil().max(1.0);
        let rate =
            |(wall, cpu): (f64, f64)| (repeats * s.flops() / wall / 1e9, repeats * s.flops() * t / cpu / 1e9);
        let mut rows: Vec<[f64; 5]> = Vec::new();
        for _ in 0..=rounds {
            let (_, top) = peak::gflops(threads, 5_000_000);
            let (wall, cpu) = rate(timed(|| (0..repeats as usize).for_each(|_| own(s, data))));
            let (blas_wall, blas_cpu) = blas.map_or((f64::NAN, f64::NAN), |blas| {
                rate(timed(|| {
                    (0..repeats as usize)
                        .for_each(|_| blas.sgemm(s.size, s.transposed, &data.a, &data.b, &mut data.c));
                }))
            });
            rows.push([wall, cpu, blas_wall, blas_cpu, top]);
        }
        // The first round warms caches and buffers.
        rows.remove(0);
        let mid = |f: &dyn Fn(&[f64; 5]) -> f64| median(rows.iter().map(f).collect());
        let top = rows.iter().map(|r| r[4]).fold(0.0, f64::max);
        let (cpu, wall) = (mid(&|r| r[1]), mid(&|r| r[0]));
        println!(
            "{:12} {cpu:6.0} ({wall:5.0}) {:7.0} % ({top:4.0}) {:8.0} ({:5.0}) {:5.2} ({:4.2})",
            s.name,
            100.0 * cpu / top,
            mid(&|r| r[3]),
            mid(&|r| r[2]),
            mid(&|r| r[1] / r[3]),
            mid(&|r| r[0] / r[2]),
        );
    }
}

fn main() {
    // Before any thread starts: loading changes the environment.
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|v| v.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let blas = OpenBlas::load(threads);
    let blas = match &blas {
        Ok(blas) => {
            println!("OpenBLAS with its {} kernels", blas.core);
            Some(blas)
        }
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    };
    let values = |n: usize| (0..n).map(|i| (i * 7919 % 1000) as f32 * 1e-3 - 0.5).collect::<Vec<_>>();
    let largest = 4096 * 6144;
    let mut data = Data { a: values(largest), b: values(largest), c: vec![0.0; largest] };
    table(&mut data, blas, threads);

    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for s in SHAPES {
        let mut group = criterion.benchmark_group(s.name);
        group.throughput(Throughput::Elements(s.flops() as u64));
        group.bench_function("this crate", |b| b.iter(|| own(s, &mut data)));
        if let Some(blas) = blas {
            group.bench_function("OpenBLAS", |b| {
                b.iter(|| blas.sgemm(s.size, s.transposed, &data.a, &data.b, &mut data.c));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
