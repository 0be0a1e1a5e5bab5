//! A world in which features move between tokens. A row has the features of its token, the key of its token, and a query for
//! each pattern: the key of the earlier token that the pattern attends to. What is written at a token are the features of the
//! tokens attended to, those of even numbers through the first pattern and of odd ones through the second.

use super::{
    Design, Feature, SEED, TRUE, WIDTH, World, active, at, dot, norm, unit_rows,
    worlds::{add, all_active, l0, noisy},
};
use lm_saes::{Result, dictionary::Dictionary};
use lm_saes_kernels::philox;
use lm_saes_runtime::Queue;

/// Tokens of a context.
pub(super) const LEN: usize = 16;
/// Patterns.
const HEADS: usize = 2;
/// Width of a key or query.
pub(super) const KEY: usize = 16;
/// Width of a row.
pub(super) const D: usize = WIDTH + KEY * (1 + HEADS);
/// Length of keys and queries in a row.
const SIZE: f32 = 2.0;
/// A pattern's weights are the softmax of this times the cosine of query and key.
const SHARPNESS: f32 = 16.0;
/// Contexts that patterns are compared on.
const COMPARED: usize = 32;

fn key(r: usize) -> [f32; KEY] {
    let mut key = [0.0; KEY];
    key.iter_mut().enumerate().for_each(|(i, v)| *v = philox::normal(SEED + 5, at(r, 4, i), 0.0, 1.0));
    let size = norm(&key);
    key.map(|v| v / size)
}

/// The row whose key pattern `head` asks for at row r.
fn source(r: usize, head: usize) -> usize {
    let first = r / LEN * LEN;
    let back = philox::uniform(SEED + 6, at(r, 5, head), 0.0, (r - first + 1) as f32);
    r - (back as usize).min(r - first)
}

/// What pattern `head` weighs the tokens of r's context with, up to r itself.
fn weights(r: usize, head: usize) -> Vec<f32> {
    let query = key(source(r, head));
    let scores = (r / LEN * LEN..=r).map(|s| (SHARPNESS * dot(&query, &key(s))).exp());
    let scores: Vec<f32> = scores.collect();
    let sum: f32 = scores.iter().sum();
    scores.iter().map(|s| s / sum).collect()
}

/// Row r of the input.
fn write_input(r: usize, row: &mut [f32], features: &[(usize, f32)], along: &[f32]) {
    features.iter().for_each(|&(i, a)| add(&mut row[..WIDTH], a, &along[i * WIDTH..(i + 1) * WIDTH]));
    add(&mut row[WIDTH..WIDTH + KEY], SIZE, &key(r));
    for head in 0..HEADS {
        let first = WIDTH + KEY * (1 + head);
        add(&mut row[first..first + KEY], SIZE, &key(source(r, head)));
    }
}

pub(super) fn world(n: usize) -> World {
    let active = all_active(n);
    let (along, outputs) = (unit_rows(0, TRUE, WIDTH), unit_rows(1, TRUE, D));
    let output = |i: usize| &outputs[i * D..(i + 1) * D];
    let x = noisy(n, D, 0, |r, row| write_input(r, row, &active[r], &along));
    let y = noisy(n, D, 1, |r, row| {
        for head in 0..HEADS {
            for (s, w) in (r / LEN * LEN..).zip(weights(r, head)) {
                let moved = active[s].iter().filter(|(i, _)| i % HEADS == head);
                moved.for_each(|&(i, a)| add(row, w * a, output(i)));
            }
        }
    });
    World {
        design: Design::Attention,
        d: D,
        hooks: vec!["in".into(), "out".into()],
        rows: vec![x, y],
        context: Some(LEN),
        truth: (0..TRUE).map(|i| Feature { site: 0, vector: output(i).to_vec() }).collect(),
        l0: l0(&active),
    }
}

/// How well attention itself was found, beside what is written.
#[derive(Clone, Copy, Debug)]
pub struct Attended {
    /// Mean overlap `Σ_s min(A, Â)` of the true patterns with those of the features that answer, on contexts that were not
    /// trained on; 1 where they are the same.
    pub overlap: f64,
    /// Mean cosine of their value directions with those in which the true features lie.
    pub values: f64,
}

