//! The pass over all features at once. Entries of a batch are grouped by feature, then threads own ranges of features: no locks,
//! and the result is the same with any number of them.

use super::{
    HostCodes,
    feature::{FeatureState, Place},
    partners::Partners,
    rules::{Rules, Sampler},
};
use crate::{
    Error, Result, files,
    store::{
        FeatureAnalysis, Related, Sampling,
        codec::{Damaged, In, Out, Read},
    },
};
use rayon::prelude::*;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// Contexts among which those without activation are looked for.
pub(super) const POOL: usize = 256;
/// Features a thread takes at a time.
const STRIPE: usize = 128;

/// A context in which few features are active, kept for those that are not.
struct Pooled {
    rank: u32,
    context: u32,
    /// One bit for each feature.
    active: Box<[u64]>,
}

impl Pooled {
    fn has(&self, feature: u32) -> bool {
        self.active[feature as usize / 64] >> (feature % 64) & 1 == 1
    }

    fn features(&self) -> impl Iterator<Item = u32> {
        (0..64 * self.active.len() as u32).filter(|&f| self.has(f))
    }
}

/// Bits of these features, all below `d_sae`; `None` if one is not.
fn bits(d_sae: usize, features: impl Iterator<Item = u32>) -> Option<Box<[u64]>> {
    let mut all = vec![0; d_sae.div_ceil(64)].into_boxed_slice();
    for f in features {
        *all.get_mut(f as usize / 64)? |= 1 << (f % 64);
    }
    Some(all)
}

/// Statistics and samples of every feature.
pub struct Analyzer {
    rules: Rules,
    features: Vec<FeatureState>,
    pool: Vec<Pooled>,
    /// Token ids of the contexts something points to, and of some nothing points to any more.
    contexts: HashMap<u32, Box<[u32]>>,
    /// Contexts after which those nothing points to are dropped.
    collect_at: usize,
    n_contexts: u32,
    n_tokens: u64,
    n_analyzed: u64,
    partners: Partners,
}

/// One batch of whole contexts.
pub struct Seen<'a> {
    /// Codes of every row.
    pub codes: &'a HostCodes,
    /// Token id of each row.
    pub tokens: &'a [u32],
    /// 1 for each row that counts.
    pub mask: &'a [u8],
    /// Rows of a context.
    pub len: usize,
    /// Id of padding, which is cut off where it ends a context.
    pub pad: u32,
}

impl Analyzer {
    /// Nothing seen yet.
    pub fn new(d_sae: usize, rules: Rules) -> Self {
        Self {
            features: vec![FeatureState::new(&rules); d_sae],
            partners: Partners::new(rules.seed),
            rules,
            pool: Vec::new(),
            contexts: HashMap::new(),
            collect_at: 4096,
            n_contexts: 0,
            n_tokens: 0,
            n_analyzed: 0,
        }
    }

    /// Tokens seen, those that do not count included.
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Tokens that counted.
    pub fn n_analyzed_tokens(&self) -> u64 {
        self.n_analyzed
    }

    /// Contexts seen.
    pub fn n_contexts(&self) -> u32 {
        self.n_contexts
    }

    /// Features that were active at least once.
    pub fn alive(&self) -> usize {
        self.features.iter().filter(|f| f.act_times > 0).count()
    }

    /// Adds a batch of contexts.
    ///
    /// # Errors
    /// Activations that are not finite, or a batch that is no whole number of contexts.
    pub fn add(&mut self, seen: &Seen<'_>) -> Result<()> {
        let rows = seen.codes.rows();
        if seen.len == 0
            || !rows.is_multiple_of(seen.len)
            || seen.tokens.len() != rows
            || seen.mask.len() != rows
        {
            return Err(Error::Data { what: format!("{rows} rows are no contexts of {} tokens", seen.len) });
        }
        let columns = ByFeature::new(seen, self.features.len())?;
        let places: Vec<Place> = (0..rows / seen.len)
            .map(|i| {
                let context = self.n_contexts + i as u32;
                Place { context, rank: rank(self.rules.seed, context), first_row: (i * seen.len) as u32 }
            })
            .collect();
        let rules = &self.rules;
        self.features.par_chunks_mut(STRIPE).enumerate().for_each(|(stripe, features)| {
            for (i, state) in features.iter_mut().enumerate() {
                let feature = stripe * STRIPE + i;
                let entries = columns.of(feature);
                for group in entries.chunk_by(|a, b| a.0 / seen.len as u32 == b.0 / seen.len as u32) {
                    state.add(rules, places[group[0].0 as usize / seen.len], group);
                }
            }
        });
        for (i, place) in places.iter().enumerate() {
            self.remember(seen, i, *place);
        }
        self.n_contexts += places.len() as u32;
        self.n_tokens += rows as u64;
        for row in (0..rows).filter(|&r| seen.mask[r] != 0) {
            self.partners.add(self.n_analyzed, seen.codes.row(row).iter().map(|e| e.0));
            self.n_analyzed += 1;
        }
        self.drop_unused();
        Ok(())
    }

