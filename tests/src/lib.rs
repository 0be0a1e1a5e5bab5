//! Helpers shared by the test binaries in `tests/tests`.

#![forbid(unsafe_code)]

pub mod damage;
pub mod gguf;
pub mod golden;
pub mod ranks;
pub mod stub;
pub mod synthetic;
pub mod tiny;
pub mod wide;

use lm_saes::{
    Result,
    dictionary::{
        Codes, Dictionary, Param,
        normalise::{Scaling, Scratch},
    },
    training::{LossSettings, evaluate::plan_inference, metrics::MetricWindow},
};
use lm_saes_runtime::{Arena, DType, Queue};
use std::sync::atomic::{AtomicU32, Ordering};

/// A queue on the device named by `LM_SAES_DEVICE`, by default the fast CPU.
pub fn queue() -> Queue {
    let name = std::env::var("LM_SAES_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = lm_saes_backends::registry().open(&name).unwrap_or_else(|e| panic!("{e}"));
    Queue::new(&device).unwrap_or_else(|e| panic!("{e}"))
}

/// A fresh database on the server that `LM_SAES_MONGO_URI` names, if it names one.
pub fn mongo_database() -> Option<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let uri = std::env::var("LM_SAES_MONGO_URI").ok().filter(|u| !u.is_empty())?;
    let (server, options) = uri.split_once('?').map_or((uri.as_str(), ""), |(s, o)| (s, o));
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let database = format!("lm_saes_test_{}_{n}", std::process::id());
    Some(format!("{}/{database}?{options}", server.trim_end_matches('/')))
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

/// The gradient of every parameter after a step, as held, put together from the pieces in which they are made.
pub fn gradients(q: &mut Queue, d: &mut dyn Dictionary) -> Vec<Vec<f32>> {
    let (made, read) = (d.made_gradients(), "a step was made");
    let of = |p: &&Param| match &p.grad {
        Some(grad) => q.download(grad).expect(read),
        None => vec![f32::NAN; p.value.len()],
    };
    let mut all: Vec<Vec<f32>> = d.params().iter().map(of).collect();
    for (param, rows) in made {
        let cols = d.params()[param].value.cols();
        let mut part = q.empty(rows.len(), cols, DType::F32).expect(read);
        d.make_gradient(q, param, rows.clone(), part.view_mut()).expect(read);
        all[param][rows.start * cols..rows.end * cols]
            .copy_from_slice(&q.download::<f32>(&part).expect(read));
    }
    all
}

/// Numbers in [-1, 1) without structure, the same for the same seed.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Memory for steps of up to `rows` rows and this k, and an empty metric window; the arena must outlive both.
pub fn planned(
    q: &mut Queue,
    d: &mut dyn Dictionary,
    rows: usize,
    k: usize,
    loss: Option<&LossSettings>,
) -> (Arena, MetricWindow) {
    let mut arena = Arena::planning("test");
    let mut plan = |arena: &mut Arena| {
        d.plan(arena, rows, k, loss).expect("a plan");
        MetricWindow::plan(arena, d, rows).expect("a window")
    };
    plan(&mut arena);
    let mut arena = Arena::build(&arena, q.device()).expect("memory");
    let mut window = plan(&mut arena);
    window.reset(q).expect("a reset");
    (arena, window)
}

/// Codes `[B, heads, S]` and reconstructions of raw activations, `xs` one for each input hook point, as a user of the dictionary
/// gets them. Reconstructions are scaled back by figures of the input of the same place.
pub fn apply(
    q: &mut Queue,
    d: &mut dyn Dictionary,
    xs: &[Vec<f32>],
    context: Option<usize>,
) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
    let (width, out) = (d.settings().d_model(), d.settings().d_out());
    let rows = xs[0].len() / width;
    let _memory = plan_inference(q, d, rows)?;
    let mut scratch = Scratch::new(q, rows)?;
    let mut factors = q.empty(rows, 1, DType::F32)?;
    let (mut raw, mut scaled) = (Vec::new(), Vec::new());
    for (x, hook) in xs.iter().zip(d.hook_points_in()) {
        let x = q.tensor(rows, width, x)?;
        let mut to = q.empty(rows, width, DType::F32)?;
        Scaling::of(d, &hook)?.scale(
            q,
            x.view(),
            context,
            &mut scratch,
            factors.view_mut(),
            to.view_mut(),
        )?;
        raw.push(x);
        scaled.push(to);
    }
    let k = d.settings().top_k();
    let views: Vec<_> = scaled.iter().map(|x| x.view()).collect();
    d.forward(q, &views, context, k)?;
    let codes = dense_codes(q, d.codes());
    let mut ys = Vec::new();
    for ((made, x), hook) in d.reconstruction().into_iter().zip(&raw).zip(d.hook_points_out()) {
        let mut y = q.empty(rows, out, DType::F32)?;
        if out == width {
            let scaling = Scaling::of(d, &hook)?;
            scaling.restore(q, (x.view(), made), context, &mut scratch, factors.view_mut(), y.view_mut())?;
        } else {
            q.copy(made, &mut y)?;
        }
        ys.push(q.download(&y)?);
    }
    Ok((codes, ys))
}