/// Compares attention and values of true features and of the learned ones that write closest to them, which `closest`
/// ([`World::closest`]) names. The dictionary is folded, so it takes rows as they are; its values are gone afterwards.
///
/// # Errors
/// A dictionary without attention.
pub fn attended(
    q: &mut Queue,
    world: &World,
    dictionary: &mut dyn Dictionary,
    closest: &[(f32, usize)],
) -> Result<Attended> {
    let learned: Vec<usize> = closest.iter().map(|c| c.1).collect();
    let along = unit_rows(0, TRUE, WIDTH);
    let mut values = 0.0;
    for p in dictionary.params_mut() {
        match &*p.name {
            "W_V" => {
                let w: Vec<f32> = q.download(&p.value)?;
                for (v, &i) in along.chunks(WIDTH).zip(&learned) {
                    let w = &w[i * D..(i + 1) * D];
                    values += f64::from(dot(v, &w[..WIDTH]) / norm(w)) / TRUE as f64;
                }
                q.fill(&mut p.value, 0.0)?;
            }
            // Where every value is one, what a token contributes is the attention it gets.
            "b_V" => q.fill(&mut p.value, 1.0)?,
            _ => {}
        }
    }
    let (mut overlap, beyond) = (0.0, world.rows[0].len() / D);
    for context in 0..COMPARED {
        let first = beyond + context * LEN;
        let mut x = vec![0.0; LEN * D];
        x.chunks_mut(D).zip(first..).for_each(|(row, r)| write_input(r, row, &active(r), &along));
        let x = q.tensor(LEN, D, &x)?;
        let weights = |head| (first..first + LEN).map(|r| weights(r, head)).collect::<Vec<_>>();
        let should: Vec<_> = (0..HEADS).map(weights).collect();
        for (i, pattern) in dictionary.z_patterns(q, x.view(), &learned)?.iter().enumerate() {
            let is: Vec<f32> = q.download(pattern)?;
            let of_row = |(is, should): (&[f32], &Vec<f32>)| -> f32 {
                is.iter().zip(should).map(|(a, b)| a.min(*b)).sum()
            };
            let sum: f32 = is.chunks(LEN).zip(&should[i % HEADS]).map(of_row).sum();
            overlap += f64::from(sum) / (TRUE * COMPARED * LEN) as f64;
        }
    }
    Ok(Attended { overlap, values })
}

/// Gives a dictionary, of which every QK head is as wide as a key, the true attention and values: its first heads get the first
/// pattern, the others the second. Returns which learned feature each true one is.
///
/// # Errors
/// Parameters of other names or sizes.
pub fn tell(q: &mut Queue, dictionary: &mut dyn Dictionary) -> Result<Vec<usize>> {
    let place = |i: usize| i % HEADS * (TRUE / HEADS) + i / HEADS;
    let (along, outputs) = (unit_rows(0, TRUE, WIDTH), unit_rows(1, TRUE, D));
    for p in dictionary.params_mut() {
        let mut w = vec![0.0; p.value.len()];
        let heads = p.value.rows() / KEY;
        match &*p.name {
            // Scores are divided by the root of the width.
            "W_Q" | "W_K" => w.chunks_mut(D).enumerate().for_each(|(row, w)| {
                let (pattern, c) = (row / KEY * HEADS / heads, row % KEY);
                let (first, size) = match &*p.name {
                    "W_Q" => (WIDTH + KEY * (1 + pattern), SHARPNESS * (KEY as f32).sqrt() / SIZE),
                    _ => (WIDTH, 1.0 / SIZE),
                };
                w[first + c] = size;
            }),
            "W_V" | "W_O" => {
                for i in 0..TRUE {
                    let to = &mut w[place(i) * D..(place(i) + 1) * D];
                    match &*p.name {
                        "W_V" => to[..WIDTH].copy_from_slice(&along[i * WIDTH..(i + 1) * WIDTH]),
                        _ => to.copy_from_slice(&outputs[i * D..(i + 1) * D]),
                    }
                }
            }
            _ => {}
        }
        q.upload(&w, &mut p.value)?;
    }
    Ok((0..TRUE).map(place).collect())
}
