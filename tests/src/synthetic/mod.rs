//! Worlds whose features are known: activations are made of directions, transforms or moved values that a dictionary should
//! find again. A bench prints how many each kind finds, a test that each finds far more than a random decoder. Everything is
//! drawn by counter, so what is drawn does not depend on how much of it is.

mod attention;
mod learn;
mod worlds;

pub use attention::{Attended, attended, tell};
pub use learn::{Trained, features, random, settings, train};

use lm_saes_kernels::philox;
use std::ops::Range;

/// Dimensions the directions of features share.
pub const WIDTH: usize = 64;
/// True features: parents, each with children that appear only with it; pairs that mostly appear together; single ones.
const PARENTS: usize = 16;
const CHILDREN: usize = 3;
const PAIRS: usize = 16;
const SINGLES: usize = 32;
/// How many there are.
pub const TRUE: usize = PARENTS * (1 + CHILDREN) + 2 * PAIRS + SINGLES;
/// Layers of the world of a cross-layer transcoder.
pub const LAYERS: usize = 3;
const SEED: u64 = 20;

/// Where each sort of true feature is.
pub const GROUPS: [(&str, Range<usize>); 4] = [
    ("parents", 0..PARENTS),
    ("children", PARENTS..PARENTS * (1 + CHILDREN)),
    ("pairs", PARENTS * (1 + CHILDREN)..TRUE - SINGLES),
    ("singles", TRUE - SINGLES..TRUE),
];

/// What sort of thing the features of a world are. Which features a row has is the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Design {
    /// A direction each, in one hook point.
    Sae,
    /// A direction in which each is read and another in which it is written.
    Transcoder,
    /// A direction in each of two hook points; a quarter of the features live in the first only, a quarter in the second only.
    Crosscoder,
    /// Each is read at the layer where it appears, and written there and at every later one, along a direction of each layer.
    /// Layers behind do not see it.
    Layers,
    /// Each is a linear map of rank 1, 2 or 4, which moves what other dimensions of the row hold.
    Transforms,
    /// Each is read at another token of the context, which one of two patterns says by its content, and written along a direction.
    Attention,
}

/// A feature, true or learned, as one vector: its directions at all places it is written to, or its whole matrix.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Only features of the same site answer one another: the layer they are read at.
    pub site: usize,
    /// Its values.
    pub vector: Vec<f32>,
}

/// Known features, and rows made of them.
pub struct World {
    /// Of which sort.
    pub design: Design,
    /// Width of a row.
    pub d: usize,
    /// Names of the hook points.
    pub hooks: Vec<String>,
    /// Rows of each hook point, `[n, d]`.
    pub rows: Vec<Vec<f32>>,
    /// Tokens of a context, where rows belong together.
    pub context: Option<usize>,
    /// The features.
    pub truth: Vec<Feature>,
    /// Mean number of features in a row.
    pub l0: f64,
}

impl World {
    /// `n` rows of a world.
    pub fn draw(design: Design, n: usize) -> Self {
        match design {
            Design::Transforms => worlds::transforms(n),
            Design::Attention => attention::world(n),
            _ => worlds::directions(design, n),
        }
    }

    /// Largest cosine of each true feature with a learned one, and which that is; with either sign where activations have both.
    pub fn closest(&self, learned: &[Feature], signed: bool) -> Vec<(f32, usize)> {
        let norms: Vec<f32> = learned.iter().map(|f| norm(&f.vector)).collect();
        let best = |t: &Feature| {
            let size = norm(&t.vector);
            let same_site = learned.iter().zip(&norms).enumerate().filter(|(_, (f, _))| f.site == t.site);
            let cosines = same_site.map(|(i, (f, n))| (dot(&t.vector, &f.vector) / (size * n), i));
            let with_sign = cosines.map(|(c, i)| (if signed { c.abs() } else { c }, i));
            with_sign.fold((-1.0, 0), |best, c| if c.0 > best.0 { c } else { best })
        };
        self.truth.iter().map(best).collect()
    }
}

/// Share of these features that was found: met with a cosine of at least 0.9.
pub fn recall(closest: &[(f32, usize)]) -> f64 {
    closest.iter().filter(|c| c.0 >= 0.9).count() as f64 / closest.len() as f64
}

/// Mean of these cosines.
pub fn mean_max_cosine(closest: &[(f32, usize)]) -> f64 {
    closest.iter().map(|c| f64::from(c.0)).sum::<f64>() / closest.len() as f64
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(v: &[f32]) -> f32 {
    dot(v, v).sqrt().max(f32::MIN_POSITIVE)
}

/// `n` rows of norm 1 in random directions.
fn unit_rows(stream: u64, n: usize, d: usize) -> Vec<f32> {
    let mut rows: Vec<f32> =
        (0..n * d).map(|i| philox::normal(SEED + 100 * stream, i as u64, 0.0, 1.0)).collect();
    for v in rows.chunks_mut(d) {
        let size = norm(v);
        v.iter_mut().for_each(|v| *v /= size);
    }
    rows
}

/// Counter of draw `i` of a kind for row r.
fn at(r: usize, kind: u64, i: usize) -> u64 {
    ((r as u64) << 12 | i as u64) + (kind << 50)
}

/// The features of row r and how strong they are.
pub fn active(r: usize) -> Vec<(usize, f32)> {
    let chance = |i: usize| philox::uniform(SEED + 1, at(r, 0, i), 0.0, 1.0);
    let strength = |i: usize| philox::normal(SEED + 2, at(r, 1, i), 1.0, 0.25).max(0.3);
    (0..TRUE).filter(|&i| present(i, &chance)).map(|i| (i, strength(i))).collect()
}

/// Whether true feature i is in a row with these chances, one for each feature.
fn present(i: usize, chance: &dyn Fn(usize) -> f32) -> bool {
    let [parents, children, pairs, _] = &GROUPS.map(|g| g.1);
    if parents.contains(&i) {
        return chance(i) < 0.08;
    }
    if children.contains(&i) {
        let parent = (i - children.start) / CHILDREN;
        return chance(parent) < 0.08 && chance(i) < 0.3;
    }
    if pairs.contains(&i) {
        // Four times in five a pair follows its first one's chance.
        let first = pairs.start + (i - pairs.start) / 2 * 2;
        let own = chance(i + TRUE) < 0.2;
        return chance(if own { i } else { first }) < 0.03;
    }
    // From one row in ten to one in two hundred.
    chance(i) < 0.1 / (1.0 + (i - (TRUE - SINGLES)) as f32 * 0.3)
}
