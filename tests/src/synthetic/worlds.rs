//! Rows of the worlds without attention.

use super::{Design, Feature, LAYERS, SEED, TRUE, WIDTH, World, active, at, dot, unit_rows};
use lm_saes_kernels::philox;
use rayon::prelude::*;

/// The features of every row.
pub(super) fn all_active(n: usize) -> Vec<Vec<(usize, f32)>> {
    (0..n).into_par_iter().map(active).collect()
}

/// Features in a row on average.
pub(super) fn l0(active: &[Vec<(usize, f32)>]) -> f64 {
    active.iter().map(Vec::len).sum::<usize>() as f64 / active.len() as f64
}

/// Rows of a little noise, to which `write` adds.
pub(super) fn noisy(n: usize, d: usize, stream: u64, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut rows = vec![0.0; n * d];
    rows.par_chunks_mut(d).enumerate().for_each(|(r, row)| {
        for (i, v) in row.iter_mut().enumerate() {
            *v = philox::normal(SEED + 3 + 100 * stream, at(r, 2, i), 0.0, 0.02);
        }
        write(r, row);
    });
    rows
}

/// Adds `a` times a vector.
pub(super) fn add(row: &mut [f32], a: f32, v: &[f32]) {
    row.iter_mut().zip(v).for_each(|(x, v)| *x += a * v);
}

/// A hook point, along which random directions its features lie, and which of them it has.
struct Place {
    hook: String,
    stream: u64,
    has: Box<dyn Fn(usize) -> bool + Sync>,
}

impl Place {
    fn new(hook: impl Into<String>, stream: u64, has: impl Fn(usize) -> bool + Sync + 'static) -> Self {
        Self { hook: hook.into(), stream, has: Box::new(has) }
    }
}

/// Where the features of a design are seen; the last so many places are those they are written to.
fn places(design: Design) -> (Vec<Place>, usize) {
    let everywhere = |_: usize| true;
    match design {
        Design::Crosscoder => {
            (vec![Place::new("before", 0, |i| i % 4 != 0), Place::new("after", 1, |i| i % 4 != 1)], 2)
        }
        Design::Layers => {
            let seen = |l: usize| Place::new(format!("in {l}"), l as u64, move |i| i % LAYERS == l);
            let written =
                |l: usize| Place::new(format!("out {l}"), (LAYERS + l) as u64, move |i| i % LAYERS <= l);
            ((0..LAYERS).map(seen).chain((0..LAYERS).map(written)).collect(), LAYERS)
        }
        Design::Transcoder => (vec![Place::new("in", 0, everywhere), Place::new("out", 1, everywhere)], 1),
        _ => (vec![Place::new("x", 0, everywhere)], 1),
    }
}

/// Worlds in which a feature is a direction at each of its places.
pub(super) fn directions(design: Design, n: usize) -> World {
    let active = all_active(n);
    let (places, written) = places(design);
    let at_places: Vec<Vec<f32>> = places.iter().map(|p| unit_rows(p.stream, TRUE, WIDTH)).collect();
    let direction = |at: &[f32], i: usize| at[i * WIDTH..(i + 1) * WIDTH].to_vec();
    let rows = places.iter().zip(&at_places).map(|(place, along)| {
        noisy(n, WIDTH, place.stream, |r, row| {
            for &(i, a) in active[r].iter().filter(|(i, _)| (place.has)(*i)) {
                add(row, a, &along[i * WIDTH..(i + 1) * WIDTH]);
            }
        })
    });
    let first = places.len() - written;
    let joined = |i: usize| {
        let of = |(place, along): (&Place, &Vec<f32>)| match (place.has)(i) {
            true => direction(along, i),
            false => vec![0.0; WIDTH],
        };
        places[first..].iter().zip(&at_places[first..]).flat_map(of).collect()
    };
    let site = |i: usize| if design == Design::Layers { i % LAYERS } else { 0 };
    World {
        design,
        d: WIDTH,
        rows: rows.collect(),
        hooks: places.iter().map(|p| p.hook.clone()).collect(),
        context: None,
        truth: (0..TRUE).map(|i| Feature { site: site(i), vector: joined(i) }).collect(),
        l0: l0(&active),
    }
}

/// Dimensions of a row that hold what transforms move.
const CARRIED: usize = 32;
/// Size of a number there.
const SPREAD: f32 = 0.5;

/// Rank of the true transform i.
fn rank(i: usize) -> usize {
    [1, 2, 4][i % 3]
}

/// Transform i as its outputs and inputs, `[rank, WIDTH + CARRIED]` and `[rank, CARRIED]`, of a Frobenius norm near 1.
fn transform(i: usize) -> (Vec<f32>, Vec<f32>) {
    let (r, stream) = (rank(i), 20 + 2 * i as u64);
    let outputs = unit_rows(stream, r, WIDTH + CARRIED);
    (outputs.iter().map(|v| v / (r as f32).sqrt()).collect(), unit_rows(stream + 1, r, CARRIED))
}

/// The first dimensions say which transforms are at work, the last hold random numbers that these carry.
pub(super) fn transforms(n: usize) -> World {
    let d = WIDTH + CARRIED;
    let active = all_active(n);
    let along = unit_rows(0, TRUE, WIDTH);
    let all: Vec<_> = (0..TRUE).map(transform).collect();
    let x = noisy(n, d, 0, |r, row| {
        active[r].iter().for_each(|&(i, a)| add(&mut row[..WIDTH], a, &along[i * WIDTH..(i + 1) * WIDTH]));
        for (i, v) in row[WIDTH..].iter_mut().enumerate() {
            *v = philox::normal(SEED + 4, at(r, 3, i), 0.0, SPREAD);
        }
    });
    let y = noisy(n, d, 1, |r, row| {
        let carried = &x[r * d + WIDTH..(r + 1) * d];
        for &(i, a) in &active[r] {
            for (u, v) in all[i].0.chunks(d).zip(all[i].1.chunks(CARRIED)) {
                add(row, a * dot(v, carried), u);
            }
        }
    });
    let matrix = |(u, v): &(Vec<f32>, Vec<f32>)| {
        let mut sum = vec![0.0; d * d];
        for (u, v) in u.chunks(d).zip(v.chunks(CARRIED)) {
            sum.chunks_mut(d).zip(u).for_each(|(row, &u)| add(&mut row[WIDTH..], u, v));
        }
        sum
    };
    World {
        design: Design::Transforms,
        d,
        hooks: vec!["in".into(), "out".into()],
        rows: vec![x, y],
        context: None,
        truth: all.iter().map(|t| Feature { site: 0, vector: matrix(t) }).collect(),
        l0: l0(&active),
    }
}