    /// Keeps the context's tokens, and the context in the pool if its rank is among the lowest.
    fn remember(&mut self, seen: &Seen<'_>, i: usize, place: Place) {
        let rows = i * seen.len..(i + 1) * seen.len;
        let (tokens, mask) = (&seen.tokens[rows.clone()], &seen.mask[rows.clone()]);
        let real = (0..seen.len).rposition(|t| mask[t] != 0 || tokens[t] != seen.pad).map_or(0, |t| t + 1);
        if mask.iter().all(|&m| m == 0) {
            return;
        }
        self.contexts.insert(place.context, tokens[..real].into());
        // Another draw than that of the samples, or contexts would be both.
        let key = (rank(self.rules.seed ^ 0x706f_6f6c, place.context), place.context);
        if self.pool.len() == POOL && self.pool.last().is_some_and(|p| (p.rank, p.context) <= key) {
            return;
        }
        let counted = rows.filter(|&r| seen.mask[r] != 0);
        let active = bits(self.features.len(), counted.flat_map(|r| seen.codes.row(r)).map(|e| e.0));
        // Features were checked when entries were grouped.
        let Some(active) = active else { return };
        let at = self.pool.partition_point(|p| (p.rank, p.context) < key);
        self.pool.insert(at, Pooled { rank: key.0, context: key.1, active });
        self.pool.truncate(POOL);
    }

    /// Contexts samples and pool point to.
    fn used(&self) -> HashSet<u32> {
        let pool = self.pool.iter().map(|p| p.context);
        self.features.iter().flat_map(FeatureState::contexts).chain(pool).collect()
    }

    fn drop_unused(&mut self) {
        if self.contexts.len() >= self.collect_at {
            let used = self.used();
            self.contexts.retain(|c, _| used.contains(c));
            self.collect_at = 2 * self.contexts.len().max(2048);
        }
    }

    /// Contexts in which `feature` was not active, up to `n`, in an order of its own.
    fn silent(&self, feature: u32, n: usize) -> Vec<u32> {
        let start = rank(self.rules.seed, feature) as usize;
        (0..self.pool.len())
            .map(|i| &self.pool[(start + i) % self.pool.len()])
            .filter(|p| !p.has(feature))
            .take(n)
            .map(|p| p.context)
            .collect()
    }

    /// What was found of one feature; what depends on texts and decoder is left to others.
    pub fn feature(&self, feature: u32) -> FeatureAnalysis {
        let partners = self.partners.of(feature, self.features.len(), self.rules.coactivations);
        let coactivations = partners.into_iter().map(|(feature, value)| Related { feature, value }).collect();
        FeatureAnalysis { coactivations, ..self.without_partners(feature) }
    }

    /// The samples of one feature.
    pub fn samplings(&self, feature: u32) -> Vec<Sampling> {
        self.without_partners(feature).samplings
    }

    fn without_partners(&self, feature: u32) -> FeatureAnalysis {
        let state = &self.features[feature as usize];
        let mut found = state.result(&self.rules, feature, |n| self.silent(feature, n));
        if found.act_times == 0 {
            // Every context would do: none says anything about a feature that never fired.
            found
                .samplings
                .retain(|s| !self.rules.samplings.iter().any(|r| r.0 == s.name && r.1 == Sampler::Silent));
        }
        found
    }

    /// Token ids of a context a sample points to.
    pub fn context(&self, id: u32) -> Option<&[u32]> {
        self.contexts.get(&id).map(|c| &**c)
    }

    /// Writes the whole state, atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut out = Out::new();
        out.text(&self.rules.identity().to_string());
        for n in [u64::from(self.n_contexts), self.n_tokens, self.n_analyzed] {
            out.int(n);
        }
        out.list(&self.pool, |o, p| {
            o.int(p.rank.into());
            o.int(p.context.into());
            let active: Vec<u32> = p.features().collect();
            o.list(&active, |o, f| o.int((*f).into()));
        });
        let used = self.used();
        let mut contexts: Vec<_> = self.contexts.iter().filter(|(c, _)| used.contains(c)).collect();
        contexts.sort();
        // Piece by piece: the whole would take about as much memory again.
        files::write_atomic(path, |w| {
            out.int(contexts.len() as u64);
            for (c, ids) in contexts {
                out.int((*c).into());
                out.list(ids, |o, id| o.int((*id).into()));
                out.flush(w)?;
            }
            out.int(self.features.len() as u64);
            for f in &self.features {
                f.write(&mut out);
                out.flush(w)?;
            }
            self.partners.write(&mut out, w)
        })
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// A state of other rules or of a dictionary of another width, or a damaged file.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let (identity, saved) = read(&bytes, &self.rules)
            .map_err(|Damaged| Error::format(path, "is no state of an analysis; remove it to start again"))?;
        let ours = self.rules.identity().to_string();
        if identity != ours || saved.features.len() != self.features.len() {
            let what = "was saved with other analyzer settings or another dictionary; set them back, or start again with --overwrite";
            return Err(Error::format(path, what));
        }
        *self = saved;
        Ok(())
    }
}

fn read(bytes: &[u8], rules: &Rules) -> Read<(String, Analyzer)> {
    let mut i = In::new(bytes)?;
    let identity = i.text()?;
    let (n_contexts, n_tokens, n_analyzed) = (i.small()?, i.int()?, i.int()?);
    let pool: Vec<(u32, u32, Vec<u32>)> = i.list(|i| Ok((i.small()?, i.small()?, i.list(In::small)?)))?;
    let contexts: HashMap<u32, Box<[u32]>> =
        i.list(|i| Ok((i.small()?, i.list(In::small)?.into_boxed_slice())))?.into_iter().collect();
    let features = i.list(|i| FeatureState::read(i, rules))?;
    let d_sae = features.len();
    let pooled = |(rank, context, active): (_, _, Vec<u32>)| {
        Ok(Pooled { rank, context, active: bits(d_sae, active.into_iter()).ok_or(Damaged)? })
    };
    let pool = pool.into_iter().map(pooled).collect::<Read<Vec<_>>>()?;
    let partners = Partners::read(&mut i, rules.seed, d_sae)?;
    let collect_at = 2 * contexts.len().max(2048);
    let rules = rules.clone();
    let saved =
        Analyzer { rules, features, pool, contexts, collect_at, n_contexts, n_tokens, n_analyzed, partners };
    i.end((identity, saved))
}

/// A random number that depends on seed and number only (the finaliser of SplitMix64).
pub(super) fn rank(seed: u64, number: u32) -> u32 {
    let mut z = seed.wrapping_add(u64::from(number).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}

/// The entries of rows that count, by feature.
struct ByFeature {
    ptr: Vec<u32>,
    entries: Vec<(u32, f32)>,
}

impl ByFeature {
    fn new(seen: &Seen<'_>, d_sae: usize) -> Result<Self> {
        let counted = || (0..seen.codes.rows()).filter(|&r| seen.mask[r] != 0);
        let mut ptr = vec![0u32; d_sae + 1];
        for r in counted() {
            for &(feature, value) in seen.codes.row(r) {
                if !value.is_finite() {
                    let what =
                        format!("the activation of feature {feature} on token {} is {value}", seen.tokens[r]);
                    return Err(Error::Data { what });
                }
                let n = ptr.get_mut(feature as usize + 1).ok_or_else(|| Error::Data {
                    what: format!("feature {feature} of a dictionary of {d_sae}"),
                })?;
                *n += 1;
            }
        }
        for i in 0..d_sae {
            ptr[i + 1] += ptr[i];
        }
        let mut next = ptr.clone();
        let mut entries = vec![(0, 0.0); ptr[d_sae] as usize];
        for r in counted() {
            for &(feature, value) in seen.codes.row(r) {
                let at = &mut next[feature as usize];
                entries[*at as usize] = (r as u32, value);
                *at += 1;
            }
        }
        Ok(Self { ptr, entries })
    }

    fn of(&self, feature: usize) -> &[(u32, f32)] {
        &self.entries[self.ptr[feature] as usize..self.ptr[feature + 1] as usize]
    }
}
